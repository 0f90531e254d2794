/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small words that every room uses, and the one allocator that tests can make fail. */
#ifndef USERKVM_BASE_UTIL_H
#define USERKVM_BASE_UTIL_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define ARRAY_SIZE(a)			(sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)			((a) < (b) ? (a) : (b))
#define MAX(a, b)			((a) > (b) ? (a) : (b))
#define BIT(n)				(1ULL << (n))
#define likely(x)			__builtin_expect(!!(x), 1)
#define unlikely(x)			__builtin_expect(!!(x), 0)
#define PAGE_SHIFT			12
#define PAGE_SIZE			4096UL
#define PAGE_OFFSET_MASK		(PAGE_SIZE - 1)

/*
 * Zeroed memory of `size` bytes, or NULL. Every allocation of the library goes through here, so that
 * a test can make the n-th one fail (base_alloc_fail_at). Free with base_free. Takes no lock of ours.
 */
void *base_zalloc(size_t size);
void *base_zalloc_aligned(size_t align, size_t size);
void base_free(void *p);

/* Test hook: the n-th allocation from now (1 = the next) fails; 0 switches it off. Per process. Returns what was
 * left of the number set before: 0 if that allocation was made and failed. */
long base_alloc_fail_at(long n);
/* Number of allocations not yet freed; for leak checks in tests. */
long base_alloc_live(void);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t base_now_ns(void);
/* The host's TSC frequency in kHz: from CPUID 0x15/0x16 where it tells, else calibrated once (about 10 ms).
 */
uint32_t base_tsc_khz(void);

static inline uint64_t base_rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return ((uint64_t)hi << 32) | lo;
}

/*
 * The cheap half of a pair "store mine, then look at yours" whose other half is rare and has base_membarrier between its
 * store and its look: here the compiler keeps the order, and the barrier makes the CPU have kept it. A thread that
 * looked before the barrier has its store seen after it; one that looks later sees the other's store.
 */
static inline void base_light_fence(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

/* A full fence. TSan does not model fences; it gets a locked access to a word of the caller's. */
static inline void base_fence(void)
{
#ifdef __SANITIZE_THREAD__
	_Atomic int here = 0;

	atomic_fetch_add(&here, 1);
#else
	atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* a * b / c with a 128-bit intermediate. */
static inline uint64_t mul_div64(uint64_t a, uint64_t b, uint64_t c)
{
	return (uint64_t)((unsigned __int128)a * b / c);
}

#endif
