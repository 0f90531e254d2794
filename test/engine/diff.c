/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine against the host's CPU, and the translator against the interpreter (diff.h tells how).
 *	make check T=engine/diff
 *	make diff TIME=600					both tiers, the time for each
 *	build/checked/test/engine/diff --time 600 | --count N	tests of each form and mode, or seconds for all of them
 *		[--mode 64|32|16|real|kernel] [--form single|sequence] [--against host|interp] [--disturb]
 *		[--seed N] [--only MNEMONIC] [--keep] [--coverage FILE]
 * Seen to fail: sequences without flags_out in call_handler, and with a look-up of one byte less (e_lea) in
 * the translator; disturbed ones without fpu_live in enter_block (a bug that they found); every mode with an interp_one
 * that flips CF each thousandth time for the cpu that translates.
 * WORKS: Every ring-3 instruction of the host CPU | random sequences in 64-, 32- and 16-bit mode, compared with the host itself
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "diff.h"

uint64_t rng_state;

/* What may be run. `tests`: of the short form, which is the same run on every machine. */
static const struct kind {
	int mode;
	bool sequence, against, disturb;
	unsigned tests;
} kinds[] = {
    {.mode = MODE_64, .tests = 16000},
    {.mode = MODE_32, .tests = 8000},
    {.mode = MODE_16, .tests = 8000},
    {.mode = MODE_64, .sequence = true, .tests = 2500},
    {.mode = MODE_32, .sequence = true, .tests = 1200},
    {.mode = MODE_16, .sequence = true, .tests = 1200},
    {.mode = MODE_REAL, .against = true, .tests = 2500},
    {.mode = MODE_KERNEL, .against = true, .tests = 2500},
    {.mode = MODE_64, .sequence = true, .against = true, .tests = 4000},
    {.mode = MODE_32, .sequence = true, .against = true, .tests = 1200},
    {.mode = MODE_16, .sequence = true, .against = true, .tests = 1200},
    {.mode = MODE_REAL, .sequence = true, .against = true, .tests = 1200},
    {.mode = MODE_KERNEL, .sequence = true, .against = true, .tests = 1500},
    {.mode = MODE_64, .sequence = true, .against = true, .disturb = true, .tests = 1500},
    {.mode = MODE_32, .sequence = true, .against = true, .disturb = true, .tests = 400},
    {.mode = MODE_KERNEL, .sequence = true, .against = true, .disturb = true, .tests = 800},
};

#ifdef __SANITIZE_THREAD__
#define SLOWER 24
#else
#define SLOWER 1
#endif

static struct {
	unsigned seconds;
	uint64_t count;
	int mode, form, against, disturb; /* 0: all; form: 1 single, 2 sequence; against: 1 host, 2 interp */
	const char *only, *coverage;
	bool keep;
	uint64_t seed;
} options = {.seed = 1};

static struct {
	unsigned long same, skipped, differs;
} counts;

/* Reports per mnemonic, so that --keep shows each kind of fault once. */
static uint16_t reported[ZYDIS_MNEMONIC_MAX_VALUE + 1];

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
	disturb_init();
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
			cover_count(t->mode, i, i->form,
				    faulted		    ? FORM_FAULT
				    : i->form == FORM_FAULT ? FORM_MEM
							    : i->form);
		else if (i->form != FORM_FAULT)
			cover_count(t->mode, i, i->form, i->form);
	}
}

static void report(struct test *t, uint64_t seed)
{
	uint16_t *seen = &reported[t->n ? t->insn[t->n - 1].in.mnemonic : 0];

	counts.differs++;
	if (options.keep && *seen > 8)
		return;
	test_shrink(t);
	for (unsigned n = 0; n < t->n; n++)
		if (!t->insn[n].dead && t->insn[n].in.mnemonic != ZYDIS_MNEMONIC_INT3)
			seen = &reported[t->insn[n].in.mnemonic];
	if (!(*seen)++ || !options.keep)
		test_print(t, seed);
}

/* The verdict counted; false on a difference. */
static bool judge(struct test *t, uint64_t seed)
{
	struct outcome nat, eng;
	enum verdict v = test_run(t, &nat, &eng);

	if (v == SAME) {
		counts.same++;
		test_keep_memory(t);
		if (!t->sequence)
			count_cells(t, &nat);
		outcome_count(t, &nat);
	} else if (v == SKIPPED) {
		counts.skipped++;
	} else {
		report(t, seed);
	}
	return v != DIFFERS;
}

/* One test from its own seed; a sequence with one to five states. False on a difference. */
static bool one(const struct kind *k, uint64_t seed)
{
	bool good;

	rng_state = t_seed = seed;
	if (chance(3))
		for (unsigned n = 0; n < DATA_SIZE; n += 8) {
			uint64_t w = rnd();

			memcpy(t.data + n, &w, 8);
		}
	if (!k->sequence) {
		test_make(&t, k->mode, chance(70) ? 1 : 2 + below(MAX_INSNS - 2), options.only);
		return judge(&t, seed);
	}
	seq_make(&t, k->mode, k->against);
	t.disturb = k->disturb;
	good = judge(&t, seed);
	for (unsigned n = below(5); n && good; n--) {
		seq_state(&t);
		good = judge(&t, seed);
	}
	return good;
}

