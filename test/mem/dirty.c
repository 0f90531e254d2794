/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=mem/dirty: dirty logs, refusals first; then nothing is lost under fire. */
#include "mem/slot.h"
#include "mem_test.h"

#define LOG	   KVM_MEM_LOG_DIRTY_PAGES
#define PAGES	   200 /* not a multiple of 64 */
#define WORDS	   ((PAGES + 63) / 64)
#define BASE	   0x100000UL
#define VCPU_PAGES 180 /* the rest is the device's alone, so that nobody else marks its pages */

static uint8_t *pool;
static uint64_t bitmap[WORDS];

static int make_pool(void **state)
{
	pool = ram(PAGES);
	return base_sig_enable();
}

static void logged(struct world *w)
{
	assert_int_equal(set_region(w, 3, LOG, BASE, PAGES * PAGE_SIZE, pool), 0);
}

/* A vCPU's write fault. */
static struct mem_page touch(struct world *w, unsigned page, bool write)
{
	struct mem_page p = {0};

	assert_int_equal(mem_fill(w->mem, 0, BASE + page * PAGE_SIZE, write, &p), MEM_FIXED);
	return p;
}

static bool dirty(unsigned page)
{
	return bitmap[page / 64] >> (page % 64) & 1;
}

static unsigned count(void)
{
	unsigned n = 0;

	for (int i = 0; i < WORDS; i++)
		n += (unsigned)__builtin_popcountll(bitmap[i]);
	return n;
}

/* Seen to fail without range_ok. */
static void bad_requests_are_refused(void **state)
{
	struct world *w = *state;

	assert_int_equal(get_log(w, 3, bitmap), -ENOENT);
	assert_int_equal(get_log(w, 2U << 16, bitmap), -EINVAL);
	assert_int_equal(get_log(w, MEM_USER_SLOTS, bitmap), -EINVAL);
	assert_int_equal(clear_log(w, 3, 0, 64, bitmap), -ENOENT);
	assert_int_equal(clear_log(w, 2U << 16, 0, 64, bitmap), -EINVAL);
	assert_int_equal(clear_log(w, 3, 1, 64, bitmap), -EINVAL);
	assert_int_equal(set_region(w, 3, 0, BASE, PAGES * PAGE_SIZE, pool), 0);
	assert_int_equal(get_log(w, 3, bitmap), -ENOENT); /* there, but not logged */
	logged(w);
	assert_int_equal(get_log(w, 3, NULL), -EFAULT);
	assert_int_equal(clear_log(w, 3, 0, 64, NULL), -EFAULT);
	assert_int_equal(clear_log(w, 3, 0, 63, bitmap), -EINVAL);
	assert_int_equal(clear_log(w, 3, 256, 0, bitmap), -EINVAL);
	assert_int_equal(clear_log(w, 3, 128, PAGES - 127, bitmap), -EINVAL);
	assert_int_equal(clear_log(w, 3, 128, PAGES - 128, bitmap), 0);
	assert_int_equal(clear_log(w, 3, 0, PAGES, bitmap), 0);
	assert_int_equal(mem_set_manual_protect(w->mem, 2), -EINVAL);
	assert_int_equal(mem_set_manual_protect(w->mem, 4), -EINVAL);
	assert_int_equal(mem_manual_protect(w->mem), 0);
}

/* Seen to fail with the revocation left out of take_snapshot. */
static void writes_and_only_writes_are_logged(void **state)
{
	struct world *w = *state;
	uint64_t v = 0;

	logged(w);
	assert_false(touch(w, 1, false).writable);
	assert_true(touch(w, 2, true).writable);
	assert_true(touch(w, 2, false).writable); /* dirty already: nothing more to mark */
	assert_int_equal(mem_write(w->mem, 0, BASE + 66 * PAGE_SIZE - 4, &v, sizeof(v)), 0);
	assert_int_equal(mem_read(w->mem, 0, BASE + 70 * PAGE_SIZE, &v, sizeof(v)), 0);
	v = 1;
	assert_int_equal(mem_cmpxchg(w->mem, 0, BASE + 80 * PAGE_SIZE, 8, &v, 5), 0); /* fails: 0 there */
	assert_true(v != 1);
	assert_int_equal(mem_cmpxchg(w->mem, 0, BASE + 81 * PAGE_SIZE, 8, &v, v), 0);
	touch(w, PAGES - 1, true);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 5);
	assert_true(dirty(2) && dirty(65) && dirty(66) && dirty(81) && dirty(PAGES - 1));
	assert_int_equal(w->flushes, 1);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 0);
	assert_int_equal(w->flushes, 1); /* nobody had anything to take away */
	assert_false(touch(w, 2, false).writable);
	assert_true(touch(w, 2, true).writable);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 1);
	assert_int_equal(w->flushes, 2);
}

