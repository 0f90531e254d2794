/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The structure behind memslots: two sets of one content, data attached to slots by vCPUs on their way, entries that
 * name their slot's life, ages. make check T=mem/sets
 */
#include "mem/slot.h"
#include "mem_test.h"
#include "torture.h"

#define LOG   KVM_MEM_LOG_DIRTY_PAGES
#define PAGES 256
#define BASE  0x100000UL
#define SIZE  (PAGES * PAGE_SIZE)

static uint8_t *pool;

static int make_pool(void **state)
{
	pool = ram(1024);
	return base_sig_enable();
}

/* -- Two sets (D1) -- */

/* Every range of one to three pages in and around the pool, as the array has it. */
static void assert_found_by_hva(const struct slot_set *set)
{
	for (int64_t k = -4; k < 70 * 3; k++) {
		uint64_t lo = (uint64_t)pool + (uint64_t)(k / 3) * PAGE_SIZE;
		uint64_t hi = lo + (uint64_t)(1 + (k + 4) % 3) * PAGE_SIZE;
		bool found = false;

		for (unsigned i = 0; i < set->n; i++) {
			uint64_t from = (uint64_t)set->slots[i]->hva;

			found |= from < hi && from + (set->slots[i]->npages << PAGE_SHIFT) > lo;
		}
		assert_int_equal(slot_set_shows(set, lo, hi), found);
	}
}

static void assert_sets_equal(struct world *w)
{
	for (unsigned as = 0; as < MEM_ADDRESS_SPACES; as++) {
		struct slot_set *a = atomic_load(&w->mem->active[as]), *b = w->mem->inactive[as];

		assert_ptr_not_equal(a, b);
		assert_int_equal(a->n, b->n);
		assert_int_equal(a->capacity, b->capacity);
		assert_memory_equal(a->slots, b->slots, a->n * sizeof(a->slots[0]));
		for (unsigned i = 0; i < a->n; i++) {
			struct slot *s = a->slots[i];

			assert_false(atomic_load(&s->invalid));
			if (i)
				assert_true(a->slots[i - 1]->base_gfn + a->slots[i - 1]->npages <=
					    s->base_gfn);
		}
		assert_found_by_hva(a);
		assert_found_by_hva(b);
	}
}

/* After any update both sets of each address space hold the same slots in order, and find them by host address, where
 * they overlap. Seen to fail without the second slot_set_edit in publish, without slot_hva_remove, without with_max in
 * take_out, and with slot_set_shows going left only. */
static void both_sets_have_one_content(void **state)
{
	struct world *w = *state;
	uint32_t seed = 1;

	for (unsigned i = 0; i < 4000; i++) {
		uint32_t id, as, place;

		seed = seed * 1103515245 + 12345;
		id = seed >> 8 & 63;
		as = seed >> 14 & 1;
		place = seed >> 16 & 127;
		/* Creates, moves, deletes, flips flags, and is refused, as it comes. */
		set_region(w, id | as << 16, seed >> 24 & 1, (uint64_t)place << PAGE_SHIFT,
			   seed >> 25 & 3 ? (1 + (seed >> 27 & 3) / 3 * (seed >> 29 & 3)) * PAGE_SIZE : 0,
			   pool + id * PAGE_SIZE);
		if (i % 16 == 0)
			assert_sets_equal(w);
	}
	assert_true(atomic_load(&w->mem->active[0])->n > 16);
	assert_true(atomic_load(&w->mem->active[0])->capacity > 16);
}

/* While an update is under way a reader's set stays as it was: the one it found, whole.
 * Seen to fail with publish's two sets exchanged, so that the edit is made in the active one. */
static void a_readers_set_does_not_change(void **state)
{
	struct world *w = *state;
	struct slot_set *set;
	int idx;

	assert_int_equal(set_region(w, 1, 0, BASE, SIZE, pool), 0);
	idx = srcu_read_lock(&w->srcu);
	set = atomic_load(&w->mem->active[0]);
	assert_int_equal(set->n, 1);
	srcu_read_unlock(&w->srcu, idx);
	assert_int_equal(set_region(w, 2, 0, 2 * BASE, SIZE, pool), 0);
	assert_ptr_not_equal(atomic_load(&w->mem->active[0]), set);
	assert_ptr_equal(w->mem->inactive[0], set);
}

/* -- Data attached by vCPUs (D2) -- */

