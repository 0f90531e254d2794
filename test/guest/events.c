/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Events from the VMM: interrupts by KVM_INTERRUPT and their window, NMI, SMI, INIT and SIPI, exceptions by
 * KVM_SET_VCPU_EVENTS, guest debugging.
 *	make check T=guest/events
 *	USERKVM_ORACLE=1 build/checked/test/guest/events	on the machine's own KVM
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>

#include "kvm_util.h"

/* The oracle of a machine without VT-x emulates real mode and looks for windows only at exits. */
#define NEEDS_WINDOWS()          \
	do {                     \
		if (ku_oracle()) \
			skip();  \
	} while (0)

#define RAM  0x200000
#define CODE 0x1000
#define ISR  0x3000 /* handlers of the IVT: ISR + 16 * vector: out %al, $vector; iret */

struct env {
	struct ku_vm vm;
	struct ku_vcpu cpu;
};

/* A real-mode guest whose handlers report their vector by an OUT to the port of that number. */
static void make(struct env *e, bool irqchip)
{
	unsigned i;

	ku_vm_create(&e->vm, RAM);
	if (irqchip)
		KU_CHECK(ioctl(e->vm.fd, KVM_CREATE_IRQCHIP, 0) == 0);
	ku_vcpu_create(&e->vm, 0, &e->cpu);
	for (i = 0; i < 256; i++) {
		const uint8_t handler[] = {0xe6, i, 0xcf};

		((uint32_t *)e->vm.ram)[i] = ISR + 16 * i;
		ku_load(&e->vm, ISR + 16 * i, handler, sizeof(handler));
	}
}

static int setup(void **state)
{
	static struct env e;

	make(&e, false);
	*state = &e;
	return 0;
}

static int setup_irqchip(void **state)
{
	static struct env e;

	make(&e, true);
	*state = &e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	ku_vcpu_destroy(&e->cpu);
	ku_vm_destroy(&e->vm);
	return 0;
}

static void start(struct env *e, const void *code, size_t len)
{
	ku_load(&e->vm, CODE, code, len);
	ku_real_mode(&e->cpu, CODE);
}
#define START(e, code) start(e, code, sizeof(code))

static uint64_t rip(struct env *e)
{
	struct kvm_regs r;

	ku_get_regs(&e->cpu, &r);
	return r.rip;
}

/* The next exit is the handler of `vector`. */
static void assert_handler(struct env *e, unsigned vector)
{
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_IO);
	assert_int_equal(e->cpu.run->io.port, vector);
}

/* What the innermost handler will return to. */
static unsigned frame_ip(struct env *e)
{
	struct kvm_regs r;
	uint16_t ip;

	ku_get_regs(&e->cpu, &r);
	memcpy(&ip, e->vm.ram + r.rsp, sizeof(ip));
	return ip;
}

static int interrupt(struct env *e, unsigned vector)
{
	struct kvm_interrupt irq = {.irq = vector};

	return ku_errno(e->cpu.fd, KVM_INTERRUPT, &irq);
}

/* -- Interrupts, irqchip off -- */

static void test_window_and_interrupt(void **state)
{
	static const uint8_t code[] = {
	    0x90, 0x90, 0xfb, /* sti */
	    0x90,	      /* its shadow */
	    0x90, 0xf4,	      /* nop; hlt */
	};
	struct env *e = *state;

	NEEDS_WINDOWS();
	START(e, code);
	e->cpu.run->request_interrupt_window = 1;
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(rip(e), CODE + 4);
	assert_int_equal(e->cpu.run->if_flag, 1);
	assert_int_equal(e->cpu.run->ready_for_interrupt_injection, 1);
	e->cpu.run->request_interrupt_window = 0;
	assert_int_equal(interrupt(e, 0x21), 0);
	assert_handler(e, 0x21);
	assert_int_equal(frame_ip(e), CODE + 4);
	assert_int_equal(e->cpu.run->if_flag, 0);
	assert_int_equal(e->cpu.run->ready_for_interrupt_injection, 0);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
	assert_int_equal(rip(e), CODE + 6);
	assert_int_equal(e->cpu.run->ready_for_interrupt_injection, 1);
}

static void test_interrupt_refused(void **state)
{
	struct env *e = *state;

	assert_int_equal(interrupt(e, 256), EINVAL);
}

static void test_interrupt_with_irqchip(void **state)
{
	struct env *e = *state;

	assert_int_equal(interrupt(e, 0x21), ENXIO);
	assert_int_equal(interrupt(e, 256), EINVAL);
}

