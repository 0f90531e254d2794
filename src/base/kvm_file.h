/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM as those see it who may not know what a VM is (vfio/, drivers): a counted, typed handle. It is the
 * first member of whatever the maker's VM is, the count being its first, and carries its maker's functions, so
 * several kinds of VM can live in one process (systems.md A1..A4). A holder keeps the VM alive; it does not
 * keep its fd open: when the VMM closes that, the irqfds go, whoever holds the handle.
 */
#ifndef USERKVM_BASE_KVM_FILE_H
#define USERKVM_BASE_KVM_FILE_H

#include "base/base.h"

#define KVM_FILE_MAGIC 0x4d564b55 /* "UKVM" */

struct kvm_file;
struct kvm_track;
struct kvm_pin;

/* Guest memory, interrupts and write tracking for a device driver. Address space 0. Any thread that holds the
 * handle; may sleep (a userfault of the VMM's), so no lock may be held. */
struct kvm_file_ops {
	/* The last reference went: ends the VM, in the caller's context, no lock held. */
	void (*destroy)(struct kvm_file *file);
	/* -EFAULT: no memory there, read-only, or the VMM unmapped it. Writes are seen by the dirty log. */
	int (*read)(struct kvm_file *file, uint64_t gpa, void *buf, size_t len);
	int (*write)(struct kvm_file *file, uint64_t gpa, const void *buf, size_t len);
	/* Sends an MSI: >0 delivered, 0 blocked, -errno as KVM_SIGNAL_MSI. */
	int (*msi)(struct kvm_file *file, uint64_t addr, uint32_t data);
	/* Write tracking: mem/track.h says what the node's functions may do. -ESRCH: the VM belongs to another
	 * process's memory. The node holds a reference to the VM until unregister returns; the caller has one of
	 * its own, so no VM ends there. */
	int (*track_register)(struct kvm_file *file, struct kvm_track *node);
	void (*track_unregister)(struct kvm_file *file, struct kvm_track *node);
	/* One more, or one less, wish to see writes to the guest page. -EINVAL: no slot there, or none to undo. */
	int (*track_add)(struct kvm_file *file, uint64_t gfn);
	int (*track_del)(struct kvm_file *file, uint64_t gfn);
	/* A range of memory at its host address: pin fills pin->host. -EINVAL: empty, or wraps; -EFAULT: not in
	 * one slot, not writable, or the VMM has nothing mapped there; -ESRCH as above. No lock held. */
	int (*pin)(struct kvm_file *file, struct kvm_pin *pin);
	/* On return removed does not run, nor will it. Not from removed. May be called after it. */
	void (*unpin)(struct kvm_file *file, struct kvm_pin *pin);
	/* Bytes were written through a pin: the dirty log hears of it. -EFAULT. */
	int (*dirty)(struct kvm_file *file, uint64_t gpa, uint64_t len);
	/* Non-coherent DMA devices: +1, -1 (systems.md B6). */
	void (*noncoherent)(struct kvm_file *file, int change);
};

struct kvm_file {
	struct ref users; /* first: what a holder may count on knowing nothing else */
	uint32_t magic;
	const struct kvm_file_ops *ops;
};
_Static_assert(offsetof(struct kvm_file, users) == 0, "the count is what an opaque holder finds first");

/* A driver's wish to see guest writes. Called on the writer's thread after the bytes are in memory, for every
 * store to a tracked page, whole, once; removed: a slot with tracked pages went. The functions may not call
 * track_* nor sleep for a vCPU. */
struct kvm_track {
	void (*write)(struct kvm_track *node, uint64_t gpa, const void *data, unsigned len);
	void (*removed)(struct kvm_track *node, uint64_t gfn, uint64_t npages);
	_Atomic(struct kvm_track *) next; /* the VM's list */
};

/* Guest memory that a driver uses at its host address. removed: its slot goes, or the VMM unmaps the memory; on
 * return nobody uses the address any more. Called with locks held, on the thread that makes the change: it may wait
 * for threads of the driver's which wait for nothing. */
struct kvm_pin {
	uint64_t gpa, len;
	bool write;
	uint8_t *host;
	void (*removed)(struct kvm_pin *pin);
	struct kvm_pin *next; /* the VM's list */
};

/* The caller holds a reference already. */
static inline void kvm_file_get(struct kvm_file *f)
{
	base_bug_on(f->magic != KVM_FILE_MAGIC);
	ref_get(&f->users);
}

/* False if destruction began; the caller keeps the memory addressable (a lock under which the link is cut). */
static inline bool kvm_file_get_safe(struct kvm_file *f)
{
	base_bug_on(f->magic != KVM_FILE_MAGIC);
	return ref_get_unless_zero(&f->users);
}

/* May end the VM: takes every lock of it, so none may be held. */
static inline void kvm_file_put(struct kvm_file *f)
{
	base_bug_on(f->magic != KVM_FILE_MAGIC);
	lock_assert_may_put("a VM");
	if (ref_put(&f->users))
		f->ops->destroy(f);
}

/* Gives back a reference borrowed for a file that was not made. */
static inline void kvm_file_put_not_last(struct kvm_file *f)
{
	ref_put_not_last(&f->users);
}

#endif
