/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The address space of SMM: its slots, its dirty logs and its code are its own, and neither world sees what
 * belongs to the other.
 *	make check T=guest/smm
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest_util.h"
#include "run_util.h"

#define PAGE   4096UL
#define SMBASE 0x30000
#define SMRAM  0x10000UL /* its size; in SMM other memory than outside */
#define AS1    (1u << 16)

struct env {
	struct gu g;
	uint8_t *smram;
	struct ru run;
};

static int setup(void **state)
{
	static struct env e;

	gu_start(&e.g, GU_LONG);
	e.smram = mmap(NULL, SMRAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	KU_CHECK(e.smram != MAP_FAILED);
	/* 0..SMBASE and what is above SMRAM are the same in both worlds. */
	KU_CHECK(ku_set_slot(&e.g.vm, AS1 | 0, 0, 0, e.g.vm.ram, SMBASE) == 0);
	KU_CHECK(ku_set_slot(&e.g.vm, AS1 | 1, 0, SMBASE, e.smram, SMRAM) == 0);
	KU_CHECK(ku_set_slot(&e.g.vm, AS1 | 2, 0, SMBASE + SMRAM, e.g.vm.ram + SMBASE + SMRAM,
			     GU_RAM - SMBASE - SMRAM) == 0);
	e.run = (struct ru){.cpu = &e.g.cpu};
	*state = &e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	gu_end(&e->g);
	munmap(e->smram, SMRAM);
	return 0;
}

static void smi(struct env *e)
{
	assert_int_equal(ku_errno(e->g.cpu.fd, KVM_SMI, 0), 0);
}

static void assert_out(struct env *e, unsigned port)
{
	assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
	assert_int_equal(e->g.cpu.run->io.port, port);
	assert_int_equal(!!(e->g.cpu.run->flags & KVM_RUN_X86_SMM), port == 0xb2);
}

static void handler(struct env *e, const uint8_t *code, const uint8_t *end)
{
	memcpy(e->smram + 0x8000, code, (size_t)(end - code));
}
#define HANDLER(e, name) handler(e, name, name##_end)

/* Reads and writes at SMBASE; CS is SMBASE, DS is flat. */
KU_ASM(look, 16,
       "movl %cs:0, %eax\n incl %cs:0\n"
       "movl $0x20000, %esi\n movl %eax, (%esi)\n" /* GU_DATA, in both worlds */
       "out %al, $0xb2\n rsm");
KU_ASM(outside, 64,
       "1: movl 0x30000, %eax\n addl $0x10, 0x30000\n movb 0x38000, %cl\n out %al, $0xe1\n jmp 1b");

/* The same address is two places, before, in, and after SMM, whatever was cached. Seen to fail, as the next three,
 * with vcpu_as always 0. */
static void two_worlds(void **state)
{
	struct env *e = *state;
	struct kvm_regs r;

	memset(e->smram, 0, SMRAM);
	memset(e->g.vm.ram + SMBASE, 0, SMRAM);
	HANDLER(e, look);
	GU_ASM(&e->g, outside);
	for (uint32_t i = 0; i < 30; i++) {
		assert_out(e, 0xe1);
		ku_get_regs(&e->g.cpu, &r);
		assert_int_equal((uint32_t)r.rax, 0x10 * i);
		assert_int_equal(r.rcx & 0xff, 0); /* not the handler's first byte */
		assert_int_equal(*(uint32_t *)(e->g.vm.ram + SMBASE), 0x10 * (i + 1));
		smi(e);
		assert_out(e, 0xb2);
		assert_int_equal(*(uint32_t *)(e->g.vm.ram + GU_DATA), i);
		assert_int_equal(*(uint32_t *)e->smram, i + 1);
	}
	/* The saved state lies in SMM's memory alone. */
	assert_int_equal(*(uint32_t *)(e->smram + 0xfefc), 0x20064);
	assert_int_equal(*(uint32_t *)(e->g.vm.ram + SMBASE + 0xfefc), 0);
	assert_out(e, 0xe1);
}

/* Each slot logs what is written in its own world. */
static void logs(void **state)
{
	struct env *e = *state;
	uint64_t normal[GU_RAM / PAGE / 64], inside[1];
	struct kvm_dirty_log log0 = {.slot = 0, .dirty_bitmap = normal};
	struct kvm_dirty_log log1 = {.slot = AS1 | 1, .dirty_bitmap = inside};

	HANDLER(e, look);
	GU_ASM(&e->g, outside);
	assert_int_equal(ku_set_slot(&e->g.vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, e->g.vm.ram, GU_RAM), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, AS1 | 1, KVM_MEM_LOG_DIRTY_PAGES, SMBASE, e->smram, SMRAM), 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_out(e, 0xe1);
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log0), 0);
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log1), 0);
		assert_int_equal(normal[0] >> (SMBASE / PAGE) & 0xffff, 1);
		assert_int_equal(inside[0], 0);
		smi(e);
		assert_out(e, 0xb2);
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log0), 0);
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log1), 0);
		assert_int_equal(normal[0] >> (SMBASE / PAGE) & 0xffff, 0);
		assert_int_equal(inside[0], 1 | 1 << 15); /* the counter, the saved state */
	}
	assert_int_equal(ku_set_slot(&e->g.vm, 0, 0, 0, e->g.vm.ram, GU_RAM), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, AS1 | 1, 0, SMBASE, e->smram, SMRAM), 0);
	assert_out(e, 0xe1);
}

