/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Digits of pi in base 10^4 by a spigot (Rabinowitz and Wagon): all divisions and carries. */
static void pi(char *out, int groups)
{
	int n = groups * 14, len = 0, e = 0, d = 0;
	int *f = malloc((n + 1) * sizeof(*f));
	expect(f != NULL, "malloc");
	for (int i = 0; i <= n; i++)
		f[i] = 2000;
	for (int c = n; c > 0; c -= 14, e = d % 10000) {
		long long acc = 0;
		for (int b = c; b > 0; b--) {
			acc = acc * b + 10000LL * f[b];
			f[b] = (int)(acc % (2 * b - 1));
			acc /= 2 * b - 1;
		}
		d = (int)acc;
		len += sprintf(out + len, "%04d", e + d / 10000);
	}
	free(f);
}

static unsigned primes_below(unsigned n)
{
	uint8_t *sieve = calloc(n, 1);
	unsigned count = 0;
	expect(sieve != NULL, "calloc");
	for (unsigned p = 2; p < n; p++) {
		if (sieve[p])
			continue;
		count++;
		for (uint64_t q = (uint64_t)p * p; q < n; q += p)
			sieve[q] = 1;
	}
	free(sieve);
	return count;
}

static unsigned queens(unsigned all, unsigned cols, unsigned left, unsigned right)
{
	unsigned n = 0;
	if (cols == all)
		return 1;
	for (unsigned free = all & ~(cols | left | right); free; free &= free - 1) {
		unsigned bit = free & -free;
		n += queens(all, cols | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return n;
}

static uint64_t pow_mod(uint64_t b, uint64_t e, uint64_t m)
{
	uint64_t r = 1;
	for (; e; e >>= 1, b = (uint64_t)((unsigned __int128)b * b % m))
		if (e & 1)
			r = (uint64_t)((unsigned __int128)r * b % m);
	return r;
}

/* 2^n in decimal, by doubling: digits are bytes. */
static size_t power_of_two(unsigned n, uint8_t *digit)
{
	size_t len = 1;
	digit[0] = 1;
	while (n--) {
		unsigned carry = 0;
		for (size_t i = 0; i < len; i++) {
			unsigned v = digit[i] * 2u + carry;
			digit[i] = (uint8_t)(v % 10);
			carry = v / 10;
		}
		if (carry)
			digit[len++] = (uint8_t)carry;
	}
	return len;
}

void part_numbers(uint64_t seed)
{
	static char digits[1100];
	static uint8_t power[1000];
	pi(digits, 252);
	expect(!strncmp(digits, "31415926535897932384", 20), "pi");
	expect(!strncmp(digits + 991, "2164201989", 10), "the last of 1000 decimals of pi");
	printf("pi %s\n", sha256_hex(digits, 1000));
	unsigned n = primes_below(1000000);
	expect(n == 78498, "primes below a million");
	expect(queens(0xff, 0, 0, 0) == 92, "eight queens");
	expect(queens(0x3ff, 0, 0, 0) == 724, "ten queens");
	/* 2^61 - 1 is prime: Fermat. */
	uint64_t m61 = (1ull << 61) - 1;
	struct rng r = {seed};
	for (int i = 0; i < 300; i++) {
		uint64_t a = rng_next(&r) % (m61 - 2) + 2;
		expect(pow_mod(a, m61 - 1, m61) == 1, "Fermat");
		if (i % 50 == 0)
			printf("power %llu\n", (unsigned long long)pow_mod(a, rng_next(&r), m61));
	}
	unsigned exponent = 2000 + (unsigned)(seed % 1000), sum = 0;
	size_t len = power_of_two(exponent, power);
	for (size_t i = 0; i < len; i++)
		sum += power[i];
	printf("2^%u %zu digits, sum %u\n", exponent, len, sum);
}
