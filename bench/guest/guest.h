/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest program of `make bench B=guest`: static, run natively and as /init of a guest. Each row does a fixed
 * amount of work, `work` units of about 1/1000 of it, and returns a checksum that is the same everywhere.
 */
#ifndef USERKVM_BENCH_GUEST_H
#define USERKVM_BENCH_GUEST_H

#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* compute.c */
uint64_t row_sha(unsigned work);
uint64_t row_chacha(unsigned work);
uint64_t row_qsort(unsigned work);
uint64_t row_sieve(unsigned work);
uint64_t row_bytecode(unsigned work);
uint64_t row_deflate(unsigned work);
/* vector.c */
uint64_t row_nbody(unsigned work);
uint64_t row_matmul(unsigned work);
uint64_t row_chase(unsigned work);
uint64_t row_memcpy(unsigned work);
uint64_t row_aes(unsigned work);
/* os.c */
uint64_t row_syscall(unsigned work);
uint64_t row_pipe(unsigned work);
uint64_t row_fork(unsigned work);
uint64_t row_fault(unsigned work);
uint64_t row_signal(unsigned work);

static inline uint64_t mix(uint64_t h, uint64_t v)
{
	return (h ^ v) * 1099511628211ULL;
}

static inline uint32_t rnd(uint32_t *s)
{
	*s = *s * 1664525U + 1013904223U;
	return *s >> 8;
}

#endif
