/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interrupts of the chips, seen by a guest: PIT through the PIC, IOAPIC by KVM_IRQ_LINE, MSI, irqfd (with
 * resampling), the local timer, priorities; and the VMM's part where the chips are the VMM's.
 *	make check T=guest/interrupts
 *	USERKVM_ORACLE=1 build/checked/test/guest/interrupts
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "guest_util.h"
#include "run_util.h"

#define PAGE   4096UL
#define APIC   (GU_WINDOW + 400 * PAGE)
#define IOAPIC (GU_WINDOW + 401 * PAGE)
#define ISR    0x1c000ULL

/* The oracle of a machine without VT-x looks for interrupts only at exits, and at EOIs not at all. */
#define NEEDS_BOUNDARIES()       \
	do {                     \
		if (ku_oracle()) \
			skip();  \
	} while (0)

struct env {
	struct gu g;
};

static int make(void **state, bool chips)
{
	static struct env e;

	gu_start_chips(&e.g, GU_LONG, chips);
	gu_window(&e.g, 400, 0xfee00000);
	gu_window(&e.g, 401, 0xfec00000);
	*state = &e;
	return 0;
}

static int setup(void **state)
{
	return make(state, true);
}

static int setup_none(void **state)
{
	return make(state, false);
}

static int teardown(void **state)
{
	struct env *e = *state;

	gu_end(&e->g);
	return 0;
}

/* The handlers: count in r8; end the interrupt where it came from. */
KU_ASM(isr_pic, 64, "inc %r8\n push %rax\n mov $0x20, %al\n out %al, $0x20\n pop %rax\n iretq");
KU_ASM(isr_apic, 64, "inc %r8\n movl $0, 0xb0(%rbx)\n iretq");
KU_ASM(isr_tell, 64, "inc %r8\n movl $0, 0xb0(%rbx)\n mov %r8, 0x20000\n iretq"); /* GU_DATA */
KU_ASM(isr_report, 64, "inc %r8\n out %al, $0xe2\n movl $0, 0xb0(%rbx)\n iretq");

static void handler(struct env *e, unsigned vector, const uint8_t *code, const uint8_t *end)
{
	uint64_t at = ISR + vector * 64, *gate = (uint64_t *)(e->g.vm.ram + GU_IDT + vector * 16);

	ku_load(&e->g.vm, at, code, (size_t)(end - code));
	gate[0] = (at & 0xffff) | (uint64_t)GU_CS0 << 16 | 0x8e00ULL << 32 | (at >> 16) << 48;
}
#define HANDLER(e, vector, name) handler(e, vector, name, name##_end)

static void begin(struct env *e, const uint8_t *code, const uint8_t *end, uint64_t rcx, uint64_t rdx)
{
	struct kvm_regs r;

	gu_code(&e->g, code, (size_t)(end - code), 0);
	ku_get_regs(&e->g.cpu, &r);
	r.rbx = APIC;
	r.rbp = IOAPIC;
	r.rcx = rcx;
	r.rdx = rdx;
	ku_set_regs(&e->g.cpu, &r);
}
#define BEGIN(e, name, rcx, rdx) begin(e, name, name##_end, rcx, rdx)

static uint64_t count(struct env *e)
{
	struct kvm_regs r;

	ku_get_regs(&e->g.cpu, &r);
	return r.r8;
}

static void assert_out(struct env *e, unsigned port)
{
	assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
	assert_int_equal(e->g.cpu.run->io.port, port);
}

static void line(struct env *e, unsigned gsi, unsigned level)
{
	struct kvm_irq_level l = {.irq = gsi, .level = level};

	assert_int_equal(ku_errno(e->g.vm.fd, KVM_IRQ_LINE, &l), 0);
}

/* Interrupts may come: rcx of them are waited for, in HLT. */
KU_ASM(wait_hlt, 64, "1: cli\n cmp %rcx, %r8\n jae 2f\n sti\n hlt\n jmp 1b\n 2: out %al, $0xe1\n jmp 1b");
/* The same without HLT. */
KU_ASM(wait_spin, 64, "sti\n 1: pause\n cmp %rcx, %r8\n jb 1b\n out %al, $0xe1\n jmp 1b");

