/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine against the host's CPU, and the translator against the interpreter (diff.h tells how).
 *	make check T=engine/diff
 *	make diff TIME=600					both tiers, the time for each
 *	build/checked/test/engine/diff --time 600 | --tests N | --count N
 *		[--mode 64|32|16|real|kernel] [--form single|sequence] [--against host|interp] [--disturb]
 *		[--seed N [--from TEST]] [--only MNEMONIC] [--keep] [--coverage FILE [--cells FILE]] [--summary FILE]
 * Seconds for all kinds together; tests of each kind; or, for each mode, single instructions until no cell of the coverage
 * table lacks tests and then sequences until so many instructions were executed. What is compared with the host is in
 * these forms compared with the interpreter too, if the tier translates. --cells keeps the table between runs.
 * Seen to fail: sequences without flags_out in call_handler, and with a look-up of one byte less (e_lea) in
 * the translator, near or in the table at once (look_table); disturbed ones without fpu_live in enter_block (a bug that they found); every mode with an interp_one
 * that flips CF each thousandth time for the cpu that translates.
 * WORKS: Every ring-3 instruction of the host CPU | random sequences in 64-, 32- and 16-bit mode, compared with the host itself
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "diff.h"
#include "engine/engine.h"
#include "engine/jit.h"

uint64_t rng_state;

/*
 * What may be run. `tests`: of the short form, which is the same run on every machine. `share`: in percent of --count,
 * 0: the coverage table decides.
 */
static const struct kind {
	int mode;
	bool sequence, against, disturb;
	unsigned tests, share;
} kinds[] = {
    {.mode = MODE_64, .tests = 16000},
    {.mode = MODE_32, .tests = 8000},
    {.mode = MODE_16, .tests = 8000},
    {.mode = MODE_64, .sequence = true, .tests = 2500, .share = 100},
    {.mode = MODE_32, .sequence = true, .tests = 1200, .share = 100},
    {.mode = MODE_16, .sequence = true, .tests = 1200, .share = 100},
    {.mode = MODE_REAL, .against = true, .tests = 2500},
    {.mode = MODE_KERNEL, .against = true, .tests = 2500},
    {.mode = MODE_64, .sequence = true, .against = true, .tests = 4000, .share = 10},
    {.mode = MODE_32, .sequence = true, .against = true, .tests = 1200, .share = 10},
    {.mode = MODE_16, .sequence = true, .against = true, .tests = 1200, .share = 10},
    {.mode = MODE_REAL, .sequence = true, .against = true, .tests = 1200, .share = 100},
    {.mode = MODE_KERNEL, .sequence = true, .against = true, .tests = 1500, .share = 100},
    {.mode = MODE_64, .sequence = true, .against = true, .disturb = true, .tests = 1500, .share = 5},
    {.mode = MODE_32, .sequence = true, .against = true, .disturb = true, .tests = 400, .share = 5},
    {.mode = MODE_16, .sequence = true, .against = true, .disturb = true, .tests = 400, .share = 5},
    {.mode = MODE_REAL, .sequence = true, .against = true, .disturb = true, .tests = 400, .share = 5},
    {.mode = MODE_KERNEL, .sequence = true, .against = true, .disturb = true, .tests = 800, .share = 5},
};

#ifdef __SANITIZE_THREAD__
#define SLOWER 24
#else
#define SLOWER 1
#endif

static struct {
	unsigned seconds;
	uint64_t count, tests;
	int mode, form, against, disturb; /* 0: all; form: 1 single, 2 sequence; against: 1 host, 2 interp */
	const char *only, *coverage, *summary, *cells;
	bool keep, third;
	uint64_t seed, from; /* from: number of the first test */
} options = {.seed = 1};

/* What is counted, by children too. */
static struct counts {
	unsigned long same, skipped, differs;
	uint64_t generated; /* instructions, each counted once however often it was executed */
	uint64_t executed;  /* instructions, of tests that were the same */
	uint16_t reported[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* so that --keep shows each kind of fault once */
} * counts;

static struct test t;
static uint64_t t_seed, t_number, t_from;

static void crashed(void)
{
	printf("CRASH in ");
	test_print_input(&t, t_seed);
}

void *shared_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		exit(2);
	return p;
}

