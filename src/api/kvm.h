/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to api/: the VM object and what its files share. A VM lives while anything holds a reference:
 * its own file, its vCPU, device and stats files, and walkers of the registry. The last one to let go
 * destroys it, in its own context, with no lock held.
 */
#ifndef USERKVM_API_KVM_H
#define USERKVM_API_KVM_H

#include "api/stats.h"
#include "base/kvm_file.h"
#include "file/file.h"
#include "vcpu/vcpu.h"

#define KVM_MAX_VCPU_ID	  4096 /* KVM_CAP_MAX_VCPU_ID, x86 */
#define KVM_MIN_MMU_PAGES 64

struct kvm;
struct kvm_dev;
struct stats_file;

/* One vCPU as its file and its VM see it. Lives as long as the VM. */
struct vcpu_handle {
	struct kvm *kvm;
	struct vcpu *vcpu;
	uint8_t *map; /* library's mapping of VCPU_MMAP_SIZE bytes; the first page is kvm_run */
	struct vcpu_stats stats;
};

/* How far kvm_create came: teardown undoes from there. */
enum kvm_stage {
	KVM_STAGE_NONE,
	KVM_STAGE_SRCU,
	KVM_STAGE_MEM,
	KVM_STAGE_CODE,
	KVM_STAGE_VCPUS,
	KVM_STAGE_RING,
	KVM_STAGE_BUS,
	KVM_STAGE_IRQ,
	KVM_STAGE_LISTED,
};

struct kvm {
	struct kvm_file handle; /* first: what others may count on knowing nothing else */
	enum kvm_stage stage;
	uint32_t generation; /* whose memory its memslots are addresses in: owner_generation() */
	struct vcpu_vm vm;
	struct mutex lock;	 /* vCPU array, devices, VM-wide state */
	struct mutex slots_lock; /* memslot and bus updates */
	struct srcu srcu;
	/* Back-pointer to the handle while the VM's file is open; cleared first thing in its release. */
	_Atomic(struct kvm_file *) file;
	struct vcpu_handle
	    *handles[VCPU_MAX]; /* by index; guarded by lock, fixed once vm.nr_vcpus covers it */
	struct kvm_coalesced_mmio_ring *ring; /* one page, shared with every vCPU mapping */
	struct kvm_dev *devices;	      /* guarded by lock */
	unsigned long mmu_pages;	      /* KVM_SET_NR_MMU_PAGES; guarded by slots_lock */
	struct vm_stats stats;
	struct spinlock stats_lock;
	_Atomic(struct stats_file *) stats_files;
	_Atomic int noncoherent;	   /* devices whose DMA does not snoop (systems.md B6) */
	struct kvm *list_next, *list_prev; /* registry */
};
_Static_assert(offsetof(struct kvm, handle) == 0,
	       "the handle, and so the count, is what a holder finds first");

/* -- vm.c -- */

/* A VM with one reference. -ENOMEM or what the set-up says. */
int kvm_create(struct kvm **out);
/* The caller holds a reference already. */
void kvm_get(struct kvm *kvm);
/* False if destruction began; the caller keeps the memory addressable (registry lock). */
bool kvm_get_safe(struct kvm *kvm);
/* May destroy: takes every lock of the VM, so none may be held. */
void kvm_put(struct kvm *kvm);
/* Gives back a reference borrowed for a file that was not made. */
void kvm_put_not_last(struct kvm *kvm);
/* The VM's handle, counted (kvm_file_put); NULL once the last close of its fd was seen. The caller has a reference
 * of its own. */
struct kvm_file *kvm_file_get_active(struct kvm *kvm);
/* What drivers may do with one of our VMs: handle.c, but for destroy. */
extern const struct kvm_file_ops kvm_handle_ops;
/* kvm_handle_ops.destroy: undoes kvm_create from the stage it reached; the count is 0, nobody else has the VM. */
void kvm_destroy(struct kvm_file *file);
/* Walks the VMs: the first (kvm NULL), or the one after kvm, whose reference is dropped. Holds a reference
 * on what it returns and no lock. */
struct kvm *registry_next(struct kvm *kvm);
void registry_forked(void);
extern const struct file_class vm_file_class;

/* -- vcpu_file.c -- */
extern const struct file_class vcpu_file_class;
/* KVM_CREATE_VCPU; kvm->lock held. The fd, or -errno. */
int vcpu_file_create(struct kvm *kvm, unsigned long id);
void vcpu_handle_destroy(struct vcpu_handle *h);

/* -- device.c -- */
/* KVM_CREATE_DEVICE; takes kvm->lock, which the ending of a device that got no file must not hold. Fills cd->fd. */
int device_create(struct kvm *kvm, struct kvm_create_device *cd);
/* What still hangs on the VM when it dies. */
void device_destroy_all(struct kvm *kvm);

/* -- caps.c, enable_cap.c -- */
/* KVM_CHECK_EXTENSION's answer; kvm may be NULL (asked of /dev/kvm). */
long caps_check(struct kvm *kvm, long cap);
/* KVM_ENABLE_CAP on a VM; kvm->lock and slots_lock held. */
int vm_enable_cap(struct kvm *kvm, const struct kvm_enable_cap *cap);

/* -- the ioctl tables -- */
extern const struct file_class system_file_class;
long system_ioctl(struct file *f, uint32_t request, unsigned long arg);
long vm_ioctl(struct file *f, uint32_t request, unsigned long arg);
long vcpu_ioctl(struct file *f, uint32_t request, unsigned long arg);
/* KVM_CREATE_VM. */
int vm_file_create(unsigned long type);

#endif
