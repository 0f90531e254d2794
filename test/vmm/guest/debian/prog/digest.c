/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t rotr(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

/* The constants are the first 32 bits of the fractions of square and cube roots of primes: computed, in integers. */
static uint32_t root_fraction(unsigned p, int degree)
{
	/* Largest r with r^degree <= p * 2^(32 * degree). */
	unsigned __int128 r = 0;
	for (int bit = 36; bit >= 0; bit--) {
		unsigned __int128 t = r | (unsigned __int128)1 << bit;
		unsigned __int128 limit = (unsigned __int128)p << (32 * degree);
		unsigned __int128 v = degree == 2 ? t * t : t * t * t;
		if (v <= limit)
			r = t;
	}
	return (uint32_t)r;
}

static struct {
	int ready;
	uint32_t h[8], k[64];
} table;

static void make_table(void)
{
	unsigned n = 0;
	for (unsigned p = 2; n < 64; p++) {
		int prime = 1;
		for (unsigned d = 2; d * d <= p; d++)
			prime &= p % d != 0;
		if (!prime)
			continue;
		if (n < 8)
			table.h[n] = root_fraction(p, 2);
		table.k[n++] = root_fraction(p, 3);
	}
	table.ready = 1;
}

static void block(uint32_t h[8], const uint8_t *p)
{
	uint32_t w[64], s[8];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
		       (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t a = s[0], e = s[4];
		uint32_t t1 = s[7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
			      table.k[i] + w[i];
		uint32_t t2 =
		    (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

void sha256(const void *data, size_t len, uint8_t out[32])
{
	const uint8_t *p = data;
	uint8_t tail[128] = {0};
	uint32_t h[8];
	size_t rest = len % 64, blocks = rest < 56 ? 1 : 2;
	if (!table.ready)
		make_table();
	memcpy(h, table.h, sizeof(h));
	for (size_t i = 0; i < len / 64; i++)
		block(h, p + 64 * i);
	memcpy(tail, p + len - rest, rest);
	tail[rest] = 0x80;
	for (int i = 0; i < 8; i++)
		tail[64 * blocks - 1 - i] = (uint8_t)((uint64_t)len * 8 >> (8 * i));
	for (size_t i = 0; i < blocks; i++)
		block(h, tail + 64 * i);
	for (int i = 0; i < 32; i++)
		out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

const char *sha256_hex(const void *p, size_t len)
{
	static char hex[65];
	uint8_t d[32];
	sha256(p, len, d);
	for (int i = 0; i < 32; i++)
		sprintf(hex + 2 * i, "%02x", d[i]);
	return hex;
}

void part_digest(uint64_t seed)
{
	/* FIPS 180's own examples. */
	static const char million[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
	size_t n = 1000000;
	uint8_t *p = malloc(n);
	expect(p != NULL, "malloc");
	memset(p, 'a', n);
	expect(!strcmp(sha256_hex(p, n), million), "sha256 of a million a");
	expect(
	    !strcmp(sha256_hex("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
	    "sha256 of abc");
	struct rng r = {seed};
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)rng_next(&r);
	for (size_t len = 0; len < 200; len += 13)
		printf("sha256 %zu %.16s\n", len, sha256_hex(p + len, len));
	printf("sha256 %zu %s\n", n, sha256_hex(p, n));
	free(p);
}
