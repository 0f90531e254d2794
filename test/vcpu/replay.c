/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The replay log: an instruction that is executed again gets the answers of its first execution, another
 * instruction never does.	make check T=vcpu/replay
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "vcpu/internal.h"

/* The engine, as far as the log looks at it. */
static uint64_t retired, linear_rip;

uint64_t engine_retired(const struct engine_cpu *c)
{
	return retired;
}

uint64_t engine_linear_rip(const struct engine_cpu *c)
{
	return linear_rip;
}

static int setup(void **state)
{
	struct vcpu *v = base_zalloc(sizeof(*v));

	*state = v;
	retired = 100;
	linear_rip = 0x1000;
	return v ? replay_init(v) : -1;
}

static int teardown(void **state)
{
	replay_destroy(*state);
	base_free(*state);
	return 0;
}

static struct vcpu_access mmio(uint64_t addr, uint32_t len, bool write, uint8_t value)
{
	struct vcpu_access a = {.kind = ACCESS_MMIO, .write = write, .len = len, .addr = addr};

	memset(a.data, value, sizeof(a.data));
	return a;
}

static void add(struct vcpu *v, struct vcpu_access a)
{
	assert_true(replay_reserve(v));
	replay_add(v, &a, NULL);
}

static void test_answers_in_order(void **state)
{
	struct vcpu *v = *state;
	const struct vcpu_access *a;

	add(v, mmio(0xf000, 4, false, 0x11));
	add(v, mmio(0xf004, 4, false, 0x22));
	add(v, mmio(0xf000, 4, true, 0x33));
	assert_null(replay_find(v, ACCESS_MMIO, 0xf000, 4, false)); /* all three were just done */
	add(v, mmio(0xf008, 8, false, 0x44));
	replay_rewind(v);
	a = replay_find(v, ACCESS_MMIO, 0xf000, 4, false);
	assert_non_null(a);
	assert_int_equal(a->data[3], 0x11);
	a = replay_find(v, ACCESS_MMIO, 0xf004, 4, false);
	assert_non_null(a);
	assert_int_equal(a->data[0], 0x22);
	assert_non_null(replay_find(v, ACCESS_MMIO, 0xf000, 4, true));
	a = replay_find(v, ACCESS_MMIO, 0xf008, 8, false);
	assert_non_null(a);
	assert_int_equal(a->data[7], 0x44);
	assert_null(replay_find(v, ACCESS_MMIO, 0xf010, 8, false));
}

/* The same address twice in one instruction: two entries, not one. */
static void test_same_access_twice(void **state)
{
	struct vcpu *v = *state;

	add(v, mmio(0xf000, 1, false, 1));
	add(v, mmio(0xf000, 1, false, 2));
	replay_rewind(v);
	assert_int_equal(replay_find(v, ACCESS_MMIO, 0xf000, 1, false)->data[0], 1);
	assert_int_equal(replay_find(v, ACCESS_MMIO, 0xf000, 1, false)->data[0], 2);
	assert_null(replay_find(v, ACCESS_MMIO, 0xf000, 1, false));
}

static void test_retired_is_stale(void **state)
{
	struct vcpu *v = *state;

	add(v, mmio(0xf000, 4, false, 0x11));
	replay_rewind(v);
	retired++;
	assert_null(replay_find(v, ACCESS_MMIO, 0xf000, 4, false));
	assert_int_equal(v->replay.n, 0);
}

/* A fault leaves the instruction without retiring it: its handler begins elsewhere. */
static void test_other_rip_is_stale(void **state)
{
	struct vcpu *v = *state;

	add(v, mmio(0xf000, 4, false, 0x11));
	replay_rewind(v);
	linear_rip = 0x2000;
	assert_null(replay_find(v, ACCESS_MMIO, 0xf000, 4, false));
	add(v, mmio(0xf000, 4, false, 0x55));
	replay_rewind(v);
	assert_int_equal(replay_find(v, ACCESS_MMIO, 0xf000, 4, false)->data[0], 0x55);
}

/* Another kind, address, length or direction is another access; what fitted before it is kept. */
static void test_mismatch_drops_the_rest(void **state)
{
	static const struct {
		enum vcpu_access_kind kind;
		uint64_t addr;
		uint32_t len;
		bool write;
	} other[] = {
	    {ACCESS_PIO, 0xf004, 4, false},
	    {ACCESS_MMIO, 0xf008, 4, false},
	    {ACCESS_MMIO, 0xf004, 2, false},
	    {ACCESS_MMIO, 0xf004, 4, true},
	};
	struct vcpu *v = *state;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(other); i++) {
		replay_clear(v);
		add(v, mmio(0xf000, 4, false, 0x11));
		add(v, mmio(0xf004, 4, false, 0x22));
		replay_rewind(v);
		assert_non_null(replay_find(v, ACCESS_MMIO, 0xf000, 4, false));
		assert_null(replay_find(v, other[i].kind, other[i].addr, other[i].len, other[i].write));
		assert_int_equal(v->replay.n, 1);
	}
}

static void test_pio_data(void **state)
{
	struct vcpu_access a = {.kind = ACCESS_PIO, .len = PAGE_SIZE, .addr = 0x1f0};
	struct vcpu *v = *state;
	uint8_t page[PAGE_SIZE];
	unsigned i;

	for (i = 0; i < sizeof(page); i++)
		page[i] = i * 7;
	assert_true(replay_reserve(v));
	replay_add(v, &a, page);
	replay_rewind(v);
	assert_non_null(replay_find(v, ACCESS_PIO, 0x1f0, PAGE_SIZE, false));
	assert_memory_equal(v->replay.pio, page, sizeof(page));
}

/* A wide vector store to a device, 8 bytes at a time: the log grows, and without memory refuses. */
static void test_grows(void **state)
{
	struct vcpu *v = *state;
	unsigned i;

	for (i = 0; i < REPLAY_MAX; i++)
		add(v, mmio(8 * i, 8, true, i));
	assert_false(replay_reserve(v));
	replay_rewind(v);
	for (i = 0; i < REPLAY_MAX; i++)
		assert_int_equal(replay_find(v, ACCESS_MMIO, 8 * i, 8, true)->data[0], (uint8_t)i);
	replay_clear(v);
	assert_true(replay_reserve(v));
}

static void test_no_memory(void **state)
{
	struct vcpu *v = *state;
	unsigned i;

	for (i = 0; i < REPLAY_FIRST; i++)
		add(v, mmio(8 * i, 8, true, i));
	base_alloc_fail_at(1);
	assert_false(replay_reserve(v));
	base_alloc_fail_at(0);
	assert_int_equal(v->replay.n, REPLAY_FIRST);
	assert_true(replay_reserve(v));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(test_answers_in_order),
	    CASE(test_same_access_twice),
	    CASE(test_retired_is_stale),
	    CASE(test_other_rip_is_stale),
	    CASE(test_mismatch_drops_the_rest),
	    CASE(test_pio_data),
	    CASE(test_grows),
	    CASE(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
