/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Registers, exits, doorbells rung by the guest. */
#include <sys/eventfd.h>

#include "bench.h"

KU_ASM(pio_code, 64, "1: out %al, $0x80\n jmp 1b");
KU_ASM(mmio_code, 64, "mov $0x30000000, %eax\n 1: mov %cl, (%rax)\n jmp 1b");
/* 1,000 times round, then out; the second one without the doorbell at port 0x200. */
KU_ASM(bell_code, 64,
       "3: mov $1000, %ecx\n mov $0x200, %edx\n 1: out %al, %dx\n dec %ecx\n jnz 1b\n"
       "out %al, $0x80\n jmp 3b");
KU_ASM(loop_code, 64,
       "3: mov $1000, %ecx\n mov $0x200, %edx\n 1: nop\n dec %ecx\n jnz 1b\n"
       "out %al, $0x80\n jmp 3b");

void get_regs(struct world *w)
{
	struct kvm_regs r;

	ku_get_regs(&w->cpu, &r);
}

void load_pio(struct world *w)
{
	W_LOAD(w, pio_code);
}

void run_pio(struct world *w)
{
	KU_CHECK(ku_run(&w->cpu) == KVM_EXIT_IO);
}

void load_mmio(struct world *w)
{
	W_LOAD(w, mmio_code);
}

void run_mmio(struct world *w)
{
	KU_CHECK(ku_run(&w->cpu) == KVM_EXIT_MMIO);
}

static void bell(struct world *w, uint32_t flags)
{
	struct kvm_ioeventfd io = {
	    .addr = 0x200, .len = 1, .fd = w->fd, .flags = KVM_IOEVENTFD_FLAG_PIO | flags};

	KU_CHECK(ioctl(w->vm.fd, KVM_IOEVENTFD, &io) == 0);
}

void load_bell(struct world *w)
{
	open_event(w);
	bell(w, 0);
	W_LOAD(w, bell_code);
}

void run_to_end(struct world *w)
{
	KU_CHECK(ku_run(&w->cpu) == KVM_EXIT_IO && w->cpu.run->io.port == 0x80);
}

void unload_bell(struct world *w)
{
	bell(w, KVM_IOEVENTFD_FLAG_DEASSIGN);
	close_event(w);
}

void load_loop(struct world *w)
{
	W_LOAD(w, loop_code);
}

/* -- The same bell without a guest -- */

void open_event(struct world *w)
{
	w->fd = eventfd(0, EFD_NONBLOCK);
	KU_CHECK(w->fd >= 0);
}

void write_event(struct world *w)
{
	uint64_t one = 1;

	KU_CHECK(write(w->fd, &one, sizeof(one)) == sizeof(one));
}

void drain_event(struct world *w)
{
	uint64_t n;

	KU_CHECK(read(w->fd, &n, sizeof(n)) == sizeof(n));
}

void close_event(struct world *w)
{
	close(w->fd);
}
