/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to api/: device objects (KVM_CREATE_DEVICE, api.rst 4.79). A type is a table of functions that its
 * room registers; x86 has one (KVM_DEV_TYPE_VFIO), whose other half is vfio/.
 */
#ifndef USERKVM_API_DEVICE_H
#define USERKVM_API_DEVICE_H

#include <linux/kvm.h>

#include "api/kvm.h"

struct kvm_dev_ops;

struct kvm_dev {
	const struct kvm_dev_ops *ops;
	struct kvm *kvm;
	void *private;
	struct kvm_dev *next; /* kvm->devices */
};

struct kvm_dev_ops {
	const char *name;
	/* kvm->lock held. -errno: the device is not made. */
	int (*create)(struct kvm_dev *dev);
	/* The device's file was closed, kvm->lock held: cuts whatever leads to the device. NULL: a device of this type
	 * lives as long as its VM. */
	void (*release)(struct kvm_dev *dev);
	/* The last call, no lock held: after release, or with the VM's death. */
	void (*destroy)(struct kvm_dev *dev);
	/* a->addr is the VMM's pointer. NULL: -EPERM. -ENXIO: no such group or attribute. */
	int (*set_attr)(struct kvm_dev *dev, const struct kvm_device_attr *a);
	int (*get_attr)(struct kvm_dev *dev, const struct kvm_device_attr *a);
	int (*has_attr)(struct kvm_dev *dev, const struct kvm_device_attr *a);
};

/* Registers a type (NULL ops: removes it). -ENOSPC: no such type number, -EEXIST. */
int device_register_type(unsigned type, const struct kvm_dev_ops *ops);

#endif
