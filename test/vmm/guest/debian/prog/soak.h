/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The program that a Debian guest compiles and runs over and over (tools/soak.sh). The host compiles and runs it too;
 * every line it prints is the same on any x86-64. Own words, own code: no library but the C library. */
#ifndef SOAK_H
#define SOAK_H
#include <stddef.h>
#include <stdint.h>

/* The same numbers for the same seed, everywhere. */
struct rng {
	uint64_t s;
};
static inline uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* 32 bytes of SHA-256 of @len bytes at @p. */
void sha256(const void *p, size_t len, uint8_t out[32]);

/* A digest in hex, in static memory. */
const char *sha256_hex(const void *p, size_t len);

/* Each part prints lines "name value" and stops the program if a value that mathematics knows is wrong. */
void part_digest(uint64_t seed);
void part_numbers(uint64_t seed);
void part_sort(uint64_t seed);
void part_pack(uint64_t seed);
void part_float(uint64_t seed);
void part_threads(uint64_t seed);
void part_process(uint64_t seed);

/* Stops with a line on both outputs unless @ok. */
void expect(int ok, const char *what);
#endif