static void set_up_tables(void)
{
	counts = shared_memory(sizeof(*counts));
	disturb_counts = shared_memory(sizeof(*disturb_counts));
	cover_init(options.cells);
	outcome_init();
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

/*
 * A memory operand counts as faulting if it did, not if it was aimed so; in real mode, if its page is a device's too. Of
 * several instructions those count that came before the one that faulted.
 */
static void count_cells(const struct test *t, const struct outcome *nat)
{
	uint32_t end = nat->st.rip & 0xffff;
	bool faulted = nat->vector >= 12 && nat->vector <= 17 && nat->vector != 15 && nat->vector != 16;

	faulted |= is_real(t->mode) && nat->vector >= END_EXIT;

	for (unsigned n = 0; n < t->n; n++) {
		const struct tinsn *i = &t->insn[n];

		if (i->helper)
			continue;
		if (t->alone) {
			enum form form = actual_form(t, i);

			cover_count(t->mode, i, i->aim,
				    form == FORM_REG	 ? FORM_REG
				    : faulted		 ? FORM_FAULT
				    : form == FORM_FAULT ? FORM_MEM
							 : form,
				    nat->vector);
		} else if (i->form < FORM_STRADDLE && i->at < end)
			cover_count(t->mode, i, FORMS, i->form, nat->vector);
	}
}

/* What is seen only once (code in the translator's memory, a signal's moment) is printed as it was first seen. */
static void report(struct test *t, uint64_t seed, const struct outcome *nat, const struct outcome *eng)
{
	uint16_t *seen = &counts->reported[t->n ? t->insn[t->n - 1].in.mnemonic : 0];

	counts->differs++;
	if (options.keep && *seen > 8)
		return;
	printf("test %lu, --seed %lu --from %lu:\n", t_number, options.seed, t_from);
	test_compare(t, nat, eng, true);
	test_shrink(t);
	for (unsigned n = 0; n < t->n; n++)
		if (!t->insn[n].dead && t->insn[n].in.mnemonic != ZYDIS_MNEMONIC_INT3)
			seen = &counts->reported[t->insn[n].in.mnemonic];
	if (!(*seen)++ || !options.keep)
		test_print(t, seed);
}

/* The verdict counted; false on a difference. */
static bool judge(struct test *t, uint64_t seed)
{
	uint64_t before = engine_insns;
	struct outcome nat, eng;
	enum verdict v = test_run(t, &nat, &eng);

	if (v == SAME) {
		counts->same++;
		counts->executed += engine_insns - before;
		test_keep_memory(t);
		if (!t->sequence)
			count_cells(t, &nat);
		outcome_count(t, &nat);
	} else if (v == SKIPPED) {
		counts->skipped++;
		if (t->alone)
			cover_skipped(t->mode, &t->insn[0]);
	} else {
		report(t, seed, &nat, &eng);
	}
	return v != DIFFERS;
}

static void new_data(struct test *t)
{
	for (unsigned n = 0; n < DATA_SIZE; n += 8) {
		uint64_t w = rnd();

		memcpy(t->data + n, &w, 8);
	}
	test_out_of_sync();
}

/* A test from its own seed, and more with the same instructions: of other states, and operands elsewhere. */
static bool one(const struct kind *k, uint64_t seed)
{
	bool good;

	rng_state = t_seed = seed;
	/* So few executions of an instruction would never change how it looks up pages. */
	jit_near_forced = seed % 4 ? seed : 0;
	if (chance(3))
		new_data(&t);
	if (k->sequence)
		seq_make(&t, k->mode, k->against);
	else
		test_make(&t, k->mode, chance(70) ? 1 : 2 + below(MAX_INSNS - 2), options.only);
	t.disturb = k->disturb;
	t.third = options.third && !t.against;
	counts->generated += t.n;
	good = judge(&t, seed);
	if (!k->sequence)
		for (unsigned n = 0; n < 11 && good && test_again(&t); n++)
			good = judge(&t, seed);
	else
		for (unsigned n = below(5); n && good; n--) {
			seq_state(&t);
			good = judge(&t, seed);
		}
	return good;
}

/* When a kind is done: the first of these that is not 0. */
struct goal {
	uint64_t ns, tests, insns;
	bool cover;
};

static uint64_t cpu_ns(void)
{
	struct rusage r[2];
	uint64_t ns = 0;

	getrusage(RUSAGE_SELF, &r[0]);
	getrusage(RUSAGE_CHILDREN, &r[1]);
	for (unsigned n = 0; n < 2; n++)
		ns += (uint64_t)(r[n].ru_utime.tv_sec + r[n].ru_stime.tv_sec) * 1000000000 +
		      (uint64_t)(r[n].ru_utime.tv_usec + r[n].ru_stime.tv_usec) * 1000;
	return ns;
}

static void print_kind(const struct kind *k, uint64_t seed, uint64_t wall, uint64_t cpu)
{
	uint64_t insns = counts->executed;
	char sides[40], line[400];
	FILE *f = options.summary ? fopen(options.summary, "a") : NULL;

	snprintf(sides, sizeof(sides), "%s%s%s", k->against ? "interp" : "host",
		 options.third && !k->against ? " and interp" : "", k->disturb ? ", disturbed" : "");
	snprintf(
	    line, sizeof(line),
	    "%s %s against %s: seed %lu, %lu tests the same, %lu skipped, %lu differ; %lu instructions "
	    "generated, "
	    "%lu executed; %.0f s, CPU %.0f s, %.0f tests and %.2f million instructions per CPU second\n",
	    mode_name(k->mode), k->sequence ? "sequences" : "single", sides, seed, counts->same,
	    counts->skipped, counts->differs, counts->generated, insns, (double)wall / 1e9, (double)cpu / 1e9,
	    (double)counts->same * 1e9 / (double)(cpu + 1), (double)insns * 1e3 / (double)(cpu + 1));
	fputs(line, stdout);
	if (f) {
		fputs(line, f);
		fclose(f);
	}
	if (k->disturb)
		printf("  %lu signals, %lu interrupts\n", disturb_counts->signals,
		       disturb_counts->interrupts);
	outcome_print();
}

static bool reached(const struct kind *k, const struct goal *g, uint64_t ns, uint64_t tests)
{
	if (g->ns)
		return ns >= g->ns;
	if (g->tests)
		return tests >= g->tests;
	return g->cover ? !gen_lacks(k->mode) : counts->executed >= g->insns;
}

/* Tests from number `from` to `to`. False on a difference; with --keep it goes on. */
static bool run_some(const struct kind *k, const struct goal *goal, uint64_t start, uint64_t from,
		     uint64_t to)
{
	bool good = true;

	set_up();
	t_from = from;
	test_out_of_sync();
	disturb_on(k->disturb);
	for (uint64_t n = from; (good || options.keep) && n < to; n++) {
		t_number = n;
		rng_state = options.seed + n * 0x1000003;
		good &= one(k, rnd());
		if (n % 64 == 63 && reached(k, goal, base_now_ns() - start, n - options.from))
			break;
	}
	disturb_on(false);
	return good;
}

/*
 * The same in a process of its own. What the engine keeps of all code that it ever saw (stubs of vector instructions) is
 * bounded, and random code fills it soon; from then on only the path behind a full cache would be tested.
 */
static bool run_in_child(const struct kind *k, const struct goal *goal, uint64_t start, uint64_t from,
			 uint64_t to)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		rng_state = options.seed + from;
		new_data(&t);
		status = run_some(k, goal, start, from, to) ? 0 : 1;
		fflush(stdout);
		_exit(status);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
		printf("the process with tests %lu to %lu of seed %lu died: status %x\n", from, to,
		       options.seed, status);
	return !status;
}

