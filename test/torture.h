/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Races in two lengths: a number of rounds that fits `make check`, and in `make torture TIME=seconds` up to a
 * much larger number, for as long as the time lasts; on the machine's own KVM a few, gently. The test says
 * `torture: name` in a comment of its own so that tools/torture.sh finds it.
 *	struct torture t = torture_begin(100000, 10000000);
 *	while (torture_more(&t)) ...one round...
 *	torture_end(&t, "doorbell");
 */
#ifndef TEST_TORTURE_H
#define TEST_TORTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct torture {
	uint64_t round, rounds;	     /* done, wanted */
	uint64_t start_ns, limit_ns; /* limit 0: none */
};

static inline uint64_t torture_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* Seconds that the long form may take (USERKVM_TORTURE), or 0 in the short form. */
static inline uint64_t torture_seconds(void)
{
	const char *s = getenv("USERKVM_TORTURE");

	return s ? strtoull(s, NULL, 0) : 0;
}

static inline struct torture torture_begin(uint64_t check_rounds, uint64_t torture_rounds)
{
	uint64_t s = torture_seconds();
	const char *oracle = getenv("USERKVM_ORACLE");

	if (oracle && *oracle == '1')
		return (struct torture){.rounds = check_rounds < 100 ? check_rounds : 100,
					.start_ns = torture_now_ns()};
	return (struct torture){.rounds = s ? torture_rounds : check_rounds,
				.start_ns = torture_now_ns(),
				.limit_ns = s * 1000000000U};
}

/* True if one more round is due; counts it. Looks at the clock every 64 rounds. One thread. */
static inline bool torture_more(struct torture *t)
{
	if (t->round == t->rounds)
		return false;
	if (t->limit_ns && t->round % 64 == 0 && torture_now_ns() - t->start_ns > t->limit_ns)
		return false;
	t->round++;
	return true;
}

static inline void torture_end(const struct torture *t, const char *name)
{
	if (t->limit_ns)
		printf("torture: %s: %llu of %llu rounds in %.1f s\n", name, (unsigned long long)t->round,
		       (unsigned long long)t->rounds, (double)(torture_now_ns() - t->start_ns) / 1e9);
}

#endif
