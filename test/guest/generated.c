/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests that make code.
 *
 * Generated code: functions are written, called several times, written anew at the same place, without end: whatever
 * keeps translations is full again and again. Results are right, and this process's memory stays within bounds.
 *
 * Patched code: one vCPU replaces a 5-byte instruction under another that executes it, by the protocol of every kernel's
 * text patching: INT3 over the first byte, interrupts to the others, the tail, interrupts, the first byte, interrupts.
 * The other executes the old instruction, the new one, or the INT3, whose handler skips it; never a mixture.
 *	make check T=guest/generated
 *	make torture T=guest/generated TIME=600
 * Seen to fail: generated_code with the comparison's answer ignored (same_code), and, by growing, with a flush that maps
 * new code memory and leaves the old; patched_code, by a time-out, with the tail written under the old first byte, and
 * with the comparison ignored.
 * WORKS: Guests that generate and patch code under load | caches stay bounded, kernels' text patching with INT3 is exact
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest_util.h"
#include "run_util.h"
#include "torture.h"

/* -- Generated code -- */

#define AREA	  0x220000 /* where the functions are */
#define FUNCTION  64
#define FUNCTIONS 8192
#define ADDS	  8
#define CALLS	  3
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLACK_KIB (1024 * 1024)
#define ROUNDS	  8 /* which are slow */
#define SETTLED	  4
#else
#define SLACK_KIB (24 * 1024)
#define ROUNDS	  30
#define SETTLED	  20 /* 16 fill the code cache */
#endif

/*
 * rdi: the area, rsi: functions, rdx: a number that makes this round's code its own. Function i is ADDS times
 * `add $(rdx + i), %eax` and a RET; rax starts at 0 for each, r12 sums what they return.
 */
KU_ASM(generate, 64,
       "xor %r12d, %r12d\n mov %rdi, %r14\n xor %ecx, %ecx\n"
       "1: lea (%rdx,%rcx), %ebx\n mov %r14, %r15\n mov $8, %r8d\n"
       "2: movb $0x05, (%r15)\n mov %ebx, 1(%r15)\n add $5, %r15\n dec %r8d\n jnz 2b\n"
       "movb $0xc3, (%r15)\n"
       "mov $3, %r9d\n"
       "3: xor %eax, %eax\n call *%r14\n add %rax, %r12\n dec %r9d\n jnz 3b\n"
       "add $64, %r14\n inc %ecx\n cmp %esi, %ecx\n jb 1b\n"
       "hlt");

/* Of this process, in KiB. */
static unsigned long memory_kib(void)
{
	unsigned long pages = 0, total = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	KU_CHECK(f && fscanf(f, "%lu %lu", &total, &pages) == 2);
	fclose(f);
	return pages * 4;
}

static uint64_t round_sum(uint32_t first)
{
	uint64_t sum = 0;

	for (uint32_t n = 0; n < FUNCTIONS; n++)
		sum += CALLS * (uint64_t)(uint32_t)(ADDS * (first + n));
	return sum;
}

static void generated_code(void **state)
{
	struct torture t = torture_begin(ROUNDS, UINT64_MAX);
	unsigned long after_some = 0;
	struct kvm_regs r;
	struct gu g;

	gu_start(&g, GU_LONG);
	while (torture_more(&t)) {
		uint32_t first = (uint32_t)t.round * 7919;

		gu_code(&g, generate, (size_t)(generate_end - generate), 0);
		ku_get_regs(&g.cpu, &r);
		r.rdi = AREA;
		r.rsi = FUNCTIONS;
		r.rdx = first;
		ku_set_regs(&g.cpu, &r);
		assert_int_equal(ku_run(&g.cpu), KVM_EXIT_HLT);
		ku_get_regs(&g.cpu, &r);
		assert_int_equal(r.r12, round_sum(first));
		/* Everything was full once by then and all of it touched: from here on it does not grow. Under a sanitizer
		 * some of it is yet to come, which is within its slack. */
		if (t.round == SETTLED)
			after_some = memory_kib();
		if (t.round > SETTLED)
			assert_true(memory_kib() < after_some + SLACK_KIB);
	}
	torture_end(&t, "generated_code");
	gu_end(&g);
}

