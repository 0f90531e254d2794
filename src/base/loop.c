/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event loop: one thread, one epoll set, one timerfd for the earliest of all timers, one eventfd to be
 * woken by. A "life" is one existence of the loop: it grows by 1 in a forked child, and what carries
 * another life's number is not queued here, whatever its other fields say.
 */
#include "base/loop.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/lock.h"
#include "base/log.h"
#include "base/mutate.h"
#include "base/sys.h"

#define BATCH	    32
#define TIMER_BURST 64 /* timers run between two looks at the descriptors */
#define STACK_SIZE  (512UL << 10)

struct call {
	struct call *next;
	void (*fn)(void *arg);
	void *arg;
};

/* All fields below lock are guarded by it, except where noted. */
static struct {
	struct mutex lock;
	uint32_t life;
	bool started;
	int epoll, timer, event;
	struct loop_timer *root; /* earliest first */
	uint64_t programmed;	 /* what the timerfd is set to; 0 = off */
	struct call *calls, **call_last;
	const void *current;		 /* the timer or fd whose fn is running */
	_Atomic uint32_t done;		 /* grows when fn returned and somebody waits; futex */
	unsigned waiters;		 /* for done */
	struct epoll_event batch[BATCH]; /* read by the loop's thread; loop_fd_del blanks entries */
	int nbatch;
} loop = {
    .lock = {.role = LOCK_LOOP}, .life = 1, .epoll = -1, .timer = -1, .event = -1, .call_last = &loop.calls};

static __thread __attribute__((tls_model("initial-exec"))) bool on_loop;

bool loop_is_self(void)
{
	return on_loop;
}

/* -- Pairing heap of timers -- */

/* Joins two heaps; either may be empty. */
static struct loop_timer *heap_meld(struct loop_timer *a, struct loop_timer *b)
{
	struct loop_timer *t;

	if (!a || !b)
		return a ? a : b;
	if (b->deadline_ns < a->deadline_ns) {
		t = a;
		a = b;
		b = t;
	}
	b->prev = a;
	b->next = a->child;
	if (a->child)
		a->child->prev = b;
	a->child = b;
	return a;
}

/* Joins a list of siblings into one heap: in pairs from the left, then the pairs from the right. */
static struct loop_timer *heap_merge_list(struct loop_timer *list)
{
	struct loop_timer *pairs = NULL, *heap = NULL;

	while (list) {
		struct loop_timer *a = list, *b = a->next, *m;

		list = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		m = heap_meld(a, b);
		m->next = pairs;
		pairs = m;
	}
	while (pairs) {
		struct loop_timer *m = pairs;

		pairs = m->next;
		m->next = NULL;
		heap = heap_meld(heap, m);
	}
	return heap;
}

/* True if t is in this life's heap. */
static bool queued(const struct loop_timer *t)
{
	return t->life == loop.life;
}

/* Takes t, which is queued, out of the heap. */
static void heap_remove(struct loop_timer *t)
{
	struct loop_timer *sub = heap_merge_list(t->child);

	if (t == loop.root) {
		loop.root = sub;
	} else {
		if (t->prev->child == t)
			t->prev->child = t->next;
		else
			t->prev->next = t->next;
		if (t->next)
			t->next->prev = t->prev;
		loop.root = heap_meld(loop.root, sub);
	}
	t->child = t->next = t->prev = NULL;
	t->life = 0;
	t->deadline_ns = 0;
}

/* -- Timers -- */

/* Sets the timerfd for the earliest timer if it is set for a later one, or off. */
static void program_timer(void)
{
	struct itimerspec its = {.it_value = {0}};
	uint64_t when = loop.root ? loop.root->deadline_ns : 0;

	if (!loop.started || !when || (loop.programmed && loop.programmed <= when))
		return;
	its.it_value.tv_sec = (time_t)(when / 1000000000);
	its.it_value.tv_nsec = (long)(when % 1000000000);
	sys_call(SYS_timerfd_settime, loop.timer, TFD_TIMER_ABSTIME, &its, NULL);
	loop.programmed = when;
}

/* Waits until the loop is not in fn of `what`; the loop's own thread never waits. Drops the lock meanwhile.
 */
static void wait_not_current(const void *what)
{
	uint32_t life = loop.life;

	while (loop.current == what && !on_loop && loop.life == life) {
		uint32_t seen = atomic_load(&loop.done);

		loop.waiters++;
		mutex_unlock(&loop.lock);
		sys_futex_wait(&loop.done, seen, 0);
		mutex_lock(&loop.lock);
		loop.waiters--;
	}
}

