/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /dev/vfio/devices/vfioN: a device without group and container, bound to an iommufd. */
#include <fcntl.h>

#include "vfio/device.h"

#define END(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

int cdev_open(unsigned index, int access)
{
	struct vfio_device *dev = &vfio_devices[index];
	struct vfio_df *df;
	int r = plugin_get(dev);

	if (r)
		return r;
	df = base_zalloc(sizeof(*df));
	r = -ENOMEM;
	if (df) {
		df->dev = dev;
		link_init(&df->link);
		r = file_prepare(&df->file, &vfio_df_class, "vfio-device", device_file_size(dev),
				 access & ~O_CLOEXEC);
	}
	if (!r) {
		r = file_install(df->file, df, access & O_CLOEXEC);
		if (r >= 0)
			return r;
		file_abandon(df->file);
	}
	base_free(df);
	plugin_put(dev);
	return r;
}

/* -- Bind -- */

/* Keeps the group path out; -EBUSY: it is in use. */
static int block_group(struct vfio_group *g)
{
	int r = 0;

	mutex_lock(&g->lock);
	if (g->opened)
		r = -EBUSY;
	else
		g->cdev_opens++;
	mutex_unlock(&g->lock);
	return r;
}

static void unblock_group(struct vfio_group *g)
{
	mutex_lock(&g->lock);
	g->cdev_opens--;
	mutex_unlock(&g->lock);
}

/* dev_set->lock held: opens the device and tells the VMM its id. */
static int bind(struct vfio_df *df, struct file *iommufd, unsigned long arg, struct vfio_dropped *drop)
{
	int r = iommufd_bind(iommufd->object, &df->devid);

	if (r)
		return r;
	r = device_open(df, NULL, &df->link, drop);
	if (!r) {
		r = arg_put(arg + offsetof(struct vfio_device_bind_iommufd, out_devid), &df->devid,
			    sizeof(df->devid));
		if (r) {
			device_close(df, drop);
			/* Not handed to the VMM: the file keeps its memory for the next try. */
			if (drop->map)
				df->file->keep_map = false;
			drop->map = NULL;
		}
	}
	if (r)
		iommufd_unbind(iommufd->object, df->devid);
	return r;
}

long cdev_bind(struct vfio_df *df, unsigned long arg)
{
	struct vfio_device_bind_iommufd b;
	struct vfio_dropped drop = {.fd = -1};
	struct vfio_device *dev = df->dev;
	struct file *iommufd;
	int bad = 0, r = arg_get(&b, arg, sizeof(b));

	if (r)
		return r;
	if (b.flags || b.iommufd < 0 || df->group_file)
		return -EINVAL;
	r = block_group(dev->group);
	if (r)
		return r;
	iommufd = arg_file(b.iommufd, &bad);
	if (iommufd && iommufd->cls != &vfio_iommufd_class)
		bad = -EBADFD;
	mutex_lock(&dev->set.lock);
	/* One open at a time on this path, by one bind of the file. */
	if (df->granted || dev->open_count)
		r = -EINVAL;
	else
		r = bad ? bad : bind(df, iommufd, arg, &drop);
	if (!r) {
		df->iommufd = iommufd;
		atomic_store_explicit(&df->granted, true, memory_order_release);
	}
	mutex_unlock(&dev->set.lock);
	device_drop(&drop);
	if (!r)
		return 0;
	unblock_group(dev->group);
	if (iommufd)
		file_put(iommufd);
	return r;
}

void cdev_release(struct vfio_df *df)
{
	struct vfio_dropped drop;

	if (!df->granted)
		return;
	mutex_lock(&df->dev->set.lock);
	device_close(df, &drop);
	if (df->ioas)
		iommufd_unuse(df->iommufd->object, df->ioas);
	iommufd_unbind(df->iommufd->object, df->devid);
	mutex_unlock(&df->dev->set.lock);
	unblock_group(df->dev->group);
	device_drop(&drop);
	file_put(df->iommufd);
}

/* -- Attach: the device is bound -- */

/* dev_set->lock held: the device's DMA goes nowhere. The address space that it left is the caller's to put. */
static struct vfio_iommu *detach(struct vfio_df *df)
{
	struct vfio_iommu *old = iommu_attach(df->dev, NULL);

	if (df->ioas)
		iommufd_unuse(df->iommufd->object, df->ioas);
	df->ioas = 0;
	return old;
}

long cdev_attach(struct vfio_df *df, unsigned long arg)
{
	const size_t size = END(struct vfio_device_attach_iommufd_pt, pt_id);
	struct vfio_device_attach_iommufd_pt a;
	struct vfio_iommu *i, *old = NULL, *undone = NULL;
	int r = arg_get(&a, arg, size);

	if (r)
		return r;
	if (a.flags)
		return a.flags & ~VFIO_DEVICE_ATTACH_PASID ? -EINVAL : -EOPNOTSUPP;
	mutex_lock(&df->dev->set.lock);
	r = iommufd_use(df->iommufd->object, a.pt_id, &i);
	if (!r) {
		old = iommu_attach(df->dev, i);
		if (df->ioas)
			iommufd_unuse(df->iommufd->object, df->ioas);
		df->ioas = a.pt_id;
		r = arg_put(arg, &a, size);
		if (r)
			undone = detach(df);
	}
	mutex_unlock(&df->dev->set.lock);
	iommu_put(old);
	iommu_put(undone);
	return r;
}

long cdev_detach(struct vfio_df *df, unsigned long arg)
{
	struct vfio_device_detach_iommufd_pt d;
	struct vfio_iommu *old;
	int r = arg_get(&d, arg, sizeof(d));

	if (r)
		return r;
	if (d.flags)
		return d.flags & ~VFIO_DEVICE_DETACH_PASID ? -EINVAL : -EOPNOTSUPP;
	mutex_lock(&df->dev->set.lock);
	old = detach(df);
	mutex_unlock(&df->dev->set.lock);
	iommu_put(old);
	return 0;
}
