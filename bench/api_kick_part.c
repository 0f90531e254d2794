/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How soon a vCPU that executes a loop (idle: that is halted) obeys: an interrupt of the VMM's, a signal. */
#include "bench.h"

#define PATIENCE_NS 5000000000

KU_ASM(halted_code, 64, "mov $0x20000, %eax\n movl $1, 8(%rax)\n sti\n 1: hlt\n jmp 1b");
KU_ASM(looping_code, 64, "mov $0x20000, %eax\n movl $1, 8(%rax)\n sti\n 1: incl 64(%rax)\n jmp 1b");

void begin_target(struct world *w)
{
	if (w->n == IDLE)
		W_LOAD(w, halted_code);
	else
		W_LOAD(w, looping_code);
	w_start_target(w);
}

void end_target(struct world *w)
{
	w_stop_target(w);
}

/* -- An interrupt by the measuring thread itself: no other thread between it and the vCPU -- */

void fire_msi(struct world *w)
{
	volatile uint32_t *count = (volatile uint32_t *)(w->vm.ram + W_FLAG);
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = W_VECTOR};
	uint64_t end = b_now() + PATIENCE_NS;
	uint32_t old = *count;

	KU_CHECK(ioctl(w->vm.fd, KVM_SIGNAL_MSI, &msi) >= 0);
	while (*count == old)
		KU_CHECK(b_now() < end);
}

/* -- A signal, until its handler runs -- */

static _Atomic unsigned handled;
static _Atomic bool stop;

static void handler(int sig)
{
	(void)sig;
	atomic_fetch_add(&handled, 1);
}

static void catch (void)
{
	struct sigaction act = {.sa_handler = handler};

	KU_CHECK(sigaction(SIGUSR2, &act, NULL) == 0);
}

void begin_signal(struct world *w)
{
	catch ();
	begin_target(w);
}

/* A thread without KVM that does as the vCPU does. */
static void *bare_main(void *arg)
{
	bool sleeps = *(enum mode *)arg == IDLE;

	while (!atomic_load(&stop)) {
		if (sleeps)
			usleep(500000);
	}
	return NULL;
}

void begin_bare_signal(struct world *w)
{
	static enum mode mode;

	catch ();
	mode = (enum mode)w->n;
	atomic_store(&stop, false);
	KU_CHECK(pthread_create(&w->target.thread, NULL, bare_main, &mode) == 0);
	usleep(1000); /* it sleeps, or spins */
}

void fire_signal(struct world *w)
{
	unsigned old = atomic_load(&handled);
	uint64_t end = b_now() + PATIENCE_NS;

	KU_CHECK(pthread_kill(w->target.thread, SIGUSR2) == 0);
	while (atomic_load(&handled) == old)
		KU_CHECK(b_now() < end);
}

void end_bare_signal(struct world *w)
{
	atomic_store(&stop, true);
	pthread_kill(w->target.thread, SIGUSR2);
	pthread_join(w->target.thread, NULL);
}
