/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest code on a rig, for tests that run it. */
#ifndef TEST_ENGINE_RIG_CODE_H
#define TEST_ENGINE_RIG_CODE_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>
#include <unistd.h>

#include "rig.h"

#define CODE(name, text)                           \
	extern const uint8_t name[], name##_end[]; \
	__asm__(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end:\n.popsection\n")

#define RIG_HLT 0x8000UL /* + vector */

/* Every vector of the 64-bit IDT leads to a HLT of its own, at CPL 0; programs may use INT. */
static inline void rig_gates(struct rig *r)
{
	memset(r->ram + RIG_HLT, 0xf4, 256);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t off = RIG_HLT + v;

		put(r, IDT + v * 16, (off & 0xffff) | (uint64_t)S_CODE64 << 16 | 0xee00ULL << 32, 8);
		put(r, IDT + v * 16 + 8, 0, 8);
	}
}

/* In place of the test's cpu a new one, in long mode with rig_gates, of one of the tiers. */
static inline struct rig *rig_fresh(void **state, unsigned cpl, bool translate)
{
	struct rig *r;

	rig_teardown(state);
	rig_setup(state);
	r = *state;
	rig_long(r, cpl);
	if (!translate)
		r->c->jit = NULL;
	put(r, TSS + 4, 0x9800, 8); /* RSP0 */
	rig_gates(r);
	return r;
}

/* The vector whose HLT the guest ended in. */
static inline unsigned rig_vector(const struct rig *r)
{
	return (unsigned)(r->c->rip - 1 - RIG_HLT);
}

static unsigned rig_segvs; /* that rig_segv has seen */

/* The library's way with SIGSEGV, for cmocka has put its own handler in place of that. */
static inline void rig_segv(int sig, siginfo_t *info, void *ucontext)
{
	greg_t *rip = &((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RIP];
	uint64_t fault, again;

	if (!base_window_find((uint64_t)*rip, &fault, &again))
		abort();
	*rip = (greg_t)fault;
	rig_segvs++;
}

/* FNV-1a. */
static inline uint64_t rig_sum(const uint8_t *p, size_t n)
{
	uint64_t h = 14695981039346656037ULL;

	for (size_t k = 0; k < n; k++)
		h = (h ^ p[k]) * 1099511628211ULL;
	return h;
}

/* A thread that sends another SIGUSR1 until it is told to stop. */
struct rig_kicker {
	pthread_t whom;
	_Atomic bool stop;
};

static inline void *rig_kick(void *arg)
{
	struct rig_kicker *k = arg;

	while (!atomic_load(&k->stop)) {
		pthread_kill(k->whom, SIGUSR1);
		usleep(20);
	}
	return NULL;
}

#endif
