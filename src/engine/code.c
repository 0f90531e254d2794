/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * engine_code: what the cpus of a VM share. Here: their list, their creation, and the stop-the-world.
 *
 * A cpu counts as stopped while in_run is 0: outside engine_run, inside a port call, or parked here. To stop
 * the world: take the lock, raise `stopping`, set every exit word, wait for each in_run to fall. The other
 * side raises in_run and looks at `stopping`, four times per exit and re-entry, so it has no fence: the stopper makes
 * a membarrier between raising `stopping` and looking at in_run. Who looked at `stopping` before that has its in_run
 * seen; who looks later parks. The same holds for a fall of in_run: one that the stopper does not see comes from a cpu
 * that sees `stopping`, and wakes it.
 */
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/code.h"
#include "engine/fpu.h"
#include "engine/jit.h"

struct engine_code {
	struct mutex lock;	   /* guards cpus and stopping; held by the stopper while the world stands */
	struct engine_cpu *cpus;   /* linked by code_next */
	_Atomic uint32_t stopping; /* futex word of the parked */
	_Atomic uint32_t parked;   /* bumped as cpus stop: futex word of the stopper */
	struct loop_timer look;	   /* code_keep_looking */
	_Atomic bool several;	   /* cpus, at some time */
	_Atomic bool looking, looked; /* the timer is armed; it was at some time */
};

#define LOOK_NS 50000000

static void futex_wait(_Atomic uint32_t *word, uint32_t val)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, val, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
}

/* -- Looking -- */

/* On the loop: every cpu that runs begins a new epoch; the next one to run arms the timer again. */
static void look_now(void *arg)
{
	struct engine_code *code = arg;

	atomic_store(&code->looking, false);
	mutex_lock(&code->lock);
	for (struct engine_cpu *c = code->cpus; c; c = c->code_next) {
		/* Whether it runs or not: it may just be coming back from a port call. */
		atomic_store(&c->look, true);
		atomic_fetch_or(&c->exit_word, EXIT_LOOK);
	}
	mutex_unlock(&code->lock);
}

void code_keep_looking(struct engine_code *code)
{
	if (!atomic_load_explicit(&code->looking, memory_order_relaxed) &&
	    !atomic_exchange(&code->looking, true)) {
		atomic_store(&code->looked, true);
		loop_timer_set(&code->look, base_now_ns() + LOOK_NS);
	}
}

void code_serialize(struct engine_cpu *c)
{
	if (atomic_load_explicit(&c->code->several, memory_order_relaxed))
		jit_begin(c);
}

/* -- The shared part -- */

int engine_code_create(struct engine_code **out)
{
	struct engine_code *code = base_zalloc(sizeof(*code));

	if (!code)
		return -ENOMEM;
	mutex_init(&code->lock, LOCK_CODE);
	loop_timer_init(&code->look, look_now, code);
	*out = code;
	return 0;
}

/* No cpu is left. */
void engine_code_destroy(struct engine_code *code)
{
	base_bug_on(code->cpus);
	if (atomic_load(&code->looked))
		loop_timer_cancel(&code->look);
	base_free(code);
}

/* -- Cpus -- */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; Debian 12 has no name for it */
#endif
#define ICACHE_SIZE (sizeof(struct insn) << ICACHE_BITS)

static struct insn *icache_map(void)
{
	struct insn *map =
	    mmap(NULL, ICACHE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return map == MAP_FAILED ? NULL : map; /* of zeros: every entry is ICACHE_EMPTY */
}

void icache_settle(struct engine_cpu *c)
{
	c->icache_settled = true;
	if (!madvise(c->icache, ICACHE_SIZE, MADV_HUGEPAGE))
		madvise(c->icache, ICACHE_SIZE, MADV_COLLAPSE); /* where it fails, khugepaged has time */
}

int engine_cpu_create(struct engine_cpu **out, struct engine_code *code, const struct engine_port *port,
		      void *ctx)
{
	struct engine_cpu *c = base_zalloc_aligned(64, sizeof(*c) + jit_size());
	int err;

	if (!c)
		return -ENOMEM;
	c->code = code;
	if (jit_size())
		c->jit = (struct jit *)(c + 1);
	c->port = port;
	c->ctx = ctx;
	c->icache = icache_map();
	err = c->icache ? fpu_create(c) : -ENOMEM;
	if (err) {
		if (c->icache)
			munmap(c->icache, ICACHE_SIZE);
		base_free(c);
		return err;
	}
	mmu_flush_all(c);
	engine_reset(c, false);
	mutex_lock(&code->lock);
	if (code->cpus)
		atomic_store(&code->several, true);
	c->code_next = code->cpus;
	code->cpus = c;
	mutex_unlock(&code->lock);
	*out = c;
	return 0;
}

void engine_cpu_destroy(struct engine_cpu *c)
{
	struct engine_code *code = c->code;

	mutex_lock(&code->lock);
	for (struct engine_cpu **p = &code->cpus; *p; p = &(*p)->code_next) {
		if (*p == c) {
			*p = c->code_next;
			break;
		}
	}
	mutex_unlock(&code->lock);
	fpu_destroy(c);
	jit_destroy(c);
	munmap(c->icache, ICACHE_SIZE);
	base_free(c);
}

/* -- Stop the world -- */

void run_leave(struct engine_cpu *c)
{
	struct engine_code *code = c->code;

	fpu_sync(c->fpu);
	atomic_store_explicit(&c->in_run, 0, memory_order_release);
	base_light_fence(); /* pairs with stop_world */
	if (unlikely(atomic_load(&code->stopping))) {
		atomic_fetch_add(&code->parked, 1);
		futex_wake(&code->parked);
	}
}

void run_enter(struct engine_cpu *c)
{
	struct engine_code *code = c->code;

	for (;;) {
		atomic_store_explicit(&c->in_run, 1, memory_order_relaxed);
		base_light_fence(); /* pairs with stop_world */
		if (likely(!atomic_load(&code->stopping)))
			return;
		run_leave(c);
		futex_wait(&code->stopping, 1);
	}
}

void run_park(struct engine_cpu *c)
{
	if (unlikely(atomic_load(&c->code->stopping))) {
		run_leave(c);
		run_enter(c);
	}
}

void port_enter(struct engine_cpu *c)
{
	run_leave(c);
}

void port_leave(struct engine_cpu *c)
{
	run_enter(c);
}

bool engine_stands(const struct engine_cpu *c)
{
	return !atomic_load(&c->in_run);
}

void stop_world(struct engine_cpu *c)
{
	struct engine_code *code = c->code;

	run_leave(c); /* another stopper must not wait for us while we wait for the lock */
	mutex_lock(&code->lock);
	atomic_store(&code->stopping, 1);
	for (struct engine_cpu *o = code->cpus; o; o = o->code_next)
		if (o != c)
			atomic_store(&o->exit_word, 1);
	base_membarrier(); /* pairs with run_enter and run_leave */
	for (struct engine_cpu *o = code->cpus; o; o = o->code_next) {
		for (;;) {
			uint32_t seen = atomic_load(&code->parked);

			if (o == c || !atomic_load(&o->in_run))
				break;
			futex_wait(&code->parked, seen);
		}
	}
}

void resume_world(struct engine_cpu *c)
{
	struct engine_code *code = c->code;

	atomic_store(&code->stopping, 0);
	futex_wake(&code->stopping);
	mutex_unlock(&code->lock);
	run_enter(c);
}
