/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bus arrays: refusals, order of offers, exact matches, unregister without memory, readers under change.
 * make check T=bus/array */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "bus/set.h"

static struct srcu srcu;
static struct mutex slots;
static struct bus_set *bus;

#define UNORDERED 99 /* several threads use this one: it keeps no order */

struct toy {
	struct bus_device dev;
	int answer; /* what write returns */
	_Atomic int writes, reads, destroyed;
	_Atomic bool dead;
};

static int order[16], norder;

static int toy_write(struct bus_device *dev, uint64_t addr, unsigned len, const void *val)
{
	struct toy *t = container_of(dev, struct toy, dev);

	assert_false(t->dead);
	t->writes++;
	if (t->answer != UNORDERED && norder < 16)
		order[norder++] = t->answer;
	return t->answer < 0 ? -EOPNOTSUPP : 0;
}

static int toy_read(struct bus_device *dev, uint64_t addr, unsigned len, void *val)
{
	struct toy *t = container_of(dev, struct toy, dev);

	t->reads++;
	memset(val, t->answer, len);
	return t->answer < 0 ? -EOPNOTSUPP : 0;
}

static void toy_destroy(struct bus_device *dev)
{
	struct toy *t = container_of(dev, struct toy, dev);

	t->destroyed++;
	t->dead = true;
}

static const struct bus_device_ops toy_ops = {toy_read, toy_write, toy_destroy};

#define TOY(a)                                     \
	{                                          \
		.dev.ops = &toy_ops, .answer = (a) \
	}

static int add(struct toy *t, uint64_t addr, uint64_t len)
{
	int r;

	mutex_lock(&slots);
	r = bus_register(bus, BUS_MMIO, addr, len, &t->dev);
	mutex_unlock(&slots);
	return r;
}

static int del(struct toy *t)
{
	int r;

	mutex_lock(&slots);
	r = bus_unregister(bus, BUS_MMIO, &t->dev);
	mutex_unlock(&slots);
	return r;
}

static int wr(uint64_t addr, unsigned len)
{
	uint64_t v = 0;
	int idx = srcu_read_lock(&srcu), r;

	norder = 0;
	r = bus_write(bus, BUS_MMIO, addr, len, &v);
	srcu_read_unlock(&srcu, idx);
	return r;
}

static int setup(void **state)
{
	assert_int_equal(srcu_init(&srcu, LOCK_SRCU_VM), 0);
	mutex_init(&slots, LOCK_SLOTS);
	return bus_create(&bus, &srcu, &slots);
}

static int teardown(void **state)
{
	bus_destroy(bus);
	srcu_barrier(&srcu);
	srcu_cleanup(&srcu);
	return 0;
}

static void wrong_context_is_reported(void **state)
{
	unsigned before = base_bug_count(), locks = lockdep_reports();

	bus_array_reader(bus, BUS_MMIO);
	assert_int_equal(base_bug_count(), before + 1);
	bus_array_teardown(bus, BUS_MMIO);
	assert_int_equal(base_bug_count(), before + 2);
	bus_array_updater(bus, BUS_MMIO);
	assert_true(lockdep_reports() > locks || base_bug_count() > before + 2);
}

static void nobody_takes(void **state)
{
	struct toy t = TOY(1);

	assert_int_equal(wr(0x1000, 4), -EOPNOTSUPP);
	assert_int_equal(del(&t), -ENOENT);
	assert_int_equal(add(&t, 0x1000, 4), 0);
	assert_int_equal(wr(0xffe, 4), -EOPNOTSUPP);
	assert_int_equal(wr(0x1002, 4), -EOPNOTSUPP);
	assert_int_equal(wr(0x1004, 1), -EOPNOTSUPP);
	assert_int_equal(wr(UINT64_MAX, 8), -EOPNOTSUPP);
	assert_int_equal(wr(0x1003, 1), 0);
	assert_int_equal(t.writes, 1);
	assert_int_equal(del(&t), 0);
	assert_int_equal(t.destroyed, 1);
}

static void too_many(void **state)
{
	static struct toy t[BUS_MAX_DEVICES + 1];
	int i;

	for (i = 0; i <= BUS_MAX_DEVICES; i++) {
		t[i] = (struct toy)TOY(1);
		/* every third position, so that insertion happens everywhere */
		assert_int_equal(add(&t[i], 0x100000 + (i * 7919 % 1001) * 16, 16),
				 i < BUS_MAX_DEVICES ? 0 : -ENOSPC);
	}
	for (i = 0; i < BUS_MAX_DEVICES; i++) {
		assert_int_equal(wr(0x100000 + (i * 7919 % 1001) * 16 + 8, 8), 0);
		assert_int_equal(t[i].writes, 1);
	}
	for (i = 0; i < BUS_MAX_DEVICES; i++)
		assert_int_equal(del(&t[i]), 0);
}

