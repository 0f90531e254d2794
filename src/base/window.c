/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of windows, and the copies that use one. */
#include "base/window.h"

#include <sys/mman.h>

#include "base/lock.h"
#include "base/sys.h"

/* Bounds of the section, made by the linker; this file's own windows keep it from being absent. */
extern const struct base_window __start_ukvm_windows[] __attribute__((visibility("hidden")));
extern const struct base_window __stop_ukvm_windows[] __attribute__((visibility("hidden")));

struct window {
	uint64_t start, end, fault, again;
};

/* Number of entries: computed on integers, for to the compiler the two symbols are different objects. */
static size_t section_entries(void)
{
	return ((uintptr_t)__stop_ukvm_windows - (uintptr_t)__start_ukvm_windows) /
	       sizeof(struct base_window);
}

static bool (*_Atomic also)(uint64_t pc, uint64_t *fault, uint64_t *again);
static const struct window *sorted; /* by start; NULL until the constructor ran */
static size_t nwindows;

/* An entry with its offsets made absolute. */
static struct window resolve(const struct base_window *w)
{
	return (struct window){
	    .start = (uint64_t)&w->start + (uint64_t)(int64_t)w->start,
	    .end = (uint64_t)&w->end + (uint64_t)(int64_t)w->end,
	    .fault = (uint64_t)&w->fault + (uint64_t)(int64_t)w->fault,
	    .again = (uint64_t)&w->again + (uint64_t)(int64_t)w->again,
	};
}

/* Sorts by start: shell sort, since libc's qsort may allocate. */
static void sort_windows(struct window *t, size_t n)
{
	for (size_t gap = n / 2; gap; gap /= 2) {
		for (size_t i = gap; i < n; i++) {
			struct window w = t[i];
			size_t j = i;

			for (; j >= gap && t[j - gap].start > w.start; j -= gap)
				t[j] = t[j - gap];
			t[j] = w;
		}
	}
}

/* Builds the sorted table before main; without memory for it, look-ups go through the section itself. */
static __attribute__((constructor(101))) void window_prepare(void)
{
	size_t n = section_entries();
	long p = sys_call(SYS_mmap, 0, n * sizeof(struct window), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct window *t = (struct window *)p;

	if (p < 0 && p > -4096)
		return;
	for (size_t i = 0; i < n; i++)
		t[i] = resolve(&__start_ukvm_windows[i]);
	sort_windows(t, n);
	sys_call(SYS_mprotect, t, n * sizeof(*t), PROT_READ);
	nwindows = n;
	sorted = t;
}

/* Linear look-up in the section. */
static bool find_unsorted(uint64_t pc, struct window *out)
{
	for (size_t i = 0; i < section_entries(); i++) {
		*out = resolve(&__start_ukvm_windows[i]);
		if (pc >= out->start && pc < out->end)
			return true;
	}
	return false;
}

/* Binary look-up: windows do not overlap, so the last one that starts at or before pc decides. */
static __attribute__((no_sanitize("thread"))) bool find_sorted(uint64_t pc, struct window *out)
{
	size_t lo = 0, hi = nwindows;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (sorted[mid].start <= pc)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || pc >= sorted[lo - 1].end)
		return false;
	*out = sorted[lo - 1];
	return true;
}

__attribute__((no_sanitize("thread"))) bool base_window_find(uint64_t pc, uint64_t *fault, uint64_t *again)
{
	struct window w = {0};

	bool (*more)(uint64_t, uint64_t *, uint64_t *) = atomic_load_explicit(&also, memory_order_relaxed);

	if (!(sorted ? find_sorted(pc, &w) : find_unsorted(pc, &w)))
		return more && more(pc, fault, again);
	*fault = w.fault;
	*again = w.again;
	return true;
}

void base_window_also(bool (*fn)(uint64_t pc, uint64_t *fault, uint64_t *again))
{
	atomic_store(&also, fn);
}

/* -- Copies -- */

/* A bulk copy; returns the number of bytes not copied. A fault leaves the count in RCX; so does a revocation,
 * which goes on where it was. */
static size_t copy_bytes(void *dst, const void *src, size_t len)
{
	__asm__ volatile("1:\n\trep movsb\n2:\n" WINDOW("1b", "2b", "2b", "1b")
			 : "+D"(dst), "+S"(src), "+c"(len)
			 :
			 : "memory");
	return len;
}

/* The error that the accesses below preset, and clear when they got through. */
#define DEFINE_LOAD(bits, suffix, mod)                                                            \
	static int load##bits(void *dst, const void *src)                                         \
	{                                                                                         \
		int err = -EFAULT;                                                                \
		uint##bits##_t v = 0;                                                             \
                                                                                                  \
		__asm__ volatile("1:\n\tmov" suffix " (%[p]), %" mod                              \
				 "[v]\n2:\n\txor %[e], %[e]\n3:\n" WINDOW("1b", "2b", "3b", "1b") \
				 : [v] "+&q"(v), [e] "+&r"(err)                                   \
				 : [p] "r"(src)                                                   \
				 : "memory", "cc");                                               \
		memcpy(dst, &v, sizeof(v));                                                       \
		return err;                                                                       \
	}
#define DEFINE_STORE(bits, suffix, mod)                                                                   \
	static int store##bits(void *dst, const void *src)                                                \
	{                                                                                                 \
		int err = -EFAULT;                                                                        \
		uint##bits##_t v;                                                                         \
                                                                                                          \
		memcpy(&v, src, sizeof(v));                                                               \
		__asm__ volatile("1:\n\tmov" suffix " %" mod                                              \
				 "[v], (%[p])\n2:\n\txor %[e], %[e]\n3:\n" WINDOW("1b", "2b", "3b", "1b") \
				 : [e] "+&r"(err)                                                         \
				 : [p] "r"(dst), [v] "q"(v)                                               \
				 : "memory", "cc");                                                       \
		return err;                                                                               \
	}