/* Seen to fail without return_snapshot. */
static void a_snapshot_that_faults_is_not_lost(void **state)
{
	struct world *w = *state;

	logged(w);
	touch(w, 5, true);
	assert_int_equal(get_log(w, 3, (void *)8), -EFAULT);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_true(dirty(5));
}

/* Seen to fail without a new generation and a flush in commit_flags. */
static void switching_on_takes_the_right_to_write(void **state)
{
	struct world *w = *state;

	assert_int_equal(set_region(w, 3, 0, BASE, PAGES * PAGE_SIZE, pool), 0);
	assert_true(touch(w, 1, false).writable); /* not logged: anybody may */
	logged(w);
	assert_int_equal(w->flushes, 1);
	assert_false(touch(w, 1, false).writable);
	touch(w, 9, true);
	assert_int_equal(set_region(w, 3, 0, BASE, PAGES * PAGE_SIZE, pool), 0);
	assert_true(touch(w, 1, false).writable);
	assert_int_equal(get_log(w, 3, bitmap), -ENOENT);
	logged(w);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 0); /* a new log */
}

/* Seen to fail with the log not moved by commit. */
static void moving_keeps_the_log(void **state)
{
	struct world *w = *state;

	logged(w);
	touch(w, 17, true);
	assert_int_equal(set_region(w, 3, LOG, 4 * BASE, PAGES * PAGE_SIZE, pool), 0);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 1);
	assert_true(dirty(17));
}

/* Seen to fail with the revocation left out of mem_clear_dirty_log. */
static void manual_protect_clears_on_demand(void **state)
{
	struct world *w = *state;
	uint64_t want[WORDS] = {0};

	assert_int_equal(mem_set_manual_protect(w->mem, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), 0);
	logged(w);
	touch(w, 3, true);
	touch(w, 70, true);
	touch(w, 199, true);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 3);
	assert_int_equal(get_log(w, 3, bitmap), 0); /* still */
	assert_int_equal(count(), 3);
	assert_int_equal(w->flushes, 0);
	assert_true(touch(w, 3, false).writable);
	want[0] = UINT64_MAX; /* the word of page 64 on */
	assert_int_equal(clear_log(w, 3, 64, 64, want), 0);
	assert_int_equal(w->flushes, 1);
	assert_false(touch(w, 70, false).writable);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 2);
	assert_int_equal(clear_log(w, 3, 64, 64, want), 0); /* nothing set there: no flush */
	assert_int_equal(w->flushes, 1);
	memset(want, 0xff, sizeof(want)); /* bits behind the end are ignored */
	assert_int_equal(clear_log(w, 3, 0, PAGES, want), 0);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), 0);
}

/* Seen to fail with the last word full in slot_log_create. */
static void logs_may_begin_full(void **state)
{
	struct world *w = *state;

	assert_int_equal(
	    mem_set_manual_protect(w->mem, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET),
	    0);
	logged(w);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_int_equal(count(), PAGES); /* and no bit behind the end */
	assert_true(touch(w, 9, false).writable);
}

static void address_spaces_have_their_own_logs(void **state)
{
	struct world *w = *state;
	struct mem_page p;

	logged(w);
	assert_int_equal(set_region(w, 3 | 1 << 16, LOG, BASE, PAGES * PAGE_SIZE, pool), 0);
	touch(w, 1, true);
	assert_int_equal(mem_fill(w->mem, 1, BASE + 2 * PAGE_SIZE, true, &p), MEM_FIXED);
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_true(dirty(1) && count() == 1);
	assert_int_equal(get_log(w, 3 | 1 << 16, bitmap), 0);
	assert_true(dirty(2) && count() == 1);
}

/* -- The orders that fill.c names, each with the other side run between its two steps -- */

#define MET 7U /* the page they meet at */

static struct world *met_world;
static struct mem_page met;
static unsigned met_flushes; /* when the page was handed out */
static bool met_write, met_done, met_manual;

static void *collect_once(void *arg)
{
	struct world *w = arg;

	base_bug_on(get_log(w, 3, bitmap));
	if (met_manual)
		base_bug_on(clear_log(w, 3, 0, PAGES, bitmap));
	return NULL;
}