/* SMRAM that is nowhere outside: a device there for the guest, memory for the handler. */
static void hidden(void **state)
{
	struct env *e = *state;
	uint8_t *ram = e->g.vm.ram;

	HANDLER(e, look);
	assert_int_equal(ku_set_slot(&e->g.vm, 0, 0, 0, NULL, 0), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 0, 0, 0, ram, SMBASE), 0);
	assert_int_equal(
	    ku_set_slot(&e->g.vm, 3, 0, SMBASE + SMRAM, ram + SMBASE + SMRAM, GU_RAM - SMBASE - SMRAM), 0);
	GU_ASM(&e->g, outside);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_MMIO);
		assert_int_equal(e->g.cpu.run->mmio.phys_addr, SMBASE);
		/* An SMI between an MMIO exit and its completion waits for the instruction. */
		memcpy(e->g.cpu.run->mmio.data, &(uint32_t){7}, 4);
		smi(e);
		assert_out(e, 0xb2);
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_MMIO); /* the read of ADDL */
		memset(e->g.cpu.run->mmio.data, 0, 4);
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_MMIO);
		assert_int_equal(e->g.cpu.run->mmio.is_write, 1);
		assert_int_equal(e->g.cpu.run->mmio.data[0], 0x10);
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_MMIO);
		assert_int_equal(e->g.cpu.run->mmio.phys_addr, SMBASE + 0x8000);
		assert_out(e, 0xe1);
	}
	assert_int_equal(ku_set_slot(&e->g.vm, 3, 0, 0, NULL, 0), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 0, 0, 0, NULL, 0), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 0, 0, 0, ram, GU_RAM), 0);
}

/* SMRAM whose host memory is gone: KVM_RUN says so, and the SMI is taken when it is back. */
static void no_smram(void **state)
{
	struct env *e = *state;
	uint32_t was = *(uint32_t *)e->smram;
	int error;

	HANDLER(e, look);
	GU_ASM(&e->g, outside);
	KU_CHECK(mprotect(e->smram + 0x8000, PAGE, PROT_NONE) == 0);
	smi(e);
	error = ku_errno(e->g.cpu.fd, KVM_RUN, 0);
	KU_CHECK(mprotect(e->smram + 0x8000, PAGE, PROT_READ | PROT_WRITE) == 0);
	assert_int_equal(error, EFAULT);
	assert_out(e, 0xb2);
	assert_int_equal(*(uint32_t *)e->smram, was + 1);
	assert_out(e, 0xe1);
}

/* SMIs into a guest that is interrupted and counts on as if nothing had been. */
KU_ASM(spin, 64, "1: inc %rax\n mov %rax, 0x20100\n jmp 1b");
KU_ASM(count, 16, "incl %cs:0\n rsm");

static void many(void **state)
{
	struct env *e = *state;
	volatile uint32_t *taken = (volatile uint32_t *)e->smram;
	volatile uint64_t *ticks = (volatile uint64_t *)(e->g.vm.ram + 0x20100);
	struct kvm_regs r;

	HANDLER(e, count);
	*taken = 0;
	*ticks = 0;
	GU_ASM(&e->g, spin);
	for (unsigned i = 1; i <= 100; i++) {
		uint64_t t = *ticks;

		smi(e);
		ru_start(&e->run);
		RU_UNTIL(*taken == i && *ticks > t);
		assert_int_equal(ru_stop(&e->run), EINTR);
	}
	ku_get_regs(&e->g.cpu, &r);
	assert_in_range(r.rax, *ticks, *ticks + 1);
	assert_int_equal(*taken, 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(two_worlds), cmocka_unit_test(logs), cmocka_unit_test(hidden),
	    cmocka_unit_test(no_smram),	  cmocka_unit_test(many),
	};
	int sys = ku_open();
	bool have = ioctl(sys, KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM) == 1;

	close(sys);
	if (!have || ku_oracle()) {
		printf("needs SMM, which a KVM without VT-x has not\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
