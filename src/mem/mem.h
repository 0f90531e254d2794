/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest-physical memory: memslots per address space (0 normal, 1 SMM on x86), gfn to host address, one
 * spte per gfn that the vCPUs use, dirty logs, write tracking, and revocation of what was handed out.
 *
 *                    needs
 *   mem_set_region   slots_lock held; waits for readers of the VM's srcu and revokes vCPU pointers
 *   mem_*_dirty_log  slots_lock held; revokes write permission
 *   mem_fill, mem_is_visible   an srcu read section is taken inside
 *   mem_age, mem_track_*   nothing; revoke vCPU pointers, so in no srcu section
 *   mem_read, mem_write, mem_cmpxchg   no lock and no srcu section: they may block in a userfault
 */
#ifndef USERKVM_MEM_MEM_H
#define USERKVM_MEM_MEM_H

#include <linux/kvm.h>

#include "base/base.h"

#define MEM_ADDRESS_SPACES 2
#define MEM_USER_SLOTS	   32764 /* KVM_CAP_NR_MEMSLOTS: 32767 less KVM's three internal ones (6.1) */
#define MEM_MAX_PAGES	   ((1UL << 31) - 1) /* per slot, as KVM_MEM_MAX_NR_PAGES */

struct mem;
struct kvm_track;

struct mem_port {
	/*
	 * Revokes every host pointer and write permission that any vCPU of the VM holds. On return no vCPU
	 * will use one obtained before the call, nor the outcome of a mem_fill that began before it. Called
	 * with slots_lock held (from mem_invalidate_begin: possibly without), in no srcu section of ours.
	 */
	void (*flush)(void *ctx);
};

enum mem_fill_result {
	MEM_FIXED,    /* *page is valid */
	MEM_MMIO,     /* no slot there: a device access */
	MEM_READONLY, /* write to a READONLY slot: a device access, KVM_EXIT_MMIO */
	MEM_RETRY,    /* an INVALID slot or an invalidation in progress: try again */
	MEM_FULL,     /* a write must be logged and the vCPU's dirty ring has no room: after a reset */
	MEM_NOMEM,
};

struct mem_page {
	uint8_t *host; /* host address of the gfn's first byte */
	bool writable; /* a write may go through this pointer until the next flush */
	bool tracked;  /* not so: writes may go through it once, and are told by mem_track_told afterwards */
	uint64_t id;   /* page identity: unique per (slot generation, gfn) */
};

/*
 * slots_lock and srcu belong to the caller and outlive the object. -ENOMEM.
 */
int mem_create(struct mem **out, const struct mem_port *port, void *ctx, struct srcu *srcu,
	       struct mutex *slots_lock);
/* No vCPU, no reader left. */
void mem_destroy(struct mem *m);

/*
 * KVM_SET_USER_MEMORY_REGION (api.rst 4.35). -EINVAL, -EEXIST, -ENOMEM as KVM 6.1; nothing has changed then.
 * When a DELETE or MOVE returns, no vCPU and no mem_write reaches the old place. slots_lock held.
 */
int mem_set_region(struct mem *m, const struct kvm_userspace_memory_region *r);
/* KVM_GET_DIRTY_LOG (4.8): -ENOENT no slot or no log, -EINVAL bad id, -EFAULT. slots_lock held. */
int mem_get_dirty_log(struct mem *m, const struct kvm_dirty_log *log);
/* KVM_CLEAR_DIRTY_LOG (4.117). slots_lock held. */
int mem_clear_dirty_log(struct mem *m, const struct kvm_clear_dirty_log *log);
/* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: flags as the capability's args[0]; -EINVAL. */
int mem_set_manual_protect(struct mem *m, uint64_t flags);
uint64_t mem_manual_protect(const struct mem *m);

/*
 * Translates for a vCPU: the page that holds gpa in address space `as`, for an access that is a write or
 * not. A write marks the page dirty before it returns. Does not touch guest memory, so it cannot fault.
 */
enum mem_fill_result mem_fill(struct mem *m, unsigned as, uint64_t gpa, bool write, struct mem_page *page);

/*
 * Hypervisor access to guest memory, as a vCPU would make it: a page is translated and marked dirty, then
 * touched outside any section and under no lock, for the touch may block in the VMM's userfault handler; a
 * revocation meanwhile makes it begin again with a new translation. Any thread. -EFAULT: no slot, read-only,
 * or the host mapping is gone; part may have been copied then. 2, 4 and 8 bytes in a page are one access.
 */
int mem_read(struct mem *m, unsigned as, uint64_t gpa, void *buf, size_t len);
int mem_write(struct mem *m, unsigned as, uint64_t gpa, const void *buf, size_t len);
/* Locked compare-and-exchange of an aligned word (4 or 8 bytes): *old is updated on mismatch; -EFAULT. */
int mem_cmpxchg(struct mem *m, unsigned as, uint64_t gpa, unsigned size, uint64_t *old, uint64_t val);
/* True if the gfn is in a slot (READONLY ones too). */
bool mem_is_visible(struct mem *m, unsigned as, uint64_t gpa);
/* The generation that changes with every slot update; bit 63 is set while one is under way. */
uint64_t mem_generation(const struct mem *m);