static void print_kind(const struct kind *k, uint64_t seed, uint64_t ns, uint64_t insns)
{
	printf("%s %s against %s%s: seed %lu, %lu tests the same, %lu skipped, %lu differ; %lu instructions, "
	       "%.2f million a second\n",
	       mode_name(k->mode), k->sequence ? "sequences" : "single", k->against ? "interp" : "host",
	       k->disturb ? ", disturbed" : "", seed, counts.same, counts.skipped, counts.differs, insns,
	       (double)insns * 1e3 / (double)(ns + 1));
	if (k->disturb)
		printf("  %lu signals, %lu interrupts\n", disturb_signals, disturb_interrupts);
	outcome_print();
}

/* Until the time is up (ns not 0) or so many tests are done, or, without --keep, something differs. */
static bool run_kind(const struct kind *k, uint64_t ns, uint64_t tests, uint64_t seed)
{
	uint64_t start, n = 0, insns;
	bool good = true;

	set_up();
	gen_init(k->mode);
	memset(&counts, 0, sizeof(counts));
	insns = engine_insns;
	start = base_now_ns();
	disturb_on(k->disturb);
	while ((good || options.keep) && (ns ? base_now_ns() - start < ns : n < tests))
		for (unsigned j = 0; j < 64 && (good || options.keep); j++) {
			rng_state = seed + n++ * 0x1000003;
			good &= one(k, rnd());
		}
	disturb_on(false);
	print_kind(k, seed, base_now_ns() - start, engine_insns - insns);
	return good;
}

/* -- The short form -- */

static void check_kind(void **state)
{
	const struct kind *k = *state;

	assert_true(run_kind(k, 0, k->tests / SLOWER, options.seed));
	assert_true(counts.same > k->tests / SLOWER / 2);
	assert_true(counts.skipped * 5 < counts.same);
}

/* Without a translator the interpreter would be compared with itself. */
static bool makes_sense(const struct kind *k)
{
	return !k->against || engine_translates();
}

static int short_form(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(kinds)];
	static char names[ARRAY_SIZE(kinds)][64];
	size_t n = 0;

	set_up();
	for (const struct kind *k = kinds; k < kinds + ARRAY_SIZE(kinds); k++) {
		if (!makes_sense(k))
			continue;
		snprintf(names[n], sizeof(names[n]), "%s_%s_%s%s", k->sequence ? "sequences" : "single",
			 mode_name(k->mode), k->against ? "interp" : "host", k->disturb ? "_disturbed" : "");
		tests[n] = (struct CMUnitTest){
		    .name = names[n], .test_func = check_kind, .initial_state = (void *)k};
		n++;
	}
	return _cmocka_run_group_tests("tests", tests, n, NULL, NULL);
}

/* -- The long form -- */

static bool chosen(const struct kind *k)
{
	return (!options.mode || options.mode == k->mode) &&
	       (!options.form || options.form == 1 + k->sequence) &&
	       (!options.against || options.against == 1 + k->against) && (!options.disturb || k->disturb) &&
	       makes_sense(k);
}

static int long_form(void)
{
	unsigned n = 0;
	bool good = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	set_up();
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++)
		n += chosen(&kinds[k]);
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++)
		if (chosen(&kinds[k]))
			good &= run_kind(&kinds[k], options.seconds * 1000000000ULL / n,
					 options.count ? options.count : kinds[k].tests, options.seed);
	cover_print(options.coverage);
	return good ? 0 : 1;
}

static int mode_number(const char *name)
{
	static const int modes[MODES] = {MODE_64, MODE_32, MODE_16, MODE_REAL, MODE_KERNEL};

	for (unsigned n = 0; n < MODES; n++)
		if (!strcmp(name, mode_name(modes[n])))
			return modes[n];
	return 0;
}

static bool option(const char *name, const char *value)
{
	if (!strcmp(name, "--time"))
		options.seconds = (unsigned)strtoul(value, NULL, 0);
	else if (!strcmp(name, "--count"))
		options.count = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--mode"))
		options.mode = mode_number(value);
	else if (!strcmp(name, "--form"))
		options.form = *value == 's' && value[1] == 'i' ? 1 : 2;
	else if (!strcmp(name, "--against"))
		options.against = *value == 'h' ? 1 : 2;
	else if (!strcmp(name, "--seed"))
		options.seed = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--only"))
		options.only = value;
	else if (!strcmp(name, "--coverage"))
		options.coverage = value;
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return short_form();
	options.seed = base_now_ns();
	for (int n = 1; n < argc; n++) {
		if (!strcmp(argv[n], "--keep"))
			options.keep = true;
		else if (!strcmp(argv[n], "--disturb"))
			options.disturb = true;
		else if (n + 1 < argc && option(argv[n], argv[n + 1]))
			n++;
		else
			return 2;
	}
	return long_form();
}
