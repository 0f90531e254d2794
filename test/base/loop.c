/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=base/loop: timers in order, cancel and delete wait, a forked child starts afresh. */
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/base.h"
#include "base/sys.h"

/* The forked child below makes a thread, which TSan allows only if told so. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

/* Waits up to 5 s for a condition. */
#define WAIT_FOR(cond)                                                    \
	do {                                                              \
		for (int wait_i = 0; wait_i < 50000 && !(cond); wait_i++) \
			usleep(100);                                      \
		assert_true(cond);                                        \
	} while (0)

static int start(void **state)
{
	return loop_start();
}

#define NTIMERS 200

static _Atomic int fired;
static int order[NTIMERS];

struct numbered {
	struct loop_timer t;
	int n;
};

static void note_order(void *arg)
{
	struct numbered *x = arg;
	int i = atomic_load(&fired);

	order[i] = x->n;
	atomic_store(&fired, i + 1);
}

static void timers_fire_in_order(void **state)
{
	static struct numbered x[NTIMERS];
	uint64_t now = base_now_ns() + 20000000;

	atomic_store(&fired, 0);
	for (int i = 0; i < NTIMERS; i++) {
		int n = i * 77 % NTIMERS; /* a permutation */

		x[i].n = n;
		loop_timer_init(&x[i].t, note_order, &x[i]);
		loop_timer_set(&x[i].t, now + (uint64_t)n * 10000);
	}
	/* Some are moved, to where they were, or taken out. */
	for (int i = 0; i < NTIMERS; i += 3)
		loop_timer_set(&x[i].t, now + (uint64_t)x[i].n * 10000);
	for (int i = 0; i < NTIMERS; i += 5)
		loop_timer_cancel(&x[i].t);
	assert_false(loop_timer_armed(&x[0].t));
	assert_true(loop_timer_armed(&x[1].t));
	WAIT_FOR(atomic_load(&fired) == NTIMERS - NTIMERS / 5);
	usleep(5000);
	assert_int_equal(atomic_load(&fired), NTIMERS - NTIMERS / 5);
	for (int i = 1; i < atomic_load(&fired); i++)
		assert_true(order[i - 1] < order[i]);
}

static void past_fires_at_once_and_earlier_wins(void **state)
{
	struct numbered a = {.n = 1}, b = {.n = 2};

	atomic_store(&fired, 0);
	loop_timer_init(&a.t, note_order, &a);
	loop_timer_init(&b.t, note_order, &b);
	loop_timer_set(&a.t, base_now_ns() + 3600ULL * 1000000000);
	loop_timer_set(&b.t, 0);
	WAIT_FOR(atomic_load(&fired) == 1);
	assert_int_equal(order[0], 2);
	loop_timer_set(&a.t, base_now_ns() + 1000000);
	WAIT_FOR(atomic_load(&fired) == 2);
}

static _Atomic int in_fn, out_fn;

static void slow(void *arg)
{
	atomic_store(&in_fn, 1);
	usleep(30000);
	atomic_store(&out_fn, 1);
}

/* Seen to fail with the running function not looked at in loop_timer_cancel. */
static void cancel_waits_for_a_running_callback(void **state)
{
	struct loop_timer t;

	loop_timer_init(&t, slow, NULL);
	loop_timer_set(&t, base_now_ns());
	WAIT_FOR(atomic_load(&in_fn));
	loop_timer_cancel(&t);
	assert_int_equal(atomic_load(&out_fn), 1);
}

static _Atomic int rearmed;

static void rearm(void *arg)
{
	atomic_fetch_add(&rearmed, 1);
	loop_timer_set(arg, base_now_ns());
}

static void rearm_slowly(void *arg)
{
	slow(arg);
	loop_timer_set(arg, base_now_ns() + 10000000000);
}

/* A timer that always arms itself again can be stopped, and does not starve calls. Seen to fail with loop_timer_cancel
 * looking once and not until nothing is left. */
static void cancel_beats_rearming(void **state)
{
	struct loop_timer t;
	int n;

	loop_timer_init(&t, rearm, &t);
	loop_timer_set(&t, base_now_ns());
	WAIT_FOR(atomic_load(&rearmed) > 100);
	atomic_store(&out_fn, 0);
	assert_int_equal(loop_call(slow, NULL), 0);
	WAIT_FOR(atomic_load(&out_fn));
	loop_timer_cancel(&t);
	n = atomic_load(&rearmed);
	usleep(2000);
	assert_int_equal(atomic_load(&rearmed), n);
	/* Cancelled in the midst of the function, which arms it after that. */
	loop_timer_init(&t, rearm_slowly, &t);
	atomic_store(&in_fn, 0);
	loop_timer_set(&t, base_now_ns());
	WAIT_FOR(atomic_load(&in_fn));
	loop_timer_cancel(&t);
	assert_false(loop_timer_armed(&t));
}