/* Seen to fail with the generation ignored by spte_current, and without carry_arch. */
static void nothing_is_attached_before_it_is_needed(void **state)
{
	struct world *w = *state;
	struct slot *s, *moved;
	uint8_t young[2];
	struct mem_page p;
	long live;

	assert_int_equal(set_region(w, 1, 0, BASE, SIZE, pool), 0);
	mutex_lock(&w->slots_lock);
	assert_int_equal(slot_by_id(w->mem, 1, &s), 0);
	mutex_unlock(&w->slots_lock);
	assert_null(slot_spte(s, 0));
	live = base_alloc_live();
	base_alloc_fail_at(1);
	assert_int_equal(mem_fill(w->mem, 0, BASE, true, &p), MEM_NOMEM);
	base_alloc_fail_at(0);
	assert_int_equal(base_alloc_live(), live);
	assert_int_equal(mem_fill(w->mem, 0, BASE, true, &p), MEM_FIXED);
	assert_int_equal(mem_fill(w->mem, 0, BASE + PAGE_SIZE, false, &p), MEM_FIXED);
	assert_int_equal(base_alloc_live(), live + 1);
	/* What was attached goes with a slot that moves; not one entry is valid there. */
	assert_int_equal(set_region(w, 1, 0, 4 * BASE, SIZE, pool), 0);
	mutex_lock(&w->slots_lock);
	assert_int_equal(slot_by_id(w->mem, 1, &moved), 0);
	mutex_unlock(&w->slots_lock);
	assert_int_equal(base_alloc_live(), live + 1);
	assert_non_null(slot_spte(moved, 0));
	assert_true(atomic_load(slot_spte(moved, 0)) >> SPTE_GEN_SHIFT != atomic_load(&moved->gen));
	mem_age(w->mem, 0, 4 * BASE >> PAGE_SHIFT, 2, young);
	assert_int_equal(young[0] | young[1], 0);
}

static _Atomic bool stop;
static _Atomic uint64_t filled, wrong;

/* Large, so that making its sptes takes a while; its memory is never touched. */
#define BIG_PAGES 65536UL
#define BIG_AT	  (1UL << 32) /* where it moves to */
#define BIG_HVA	  ((uint8_t *)0x100000000000)

/* A vCPU: fills all over the slot, whatever is being done to it. */
static void *filler(void *arg)
{
	struct world *w = arg;
	uint64_t n = 0;

	while (!atomic_load(&stop)) {
		uint64_t rel = n++ * 7 % BIG_PAGES;
		struct mem_page p;
		enum mem_fill_result r = mem_fill(w->mem, 0, BASE + rel * PAGE_SIZE, n & 1, &p);

		if (r == MEM_FIXED) {
			atomic_fetch_add(&filled, 1);
			if (p.host != BIG_HVA + rel * PAGE_SIZE || ((n & 1) && !p.writable))
				atomic_fetch_add(&wrong, 1);
		} else if (r != MEM_RETRY && r != MEM_MMIO) {
			atomic_fetch_add(&wrong, 1);
		}
		if (n % 16 == 0)
			sched_yield();
	}
	return NULL;
}

struct first {
	struct world *w;
	uint64_t rel;
	_Atomic unsigned *started;
};

static void *fill_once(void *arg)
{
	struct first *f = arg;
	struct mem_page p;

	atomic_fetch_add(f->started, 1);
	base_bug_on(mem_fill(f->w->mem, 0, BASE + f->rel * PAGE_SIZE, true, &p) != MEM_FIXED);
	return NULL;
}

/* Eight vCPUs find that nothing is attached yet, all before the first attaches: one array, and nobody's page is
 * lost. Seen to fail without the second look in slot_sptes, and without slots_arch_lock there. */
