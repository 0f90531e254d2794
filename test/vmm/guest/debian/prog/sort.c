/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 60000 };

struct node {
	struct node *next;
	uint64_t key;
	char text[24];
};

static int by_key(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static int by_text(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;
	int c = strcmp(x->text, y->text);
	return c ? c : by_key(&x->key, &y->key);
}

static void radix(uint64_t *v, uint64_t *tmp, size_t n)
{
	for (int shift = 0; shift < 64; shift += 8) {
		size_t at[257] = {0};
		for (size_t i = 0; i < n; i++)
			at[(v[i] >> shift & 255) + 1]++;
		for (int i = 0; i < 256; i++)
			at[i + 1] += at[i];
		for (size_t i = 0; i < n; i++)
			tmp[at[v[i] >> shift & 255]++] = v[i];
		memcpy(v, tmp, n * sizeof(*v));
	}
}

/* Strings in a hash table, taken out in order. */
static void words(struct rng *r)
{
	enum { BUCKETS = 4096, WORDS = 20000 };
	struct node **bucket = calloc(BUCKETS, sizeof(*bucket)), **all = calloc(WORDS, sizeof(*all));
	size_t n = 0, twice = 0;
	expect(bucket && all, "calloc");
	for (int i = 0; i < WORDS; i++) {
		char text[24];
		uint32_t h = 2166136261u;
		snprintf(text, sizeof(text), "w%llx", (unsigned long long)(rng_next(r) % 15000));
		for (char *c = text; *c; c++)
			h = (h ^ (uint8_t)*c) * 16777619u;
		struct node **b = &bucket[h % BUCKETS], *w = *b;
		while (w && strcmp(w->text, text))
			w = w->next;
		if (w) {
			w->key++;
			twice++;
			continue;
		}
		w = calloc(1, sizeof(*w));
		expect(w != NULL, "calloc");
		memcpy(w->text, text, sizeof(text));
		w->next = *b;
		*b = all[n++] = w;
	}
	expect(n + twice == WORDS, "words");
	qsort(all, n, sizeof(*all), by_text);
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++) {
		expect(i == 0 || strcmp(all[i - 1]->text, all[i]->text) < 0, "order of words");
		sum = sum * 31 + all[i]->key + (uint64_t)(unsigned char)all[i]->text[1];
	}
	printf("words %zu sum %llx\n", n, (unsigned long long)sum);
	for (size_t i = 0; i < n; i++)
		free(all[i]);
	free(all);
	free(bucket);
}

void part_sort(uint64_t seed)
{
	struct rng r = {seed ^ 0x5eed};
	uint64_t *a = malloc(N * sizeof(*a)), *b = malloc(N * sizeof(*b)), *tmp = malloc(N * sizeof(*tmp));
	expect(a && b && tmp, "malloc");
	for (int i = 0; i < N; i++)
		a[i] = b[i] = rng_next(&r);
	qsort(a, N, sizeof(*a), by_key);
	radix(b, tmp, N);
	expect(!memcmp(a, b, N * sizeof(*a)), "qsort against radix sort");
	for (int i = 1; i < N; i++)
		expect(a[i - 1] <= a[i], "order");
	for (int i = 0; i < N; i += 7)
		expect(bsearch(&b[i], a, N, sizeof(*a), by_key) != NULL, "bsearch");
	printf("sorted %s\n", sha256_hex(a, N * sizeof(*a)));
	free(a);
	free(b);
	free(tmp);
	words(&r);
}
