/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes to pages that fill calls tracked: each is told once, whole, when its bytes are in memory. A copy of the
 * tracked pages is made of nothing but what was told; it must be the memory. make check T=engine/track
 */
#include <pthread.h>
#include <stdint.h>

#include "rig.h"
#include "torture.h"

#define CODE_AT 0x6000UL
#define T0	0x40000UL /* two tracked pages that lie together */
#define T1	0x41000UL
#define T2	0x42000UL /* linear; a tracked page elsewhere */
#define T2_GPA	0x90000UL

static struct {
	pthread_mutex_t lock;
	bool tables; /* the page table and the GDT are tracked, too */
	unsigned calls, bytes, torn;
	unsigned last_len;
	uint8_t copy[0x100000];
	uint8_t seen[1 << 20]; /* how often a counter's value was told */
} told = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_tracked(uint64_t gpa)
{
	uint64_t page = gpa & ~0xfffUL;

	return page == T0 || page == T1 || page == T2_GPA || (told.tables && (page == PT || page == GDT));
}

static enum engine_fill fill(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	struct rig *r = ctx;
	bool tracked = is_tracked(gpa);

	if (gpa >= RAM_SIZE)
		return FILL_MMIO;
	*page = (struct engine_page){
	    .host = r->ram + gpa, .writable = write || !tracked, .tracked = tracked, .id = gpa};
	return FILL_FIXED;
}

static void on_tracked(void *ctx, uint64_t gpa, const void *data, unsigned len)
{
	struct rig *r = ctx;

	pthread_mutex_lock(&told.lock);
	told.calls++;
	told.bytes += len;
	told.last_len = len;
	told.torn += !is_tracked(gpa) || (gpa & 0xfff) + len > 0x1000 || memcmp(r->ram + gpa, data, len);
	memcpy(told.copy + gpa, data, len);
	pthread_mutex_unlock(&told.lock);
}

static struct engine_port port;

static struct rig *track_rig(void **state)
{
	struct rig *r = *state;

	port = rig_port;
	port.fill = fill;
	port.tracked = on_tracked;
	r->c->port = &port;
	told.tables = false;
	rig_long(r, 0);
	put(r, PT + (T2 >> 12) * 8, T2_GPA | 7, 8);
	r->c->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	r->c->cr0 |= CR0_NE | CR0_MP;
	engine_set_xcr0(r->c, 3);
	mode_update(r->c);
	mmu_flush_all(r->c);
	for (unsigned k = 0; k < 4096; k++)
		r->ram[0x30000 + k] = (uint8_t)(k * 37 + 11);
	return r;
}

static void begin(struct rig *r)
{
	memcpy(told.copy, r->ram, sizeof(told.copy));
	told.calls = told.bytes = told.torn = told.last_len = 0;
}

static void assert_told(struct rig *r, const char *what, int calls)
{
	static const uint64_t pages[] = {T0, T1, T2_GPA};

	for (unsigned k = 0; k < ARRAY_SIZE(pages); k++)
		if (memcmp(told.copy + pages[k], r->ram + pages[k], 0x1000))
			fail_msg("%s: page %#lx is not what was told", what, (unsigned long)pages[k]);
	if (calls >= 0 && told.calls != (unsigned)calls)
		fail_msg("%s: told %u times, not %d", what, told.calls, calls);
	assert_int_equal(told.torn, 0);
}

/* -- One instruction at a time -- */

