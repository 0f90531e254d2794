/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disturbances: while a test runs that wants them, a timer's signals come every few microseconds. The handler makes
 * the engine leave, or drops its host pointers (what a revocation does), or both; when it leaves, interrupts are
 * delivered whose handler goes back, instructions are executed one by one, everything is revoked. None of it may be
 * seen in the result.
 */
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "diff_side.h"

static timer_t timer;
static uint64_t luck = 1; /* the handler's own random numbers: the main thread's are for tests */
struct disturb_counts *disturb_counts;

static unsigned roll(void)
{
	luck = luck * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(luck >> 33);
}

static void on_timer(int sig, siginfo_t *info, void *uc)
{
	unsigned what = roll();

	disturb_counts->signals++;
	if (what & 1)
		atomic_store(engine_exit_word(under_test.cpu), 1);
	if (what & 2)
		engine_kick(under_test.cpu, uc);
}

/* An interrupt's IRET to a 16-bit stack leaves what the kernel had in the rest of RSP. */
static bool keeps_rsp(const struct engine_cpu *c)
{
	return c->code64 || c->stack32;
}

/* The engine left because it was asked to. What comes next is not the guest's doing. */
enum engine_exit disturb(struct side *s)
{
	struct engine_event ev = {.kind = ENGINE_EV_INTR, .vector = DISTURB_VECTOR};
	unsigned what = roll();
	enum engine_exit e = ENGINE_EXIT_POLL;

	if (what & 1)
		engine_revoke(s->cpu);
	if ((what & 2) && !s->real && keeps_rsp(s->cpu) && engine_interruptible(s->cpu)) {
		disturb_counts->interrupts++;
		e = engine_deliver(s->cpu, &ev);
	}
	if (what & 4)
		for (unsigned n = roll() % 6; n && (e == ENGINE_EXIT_POLL || e == ENGINE_EXIT_STEPPED); n--)
			e = engine_step(s->cpu);
	if (what & 8)
		engine_flush_tlb(s->cpu);
	return e;
}

void disturb_init(void)
{
	struct sigaction act = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 5};

	ev._sigev_un._tid = gettid();
	sigfillset(&act.sa_mask);
	sigaction(SIGRTMIN + 5, &act, NULL);
	timer_create(CLOCK_MONOTONIC, &ev, &timer);
}

void disturb_on(bool on)
{
	struct itimerspec t = {{0, on ? 97000 : 0}, {0, on ? 97000 : 0}};

	timer_settime(timer, 0, &t, NULL);
}