/* fn has returned; its object may be gone. */
static void finish_current(void)
{
	loop.current = NULL;
	if (!loop.waiters)
		return;
	atomic_fetch_add(&loop.done, 1);
	sys_futex_wake(&loop.done, INT_MAX);
}

void loop_timer_init(struct loop_timer *t, void (*fn)(void *arg), void *arg)
{
	*t = (struct loop_timer){.fn = fn, .arg = arg};
}

bool loop_timer_armed(const struct loop_timer *t)
{
	bool armed;

	mutex_lock(&loop.lock);
	armed = queued(t);
	mutex_unlock(&loop.lock);
	return armed;
}

void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns)
{
	mutex_lock(&loop.lock);
	if (queued(t))
		heap_remove(t);
	t->deadline_ns = MAX(deadline_ns, 1ULL);
	t->child = t->next = t->prev = NULL;
	t->life = loop.life;
	loop.root = heap_meld(loop.root, t);
	program_timer();
	mutex_unlock(&loop.lock);
}

void loop_timer_cancel(struct loop_timer *t)
{
	mutex_lock(&loop.lock);
	/* fn may arm its timer again while we wait for it. */
	while (queued(t) || (loop.current == t && !on_loop)) {
		if (queued(t))
			heap_remove(t);
		wait_not_current(t);
	}
	mutex_unlock(&loop.lock);
}

/* Runs the timers that are due. */
static void run_timers(void)
{
	uint64_t now = base_now_ns();

	mutex_lock(&loop.lock);
	loop.programmed = 0;
	for (int n = 0; n < TIMER_BURST && loop.root && loop.root->deadline_ns <= now; n++) {
		struct loop_timer *t = loop.root;
		void (*fn)(void *) = t->fn;
		void *arg = t->arg;

		heap_remove(t);
		loop.current = t;
		mutex_unlock(&loop.lock);
		fn(arg);
		mutex_lock(&loop.lock);
		finish_current();
	}
	program_timer();
	mutex_unlock(&loop.lock);
}

/* -- Calls -- */

/* Makes epoll_wait return. */
static void wake_loop(void)
{
	uint64_t one = 1;

	if (loop.started)
		sys_call(SYS_write, loop.event, &one, sizeof(one));
}

int loop_call(void (*fn)(void *arg), void *arg)
{
	struct call *c = base_zalloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	*c = (struct call){.fn = fn, .arg = arg};
	mutex_lock(&loop.lock);
	*loop.call_last = c;
	loop.call_last = &c->next;
	wake_loop();
	mutex_unlock(&loop.lock);
	return 0;
}

/* Runs the calls queued so far. */
static void run_calls(void)
{
	struct call *c, *next;

	mutex_lock(&loop.lock);
	c = loop.calls;
	loop.calls = NULL;
	loop.call_last = &loop.calls;
	mutex_unlock(&loop.lock);
	for (; c; c = next) {
		next = c->next;
		c->fn(c->arg);
		base_free(c);
	}
}

/* -- Descriptors -- */

int loop_fd_add(struct loop_fd *f)
{
	struct epoll_event ev = {.events = f->events, .data.ptr = f};
	long r;

	r = loop_start();
	if (r)
		return (int)r;
	mutex_lock(&loop.lock);
	r = sys_call(SYS_epoll_ctl, loop.epoll, EPOLL_CTL_ADD, f->fd, &ev);
	if (!r)
		f->life = loop.life;
	mutex_unlock(&loop.lock);
	return (int)r;
}

void loop_fd_del(struct loop_fd *f)
{
	struct epoll_event ev = {0};

	mutex_lock(&loop.lock);
	if (f->life == loop.life) {
		f->life = 0;
		sys_call(SYS_epoll_ctl, loop.epoll, EPOLL_CTL_DEL, f->fd, &ev);
		for (int i = 0; i < loop.nbatch; i++) {
			if (loop.batch[i].data.ptr == f)
				loop.batch[i].data.ptr = NULL;
		}
	}
	wait_not_current(f);
	mutex_unlock(&loop.lock);
}

/* Handles entry i of the batch, unless it was deleted since. Returns what else it asks for. */
static void *handle_event(int i)
{
	uint64_t drained;
	void *what;

	mutex_lock(&loop.lock);
	what = loop.batch[i].data.ptr;
	if (what == &loop.timer || what == &loop.event) {
		sys_call(SYS_read, *(int *)what, &drained, sizeof(drained));
	} else if (what) {
		struct loop_fd *f = what;
		void (*fn)(void *, uint32_t) = f->fn;
		void *arg = f->arg;

		loop.current = f;
		mutex_unlock(&loop.lock);
		fn(arg, loop.batch[i].events);
		mutex_lock(&loop.lock);
		finish_current();
	}
	mutex_unlock(&loop.lock);
	return what;
}

