/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * States that cannot be and code that is none: registers that no CPU could hold, undefined opcodes in every
 * mode, instructions fetched from devices, and random ones of all of them. KVM_RUN returns, the guest gets
 * its exception, and the VM is usable afterwards.
 *	make check T=guest/impossible
 *	USERKVM_SEED=n ...	other random states
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/time.h>

#include "guest_util.h"
#include "run_util.h"

#define PAGE 4096UL
#define DEV  0xd0000000ULL

static int setup(void **state)
{
	static struct gu g;

	gu_start(&g, GU_LONG);
	gu_window(&g, 0, DEV);
	gu_window(&g, 1, GU_FRAMES);
	gu_window(&g, 2, DEV);
	*state = &g;
	return 0;
}

static int teardown(void **state)
{
	gu_end(*state);
	return 0;
}

/* Whatever came before: the guest runs. */
static void assert_usable(struct gu *g)
{
	struct gu_trap t;

	gu_code(g, (const uint8_t[]){0x90, 0x0f, 0x0b}, 3, 0);
	assert_true(gu_trap(g, &t));
	assert_int_equal(t.vector, 6);
	assert_int_equal(t.rip, GU_CODE + 1);
}

/* -- Registers -- */

/* The answers that KVM has: an entry that fails (VT-x), or the exception that comes of it (SVM). */
static void non_canonical_rip(void **state)
{
	static const uint64_t rips[] = {0x800000000000, 0xffff7fffffffffff, 0x123456789abcdef0, 1ULL << 63};
	struct gu *g = *state;

	for (unsigned i = 0; i < sizeof(rips) / sizeof(rips[0]); i++) {
		struct gu_trap t;

		gu_code(g, "\xf4", 1, 0);
		ku_reset_regs(&g->cpu, rips[i], GU_STACK0);
		if (gu_trap(g, &t)) {
			assert_int_equal(t.vector, 13);
			assert_int_equal(t.error, 0);
			assert_int_equal(t.rip, rips[i]);
		} else {
			assert_int_equal(g->cpu.run->exit_reason, KVM_EXIT_FAIL_ENTRY);
		}
		assert_usable(g);
	}
}

/* In 32-bit code the upper half of RIP does not exist. */
static void wide_rip(void **state)
{
	struct gu g;

	gu_start(&g, GU_PROT32);
	gu_code(&g, (const uint8_t[]){0xcc}, 1, 0);
	ku_reset_regs(&g.cpu, 0xffffffff00000000 | GU_CODE, GU_STACK0);
	assert_in_range(ku_run(&g.cpu), KVM_EXIT_UNKNOWN, KVM_EXIT_INTERNAL_ERROR);
	assert_usable(&g);
	gu_end(&g);
}

/* RFLAGS: what cannot be set is not. */
static void impossible_flags(void **state)
{
	struct gu *g = *state;
	struct kvm_regs r;

	gu_code(g, (const uint8_t[]){0x90, 0xe6, 0xe1}, 3, 0);
	ku_get_regs(&g->cpu, &r);
	r.rflags = 0;
	ku_set_regs(&g->cpu, &r);
	ku_get_regs(&g->cpu, &r);
	assert_int_equal(r.rflags & 2, 2);
	assert_int_equal(ku_run(&g->cpu), KVM_EXIT_IO);
	assert_usable(g);
}

/* -- Opcodes -- */

enum { L0 = 1, L3 = 2, P0 = 4, P3 = 8, R = 16, LONG = L0 | L3, PROT = P0 | P3, ALL = LONG | PROT | R };

