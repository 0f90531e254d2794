/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to mem: memslots and the sets that readers search.
 *
 * A set is an immutable sorted array, replaced whole when a slot comes, moves or goes. What changes in a
 * slot's life changes in the slot itself: whether it is logged, whether it is on its way out (INVALID).
 *
 *                       slot_find, slot_grant   region and log updates
 *   slot_find, grant            X                        X                X = may run concurrently
 *   region, log updates         X                        - (slots_lock)
 */
#ifndef USERKVM_MEM_SLOT_H
#define USERKVM_MEM_SLOT_H

#include "mem/mem.h"

/*
 * One spte per gfn of a slot: what has been handed out to vCPUs. Bits 63..32 hold the slot's generation; an
 * spte of another generation counts as empty, so a slot is zapped by one increment.
 */
#define SPTE_PRESENT   1ULL
#define SPTE_WRITE     2ULL /* handed out writable; see slot_grant for what else that needs */
#define SPTE_GEN_SHIFT 32

_Static_assert(((SPTE_PRESENT | SPTE_WRITE) >> SPTE_GEN_SHIFT) == 0, "flags and generation are disjoint");

struct slot {
	uint64_t base_gfn, npages;
	uint8_t *hva;
	uint64_t uid; /* unique in the process; page ids are made of it */
	uint32_t id;  /* as in the ioctl, without the address space */
	unsigned as;
	bool readonly;
	_Atomic bool invalid; /* being deleted or moved: nothing more is handed out */
	_Atomic bool used;    /* something was handed out since the last flush that this slot asked for */
	_Atomic uint32_t gen;
	_Atomic uint64_t *sptes;
	/* Dirty bitmap, one bit per gfn, and behind it as many words for a snapshot; NULL = not logged. */
	_Atomic(_Atomic uint64_t *) log;
	struct srcu_head rcu;
};

struct slot_set {
	unsigned n;
	_Atomic unsigned hint;	 /* index of the last hit */
	uint64_t hva_lo, hva_hi; /* all slots' host ranges lie inside */
	struct srcu_head rcu;
	struct slot *slots[]; /* by base_gfn */
};

struct mem {
	const struct mem_port *port;
	void *ctx;
	struct srcu *srcu;
	struct mutex *slots_lock;
	_Atomic(struct slot_set *) sets[MEM_ADDRESS_SPACES];
	struct slot **by_id[MEM_ADDRESS_SPACES]; /* MEM_USER_SLOTS each; slots_lock */
	uint64_t total_pages;			 /* of both address spaces; slots_lock */
	_Atomic uint64_t generation;
	_Atomic uint64_t manual_protect;
	_Atomic bool absent_told; /* mem_fill said MMIO since the last flush: vCPUs may remember that */
	/* Invalidations under way: their number, and a range that covers them. */
	struct spinlock invalidate_lock;
	_Atomic unsigned invalidating;
	uint64_t invalid_lo, invalid_hi;
};

/* Words in a bitmap of npages bits, without the snapshot. */
static inline uint64_t slot_words(const struct slot *s)
{
	return (s->npages + 63) / 64;
}

/* -- slot.c -- */

/* A slot as described, in no set yet; NULL without memory. */
struct slot *slot_create(const struct kvm_userspace_memory_region *r);
void slot_free(struct slot *s);
/* Allocates a dirty bitmap; all bits set or clear. NULL without memory. */
_Atomic uint64_t *slot_log_create(const struct slot *s, bool all_set);
/* A copy of `from` without `out` and with `in`; each may be NULL. NULL without memory. */
struct slot_set *slot_set_copy(const struct slot_set *from, const struct slot *out, struct slot *in);
/* True if [base, base + npages) meets a slot other than `but`. */
bool slot_set_overlaps(const struct slot_set *set, uint64_t base, uint64_t npages, const struct slot *but);
/* The slot that holds gfn, INVALID ones included, or NULL. Inside an srcu section or with slots_lock. */
struct slot *slot_find(const struct mem *m, unsigned as, uint64_t gfn);
/* The slot that an ioctl's slot field names: -EINVAL impossible, 0 with *out possibly NULL. slots_lock. */
int slot_by_id(const struct mem *m, uint32_t slot, struct slot **out);

/* -- fill.c -- */

/* Hands page `rel` of a slot to a vCPU; true if writable. Inside an srcu section. */
bool slot_grant(struct slot *s, uint64_t rel, bool write);
/* Records a write to page `rel` that has been made. Inside an srcu section. */
void slot_mark_dirty(struct slot *s, uint64_t rel);
/* True if an invalidation that is under way covers the page. */
bool mem_invalidating(struct mem *m, uint64_t hva);

#endif
