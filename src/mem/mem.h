/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest-physical memory: memslots per address space (0 normal, 1 SMM on x86), gfn to host address, one
 * spte per gfn that the vCPUs use, dirty logs, write tracking, and revocation of what was handed out.
 *
 *                    needs
 *   mem_set_region   slots_lock held; waits for readers of the VM's srcu and revokes vCPU pointers
 *   mem_*_dirty_log  slots_lock held; revokes write permission
 *   mem_fill, mem_read, mem_write, mem_cmpxchg, mem_is_visible   an srcu read section is taken inside
 */
#ifndef USERKVM_MEM_MEM_H
#define USERKVM_MEM_MEM_H

#include <linux/kvm.h>

#include "base/base.h"

#define MEM_ADDRESS_SPACES 2
#define MEM_USER_SLOTS	   32764 /* KVM_CAP_NR_MEMSLOTS: 32767 less KVM's three internal ones (6.1) */
#define MEM_MAX_PAGES	   ((1UL << 31) - 1) /* per slot, as KVM_MEM_MAX_NR_PAGES */

struct mem;

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
	MEM_NOMEM,
};

struct mem_page {
	uint8_t *host; /* host address of the gfn's first byte */
	bool writable; /* a write may go through this pointer until the next flush */
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

/* Hypervisor access to guest memory; may block in the VMM's userfault handler, so no lock may be held.
 * -EFAULT: no slot, read-only, or the host mapping is gone. Writes mark dirty. */
int mem_read(struct mem *m, unsigned as, uint64_t gpa, void *buf, size_t len);
int mem_write(struct mem *m, unsigned as, uint64_t gpa, const void *buf, size_t len);
/* Locked compare-and-exchange of an aligned word (4 or 8 bytes): *old is updated on mismatch; -EFAULT. */
int mem_cmpxchg(struct mem *m, unsigned as, uint64_t gpa, unsigned size, uint64_t *old, uint64_t val);
/* True if the gfn is in a slot (READONLY ones too). */
bool mem_is_visible(struct mem *m, unsigned as, uint64_t gpa);
/* The generation that changes with every slot update; bit 63 is set while one is under way. */
uint64_t mem_generation(const struct mem *m);

/*
 * Around a change of the VMM's mappings of [hva, hva + len): between the two, mem_fill of pages there says
 * MEM_RETRY, and what vCPUs held is revoked when begin returns. begin returns whether the range touches a
 * slot; only then end is due. Any thread, without slots_lock, in no srcu section.
 */
bool mem_invalidate_begin(struct mem *m, uint64_t hva, uint64_t len);
void mem_invalidate_end(struct mem *m);

#endif
