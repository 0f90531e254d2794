/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What can be asked of an open device. */
#include "vfio/device.h"

#define END(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

int arg_get(void *buf, unsigned long arg, size_t size)
{
	uint32_t argsz;

	if (base_copy_in(buf, (void *)arg, size))
		return -EFAULT;
	memcpy(&argsz, buf, sizeof(argsz));
	return argsz < size ? -EINVAL : 0;
}

int arg_put(unsigned long arg, const void *buf, size_t size)
{
	return base_copy_out((void *)arg, buf, size);
}

static long get_info(struct vfio_device *dev, unsigned long arg)
{
	const size_t size = END(struct vfio_device_info, num_irqs);
	struct vfio_device_info info;
	int r = arg_get(&info, arg, size);

	if (r)
		return r;
	info.flags = dev->drv->reset ? VFIO_DEVICE_FLAGS_RESET : 0;
	info.num_regions = dev->drv->nr_regions;
	info.num_irqs = dev->drv->nr_irqs;
	return arg_put(arg, &info, size);
}

static long get_region_info(struct vfio_device *dev, unsigned long arg)
{
	const size_t size = END(struct vfio_region_info, offset);
	struct vfio_region_info info;
	const struct userkvm_region *g;
	int r = arg_get(&info, arg, size);

	if (r)
		return r;
	if (info.index >= dev->drv->nr_regions)
		return -EINVAL;
	g = &dev->drv->regions[info.index];
	info.flags = (g->flags & USERKVM_REGION_READ ? VFIO_REGION_INFO_FLAG_READ : 0) |
		     (g->flags & USERKVM_REGION_WRITE ? VFIO_REGION_INFO_FLAG_WRITE : 0) |
		     (g->flags & USERKVM_REGION_MMAP ? VFIO_REGION_INFO_FLAG_MMAP : 0);
	info.cap_offset = 0;
	info.size = g->size;
	info.offset = (uint64_t)info.index << VFIO_REGION_SHIFT;
	return arg_put(arg, &info, size);
}

static long get_irq_info(struct vfio_device *dev, unsigned long arg)
{
	const size_t size = END(struct vfio_irq_info, count);
	struct vfio_irq_info info;
	int r = arg_get(&info, arg, size);

	if (r)
		return r;
	if (info.index >= dev->drv->nr_irqs)
		return -EINVAL;
	info.flags = VFIO_IRQ_INFO_EVENTFD;
	info.count = dev->drv->irqs[info.index].count;
	return arg_put(arg, &info, size);
}

/* VFIO_DEVICE_FEATURE: checked as far as it goes, and none is offered. */
static long feature(unsigned long arg)
{
	struct vfio_device_feature f;
	int r = arg_get(&f, arg, sizeof(f));

	if (r)
		return r;
	if (f.flags & ~(VFIO_DEVICE_FEATURE_MASK | VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_GET |
			VFIO_DEVICE_FEATURE_PROBE))
		return -EINVAL;
	/* GET and SET at once only to probe. */
	if (!(f.flags & VFIO_DEVICE_FEATURE_PROBE) && f.flags & VFIO_DEVICE_FEATURE_SET &&
	    f.flags & VFIO_DEVICE_FEATURE_GET)
		return -EINVAL;
	return -ENOTTY;
}

long device_ioctl(struct vfio_df *df, uint32_t request, unsigned long arg)
{
	struct vfio_device *dev = df->dev;

	if (request == VFIO_DEVICE_BIND_IOMMUFD)
		return cdev_bind(df, arg);
	/* Pairs with the release of bind: what it set up is seen. */
	if (!atomic_load_explicit(&df->granted, memory_order_acquire))
		return -EINVAL;
	if (!df->group_file && request == VFIO_DEVICE_ATTACH_IOMMUFD_PT)
		return cdev_attach(df, arg);
	if (!df->group_file && request == VFIO_DEVICE_DETACH_IOMMUFD_PT)
		return cdev_detach(df, arg);
	switch (request) {
	case VFIO_DEVICE_GET_INFO: return get_info(dev, arg);
	case VFIO_DEVICE_GET_REGION_INFO: return get_region_info(dev, arg);
	case VFIO_DEVICE_GET_IRQ_INFO: return get_irq_info(dev, arg);
	case VFIO_DEVICE_SET_IRQS: return irqs_set(dev, arg);
	case VFIO_DEVICE_RESET: return dev->drv->reset ? dev->drv->reset(dev->state) : -EINVAL;
	case VFIO_DEVICE_FEATURE: return feature(arg);
	default: return dev->drv->ioctl ? dev->drv->ioctl(dev->state, request, (void *)arg) : -ENOTTY;
	}
}
