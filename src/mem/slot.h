/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to mem: memslots and the sets that readers search.
 *
 * An address space has two sets of the same content, each a sorted array and a tree: readers search the active one, an updater
 * edits the other, publishes it, waits for the readers of the first, and makes the same edit there. What
 * changes in a slot's life changes in the slot itself: whether it is logged, whether it is on its way out
 * (INVALID), what vCPUs attach to it on their way (arch data: sptes, counts of write tracking).
 *
 *                       slot_find, slot_grant   region and log updates   mem_age   track_add
 *   slot_find, grant            X                        X                  X          X     X = may run
 *   region, log updates         X                        - (slots_lock)     X          X     concurrently
 *   mem_age                     X                        X                  X          X
 *   mem_track_add, _del         X                        X                  X          - (slots_arch_lock)
 *
 * Arch data are attached by whoever needs them first: in an srcu section, under slots_arch_lock. So an
 * updater takes slots_arch_lock before it reads the active set's pointer, carries over what was attached by
 * then, and drops it before it waits for readers.
 */
#ifndef USERKVM_MEM_SLOT_H
#define USERKVM_MEM_SLOT_H

#include "base/kvm_file.h"
#include "mem/mem.h"

/*
 * One spte per gfn of a slot: what has been handed out to vCPUs. Bits 63..32 hold the slot's generation; an
 * spte of another generation counts as empty, so a slot is zapped by one increment.
 *
 * Every spte may be changed at any time by code that holds no lock (slot_grant, mem_age), so every change of
 * one is an atomic read-modify-write, and one that depends on what was read is a compare-and-swap over the
 * whole entry, generation included: an entry of a slot's earlier life never matches (no ABA).
 */
#define SPTE_PRESENT   1ULL
#define SPTE_WRITE     2ULL /* handed out writable; see slot_grant for what else that needs */
#define SPTE_ACCESSED  4ULL /* handed out since mem_age last looked */
#define SPTE_DIRTY     8ULL /* handed out writable since mem_age last looked */
#define SPTE_FLAGS     (SPTE_PRESENT | SPTE_WRITE | SPTE_ACCESSED | SPTE_DIRTY)
#define SPTE_GEN_SHIFT 32

_Static_assert((SPTE_FLAGS >> SPTE_GEN_SHIFT) == 0, "flags and generation are disjoint");

/* A slot's place in the tree of one set: hva.c. */
struct slot_hva {
	struct slot *left, *right;
	uint64_t max; /* the highest end of a host range below */
};

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
	/* Arch data, one element per gfn; NULL until somebody needs them. */
	_Atomic(_Atomic uint64_t *) sptes;
	_Atomic(_Atomic uint16_t *) track; /* wishes to see writes */
	uint64_t tracked;		   /* gfns with a wish; slots_arch_lock */
	/* Dirty bitmap, one bit per gfn, and behind it as many words for a snapshot; NULL = not logged. */
	_Atomic(_Atomic uint64_t *) log;
	struct slot_hva by_hva[2]; /* as the set it belongs to */
};

struct slot_set {
	unsigned n, capacity;
	_Atomic unsigned hint; /* index of the last hit */
	unsigned which;	       /* of the two */
	struct slot *by_hva;   /* root of the same slots' tree */
	struct slot *slots[];  /* by base_gfn */
};