/* -- PIC and PIT -- */

/* Both PICs at 0x20 and 0x28, all masked but IRQ 0; channel 0 as a rate generator of about 2 kHz. */
KU_ASM(start_pit, 64,
       "mov $0x11, %al\n out %al, $0x20\n out %al, $0xa0\n"
       "mov $0x20, %al\n out %al, $0x21\n mov $0x28, %al\n out %al, $0xa1\n"
       "mov $4, %al\n out %al, $0x21\n mov $2, %al\n out %al, $0xa1\n"
       "mov $1, %al\n out %al, $0x21\n out %al, $0xa1\n"
       "mov $0xfe, %al\n out %al, $0x21\n mov $0xff, %al\n out %al, $0xa1\n"
       "mov $0x34, %al\n out %al, $0x43\n mov $0x54, %al\n out %al, $0x40\n mov $2, %al\n out %al, $0x40\n"
       "out %al, $0xe3\n"
       "1: cli\n cmp %rcx, %r8\n jae 2f\n sti\n hlt\n jmp 1b\n"
       "2: mov $0xff, %al\n out %al, $0x21\n out %al, $0xe1");

/*
 * No more ticks than time has passed for: a guest that is slow to mask the PIT is given those it missed, but none before its
 * time. Seen to fail with p->period halved in pit.c, also in a process that was stopped now and then.
 */
static void pit_by_pic(void **state)
{
	const uint64_t period = 0x254 * 1000000000ULL / 1193182; /* as start_pit has it */
	struct env *e = *state;
	struct kvm_pit_config pit = {0};
	struct kvm_lapic_state l;
	uint64_t start, passed;

	assert_int_equal(ku_errno(e->g.vm.fd, KVM_CREATE_PIT2, &pit), 0);
	/* The PIC's way in: LINT0 as ExtINT. */
	KU_CHECK(ioctl(e->g.cpu.fd, KVM_GET_LAPIC, &l) == 0);
	memcpy(l.regs + 0x350, &(uint32_t){0x700}, 4);
	KU_CHECK(ioctl(e->g.cpu.fd, KVM_SET_LAPIC, &l) == 0);
	HANDLER(e, 0x20, isr_pic);
	BEGIN(e, start_pit, 60, 0);
	start = ru_ns();
	assert_out(e, 0xe3);
	assert_out(e, 0xe1);
	passed = ru_ns() - start;
	assert_in_range(count(e), 60, passed / period);
	assert_in_range(passed, 0, 5000000000); /* of 30 ms */
}

/*
 * The machine ends about when the PIT's first tick wants to wake its vCPU. Seen to fail under SAN=thread (a report or a
 * crash of the event loop) with irq_release_irqfds in place of irq_stop in end_vcpus.
 */
static void ends_while_the_pit_ticks(void **state)
{
	struct kvm_pit_config pit = {0};

	for (unsigned n = 0; n < (ku_oracle() ? 4 : 400); n++) {
		struct env *e = *state;

		assert_int_equal(ku_errno(e->g.vm.fd, KVM_CREATE_PIT2, &pit), 0);
		BEGIN(e, start_pit, 60, 0);
		assert_out(e, 0xe3);
		usleep(n * 37 % 600);
		teardown(state);
		setup(state);
	}
}

/* -- IOAPIC -- */

/* PIC masked; redirection entry edi is edx, its vector in the low byte; then as wait_hlt. */
KU_ASM(route_and_wait, 64,
       "mov $0xff, %al\n out %al, $0x21\n out %al, $0xa1\n"
       "lea 0x11(,%rdi,2), %eax\n mov %eax, (%rbp)\n movl $0, 0x10(%rbp)\n"
       "dec %eax\n mov %eax, (%rbp)\n mov %edx, 0x10(%rbp)\n"
       "out %al, $0xe3\n"
       "1: cli\n cmp %rcx, %r8\n jae 2f\n sti\n hlt\n jmp 1b\n 2: out %al, $0xe1\n inc %rcx\n jmp 1b");