/* -- Patched code -- */

#define PAGE	 4096UL
#define APIC_W	 400
#define APIC	 (GU_WINDOW + APIC_W * PAGE)
#define CODE1	 0x18000
#define STACK1	 0xd000
#define SITE	 0x18800 /* the patched instruction, five bytes, then `ret` */
#define ACKS	 GU_DATA /* interrupts that the runner has taken */
#define BAD	 (GU_DATA + 64)
#define COUNTS	 (GU_DATA + 128) /* old, new, INT3 */
#define HANDLERS 0x19000
#define STOP	 (GU_DATA + 192)
#define VECTOR	 0x30
#define STR_(x)	 #x
#define STR(x)	 STR_(x)

/*
 * The runner. The site is `mov $0x11111111, %eax` or `jmp` to code that loads 0x22222222; INT3's handler goes on behind
 * it with 0x33333333. Everything else is counted as bad.
 */
KU_ASM(runner, 64,
       "sti\n"
       "1: xor %eax, %eax\n mov $" STR(
	   SITE) ", %ebx\n call *%rbx\n"
		 "mov $" STR(COUNTS) ", %ecx\n"
				     "cmp $0x11111111, %eax\n jne 2f\n incq (%rcx)\n jmp 9f\n"
				     "2: cmp $0x22222222, %eax\n jne 3f\n incq 8(%rcx)\n jmp 9f\n"
				     "3: cmp $0x33333333, %eax\n jne 4f\n incq 16(%rcx)\n jmp 9f\n"
				     "4: incq " STR(BAD) "\n"
							 "9: cmpl $0, " STR(STOP) "\n je 1b\n"
										  "out %al, $0xe1");
KU_ASM(other_way, 64, "mov $0x22222222, %eax\n ret");
KU_ASM(on_int3, 64,
       "cmpq $" STR(SITE) "+1, (%rsp)\n je 1f\n incq " STR(BAD) "\n"
								"1: mov $0x33333333, %eax\n movq $" STR(
								    SITE) "+5, (%rsp)\n iretq");
KU_ASM(on_interrupt, 64,
       "incq " STR(ACKS) "\n push %rax\n mov $" STR(APIC) ", %eax\n movl $0, 0xb0(%rax)\n pop %rax\n iretq");
/* The patcher: rsi counts rounds; r8 and r9 are the two instructions' eight bytes. */
#define SYNC                                                                                        \
	"mov " STR(ACKS) ", %rax\n movl $0x01000000, 0x310(%rbx)\n movl $0x00004030, 0x300(%rbx)\n" \
			 "5: pause\n cmp " STR(ACKS) ", %rax\n je 5b\n"
KU_ASM(patcher, 64,
       "1: movb $0xcc, (%rdi)\n" SYNC "mov %r9, %rdx\n shr $8, %rdx\n mov %edx, 1(%rdi)\n" SYNC
       "mov %r9b, (%rdi)\n" SYNC "xchg %r8, %r9\n dec %rsi\n jnz 1b\n out %al, $0xe1");

struct pair {
	struct gu g;
	struct ku_vcpu ap;
	struct ru run[2];
};

static void gate(struct gu *g, unsigned vector, uint32_t at)
{
	uint64_t *e = (uint64_t *)(g->vm.ram + GU_IDT + vector * 16);

	e[0] = (at & 0xffff) | (uint64_t)GU_CS0 << 16 | 0xee00ULL << 32 | (uint64_t)(at >> 16) << 48;
	e[1] = 0;
}

static uint64_t instruction(uint8_t opcode, uint32_t operand)
{
	return opcode | (uint64_t)operand << 8;
}

