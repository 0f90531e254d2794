/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The room's front door: paths, and what KVM_DEV_TYPE_VFIO asks of a file. */
#include "vfio/vfio.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "base/mutate.h"
#include "vfio/device.h"

#define MISC_MAJOR 10
#define VFIO_MINOR 196
/* Numbers that a kernel assigns as it comes. */
#define IOMMU_MINOR 63
#define GROUP_MAJOR 243
#define CDEV_MAJOR  242

enum kind { NOTHING, CONTAINER, GROUP, CDEV, IOMMUFD };

/* The number that text is, of a device that there is; -1: none. */
static int number(const char *text)
{
	unsigned n = 0;

	if (!*text || (text[0] == '0' && text[1]))
		return -1;
	for (; *text >= '0' && *text <= '9' && n < VFIO_MAX_DEVICES; text++)
		n = n * 10 + (unsigned)(*text - '0');
	return !*text && n < vfio_nr_devices ? (int)n : -1;
}

/* The rest of path behind prefix, or NULL. */
static const char *behind(const char *path, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(path, prefix, n) ? NULL : path + n;
}

static enum kind classify(const char *path, int *n)
{
	const char *rest;

	*n = 0;
	if (!vfio_nr_devices)
		return NOTHING;
	if (!strcmp(path, "/dev/iommu"))
		return IOMMUFD;
	if (!strcmp(path, "/dev/vfio/vfio"))
		return CONTAINER;
	rest = behind(path, "/dev/vfio/devices/vfio");
	if (rest) {
		*n = number(rest);
		return *n >= 0 ? CDEV : NOTHING;
	}
	rest = behind(path, "/dev/vfio/");
	if (!rest)
		return NOTHING;
	*n = number(rest);
	return *n >= 0 ? GROUP : NOTHING;
}

bool vfio_exists(void)
{
	return vfio_nr_devices > 0;
}

bool vfio_is_path(const char *path)
{
	int n;

	return classify(path, &n) != NOTHING;
}

dev_t vfio_device_number(const char *path)
{
	int n;

	switch (classify(path, &n)) {
	case CONTAINER: return makedev(MISC_MAJOR, VFIO_MINOR);
	case IOMMUFD: return makedev(MISC_MAJOR, IOMMU_MINOR);
	case GROUP: return makedev(GROUP_MAJOR, n);
	case CDEV: return makedev(CDEV_MAJOR, n);
	case NOTHING: break;
	}
	return 0;
}

static int open_kind(enum kind kind, unsigned n, int access)
{
	switch (kind) {
	case CONTAINER: return container_open(access);
	case GROUP: return group_open(n, access);
	case CDEV: return cdev_open(n, access);
	case IOMMUFD: return iommufd_open(access);
	case NOTHING: break;
	}
	return -ENOENT;
}

int vfio_open(const char *path, int flags)
{
	int access = flags & (O_ACCMODE | O_NONBLOCK | O_APPEND | O_CLOEXEC), n, r;
	enum kind kind = classify(path, &n);

	if (kind == NOTHING)
		return -ENOENT;
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return -EEXIST;
	if (flags & O_DIRECTORY)
		return -ENOTDIR;
	owner_adopt();
	/* Arguments are read where the VMM may have unmapped them: our fault handlers are due while a file is open. */
	r = base_sig_enable();
	if (r)
		return r;
	r = files_start();
	if (!r)
		r = open_kind(kind, (unsigned)n, access);
	if (r < 0)
		base_sig_disable();
	return r;
}

void vfio_file_gone(void)
{
	base_sig_disable();
}

/* -- For KVM_DEV_TYPE_VFIO -- */

/* The device behind a group's or a cdev's file, or NULL; a device file of the group path has its link in the
 * group. */
static struct vfio_device *linkable(struct file *f, struct vfio_kvm_reference **link)
{
	struct vfio_group *g = f->object;
	struct vfio_df *df = f->object;

	if (f->cls == &vfio_group_class) {
		*link = &g->link;
		return g->device;
	}
	if (f->cls != &vfio_df_class || df->group_file)
		return NULL;
	*link = &df->link;
	return df->dev;
}

bool vfio_file_is_valid(struct file *f)
{
	struct vfio_kvm_reference *link;

	return linkable(f, &link);
}

void vfio_file_set_kvm(struct file *f, struct kvm_file *kvm)
{
	struct vfio_kvm_reference *link;
	struct vfio_device *dev = linkable(f, &link);

	if (dev && mutated(MUTATE_LINK_IN_GROUP)) {
		mutex_lock(&dev->group->lock);
		link->file = kvm;
		mutex_unlock(&dev->group->lock);
	} else if (dev) {
		link_set(link, kvm);
	}
}

bool vfio_file_is_coherent(struct file *f)
{
	struct vfio_kvm_reference *link;
	struct vfio_device *dev = linkable(f, &link);

	return !dev || dev->drv->flags & USERKVM_COHERENT;
}
