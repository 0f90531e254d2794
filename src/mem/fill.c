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
 *
 * Who counts on a page's being tracked raises its count and flushes; a hand-out looks at the count behind
 * the beginning of its read section. So after the flush every vCPU asks before each write to the page.
 */
#include "base/mutate.h"
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

/* Marks page `rel` dirty. With rings, who marks it enters it; what finds no room stays unmarked, so that the
 * next writer tries again. */
static void log_set(struct mem *m, struct slot *s, _Atomic uint64_t *log, uint64_t rel)
{
	uint64_t bit = BIT(rel % 64);

	if (log_test(log, rel) || (atomic_fetch_or(&log[rel / 64], bit) & bit))
		return;
	if (m->ring_bytes && !ring_push(m, s, rel))
		atomic_fetch_and(&log[rel / 64], ~bit);
}

#ifdef USERKVM_CHECKED
void (*slot_grant_hook)(struct slot *s, uint64_t rel);
#define GRANT_HOOK(s, rel)                       \
	do {                                     \
		if (unlikely(slot_grant_hook))   \
			slot_grant_hook(s, rel); \
	} while (0)
#else
#define GRANT_HOOK(s, rel) \
	do {               \
	} while (0)
#endif

/*
 * Adds flags to an spte, in this generation of the slot: the fast path of a write fault. The generation is
 * part of what is compared and is read again for each try, so an entry of an earlier life is neither taken
 * for this one's nor written over this one's.
 */
static uint64_t spte_add(struct slot *s, _Atomic uint64_t *spte, uint64_t rel, uint64_t flags)
{
	uint64_t old, new;
	uint32_t gen;

	do {
		gen = atomic_load(&s->gen);
		old = atomic_load(spte);
		GRANT_HOOK(s, rel);
		new = (spte_current(old, gen) ? old : (uint64_t)gen << SPTE_GEN_SHIFT) | flags;
	} while ((new != old && !atomic_compare_exchange_strong(spte, &old, new)) ||
		 unlikely(atomic_load(&s->gen) != gen));
	return new;
}

/* What a page that has SPTE_WRITE may be written through, after a look at the log. */
static bool writable_now(struct mem *m, struct slot *s, uint64_t rel, bool write, _Atomic uint64_t *log)
{
	if (!log)
		return true;
	if (write) {
		log_set(m, s, log, rel);
		return true;
	}
	return log_test(log, rel);
}

enum mem_fill_result slot_grant(struct mem *m, struct slot *s, uint64_t rel, bool write,
				struct mem_page *page)
{
	_Atomic uint64_t *log = atomic_load(&s->log), *sptes = slot_sptes(m, s);
	uint64_t flags = SPTE_PRESENT | SPTE_ACCESSED, spte;
	bool tracked;

	if (!sptes)
		return MEM_NOMEM;
	if (!atomic_load_explicit(&s->used, memory_order_relaxed))
		atomic_store(&s->used, true);
	tracked = slot_tracked(s, rel);
	if (!s->readonly && (write || (!tracked && (!log || log_test(log, rel)))))
		flags |= SPTE_WRITE | SPTE_DIRTY;
	spte = spte_add(s, &sptes[rel], rel, flags);
	page->writable =
	    !s->readonly && (write || !tracked) && (spte & SPTE_WRITE) && writable_now(m, s, rel, write, log);
	page->tracked = tracked;
	return MEM_FIXED;
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
	if (mem_invalidating((uint64_t)page->host))
		return MEM_RETRY;
	if (write && m->ring_bytes && atomic_load(&s->log) && !ring_has_room(m))
		return MEM_FULL;
	return slot_grant(m, s, rel, write, page);
}

enum mem_fill_result mem_fill(struct mem *m, unsigned as, uint64_t gpa, bool write, struct mem_page *page)
{
	int idx = srcu_read_lock(m->srcu);
	enum mem_fill_result r;

	if (mutated(MUTATE_SLOTS_IN_SRCU))
		mutex_lock(m->slots_lock);
	r = fill(m, as, gpa >> PAGE_SHIFT, write, page);
	if (mutated(MUTATE_SLOTS_IN_SRCU))
		mutex_unlock(m->slots_lock);
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

/* -- Aging -- */

/* Test-and-clear of one page: bits of MEM_AGE_. */
static uint8_t age_page(struct slot *s, uint64_t rel)
{
	_Atomic uint64_t *spte = slot_spte(s, rel);
	uint64_t old = spte ? atomic_load(spte) : 0;

	if (!spte_current(old, atomic_load(&s->gen)) || !(old & (SPTE_ACCESSED | SPTE_DIRTY)))
		return 0;
	old = atomic_fetch_and(spte, ~(SPTE_ACCESSED | SPTE_DIRTY));
	return (old & SPTE_ACCESSED ? MEM_AGE_ACCESSED : 0) | (old & SPTE_DIRTY ? MEM_AGE_DIRTY : 0);
}

/* Ages the pages of one slot from gfn, at most n; the number of pages passed over. */
static uint64_t age_piece(struct mem *m, unsigned as, uint64_t gfn, uint64_t n, uint8_t *young, bool *any)
{
	struct slot *s = slot_find(m, as, gfn);

	*young = 0;
	if (!s || atomic_load(&s->invalid))
		return 1;
	n = MIN(n, s->base_gfn + s->npages - gfn);
	for (uint64_t i = 0; i < n; i++) {
		young[i] = age_page(s, gfn - s->base_gfn + i);
		*any |= young[i];
	}
	return n;
}

void mem_age(struct mem *m, unsigned as, uint64_t gfn, uint64_t n, uint8_t *young)
{
	int idx = srcu_read_lock(m->srcu);
	bool any = false;

	for (uint64_t done = 0; done < n;)
		done += age_piece(m, as, gfn + done, n - done, young + done, &any);
	srcu_read_unlock(m->srcu, idx);
	/* vCPUs that hold a pointer would not ask again. */
	if (any)
		mem_revoke(m);
}