static void start_route(struct env *e, unsigned pin, uint32_t entry)
{
	struct kvm_regs r;

	gu_enable_lapic(&e->g.cpu);
	BEGIN(e, route_and_wait, 1, entry);
	ku_get_regs(&e->g.cpu, &r);
	r.rdi = pin;
	ku_set_regs(&e->g.cpu, &r);
	assert_out(e, 0xe3);
}

static void edge(void **state)
{
	struct env *e = *state;

	HANDLER(e, 0x30, isr_apic);
	start_route(e, 5, 0x30);
	for (unsigned i = 1; i < 20; i++) {
		line(e, 5, 1);
		assert_out(e, 0xe1);
		assert_int_equal(count(e), i);
		line(e, 5, 1); /* no edge */
		line(e, 5, 0);
	}
}

/* A level that stays comes again after each EOI. */
static void level(void **state)
{
	struct env *e = *state;
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_regs r;

	NEEDS_BOUNDARIES();
	HANDLER(e, 0x31, isr_report);
	start_route(e, 10, 0x31 | 1 << 15);
	line(e, 10, 1);
	ku_get_regs(&e->g.cpu, &r);
	r.rcx = 9;
	ku_set_regs(&e->g.cpu, &r);
	for (unsigned i = 1; i < 10; i++) {
		assert_out(e, 0xe2); /* in the handler, before its EOI */
		assert_int_equal(count(e), i);
		KU_CHECK(ioctl(e->g.vm.fd, KVM_GET_IRQCHIP, &chip) == 0);
		assert_int_equal(chip.chip.ioapic.redirtbl[10].fields.remote_irr, 1);
		assert_int_equal(chip.chip.ioapic.irr >> 10 & 1, 1);
	}
	line(e, 10, 0);
	assert_out(e, 0xe1);
	KU_CHECK(ioctl(e->g.vm.fd, KVM_GET_IRQCHIP, &chip) == 0);
	assert_int_equal(chip.chip.ioapic.redirtbl[10].fields.remote_irr, 0);
	assert_int_equal(chip.chip.ioapic.irr >> 10 & 1, 0);
}

/* -- MSI -- */

static int msi(struct env *e, uint32_t addr, uint32_t data)
{
	struct kvm_msi m = {.address_lo = addr, .data = data};

	return ioctl(e->g.vm.fd, KVM_SIGNAL_MSI, &m);
}

static void messages(void **state)
{
	struct env *e = *state;

	HANDLER(e, 0x32, isr_apic);
	gu_enable_lapic(&e->g.cpu);
	BEGIN(e, wait_hlt, 3, 0);
	assert_int_equal(msi(e, 0xfee00000, 0x32), 1);
	assert_int_equal(msi(e, 0xfee00000, 0x32), 1); /* one with the one that waits */
	BEGIN(e, wait_hlt, 1, 0);
	assert_out(e, 0xe1);
	assert_int_equal(count(e), 1);
	assert_true(msi(e, 0xfee07000, 0x32) <= 0);    /* nobody has this id */
	assert_int_equal(msi(e, 0xfeeff000, 0x32), 1); /* everybody */
	BEGIN(e, wait_hlt, 1, 0);
	assert_out(e, 0xe1);
	assert_int_equal(count(e), 1);
}

/* Into a guest that never leaves by itself. */
static void messages_to_a_running_guest(void **state)
{
	struct env *e = *state;
	struct ru run = {.cpu = &e->g.cpu};
	volatile uint64_t *seen = (volatile uint64_t *)(e->g.vm.ram + GU_DATA);

	HANDLER(e, 0x32, isr_tell);
	gu_enable_lapic(&e->g.cpu);
	BEGIN(e, wait_spin, 200, 0);
	*seen = 0;
	ru_start(&run);
	for (unsigned i = 1; i <= 200; i++) {
		assert_int_equal(msi(e, 0xfee00000, 0x32), 1);
		RU_UNTIL(*seen == i);
	}
	assert_int_equal(ru_join(&run), 0);
	assert_int_equal(run.cpu->run->io.port, 0xe1);
	assert_int_equal(count(e), 200);
}

