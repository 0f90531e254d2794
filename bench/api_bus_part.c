/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Registration of doorbells and interrupts, routing, and an interrupt's way to the guest. */
#include "bench.h"

/* -- Registration -- */

static void ring(struct world *w, uint64_t addr, uint32_t flags)
{
	struct kvm_ioeventfd io = {.addr = addr, .len = 4, .fd = w->fd, .flags = flags};

	KU_CHECK(ioctl(w->vm.fd, KVM_IOEVENTFD, &io) == 0);
}

void add_bell(struct world *w)
{
	ring(w, W_DEVICE, 0);
}

void del_bell(struct world *w)
{
	ring(w, W_DEVICE, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

void hang_300(struct world *w)
{
	for (unsigned i = 0; i < 300; i++)
		ring(w, W_DEVICE + i * 8, 0);
}

void drop_300(struct world *w)
{
	for (unsigned i = 0; i < 300; i++)
		ring(w, W_DEVICE + i * 8, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static void irqfd(struct world *w, uint32_t flags)
{
	struct kvm_irqfd f = {.fd = (uint32_t)w->fd, .gsi = W_GSI, .flags = flags};

	KU_CHECK(ioctl(w->vm.fd, KVM_IRQFD, &f) == 0);
}

void add_irqfd(struct world *w)
{
	irqfd(w, 0);
}

void del_irqfd(struct world *w)
{
	irqfd(w, KVM_IRQFD_FLAG_DEASSIGN);
}

/* A table of two sizes in turn: what a VMM does at each MSI-X change. */
void route(struct world *w)
{
	w_route(w, w->m++ % 2 ? 32 : 33);
}

/* -- From an eventfd to the guest's handler -- */

KU_ASM(halt_code, 64, "mov $0x20000, %eax\n movl $1, 8(%rax)\n sti\n 1: hlt\n jmp 1b");
KU_ASM(spin_code, 64, "mov $0x20000, %eax\n movl $1, 8(%rax)\n sti\n 1: incl 64(%rax)\n jmp 1b");

void begin_irq(struct world *w)
{
	open_event(w);
	w_route(w, 32);
	add_irqfd(w);
	if (w->n == IDLE)
		W_LOAD(w, halt_code);
	else
		W_LOAD(w, spin_code);
	w_start_target(w);
}

void fire_irq(struct world *w)
{
	volatile uint32_t *count = (volatile uint32_t *)(w->vm.ram + W_FLAG);
	uint32_t old = *count;
	uint64_t end = b_now() + 5000000000;

	write_event(w);
	while (*count == old)
		KU_CHECK(b_now() < end);
}

void end_irq(struct world *w)
{
	w_stop_target(w);
	del_irqfd(w);
	close_event(w);
}
