/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_DEV_TYPE_VFIO (Documentation/virt/kvm/devices/vfio.rst, systems.md B5): tells VFIO groups and devices which VM
 * they work for. At most one per VM. Each file on its list is pinned: the VMM may close its own fds, the link
 * stays until the file is taken off the list or the kvm-vfio device is closed.
 */
#include <fcntl.h>

#include "api/api.h"
#include "api/device.h"
#include "base/mutate.h"
#include "base/sys.h"

/* Linux 6.6 calls the group FILE, and so does what follows; Debian 12's header knows the old name only. */
#ifndef KVM_DEV_VFIO_FILE
#define KVM_DEV_VFIO_FILE     KVM_DEV_VFIO_GROUP
#define KVM_DEV_VFIO_FILE_ADD KVM_DEV_VFIO_GROUP_ADD
#define KVM_DEV_VFIO_FILE_DEL KVM_DEV_VFIO_GROUP_DEL
#endif

struct link {
	struct link *next;
	struct file *file; /* pinned */
};

struct kvm_vfio {
	struct mutex lock; /* guards what follows */
	struct link *links;
	bool noncoherent; /* the VM counts one for us */
};

static _Atomic(const struct api_vfio_ops *) vfio;

static const struct api_vfio_ops *ops(void)
{
	return atomic_load(&vfio);
}

/* -- The list; kv->lock held -- */

/* Where the file's link hangs, or where the list ends. */
static struct link **find(struct kvm_vfio *kv, const struct file *f)
{
	struct link **at = &kv->links;

	while (*at && (*at)->file != f)
		at = &(*at)->next;
	return at;
}

/* The VM counts one for us if any of our files has DMA that does not snoop. */
static void update_coherency(struct kvm_dev *dev)
{
	struct kvm_vfio *kv = dev->private;
	bool any = false;

	for (struct link *l = kv->links; l && !any; l = l->next)
		any = !ops()->is_coherent(l->file);
	if (any == kv->noncoherent)
		return;
	kv->noncoherent = any;
	dev->kvm->handle.ops->noncoherent(&dev->kvm->handle, any ? 1 : -1);
}

/* The VM of the file is ours; none, if our VM's own fd is closed already. */
static void set_kvm(struct kvm_dev *dev, struct file *f)
{
	struct kvm_file *kvm = kvm_file_get_active(dev->kvm);

	ops()->set_kvm(f, kvm);
	if (kvm)
		kvm_file_put_not_last(kvm); /* our own file holds one while there is a link */
}

/* -- Attributes -- */

/* The file of this process behind the VMM's *addr, pinned. -EFAULT, -EBADF, -EINVAL not a file of ours. */
static int get_file(const struct kvm_device_attr *a, struct file **out)
{
	struct file *f;
	int32_t fd;

	if (base_copy_in(&fd, (void *)(uintptr_t)a->addr, sizeof(fd)))
		return -EFAULT;
	f = file_get(fd);
	if (!f)
		return sys_call(SYS_fcntl, fd, F_GETFD) < 0 ? -EBADF : -EINVAL;
	if (f->generation != owner_generation()) {
		file_put(f);
		return -EINVAL;
	}
	*out = f;
	return 0;
}

/* Takes over the pin on f, or refuses. */
static int add(struct kvm_dev *dev, struct file *f)
{
	struct kvm_vfio *kv = dev->private;
	struct link *l;
	bool known;

	if (!ops()->is_valid(f))
		return -EINVAL;
	l = base_zalloc(sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->file = f;
	mutex_lock(&kv->lock);
	known = *find(kv, f) != NULL;
	pause_if(PAUSE_VFIO_ADD);
	if (!known) {
		l->next = kv->links;
		kv->links = l;
		set_kvm(dev, f);
		update_coherency(dev);
	}
	mutex_unlock(&kv->lock);
	if (known)
		base_free(l);
	return known ? -EEXIST : 0;
}

static int add_file(struct kvm_dev *dev, const struct kvm_device_attr *a)
{
	struct file *f;
	int r = get_file(a, &f);

	if (r)
		return r;
	r = add(dev, f);
	if (r)
		file_put(f);
	return r;
}

static int del_file(struct kvm_dev *dev, const struct kvm_device_attr *a)
{
	struct kvm_vfio *kv = dev->private;
	struct link **at, *l;
	struct file *f;
	int r = get_file(a, &f);

	if (r)
		return r == -EINVAL ? -ENOENT : r;
	mutex_lock(&kv->lock);
	at = find(kv, f);
	l = *at;
	if (l) {
		*at = l->next;
		ops()->set_kvm(f, NULL);
		update_coherency(dev);
	}
	mutex_unlock(&kv->lock);
	/* Either put may be the last one and end the file: no lock is held. */
	if (l)
		file_put(l->file);
	base_free(l);
	file_put(f);
	return l ? 0 : -ENOENT;
}

static int has_attr(struct kvm_dev *dev, const struct kvm_device_attr *a)
{
	bool ok = a->group == KVM_DEV_VFIO_FILE &&
		  (a->attr == KVM_DEV_VFIO_FILE_ADD || a->attr == KVM_DEV_VFIO_FILE_DEL);

	return ok ? 0 : -ENXIO;
}

static int set_attr(struct kvm_dev *dev, const struct kvm_device_attr *a)
{
	int r = has_attr(dev, a);

	if (r)
		return r;
	return a->attr == KVM_DEV_VFIO_FILE_ADD ? add_file(dev, a) : del_file(dev, a);
}

/* -- Life -- */

static int create(struct kvm_dev *dev)
{
	struct kvm_vfio *kv;

	for (struct kvm_dev *d = dev->kvm->devices; d; d = d->next)
		if (d->ops == dev->ops)
			return -EBUSY;
	kv = base_zalloc(sizeof(*kv));
	if (!kv)
		return -ENOMEM;
	mutex_init(&kv->lock, LOCK_KVM_VFIO);
	dev->private = kv;
	return 0;
}

/* Cuts the links; the pins are for destroy, for a put may end a file. */
static void release(struct kvm_dev *dev)
{
	struct kvm_vfio *kv = dev->private;

	mutex_lock(&kv->lock);
	for (struct link *l = kv->links; l; l = l->next)
		ops()->set_kvm(l->file, NULL);
	if (kv->noncoherent)
		dev->kvm->handle.ops->noncoherent(&dev->kvm->handle, -1);
	kv->noncoherent = false;
	mutex_unlock(&kv->lock);
}

static void destroy(struct kvm_dev *dev)
{
	struct kvm_vfio *kv = dev->private;
	struct link *l;

	while ((l = kv->links)) {
		kv->links = l->next;
		file_put(l->file);
		base_free(l);
	}
	base_free(kv);
}

static const struct kvm_dev_ops kvm_vfio_ops = {
    .name = "vfio",
    .create = create,
    .release = release,
    .destroy = destroy,
    .set_attr = set_attr,
    .has_attr = has_attr,
};

void api_register_vfio(const struct api_vfio_ops *table)
{
	atomic_store(&vfio, table);
	device_register_type(KVM_DEV_TYPE_VFIO, NULL);
	if (table)
		device_register_type(KVM_DEV_TYPE_VFIO, &kvm_vfio_ops);
}
