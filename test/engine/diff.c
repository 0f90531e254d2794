/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine against the host's CPU (diff.h tells how).
 *	make check T=engine/diff
 *	build/checked/test/engine/diff --time 600 [--mode 64|32|16|all] [--seed N] [--only MNEMONIC] [--keep]
 *		[--table]
 * WORKS: Every ring-3 instruction of the host CPU | random sequences in 64-, 32- and 16-bit mode, compared with the host itself
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "diff.h"

uint64_t rng_state;

static struct {
	unsigned seconds;
	const char *only;
	bool keep, table;
	uint64_t seed, test;
} options = {.seed = 1};

static struct {
	unsigned long same, skipped, differs;
} counts;

/* Reports per mnemonic, so that --keep shows each kind of fault once. */
static uint16_t reported[ZYDIS_MNEMONIC_MAX_VALUE + 1];

/* Tests of one mode in the short form: a number, not a time, so that it is the same run on every machine. */
#ifdef __SANITIZE_THREAD__
#define SHORT_TESTS 5000
#else
#define SHORT_TESTS 120000
#endif

static struct test t;
static uint64_t t_seed;

static void crashed(void)
{
	printf("CRASH in ");
	test_print_input(&t, t_seed);
}

static void set_up(void)
{
	static bool done;

	if (done) {
		native_take_signals();
		return;
	}
	done = true;
	engine_side_init();
	native_init();
	native_on_crash = crashed;
}

/* A memory operand counts as faulting if it did, not if it was aimed so. */
static void count_cells(const struct test *t, const struct outcome *nat)
{
	bool faulted = nat->vector >= 12 && nat->vector <= 17 && nat->vector != 15 && nat->vector != 16;

	for (unsigned n = 0; n < t->n; n++) {
		const struct tinsn *i = &t->insn[n];

		if (i->helper)
			continue;
		if (t->n == 1 && i->form != FORM_REG)
			cover_count(t->mode, i,
				    faulted		    ? FORM_FAULT
				    : i->form == FORM_FAULT ? FORM_MEM
							    : i->form);
		else if (i->form != FORM_FAULT)
			cover_count(t->mode, i, i->form);
	}
}

static void report(struct test *t, uint64_t seed)
{
	uint16_t *seen = &reported[t->n ? t->insn[t->n - 1].in.mnemonic : 0];

	counts.differs++;
	if (options.keep && *seen)
		return;
	test_shrink(t);
	seen = &reported[t->n ? t->insn[t->n - 1].in.mnemonic : 0];
	if (!(*seen)++ || !options.keep)
		test_print(t, seed);
}

/* One test from its own seed. False on a difference. */
static bool one(int mode, uint64_t seed)
{
	struct outcome nat, eng;
	enum verdict v;

	rng_state = t_seed = seed;
	if (chance(3))
		for (unsigned n = 0; n < DATA_SIZE; n += 8) {
			uint64_t w = rnd();

			memcpy(t.data + n, &w, 8);
		}
	test_make(&t, mode, chance(70) ? 1 : 2 + below(MAX_INSNS - 2), options.only);
	v = test_run(&t, &nat, &eng);
	if (v == SAME) {
		counts.same++;
		test_keep_memory(&t);
		count_cells(&t, &nat);
	} else if (v == SKIPPED) {
		counts.skipped++;
	} else {
		report(&t, seed);
	}
	return v != DIFFERS;
}

/*
 * Runs tests of one mode until the time is up (seconds not 0) or SHORT_TESTS are done, or, without --keep,
 * something differs.
 */
static bool run_mode(int mode, unsigned seconds, uint64_t seed)
{
	uint64_t end, n = 0;
	bool good = true;

	set_up();
	gen_init(mode);
	memset(&counts, 0, sizeof(counts));
	end = base_now_ns() + seconds * 1000000000ULL;
	while ((good || options.keep) && (seconds ? base_now_ns() < end : n < SHORT_TESTS))
		for (unsigned k = 0; k < 64 && (good || options.keep); k++) {
			rng_state = seed + n++ * 0x1000003;
			good &= one(mode, rnd());
		}
	printf("%d-bit: seed %lu, %u groups, %lu tests the same, %lu skipped, %lu differ\n", mode, seed,
	       gen_count(mode), counts.same, counts.skipped, counts.differs);
	return good;
}

/* -- The short form -- */

static void check_mode(int mode)
{
	uint64_t seed = options.seed;

	assert_true(run_mode(mode, options.seconds, seed));
	assert_true(counts.same > SHORT_TESTS / 2);
	assert_true(counts.skipped * 5 < counts.same);
}

static void test_64(void **state)
{
	check_mode(64);
}

static void test_32(void **state)
{
	check_mode(32);
}

static void test_16(void **state)
{
	check_mode(16);
	cover_print(true);
}

static int short_form(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_64),
	    cmocka_unit_test(test_32),
	    cmocka_unit_test(test_16),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* -- The long form -- */

static int long_form(int mode)
{
	static const int modes[3] = {64, 32, 16};
	bool good = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned k = 0; k < 3; k++)
		if (!mode || mode == modes[k])
			good &= run_mode(modes[k], options.seconds / (mode ? 1 : 3), options.seed);
	cover_print(options.table);
	return good ? 0 : 1;
}

int main(int argc, char **argv)
{
	int mode = 0;

	if (argc < 2)
		return short_form();
	options.seed = base_now_ns();
	for (int n = 1; n < argc; n++) {
		const char *next = n + 1 < argc ? argv[n + 1] : "";

		if (!strcmp(argv[n], "--time"))
			options.seconds = strtoul(next, NULL, 0), n++;
		else if (!strcmp(argv[n], "--mode"))
			mode = atoi(next), n++;
		else if (!strcmp(argv[n], "--seed"))
			options.seed = strtoull(next, NULL, 0), n++;
		else if (!strcmp(argv[n], "--only"))
			options.only = next, n++;
		else if (!strcmp(argv[n], "--keep"))
			options.keep = true;
		else if (!strcmp(argv[n], "--table"))
			options.table = true;
		else
			return 2;
	}
	return long_form(mode);
}
