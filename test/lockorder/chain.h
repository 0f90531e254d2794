/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A deadlock chain as a test case: what to run, which fixes to switch off, what one report must then name. */
#ifndef TEST_LOCKORDER_CHAIN_H
#define TEST_LOCKORDER_CHAIN_H

#include "world.h"

#define FLAG(name) BIT(MUTATE_##name)

struct chain {
	uint64_t flags; /* the fixes to switch off */
	void (*run)(struct world *w);
	const char *names[6]; /* all in one report */
};

static void run_chain(const struct chain *c, uint64_t flags)
{
	struct world w;

	reports_begin();
	atomic_store(&base_mutations, flags);
	world_open(&w);
	c->run(&w);
	world_close(&w);
	atomic_store(&base_mutations, 0);
}

static void chain_is_reported(void **state)
{
	const struct chain *c = *state;

	run_chain(c, 0);
	if (atomic_load(&reports->n))
		reports_print();
	assert_int_equal(atomic_load(&reports->n), 0);
	run_chain(c, c->flags);
	if (!one_report_names(c->names))
		reports_print();
	assert_true(one_report_names(c->names));
	lockdep_reset();
}

#define CASE(name, run, flags, ...)                                   \
	{                                                             \
#name, chain_is_reported, NULL, NULL, &(struct chain) \
		{                                                     \
			flags, run,                                   \
			{                                             \
				__VA_ARGS__, NULL                     \
			}                                             \
		}                                                     \
	}

#endif