/*
 * What vCPUs did to n pages of address space `as` since the last call, one byte each: test-and-clear of the
 * sptes' bits, without a lock. A page not young was not touched between the last call's return and this one's
 * start; one touched after the return is young at the next call. Concurrent accesses count for either. DIRTY:
 * a vCPU was allowed to write. Pages in no slot are old. mem_read and mem_write count as a vCPU's accesses.
 */
#define MEM_AGE_ACCESSED 1
#define MEM_AGE_DIRTY	 2
void mem_age(struct mem *m, unsigned as, uint64_t gfn, uint64_t n, uint8_t *young);

/*
 * Write tracking (base/kvm_file.h says what a node may do). Counts live in the slots of address space 0 and go
 * with them: removed() is called then, under slots_lock, and under it alone. A write that was made before a
 * count went, or a slot, may be told after it.
 */
void mem_track_register(struct mem *m, struct kvm_track *node);
/* When this returns none of the node's functions runs or will. Not from one of them. */
void mem_track_unregister(struct mem *m, struct kvm_track *node);
/* When this returns 0 every later write to the page is told. -EINVAL no slot, -ENOMEM; a count that would wrap
 * is reported, -EINVAL. */
int mem_track_add(struct mem *m, uint64_t gfn);
/* -EINVAL: no slot. One too many is reported and changes nothing, -EINVAL. */
int mem_track_del(struct mem *m, uint64_t gfn);
/* A vCPU wrote to a page that mem_fill called tracked; on the writer's thread, in no srcu section. */
void mem_track_told(struct mem *m, uint64_t gpa, const void *data, unsigned len);

/* -- Pins: pin.c -- */

struct kvm_pin;

/* A range of one slot of address space 0 for use at its host address; base/kvm_file.h says how. No lock held. */
int mem_pin(struct mem *m, struct kvm_pin *pin);
/* On return the pin's removed does not run nor will it; a writable range is dirty. Not from removed. */
void mem_unpin(struct mem *m, struct kvm_pin *pin);
/* Bytes were written through a pin. -EFAULT: no slot, or one that is read-only. */
int mem_pin_dirty(struct mem *m, uint64_t gpa, uint64_t len);

/* -- Dirty rings (api.rst 8.29): ring.c -- */

struct mem_ring;

/* KVM_CAP_DIRTY_LOG_RING for the VM: `bytes` per vCPU. -EINVAL, -E2BIG. kvm->lock and slots_lock held. */
int mem_ring_enable(struct mem *m, uint64_t bytes, bool has_vcpus);
/* As enabled, 0 without. What KVM_CHECK_EXTENSION says of it. */
uint32_t mem_ring_bytes(const struct mem *m);
#define MEM_RING_MAX_BYTES (65536U * (unsigned)sizeof(struct kvm_dirty_gfn))
/* One vCPU's ring over its mapped pages, which the VMM writes to as well. -ENOMEM. Takes slots_lock. */
int mem_ring_create(struct mem_ring **out, struct mem *m, void *entries);
/* Takes slots_lock. */
void mem_ring_destroy(struct mem_ring *r);
/* Makes r (NULL: none) the ring for what this thread writes; returns the one before. */
struct mem_ring *mem_ring_use(struct mem_ring *r);
/* True if the guest must not run before a reset: KVM_EXIT_DIRTY_RING_FULL. r may be NULL. */
bool mem_ring_soft_full(const struct mem_ring *r);
/* KVM_RESET_DIRTY_RINGS: how many entries were taken back; -EINVAL without rings. slots_lock held. */
long mem_reset_rings(struct mem *m);

/* -- Changes of the VMM's mappings: invalidate.c -- */

/* One change under way, on its maker's stack. */
struct mem_invalidation {
	uint64_t lo, hi; /* host addresses */
	struct mem_invalidation *next;
};

/* False if surely no slot of any VM lies in [hva, hva + len): a few loads. */
bool mem_invalidate_due(uint64_t hva, uint64_t len);
/*
 * From begin to end mem_fill says MEM_RETRY of the pages in the range, whichever VM asks; mem_invalidate_vm,
 * called for each VM in between, revokes what its vCPUs hold there. Then the mappings may change. Any thread,
 * without slots_lock, in no srcu section; nothing is waited for.
 */
void mem_invalidate_begin(struct mem_invalidation *i, uint64_t hva, uint64_t len);
void mem_invalidate_vm(struct mem *m, const struct mem_invalidation *i);
void mem_invalidate_end(struct mem_invalidation *i);
/* In a forked child: no other thread's changes are under way here. */
void mem_forked(void);

#endif
