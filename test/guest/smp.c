/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two vCPUs: start-up through the local APIC, interrupts between them, locked operations that add up, also
 * where the operand lies on two pages that are not neighbours.
 *	make check T=guest/smp
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest_util.h"
#include "run_util.h"

#define PAGE	4096UL
#define APIC_W	400 /* the window page that shows the local APIC */
#define APIC	(GU_WINDOW + APIC_W * PAGE)
#define CODE1	0x18000 /* the second vCPU's code */
#define STACK1	0xd000
#define SHARED	GU_DATA
#define STR_(x) #x
#define STR(x)	STR_(x)

struct env {
	struct gu g;
	struct ku_vcpu ap;
	struct ru run[2];
};

static int setup(void **state)
{
	static struct env e;

	gu_start_chips(&e.g, GU_LONG, true);
	ku_vcpu_create(&e.g.vm, 1, &e.ap);
	gu_window(&e.g, APIC_W, 0xfee00000);
	gu_enable_lapic(&e.g.cpu);
	gu_enable_lapic(&e.ap);
	e.run[0] = (struct ru){.cpu = &e.g.cpu};
	e.run[1] = (struct ru){.cpu = &e.ap};
	*state = &e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	ku_vcpu_destroy(&e->ap);
	gu_end(&e->g);
	return 0;
}

/* The second vCPU as the first one: long mode, runnable, at CODE1. */
static void make_equal(struct env *e)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_sregs s;

	ku_get_sregs(&e->g.cpu, &s);
	s.apic_base &= ~0x100ULL;
	ku_set_sregs(&e->ap, &s);
	KU_CHECK(ioctl(e->ap.fd, KVM_SET_MP_STATE, &mp) == 0);
	gu_enable_lapic(&e->ap); /* INIT switched it off */
	ku_reset_regs(&e->ap, CODE1, STACK1);
}

/* Both run the code to its end (an OUT); rbx, rcx and rdx as given, rdi is the vCPU's number. */
static void run_both(struct env *e, const uint8_t *code, const uint8_t *end, uint64_t rbx, uint64_t rcx,
		     uint64_t rdx)
{
	gu_code(&e->g, code, (size_t)(end - code), 0);
	make_equal(e);
	memset(e->g.vm.ram + CODE1, 0xf4, 256);
	ku_load(&e->g.vm, CODE1, code, (size_t)(end - code));
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_regs r;

		ku_get_regs(e->run[i].cpu, &r);
		r.rbx = rbx;
		r.rcx = rcx;
		r.rdx = rdx;
		r.rdi = i;
		ku_set_regs(e->run[i].cpu, &r);
		e->run[i].on_exit = NULL;
	}
	for (unsigned i = 0; i < 2; i++)
		ru_start(&e->run[i]);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(ru_join(&e->run[i]), 0);
		assert_int_equal(e->run[i].cpu->run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(e->run[i].cpu->run->io.port, 0xe1);
	}
}
#define RUN_BOTH(e, name, rbx, rcx, rdx) run_both(e, name, name##_end, rbx, rcx, rdx)

/* -- Start-up -- */

/* As firmware does: INIT, then SIPI to page 8, twice; waits for the sign. */
KU_ASM(start_other, 64,
       "movl $0x01000000, 0x310(%rbx)\n"
       "movl $0x00004500, 0x300(%rbx)\n"
       "movl $0x01000000, 0x310(%rbx)\n"
       "movl $0x00004608, 0x300(%rbx)\n"
       "movl $0x00004608, 0x300(%rbx)\n"
       "1: pause\n cmpb $0x77, 0x7000\n jne 1b\n"
       "out %al, $0xe1");
KU_ASM(started, 16, "movw %cs, %ax\n movw %ax, 0x7002\n movb $0x77, 0x7000\n cli\n 1: hlt\n jmp 1b");