static void load_pair(struct pair *p)
{
	uint64_t old = instruction(0xb8, 0x11111111), ret = 0xc3;

	ku_load(&p->g.vm, CODE1, runner, (size_t)(runner_end - runner));
	ku_load(&p->g.vm, SITE, &old, 5);
	ku_load(&p->g.vm, SITE + 5, &ret, 1);
	ku_load(&p->g.vm, SITE + 0x100, other_way, (size_t)(other_way_end - other_way));
	ku_load(&p->g.vm, HANDLERS, on_int3, (size_t)(on_int3_end - on_int3));
	ku_load(&p->g.vm, HANDLERS + 0x100, on_interrupt, (size_t)(on_interrupt_end - on_interrupt));
	gate(&p->g, 3, HANDLERS);
	gate(&p->g, VECTOR, HANDLERS + 0x100);
	gu_code(&p->g, patcher, (size_t)(patcher_end - patcher), 0);
}

static void make_pair(struct pair *p)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_sregs s;

	gu_start_chips(&p->g, GU_LONG, true);
	ku_vcpu_create(&p->g.vm, 1, &p->ap);
	gu_window(&p->g, APIC_W, 0xfee00000);
	load_pair(p);
	ku_get_sregs(&p->g.cpu, &s);
	s.apic_base &= ~0x100ULL;
	ku_set_sregs(&p->ap, &s);
	KU_CHECK(ioctl(p->ap.fd, KVM_SET_MP_STATE, &mp) == 0);
	gu_enable_lapic(&p->g.cpu);
	gu_enable_lapic(&p->ap);
	ku_reset_regs(&p->ap, CODE1, STACK1);
	p->run[0] = (struct ru){.cpu = &p->g.cpu};
	p->run[1] = (struct ru){.cpu = &p->ap};
}

static uint64_t word(const struct pair *p, uint64_t at)
{
	return __atomic_load_n((uint64_t *)(p->g.vm.ram + at), __ATOMIC_ACQUIRE);
}

/* So many patches; the runner goes on running. */
static void patch(struct pair *p, uint64_t times)
{
	struct kvm_regs r;

	gu_code(&p->g, patcher, (size_t)(patcher_end - patcher), 0);
	ku_get_regs(&p->g.cpu, &r);
	r.rbx = APIC;
	r.rdi = SITE;
	r.rsi = times;
	r.r8 = instruction(0xb8, 0x11111111);
	r.r9 = instruction(0xe9, 0x100 - 5);
	ku_set_regs(&p->g.cpu, &r);
	ru_start(&p->run[0]);
	assert_int_equal(ru_join(&p->run[0]), 0);
	assert_int_equal(p->g.cpu.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(p->g.cpu.run->io.port, 0xe1);
}

#define PATCHES 200 /* a round, an even number */

static void patched_code(void **state)
{
	struct torture t = torture_begin(20, UINT64_MAX);
	uint64_t start = ru_ms();
	struct pair p;

	if (ku_oracle())
		skip(); /* two vCPUs */
	make_pair(&p);
	ru_start(&p.run[1]);
	while ((t.limit_ns || ru_ms() - start < 1500 || t.round < 2) && torture_more(&t)) {
		patch(&p, PATCHES);
		assert_int_equal(word(&p, BAD), 0);
	}
	__atomic_store_n((uint32_t *)(p.g.vm.ram + STOP), 1, __ATOMIC_RELEASE);
	assert_int_equal(ru_join(&p.run[1]), 0);
	assert_int_equal(p.ap.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(p.ap.run->io.port, 0xe1);
	print_message("patched_code: %lu patches, executed %lu old, %lu new, %lu INT3\n",
		      (unsigned long)t.round * PATCHES, word(&p, COUNTS), word(&p, COUNTS + 8),
		      word(&p, COUNTS + 16));
	assert_int_equal(word(&p, BAD), 0);
	assert_true(word(&p, COUNTS) && word(&p, COUNTS + 8) && word(&p, COUNTS + 16));
	torture_end(&t, "patched_code");
	ku_vcpu_destroy(&p.ap);
	gu_end(&p.g);
}

/* torture: generated and patched code */
int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(generated_code),
	    cmocka_unit_test(patched_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