DEFINE_LOAD(16, "w", "w")
DEFINE_LOAD(32, "l", "k")
DEFINE_LOAD(64, "q", "q")
DEFINE_STORE(16, "w", "w")
DEFINE_STORE(32, "l", "k")
DEFINE_STORE(64, "q", "q")

int base_copy_in(void *dst, const void *unsafe_src, size_t len)
{
	lock_assert_may_fault("base_copy_in");
	/* A word in one access: other threads write flags and counters there. */
	switch (len) {
	case 2: return load16(dst, unsafe_src);
	case 4: return load32(dst, unsafe_src);
	case 8: return load64(dst, unsafe_src);
	default: return copy_bytes(dst, unsafe_src, len) ? -EFAULT : 0;
	}
}

int base_copy_out(void *unsafe_dst, const void *src, size_t len)
{
	lock_assert_may_fault("base_copy_out");
	switch (len) {
	case 2: return store16(unsafe_dst, src);
	case 4: return store32(unsafe_dst, src);
	case 8: return store64(unsafe_dst, src);
	default: return copy_bytes(unsafe_dst, src, len) ? -EFAULT : 0;
	}
}

int base_cmpxchg32_unsafe(uint32_t *unsafe, uint32_t *old, uint32_t val)
{
	uint32_t seen = *old;
	int err = -EFAULT;

	lock_assert_may_fault("base_cmpxchg32_unsafe");
	__asm__ volatile(
	    "1:\n\tlock cmpxchgl %[v], (%[p])\n2:\n\tmovl $0, %[e]\n3:\n" WINDOW("1b", "2b", "3b", "1b")
	    : "+&a"(seen), [e] "+&r"(err)
	    : [p] "r"(unsafe), [v] "r"(val)
	    : "memory", "cc");
	*old = seen;
	return err;
}

int base_cmpxchg64_unsafe(uint64_t *unsafe, uint64_t *old, uint64_t val)
{
	uint64_t seen = *old;
	int err = -EFAULT;

	lock_assert_may_fault("base_cmpxchg64_unsafe");
	__asm__ volatile(
	    "1:\n\tlock cmpxchgq %[v], (%[p])\n2:\n\tmovl $0, %[e]\n3:\n" WINDOW("1b", "2b", "3b", "1b")
	    : "+&a"(seen), [e] "+&r"(err)
	    : [p] "r"(unsafe), [v] "r"(val)
	    : "memory", "cc");
	*old = seen;
	return err;
}

/* -- Guarded -- */

/* The window's last instruction is the one that changes memory: behind it a revocation comes too late. */
#define GUARDED(body)                                                                        \
	"771:\tcmpq %[want], %[now]\n\tjne 773f\n\t" body "\n772:\txor %[left], %[left]\n\t" \
	"jmp 773f\n774:\tmov $-14, %[left]\n773:\n" WINDOW("771b", "772b", "774b", "771b")
#define GUARD(g) [want] "r"((g)->expected), [now] "m"(*(const uint64_t *)(g)->seq)

#define DEFINE_GUARDED(bits, suffix, mod)                                                             \
	static long guarded##bits(void *dst, const void *src, const struct base_guard *g)             \
	{                                                                                             \
		long left = (bits) / 8;                                                               \
		uint##bits##_t v;                                                                     \
                                                                                                      \
		__asm__ volatile(                                                                     \
		    GUARDED("mov" suffix " (%[s]), %" mod "[v]\n\tmov" suffix " %" mod "[v], (%[d])") \
		    : [left] "+&r"(left), [v] "=&q"(v)                                                \
		    : [s] "r"(src), [d] "r"(dst), GUARD(g)                                            \
		    : "memory", "cc");                                                                \
		return left;                                                                          \
	}
DEFINE_GUARDED(16, "w", "w")
DEFINE_GUARDED(32, "l", "k")
DEFINE_GUARDED(64, "q", "q")

/* RCX counts down what is left, whatever happens. */
static long guarded_bytes(void *dst, const void *src, size_t len, const struct base_guard *g)
{
	long left = 1;

	__asm__ volatile(GUARDED("rep movsb")
			 : [left] "+&r"(left), "+&D"(dst), "+&S"(src), "+&c"(len)
			 : GUARD(g)
			 : "memory", "cc");
	return left > 0 ? (long)len : left;
}

long base_guarded_copy(void *dst, const void *src, size_t len, const struct base_guard *g)
{
	lock_assert_may_fault("base_guarded_copy");
	switch (len) {
	case 2: return guarded16(dst, src, g);
	case 4: return guarded32(dst, src, g);
	case 8: return guarded64(dst, src, g);
	default: return guarded_bytes(dst, src, len, g);
	}
}

int base_guarded_cmpxchg(void *p, unsigned size, uint64_t *old, uint64_t val, const struct base_guard *g)
{
	uint64_t seen = *old;
	long left = 1;

	lock_assert_may_fault("base_guarded_cmpxchg");
	if (size == 8)
		__asm__ volatile(GUARDED("lock cmpxchgq %[v], (%[p])")
				 : "+&a"(seen), [left] "+&r"(left)
				 : [p] "r"(p), [v] "r"(val), GUARD(g)
				 : "memory", "cc");
	else
		__asm__ volatile(GUARDED("lock cmpxchgl %k[v], (%[p])")
				 : "+&a"(seen), [left] "+&r"(left)
				 : [p] "r"(p), [v] "r"(val), GUARD(g)
				 : "memory", "cc");
	if (!left)
		*old = size == 8 ? seen : (uint32_t)seen;
	return (int)left;
}
