/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Floating point, vectors and memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <wmmintrin.h>

#include "guest.h"

/* -- nbody: double, scalar SSE2 -- */

struct body {
	double x[3], v[3], m;
};

static double energy(const struct body *b, unsigned n)
{
	double e = 0;

	for (unsigned i = 0; i < n; i++) {
		e += b[i].m * (b[i].v[0] * b[i].v[0] + b[i].v[1] * b[i].v[1] + b[i].v[2] * b[i].v[2]) / 2;
		for (unsigned j = i + 1; j < n; j++) {
			double d0 = b[i].x[0] - b[j].x[0], d1 = b[i].x[1] - b[j].x[1],
			       d2 = b[i].x[2] - b[j].x[2];

			e -= b[i].m * b[j].m / sqrt(d0 * d0 + d1 * d1 + d2 * d2);
		}
	}
	return e;
}

static void advance(struct body *b, unsigned n, double dt)
{
	for (unsigned i = 0; i < n; i++)
		for (unsigned j = i + 1; j < n; j++) {
			double d[3], r2 = 0, mag;

			for (unsigned k = 0; k < 3; k++) {
				d[k] = b[i].x[k] - b[j].x[k];
				r2 += d[k] * d[k];
			}
			mag = dt / (r2 * sqrt(r2));
			for (unsigned k = 0; k < 3; k++) {
				b[i].v[k] -= d[k] * b[j].m * mag;
				b[j].v[k] += d[k] * b[i].m * mag;
			}
		}
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < 3; k++)
			b[i].x[k] += dt * b[i].v[k];
}

uint64_t row_nbody(unsigned work)
{
	struct body b[5];
	uint32_t seed = 5;
	uint64_t bits;
	double e;

	for (unsigned i = 0; i < 5; i++) {
		for (unsigned k = 0; k < 3; k++) {
			b[i].x[k] = (double)(i * 7 + k * 3) + rnd(&seed) % 100 / 100.0;
			b[i].v[k] = rnd(&seed) % 100 / 1000.0;
		}
		b[i].m = 1 + i;
	}
	for (unsigned n = 0; n < work * 5600; n++)
		advance(b, 5, 0.001);
	e = energy(b, 5);
	memcpy(&bits, &e, 8);
	return bits;
}

/* -- matmul: float, four at a time -- */

typedef float v4 __attribute__((vector_size(16)));

uint64_t row_matmul(unsigned work)
{
	enum { N = 64 };
	static v4 a[N][N / 4], b[N][N / 4], c[N][N / 4];
	uint64_t sum = 0;
	uint32_t seed = 6;

	for (unsigned i = 0; i < N * N; i++) {
		((float *)a)[i] = (float)(rnd(&seed) % 64) / 64;
		((float *)b)[i] = (float)(rnd(&seed) % 64) / 64;
	}
	for (unsigned n = 0; n < work * 14; n++) {
		for (unsigned i = 0; i < N; i++)
			for (unsigned j = 0; j < N / 4; j += 4) {
				v4 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};

				for (unsigned k = 0; k < N; k++) {
					v4 x = a[i][k / 4][k % 4] - (v4){0};

					s0 += x * b[k][j];
					s1 += x * b[k][j + 1];
					s2 += x * b[k][j + 2];
					s3 += x * b[k][j + 3];
				}
				c[i][j] = s0;
				c[i][j + 1] = s1;
				c[i][j + 2] = s2;
				c[i][j + 3] = s3;
			}
		a[n % N][1] = c[n % N][2] / 64;
		sum = mix(sum, (uint64_t)c[n % N][3][1]);
	}
	return sum;
}

/* -- chase: dependent loads over 4 MiB, a page apart as often as not -- */

uint64_t row_chase(unsigned work)
{
	enum { N = 1 << 16 };
	struct node {
		struct node *next;
		uint64_t id, pad[6];
	} *pool = malloc(N * sizeof(*pool)), *p;
	uint32_t *order = malloc(N * sizeof(*order)), seed = 7;
	uint64_t sum = 0;

	for (uint32_t i = 0; i < N; i++)
		order[i] = i;
	for (uint32_t i = N - 1; i; i--) {
		uint32_t j = rnd(&seed) % i, t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < N; i++) {
		pool[order[i]].next = &pool[order[(i + 1) % N]];
		pool[order[i]].id = i;
	}
	p = pool;
	for (uint64_t n = 0; n < work * 8000ULL; n++) {
		p = p->next;
		sum += p->id;
	}
	free(order);
	free(pool);
	return sum;
}

/* -- memcpy: libc's choice, small and large -- */

uint64_t row_memcpy(unsigned work)
{
	enum { N = 1 << 18 };
	static uint8_t a[N + 64], b[N + 64];
	uint64_t sum = 0;
	uint32_t seed = 8;

	for (unsigned i = 0; i < N; i++)
		a[i] = (uint8_t)rnd(&seed);
	for (unsigned n = 0; n < work * 16; n++) {
		memcpy(b + n % 64, a, N);
		sum += b[(n * 4099) % N];
		for (unsigned i = 0; i < 512; i++) {
			memcpy(b + i * 128 + n % 7, a + i * 256 + n % 64, 16 + i % 97);
			sum += b[i * 128];
		}
		a[n % N]++;
	}
	return sum;
}

/* -- aes: AES-128-CTR by AES-NI -- */

__attribute__((target("aes,sse4.1"))) uint64_t row_aes(unsigned work)
{
	__m128i key[11], sum = _mm_setzero_si128();
	uint64_t out[2];

	for (unsigned i = 0; i < 11; i++)
		key[i] = _mm_set_epi64x((long long)(0x9e3779b97f4a7c15ULL * (i + 1)), (long long)i * 77);
	for (uint64_t n = 0; n < work * 56000ULL; n += 4) {
		__m128i s[4];

		for (unsigned k = 0; k < 4; k++)
			s[k] = _mm_xor_si128(_mm_set_epi64x(1, (long long)(n + k)), key[0]);
		for (unsigned r = 1; r < 10; r++)
			for (unsigned k = 0; k < 4; k++)
				s[k] = _mm_aesenc_si128(s[k], key[r]);
		for (unsigned k = 0; k < 4; k++)
			sum = _mm_add_epi64(sum, _mm_aesenclast_si128(s[k], key[10]));
	}
	memcpy(out, &sum, 16);
	return out[0] ^ out[1];
}
