/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules broken on purpose, in checked builds only: each flag switches off one fix in the shipped code, so that
 * test/lockorder can show that the checker reports the deadlock (systems.md, section 2) which the fix prevents.
 * In release builds every use folds to nothing.
 */
#ifndef USERKVM_BASE_MUTATE_H
#define USERKVM_BASE_MUTATE_H

#include "base/util.h"

enum mutation {
	MUTATE_NONE,
	MUTATE_SLOTS_ARCH_ACROSS_SYNC, /* region.c: slots_arch_lock is dropped after the grace period (chain 3) */
	MUTATIONS
};

#ifdef USERKVM_CHECKED
extern _Atomic uint64_t base_mutations; /* bits; set by tests */
static inline bool mutated(enum mutation m)
{
	return atomic_load_explicit(&base_mutations, memory_order_relaxed) & BIT(m);
}
#else
static inline bool mutated(enum mutation m)
{
	(void)m;
	return false;
}
#endif

#endif