static void no_memory(void **state)
{
	struct toy a = TOY(1), b = TOY(2);
	long n;

	for (n = 1; n <= 2; n++) {
		base_alloc_fail_at(n);
		assert_int_equal(add(&a, 0x10, 4), -ENOMEM);
		base_alloc_fail_at(0);
		assert_int_equal(wr(0x10, 4), -EOPNOTSUPP);
	}
	assert_int_equal(add(&a, 0x10, 4), 0);
	assert_int_equal(add(&b, 0x20, 4), 0);
	base_alloc_fail_at(1); /* unregister must not notice */
	assert_int_equal(del(&a), 0);
	assert_int_equal(del(&b), 0);
	base_alloc_fail_at(0);
	assert_int_equal(wr(0x20, 4), -EOPNOTSUPP);
}

static void overlaps_are_offered_in_order(void **state)
{
	struct toy wide = TOY(-1), mid = TOY(-2), exact = TOY(-3), late = TOY(4), other = TOY(5);

	assert_int_equal(add(&late, 0x2000, 8), 0);
	assert_int_equal(add(&exact, 0x2000, 0), 0);
	assert_int_equal(add(&mid, 0x1800, 0x1000), 0);
	assert_int_equal(add(&wide, 0x0, 0x10000), 0);
	assert_int_equal(add(&other, 0x1ff0, 8), 0);
	assert_int_equal(wr(0x2000, 4), 0);
	assert_int_equal(norder, 3);
	assert_int_equal(order[0], -1);
	assert_int_equal(order[1], -2);
	assert_int_equal(order[2], 4);
	late.answer = -4;
	assert_int_equal(wr(0x2000, 4), -EOPNOTSUPP);
	assert_int_equal(norder, 4);
	assert_int_equal(order[3], -3);
	assert_int_equal(wr(0x2001, 4), -EOPNOTSUPP); /* length 0 is the exact address only */
	assert_int_equal(norder, 3);
	assert_int_equal(wr(0x2000, 0), -EOPNOTSUPP);
	assert_int_equal(del(&wide), 0);
	assert_int_equal(del(&mid), 0);
	assert_int_equal(wr(0x2000, 8), -EOPNOTSUPP);
	assert_int_equal(norder, 2);
	assert_int_equal(del(&exact), 0);
	assert_int_equal(del(&late), 0);
	assert_int_equal(del(&other), 0);
}

static void end_of_address_space(void **state)
{
	struct toy t = TOY(1);

	assert_int_equal(add(&t, UINT64_MAX - 7, 8), 0);
	assert_int_equal(wr(UINT64_MAX - 7, 8), 0);
	assert_int_equal(wr(UINT64_MAX - 6, 8), -EOPNOTSUPP);
	assert_int_equal(wr(UINT64_MAX, 1), 0);
	assert_int_equal(del(&t), 0);
}

static _Atomic bool stop;
static struct toy flip = TOY(UNORDERED);

static void *hammer(void *arg)
{
	long *taken = arg;

	while (!stop) {
		uint64_t v = 0;
		int idx = srcu_read_lock(&srcu);

		*taken += !bus_write(bus, BUS_MMIO, 0x9000, 4, &v);
		srcu_read_unlock(&srcu, idx);
	}
	return NULL;
}

/* toy_write asserts that the device is not dead: unregister has waited for every reader. */
static void register_under_readers(void **state)
{
	pthread_t th[2];
	long taken[2] = {0, 0};
	int i;

	stop = false;
	for (i = 0; i < 2; i++)
		pthread_create(&th[i], NULL, hammer, &taken[i]);
	for (i = 0; i < 300; i++) {
		flip.dead = false;
		assert_int_equal(add(&flip, 0x9000, 4), 0);
		if (i % 16 == 0)
			sched_yield();
		assert_int_equal(del(&flip), 0);
	}
	flip.dead = false;
	assert_int_equal(add(&flip, 0x9000, 4), 0);
	while (!flip.writes)
		sched_yield();
	stop = true;
	for (i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
	assert_true(taken[0] + taken[1] > 0);
	assert_int_equal(del(&flip), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(wrong_context_is_reported, setup, teardown),
	    cmocka_unit_test_setup_teardown(nobody_takes, setup, teardown),
	    cmocka_unit_test_setup_teardown(too_many, setup, teardown),
	    cmocka_unit_test_setup_teardown(no_memory, setup, teardown),
	    cmocka_unit_test_setup_teardown(overlaps_are_offered_in_order, setup, teardown),
	    cmocka_unit_test_setup_teardown(end_of_address_space, setup, teardown),
	    cmocka_unit_test_setup_teardown(register_under_readers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