#define SLICE(k) ((k)->sequence ? 8192ULL : 32768ULL) /* tests of a process */

static void print_progress(const struct kind *k)
{
	struct cover_sums s = cover_sums(k->mode);

	printf("... %s: %lu tests, %lu instructions; %u cells lack tests, %u have none\n", mode_name(k->mode),
	       counts->same, counts->executed, s.few, s.empty);
}

/* Until the goal is reached or, without --keep, something differs. */
static bool run_kind(const struct kind *k, const struct goal *goal, bool fork_off)
{
	uint64_t start = base_now_ns(), cpu = cpu_ns(), n = options.from, told = start;
	bool good = true;

	gen_init(k->mode);
	memset(counts, 0, sizeof(*counts));
	memset(disturb_counts, 0, sizeof(*disturb_counts));
	while ((good || options.keep) && !reached(k, goal, base_now_ns() - start, n - options.from)) {
		uint64_t to = n + (goal->tests ? MIN(goal->tests, SLICE(k)) : SLICE(k));

		good &= fork_off ? run_in_child(k, goal, start, n, to) : run_some(k, goal, start, n, to);
		n = to;
		if (base_now_ns() - told > 60000000000) {
			told = base_now_ns();
			print_progress(k);
		}
	}
	print_kind(k, options.seed, base_now_ns() - start, cpu_ns() - cpu);
	return good;
}

/* -- The short form -- */

static void check_kind(void **state)
{
	const struct kind *k = *state;

	assert_true(run_kind(k, &(struct goal){.tests = k->tests / SLOWER}, false));
	assert_true(counts->same > k->tests / SLOWER / 2);
	assert_true(counts->skipped * 5 < counts->same);
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
	set_up_tables();
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

static struct goal goal_of(const struct kind *k, unsigned kinds)
{
	struct goal g = {0};

	if (options.count)
		g = (struct goal){.cover = !k->share, .insns = options.count * k->share / 100};
	else if (options.seconds)
		g.ns = options.seconds * 1000000000ULL / kinds;
	else
		g.tests = options.tests ? options.tests : k->tests;
	return g;
}

static int long_form(void)
{
	unsigned n = 0;
	bool good = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	set_up_tables();
	if (engine_init())
		return 2;
	options.third = engine_translates();
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++)
		n += chosen(&kinds[k]);
	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++)
		if (chosen(&kinds[k])) {
			struct goal g = goal_of(&kinds[k], n);

			good &= run_kind(&kinds[k], &g, true);
		}
	cover_print(options.coverage, options.summary);
	return good ? 0 : 1;
}

static int mode_number(const char *name)
{
	for (unsigned n = 0; n < MODES; n++)
		if (!strcmp(name, mode_name(mode_at(n))))
			return mode_at(n);
	return 0;
}

static bool option(const char *name, const char *value)
{
	if (!strcmp(name, "--time"))
		options.seconds = (unsigned)strtoul(value, NULL, 0);
	else if (!strcmp(name, "--count"))
		options.count = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--from"))
		options.from = strtoull(value, NULL, 0);
	else if (!strcmp(name, "--tests"))
		options.tests = strtoull(value, NULL, 0);
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
	else if (!strcmp(name, "--cells"))
		options.cells = value;
	else if (!strcmp(name, "--summary"))
		options.summary = value;
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
