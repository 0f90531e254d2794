/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Device objects: types, creation, attributes, last close. */
#include "api/device.h"

#include <fcntl.h>
#include <stdio.h>

#include "api/dispatch.h"

static _Atomic(const struct kvm_dev_ops *) types[KVM_DEV_TYPE_MAX];

int device_register_type(unsigned type, const struct kvm_dev_ops *ops)
{
	const struct kvm_dev_ops *none = NULL;

	if (type >= KVM_DEV_TYPE_MAX)
		return -ENOSPC;
	if (!ops) {
		atomic_store(&types[type], NULL);
		return 0;
	}
	return atomic_compare_exchange_strong(&types[type], &none, ops) ? 0 : -EEXIST;
}

/* -- Attributes -- */

typedef int (*attr_fn)(struct kvm_dev *dev, const struct kvm_device_attr *a);

/* As KVM: that there is no such call goes before a bad pointer, so the copy is made here. */
static long device_attr(struct ioctl_call *c, attr_fn fn)
{
	struct kvm_device_attr a;

	if (!fn)
		return -EPERM;
	return base_copy_in(&a, (void *)c->arg, sizeof(a)) ? -EFAULT : fn(c->file->object, &a);
}

static long device_set_attr(struct ioctl_call *c)
{
	return device_attr(c, ((struct kvm_dev *)c->file->object)->ops->set_attr);
}

static long device_get_attr(struct ioctl_call *c)
{
	return device_attr(c, ((struct kvm_dev *)c->file->object)->ops->get_attr);
}

static long device_has_attr(struct ioctl_call *c)
{
	return device_attr(c, ((struct kvm_dev *)c->file->object)->ops->has_attr);
}

static const struct ioctl_row device_rows[] = {
    ROW(KVM_SET_DEVICE_ATTR, 0, 0, L_NONE, device_set_attr),
    ROW(KVM_GET_DEVICE_ATTR, 0, 0, L_NONE, device_get_attr),
    ROW(KVM_HAS_DEVICE_ATTR, 0, 0, L_NONE, device_has_attr),
};

static long device_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	struct kvm_dev *dev = f->object;
	struct ioctl_call c = {.file = f, .kvm = dev->kvm, .arg = arg};

	return ioctl_dispatch(device_rows, ARRAY_SIZE(device_rows), &c, request, -ENOTTY);
}

/* -- Life -- */

/* Makes it and hangs it on its VM. */
static int link_device(struct kvm_dev *dev)
{
	struct kvm *kvm = dev->kvm;
	int r;

	mutex_lock(&kvm->lock);
	r = dev->ops->create(dev);
	if (!r) {
		dev->next = kvm->devices;
		kvm->devices = dev;
	}
	mutex_unlock(&kvm->lock);
	return r;
}

/* Takes it off its VM and ends it. */
static void drop_device(struct kvm_dev *dev)
{
	struct kvm *kvm = dev->kvm;
	struct kvm_dev **p = &kvm->devices;

	mutex_lock(&kvm->lock);
	while (*p != dev)
		p = &(*p)->next;
	*p = dev->next;
	if (dev->ops->release)
		dev->ops->release(dev);
	mutex_unlock(&kvm->lock);
	dev->ops->destroy(dev);
	base_free(dev);
}

static void device_release(void *object)
{
	struct kvm_dev *dev = object;
	struct kvm *kvm = dev->kvm;

	if (dev->ops->release)
		drop_device(dev);
	kvm_put(kvm);
}

static const struct file_class device_file_class = {
    .name = "device",
    .ioctl = device_ioctl,
    .release = device_release,
};

void device_destroy_all(struct kvm *kvm)
{
	struct kvm_dev *dev;

	while ((dev = kvm->devices)) {
		kvm->devices = dev->next;
		dev->ops->destroy(dev);
		base_free(dev);
	}
}

/* The device's fd, or -errno. */
static int device_file(struct kvm_dev *dev)
{
	struct file *f;
	char name[40];
	int r;

	snprintf(name, sizeof(name), "kvm-device:%s", dev->ops->name);
	r = file_prepare(&f, &device_file_class, name, 0, O_RDWR);
	if (r)
		return r;
	r = file_install(f, dev, true);
	if (r < 0)
		file_abandon(f);
	return r;
}

int device_create(struct kvm *kvm, struct kvm_create_device *cd)
{
	const struct kvm_dev_ops *ops = cd->type < KVM_DEV_TYPE_MAX ? atomic_load(&types[cd->type]) : NULL;
	struct kvm_dev *dev;
	int r;

	if (!ops)
		return -ENODEV;
	if (cd->flags & KVM_CREATE_DEVICE_TEST)
		return 0;
	dev = base_zalloc(sizeof(*dev));
	if (!dev)
		return -ENOMEM;
	*dev = (struct kvm_dev){.ops = ops, .kvm = kvm};
	r = link_device(dev);
	if (r) {
		base_free(dev);
		return r;
	}
	kvm_get(kvm);
	r = device_file(dev);
	if (r < 0) {
		kvm_put_not_last(kvm);
		drop_device(dev);
		return r;
	}
	cd->fd = (uint32_t)r;
	return 0;
}