/* An interrupt wakes a vCPU that the VMM runs again after HLT. */
static void test_interrupt_after_hlt(void **state)
{
	static const uint8_t code[] = {0xfb, 0xf4, 0x40, 0xf4}; /* sti; hlt; inc %ax; hlt */
	struct env *e = *state;

	START(e, code);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
	assert_int_equal(e->cpu.run->ready_for_interrupt_injection, 1);
	assert_int_equal(interrupt(e, 0x30), 0);
	assert_handler(e, 0x30);
	assert_int_equal(frame_ip(e), CODE + 2);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
	assert_int_equal(rip(e), CODE + 4);
}

/* -- NMI -- */

/* A second NMI waits for the IRET of the first; more than one waiting are one. Seen to fail with NMIs not masked by
 * deliver_nmi, and with more than `limit` taken by event_collect. */
static void test_nmi(void **state)
{
	static const uint8_t code[] = {0x90, 0xf4};
	struct env *e = *state;
	struct kvm_vcpu_events ev;

	NEEDS_WINDOWS();
	START(e, code);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_NMI, 0), 0);
	assert_handler(e, 2);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_NMI, 0), 0);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_NMI, 0), 0);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ev.nmi.masked, 1);
	assert_int_equal(ev.nmi.pending, 1);
	assert_handler(e, 2);
	assert_int_equal(frame_ip(e), CODE);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
	assert_int_equal(rip(e), CODE + 2);
}

/* -- SMI -- */

/* The handler runs at SMBASE, finds the state in SMRAM, moves SMBASE and returns. */
static void test_smi(void **state)
{
	static const uint8_t code[] = {0xb8, 0x34, 0x12,
				       0xf4, 0x40, 0xf4}; /* mov $0x1234, %ax; hlt; inc %ax; hlt */
	static const uint8_t handler[] = {
	    0xb8, 0x99, 0x00,				       /* mov $0x99, %ax */
	    0xe6, 0xb2,					       /* out %al, $0xb2 */
	    0x66, 0x2e, 0xc7, 0x06, 0x00, 0xff, 0, 0, 0x04, 0, /* movl $0x40000, %cs:0xff00: SMBASE */
	    0x0f, 0xaa,					       /* rsm */
	};
	struct env *e = *state;
	struct kvm_vcpu_events ev;
	struct kvm_regs r;

	if (ioctl(e->vm.sys, KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM) != 1)
		skip();
	/* SMM has an address space of its own; here it shows the same RAM. */
	assert_int_equal(ku_set_slot(&e->vm, 1 << 16, 0, 0, e->vm.ram, RAM), 0);
	START(e, code);
	ku_load(&e->vm, 0x38000, handler, sizeof(handler));
	ku_load(&e->vm, 0x48000, handler, sizeof(handler));
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SMI, 0), 0);
	assert_handler(e, 0xb2);
	assert_int_equal(e->cpu.run->flags & KVM_RUN_X86_SMM, KVM_RUN_X86_SMM);
	assert_int_equal(*(uint8_t *)ku_io_data(&e->cpu), 0x99);
	assert_int_equal(*(uint32_t *)(e->vm.ram + 0x3fefc), 0x20064);
	assert_int_equal(*(uint64_t *)(e->vm.ram + 0x3fff8), 0x1234);	/* RAX */
	assert_int_equal(*(uint64_t *)(e->vm.ram + 0x3ff78), CODE + 4); /* RIP */
	assert_int_equal(ku_errno(e->cpu.fd, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ev.smi.smm, 1);
	assert_int_equal(ev.nmi.masked, 1);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
	assert_int_equal(e->cpu.run->flags & KVM_RUN_X86_SMM, 0);
	ku_get_regs(&e->cpu, &r);
	assert_int_equal(r.rax & 0xffff, 0x1235);
	assert_int_equal(r.rip, CODE + 6);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SMI, 0), 0);
	assert_handler(e, 0xb2);
	assert_int_equal(*(uint32_t *)(e->vm.ram + 0x4fefc), 0x20064); /* the new SMBASE */
}

/* RSM where there is no SMM is undefined. */
static void test_rsm_outside(void **state)
{
	static const uint8_t code[] = {0x0f, 0xaa};
	struct env *e = *state;

	START(e, code);
	assert_handler(e, 6);
	assert_int_equal(frame_ip(e), CODE);
}

/* -- Exceptions and events by the VMM -- */

static void test_inject_exception(void **state)
{
	static const uint8_t code[] = {0x90, 0xf4};
	struct env *e = *state;
	struct kvm_vcpu_events ev;

	START(e, code);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_GET_VCPU_EVENTS, &ev), 0);
	ev.exception.injected = 1;
	ev.exception.nr = 6;
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SET_VCPU_EVENTS, &ev), 0);
	assert_handler(e, 6);
	assert_int_equal(frame_ip(e), CODE);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
	ev.exception.nr = 32;
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SET_VCPU_EVENTS, &ev), EINVAL);
	ev.exception.nr = 2;
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SET_VCPU_EVENTS, &ev), EINVAL);
	ev.exception.injected = 0;
	ev.flags |= 0x8000;
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SET_VCPU_EVENTS, &ev), EINVAL);
}

