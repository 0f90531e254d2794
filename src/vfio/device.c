/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A device's opens and its regions: the file that GET_DEVICE_FD or the cdev gives. */
#include <sys/mman.h>

#include "base/sys.h"
#include "vfio/device.h"

#define CHUNK 4096 /* of a pread or pwrite, copied at once */

/* -- Open and close: dev_set->lock held -- */

void device_drop(struct vfio_dropped *d)
{
	iommu_put(d->iommu);
	if (d->map)
		sys_call(SYS_munmap, d->map, d->len);
	sys_fd_close(d->fd);
	for (unsigned n = 0; n < d->nr_triggers; n++)
		base_eventfd_put(&d->triggers[n]);
	base_free(d->triggers);
	/* Last: the VM may go with this. */
	if (d->kvm)
		kvm_file_put(d->kvm);
}

/* One eventfd for each vector of each interrupt. -ENOMEM. */
static int make_triggers(const struct vfio_device *dev, struct base_eventfd **out, unsigned *nr)
{
	unsigned n = 0;

	for (unsigned i = 0; i < dev->drv->nr_irqs; i++)
		n += dev->drv->irqs[i].count;
	*out = base_zalloc(MAX(n, 1U) * sizeof(**out));
	if (!*out)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		(*out)[i].fd = -1;
	*nr = n;
	return 0;
}

/* The opener's file becomes the device's memory. Later openers on the group path map it through mem_fd. */
static int take_memory(struct vfio_df *df)
{
	struct vfio_device *dev = df->dev;
	long fd = -1;

	dev->mem_size = df->file->size;
	dev->mem_fd = -1;
	if (!dev->mem_size)
		return 0;
	if (df->group_file) {
		fd = sys_call(SYS_dup, df->file->setup_fd);
		if (fd < 0)
			return (int)fd;
	}
	dev->mem_fd = sys_fd_claim((int)fd);
	dev->mem = df->file->map;
	df->file->keep_map = true;
	return 0;
}

/* Gives the device's resources to `drop`, all but its address space; nobody uses it. */
static void strip(struct vfio_device *dev, struct vfio_dropped *drop)
{
	drop->kvm = dev->kvm;
	drop->map = dev->mem;
	drop->len = dev->mem_size;
	drop->fd = dev->mem_fd;
	spin_lock(&dev->irq_lock);
	drop->triggers = dev->triggers;
	drop->nr_triggers = dev->nr_triggers;
	dev->triggers = NULL;
	dev->nr_triggers = 0;
	spin_unlock(&dev->irq_lock);
	dev->kvm = NULL;
	dev->mem = NULL;
	dev->mem_size = 0;
	dev->mem_fd = -1;
}

static int first_open(struct vfio_df *df, struct vfio_kvm_reference *link, struct vfio_dropped *drop)
{
	struct vfio_device *dev = df->dev;
	struct base_eventfd *triggers;
	unsigned n;
	int r;

	if (dev->drv->flags & USERKVM_NEEDS_KVM) {
		dev->kvm = link_get(link);
		if (!dev->kvm)
			return -EINVAL;
	}
	r = make_triggers(dev, &triggers, &n);
	if (!r) {
		spin_lock(&dev->irq_lock);
		dev->triggers = triggers;
		dev->nr_triggers = n;
		spin_unlock(&dev->irq_lock);
		r = take_memory(df);
	}
	if (!r)
		r = dev->drv->open((struct userkvm_device *)dev, &dev->state);
	if (r) {
		strip(dev, drop);
		if (drop->map) {
			/* The file still has it, and unmaps it. */
			df->file->keep_map = false;
			drop->map = NULL;
		}
	}
	return r > 0 ? -EINVAL : r;
}

int device_open(struct vfio_df *df, struct vfio_iommu *iommu, struct vfio_kvm_reference *link,
		struct vfio_dropped *drop)
{
	struct vfio_device *dev = df->dev;
	int r;

	lock_assert_held(&dev->set.lock);
	*drop = (struct vfio_dropped){.fd = -1};
	if (!dev->open_count) {
		r = first_open(df, link, drop);
		if (r)
			return r;
		if (iommu) {
			iommu_get(iommu);
			drop->iommu = iommu_attach(dev, iommu);
		}
	}
	dev->open_count++;
	return 0;
}

void device_close(struct vfio_df *df, struct vfio_dropped *drop)
{
	struct vfio_device *dev = df->dev;

	lock_assert_held(&dev->set.lock);
	*drop = (struct vfio_dropped){.fd = -1};
	if (--dev->open_count)
		return;
	drop->iommu = iommu_attach(dev, NULL);
	dev->drv->close(dev->state);
	strip(dev, drop);
}

/* -- Regions -- */