static const struct opcode {
	const char *what;
	uint8_t code[12];
	unsigned modes;
} opcodes[] = {
    {"ud0", {0x0f, 0xff, 0xc0}, ALL},
    {"ud1", {0x0f, 0xb9, 0xc0}, ALL},
    {"ud2", {0x0f, 0x0b}, ALL},
    {"0f 0a", {0x0f, 0x0a}, ALL},
    {"0f 36", {0x0f, 0x36}, ALL},
    {"0f a6", {0x0f, 0xa6, 0x00}, ALL},
    {"0f 24", {0x0f, 0x24, 0xc0}, ALL},
    {"0f 38 ff", {0x0f, 0x38, 0xff, 0xc0}, ALL},
    {"0f 3a ff", {0x0f, 0x3a, 0xff, 0xc0, 0}, ALL},
    {"lock nop", {0xf0, 0x90}, ALL},
    {"lock hlt", {0xf0, 0xf4}, ALL},
    {"lock cmp", {0xf0, 0x39, 0x00}, ALL},
    {"lock inc reg", {0xf0, 0xff, 0xc0}, ALL},
    {"lock bt", {0xf0, 0x0f, 0xa3, 0x00}, ALL},
    {"lea reg", {0x8d, 0xc0}, ALL},
    {"mov cs, ax", {0x8e, 0xc8}, ALL},
    {"mov sreg 6", {0x8e, 0xf0}, ALL},
    {"mov from sreg 7", {0x8c, 0xf8}, ALL},
    {"les reg", {0xc4, 0xc0}, R},
    {"group 4 /2", {0xfe, 0xd0}, ALL},
    {"group 5 /7", {0xff, 0xf8}, ALL},
    {"pop /1", {0x8f, 0xc8}, PROT | R},
    {"c7 /1", {0xc7, 0xc8, 0, 0, 0, 0}, ALL},
    {"call far reg", {0xff, 0xd8}, ALL},
    {"cmpxchg8b reg", {0x0f, 0xc7, 0xc8}, ALL},
    {"mov cr1", {0x0f, 0x20, 0xc8}, L0 | P0 | R},
    {"mov cr5", {0x0f, 0x20, 0xe8}, L0 | P0 | R},
    {"vmcall's neighbour vmxon", {0xf3, 0x0f, 0xc7, 0x30}, ALL},
    {"vmrun", {0x0f, 0x01, 0xd8}, L0 | P0},
    {"vmread", {0x0f, 0x78, 0xc0}, ALL},
    {"xgetbv without OSXSAVE", {0x0f, 0x01, 0xd0}, ALL},
    {"xsave without OSXSAVE", {0x0f, 0xae, 0x20}, ALL},
    {"avx without OSXSAVE", {0xc5, 0xf8, 0x57, 0xc0}, LONG | PROT},
    {"rsm", {0x0f, 0xaa}, ALL},
    {"06 push es", {0x06}, LONG},
    {"1f pop ds", {0x1f}, LONG},
    {"27 daa", {0x27}, LONG},
    {"37 aaa", {0x37}, LONG},
    {"60 pusha", {0x60}, LONG},
    {"9a call far", {0x9a, 0, 0, 0, 0, 8, 0}, LONG},
    {"82 alias", {0x82, 0xc0, 0}, LONG},
    {"d6 salc", {0xd6}, LONG},
    {"ce into", {0xce}, LONG},
    {"d4 aam", {0xd4, 0x0a}, LONG},
    {"ea jmp far", {0xea, 0, 0, 0, 0, 8, 0}, LONG},
    {"sldt", {0x0f, 0x00, 0xc0}, R},
    {"str", {0x0f, 0x00, 0xc8}, R},
    {"verr", {0x0f, 0x00, 0xe0}, R},
    {"lar", {0x0f, 0x02, 0xc0}, R},
    {"arpl", {0x63, 0xc0}, R},
    {"swapgs", {0x0f, 0x01, 0xf8}, PROT | R},
    {"db e8 with lock", {0xf0, 0xdb, 0xe8}, ALL},
    {"d9 d1", {0xd9, 0xd1}, ALL},
    {"da e8", {0xda, 0xe8}, ALL},
    {"rex before vex", {0x48, 0xc5, 0xf8, 0x77}, LONG},
    {"66 before vex", {0x66, 0xc5, 0xf8, 0x77}, LONG | PROT},
};

/* True if the opcode is #UD at its first byte. */
static bool is_undefined(struct gu *g, const struct opcode *o, unsigned cpl)
{
	struct gu_trap t = {0};

	gu_code(g, o->code, sizeof(o->code), cpl);
	if (!gu_trap(g, &t)) {
		print_error("%s at CPL %u: exit %u\n", o->what, cpl, g->cpu.run->exit_reason);
		return false;
	}
	if (t.vector != 6 || t.rip != GU_CODE || t.error)
		print_error("%s at CPL %u: vector %u at %#lx\n", o->what, cpl, t.vector, t.rip);
	return t.vector == 6 && t.rip == GU_CODE && !t.error;
}

static void undefined_protected(void **state)
{
	struct gu *g = *state, g32;
	unsigned wrong = 0;

	if (ku_oracle())
		skip(); /* what it emulates it knows only in part */
	gu_start(&g32, GU_PROT32);
	for (unsigned i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++) {
		const struct opcode *o = &opcodes[i];

		for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
			if (o->modes & (cpl ? L3 : L0))
				wrong += !is_undefined(g, o, cpl);
			if (o->modes & (cpl ? P3 : P0))
				wrong += !is_undefined(&g32, o, cpl);
		}
	}
	gu_end(&g32);
	assert_int_equal(wrong, 0);
}

