/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /dev/vfio/N: a group of one device. errno as in the kernel (drivers/vfio, 6.1 and newer). */
#include <fcntl.h>

#include "base/mutate.h"
#include "base/sys.h"
#include "vfio/device.h"

/* -- The container -- */

/* A file of ours by the VMM's fd number; *r says what is wrong with any other. */
struct file *arg_file(int fd, int *r)
{
	struct file *f = file_get(fd);

	if (!f)
		*r = sys_call(SYS_fcntl, fd, F_GETFD) == -EBADF ? -EBADF : -EBADFD;
	return f;
}

static long set_container(struct vfio_group *g, unsigned long arg)
{
	struct file *f;
	int fd, r = 0;

	if (base_copy_in(&fd, (void *)arg, sizeof(fd)))
		return -EFAULT;
	f = arg_file(fd, &r);
	if (r == -EBADF)
		return r;
	mutex_lock(&g->lock);
	if (g->container)
		r = -EINVAL;
	else if (!r && f->cls != &vfio_container_class)
		r = -EBADFD;
	if (!r)
		r = container_attach(f->object, g);
	mutex_unlock(&g->lock);
	if (f)
		file_put(f);
	return r;
}

static long unset_container(struct vfio_group *g)
{
	struct vfio_container *c = NULL;
	struct vfio_iommu *iommu = NULL;
	int r = 0;

	mutex_lock(&g->lock);
	if (!g->container)
		r = -EINVAL;
	else if (g->users)
		r = -EBUSY;
	if (!r) {
		c = g->container;
		iommu = container_detach(c, g);
	}
	mutex_unlock(&g->lock);
	iommu_put(iommu);
	if (c)
		container_put(c);
	return r;
}

static long get_status(struct vfio_group *g, unsigned long arg)
{
	struct vfio_group_status s;
	int r = arg_get(&s, arg, sizeof(s));

	if (r)
		return r;
	mutex_lock(&g->lock);
	s.flags = VFIO_GROUP_FLAGS_VIABLE | (g->container ? VFIO_GROUP_FLAGS_CONTAINER_SET : 0);
	mutex_unlock(&g->lock);
	return arg_put(arg, &s, sizeof(s));
}

/* -- GET_DEVICE_FD -- */

/* Compares the VMM's string (a page at most) with ours: 1, 0, -EFAULT, -EINVAL. */
static int arg_is(unsigned long arg, const char *name)
{
	bool same = true;

	for (unsigned n = 0; n < PAGE_SIZE; n++) {
		char c;

		if (base_copy_in(&c, (void *)(arg + n), 1))
			return -EFAULT;
		if (same && c != name[n])
			same = false;
		if (!c)
			return same;
	}
	return -EINVAL;
}

/* Opens the device for a file that is prepared; what is to be put without locks goes to drop. */
static int open_device(struct vfio_group *g, struct vfio_df *df, struct vfio_dropped *drop)
{
	struct vfio_iommu *iommu;
	int r = -EINVAL;

	*drop = (struct vfio_dropped){.fd = -1};
	mutex_lock(&g->lock);
	iommu = g->container ? container_iommu(g->container) : NULL;
	if (iommu) {
		mutex_lock(&df->dev->set.lock);
		r = device_open(df, iommu, &g->link, drop);
		mutex_unlock(&df->dev->set.lock);
	}
	if (!r)
		g->users++;
	mutex_unlock(&g->lock);
	iommu_put(iommu);
	return r;
}

/* Undoes open_device for a file that was not handed out. */
static void close_device(struct vfio_group *g, struct vfio_df *df)
{
	struct vfio_dropped drop;

	mutex_lock(&g->lock);
	mutex_lock(&df->dev->set.lock);
	device_close(df, &drop);
	if (mutated(MUTATE_PUT_IN_GROUP)) {
		device_drop(&drop);
		drop = (struct vfio_dropped){.fd = -1};
	}
	mutex_unlock(&df->dev->set.lock);
	g->users--;
	mutex_unlock(&g->lock);
	device_drop(&drop);
}

void group_close_device(struct vfio_df *df)
{
	close_device(df->dev->group, df);
	file_put(df->group_file);
}

static long get_device_fd(struct file *f, unsigned long arg)
{
	struct vfio_group *g = f->object;
	struct vfio_dropped drop;
	struct vfio_df *df;
	int r = arg_is(arg, g->device->drv->name);

	if (r <= 0)
		return r ? r : -ENODEV;
	df = base_zalloc(sizeof(*df));
	if (!df)
		return -ENOMEM;
	*df = (struct vfio_df){.dev = g->device, .group_file = f, .granted = true};
	link_init(&df->link);
	r = file_prepare(&df->file, &vfio_df_class, "vfio-device", device_file_size(df->dev), O_RDWR);
	if (r) {
		base_free(df);
		return r;
	}
	r = open_device(g, df, &drop);
	device_drop(&drop);
	if (!r) {
		/* The group's file, and so the driver, stays until the device's is closed. */
		file_get_again(f);
		r = plugin_get(df->dev);
		if (!r) {
			r = file_install(df->file, df, true);
			if (r >= 0)
				return r;
			plugin_put(df->dev);
		}
		close_device(g, df);
		file_put(f);
	}
	file_abandon(df->file);
	base_free(df);
	return r;
}

/* -- The file -- */

static long group_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	switch (request) {
	case VFIO_GROUP_GET_STATUS: return get_status(f->object, arg);
	case VFIO_GROUP_SET_CONTAINER: return set_container(f->object, arg);
	case VFIO_GROUP_UNSET_CONTAINER: return unset_container(f->object);
	case VFIO_GROUP_GET_DEVICE_FD: return get_device_fd(f, arg);
	default: return -ENOTTY;
	}
}

/* No device file is open: each would hold the group's. */
static void group_release(void *object)
{
	struct vfio_group *g = object;
	struct vfio_container *c;
	struct vfio_iommu *iommu = NULL;

	mutex_lock(&g->lock);
	base_bug_on(g->users != 0);
	c = g->container;
	if (c)
		iommu = container_detach(c, g);
	g->opened = NULL;
	mutex_unlock(&g->lock);
	iommu_put(iommu);
	if (c)
		container_put(c);
	plugin_put(g->device);
	vfio_file_gone();
}

const struct file_class vfio_group_class = {
    .name = "VFIO group",
    .ioctl = group_ioctl,
    .release = group_release,
};

/* One open at a time, and none while the device is bound through its cdev. */
static int claim(struct vfio_group *g, struct file *f)
{
	int r = 0;

	mutex_lock(&g->lock);
	if (g->opened || g->cdev_opens)
		r = -EBUSY;
	else
		g->opened = f;
	mutex_unlock(&g->lock);
	return r;
}

int group_open(unsigned number, int access)
{
	struct vfio_group *g = &vfio_groups[number];
	struct file *f;
	int r = plugin_get(g->device);

	if (r)
		return r;
	r = file_prepare(&f, &vfio_group_class, "vfio-group", 0, access & ~O_CLOEXEC);
	if (!r) {
		r = claim(g, f);
		if (!r) {
			r = file_install(f, g, access & O_CLOEXEC);
			if (r >= 0)
				return r;
			mutex_lock(&g->lock);
			g->opened = NULL;
			mutex_unlock(&g->lock);
		}
		file_abandon(f);
	}
	plugin_put(g->device);
	return r;
}
