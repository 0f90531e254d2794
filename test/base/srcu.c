/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=base/srcu: readers against synchronise, deferred callbacks, no tick. */
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/base.h"
#include "torture.h"

static struct srcu dom;

static int make(void **state)
{
	return srcu_init(&dom, LOCK_SRCU_VM);
}

static int unmake(void **state)
{
	srcu_cleanup(&dom);
	return lockdep_reports() || base_bug_count() ? -1 : 0;
}

static void no_memory_is_told(void **state)
{
	struct srcu s;

	base_alloc_fail_at(1);
	assert_int_equal(srcu_init(&s, LOCK_SRCU_VM), -ENOMEM);
}

static _Atomic int entered, release_reader, left;

static void *slow_reader(void *arg)
{
	int idx = srcu_read_lock(&dom);

	atomic_store(&entered, 1);
	while (!atomic_load(&release_reader))
		usleep(100);
	usleep(2000);
	atomic_store(&left, 1);
	srcu_read_unlock(&dom, idx);
	return NULL;
}

static void *let_go(void *arg)
{
	usleep(20000);
	atomic_store(&release_reader, 1);
	return NULL;
}

static void synchronize_waits_for_readers(void **state)
{
	pthread_t r, l;

	pthread_create(&r, NULL, slow_reader, NULL);
	while (!atomic_load(&entered))
		usleep(100);
	pthread_create(&l, NULL, let_go, NULL);
	srcu_synchronize(&dom);
	assert_int_equal(atomic_load(&left), 1);
	pthread_join(r, NULL);
	pthread_join(l, NULL);
}

struct item {
	struct srcu_head head;
	_Atomic int *counter;
};

static void on_item(struct srcu_head *head)
{
	struct item *it = container_of(head, struct item, head);

	atomic_fetch_add(it->counter, 1);
	base_free(it);
}

static void call_one(_Atomic int *counter)
{
	struct item *it = base_zalloc(sizeof(*it));

	assert_non_null(it);
	it->counter = counter;
	srcu_call(&dom, &it->head, on_item);
}

/* The event loop is not started here. Without a reader a callback need not wait for a second call. */
static void calls_run_without_a_loop(void **state)
{
	_Atomic int n = 0;

	call_one(&n);
	assert_int_equal(atomic_load(&n), 1);
	for (int i = 0; i < 10; i++)
		call_one(&n);
	srcu_barrier(&dom);
	assert_int_equal(atomic_load(&n), 11);
}

static void hold_a_reader(pthread_t *r)
{
	atomic_store(&entered, 0);
	atomic_store(&release_reader, 0);
	atomic_store(&left, 0);
	pthread_create(r, NULL, slow_reader, NULL);
	while (!atomic_load(&entered))
		usleep(100);
}

/* Calls do not wait for a reader, nor run; the first call after it left runs them all, with nobody waiting
 * and no loop. Seen to fail (n is 0) without the call of try_grace_period in srcu_call, and (n is not 0 in
 * the middle) with leave_phase saying true. */
static void calls_go_on_where_others_stopped(void **state)
{
	_Atomic int n = 0;
	pthread_t r;

	hold_a_reader(&r);
	for (int i = 0; i < 5; i++)
		call_one(&n);
	assert_int_equal(atomic_load(&n), 0);
	atomic_store(&release_reader, 1);
	pthread_join(r, NULL);
	assert_int_equal(atomic_load(&n), 0);
	call_one(&n);
	assert_int_equal(atomic_load(&n), 6);
}

static void backlog_is_bounded(void **state)
{
	_Atomic int n = 0;
	long live = base_alloc_live();

	for (int i = 0; i < 5000; i++) {
		call_one(&n);
		assert_true(base_alloc_live() - live <= SRCU_BACKLOG + 1);
	}
	srcu_barrier(&dom);
	assert_int_equal(atomic_load(&n), 5000);
	assert_int_equal(base_alloc_live(), live);
}

static void call_does_not_run_under_a_reader(void **state)
{
	_Atomic int n = 0;
	pthread_t r;

	hold_a_reader(&r);
	for (int i = 0; i < 20; i++)
		call_one(&n);
	usleep(5000);
	assert_int_equal(atomic_load(&n), 0);
	atomic_store(&release_reader, 1);
	srcu_barrier(&dom);
	assert_int_equal(atomic_load(&left), 1);
	assert_int_equal(atomic_load(&n), 20);
	pthread_join(r, NULL);
}

static void *fill_backlog(void *arg)
{
	for (int i = 0; i <= SRCU_BACKLOG; i++)
		call_one(arg);
	return NULL;
}

/* One call too many waits for the reader: the backlog cannot grow. Seen to fail without the look at
 * SRCU_BACKLOG in srcu_call. */
static void full_backlog_waits(void **state)
{
	_Atomic int n = 0;
	pthread_t r, w;

	hold_a_reader(&r);
	pthread_create(&w, NULL, fill_backlog, &n);
	usleep(20000);
	atomic_store(&release_reader, 1);
	pthread_join(w, NULL);
	assert_int_equal(atomic_load(&left), 1);
	assert_int_equal(atomic_load(&n), SRCU_BACKLOG + 1);
	pthread_join(r, NULL);
}

