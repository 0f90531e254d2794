/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What vCPUs are handed: pages, and the right to write to them.
 *
 * While a slot is logged, a page is handed out writable only after SPTE_WRITE was seen set in its spte and
 * then its bit was seen set in the bitmap, in that order; one who wants to write sets them in that order.
 * One who collects the log takes the bit first, then SPTE_WRITE, and flushes if he found it. So whoever
 * ends a page's being dirty either finds SPTE_WRITE and flushes, or somebody else took it, after the
 * hand-out saw it, and flushed. A flush undoes every hand-out that began before it, so no write is lost,
 * and where nothing was handed out writable nothing is flushed.
 */
#include "mem/slot.h"

/* True if an spte says something about this generation of the slot. */
static bool spte_current(uint64_t spte, uint32_t gen)
{
	return (spte & SPTE_PRESENT) && spte >> SPTE_GEN_SHIFT == gen;
}

/* True if page `rel` is dirty in a bitmap. */
static bool log_test(_Atomic uint64_t *log, uint64_t rel)
{
	return atomic_load(&log[rel / 64]) & BIT(rel % 64);
}

/* Marks page `rel` dirty. */
static void log_set(_Atomic uint64_t *log, uint64_t rel)
{
	if (!log_test(log, rel))
		atomic_fetch_or(&log[rel / 64], BIT(rel % 64));
}

void slot_mark_dirty(struct slot *s, uint64_t rel)
{
	_Atomic uint64_t *log = atomic_load(&s->log);

	if (log)
		log_set(log, rel);
}

bool slot_grant(struct slot *s, uint64_t rel, bool write)
{
	_Atomic uint64_t *log = atomic_load(&s->log);
	uint32_t gen = atomic_load(&s->gen);
	uint64_t old = atomic_load(&s->sptes[rel]), new;
	bool want = !s->readonly && (write || !log || log_test(log, rel));

	if (!atomic_load_explicit(&s->used, memory_order_relaxed))
		atomic_store(&s->used, true);
	do {
		new = spte_current(old, gen) ? old : (uint64_t)gen << SPTE_GEN_SHIFT;
		new |= SPTE_PRESENT | (want ? SPTE_WRITE : 0);
	} while (new != old && !atomic_compare_exchange_weak(&s->sptes[rel], &old, new));
	if (s->readonly || !(new &SPTE_WRITE))
		return false;
	if (!log)
		return true;
	if (write) {
		log_set(log, rel);
		return true;
	}
	return log_test(log, rel);
}

/* mem_fill inside the read section. */
static enum mem_fill_result fill(struct mem *m, unsigned as, uint64_t gfn, bool write, struct mem_page *page)
{
	struct slot *s = slot_find(m, as, gfn);
	uint64_t rel;

	if (!s) {
		if (!atomic_load_explicit(&m->absent_told, memory_order_relaxed))
			atomic_store(&m->absent_told, true);
		return MEM_MMIO;
	}
	if (atomic_load(&s->invalid))
		return MEM_RETRY;
	if (write && s->readonly) {
		atomic_store(&s->used, true);
		return MEM_READONLY;
	}
	rel = gfn - s->base_gfn;
	*page = (struct mem_page){.host = s->hva + (rel << PAGE_SHIFT), .id = s->uid << 31 | rel};
	if (mem_invalidating(m, (uint64_t)page->host))
		return MEM_RETRY;
	page->writable = slot_grant(s, rel, write);
	return MEM_FIXED;
}

enum mem_fill_result mem_fill(struct mem *m, unsigned as, uint64_t gpa, bool write, struct mem_page *page)
{
	int idx = srcu_read_lock(m->srcu);
	enum mem_fill_result r = fill(m, as, gpa >> PAGE_SHIFT, write, page);

	srcu_read_unlock(m->srcu, idx);
	return r;
}

bool mem_is_visible(struct mem *m, unsigned as, uint64_t gpa)
{
	int idx = srcu_read_lock(m->srcu);
	struct slot *s = slot_find(m, as, gpa >> PAGE_SHIFT);
	bool visible = s && !atomic_load(&s->invalid);

	srcu_read_unlock(m->srcu, idx);
	return visible;
}

/* -- Invalidation -- */

bool mem_invalidating(struct mem *m, uint64_t hva)
{
	bool hit;

	if (likely(!atomic_load(&m->invalidating)))
		return false;
	spin_lock(&m->invalidate_lock);
	hit = atomic_load(&m->invalidating) && hva < m->invalid_hi && hva + PAGE_SIZE > m->invalid_lo;
	spin_unlock(&m->invalidate_lock);
	return hit;
}

/* True if a slot of either address space lies in the host range. */
static bool touches_slot(struct mem *m, uint64_t lo, uint64_t hi)
{
	int idx = srcu_read_lock(m->srcu);
	bool hit = false;

	for (unsigned as = 0; as < MEM_ADDRESS_SPACES && !hit; as++) {
		struct slot_set *set = srcu_dereference(m->sets[as]);

		if (!set->n || lo >= set->hva_hi || hi <= set->hva_lo)
			continue;
		for (unsigned i = 0; i < set->n && !hit; i++) {
			uint64_t base = (uint64_t)set->slots[i]->hva;

			hit = lo < base + (set->slots[i]->npages << PAGE_SHIFT) && hi > base;
		}
	}
	srcu_read_unlock(m->srcu, idx);
	return hit;
}

bool mem_invalidate_begin(struct mem *m, uint64_t hva, uint64_t len)
{
	uint64_t hi = hva + len;

	if (!touches_slot(m, hva, hi))
		return false;
	spin_lock(&m->invalidate_lock);
	if (!atomic_load(&m->invalidating)) {
		m->invalid_lo = hva;
		m->invalid_hi = hi;
	} else {
		m->invalid_lo = MIN(m->invalid_lo, hva);
		m->invalid_hi = MAX(m->invalid_hi, hi);
	}
	atomic_fetch_add(&m->invalidating, 1);
	spin_unlock(&m->invalidate_lock);
	/* A fill that saw no invalidation began before this, and is undone by it. */
	m->port->flush(m->ctx);
	return true;
}

void mem_invalidate_end(struct mem *m)
{
	spin_lock(&m->invalidate_lock);
	base_bug_on(!atomic_load(&m->invalidating));
	atomic_fetch_sub(&m->invalidating, 1);
	spin_unlock(&m->invalidate_lock);
}