/* At the start: rbx, r8, r9, rdi = tracked addresses, rsi = bytes that are not; rcx = 16. */
#define ROWS(X)                                                                                            \
	X("mov", "movb %al, (%rbx)\n movw %ax, 2(%rbx)\n movl %eax, 4(%rbx)\n movq %rax, 8(%rbx)", 4)      \
	X("mov twice", "movl %eax, (%rbx)\n movl %ecx, (%rbx)\n movl %eax, 4(%rbx)", 3)                    \
	X("mov imm", "movq $-5, (%rbx)\n movnti %rax, 8(%rbx)", 2)                                         \
	X("straddle", "movq %rax, (%r8)", 2)                                                               \
	X("straddle apart", "movl %eax, (%r9)", 2)                                                         \
	X("rmw", "addl $3, (%rbx)\n notq (%rbx)\n shlw $2, (%rbx)\n btsl $5, (%rbx)\n incb 1(%rbx)", 5)    \
	X("rmw straddle", "addq %rax, (%r8)", 2)                                                           \
	X("locked", "lock addl $3, (%rbx)\n lock xaddq %rax, (%rbx)\n xchgl %eax, (%rbx)", 3)              \
	X("locked bit", "lock btsq $40, (%rbx)\n lock notl (%rbx)", 2)                                     \
	X("locked straddle", "lock incq (%r8)", 2)                                                         \
	X("locked apart", "lock addl %eax, (%r9)", 2)                                                      \
	X("cmpxchg",                                                                                       \
	  "mov (%rbx), %rax\n lock cmpxchgq %rcx, (%rbx)\n inc %rax\n"                                     \
	  "cmpxchgl %esi, (%rbx)",                                                                         \
	  2)                                                                                               \
	X("cmpxchg8b", "mov (%rbx), %eax\n mov 4(%rbx), %edx\n lock cmpxchg8b (%rbx)", 1)                  \
	X("cmpxchg16b", "mov (%rbx), %rax\n mov 8(%rbx), %rdx\n lock cmpxchg16b (%rbx)", 1)                \
	X("push", "mov %rbx, %rsp\n push %rax\n pushw $7\n push %fs", 3)                                   \
	X("call", "mov %rbx, %rsp\n call 1f\n 1: nop", 1)                                                  \
	X("enter", "mov %rbx, %rsp\n enter $32, $0", 1)                                                    \
	X("pop mem", "mov %rsi, %rsp\n popq (%rbx)", 1)                                                    \
	X("stos", "stosl", 1)                                                                              \
	X("rep stos", "rep stosq", 16)                                                                     \
	X("rep stos over a page", "mov %r8, %rdi\n rep stosl", 17)                                         \
	X("rep movs", "rep movsb", 16)                                                                     \
	X("rep movs apart", "mov %r9, %rdi\n mov $5, %ecx\n rep movsw", 5)                                 \
	X("rep movs back", "std\n rep movsb\n cld", 16)                                                    \
	X("ins", "mov $0x80, %edx\n insl", 1)                                                              \
	X("others", "setz (%rbx)\n sgdt 16(%rbx)\n smsw 40(%rbx)\n mov %ds, 48(%rbx)", -1)                 \
	X("sse",                                                                                           \
	  "movups (%rsi), %xmm0\n movups %xmm0, (%rbx)\n movq %xmm0, 32(%rbx)\n"                           \
	  "movss %xmm0, 48(%rbx)\n movhps %xmm0, 56(%rbx)",                                                \
	  4)                                                                                               \
	X("sse straddle", "movups (%rsi), %xmm0\n movups %xmm0, (%r8)\n movups %xmm0, (%r9)", 4)           \
	X("maskmov", "movups (%rsi), %xmm0\n movups 16(%rsi), %xmm1\n maskmovdqu %xmm1, %xmm0", -1)        \
	X("mxcsr", "movups (%rsi), %xmm0\n stmxcsr (%rbx)", 1)                                             \
	X("x87", "fninit\n fld1\n fstl (%rbx)\n fists 16(%rbx)\n fstpt 32(%rbx)\n fnstcw 48(%rbx)", 4)     \
	X("x87 environment", "fninit\n fnstenv (%rbx)\n fnsave 128(%rbx)", -1)                             \
	X("x87 straddle", "fldpi\n fstpt (%r8)", 2)                                                        \
	X("fxsave", "fxsave64 (%rbx)", -1)                                                                 \
	X("xsave", "mov $3, %eax\n xor %edx, %edx\n xsave64 (%rbx)", -1)                                   \
	X("loads", "mov (%rbx), %rax\n lodsb\n movups (%r8), %xmm0\n cmpxchg %rax, %rcx\n btq $3, (%rbx)", \
	  0)                                                                                               \
	X("others' pages", "movq %rax, (%rsi)\n lock incl 8(%rsi)\n push %rax", 0)

