/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=base/ref: reference counts, alone and among threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <cmocka.h>

#include "base/base.h"

#define THREADS 8

/* Seen to fail without the look for an overflow in ref_get, and without that for a put below 0. */
static void misuse_saturates(void **state)
{
	unsigned bugs = base_bug_count();
	struct ref r;

	base_bug_expect(5);
	ref_init(&r, 0);
	ref_get(&r);
	assert_int_equal(base_bug_count(), bugs + 1);
	assert_false(ref_put(&r)); /* saturated: never again the last */
	assert_int_equal(base_bug_count(), bugs + 2);
	assert_true(ref_read(&r) > 0x7fffffffu);

	ref_init(&r, 0);
	assert_false(ref_put(&r));
	assert_int_equal(base_bug_count(), bugs + 3);

	ref_init(&r, 1);
	ref_put_not_last(&r);
	assert_int_equal(base_bug_count(), bugs + 4);
	assert_true(ref_read(&r) > 0x7fffffffu);

	ref_init(&r, 0x7fffffffu);
	ref_get(&r);
	assert_int_equal(base_bug_count(), bugs + 5);
	assert_true(ref_read(&r) > 0x7fffffffu);
}

static void last_put_is_told(void **state)
{
	struct ref r;

	ref_init(&r, 2);
	ref_get(&r);
	ref_put_not_last(&r);
	assert_false(ref_put(&r));
	assert_true(ref_get_unless_zero(&r));
	assert_false(ref_put(&r));
	assert_true(ref_put(&r));
	assert_false(ref_get_unless_zero(&r));
	assert_int_equal(ref_read(&r), 0);
}

static struct ref shared;
static _Atomic int destroyed, late;

/* Gets and puts for a while, or until the count is seen at 0; counts destructions and gets after one. */
static void *getter(void *arg)
{
	for (int i = 0; i < 2000 && ref_get_unless_zero(&shared); i++) {
		if (atomic_load(&destroyed))
			atomic_fetch_add(&late, 1);
		if (ref_put(&shared))
			atomic_fetch_add(&destroyed, 1);
	}
	return NULL;
}

static void one_destruction_among_threads(void **state)
{
	for (int round = 0; round < 50; round++) {
		pthread_t t[THREADS];

		ref_init(&shared, 1);
		atomic_store(&destroyed, 0);
		for (int i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&t[i], NULL, getter, NULL), 0);
		if (ref_put(&shared))
			atomic_fetch_add(&destroyed, 1);
		for (int i = 0; i < THREADS; i++)
			pthread_join(t[i], NULL);
		assert_int_equal(atomic_load(&destroyed), 1);
	}
	assert_int_equal(atomic_load(&late), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(misuse_saturates),
	    cmocka_unit_test(last_put_is_told),
	    cmocka_unit_test(one_destruction_among_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
