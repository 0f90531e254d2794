/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loops of 64-bit code (two of 32-bit and 16-bit code) on flat memory, beside the same instructions run natively in the
 * same process:
 * build/bench/interp [MILLIONS], on the tier that USERKVM_ENGINE chooses
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/engine.h"

#define RAM	(64UL << 20)
#define CODE	0x100000UL
#define SCRATCH 0x200000UL

/* Each kernel runs RCX times round its loop and stops; R15 points to scratch memory. Twice: for the guest,
 * which stops at HLT, and for the host, which returns. */
#define KERNEL(name, text)                                                                                \
	extern const uint8_t name[], name##_end[], name##_native[], name##_native_end[];                  \
	__asm__(".pushsection .rodata\n.macro stop\nhlt\n.endm\n" #name ":\n" text "\nstop\n" #name       \
		"_end:\n.purgem stop\n.macro stop\nret\n.endm\n" #name "_native:\n" text "\nstop\n" #name \
		"_native_end:\n.purgem stop\n.popsection\n")
#define RUN(c, kernel, loops) \
	run(c, #kernel, k_##kernel, k_##kernel##_end, k_##kernel##_native, k_##kernel##_native_end, loops)

KERNEL(k_alu, "1: add %rax, %rbx\n xor %rbx, %rdx\n lea 3(%rax,%rdx,2), %rsi\n shr $3, %rsi\n"
	      "and $0xffff, %esi\n add %rsi, %rax\n dec %rcx\n jnz 1b\n");
KERNEL(k_mem, "1: mov (%r15), %rax\n add 8(%r15), %rax\n mov %rax, 16(%r15)\n mov %eax, 24(%r15)\n"
	      "movzbl 17(%r15), %edx\n add %rdx, 32(%r15)\n dec %rcx\n jnz 1b\n");
KERNEL(k_call, "1: push %rbx\n call 2f\n pop %rbx\n dec %rcx\n jnz 1b\n stop\n"
	       "2: push %rbp\n mov %rsp, %rbp\n mov %rdi, -8(%rbp)\n test %rdi, %rdi\n leave\n ret\n");
KERNEL(k_branch, "1: test $1, %cl\n jz 2f\n add $5, %rax\n cmp %rax, %rbx\n ja 3f\n 2: sub $3, %rbx\n"
		 "3: cmp $100, %rdx\n jb 4f\n inc %rdx\n 4: dec %rcx\n jnz 1b\n");
KERNEL(k_mixed, "1: mov (%r15,%rax,8), %rdx\n and $1023, %eax\n add $7, %rax\n cmp %rdx, %rbx\n je 2f\n"
		"mov %rdx, %rsi\n shl $5, %rsi\n xor %rsi, %rdx\n mov %rdx, 64(%r15)\n 2: push %rdx\n"
		"pop %rdi\n lea 1(%rdi), %rdi\n movzwl %di, %edi\n test %edi, %edi\n js 3f\n inc %ebx\n"
		"3: dec %rcx\n jnz 1b\n");
KERNEL(k_lock, "1: lock incl (%r15)\n lock btsl $3, 8(%r15)\n xchg %rax, 16(%r15)\n dec %rcx\n jnz 1b\n");
KERNEL(k_movs, "1: mov %rcx, %rbx\n mov %r15, %rdi\n lea 0x4000(%r15), %rsi\n mov $0x1000, %ecx\n rep movsb\n"
	       "mov %rbx, %rcx\n dec %rcx\n jnz 1b\n");

/* The same in 32-bit and 16-bit code; the host runs what is like it in 64-bit code. */
#define KERNEL_OF(name, bits, text, native)                                               \
	extern const uint8_t name[], name##_end[], name##_native[], name##_native_end[];  \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\nhlt\n" #name \
		"_end:\n.code64\n" #name "_native:\n" native "\nret\n" #name "_native_end:\n.popsection\n")
KERNEL_OF(
    k_code32, 32,
    "1: mov (%edi), %eax\n add 8(%edi), %eax\n mov %eax, 16(%edi)\n push %eax\n call 2f\n pop %edx\n"
    "inc %esi\n mov %ah, %bl\n dec %ecx\n jnz 1b\n hlt\n 2: push %ebp\n mov %esp, %ebp\n add %eax, 24(%edi)\n"
    "leave\n ret",
    "1: mov (%r15), %eax\n add 8(%r15), %eax\n mov %eax, 16(%r15)\n push %rax\n call 2f\n pop %rdx\n"
    "inc %esi\n mov %ah, %bl\n dec %ecx\n jnz 1b\n ret\n 2: push %rbp\n mov %rsp, %rbp\n add %eax, 24(%r15)\n"
    "leave\n ret");
KERNEL_OF(
    k_code16, 16,
    "1: mov (%di), %ax\n add 8(%di), %ax\n mov %ax, 16(%di)\n push %ax\n call 2f\n pop %dx\n"
    "inc %si\n mov %ah, %bl\n dec %ecx\n jnz 1b\n hlt\n 2: push %bp\n mov %sp, %bp\n add %ax, 24(%di)\n"
    "leave\n ret",
    "1: mov (%r15), %ax\n add 8(%r15), %ax\n mov %ax, 16(%r15)\n push %rax\n call 2f\n pop %rdx\n"
    "inc %si\n mov %ah, %bl\n dec %ecx\n jnz 1b\n ret\n 2: push %rbp\n mov %rsp, %rbp\n add %ax, 24(%r15)\n"
    "leave\n ret");

static uint8_t *ram;

static enum engine_fill fill(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	if (gpa >= RAM)
		return FILL_MMIO;
	*page = (struct engine_page){.host = ram + gpa, .writable = true, .id = gpa};
	return FILL_FIXED;
}

static bool poll_exit(void *ctx)
{
	return true;
}

static const struct engine_port port = {.fill = fill, .poll = poll_exit};

static struct kvm_segment flat(uint16_t sel, uint8_t type, bool l)
{
	return (struct kvm_segment){.limit = 0xffffffff,
				    .selector = sel,
				    .type = type,
				    .present = 1,
				    .s = 1,
				    .g = 1,
				    .db = !l,
				    .l = l};
}

/* 64-bit mode, RAM mapped one to one by 2 MiB pages. */
static void enter_long(struct engine_cpu *c)
{
	struct kvm_sregs s;
	uint64_t *pml4 = (uint64_t *)(ram + 0x1000), *pdpt = (uint64_t *)(ram + 0x2000),
		 *pd = (uint64_t *)(ram + 0x3000);

	pml4[0] = 0x2003;
	pdpt[0] = 0x3003;
	for (unsigned k = 0; k < 512; k++)
		pd[k] = (uint64_t)k << 21 | 0x83;
	engine_get_sregs(c, &s);
	s.cs = flat(8, 11, true);
	s.ds = s.es = s.fs = s.gs = s.ss = flat(16, 3, false);
	s.cr0 = 0x80010033;
	s.cr4 = 0x20;
	s.cr3 = 0x1000;
	s.efer = 0x500;
	if (engine_set_sregs(c, &s))
		abort();
}

/* Flat 32-bit code without paging. */
static void enter_32(struct engine_cpu *c)
{
	struct kvm_sregs s;

	engine_get_sregs(c, &s);
	s.cs = flat(8, 11, false);
	s.cr0 = 0x11;
	s.efer = 0;
	if (engine_set_sregs(c, &s))
		abort();
}

/* Real mode, with the segments where the areas are. */
static void enter_16(struct engine_cpu *c)
{
	struct kvm_segment code = {.base = CODE, .limit = 0xffff, .type = 11, .present = 1, .s = 1};
	struct kvm_segment data = {.base = SCRATCH, .limit = 0xffff, .type = 3, .present = 1, .s = 1};
	struct kvm_sregs s;

	engine_get_sregs(c, &s);
	s.cs = code;
	s.ds = s.es = s.ss = data;
	s.cr0 = 0x10;
	if (engine_set_sregs(c, &s))
		abort();
}

/* CPU time: the figure then holds on a busy machine too. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* CPU nanoseconds of the kernel run by the host itself. */
static uint64_t native_ns(const uint8_t *code, const uint8_t *end, uint64_t loops)
{
	uint8_t *exec =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t t;

	if (exec == MAP_FAILED)
		return 0;
	memcpy(exec, code, end - code);
	memset(ram + SCRATCH, 0, 0x10000);
	t = cpu_ns();
	__asm__ volatile(
	    "mov %[ram], %%r15\n\tmov $1, %%ebx\n\txor %%eax, %%eax\n\txor %%edx, %%edx\n\t"
	    "xor %%esi, %%esi\n\txor %%edi, %%edi\n\tsub $128, %%rsp\n\tcall *%[exec]\n\tadd $128, %%rsp"
	    : "+c"(loops)
	    : [exec] "r"(exec), [ram] "r"(ram + SCRATCH)
	    : "rax", "rbx", "rdx", "rsi", "rdi", "r15", "memory", "cc");
	t = cpu_ns() - t;
	munmap(exec, 4096);
	return t;
}

static uint64_t code_base, data_base = SCRATCH; /* what the registers begin with */

static void run(struct engine_cpu *c, const char *name, const uint8_t *code, const uint8_t *end,
		const uint8_t *native, const uint8_t *native_end, uint64_t loops)
{
	struct kvm_regs r = {.rip = CODE - code_base,
			     .rsp = 0x8000,
			     .r15 = data_base,
			     .rdi = data_base,
			     .rcx = loops,
			     .rflags = 2,
			     .rbx = 1};
	uint64_t t, host = native_ns(native, native_end, loops);

	memcpy(ram + CODE, code, end - code);
	memset(ram + SCRATCH, 0, 0x10000);
	engine_set_regs(c, &r);
	t = cpu_ns();
	if (engine_run(c) != ENGINE_EXIT_HLT)
		printf("%s: unexpected exit\n", name);
	t = cpu_ns() - t;
	printf("%-8s %8.2f ns a loop   native %8.2f   slowdown %6.1f\n", name, (double)t / loops,
	       (double)host / loops, (double)t / host);
}

int main(int argc, char **argv)
{
	uint64_t loops = (argc > 1 ? strtoul(argv[1], NULL, 0) : 3) * 1000000;
	struct engine_code *code;
	struct engine_cpu *c;
	struct engine_features f = {
	    .cr4_allowed = ~0ULL, .efer_allowed = 0xd01, .xcr0_allowed = 7, .maxphyaddr = 40};

	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (engine_init() || engine_code_create(&code) || engine_cpu_create(&c, code, &port, NULL))
		return 1;
	engine_set_features(c, &f);
	enter_long(c);
	RUN(c, alu, loops);
	RUN(c, mem, loops);
	RUN(c, call, loops);
	RUN(c, branch, loops);
	RUN(c, mixed, loops);
	RUN(c, lock, loops);
	RUN(c, movs, loops / 10);
	enter_32(c);
	RUN(c, code32, loops);
	enter_16(c);
	code_base = CODE;
	data_base = 0;
	RUN(c, code16, loops);
	engine_cpu_destroy(c);
	engine_code_destroy(code);
	return 0;
}
