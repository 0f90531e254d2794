/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Median and 99th percentile of a row, each the best of three runs; and the machine's own noise. Output, one
 * figure per line, separated by tabs: name, mode, median, p99, unit, bar of the median, bar of the p99.
 */
#include "bench.h"

#define RUNS	    3
#define SAMPLES_MAX 4000
#define PAUSE_US    300 /* between samples with eight vCPUs: whoever never sleeps is preempted in mid-sample */

static const char *const mode_names[MODES] = {"idle", "1 vCPU", "8 vCPUs"};

/* What rows came to, for those that are judged by an earlier one. */
static struct {
	const char *name;
	double median[MODES];
} done[64];
static unsigned ndone;

uint64_t b_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

bool b_wanted(const char *name, char **words)
{
	if (!*words)
		return true;
	for (; *words; words++)
		if (strstr(name, *words))
			return true;
	return false;
}

void b_print(const char *name, enum mode mode, double median, double p99, const char *unit, double bar_median,
	     double bar_p99)
{
	printf("%s\t%s\t%.2f\t%.2f\t%s\t%.0f\t%.0f\n", name, mode_names[mode], median, p99, unit, bar_median,
	       bar_p99);
	fflush(stdout);
}

/* -- Samples -- */

static double samples[SAMPLES_MAX];

struct result {
	double median, p99;
};

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static struct result judge(unsigned n)
{
	qsort(samples, n, sizeof(samples[0]), compare);
	return (struct result){samples[n / 2], samples[n * 99 / 100]};
}

static void improve(struct result *best, struct result r)
{
	if (!best->p99 || r.p99 < best->p99)
		best->p99 = r.p99;
	if (!best->median || r.median < best->median)
		best->median = r.median;
}

/* -- Rows -- */

static void call(void (*fn)(struct world *w), struct world *w)
{
	if (fn)
		fn(w);
}

static struct result run_once(const struct row *row, struct world *w, unsigned n, bool pause)
{
	unsigned calls = row->calls ? row->calls : 1, ops = row->ops ? row->ops : 1;

	for (unsigned i = 0; i < n; i++) {
		uint64_t t;

		call(row->before, w);
		if (pause)
			usleep(PAUSE_US);
		t = b_now();
		for (unsigned k = 0; k < calls; k++)
			row->body(w);
		samples[i] = (double)(b_now() - t) / calls / ops;
		call(row->after, w);
	}
	return judge(n);
}

static struct result measure(const struct row *row, enum mode mode)
{
	static const unsigned vcpus[MODES] = {0, 1, BUSY_MAX};
	unsigned n = mode == EIGHT ? row->samples / 5 : row->samples;
	struct result best = {0};
	struct world w;

	if (ku_oracle())
		n = n < 30 ? n : 30;
	n = n < SAMPLES_MAX ? n : SAMPLES_MAX;
	w_create(&w, vcpus[mode] - (row->has_target && mode != IDLE));
	w.n = mode;
	call(row->begin, &w);
	run_once(row, &w, 1 + n / 20, false);
	for (unsigned run = 0; run < RUNS; run++)
		improve(&best, run_once(row, &w, n, mode == EIGHT));
	call(row->end, &w);
	w_destroy(&w);
	return best;
}

static double median_of(const char *name, enum mode mode)
{
	for (unsigned i = 0; name && i < ndone; i++)
		if (!strcmp(done[i].name, name))
			return done[i].median[mode];
	return 0;
}

static void measure_row(const struct row *row)
{
	enum mode last = ku_oracle() || row->not_eight ? ONE : EIGHT;

	done[ndone].name = row->name;
	for (enum mode m = IDLE; m <= last; m++) {
		struct result r = measure(row, m);
		double base = median_of(row->above, m);

		done[ndone].median[m] = r.median;
		b_print(row->name, m, r.median, r.p99, "ns",
			row->bar[m].median ? row->bar[m].median + base : 0,
			row->bar[m].p99 ? row->bar[m].p99 + base : 0);
	}
	ndone++;
}

void b_rows(const struct row *rows, unsigned n, char **words)
{
	for (unsigned i = 0; i < n; i++)
		if (b_wanted(rows[i].name, words))
			measure_row(&rows[i]);
}

/* -- Noise: what two threads without any KVM need to tell each other something -- */

static struct {
	_Atomic unsigned request, answer;
	_Atomic bool stop;
	_Atomic uint64_t work;
} noise;

static void *answer_main(void *arg)
{
	(void)arg;
	while (!atomic_load(&noise.stop))
		atomic_store(&noise.answer, atomic_load(&noise.request));
	return NULL;
}

static void *busy_main(void *arg)
{
	(void)arg;
	while (!atomic_load(&noise.stop))
		atomic_fetch_add(&noise.work, 1);
	return NULL;
}

static struct result ask(unsigned n, bool pause)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned q = atomic_load(&noise.request) + 1;
		uint64_t t;

		if (pause)
			usleep(PAUSE_US);
		t = b_now();
		atomic_store(&noise.request, q);
		while (atomic_load(&noise.answer) != q)
			;
		samples[i] = (double)(b_now() - t);
	}
	return judge(n);
}

/* One thread answers; with one it is all that runs, with eight seven more are busy. */
static void noise_mode(enum mode mode, unsigned threads)
{
	pthread_t thread[BUSY_MAX];
	struct result best = {0};

	atomic_store(&noise.stop, false);
	for (unsigned i = 0; i < threads; i++)
		KU_CHECK(pthread_create(&thread[i], NULL, i ? busy_main : answer_main, NULL) == 0);
	ask(5, false);
	for (unsigned run = 0; run < RUNS; run++)
		improve(&best, mode == EIGHT ? ask(40, true) : ask(SAMPLES_MAX, false));
	atomic_store(&noise.stop, true);
	for (unsigned i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	b_print("noise: ask another thread", mode, best.median, best.p99, "ns", 0, 0);
}

void b_noise(char **words)
{
	if (ku_oracle() || !b_wanted("noise", words))
		return;
	noise_mode(ONE, 1);
	noise_mode(EIGHT, BUSY_MAX);
}
