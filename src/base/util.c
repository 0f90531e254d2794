/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that tests can make fail, the clock, and the TSC's frequency. */
#include "base/util.h"

#include <cpuid.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "base/lock.h"
#include "base/mutate.h"
#include "base/sys.h"

/* In front of every block: where it came from. */
struct block {
	void *raw;
	size_t mapped; /* bytes mapped, 0 = from the heap */
};

#define BLOCK_ALIGN 16

/*
 * From here on blocks are mapped: untouched pages then cost nothing. ASan's leak checker does not look into
 * foreign mappings, and ThreadSanitizer does not see them go and come back, so under both all is the heap's.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAP_FROM SIZE_MAX
#else
#define MAP_FROM (64UL << 10)
#endif
#define HEAP_UNTOUCHED (1UL << 20) /* bytes from which on it takes a block's zeros from the kernel */

static _Atomic long fail_at;
static _Atomic long live;

_Static_assert(sizeof(struct block) == BLOCK_ALIGN, "a block's header keeps malloc's alignment");

/* True if a test wants this allocation to fail. */
static bool told_to_fail(void)
{
	if (likely(atomic_load_explicit(&fail_at, memory_order_relaxed) <= 0))
		return false;
	return atomic_fetch_sub(&fail_at, 1) == 1;
}

/* `total` zeroed bytes from the kernel, or NULL. */
static void *map_zeroed(size_t total)
{
	long p = sys_call(SYS_mmap, 0, total, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

/* `total` zeroed bytes from the heap, or NULL. Of a large block the kernel makes the zeros: ThreadSanitizer's calloc would
 * write all of it, 20 MiB for each vCPU. */
static void *heap_zeroed(size_t total)
{
	char *p, *pages;
	size_t edge, inner;

	if (total < HEAP_UNTOUCHED)
		return calloc(1, total);
	p = malloc(total);
	if (!p)
		return NULL;
	pages = (char *)(((uintptr_t)p + PAGE_OFFSET_MASK) & ~PAGE_OFFSET_MASK);
	edge = (size_t)(pages - p);
	inner = (total - edge) & ~PAGE_OFFSET_MASK;
	if (sys_call(SYS_madvise, pages, inner, MADV_DONTNEED))
		memset(pages, 0, inner);
	memset(p, 0, edge);
	memset(pages + inner, 0, total - edge - inner);
	return p;
}

void *base_zalloc_aligned(size_t align, size_t size)
{
	size_t total;
	struct block b;
	char *p;

	lock_assert_may_alloc();
	align = MAX(align, (size_t)BLOCK_ALIGN);
	if (size > PTRDIFF_MAX - 2 * align || told_to_fail())
		return NULL;
	total = size + align + (align > BLOCK_ALIGN ? BLOCK_ALIGN : 0);
	b.mapped = total >= MAP_FROM ? (total + PAGE_OFFSET_MASK) & ~PAGE_OFFSET_MASK : 0;
	b.raw = b.mapped ? map_zeroed(b.mapped) : heap_zeroed(total);
	if (!b.raw)
		return NULL;
	p = (char *)(((uintptr_t)b.raw + sizeof(b) + align - 1) & ~(align - 1));
	memcpy(p - sizeof(b), &b, sizeof(b));
	atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
	return p;
}

void *base_zalloc(size_t size)
{
	return base_zalloc_aligned(BLOCK_ALIGN, size);
}

void base_free(void *p)
{
	struct block b;

	if (!p)
		return;
	lock_assert_may_alloc();
	memcpy(&b, (char *)p - sizeof(b), sizeof(b));
	atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
	if (b.mapped)
		sys_call(SYS_munmap, b.raw, b.mapped);
	else
		free(b.raw);
}

long base_alloc_fail_at(long n)
{
	long left = atomic_exchange(&fail_at, n);

	return MAX(left, 0L);
}

long base_alloc_live(void)
{
	return atomic_load(&live);
}

uint64_t base_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* -- TSC frequency -- */

struct tsc_sample {
	uint64_t ns, tsc;
};

/* The tightest of a few (clock, TSC) pairs, so that a preemption between the two does not count. */
static struct tsc_sample tsc_sample(void)
{
	struct tsc_sample best = {0};
	uint64_t width = UINT64_MAX;
	struct timespec ts;

	for (int i = 0; i < 16; i++) {
		uint64_t before = base_rdtsc(), after;

		clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
		after = base_rdtsc();
		if (after - before >= width)
			continue;
		width = after - before;
		best.tsc = before + width / 2;
		best.ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	}
	return best;
}

#define TSC_WINDOW_NS 2000000 /* two samples so far apart tell the frequency to a few parts in a million */

static struct tsc_sample loaded;

/* The first sample is taken early, so that whoever wants to know need not wait for the second. */
static __attribute__((constructor)) void tsc_begin(void)
{
	loaded = tsc_sample();
}

/* TSC ticks per millisecond. */
static uint32_t tsc_measure(void)
{
	struct tsc_sample first = mutated(PAUSE_TSC) ? tsc_sample() : loaded, now;

	do {
		now = tsc_sample();
	} while (now.ns - first.ns < TSC_WINDOW_NS);
	return (uint32_t)mul_div64(now.tsc - first.tsc, 1000000, now.ns - first.ns);
}

/*
 * What CPUID leaf 0x15 says (SDM 3B 19.7.3), with the crystal derived from leaf 0x16 where it is not named;
 * 0 = nothing.
 */
static uint32_t tsc_told(void)
{
	uint32_t den, num, hz, edx, mhz, b, c, d;

	if (!__get_cpuid(0x15, &den, &num, &hz, &edx) || !den || !num)
		return 0;
	if (hz)
		return (uint32_t)mul_div64(hz, num, (uint64_t)den * 1000);
	if (!__get_cpuid(0x16, &mhz, &b, &c, &d))
		return 0;
	return (mhz & 0xffff) * 1000;
}

uint32_t base_tsc_khz(void)
{
	static _Atomic uint32_t cached;
	uint32_t khz = atomic_load(&cached), told, seen;

	if (khz)
		return khz;
	told = tsc_told();
	/* A hypervisor may pass on leaves that do not describe the clock its guest sees: believe, but look.
	 */
	seen = tsc_measure();
	khz = told && told / 2000 >= (told > seen ? told - seen : seen - told) ? told : seen;
	atomic_store(&cached, khz);
	return khz;
}