/* A shadow set by the VMM holds for one instruction. */
static void test_set_shadow(void **state)
{
	static const uint8_t code[] = {0x90, 0x90, 0xf4};
	struct env *e = *state;
	struct kvm_vcpu_events ev;
	struct kvm_regs r;

	NEEDS_WINDOWS();
	START(e, code);
	ku_get_regs(&e->cpu, &r);
	r.rflags |= 0x200;
	ku_set_regs(&e->cpu, &r);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ev.interrupt.shadow, 0);
	ev.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	ev.flags |= KVM_VCPUEVENT_VALID_SHADOW;
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SET_VCPU_EVENTS, &ev), 0);
	e->cpu.run->request_interrupt_window = 1;
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(rip(e), CODE + 1);
	e->cpu.run->request_interrupt_window = 0;
}

/* -- Debugging -- */

static void set_debug(struct env *e, uint32_t control, uint64_t dr0, uint64_t dr7)
{
	struct kvm_guest_debug d = {.control = control};

	d.arch.debugreg[0] = dr0;
	d.arch.debugreg[7] = dr7;
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SET_GUEST_DEBUG, &d), 0);
}

static void assert_debug(struct env *e, unsigned exception, uint64_t pc)
{
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_DEBUG);
	assert_int_equal(e->cpu.run->debug.arch.exception, exception);
	assert_int_equal(e->cpu.run->debug.arch.pc, pc);
	assert_int_equal(rip(e), pc);
}

static void test_single_step(void **state)
{
	static const uint8_t code[] = {0x90, 0xb8, 0x01, 0x00, 0xeb, 0x01, 0xf4, 0x40, 0xf4};
	struct env *e = *state;
	struct kvm_regs r;

	START(e, code);
	set_debug(e, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0, 0);
	assert_debug(e, 1, CODE + 1);
	assert_int_equal(e->cpu.run->debug.arch.dr6 & 0x4000, 0x4000);
	assert_debug(e, 1, CODE + 4);
	assert_debug(e, 1, CODE + 7);
	assert_debug(e, 1, CODE + 8);
	ku_get_regs(&e->cpu, &r);
	assert_int_equal(r.rax & 0xffff, 2);
	assert_int_equal(r.rflags & 0x100, 0); /* TF is not the guest's */
	set_debug(e, 0, 0, 0);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
}

static void test_hardware_breakpoint(void **state)
{
	static const uint8_t code[] = {0x90, 0x90, 0x40, 0xf4};
	struct env *e = *state;

	START(e, code);
	set_debug(e, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, CODE + 2, 0x402);
	assert_debug(e, 1, CODE + 2);
	assert_int_equal(e->cpu.run->debug.arch.dr6 & 15, 1);
	set_debug(e, 0, 0, 0);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
}

static void test_software_breakpoint(void **state)
{
	static const uint8_t code[] = {0x90, 0xcc, 0xf4};
	struct env *e = *state;

	NEEDS_WINDOWS();
	START(e, code);
	set_debug(e, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0);
	assert_debug(e, 3, CODE + 1);
	/* It was the guest's own: give it back. */
	set_debug(e, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP, 0, 0);
	assert_handler(e, 3);
	assert_int_equal(frame_ip(e), CODE + 2);
	set_debug(e, 0, 0, 0);
	assert_int_equal(ku_run(&e->cpu), KVM_EXIT_HLT);
}

/* -- MP state -- */

static int set_mp(struct env *e, uint32_t mp)
{
	struct kvm_mp_state s = {.mp_state = mp};

	return ku_errno(e->cpu.fd, KVM_SET_MP_STATE, &s);
}

static uint32_t get_mp(int fd)
{
	struct kvm_mp_state s = {.mp_state = 99};

	assert_int_equal(ku_errno(fd, KVM_GET_MP_STATE, &s), 0);
	return s.mp_state;
}

static void test_mp_state_without_irqchip(void **state)
{
	struct env *e = *state;

	assert_int_equal(get_mp(e->cpu.fd), KVM_MP_STATE_RUNNABLE);
	assert_int_equal(set_mp(e, KVM_MP_STATE_RUNNABLE), 0);
	assert_int_equal(set_mp(e, KVM_MP_STATE_HALTED), EINVAL);
	assert_int_equal(set_mp(e, KVM_MP_STATE_UNINITIALIZED), EINVAL);
	assert_int_equal(set_mp(e, 77), EINVAL);
}

static volatile sig_atomic_t handled;

static void on_signal(int sig)
{
	handled++;
}