/* The rows' code, one after the other, with the address of each. */
#define ROW_ASM(name, text, calls) \
	"771: " text "\n hlt\n 772: .pushsection .data.rel.ro, \"aw\"\n .quad 771b, 772b\n .popsection\n"
extern const uint8_t *const row_at[];
__asm__(".pushsection .data.rel.ro, \"aw\"\n .balign 8\n row_at:\n .popsection\n"
	".pushsection .text\n" ROWS(ROW_ASM) ".popsection\n");

#define ROW_NAME(name, text, calls) {name, calls},
static const struct {
	const char *name;
	int calls;
} rows[] = {ROWS(ROW_NAME)};

static void load(struct rig *r, const uint8_t *code, const uint8_t *end)
{
	struct engine_cpu *c = r->c;

	memcpy(r->ram + CODE_AT, code, (size_t)(end - code));
	c->rip = CODE_AT;
	c->gpr[RAX] = 0x1122334455667788;
	c->gpr[RCX] = 16;
	c->gpr[RBX] = T0 + 0x100;
	c->gpr[RSP] = 0x9000;
	c->gpr[RSI] = 0x30040;
	c->gpr[RDI] = T0 + 0x800;
	c->gpr[R8] = T1 - 3;
	c->gpr[R9] = T2 - 2;
}

/* Seen to fail with the test of `tracked` removed from tlb_insert, from walk_page's cache ("mov"), from piece_host
 * ("rep stos"), and with span_told removed from rmw_locked ("locked"). */
static void every_kind_of_store_is_told_once(void **state)
{
	struct rig *r = track_rig(state);

	for (unsigned k = 0; k < ARRAY_SIZE(rows); k++) {
		load(r, row_at[2 * k], row_at[2 * k + 1]);
		begin(r);
		if (engine_run(r->c) != ENGINE_EXIT_HLT)
			fail_msg("%s did not reach its end", rows[k].name);
		assert_told(r, rows[k].name, rows[k].calls);
		if (rows[k].calls)
			assert_true(told.calls > 0);
	}
}

__asm__(
    ".pushsection .rodata\n scatter:\n vmovdqu32 (%rsi), %zmm1\n mov $0x5a5b, %eax\n kmovw %eax, %k1\n"
    " vpmovzxbd 16(%rsi), %zmm0\n vpscatterdd %zmm1, (%rbx,%zmm0,4){%k1}\n hlt\n scatter_end:\n .popsection");
extern const uint8_t scatter[], scatter_end[];

static void scattered_elements_are_told(void **state)
{
	struct engine_features f = rig_features;
	struct rig *r = track_rig(state);

	if (!(engine_xcr0_host() & 0xe0))
		skip(); /* a host without AVX-512 */
	f.xcr0_allowed = 0xe7;
	engine_set_features(r->c, &f);
	assert_int_equal(engine_set_xcr0(r->c, 0xe7), 0);
	load(r, scatter, scatter_end);
	begin(r);
	assert_int_equal(engine_run(r->c), ENGINE_EXIT_HLT);
	assert_told(r, "vpscatterdd", __builtin_popcount(0x5a5b));
}

/* -- What the walker and descriptor loads write -- */

static void page_tables_and_descriptors_are_told(void **state)
{
	struct rig *r = track_rig(state);
	struct place p;

	told.tables = true;
	put(r, PT + 0x50 * 8, 0x50007, 8);
	begin(r);
	assert_ok(r->c, mmu_translate(r->c, 0x50000, ACC_READ, &p));
	assert_int_equal(told.calls, 1); /* accessed */
	assert_int_equal(told.last_len, 8);
	assert_ok(r->c, mmu_translate(r->c, 0x50000, ACC_WRITE, &p));
	assert_int_equal(told.calls, 2); /* dirty */
	assert_ok(r->c, mmu_translate(r->c, 0x50000, ACC_WRITE, &p));
	assert_int_equal(told.calls, 2);
	assert_memory_equal(told.copy + PT, r->ram + PT, 0x1000);
	begin(r);
	gdt_put(r, S_FREE, desc_make(0, 0xfffff, A_DATA | A_32));
	memcpy(told.copy + GDT, r->ram + GDT, 0x1000);
	assert_ok(r->c, seg_load(r->c, DS, S_FREE));
	assert_memory_equal(told.copy + GDT, r->ram + GDT, 0x1000);
	assert_true(r->ram[GDT + S_FREE + 5] & 1);
	assert_int_equal(told.torn, 0);
}

