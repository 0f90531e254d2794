/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which accesses look at the page before first. That costs less than the table if it is that page again, and a branch that
 * was foreseen wrongly if not. A miss takes long anyway, so it is counted, always. A site that misses often is tried: all
 * of its look-ups go where misses go for one period, and are counted there; counting hits would cost each of them. If they
 * are not many more than its misses were in the period before, the block is made again, with the table at once.
 */
#include <time.h>

#include "engine/jit.h"

#define OFTEN  4096	/* misses in a period, of a site that is tried */
#define ENOUGH 256	/* look-ups in a period, of one that is judged */
#define RATIO  4	/* of look-ups to misses, from which on near is better */
#define TRIES  3	/* of a site */
#define PERIOD 20000000 /* ns of the vCPU's thread; more often than every 50 ms nobody asks */

uint64_t jit_near_forced, jit_near_period = PERIOD;

enum jit_nearness jit_near_at(uint64_t rip)
{
	return ((rip ^ jit_near_forced) * 0x9e3779b97f4a7c15ULL >> 33) % 3;
}

/* The beginning of the load of what is near, as it is made (jit_access.c). */
static const uint8_t load_near[5] = {0x65, 0x4c, 0x8b, 0x3c, 0x25};

static void set(struct jit *j, const struct jit_site *s, enum jit_nearness how)
{
	uint8_t *look = j->rw + s->look;

	if (how == NEAR_FIRST) {
		memcpy(look, load_near, sizeof(load_near));
		return;
	}
	look[0] = 0xe9;
	jit_patch(j, s->look + 1, s->far);
}

void jit_near_made(struct jit *j, const struct jit_site *s)
{
	base_bug_on(memcmp(j->rw + s->look, load_near, sizeof(load_near)));
	if (unlikely(jit_near_forced))
		set(j, s, jit_near_at(jit_step_rip(j, &j->block[s->block], s->index)));
}

void jit_near_flush(struct jit *j)
{
	j->ntrials = 0;
	for (unsigned k = 0; k < JIT_CLASSES * 2; k++)
		memset(j->near[k / 2][k % 2].far, 0, sizeof(j->near[0][0].far));
}

/* All of the instruction in the block: a loop may be in it several times. */
static void set_all(struct jit *j, const struct jit_site *s, enum jit_nearness how)
{
	const struct jit_block *b = &j->block[s->block];
	uint64_t rip = jit_step_rip(j, b, s->index);
	const struct jit_site *at = s;

	while (at > j->site && at[-1].block == s->block)
		at--;
	for (; at < j->site + j->nsites && at->block == s->block; at++)
		if (at->look && at->kind == s->kind && jit_step_rip(j, b, at->index) == rip)
			set(j, at, how);
}

static struct jit_near *near_of(struct jit *j, const struct jit_site *s)
{
	return &j->near[j->block[s->block].key & JIT_KEY_CLASS][s->kind == SITE_WRITE];
}

static void make_again(struct jit *j, const struct jit_site *s)
{
	struct jit_block *b = &j->block[s->block];

	*jit_by_table(j, jit_step_rip(j, b, s->index)) = true;
	if (!b->dead)
		jit_forget(j, b);
}

/* `misses`: of the period before. */
static void judge(struct jit *j, struct jit_site *s, uint32_t misses)
{
	uint32_t *counted = &near_of(j, s)->far[s->near].times, times = *counted;

	set_all(j, s, NEAR_FIRST);
	*counted = 0; /* no misses */
	s->tried += times >= ENOUGH;
	if (times >= ENOUGH && misses * j->near_now * RATIO >= times * j->near_before)
		make_again(j, s);
}

static void try(struct jit *j, uint32_t site, uint32_t misses)
{
	struct jit_site *s = &j->site[site];

	if (j->step[j->block[s->block].step + s->index].at == JIT_NOWHERE)
		return;
	if (*jit_by_table(j, jit_step_rip(j, &j->block[s->block], s->index))) {
		make_again(j, s); /* another block with the instruction was judged */
		return;
	}
	if (s->tried == TRIES || j->ntrials == JIT_TRIALS)
		return;
	j->trial[j->ntrials].site = site;
	j->trial[j->ntrials++].misses = misses;
	set_all(j, s, NEAR_TRIED);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* False: not yet. */
static bool period_ends(struct jit *j)
{
	uint64_t now = cpu_ns(), length = now - j->near_since;

	if (now < j->near_since) /* another thread's */
		j->near_since = now;
	if (now <= j->near_since || length < jit_near_period)
		return false;
	j->near_since = now;
	j->near_before = j->near_now;
	j->near_now = jit_near_period ? (double)length : 1;
	return true;
}

void jit_near_judge(struct jit *j)
{
	uint32_t tried = j->ntrials;

	if (!period_ends(j))
		return;
	for (uint32_t k = 0; k < tried; k++)
		judge(j, &j->site[j->trial[k].site], j->trial[k].misses);
	j->ntrials = 0;
	for (unsigned k = 0; k < JIT_CLASSES * 2; k++) {
		struct jit_near *near = &j->near[k / 2][k % 2];

		for (unsigned n = 0; n < JIT_NEAR; n++) {
			if (near->far[n].times >= OFTEN)
				try(j, near->far[n].site, near->far[n].times);
			near->far[n].times = 0;
		}
	}
}