static void *hand_out(void *arg)
{
	struct world *w = arg;

	base_bug_on(mem_fill(w->mem, 0, BASE + MET * PAGE_SIZE, met_write, &met) != MEM_FIXED);
	met_flushes = w->flushes;
	return NULL;
}

/* As another thread would: a read section may not wait for the lock of the memslots. */
static void other_side(void *(*fn)(void *))
{
	pthread_t t;

	pthread_create(&t, NULL, fn, met_world);
	pthread_join(t, NULL);
}

static void collect_amid(struct slot *s, uint64_t rel)
{
	slot_grant_hook = NULL;
	other_side(collect_once);
}

/* The page as the other side finds it: clean; dirty and handed out; dirty while nobody may write to it, which is what
 * a collection amid a hand-out leaves. */
enum before { CLEAN, HELD, TAKEN, BEFORES };

static void before(struct world *w, enum before what)
{
	logged(w);
	if (what != CLEAN)
		touch(w, MET, true);
	slot_grant_hook = what == TAKEN ? collect_amid : NULL;
	if (what == TAKEN)
		touch(w, MET, true);
}

static void hand_out_amid(bool done)
{
	if (done != met_done)
		return;
	slot_revoke_hook = NULL;
	other_side(hand_out);
}

/* Who may write is told to ask again, or his page is in the log. */
static void assert_not_lost(struct world *w, unsigned flushes)
{
	assert_int_equal(get_log(w, 3, bitmap), 0);
	assert_true(!met.writable || flushes != w->flushes || dirty(MET));
	assert_true(!met_write || met.writable);
	if (met_manual)
		assert_int_equal(clear_log(w, 3, 0, PAGES, bitmap), 0);
	assert_int_equal(set_region(w, 3, 0, 0, 0, NULL), 0);
}

static void collect_by(struct world *w, bool manual)
{
	met_world = w;
	met_manual = manual;
	if (manual)
		assert_int_equal(mem_set_manual_protect(w->mem, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), 0);
}

/* The log is collected between a hand-out's look at the page and its end. Seen to fail with writable_now asked before
 * spte_add, and with what the first look at the log said believed to the end. */
static void a_collection_amid_a_hand_out(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < 4 * BEFORES; i++) {
		unsigned flushes;

		if (i % (2 * BEFORES) == 0)
			collect_by(w, i);
		met_write = i & 1;
		before(w, i / 2 % BEFORES);
		flushes = w->flushes;
		slot_grant_hook = collect_amid;
		hand_out(w);
		assert_null(slot_grant_hook);
		assert_not_lost(w, flushes);
	}
}

/* The page is handed out while the log is being collected: before the right to write is taken, or after it. Seen to
 * fail with the right taken before the bit, in take_snapshot and in mem_clear_dirty_log. */
static void a_hand_out_amid_a_collection(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < 4 * 2 * BEFORES; i++) {
		if (i % (4 * BEFORES) == 0)
			collect_by(w, i);
		met_write = i & 1;
		met_done = i & 2;
		before(w, i / 4 % BEFORES);
		if (i / 4 % BEFORES == CLEAN)
			touch(w, MET + 1, true); /* of the same word: there is something to collect */
		slot_revoke_hook = hand_out_amid;
		collect_once(w);
		assert_null(slot_revoke_hook);
		assert_not_lost(w, met_flushes);
	}
}

/* -- Under fire -- */

/*
 * Two threads write like vCPUs (through pages that mem_fill handed out, until a flush), one through
 * mem_write. The collector copies what the log says. When all have stopped and the log is collected once
 * more, the copy equals the memory: a lost mark would leave a page behind.
 */
struct vcpu {
	struct world *w;
	_Atomic uint32_t seq;	/* grows with every flush */
	pthread_mutex_t inside; /* held between the look at seq and the store */
	struct mem_page tlb[PAGES];
	uint32_t tlb_seq[PAGES];
	unsigned seed;
};

static struct vcpu vcpus[2];
static _Atomic bool stop;
static uint64_t copy[PAGES][PAGE_SIZE / 8];

/* The revocation: on return no vCPU uses what it got before. */
static void revoke_vcpus(struct world *w)
{
	for (int i = 0; i < 2; i++) {
		atomic_fetch_add(&vcpus[i].seq, 1);
		pthread_mutex_lock(&vcpus[i].inside);
		pthread_mutex_unlock(&vcpus[i].inside);
	}
}