/*
 * One wait and what it brought; false if the epoll set is gone. Readiness is waited for outside the lock
 * but collected under it: between the two no descriptor's owner can go away unseen by loop_fd_del.
 */
static bool loop_round(int epoll)
{
	struct pollfd ready = {.fd = epoll, .events = POLLIN};
	bool timers = false, calls = false;
	long n = sys_call(SYS_poll, &ready, 1, -1);

	if (n < 0)
		return n == -EINTR;
	mutex_lock(&loop.lock);
	n = sys_call(SYS_epoll_wait, epoll, loop.batch, BATCH, 0);
	loop.nbatch = (int)MAX(n, 0L);
	mutex_unlock(&loop.lock);
	if (n < 0)
		return n == -EINTR;
	for (int i = 0; i < n; i++) {
		void *what = handle_event(i);

		timers |= what == &loop.timer;
		calls |= what == &loop.event;
	}
	mutex_lock(&loop.lock);
	loop.nbatch = 0;
	mutex_unlock(&loop.lock);
	if (timers)
		run_timers();
	if (calls)
		run_calls();
	return true;
}

/* The loop's thread. */
static void *loop_main(void *arg)
{
	int epoll = loop.epoll; /* the same for as long as this thread lives */

	on_loop = true;
	while (loop_round(epoll))
		;
	base_bug("the event loop lost its epoll descriptor");
	return NULL;
}

/* -- Life -- */

/* Starts a thread with every signal blocked but the faults, which windows need. */
static int start_thread(void)
{
	uint64_t all =
	    ~(BIT(SIGSEGV - 1) | BIT(SIGBUS - 1) | BIT(SIGFPE - 1) | BIT(SIGILL - 1) | BIT(SIGTRAP - 1));
	uint64_t saved;
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &saved, sizeof(all));
	r = pthread_create(&thread, &attr, loop_main, NULL);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &saved, NULL, sizeof(saved));
	pthread_attr_destroy(&attr);
	return -r;
}

/* Adds one of the loop's own descriptors to its epoll set. */
static long watch_own(int *fd)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = fd};

	return *fd < 0 ? *fd : sys_call(SYS_epoll_ctl, loop.epoll, EPOLL_CTL_ADD, *fd, &ev);
}

static void close_all(void)
{
	sys_fd_close(loop.epoll);
	sys_fd_close(loop.timer);
	sys_fd_close(loop.event);
	loop.epoll = loop.timer = loop.event = -1;
}

/* Makes descriptors and thread. Needs the lock. */
static int start_locked(void)
{
	long r;

	loop.epoll = sys_fd_claim((int)sys_call(SYS_epoll_create1, EPOLL_CLOEXEC));
	loop.timer =
	    sys_fd_claim((int)sys_call(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
	loop.event = sys_fd_claim((int)sys_call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK));
	r = loop.epoll < 0 ? loop.epoll : watch_own(&loop.timer);
	if (!r)
		r = watch_own(&loop.event);
	if (!r)
		r = start_thread();
	if (r) {
		close_all();
		return (int)r;
	}
	loop.started = true;
	loop.programmed = 0;
	program_timer();
	if (loop.calls)
		wake_loop();
	return 0;
}

/* The child has no loop: its copies of the descriptors are closed, the parent's timers and calls forgotten.
 */
static void forget_parent(void)
{
	close_all();
	loop.calls = NULL;
	loop.call_last = &loop.calls;
	loop.root = NULL;
	loop.started = false;
	loop.current = NULL;
	loop.waiters = 0;
	loop.nbatch = 0;
	loop.life++;
	on_loop = false;
}

void loop_forked(void)
{
	mutex_forked(&loop.lock);
	/* Not freed: another thread may have been at the list, or in the allocator. */
	forget_parent();
}

/* Only the mutation holds the lock across fork: other handlers of the VMM's run meanwhile and may call us. */
static void fork_prepare(void)
{
	if (mutated(MUTATE_FORK_HOLDS_LOOP))
		mutex_lock(&loop.lock);
}

static void fork_parent(void)
{
	if (mutated(MUTATE_FORK_HOLDS_LOOP))
		mutex_unlock(&loop.lock);
}

/* Before any lock of ours is taken, for libc's own is taken here. */
static __attribute__((constructor)) void register_fork(void)
{
	pthread_atfork(fork_prepare, fork_parent, loop_forked);
}

int loop_start(void)
{
	int r;

	mutex_lock(&loop.lock);
	r = loop.started ? 0 : start_locked();
	mutex_unlock(&loop.lock);
	return r;
}