struct mem {
	const struct mem_port *port;
	void *ctx;
	struct srcu *srcu;
	struct mutex *slots_lock;
	struct mutex slots_arch_lock; /* attaching arch data; which set is active; the list of track nodes */
	_Atomic(struct slot_set *) active[MEM_ADDRESS_SPACES];
	struct slot_set *inactive[MEM_ADDRESS_SPACES]; /* slots_lock */
	struct slot **by_id[MEM_ADDRESS_SPACES];       /* nr_ids each, grown by slot_reserve_id; slots_lock */
	unsigned nr_ids[MEM_ADDRESS_SPACES];	       /* slots_lock */
	uint64_t total_pages;			       /* of both address spaces; slots_lock */
	_Atomic uint64_t generation;
	_Atomic uint64_t manual_protect;
	_Atomic bool absent_told; /* mem_fill said MMIO since the last flush: vCPUs may remember that */
	/* access.c: who is touching guest memory for the hypervisor, and what stops them. */
	struct spinlock access_lock;
	struct accessor *accessors;
	_Atomic uint64_t revoke_seq;
	/* ring.c; the list changes under slots_lock and is read in srcu sections. */
	uint32_t ring_bytes;
	_Atomic(struct mem_ring *) rings;
	/* Write tracking. */
	struct srcu track_srcu; /* readers of the list below */
	_Atomic(struct kvm_track *) track_nodes;
	_Atomic uint64_t tracked; /* gfns with a wish, of all slots */
	struct kvm_pin *pins;	  /* slots_arch_lock; told of under track_srcu */
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
/* An empty set, first (0) or second (1) of its address space; NULL without memory. */
struct slot_set *slot_set_create(unsigned capacity, unsigned which);
/* `to`, new and larger, takes the place of `from`, which nobody reads and is freed. Returns `to`. */
struct slot_set *slot_set_replace(struct slot_set *to, struct slot_set *from);
/* Takes `out` from a set that nobody reads, and adds `in`; each may be NULL. */
void slot_set_edit(struct slot_set *set, const struct slot *out, struct slot *in);
/* True if a slot's host range meets [lo, hi): no more than a search. Inside an srcu section. */
bool slot_set_shows(const struct slot_set *set, uint64_t lo, uint64_t hi);
/* True if [base, base + npages) meets a slot other than `but`. */
bool slot_set_overlaps(const struct slot_set *set, uint64_t base, uint64_t npages, const struct slot *but);
/* The slot that holds gfn, INVALID ones included, or NULL. Inside an srcu section or with slots_lock. */
struct slot *slot_find(const struct mem *m, unsigned as, uint64_t gfn);
/* The slot that an ioctl's slot field names: -EINVAL impossible, 0 with *out possibly NULL. slots_lock. */
int slot_by_id(const struct mem *m, uint32_t slot, struct slot **out);
/* Room in by_id for a valid slot field. -ENOMEM: nothing changed. slots_lock. */
int slot_reserve_id(struct mem *m, uint32_t slot);

/* The slot's sptes, attached now if they were not; NULL without memory. Inside an srcu section. */
_Atomic uint64_t *slot_sptes(struct mem *m, struct slot *s);
/* The spte of page `rel`; NULL if nothing of the slot was ever handed out. */
static inline _Atomic uint64_t *slot_spte(const struct slot *s, uint64_t rel)
{
	_Atomic uint64_t *sptes = atomic_load(&s->sptes);

	return sptes ? &sptes[rel] : NULL;
}

/* -- hva.c: an edit's part in the tree of a set that nobody reads -- */

void slot_hva_insert(struct slot_set *set, struct slot *s);
void slot_hva_remove(struct slot_set *set, const struct slot *s);

/* -- fill.c -- */

/* Hands page `rel` of a slot to a vCPU: MEM_FIXED with page->writable and ->tracked, or MEM_NOMEM. Inside an
 * srcu section. */
enum mem_fill_result slot_grant(struct mem *m, struct slot *s, uint64_t rel, bool write,
				struct mem_page *page);
#ifdef USERKVM_CHECKED
/* Called by slot_grant between its look at an spte and the compare-and-swap; set by tests. */
extern void (*slot_grant_hook)(struct slot *s, uint64_t rel);
#endif

/* -- access.c -- */

/* Revokes every host pointer into guest memory, vCPUs' and accessors'. As mem_port.flush. */
void mem_revoke(struct mem *m);

/* -- dirty.c -- */

/* Takes the right to write from the pages of one bitmap word; true if anyone had it. slots_lock. */
bool slot_revoke_write(struct slot *s, uint64_t word, uint64_t mask);
#ifdef USERKVM_CHECKED
/* Called by slot_revoke_write when it begins and when it has done; set by tests. */
extern void (*slot_revoke_hook)(bool done);
#endif

/* -- ring.c -- */

/* True if this thread's ring (or that of no vCPU) takes another entry for the engine. Inside an srcu section.
 */
bool ring_has_room(const struct mem *m);
/* Enters page `rel`, just marked, in a ring. False: there is no room. Inside an srcu section. */
bool ring_push(struct mem *m, const struct slot *s, uint64_t rel);

/* -- invalidate.c -- */

/* A slot's host range comes and goes. */
void hva_add(const struct slot *s);
void hva_del(const struct slot *s);
/* True if an invalidation that is under way covers the page. */
bool mem_invalidating(uint64_t hva);

/* -- track.c -- */

/* True if somebody wishes to see writes to page `rel`. */
static inline bool slot_tracked(const struct slot *s, uint64_t rel)
{
	_Atomic uint16_t *track = atomic_load(&s->track);

	return unlikely(track) && atomic_load(&track[rel]);
}
/* Tells of a write by the hypervisor itself that has been made. Not inside an srcu section. */
void track_wrote(struct mem *m, unsigned as, uint64_t gpa, const void *data, size_t len);
/* A slot went, and its tracked pages with it. slots_lock held. */
void track_slot_gone(struct mem *m, struct slot *s);

/* -- pin.c -- */

/* The host range [lo, hi) goes: ends the pins that meet it. */
void pins_end(struct mem *m, uint64_t lo, uint64_t hi);

#endif