/* Reads or writes one word as a vCPU does. */
static void vcpu_access(struct vcpu *v, unsigned page, unsigned word, bool write)
{
	for (;;) {
		uint32_t seq = atomic_load(&v->seq);
		bool done = false;

		if (v->tlb_seq[page] != seq || (write && !v->tlb[page].writable)) {
			if (mem_fill(v->w->mem, 0, BASE + page * PAGE_SIZE, write, &v->tlb[page]) !=
			    MEM_FIXED)
				continue;
			v->tlb_seq[page] = seq;
		}
		pthread_mutex_lock(&v->inside);
		if (atomic_load(&v->seq) == seq) {
			_Atomic uint64_t *p = (_Atomic uint64_t *)v->tlb[page].host + word;

			if (write)
				atomic_fetch_add(p, 1);
			else
				(void)atomic_load(p);
			done = true;
		}
		pthread_mutex_unlock(&v->inside);
		if (done)
			return;
	}
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;

	while (!atomic_load(&stop)) {
		unsigned r = (unsigned)rand_r(&v->seed);

		vcpu_access(v, r % VCPU_PAGES, r / VCPU_PAGES % 512, r & 0x1000000);
	}
	return NULL;
}

static void *device_main(void *arg)
{
	struct world *w = arg;
	unsigned seed = 99;

	for (uint64_t n = 0; !atomic_load(&stop); n++) {
		unsigned r = (unsigned)rand_r(&seed);

		mem_write(w->mem, 0,
			  BASE + (VCPU_PAGES + r % (PAGES - VCPU_PAGES)) * PAGE_SIZE + r / PAGES % 512 * 8,
			  &n, 8);
	}
	return NULL;
}

/* Collects the log once, in the way that the mode asks for, and copies what it names. */
static void collect(struct world *w, bool manual)
{
	assert_int_equal(get_log(w, 3, bitmap), 0);
	if (manual)
		assert_int_equal(clear_log(w, 3, 0, PAGES, bitmap), 0);
	for (unsigned page = 0; page < PAGES; page++) {
		_Atomic uint64_t *from = (_Atomic uint64_t *)(pool + page * PAGE_SIZE);

		for (unsigned i = 0; dirty(page) && i < 512; i++)
			copy[page][i] = atomic_load(&from[i]);
	}
}

static void migrate(struct world *w, bool manual)
{
	uint64_t end = base_now_ns() + 600000000;
	pthread_t t[3];

	memset(pool, 0, PAGES * PAGE_SIZE);
	memset(copy, 0, sizeof(copy));
	atomic_store(&stop, false);
	if (manual)
		assert_int_equal(mem_set_manual_protect(w->mem, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), 0);
	logged(w);
	for (unsigned i = 0; i < 2; i++) {
		memset(&vcpus[i], 0, sizeof(vcpus[i]));
		vcpus[i].w = w;
		vcpus[i].seed = i;
		atomic_store(&vcpus[i].seq, 1);
		pthread_mutex_init(&vcpus[i].inside, NULL);
	}
	w->on_flush = revoke_vcpus;
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, vcpu_main, &vcpus[i]);
	pthread_create(&t[2], NULL, device_main, w);
	/* A sanitizer on a busy machine may need longer to see some flushes. */
	while (base_now_ns() < end || (w->flushes <= 10 && base_now_ns() < end + 20000000000))
		collect(w, manual);
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	collect(w, manual);
	assert_memory_equal(copy, pool, sizeof(copy));
	assert_true(w->flushes > 10);
	w->on_flush = NULL;
}

/* Seen to fail with the revocation left out of take_snapshot. */
static void nothing_is_lost(void **state)
{
	migrate(*state, false);
}

/* Seen to fail with the revocation left out of mem_clear_dirty_log. */
static void nothing_is_lost_with_manual_protect(void **state)
{
	migrate(*state, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(bad_requests_are_refused),
	    TEST(writes_and_only_writes_are_logged),
	    TEST(a_snapshot_that_faults_is_not_lost),
	    TEST(switching_on_takes_the_right_to_write),
	    TEST(moving_keeps_the_log),
	    TEST(manual_protect_clears_on_demand),
	    TEST(logs_may_begin_full),
	    TEST(address_spaces_have_their_own_logs),
	    TEST(a_collection_amid_a_hand_out),
	    TEST(a_hand_out_amid_a_collection),
	    TEST(nothing_is_lost),
	    TEST(nothing_is_lost_with_manual_protect),
	};

	return cmocka_run_group_tests(tests, make_pool, NULL);
}