/* -- irqfd -- */

static void route_msi(struct env *e, unsigned gsi, unsigned vector)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[2];
	} r = {.head.nr = 2,
	       .e = {{.gsi = gsi,
		      .type = KVM_IRQ_ROUTING_MSI,
		      .u.msi = {.address_lo = 0xfee00000, .data = vector}},
		     {.gsi = 10, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {KVM_IRQCHIP_IOAPIC, 10}}}};

	assert_int_equal(ku_errno(e->g.vm.fd, KVM_SET_GSI_ROUTING, &r), 0);
}

static void irqfd_message(void **state)
{
	struct env *e = *state;
	int fd = eventfd(0, EFD_CLOEXEC);
	struct kvm_irqfd q = {.fd = fd, .gsi = 100};
	struct ru run = {.cpu = &e->g.cpu};
	uint64_t one = 1;

	HANDLER(e, 0x33, isr_apic);
	HANDLER(e, 0x34, isr_apic);
	gu_enable_lapic(&e->g.cpu);
	route_msi(e, 100, 0x33);
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_IRQFD, &q), 0);
	for (unsigned i = 0; i < 50; i++) {
		BEGIN(e, wait_hlt, 1, 0);
		ru_start(&run);
		assert_int_equal(write(fd, &one, 8), 8);
		assert_int_equal(ru_join(&run), 0);
		assert_int_equal(run.cpu->run->io.port, 0xe1);
		assert_int_equal(count(e), 1);
	}
	route_msi(e, 100, 0x34); /* the same irqfd, another vector */
	BEGIN(e, wait_hlt, 1, 0);
	assert_int_equal(write(fd, &one, 8), 8);
	assert_out(e, 0xe1);
	q.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_IRQFD, &q), 0);
	assert_int_equal(write(fd, &one, 8), 8); /* from now on an eventfd as any other */
	assert_int_equal(read(fd, &one, 8), 8);
	close(fd);
}

/* Level-triggered: the EOI lowers the line and tells the VMM, who raises it again if need be. Seen to fail with no
 * resamplefd signalled, and with the line left up, by irqfd.c's on_ack. */
static void irqfd_resample(void **state)
{
	struct env *e = *state;
	int fd = eventfd(0, EFD_CLOEXEC), again = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct kvm_irqfd q = {.fd = fd, .gsi = 10, .flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = again};
	uint64_t one = 1, got;

	NEEDS_BOUNDARIES();
	HANDLER(e, 0x35, isr_report);
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_IRQFD, &q), 0);
	start_route(e, 10, 0x35 | 1 << 15);
	for (unsigned i = 1; i < 10; i++) {
		assert_int_equal(write(fd, &one, 8), 8);
		assert_out(e, 0xe2);
		assert_int_equal(count(e), i);
		assert_int_equal(read(again, &got, 8), -1); /* not before the EOI */
		assert_out(e, 0xe1);
		assert_int_equal(poll(&(struct pollfd){.fd = again, .events = POLLIN}, 1, 5000), 1);
		assert_int_equal(read(again, &got, 8), 8);
		assert_int_equal(got, 1);
	}
	q.flags |= KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_IRQFD, &q), 0);
	close(fd);
	close(again);
}

/* -- Local timer -- */

/* edx = LVT timer, esi = initial count; divide by 16. */
KU_ASM(start_timer, 64,
       "movl $3, 0x3e0(%rbx)\n mov %edx, 0x320(%rbx)\n mov %esi, 0x380(%rbx)\n"
       "1: cli\n cmp %rcx, %r8\n jae 2f\n sti\n hlt\n jmp 1b\n 2: movl $0, 0x380(%rbx)\n out %al, $0xe1");
