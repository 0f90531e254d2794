/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Revocation: after mem_port.flush returned, no vCPU thread acts on what it knew before, whether it was
 * inside the guest section, on its way in, or not scheduled at all.	make check T=vcpu/flush
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "vcpu/internal.h"

#define VCPUS	 3
#define ROUNDS	 2000
#define ENTRY_NS 2000000000

/* A vCPU thread holds a "pointer" to the current page, by its generation; 0 = none. */
struct engine_cpu {
	_Atomic uint64_t held;
};

static struct vcpu_vm vm;
static struct vcpu vcpus[VCPUS];
static struct engine_cpu cpus[VCPUS];
static _Atomic uint32_t words[VCPUS];
static _Atomic uint64_t page;  /* current generation: what fill would answer */
static _Atomic uint64_t freed; /* generations up to this are gone */
static _Atomic bool stop;
static _Atomic unsigned bad;

/* Uninstrumented, as the real one: it interrupts anything. */
__attribute__((no_sanitize("thread"))) void engine_kick(void *c, void *ucontext)
{
	atomic_store(&((struct engine_cpu *)c)->held, 0);
}

void engine_revoke(struct engine_cpu *c)
{
	atomic_store(&c->held, 0);
}

static _Atomic uint64_t progress;

uint64_t engine_progress(const struct engine_cpu *c)
{
	return atomic_fetch_add(&progress, 1);
}

void vcpu_request(struct vcpu *v, uint64_t bits)
{
	atomic_fetch_or(&v->requests, bits);
}

/* What the engine does: probe, use, probe again; now and then out of the section and back. */
static void *guest(void *arg)
{
	struct vcpu *v = arg;
	unsigned i;

	base_sig_run_begin(&v->sig, NULL);
	while (!atomic_load(&stop)) {
		guest_enter(v);
		for (i = 0; i < 200; i++) {
			uint64_t gone, held;

			if (!atomic_load(&v->cpu->held)) {
				uint64_t now = atomic_load(&page), none = 0;

				/* As the engine: a revocation between fill and this store is seen by
				 * sequence. */
				atomic_compare_exchange_strong(&v->cpu->held, &none, now);
				if (atomic_load(&page) != now)
					atomic_store(&v->cpu->held, 0);
				continue;
			}
			gone = atomic_load(
			    &freed); /* before the use: whatever was freed by now must not be held */
			held = atomic_load(&v->cpu->held);
			if (held && held <= gone)
				atomic_fetch_add(&bad, 1);
		}
		guest_leave(v);
		if (v->index == 1)
			sched_yield();
	}
	base_sig_run_end(&v->sig);
	return NULL;
}

/* Seen to fail with no request set, and with no kick sent, by flush_one. */
static void test_no_use_after_flush(void **state)
{
	pthread_t t[VCPUS];
	unsigned i;

	atomic_store(&page, 1);
	for (i = 0; i < VCPUS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, guest, &vcpus[i]), 0);
	for (i = 0; i < ROUNDS; i++) {
		uint64_t old = atomic_fetch_add(&page, 1);

		vcpu_mem_port.flush(&vm);
		atomic_store(&freed, old);
		if (i % 16 == 0)
			sched_yield();
	}
	atomic_store(&stop, true);
	for (i = 0; i < VCPUS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(atomic_load(&bad), 0);
}

/* A vCPU outside the section is told by its request and nothing else. Seen to fail with the request not set by
 * flush_one, and not looked at by guest_enter. */
static void test_outside_is_requested(void **state)
{
	struct vcpu *v = &vcpus[0];

	atomic_store(&v->requests, 0);
	atomic_store(&cpus[0].held, 7);
	vcpu_mem_port.flush(&vm);
	assert_int_equal(atomic_load(&v->requests), VCPU_REQ_REVOKE);
	assert_int_equal(atomic_load(&cpus[0].held), 7);
	base_sig_run_begin(&v->sig, NULL);
	guest_enter(v);
	assert_int_equal(atomic_load(&cpus[0].held), 0);
	assert_int_equal(atomic_load(&v->requests), 0);
	assert_int_not_equal(atomic_load(&v->in_guest_tid), 0);
	guest_leave(v);
	assert_int_equal(atomic_load(&v->in_guest_tid), 0);
	base_sig_run_end(&v->sig);
}

/* -- The entry itself -- */

static _Atomic unsigned started, entered, flushed; /* rounds */

/* Waits for a round; gives way to others on a busy machine. */
static void until(_Atomic unsigned *n, unsigned r)
{
	for (unsigned i = 1; atomic_load_explicit(n, memory_order_relaxed) < r; i++) {
		if (i % 4096 == 0)
			sched_yield();
	}
}

/* Stores to cache lines that the other side has just written: those behind them wait in the CPU, loads do not. */
static void write_lines(void)
{
	static _Atomic uint8_t lines[40][64];

	for (unsigned i = 0; i < ARRAY_SIZE(lines); i++)
		atomic_store_explicit(&lines[i][0], 1, memory_order_relaxed);
}

/* Enters at each round's start, with a pointer that it has from before, and stays until the flush is over. */
static void *enterer(void *arg)
{
	struct vcpu *v = arg;

	base_sig_run_begin(&v->sig, NULL);
	for (unsigned r = 1; !atomic_load(&stop); r++) {
		atomic_store(&v->cpu->held, r);
		atomic_store(&entered, r);
		until(&started, r);
		write_lines();
		guest_enter(v);
		until(&flushed, r);
		if (atomic_load(&v->cpu->held))
			atomic_fetch_add(&bad, 1);
		guest_leave(v);
	}
	base_sig_run_end(&v->sig);
	return NULL;
}

/*
 * An entry and a flush at the same moment: one sees the other. Seen to fail (one round in ten) without the membarrier
 * between the requests and the second look.
 */
static void test_entry_against_flush(void **state)
{
	struct vcpu *v = &vcpus[0];
	uint64_t end = base_now_ns() + ENTRY_NS;
	pthread_t t;
	unsigned r;

	atomic_store(&stop, false);
	atomic_store(&bad, 0);
	atomic_store(&v->requests, 0);
	assert_int_equal(pthread_create(&t, NULL, enterer, v), 0);
	for (r = 1; base_now_ns() < end; r++) {
		until(&entered, r);
		write_lines();
		atomic_store(&started, r);
		for (volatile unsigned n = r % 256; n; n--)
			;
		vcpu_mem_port.flush(&vm);
		atomic_store(&flushed, r);
	}
	atomic_store(&stop, true);
	atomic_store(&started, r);
	atomic_store(&flushed, r);
	pthread_join(t, NULL);
	assert_int_equal(atomic_load(&bad), 0);
}

static int setup(void **state)
{
	unsigned i;

	for (i = 0; i < VCPUS; i++) {
		struct vcpu *v = &vcpus[i];

		v->vm = &vm;
		v->index = i;
		v->cpu = &cpus[i];
		v->exit_word = &words[i];
		v->sig.exit_word = &words[i];
		v->sig.kick = engine_kick;
		v->sig.arg = v->cpu;
		atomic_store(&vm.vcpus[i], v);
	}
	atomic_store(&vm.nr_vcpus, VCPUS);
	return base_sig_enable();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_outside_is_requested),
	    cmocka_unit_test(test_no_use_after_flush),
	    cmocka_unit_test(test_entry_against_flush),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