/* The region at a file position, and the place in it; NULL: none there. */
static const struct userkvm_region *region_at(const struct vfio_device *dev, uint64_t pos, unsigned *index,
					      uint64_t *offset)
{
	uint64_t n = pos >> VFIO_REGION_SHIFT;

	if (n >= dev->drv->nr_regions)
		return NULL;
	*index = (unsigned)n;
	*offset = pos & VFIO_REGION_OFF_MASK;
	return *offset < dev->drv->regions[n].size ? &dev->drv->regions[n] : NULL;
}

size_t device_file_size(const struct vfio_device *dev)
{
	size_t size = 0;

	for (unsigned n = 0; n < dev->drv->nr_regions; n++) {
		if (dev->drv->regions[n].flags & USERKVM_REGION_MMAP)
			size += dev->drv->regions[n].size;
	}
	return size;
}

bool region_memory(const struct vfio_device *dev, unsigned region, size_t *offset)
{
	*offset = 0;
	if (region >= dev->drv->nr_regions || !(dev->drv->regions[region].flags & USERKVM_REGION_MMAP))
		return false;
	for (unsigned n = 0; n < region; n++) {
		if (dev->drv->regions[n].flags & USERKVM_REGION_MMAP)
			*offset += dev->drv->regions[n].size;
	}
	return true;
}

/* The driver's function, or else the region's memory. */
static long region_read(struct vfio_device *dev, unsigned n, uint64_t at, void *buf, size_t len)
{
	size_t offset;

	if (dev->drv->read)
		return dev->drv->read(dev->state, n, at, buf, len);
	if (!region_memory(dev, n, &offset))
		return -EINVAL;
	memcpy(buf, dev->mem + offset + at, len);
	return (long)len;
}

static long region_write(struct vfio_device *dev, unsigned n, uint64_t at, const void *buf, size_t len)
{
	size_t offset;

	if (dev->drv->write)
		return dev->drv->write(dev->state, n, at, buf, len);
	if (!region_memory(dev, n, &offset))
		return -EINVAL;
	memcpy(dev->mem + offset + at, buf, len);
	return (long)len;
}

/* pread or pwrite in pieces; what was done, or why nothing was. */
static long transfer(struct file *f, void *user, size_t len, uint64_t pos, bool write)
{
	struct vfio_df *df = f->object;
	const struct userkvm_region *g;
	uint8_t buf[CHUNK];
	uint64_t at, done = 0;
	unsigned n;
	long r = 0;

	if (!atomic_load_explicit(&df->granted, memory_order_acquire))
		return -EINVAL;
	g = region_at(df->dev, pos, &n, &at);
	if (!g || !(g->flags & (write ? USERKVM_REGION_WRITE : USERKVM_REGION_READ)))
		return -EINVAL;
	len = MIN(len, g->size - at);
	while (done < len) {
		size_t piece = MIN(len - done, (size_t)CHUNK);
		uint8_t *p = (uint8_t *)user + done;

		r = write ? base_copy_in(buf, p, piece) : 0;
		if (!r)
			r = write ? region_write(df->dev, n, at + done, buf, piece)
				  : region_read(df->dev, n, at + done, buf, piece);
		if (r > 0 && !write && base_copy_out(p, buf, (size_t)r))
			r = -EFAULT;
		if (r <= 0)
			break;
		done += (uint64_t)r;
		if ((size_t)r < piece)
			break;
	}
	return done ? (long)done : r;
}

static long df_read(struct file *f, void *buf, size_t len, uint64_t pos)
{
	return transfer(f, buf, len, pos, false);
}

static long df_write(struct file *f, const void *buf, size_t len, uint64_t pos)
{
	return transfer(f, (void *)(uintptr_t)buf, len, pos, true);
}

/* Where an mmap of a region finds its pages. */
static int df_map_at(struct file *f, int *fd, uint64_t *offset, size_t len, int flags)
{
	struct vfio_df *df = f->object;
	const struct userkvm_region *g;
	size_t start;
	uint64_t at;
	unsigned n;

	if (!atomic_load_explicit(&df->granted, memory_order_acquire))
		return -EINVAL;
	g = region_at(df->dev, *offset, &n, &at);
	if (!g || !region_memory(df->dev, n, &start) || len > g->size - at || !(flags & MAP_SHARED))
		return -EINVAL;
	*offset = start + at;
	if (df->dev->mem != f->map)
		*fd = df->dev->mem_fd;
	return 0;
}

static int df_mapped(struct file *f, uint8_t *addr, uint64_t first, uint64_t pages, int prot)
{
	return 0;
}

/* -- The file -- */

static long df_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	return device_ioctl(f->object, request, arg);
}

static void df_release(void *object)
{
	struct vfio_df *df = object;
	bool cdev = !df->group_file;

	if (cdev)
		cdev_release(df);
	else
		group_close_device(df);
	plugin_put(df->dev);
	base_free(df);
	if (cdev)
		vfio_file_gone();
}

const struct file_class vfio_df_class = {
    .name = "VFIO device",
    .ioctl = df_ioctl,
    .map_at = df_map_at,
    .mapped = df_mapped,
    .read = df_read,
    .write = df_write,
    .release = df_release,
};