KU_ASM(start_deadline, 64,
       "mov %edx, 0x320(%rbx)\n mov %rcx, %rsi\n"
       "1: rdtsc\n shl $32, %rdx\n or %rdx, %rax\n add $1000000, %rax\n mov %rax, %rdx\n shr $32, %rdx\n"
       "mov $0x6e0, %ecx\n mov %r8, %rdi\n wrmsr\n"
       "2: cli\n cmp %rdi, %r8\n jne 3f\n sti\n hlt\n jmp 2b\n"
       "3: sti\n rdmsr\n or %edx, %eax\n jnz 4f\n cmp %rsi, %r8\n jb 1b\n out %al, $0xe1\n 4: ud2");

static void timer(void **state)
{
	struct env *e = *state;
	struct kvm_regs r;
	uint64_t start;

	HANDLER(e, 0x36, isr_apic);
	gu_enable_lapic(&e->g.cpu);
	BEGIN(e, start_timer, 1, 0x36);
	ku_get_regs(&e->g.cpu, &r);
	r.rsi = 312500; /* at 1 GHz / 16: 5 ms */
	ku_set_regs(&e->g.cpu, &r);
	start = ru_ms();
	assert_out(e, 0xe1);
	assert_int_equal(count(e), 1);
	assert_in_range(ru_ms() - start, 4, 5000);
	BEGIN(e, start_timer, 20, 0x36 | 1 << 17);
	ku_get_regs(&e->g.cpu, &r);
	r.rsi = 62500; /* each 1 ms */
	ku_set_regs(&e->g.cpu, &r);
	start = ru_ms();
	assert_out(e, 0xe1);
	assert_in_range(ru_ms() - start, 18, 5000);
}

/* The guest's CPUID must have it; GET_SUPPORTED_CPUID leaves that to the VMM. */
static void deadline(void **state)
{
	struct env *e = *state;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));

	KU_CHECK(c);
	c->nent = 256;
	KU_CHECK(ioctl(e->g.vm.sys, KVM_GET_SUPPORTED_CPUID, c) == 0);
	for (unsigned i = 0; i < c->nent; i++)
		if (c->entries[i].function == 1)
			c->entries[i].ecx |= 1 << 24;
	assert_int_equal(ku_errno(e->g.cpu.fd, KVM_SET_CPUID2, c), 0);
	free(c);
	HANDLER(e, 0x36, isr_apic);
	gu_enable_lapic(&e->g.cpu);
	BEGIN(e, start_deadline, 10, 0x36 | 2 << 17);
	assert_out(e, 0xe1);
	assert_int_equal(count(e), 10);
}

/* -- Priorities -- */

/* CR8 holds vector 0x3f until it is lowered; a higher one comes first. */
KU_ASM(raise_lower, 64,
       "mov $3, %eax\n mov %rax, %cr8\n sti\n out %al, $0xe3\n nop\n nop\n"
       "mov %r8, %r9\n xor %eax, %eax\n mov %rax, %cr8\n nop\n"
       "cli\n mov 0x80(%rbx), %r10d\n out %al, $0xe1");

static void task_priority(void **state)
{
	struct env *e = *state;
	struct kvm_regs r;

	NEEDS_BOUNDARIES();
	HANDLER(e, 0x3e, isr_apic);
	gu_enable_lapic(&e->g.cpu);
	BEGIN(e, raise_lower, 0, 0);
	assert_out(e, 0xe3);
	assert_int_equal(e->g.cpu.run->cr8, 3);
	assert_int_equal(msi(e, 0xfee00000, 0x3e), 1);
	assert_out(e, 0xe1);
	ku_get_regs(&e->g.cpu, &r);
	assert_int_equal(r.r9, 0); /* not while CR8 was 3 */
	assert_int_equal(r.r8, 1);
	assert_int_equal(r.r10, 0);
	assert_int_equal(e->g.cpu.run->cr8, 0);
}

KU_ASM(sti_wait, 64, "sti\n nop\n nop\n cli\n out %al, $0xe1");
KU_ASM(isr_order, 64, "shl $8, %r8\n or $0x21, %r8\n movl $0, 0xb0(%rbx)\n iretq");
KU_ASM(isr_order_high, 64, "shl $8, %r8\n or $0x3f, %r8\n movl $0, 0xb0(%rbx)\n iretq");