static void free_self(void *arg)
{
	assert_true(loop_is_self());
	base_free(arg);
	atomic_fetch_add(&fired, 1);
}

static void callback_may_free_its_timer(void **state)
{
	long live = base_alloc_live();

	atomic_store(&fired, 0);
	for (int i = 0; i < 100; i++) {
		struct loop_timer *t = base_zalloc(sizeof(*t));

		loop_timer_init(t, free_self, t);
		loop_timer_set(t, base_now_ns() + (uint64_t)i * 1000);
	}
	WAIT_FOR(atomic_load(&fired) == 100);
	assert_int_equal(base_alloc_live(), live);
	assert_false(loop_is_self());
}

static _Atomic uint64_t got;

static void on_event(void *arg, uint32_t events)
{
	struct loop_fd *f = arg;
	uint64_t v;

	if ((events & EPOLLIN) && read(f->fd, &v, sizeof(v)) == sizeof(v))
		atomic_fetch_add(&got, v);
}

static void on_event_slowly(void *arg, uint32_t events)
{
	on_event(arg, events);
	slow(arg);
}

/* Seen to fail without the wait in loop_fd_del. */
static void descriptors_are_watched_until_deleted(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK);
	struct loop_fd f = {.fd = e, .events = EPOLLIN, .fn = on_event, .arg = &f};
	struct loop_fd bad = {.fd = -1, .events = EPOLLIN, .fn = on_event, .arg = &bad};
	uint64_t one = 1;

	assert_int_equal(loop_fd_add(&bad), -EBADF);
	loop_fd_del(&bad);
	assert_int_equal(loop_fd_add(&f), 0);
	assert_int_equal(loop_fd_add(&f), -EEXIST);
	for (uint64_t i = 1; i <= 100; i++) {
		assert_int_equal(write(e, &one, sizeof(one)), sizeof(one));
		WAIT_FOR(atomic_load(&got) == i);
	}
	loop_fd_del(&f);
	loop_fd_del(&f);
	assert_int_equal(write(e, &one, sizeof(one)), sizeof(one));
	usleep(3000);
	assert_int_equal(atomic_load(&got), 100);
	f.fn = on_event_slowly;
	atomic_store(&in_fn, 0);
	assert_int_equal(loop_fd_add(&f), 0);
	WAIT_FOR(atomic_load(&in_fn));
	atomic_store(&out_fn, 0);
	loop_fd_del(&f);
	assert_int_equal(atomic_load(&out_fn), 1);
	close(e);
}

static void allocation_failure_is_told(void **state)
{
	base_alloc_fail_at(1);
	assert_int_equal(loop_call(slow, NULL), -ENOMEM);
}

static void bump(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

/* What a forked child does: no timer of the parent's fires, its own loop works. Seen to fail with a timer of any life
 * taken for queued. */
static int child(struct loop_timer *parents)
{
	static _Atomic int n;
	struct loop_timer t;

	if (loop_timer_armed(parents))
		return 1;
	loop_timer_cancel(parents); /* harmless */
	if (loop_start())
		return 2;
	loop_timer_init(&t, bump, &n);
	loop_timer_set(&t, base_now_ns() + 1000000);
	for (int i = 0; i < 5000 && !atomic_load(&n); i++)
		usleep(1000);
	if (atomic_load(&n) != 1)
		return 3;
	loop_timer_set(&t, base_now_ns() + 1000000);
	loop_timer_cancel(&t);
	return 0;
}

static void forked_child_starts_afresh(void **state)
{
	struct loop_timer t, near;
	int status;
	pid_t pid;

	atomic_store(&fired, 0);
	loop_timer_init(&t, bump, &fired);
	loop_timer_init(&near, bump, &fired);
	loop_timer_set(&near, base_now_ns() + 30000000);
	loop_timer_set(&t, base_now_ns() + 3600ULL * 1000000000);
	pid = fork();
	if (!pid)
		_exit(child(&t));
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	WAIT_FOR(atomic_load(&fired) == 1); /* the parent's loop is unharmed */
	assert_true(loop_timer_armed(&t));
	loop_timer_cancel(&t);
}

static void checker_is_silent(void **state)
{
	assert_int_equal(lockdep_reports(), 0);
	assert_int_equal(base_bug_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(timers_fire_in_order),
	    cmocka_unit_test(past_fires_at_once_and_earlier_wins),
	    cmocka_unit_test(cancel_waits_for_a_running_callback),
	    cmocka_unit_test(cancel_beats_rearming),
	    cmocka_unit_test(callback_may_free_its_timer),
	    cmocka_unit_test(descriptors_are_watched_until_deleted),
	    cmocka_unit_test(allocation_failure_is_told),
	    cmocka_unit_test(forked_child_starts_afresh),
	    cmocka_unit_test(checker_is_silent),
	};

	return cmocka_run_group_tests(tests, start, NULL);
}