/* -- Two cpus at once -- */

#define COUNTS	16
#define SPLIT	(T2 - 4) /* its halves lie apart */
#define PER_CPU 20000

__asm__(".pushsection .rodata\n count_both:\n mov %rcx, %rdx\n 1: lock incl (%rbx)\n lock incq (%r9)\n"
	" movl %ecx, 64(%rbx)\n dec %rdx\n jnz 1b\n hlt\n count_both_end:\n .popsection");
extern const uint8_t count_both[], count_both_end[];

/* The lower word's values; data are compared with nothing, others write meanwhile. */
static void on_count(void *ctx, uint64_t gpa, const void *data, unsigned len)
{
	uint32_t v;

	pthread_mutex_lock(&told.lock);
	told.calls++;
	if (gpa == T0 + 0x100) {
		memcpy(&v, data, 4);
		told.torn += len != 4 || v >= sizeof(told.seen);
		told.seen[v % sizeof(told.seen)]++;
	}
	pthread_mutex_unlock(&told.lock);
}

static bool never(void *ctx)
{
	return false;
}

static void *run_cpu(void *c)
{
	return (void *)(uintptr_t)engine_run(c);
}

/* Each value of a counter that two cpus raise is told once, and one that lies on two pages twice each time.
 * torture: tracked counters
 * Seen to fail with span_told before raw_cas in rmw_locked. */
static void concurrent_writes_are_told_once_each(void **state)
{
	struct rig *r = track_rig(state);
	struct torture t = torture_begin(1, 1000);
	struct engine_cpu *a = r->c, *b;
	pthread_t thread;
	void *ret;

	port.poll = never;
	port.tracked = on_count;
	assert_int_equal(engine_cpu_create(&b, r->code, &port, r), 0);
	engine_set_features(b, &rig_features);
	while (torture_more(&t)) {
		r->c = b;
		rig_long(r, 0);
		put(r, PT + (T2 >> 12) * 8, T2_GPA | 7, 8);
		load(r, count_both, count_both_end);
		b->gpr[RCX] = PER_CPU;
		b->gpr[R9] = SPLIT;
		r->c = a;
		load(r, count_both, count_both_end);
		a->gpr[RCX] = PER_CPU;
		a->gpr[R9] = SPLIT;
		mmu_flush_all(a);
		mmu_flush_all(b);
		memset(told.seen, 0, sizeof(told.seen));
		told.calls = told.torn = 0;
		put(r, T0 + 0x100, 0, 4);
		assert_int_equal(pthread_create(&thread, NULL, run_cpu, b), 0);
		assert_int_equal(engine_run(a), ENGINE_EXIT_HLT);
		pthread_join(thread, &ret);
		assert_int_equal((uintptr_t)ret, ENGINE_EXIT_HLT);
		assert_int_equal(get(r, T0 + 0x100, 4), 2 * PER_CPU);
		assert_int_equal(told.torn, 0);
		assert_int_equal(told.calls, 2 * PER_CPU * 4);
		for (unsigned v = 1; v <= 2 * PER_CPU; v++)
			assert_int_equal(told.seen[v], 1);
	}
	torture_end(&t, "tracked counters");
	engine_cpu_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(every_kind_of_store_is_told_once),
	    RIG_TEST(scattered_elements_are_told),
	    RIG_TEST(page_tables_and_descriptors_are_told),
	    RIG_TEST(concurrent_writes_are_told_once_each),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