/* Seen to fail (a time-out) with the vector of SIPI taken for 0. */
static void startup(void **state)
{
	struct env *e = *state;
	struct kvm_mp_state mp;
	struct kvm_regs r;
	struct kvm_sregs s;

	for (unsigned again = 0; again < 5; again++) {
		memset(e->g.vm.ram + 0x7000, 0, 4);
		ku_load(&e->g.vm, 0x8000, started, (size_t)(started_end - started));
		GU_ASM(&e->g, start_other);
		ku_get_regs(&e->g.cpu, &r);
		r.rbx = APIC;
		ku_set_regs(&e->g.cpu, &r);
		ru_start(&e->run[1]);
		ru_start(&e->run[0]);
		assert_int_equal(ru_join(&e->run[0]), 0);
		assert_int_equal(e->g.cpu.run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(*(uint16_t *)(e->g.vm.ram + 0x7002), 0x800);
		/* It halts in the kernel; a signal gets it out, and the next INIT starts it again. */
		usleep(2000);
		assert_int_equal(ru_stop(&e->run[1]), EINTR);
		assert_int_equal(ku_errno(e->ap.fd, KVM_GET_MP_STATE, &mp), 0);
		assert_in_range(mp.mp_state, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_HALTED);
		ku_get_sregs(&e->ap, &s);
		assert_int_equal(s.cs.base, 0x8000);
		assert_int_equal(s.cr0 & 1, 0);
	}
}

/* -- Interrupts between vCPUs -- */

/* Each sends vector 0x30 to the other and waits for its turn, rcx times. The handler counts in r8. */
KU_ASM(ping_pong, 64,
       "mov %edi, %eax\n xor $1, %eax\n shl $24, %eax\n mov %eax, %esi\n"
       "sti\n"
       "test %edi, %edi\n jnz 2f\n"
       "1: movl %esi, 0x310(%rbx)\n movl $0x4030, 0x300(%rbx)\n"
       "2: cli\n cmp %r9, %r8\n jne 3f\n sti\n hlt\n jmp 2b\n"
       "3: sti\n inc %r9\n dec %rcx\n jz 4f\n jmp 1b\n"
       "4: test %edi, %edi\n jz 5f\n movl %esi, 0x310(%rbx)\n movl $0x4030, 0x300(%rbx)\n"
       "5: out %al, $0xe1");
KU_ASM(count_irq, 64, "inc %r8\n movl $0, 0xb0(%rbx)\n iretq");

static void ping_pong_test(void **state)
{
	struct env *e = *state;
	uint64_t *gate = (uint64_t *)(e->g.vm.ram + GU_IDT + 0x30 * 16);
	struct kvm_regs r;

	ku_load(&e->g.vm, 0x1c000, count_irq, (size_t)(count_irq_end - count_irq));
	gate[0] = 0xc000 | (uint64_t)GU_CS0 << 16 | 0x8e00ULL << 32 | 0x1ULL << 48;
	RUN_BOTH(e, ping_pong, APIC, 2000, 0);
	for (unsigned i = 0; i < 2; i++) {
		ku_get_regs(e->run[i].cpu, &r);
		assert_int_equal(r.r8, 2000);
		assert_int_equal(r.rcx, 0);
	}
}

/* -- Locked operations -- */

#define N 200000UL

KU_ASM(lock_inc, 64, "1: lock incq (%rbx)\n dec %rcx\n jnz 1b\n out %al, $0xe1");
KU_ASM(lock_xadd, 64, "1: mov $3, %eax\n lock xaddl %eax, (%rbx)\n dec %rcx\n jnz 1b\n out %al, $0xe1");
KU_ASM(lock_cmpxchg, 64,
       "1: mov (%rbx), %rax\n 2: lea 1(%rax), %rsi\n lock cmpxchg %rsi, (%rbx)\n jne 2b\n"
       "dec %rcx\n jnz 1b\n out %al, $0xe1");
KU_ASM(lock_cmpxchg16b, 64,
       "mov %rbx, %rbp\n mov %rcx, %r8\n"
       "1: mov (%rbp), %rax\n mov 8(%rbp), %rdx\n 2: lea 1(%rax), %rbx\n lea 2(%rdx), %rcx\n"
       "lock cmpxchg16b (%rbp)\n jne 2b\n dec %r8\n jnz 1b\n out %al, $0xe1");
/* Under a spinlock of XCHG at 64(%rbx), a plain increment. */
KU_ASM(spinlock, 64,
       "1: mov $1, %eax\n 2: xchg %eax, 64(%rbx)\n test %eax, %eax\n jz 3f\n pause\n jmp 2b\n"
       "3: incq (%rbx)\n movl $0, 64(%rbx)\n dec %rcx\n jnz 1b\n out %al, $0xe1");
/* Each sets and clears a bit of its own among the other's. */
KU_ASM(lock_bits, 64,
       "1: lock btsl %edi, (%rbx)\n jc 2f\n lock btrl %edi, (%rbx)\n jnc 2f\n dec %rcx\n jnz 1b\n"
       "out %al, $0xe1\n 2: ud2");

/* Seen to fail without XADD's lock prefix in engine/atomic.c; not on a machine so busy that the two never run at once. */
static void locked(void **state)
{
	struct env *e = *state;
	uint64_t *p = (uint64_t *)(e->g.vm.ram + SHARED);

	memset(p, 0, PAGE);
	RUN_BOTH(e, lock_inc, SHARED, N, 0);
	assert_int_equal(p[0], 2 * N);
	RUN_BOTH(e, lock_xadd, SHARED + 8, N, 0);
	assert_int_equal(p[1], 6 * N);
	RUN_BOTH(e, lock_cmpxchg, SHARED + 16, N, 0);
	assert_int_equal(p[2], 2 * N);
	RUN_BOTH(e, lock_cmpxchg16b, SHARED + 32, N, 0);
	assert_int_equal(p[4], 2 * N);
	assert_int_equal(p[5], 4 * N);
	RUN_BOTH(e, spinlock, SHARED + 256, N / 4, 0);
	assert_int_equal(p[32], N / 2);
	RUN_BOTH(e, lock_bits, SHARED + 512, N, 0);
	assert_int_equal(p[64], 0);
	/* Inside a line, across two lines. */
	RUN_BOTH(e, lock_inc, SHARED + 1024 + 61, N / 8, 0);
	assert_int_equal(*(uint64_t *)(e->g.vm.ram + SHARED + 1024 + 61), N / 4);
}

/* Two slots whose host memory is apart, side by side in the guest: the locked counter lies on both. */
static void split(void **state)
{
	struct env *e = *state;
	uint8_t *m = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t v = 0, gpa = 0x10000000, n = 1500;
	uint64_t at = GU_WINDOW + PAGE - 3;

	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, gpa, m + 3 * PAGE, PAGE), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 2, 0, gpa + PAGE, m, PAGE), 0);
	gu_window(&e->g, 0, gpa);
	gu_window(&e->g, 1, gpa + PAGE);
	RUN_BOTH(e, lock_inc, at, n, 0);
	memcpy(&v, m + 4 * PAGE - 3, 3);
	memcpy((uint8_t *)&v + 3, m, 5);
	assert_int_equal(v, 2 * n);
	RUN_BOTH(e, lock_xadd, at, n, 0);
	memcpy(&v, m + 4 * PAGE - 3, 3);
	memcpy((uint8_t *)&v + 3, m, 5);
	assert_int_equal(v, 2 * n + 6 * n);
	RUN_BOTH(e, lock_cmpxchg, at, n, 0);
	memcpy(&v, m + 4 * PAGE - 3, 3);
	memcpy((uint8_t *)&v + 3, m, 5);
	assert_int_equal(v, 4 * n + 6 * n);
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, 0, NULL, 0), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 2, 0, 0, NULL, 0), 0);
	munmap(m, 4 * PAGE);
}