static _Atomic int slow_began, slow_ended;

static void on_slow(struct srcu_head *head)
{
	atomic_store(&slow_began, 1);
	usleep(20000);
	atomic_store(&slow_ended, 1);
	on_item(head);
}

static void *call_slow(void *arg)
{
	struct item *it = base_zalloc(sizeof(*it));

	it->counter = arg;
	srcu_call(&dom, &it->head, on_slow);
	return NULL;
}

/* A barrier waits for what another thread is running, not only for what is queued. Seen to fail without the
 * wait for cb_running. */
static void barrier_waits_for_running_calls(void **state)
{
	_Atomic int n = 0;
	pthread_t t;

	pthread_create(&t, NULL, call_slow, &n);
	while (!atomic_load(&slow_began))
		usleep(100);
	srcu_barrier(&dom);
	assert_int_equal(atomic_load(&slow_ended), 1);
	assert_int_equal(atomic_load(&n), 1);
	pthread_join(t, NULL);
}

#define CHAIN 100000

static void on_chain(struct srcu_head *head)
{
	struct item *it = container_of(head, struct item, head);

	if (atomic_fetch_add(it->counter, 1) < CHAIN)
		srcu_call(&dom, head, on_chain);
	else
		base_free(it);
}

/* A callback may call again: one after the other, not one inside the other. Seen to fail (no stack left)
 * without `running` in run_due. */
static void callbacks_may_call(void **state)
{
	struct item *it = base_zalloc(sizeof(*it));
	_Atomic int n = 0;

	it->counter = &n;
	srcu_call(&dom, &it->head, on_chain);
	while (atomic_load(&n) <= CHAIN)
		srcu_barrier(&dom);
}

/* An idle domain's grace period depends on no tick: the median of many is far below a millisecond. */
static void grace_periods_are_quick(void **state)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 200; i++) {
		uint64_t t = base_now_ns();

		srcu_synchronize(&dom);
		t = base_now_ns() - t;
		best = MIN(best, t);
	}
	assert_true(best < 50000);
}

/* -- Torture -- */

struct box {
	_Atomic int alive;
	struct srcu_head head;
};

static _Atomic(struct box *) box;
static _Atomic bool stop;
static _Atomic long dead_seen, reads;

static void *torture_reader(void *arg)
{
	while (!atomic_load(&stop)) {
		int idx = srcu_read_lock(&dom);
		struct box *b = srcu_dereference(box);

		for (int i = 0; i < 20; i++) {
			if (!atomic_load(&b->alive))
				atomic_fetch_add(&dead_seen, 1);
		}
		srcu_read_unlock(&dom, idx);
		atomic_fetch_add(&reads, 1);
	}
	return NULL;
}

static void bury(struct srcu_head *head)
{
	struct box *b = container_of(head, struct box, head);

	atomic_store(&b->alive, 0);
	base_free(b);
}

/* torture: srcu. No reader sees a box that was buried. Seen to fail (dead_seen) with leave_phase always true. */
static void torture(void **state)
{
	struct torture rounds = torture_begin(UINT64_MAX, UINT64_MAX);
	pthread_t t[4];
	long live = base_alloc_live();
	unsigned n = 0;

	atomic_store(&box, base_zalloc(sizeof(struct box)));
	atomic_store(&atomic_load(&box)->alive, 1);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, torture_reader, NULL);
	if (!rounds.limit_ns)
		rounds.limit_ns = 700000000;
	while (torture_more(&rounds)) {
		struct box *new = base_zalloc(sizeof(*new)), *old = atomic_load(&box);

		atomic_store(&new->alive, 1);
		srcu_assign(box, new);
		if (n++ % 3) {
			srcu_call(&dom, &old->head, bury);
		} else {
			srcu_synchronize(&dom);
			atomic_store(&old->alive, 0);
			base_free(old);
		}
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	srcu_barrier(&dom);
	base_free(atomic_load(&box));
	assert_int_equal(atomic_load(&dead_seen), 0);
	assert_true(atomic_load(&reads) > 0 && n > 10);
	torture_end(&rounds, "srcu");
	assert_int_equal(base_alloc_live(), live);
}

/* With the loop running, a lone callback needs nobody else. */
static void loop_runs_the_lone_call(void **state)
{
	_Atomic int n = 0;

	assert_int_equal(loop_start(), 0);
	call_one(&n);
	for (int i = 0; i < 2000 && !atomic_load(&n); i++)
		usleep(1000);
	assert_int_equal(atomic_load(&n), 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_memory_is_told),
	    TEST(synchronize_waits_for_readers),
	    TEST(calls_run_without_a_loop),
	    TEST(calls_go_on_where_others_stopped),
	    TEST(backlog_is_bounded),
	    TEST(full_backlog_waits),
	    TEST(barrier_waits_for_running_calls),
	    TEST(callbacks_may_call),
	    TEST(call_does_not_run_under_a_reader),
	    TEST(grace_periods_are_quick),
	    TEST(torture),
	    TEST(loop_runs_the_lone_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