static void eight_first_fills_attach_one_array(void **state)
{
	struct world *w = *state;
	_Atomic unsigned started = 0;
	struct first f[8];
	pthread_t thread[8];
	struct slot *s;
	long live;

	assert_int_equal(set_region(w, 1, 0, BASE, SIZE, pool), 0);
	mutex_lock(&w->slots_lock);
	assert_int_equal(slot_by_id(w->mem, 1, &s), 0);
	mutex_unlock(&w->slots_lock);
	live = base_alloc_live();
	mutex_lock(&w->mem->slots_arch_lock);
	for (unsigned i = 0; i < 8; i++) {
		f[i] = (struct first){.w = w, .rel = i * 9, .started = &started};
		pthread_create(&thread[i], NULL, fill_once, &f[i]);
	}
	while (atomic_load(&started) < 8)
		sched_yield();
	usleep(20000);
	assert_null(slot_spte(s, 0));
	mutex_unlock(&w->mem->slots_arch_lock);
	for (unsigned i = 0; i < 8; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(base_alloc_live(), live + 1);
	for (unsigned i = 0; i < 8; i++)
		assert_true(atomic_load(slot_spte(s, f[i].rel)) & SPTE_WRITE);
}

/* Eight vCPUs fill a slot for the first time while its flags flip, it moves and goes: nothing that is attached
 * meanwhile is lost (the teardown counts allocations). torture: attached sptes
 * Seen to fail with slots_arch_lock held across the grace period in publish (the checker's report; a deadlock soon
 * after). */
static void sptes_are_attached_once(void **state)
{
	struct world *w = *state;
	struct torture t = torture_begin(300, 1000000);
	pthread_t thread[8];

	atomic_store(&stop, false);
	atomic_store(&wrong, 0);
	for (int i = 0; i < 8; i++)
		pthread_create(&thread[i], NULL, filler, w);
	while (torture_more(&t)) {
		uint64_t before = atomic_load(&filled);

		assert_int_equal(
		    set_region(w, 1, t.round & 1 ? LOG : 0, BASE, BIG_PAGES << PAGE_SHIFT, BIG_HVA), 0);
		assert_int_equal(
		    set_region(w, 1, t.round & 1 ? 0 : LOG, BASE, BIG_PAGES << PAGE_SHIFT, BIG_HVA), 0);
		while (atomic_load(&filled) == before)
			sched_yield();
		assert_int_equal(
		    set_region(w, 1, t.round & 1 ? LOG : 0, BASE, BIG_PAGES << PAGE_SHIFT, BIG_HVA), 0);
		assert_int_equal(set_region(w, 1, 0, BIG_AT, BIG_PAGES << PAGE_SHIFT, BIG_HVA), 0);
		assert_int_equal(set_region(w, 1, 0, 0, 0, NULL), 0);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 8; i++)
		pthread_join(thread[i], NULL);
	torture_end(&t, "attached sptes");
	assert_int_equal(atomic_load(&wrong), 0);
}

/* -- A fast write fault meets another life of its slot (D6) -- */

static struct world *hook_world;
static pthread_t deleter;
static _Atomic bool deleting, looking;

static void *delete_slot(void *arg)
{
	atomic_store(&deleting, true);
	base_bug_on(set_region(arg, 1, 0, 0, 0, NULL));
	return NULL;
}

/* Between the look at an entry and the compare-and-swap: the slot begins to go, and may not have gone. */
static void delete_meanwhile(struct slot *s, uint64_t rel)
{
	slot_grant_hook = NULL;
	atomic_store(&looking, true);
	pthread_create(&deleter, NULL, delete_slot, hook_world);
	while (!atomic_load(&deleting) || !atomic_load(&s->invalid))
		sched_yield();
	usleep(5000);
	atomic_store(&looking, false);
}

/* The deletion's revocation comes when nobody is about to be handed the slot's pages. */
static void nobody_looks(struct world *w)
{
	base_bug_on(atomic_load(&looking));
}

/* The slot that comes to the same gfn is neither marked nor granted by a fault that began in the one before.
 * Seen to fail without srcu_synchronize in invalidate_slot. */
static void a_late_fault_does_not_reach_the_next_slot(void **state)
{
	struct world *w = *state;
	uint64_t bitmap[PAGES / 64];
	struct mem_page old, p;

	assert_int_equal(set_region(w, 1, LOG, BASE, SIZE, pool), 0);
	assert_int_equal(mem_fill(w->mem, 0, BASE, false, &old), MEM_FIXED);
	hook_world = w;
	atomic_store(&deleting, false);
	w->on_flush = nobody_looks;
	slot_grant_hook = delete_meanwhile;
	assert_int_equal(mem_fill(w->mem, 0, BASE, true, &old), MEM_FIXED); /* until the deletion's flush */
	pthread_join(deleter, NULL);
	assert_int_equal(w->flushes, 1);
	assert_int_equal(set_region(w, 1, LOG, BASE, SIZE, pool + SIZE), 0);
	assert_int_equal(get_log(w, 1, bitmap), 0);
	assert_int_equal(bitmap[0], 0);
	assert_int_equal(mem_fill(w->mem, 0, BASE, false, &p), MEM_FIXED);
	assert_false(p.writable);
	assert_ptr_equal(p.host, pool + SIZE);
	assert_true(p.id != old.id);
}

/* As if the slot's next life had begun, and a vCPU of it had its page already: what forces the entry's content
 * to be the same but for the generation. */
static void live_again(struct slot *s, uint64_t rel)
{
	_Atomic uint64_t *spte = slot_spte(s, rel);

	slot_grant_hook = NULL;
	atomic_fetch_add(&s->gen, 1);
	atomic_store(spte, (uint64_t)atomic_load(&s->gen) << SPTE_GEN_SHIFT | SPTE_PRESENT | SPTE_ACCESSED);
}

/* Seen to fail with the generation read once, before the loop of spte_add, and not compared with the slot's behind
 * it: then the entry is written over with one of the old life, which this life takes for empty. (With the comparison
 * left in, the loop does not end.) */
static void an_entry_of_another_life_is_not_taken(void **state)
{
	struct world *w = *state;
	struct mem_page p;
	struct slot *s;
	uint64_t spte;

	assert_int_equal(set_region(w, 1, LOG, BASE, SIZE, pool), 0);
	assert_int_equal(mem_fill(w->mem, 0, BASE, false, &p), MEM_FIXED);
	slot_grant_hook = live_again;
	assert_int_equal(mem_fill(w->mem, 0, BASE, true, &p), MEM_FIXED);
	mutex_lock(&w->slots_lock);
	assert_int_equal(slot_by_id(w->mem, 1, &s), 0);
	mutex_unlock(&w->slots_lock);
	spte = atomic_load(slot_spte(s, 0));
	assert_int_equal(spte >> SPTE_GEN_SHIFT, atomic_load(&s->gen));
	assert_int_equal(spte & SPTE_FLAGS, SPTE_FLAGS);
	assert_true(p.writable);
}

/* -- Ages (D5, D7) -- */

/* Seen to fail without SPTE_ACCESSED in slot_grant, and without the flush in mem_age. */
static void pages_grow_old(void **state)
{
	struct world *w = *state;
	uint8_t young[8];
	struct mem_page p;
	char c = 0;

	mem_age(w->mem, 0, 0, 8, young); /* no slot at all */
	assert_int_equal(w->flushes, 0);
	assert_int_equal(set_region(w, 1, 0, 0x2000, 4 * PAGE_SIZE, pool), 0);
	assert_int_equal(set_region(w, 2, LOG, 0x6000, PAGE_SIZE, pool + SIZE), 0);
	mem_age(w->mem, 0, 0, 8, young);
	assert_memory_equal(young, "\0\0\0\0\0\0\0\0", 8);
	assert_int_equal(w->flushes, 0);
	assert_int_equal(mem_fill(w->mem, 0, 0x3000, true, &p), MEM_FIXED);
	assert_int_equal(mem_fill(w->mem, 0, 0x6000, false, &p), MEM_FIXED);
	assert_int_equal(mem_read(w->mem, 0, 0x5000, &c, 1), 0);
	mem_age(w->mem, 0, 0, 8, young);
	assert_int_equal(w->flushes, 1); /* so that who holds a pointer asks again */
	assert_int_equal(young[3], MEM_AGE_ACCESSED | MEM_AGE_DIRTY);
	assert_int_equal(young[6], MEM_AGE_ACCESSED);
	assert_true(young[5] & MEM_AGE_ACCESSED);
	assert_int_equal(young[2] | young[4] | young[7], 0);
	mem_age(w->mem, 0, 0, 8, young);
	assert_memory_equal(young, "\0\0\0\0\0\0\0\0", 8);
	assert_int_equal(w->flushes, 1);
	/* The right to write is not the age: the log still knows what it knew. */
	assert_int_equal(mem_fill(w->mem, 0, 0x6000, true, &p), MEM_FIXED);
	assert_int_equal(set_region(w, 2, 0, 0, 0, NULL), 0);
	mem_age(w->mem, 0, 0, 8, young);
	assert_int_equal(young[6], 0); /* gone with its slot */
}

static uint64_t collected[PAGES / 64];
static unsigned depth, nested;

/* The revocation of an aging has not begun: vCPUs hold what they held. */
static void collect_before_revocation(struct world *w)
{
	if (depth++)
		nested++;
	else
		base_bug_on(get_log(w, 1, collected));
	depth--;
}

/* Aging takes no right to write: who collects the log while an aging has not revoked yet still finds that somebody
 * may write, and revokes himself. Otherwise a vCPU would go on writing to a page that is taken for clean.
 * Seen to fail with SPTE_WRITE cleared by age_page. */
static void aging_hides_no_writer_from_the_log(void **state)
{
	struct world *w = *state;
	uint8_t young;
	struct mem_page p;

	assert_int_equal(set_region(w, 1, LOG, BASE, SIZE, pool), 0);
	assert_int_equal(mem_fill(w->mem, 0, BASE, true, &p), MEM_FIXED);
	nested = 0;
	w->on_flush = collect_before_revocation;
	mem_age(w->mem, 0, BASE >> PAGE_SHIFT, 1, &young);
	assert_int_equal(collected[0], 1);
	assert_int_equal(nested, 1);
	w->on_flush = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(both_sets_have_one_content),
	    TEST(a_readers_set_does_not_change),
	    TEST(nothing_is_attached_before_it_is_needed),
	    TEST(eight_first_fills_attach_one_array),
	    TEST(sptes_are_attached_once),
	    TEST(a_late_fault_does_not_reach_the_next_slot),
	    TEST(an_entry_of_another_life_is_not_taken),
	    TEST(pages_grow_old),
	    TEST(aging_hides_no_writer_from_the_log),
	};

	return cmocka_run_group_tests(tests, make_pool, NULL);
}