/* Real mode: vector 6 of the table at 0 leads to an OUT. */
static void undefined_real(void **state)
{
	static const uint8_t handler[] = {0xe6, 0xe6, 0xf4};
	struct ku_vm vm;
	struct ku_vcpu cpu;
	unsigned wrong = 0;

	if (ku_oracle())
		skip(); /* without VT-x real mode is emulated, and some of these go on for ever */
	ku_vm_create(&vm, 1 << 20);
	ku_vcpu_create(&vm, 0, &cpu);
	ku_load(&vm, 0x5000, handler, sizeof(handler));
	((uint32_t *)vm.ram)[6] = 0x5000;
	for (unsigned i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++) {
		struct kvm_regs r;

		if (!(opcodes[i].modes & R))
			continue;
		ku_load(&vm, 0x2000, opcodes[i].code, sizeof(opcodes[i].code));
		ku_real_mode(&cpu, 0x2000);
		if (ku_run(&cpu) == KVM_EXIT_IO && cpu.run->io.port == 0xe6) {
			ku_get_regs(&cpu, &r);
			if (*(uint16_t *)(vm.ram + r.rsp) == 0x2000)
				continue;
		}
		print_error("%s in real mode: exit %u\n", opcodes[i].what, cpu.run->exit_reason);
		wrong++;
	}
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	assert_int_equal(wrong, 0);
}

/* -- Code in devices -- */

static void run_at(struct gu *g, uint64_t rip, unsigned cpl)
{
	gu_code(g, "\xf4", 1, cpl);
	ku_reset_regs(&g->cpu, rip, cpl ? GU_STACK3 : GU_STACK0);
}

