/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { M = 48 };

/* SSE: doubles and floats, only operations that IEEE 754 rounds in one way. */
static void matrices(struct rng *r)
{
	static double a[M][M], b[M][M], c[M][M], save[M][M], x[M];
	for (int i = 0; i < M; i++)
		for (int j = 0; j < M; j++) {
			a[i][j] = (double)(int64_t)(rng_next(r) % 2001 - 1000) / 64;
			b[i][j] = (double)(int64_t)(rng_next(r) % 2001 - 1000) / 128;
		}
	memset(c, 0, sizeof(c));
	for (int i = 0; i < M; i++)
		for (int k = 0; k < M; k++)
			for (int j = 0; j < M; j++)
				c[i][j] += a[i][k] * b[k][j];
	printf("product %s\n", sha256_hex(c, sizeof(c)));
	/* Solves c x = c 1 by elimination: x must come out as ones. */
	memcpy(save, c, sizeof(c));
	for (int i = 0; i < M; i++) {
		x[i] = 0;
		for (int j = 0; j < M; j++)
			x[i] += c[i][j];
	}
	for (int p = 0; p < M; p++) {
		int best = p;
		for (int i = p + 1; i < M; i++)
			if (fabs(c[i][p]) > fabs(c[best][p]))
				best = i;
		for (int j = 0; j < M; j++) {
			double t = c[p][j];
			c[p][j] = c[best][j];
			c[best][j] = t;
		}
		double t = x[p];
		x[p] = x[best];
		x[best] = t;
		for (int i = p + 1; i < M; i++) {
			double f = c[i][p] / c[p][p];
			for (int j = p; j < M; j++)
				c[i][j] -= f * c[p][j];
			x[i] -= f * x[p];
		}
	}
	double worst = 0;
	for (int i = M - 1; i >= 0; i--) {
		for (int j = i + 1; j < M; j++)
			x[i] -= c[i][j] * x[j];
		x[i] /= c[i][i];
		worst = fmax(worst, fabs(x[i] - 1));
	}
	expect(worst < 1e-6, "solution of linear equations");
	printf("solution %s\n", sha256_hex(x, sizeof(x)));
}

/* x87: long doubles, with square roots and the conversions both ways. */
static void extended(struct rng *r)
{
	long double sum = 0, product = 1;
	for (int i = 1; i < 20000; i++) {
		long double v = (long double)(rng_next(r) >> 11) / 9007199254740992.0L;
		sum += sqrtl(v) / i;
		product *= 1 + v / 1000;
		if (product > 1e6L)
			product /= 1e6L;
	}
	printf("extended %La %La %lld\n", sum, product, (long long)(sum * 1e15L));
}

void part_float(uint64_t seed)
{
	struct rng r = {seed + 4711};
	float f = 0;
	matrices(&r);
	extended(&r);
	for (int i = 0; i < 100000; i++)
		f = f * 0.999f + (float)(int32_t)rng_next(&r) / 65536;
	printf("floats %a\n", f);
	char text[64];
	double back;
	for (int i = 0; i < 3000; i++) {
		double d = (double)(int64_t)rng_next(&r) / (double)(rng_next(&r) | 1);
		snprintf(text, sizeof(text), "%.17g", d);
		sscanf(text, "%lf", &back);
		expect(back == d, "a double printed and read again");
	}
}
