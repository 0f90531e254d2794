/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link to a VM: see device.h. */
#include "vfio/device.h"

void link_init(struct vfio_kvm_reference *l)
{
	l->file = NULL;
	spin_init(&l->lock, LOCK_VFIO_KVM_REF);
}

void link_set(struct vfio_kvm_reference *l, struct kvm_file *file)
{
	spin_lock(&l->lock);
	l->file = file;
	spin_unlock(&l->lock);
}

struct kvm_file *link_get(struct vfio_kvm_reference *l)
{
	struct kvm_file *file;

	spin_lock(&l->lock);
	file = l->file;
	/* Under the lock: whoever is about to let the VM go cannot yet have cut the link. */
	if (file && !kvm_file_get_safe(file))
		file = NULL;
	spin_unlock(&l->lock);
	return file;
}