/* HLT waits inside KVM_RUN; a signal ends the wait, the state stays; an NMI wakes. */
static void test_hlt_in_kernel(void **state)
{
	static const uint8_t code[] = {0xf4, 0xe6, 0x77, 0xf4}; /* hlt; out %al, $0x77 */
	struct env *e = *state;
	struct sigaction sa = {.sa_handler = on_signal};

	START(e, code);
	sigaction(SIGALRM, &sa, NULL);
	handled = 0;
	ualarm(10000, 0);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_RUN, 0), EINTR);
	assert_int_equal(handled, 1);
	assert_int_equal(get_mp(e->cpu.fd), KVM_MP_STATE_HALTED);
	assert_int_equal(rip(e), CODE + 1);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_NMI, 0), 0);
	assert_handler(e, 2);
	assert_int_equal(get_mp(e->cpu.fd), KVM_MP_STATE_RUNNABLE);
	assert_handler(e, 0x77);
}

/* A second vCPU waits for SIPI: EINTR on a signal, then starts at vector << 12. */
static void test_init_sipi(void **state)
{
	static const uint8_t code[] = {0xe6, 0x55, 0xf4};
	struct env *e = *state, ap = {.vm = e->vm};
	struct sigaction sa = {.sa_handler = on_signal};
	struct kvm_vcpu_events ev;
	struct kvm_sregs s;

	ku_vcpu_create(&e->vm, 1, &ap.cpu);
	ku_load(&e->vm, 0x9000, code, sizeof(code));
	assert_int_equal(get_mp(ap.cpu.fd), KVM_MP_STATE_UNINITIALIZED);
	sigaction(SIGALRM, &sa, NULL);
	ualarm(10000, 0);
	assert_int_equal(ku_errno(ap.cpu.fd, KVM_RUN, 0), EINTR);
	assert_int_equal(set_mp(&ap, KVM_MP_STATE_INIT_RECEIVED), 0);
	assert_int_equal(ku_errno(ap.cpu.fd, KVM_GET_VCPU_EVENTS, &ev), 0);
	ev.sipi_vector = 9;
	ev.flags = KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	assert_int_equal(ku_errno(ap.cpu.fd, KVM_SET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(set_mp(&ap, KVM_MP_STATE_SIPI_RECEIVED), 0);
	assert_handler(&ap, 0x55);
	ku_get_sregs(&ap.cpu, &s);
	assert_int_equal(s.cs.selector, 0x900);
	assert_int_equal(s.cs.base, 0x9000);
	assert_int_equal(get_mp(ap.cpu.fd), KVM_MP_STATE_RUNNABLE);
	ku_vcpu_destroy(&ap.cpu);
}

/* Another thread's interrupt (an MSI here) wakes a vCPU that sleeps in HLT. */
static void *msi_soon(void *arg)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x44};
	struct env *e = arg;

	usleep(20000);
	KU_CHECK(ioctl(e->vm.fd, KVM_SIGNAL_MSI, &msi) >= 0);
	return NULL;
}

static void test_msi_wakes(void **state)
{
	static const uint8_t code[] = {0xfb, 0xf4, 0xf4}; /* sti; hlt */
	struct env *e = *state;
	struct kvm_lapic_state l;
	pthread_t t;

	START(e, code);
	assert_int_equal(ku_errno(e->cpu.fd, KVM_GET_LAPIC, &l), 0);
	memcpy(l.regs + 0xf0, &(uint32_t){0x1ff}, 4); /* SVR: enabled */
	assert_int_equal(ku_errno(e->cpu.fd, KVM_SET_LAPIC, &l), 0);
	assert_int_equal(pthread_create(&t, NULL, msi_soon, e), 0);
	assert_handler(e, 0x44);
	pthread_join(t, NULL);
	assert_int_equal(frame_ip(e), CODE + 2);
}

#define CASE(f)	     cmocka_unit_test_setup_teardown(f, setup, teardown)
#define CASE_CHIP(f) cmocka_unit_test_setup_teardown(f, setup_irqchip, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(test_window_and_interrupt),
	    CASE(test_interrupt_refused),
	    CASE_CHIP(test_interrupt_with_irqchip),
	    CASE(test_interrupt_after_hlt),
	    CASE(test_nmi),
	    CASE(test_smi),
	    CASE(test_rsm_outside),
	    CASE(test_inject_exception),
	    CASE(test_set_shadow),
	    CASE(test_single_step),
	    CASE(test_hardware_breakpoint),
	    CASE(test_software_breakpoint),
	    CASE(test_mp_state_without_irqchip),
	    CASE_CHIP(test_hlt_in_kernel),
	    CASE_CHIP(test_init_sipi),
	    CASE_CHIP(test_msi_wakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