static void highest_first(void **state)
{
	struct env *e = *state;

	NEEDS_BOUNDARIES();
	HANDLER(e, 0x21, isr_order);
	HANDLER(e, 0x3f, isr_order_high);
	gu_enable_lapic(&e->g.cpu);
	BEGIN(e, sti_wait, 0, 0);
	assert_int_equal(msi(e, 0xfee00000, 0x21), 1);
	assert_int_equal(msi(e, 0xfee00000, 0x3f), 1);
	assert_out(e, 0xe1);
	assert_int_equal(count(e), 0x3f21);
}

/* -- Chips of the VMM -- */

/* Without our chips CR8 is the VMM's business: its values go both ways in kvm_run, a lowered one exits. */
KU_ASM(cr8_up_down, 64,
       "mov %cr8, %r8\n mov $9, %eax\n mov %rax, %cr8\n mov $2, %eax\n mov %rax, %cr8\n out %al, $0xe1");

static void cr8_by_the_vmm(void **state)
{
	struct env *e = *state;

	NEEDS_BOUNDARIES();
	BEGIN(e, cr8_up_down, 0, 0);
	e->g.cpu.run->cr8 = 5;
	assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_SET_TPR);
	assert_int_equal(e->g.cpu.run->cr8, 2);
	assert_int_equal(count(e), 5);
	assert_out(e, 0xe1);
	assert_int_equal(e->g.cpu.run->cr8, 2);
	e->g.cpu.run->cr8 = 0x1f; /* no such priority */
	assert_int_equal(ku_errno(e->g.cpu.fd, KVM_RUN, 0), EINVAL);
	e->g.cpu.run->cr8 = 2;
}

/* An interrupt whose stack is gone: EFAULT, and it is not lost. */
static void no_stack(void **state)
{
	struct env *e = *state;
	uint8_t *stack = e->g.vm.ram + GU_STACK0 - PAGE;
	struct kvm_interrupt irq = {.irq = 0x30};
	struct gu_trap t;
	struct kvm_regs r;

	NEEDS_BOUNDARIES();
	BEGIN(e, wait_spin, 1, 0);
	ku_get_regs(&e->g.cpu, &r);
	r.rflags |= 0x200;
	ku_set_regs(&e->g.cpu, &r);
	((uint64_t *)(e->g.vm.ram + GU_IDT + 0x30 * 16))[0] =
	    (GU_STUBS + 0x30 * 16) | (uint64_t)GU_CS0 << 16 | 0x8e00ULL << 32;
	assert_int_equal(ku_errno(e->g.cpu.fd, KVM_INTERRUPT, &irq), 0);
	KU_CHECK(mprotect(stack, PAGE, PROT_NONE) == 0);
	assert_int_equal(ku_errno(e->g.cpu.fd, KVM_RUN, 0), EFAULT);
	assert_int_equal(ku_errno(e->g.cpu.fd, KVM_RUN, 0), EFAULT);
	KU_CHECK(mprotect(stack, PAGE, PROT_READ | PROT_WRITE) == 0);
	ku_get_regs(&e->g.cpu, &r);
	assert_int_equal(r.rip, GU_CODE);
	assert_int_equal(r.rsp, GU_STACK0);
	assert_true(gu_trap(&e->g, &t));
	assert_int_equal(t.vector, 0x30);
	assert_int_equal(t.rip, GU_CODE);
	assert_int_equal(t.rsp, GU_STACK0);
}

#define CASE(f)	     cmocka_unit_test_setup_teardown(f, setup, teardown)
#define CASE_NONE(f) cmocka_unit_test_setup_teardown(f, setup_none, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(pit_by_pic),
	    CASE(ends_while_the_pit_ticks),
	    CASE(edge),
	    CASE(level),
	    CASE(messages),
	    CASE(messages_to_a_running_guest),
	    CASE(irqfd_message),
	    CASE(irqfd_resample),
	    CASE(timer),
	    CASE(deadline),
	    CASE(task_priority),
	    CASE(highest_first),
	    CASE_NONE(cr8_by_the_vmm),
	    CASE_NONE(no_stack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