/* Seen to fail with run_noemu going on at CPL 0. */
static void code_in_devices(void **state)
{
	struct gu *g = *state;
	struct gu_trap t;

	/* At once, and after a part that is memory. */
	run_at(g, GU_WINDOW, 0);
	assert_int_equal(ku_run(&g->cpu), KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(g->cpu.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	assert_usable(g);
	g->vm.ram[GU_FRAMES + PAGE - 2] = 0x90;
	g->vm.ram[GU_FRAMES + PAGE - 1] = 0xb8;
	run_at(g, GU_WINDOW + 2 * PAGE - 2, 0);
	assert_int_equal(ku_run(&g->cpu), KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(g->cpu.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	assert_int_equal(g->cpu.run->emulation_failure.flags,
			 KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
	assert_int_equal(g->cpu.run->emulation_failure.insn_size, 1);
	assert_int_equal(g->cpu.run->emulation_failure.insn_bytes[0], 0xb8);
	{
		struct kvm_regs r;

		ku_get_regs(&g->cpu, &r);
		assert_int_equal(r.rip, GU_WINDOW + 2 * PAGE - 1);
	}
	assert_usable(g);
	if (ku_oracle())
		return; /* without VT-x user code exits, too */
	/* User code gets #UD, as KVM has it. */
	run_at(g, GU_WINDOW, 3);
	assert_true(gu_trap(g, &t));
	assert_int_equal(t.vector, 6);
	assert_int_equal(t.rip, GU_WINDOW);
	assert_usable(g);
}

/* Tables and stacks in devices. */
static void tables_in_devices(void **state)
{
	struct gu *g = *state;
	struct kvm_sregs s;

	for (unsigned i = 0; i < 3; i++) {
		unsigned exits = 0;

		gu_code(g, (const uint8_t[]){0xcc}, 1, 0);
		ku_get_sregs(&g->cpu, &s);
		if (i == 0)
			s.cr3 = DEV; /* nothing is mapped, not even the handler */
		if (i == 1)
			s.idt.base = GU_WINDOW;
		ku_set_sregs(&g->cpu, &s);
		if (i == 2)
			ku_reset_regs(&g->cpu, GU_CODE, GU_WINDOW + 0x800);
		/* The VMM may answer; what comes must end somewhere. */
		while (ku_run(&g->cpu) == KVM_EXIT_MMIO && exits++ < 100)
			memset(g->cpu.run->mmio.data, 0, 8);
		assert_true(g->cpu.run->exit_reason == KVM_EXIT_SHUTDOWN ||
			    g->cpu.run->exit_reason == KVM_EXIT_INTERNAL_ERROR ||
			    g->cpu.run->exit_reason == KVM_EXIT_IO);
		assert_usable(g);
	}
}

/* -- Anything -- */

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1d;
}

static uint64_t odd_value(void)
{
	static const uint64_t some[] = {
	    0,	       1,   ~0ULL,	1ULL << 63, 0x7fffffffffff, 0x800000000000, GU_CODE, GU_STACK0,
	    GU_WINDOW, DEV, 0xffffffff, 0x80000000, GU_RAM - 1,	    GU_IDT,	    GU_GDT};

	return rnd() & 1 ? some[rnd() % (sizeof(some) / sizeof(some[0]))] : rnd() >> (rnd() & 63);
}

static void odd_segment(struct kvm_segment *s)
{
	switch (rnd() % 8) {
	case 0: s->base = odd_value(); break;
	case 1: s->limit = (uint32_t)odd_value(); break;
	case 2: s->type = rnd() & 15; break;
	case 3: s->l = rnd() & 1; break;
	case 4: s->db = rnd() & 1; break;
	case 5: s->dpl = rnd() & 3; break;
	case 6: s->selector = (uint16_t)rnd(); break;
	default:
		s->unusable = rnd() & 1;
		s->present = rnd() & 1;
		break;
	}
}

static void odd_sregs(struct gu *g)
{
	struct kvm_sregs s;

	gu_sregs(g);
	ku_get_sregs(&g->cpu, &s);
	for (unsigned n = rnd() % 4; n; n--) {
		switch (rnd() % 6) {
		case 0: odd_segment(&s.cs + rnd() % 8); break;
		case 1: s.cr0 ^= 1ULL << rnd() % 32; break;
		case 2: s.cr4 ^= 1ULL << rnd() % 24; break;
		case 3: s.efer ^= 1ULL << rnd() % 16; break;
		case 4: s.cr3 = rnd() & 1 ? GU_PML4 : odd_value() & 0xffffffff000; break;
		default: *(rnd() & 1 ? &s.idt.base : &s.gdt.base) = odd_value(); break;
		}
	}
	ioctl(g->cpu.fd, KVM_SET_SREGS, &s); /* refused or not */
}

static void odd_regs(struct gu *g)
{
	struct kvm_vcpu_events ev;
	struct kvm_regs r;

	for (unsigned i = 0; i < 16; i++)
		(&r.rax)[i] = odd_value();
	r.rip = rnd() & 7 ? GU_CODE + rnd() % 256 : odd_value();
	r.rflags = odd_value() & 0x3fffff;
	ku_set_regs(&g->cpu, &r);
	if (rnd() & 7)
		return;
	KU_CHECK(ioctl(g->cpu.fd, KVM_GET_VCPU_EVENTS, &ev) == 0);
	ev.exception.injected = rnd() & 1;
	ev.exception.nr = rnd() & 31;
	ev.exception.has_error_code = rnd() & 1;
	ev.interrupt.shadow = rnd() & 3;
	ev.nmi.pending = rnd() & 1;
	ioctl(g->cpu.fd, KVM_SET_VCPU_EVENTS, &ev);
}

/* Random bytes as code, on random registers: KVM_RUN returns something, in time, and nothing breaks. */
static void anything(void **state)
{
	struct sigaction act = {.sa_handler = ru_signal};
	struct itimerval tick = {{0, 3000}, {0, 3000}}, off = {{0, 0}, {0, 0}};
	const char *given = getenv("USERKVM_SEED");
	uint64_t end = ru_ms() + 4000;
	struct gu g;

	if (ku_oracle())
		skip(); /* random code is nothing for the machine's own */
	sigaction(SIGALRM, &act, NULL);
	for (unsigned round = 0; round < 1500 && ru_ms() < end; round++) {
		seed = (given ? strtoull(given, NULL, 0) : 0x5eed) + round * 0x9e3779b97f4a7c15;
		if (round % 50 == 0) {
			if (round)
				gu_end(&g);
			gu_start(&g, rnd() & 1 ? GU_LONG : GU_PROT32);
			gu_window(&g, 0, DEV);
		}
		gu_code(&g, "\xf4", 1, 0);
		gu_tables(&g);
		gu_paging(&g);
		for (unsigned i = 0; i < 512; i++)
			g.vm.ram[GU_CODE + i] = (uint8_t)rnd();
		odd_sregs(&g);
		odd_regs(&g);
		setitimer(ITIMER_REAL, &tick, NULL);
		for (unsigned exits = 0; exits < 4; exits++)
			if (ioctl(g.cpu.fd, KVM_RUN, 0) && errno != EINTR)
				break;
		setitimer(ITIMER_REAL, &off, NULL);
	}
	gu_end(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(non_canonical_rip), cmocka_unit_test(wide_rip),
	    cmocka_unit_test(impossible_flags),	 cmocka_unit_test(undefined_protected),
	    cmocka_unit_test(undefined_real),	 cmocka_unit_test(code_in_devices),
	    cmocka_unit_test(tables_in_devices), cmocka_unit_test(anything),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
