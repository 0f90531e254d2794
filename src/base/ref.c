/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Saturating reference counts: see ref.h. */
#include "base/ref.h"

#include "base/log.h"

/* Values above REF_MAX are saturated; the count is parked in the middle of that range, out of reach of
 * concurrent increments and decrements. */
#define REF_MAX	      0x7fffffffu
#define REF_SATURATED 0xc0000000u

/* Parks the count for good: the object leaks from now on. */
static void saturate(struct ref *ref, const char *what)
{
	atomic_store_explicit(&ref->count, REF_SATURATED, memory_order_relaxed);
	base_bug(what);
}

void ref_init(struct ref *ref, uint32_t n)
{
	/* Whoever finds the object by a stale pointer and gets it sees it whole. */
	atomic_store_explicit(&ref->count, n, memory_order_release);
}

void ref_get(struct ref *ref)
{
	uint32_t old = atomic_fetch_add_explicit(&ref->count, 1, memory_order_relaxed);

	if (unlikely(old == 0))
		saturate(ref, "reference taken from 0");
	else if (unlikely(old >= REF_MAX))
		saturate(ref, "reference count overflow");
}

bool ref_get_unless_zero(struct ref *ref)
{
	uint32_t old = atomic_load_explicit(&ref->count, memory_order_relaxed);

	do {
		if (!old)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&ref->count, &old, old + 1, memory_order_acquire,
							memory_order_relaxed));
	if (unlikely(old >= REF_MAX))
		saturate(ref, "reference count overflow");
	return true;
}

bool ref_put(struct ref *ref)
{
	/* Release: what was done under the reference happens before the destruction; the last one acquires.
	 */
	uint32_t old = atomic_fetch_sub_explicit(&ref->count, 1, memory_order_acq_rel);

	if (old == 1)
		return true;
	if (unlikely(old == 0 || old > REF_MAX))
		saturate(ref, "reference put below 0");
	return false;
}

void ref_put_not_last(struct ref *ref)
{
	if (unlikely(ref_put(ref)))
		saturate(ref, "last reference dropped by one who must not hold it");
}

uint32_t ref_read(const struct ref *ref)
{
	return atomic_load_explicit(&ref->count, memory_order_relaxed);
}
