/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of the VMM's mappings of guest memory: KVM's MMU notifier, spoken by the shim around munmap and its
 * like. (KVM: mmu_invalidate_range_start and _end.)
 *
 * Ranges are kept by host address, for the process, and not by slot or by VM. So begin and end need not see
 * the same set of slots, there is no count in a slot that could become unbalanced, and a memslot update waits
 * for no invalidation: a slot that appears meanwhile finds the range in the list, one that goes is no concern
 * of it. That matters when the kernel's part blocks: with UFFD_FEATURE_EVENT_UNMAP or _REMOVE, munmap and
 * madvise wait until the VMM's handler has read the event, and that handler may change slots first.
 *
 *	mem_fill			invalidation
 *	slot published			range into the list
 *	hand-out begins			for each VM: a slot there? then revoke
 *	look at the list		mappings change; range out of the list
 *
 * A fill that did not see the range began before the revocation, and is undone by it; one that saw it retries.
 */
#include "base/mutate.h"
#include "mem/slot.h"

static struct {
	struct spinlock lock; /* guards list; leaf */
	struct mem_invalidation *list;
	_Atomic unsigned n;
} active = {.lock = {.m = {.role = LOCK_INVALIDATE}}};

/* -- Which host memory is any guest's -- */

/*
 * One bit for each 2 MiB of host addresses, folded; bits come with slots and go when the last slot goes. A bit
 * too many costs a walk over the VMs.
 */
#define CHUNK_SHIFT 21
#define CHUNK_BITS  32768U

static struct {
	struct spinlock lock; /* guards slots, and clearing against setting; leaf */
	uint64_t slots;
	_Atomic uint64_t bits[CHUNK_BITS / 64];
} filter = {.lock = {.m = {.role = LOCK_INVALIDATE}}};

static uint64_t slot_lo(const struct slot *s)
{
	return (uint64_t)s->hva;
}

static uint64_t slot_hi(const struct slot *s)
{
	return (uint64_t)s->hva + (s->npages << PAGE_SHIFT);
}

void hva_add(const struct slot *s)
{
	uint64_t first = slot_lo(s) >> CHUNK_SHIFT, last = (slot_hi(s) - 1) >> CHUNK_SHIFT;

	last = MIN(last, first + CHUNK_BITS - 1); /* all bits are set then */
	spin_lock(&filter.lock);
	filter.slots++;
	for (uint64_t i = first; i <= last; i = (i | 63) + 1) {
		uint64_t end = MIN(i | 63, last), mask = ~0ULL >> (63 - (end - i)) << (i % 64);
		_Atomic uint64_t *word = &filter.bits[i % CHUNK_BITS / 64];

		if (~atomic_load_explicit(word, memory_order_relaxed) & mask)
			atomic_fetch_or(word, mask);
	}
	spin_unlock(&filter.lock);
}

void hva_del(const struct slot *s)
{
	(void)s;
	spin_lock(&filter.lock);
	if (filter.slots && !--filter.slots) { /* 0 already: a parent's slot */
		for (unsigned i = 0; i < ARRAY_SIZE(filter.bits); i++)
			atomic_store_explicit(&filter.bits[i], 0, memory_order_relaxed);
	}
	spin_unlock(&filter.lock);
}

bool mem_invalidate_due(uint64_t hva, uint64_t len)
{
	uint64_t first = hva >> CHUNK_SHIFT, n;

	if (!len || hva + len < hva)
		return false;
	n = ((hva + len - 1) >> CHUNK_SHIFT) - first + 1;
	if (n >= CHUNK_BITS)
		return true;
	for (uint64_t i = first; i < first + n; i++) {
		if (atomic_load_explicit(&filter.bits[i % CHUNK_BITS / 64], memory_order_relaxed) &
		    BIT(i % 64))
			return true;
	}
	return false;
}

/* -- Changes under way -- */

void mem_invalidate_begin(struct mem_invalidation *i, uint64_t hva, uint64_t len)
{
	*i = (struct mem_invalidation){.lo = hva, .hi = hva + len};
	lock_section_enter(LOCK_INVALIDATING, i);
	spin_lock(&active.lock);
	i->next = active.list;
	active.list = i;
	atomic_fetch_add(&active.n, 1);
	spin_unlock(&active.lock);
}

void mem_invalidate_end(struct mem_invalidation *i)
{
	struct mem_invalidation **p;

	spin_lock(&active.lock);
	for (p = &active.list; *p && *p != i; p = &(*p)->next)
		;
	if (*p) { /* not in a child that was forked meanwhile */
		*p = i->next;
		atomic_fetch_sub(&active.n, 1);
	}
	spin_unlock(&active.lock);
	lock_section_leave(LOCK_INVALIDATING, i);
}

bool mem_invalidating(uint64_t hva)
{
	bool hit = false;

	if (likely(!atomic_load(&active.n))) /* after the slot was found; pairs with touches_slot */
		return false;
	spin_lock(&active.lock);
	for (const struct mem_invalidation *i = active.list; i && !hit; i = i->next)
		hit = hva < i->hi && hva + PAGE_SIZE > i->lo;
	spin_unlock(&active.lock);
	return hit;
}

/* True if a slot of either address space lies in the range. */
static bool touches_slot(struct mem *m, const struct mem_invalidation *r)
{
	int idx = srcu_read_lock(m->srcu);
	bool hit = false;

	for (unsigned as = 0; as < MEM_ADDRESS_SPACES && !hit; as++) {
		struct slot_set *set = srcu_dereference(m->active[as]);

		hit = slot_set_shows(set, r->lo, r->hi);
	}
	srcu_read_unlock(m->srcu, idx);
	return hit;
}

void mem_invalidate_vm(struct mem *m, const struct mem_invalidation *i)
{
	if (mutated(MUTATE_INVALIDATE_TAKES_SLOTS))
		mutex_lock(m->slots_lock);
	if (mutated(MUTATE_STOP_UNDER_LOCK))
		spin_lock(&active.lock);
	if (touches_slot(m, i)) {
		mem_revoke(m);
		pins_end(m, i->lo, i->hi);
	}
	if (mutated(MUTATE_STOP_UNDER_LOCK))
		spin_unlock(&active.lock);
	if (mutated(MUTATE_INVALIDATE_TAKES_SLOTS))
		mutex_unlock(m->slots_lock);
}

void mem_forked(void)
{
	mutex_forked(&active.lock.m);
	mutex_forked(&filter.lock.m);
	active.list = NULL;
	atomic_store(&active.n, 0);
	/* The parent's slots are no slots of this process. */
	filter.slots = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(filter.bits); i++)
		atomic_store_explicit(&filter.bits[i], 0, memory_order_relaxed);
}