/* -- Memory order -- */

/* One writes data and then the flag; the other, when it sees the flag, must see the data. */
KU_ASM(message, 64,
       "test %edi, %edi\n jnz 2f\n"
       "1: mov %rcx, (%rbx)\n mov %rcx, 256(%rbx)\n dec %rcx\n jnz 1b\n out %al, $0xe1\n"
       "2: mov 256(%rbx), %rax\n mov (%rbx), %rdx\n test %rax, %rax\n jz 2b\n"
       "cmp %rax, %rdx\n ja 3f\n cmp $1, %rax\n jne 2b\n out %al, $0xe1\n 3: ud2");
/* A store, a locked operation, a load of the other's: both cannot see the old value. Rounds in step. */
KU_ASM(dekker, 64,
       "mov %edi, %esi\n xor $1, %esi\n"
       "1: mov %rcx, (%rbx,%rdi,8)\n lock orl $0, (%rsp)\n mov (%rbx,%rsi,8), %rax\n"
       "xor %r9d, %r9d\n cmp %rcx, %rax\n setne %r9b\n mov %r9, 512(%rbx,%rdi,8)\n"
       "lock incq 256(%rbx)\n" /* barrier: both have looked */
       "add $2, %r8\n 2: pause\n cmp 256(%rbx), %r8\n ja 2b\n"
       "mov 512(%rbx), %rax\n and 520(%rbx), %rax\n jnz 3f\n"
       "lock incq 264(%rbx)\n" /* barrier: both have judged */
       "4: pause\n cmp 264(%rbx), %r8\n ja 4b\n"
       "dec %rcx\n jnz 1b\n out %al, $0xe1\n 3: ud2");

static void ordered(void **state)
{
	struct env *e = *state;

	memset(e->g.vm.ram + SHARED, 0, PAGE);
	RUN_BOTH(e, message, SHARED, N, 0);
	memset(e->g.vm.ram + SHARED, 0, PAGE);
	RUN_BOTH(e, dekker, SHARED, 300, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(startup), cmocka_unit_test(ping_pong_test), cmocka_unit_test(locked),
	    cmocka_unit_test(split),   cmocka_unit_test(ordered),
	};

	if (ku_oracle()) {
		printf("two vCPUs: too much for the machine's own KVM\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
