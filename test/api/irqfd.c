/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_IRQFD by its ABI: errno for each kind of irqchip, the eventfd's identity, detaching when the VM's fd is
 * closed whoever else keeps the VM, a forked child's own. Delivery is seen in the LAPIC's IRR.
 *	make check T=api/irqfd
 *	USERKVM_ORACLE=1 build/checked/test/api/irqfd
 * WORKS: KVM_IRQFD | with and without resample; detached at once when the VM's fd is closed
 */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "chips_util.h"
#include "run_util.h"

#define OFF	 KVM_IRQFD_FLAG_DEASSIGN
#define RESAMPLE KVM_IRQFD_FLAG_RESAMPLE

static int irqfd(int fd, uint32_t gsi, uint32_t flags, int resamplefd)
{
	struct kvm_irqfd a = {
	    .fd = (uint32_t)fd, .gsi = gsi, .flags = flags, .resamplefd = (uint32_t)resamplefd};

	return ku_errno(vm.fd, KVM_IRQFD, &a);
}

static void route(uint32_t gsi, uint8_t vector)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e;
	} r = {
	    {.nr = 1},
	    {.gsi = gsi, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = vector}}};

	KU_CHECK(ku_errno(vm.fd, KVM_SET_GSI_ROUTING, &r) == 0);
}

static bool in_irr(uint8_t vector)
{
	struct kvm_lapic_state s;

	KU_CHECK(ku_errno(cpu.fd, KVM_GET_LAPIC, &s) == 0);
	return s.regs[0x200 + vector / 32 * 16 + vector % 32 / 8] >> vector % 8 & 1;
}

static void ring(int fd)
{
	uint64_t one = 1;

	KU_CHECK(write(fd, &one, 8) == 8);
}

static uint64_t count(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t n = 0;

	return poll(&p, 1, 0) == 1 && read(fd, &n, 8) == 8 ? n : 0;
}

/* -- Errno -- */

enum { EVENT = -100, TIMER, VM_FD, CLOSED };

static const struct {
	enum chips chips;
	int fd;
	uint32_t flags;
	int resamplefd;
	int error;
} matrix[] = {
    /* Without a chip there is nothing to raise, whatever the fd. */
    {NONE, EVENT, 0, 0, EINVAL},
    {NONE, CLOSED, 0, 0, EINVAL},
    {NONE, EVENT, RESAMPLE, EVENT, EINVAL},
    {NONE, EVENT, OFF, 0, 0},
    {NONE, CLOSED, OFF, 0, EBADF},
    {NONE, EVENT, 4, 0, EINVAL},
    /* A split chip has no IOAPIC here that could tell of the end. */
    {SPLIT, EVENT, RESAMPLE, EVENT, EINVAL},
    {SPLIT, EVENT, 0, 0, 0},
    {SPLIT, EVENT, OFF, 0, 0},
    {SPLIT, CLOSED, 0, 0, EBADF},
    {SPLIT, TIMER, 0, 0, EINVAL},
    /* Flags before the fd. */
    {KERNEL, CLOSED, 4, 0, EINVAL},
    {KERNEL, EVENT, 8, 0, EINVAL},
    {KERNEL, EVENT, OFF | 4, 0, EINVAL},
    {KERNEL, EVENT, 0x80000000, 0, EINVAL},
    {KERNEL, -1, 0, 0, EBADF},
    {KERNEL, CLOSED, 0, 0, EBADF},
    {KERNEL, TIMER, 0, 0, EINVAL},
    {KERNEL, VM_FD, 0, 0, EINVAL},
    {KERNEL, EVENT, RESAMPLE, -1, EBADF},
    {KERNEL, EVENT, RESAMPLE, CLOSED, EBADF},
    {KERNEL, EVENT, RESAMPLE, TIMER, EINVAL},
    {KERNEL, TIMER, RESAMPLE, CLOSED, EINVAL},
    {KERNEL, CLOSED, OFF, 0, EBADF},
    {KERNEL, TIMER, OFF, 0, EINVAL},
    {KERNEL, VM_FD, OFF, 0, EINVAL},
    {KERNEL, EVENT, OFF, 0, 0}, /* never assigned */
    {KERNEL, EVENT, OFF | RESAMPLE, CLOSED, 0},
    {KERNEL, EVENT, 0, 0, 0},
    {KERNEL, EVENT, 0, 0, EBUSY},
    {KERNEL, EVENT, RESAMPLE, EVENT, EBUSY},
    {KERNEL, EVENT, OFF, 0, 0},
    {KERNEL, EVENT, OFF, 0, 0},
    {KERNEL, EVENT, RESAMPLE, EVENT, 0},
    {KERNEL, EVENT, 0, 0, EBUSY},
    {KERNEL, EVENT, OFF, 0, 0},
};

/* Seen to fail (row 1) with the eventfd looked at before the mode in irq/irqfd.c's assign. */
static void errno_matrix(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK), t = timerfd_create(CLOCK_MONOTONIC, 0);
	enum chips now = NONE;

	begin(NONE);
	for (unsigned i = 0; i < sizeof(matrix) / sizeof(matrix[0]); i++) {
		int fd[2] = {matrix[i].fd, matrix[i].resamplefd}, r;

		if (matrix[i].chips != now) {
			end();
			begin(now = matrix[i].chips);
		}
		for (unsigned j = 0; j < 2; j++)
			fd[j] = fd[j] == EVENT	  ? e
				: fd[j] == TIMER  ? t
				: fd[j] == VM_FD  ? vm.fd
				: fd[j] == CLOSED ? 9999
						  : fd[j];
		r = irqfd(fd[0], 5, matrix[i].flags, fd[1]);
		if (r != matrix[i].error)
			print_error("row %u: %s\n", i, strerror(r));
		assert_int_equal(r, matrix[i].error);
	}
	end();
	close(e);
	close(t);
}

/* One eventfd, one GSI: by whatever number. Seen to fail without the walk in irqfd_bind. */
static void one_gsi_each(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK), copy = dup(e), f = eventfd(0, EFD_NONBLOCK);

	begin(KERNEL);
	assert_int_equal(irqfd(e, 5, 0, 0), 0);
	assert_int_equal(irqfd(copy, 5, 0, 0), EBUSY);
	assert_int_equal(irqfd(copy, 6, 0, 0), EBUSY);
	assert_int_equal(irqfd(f, 5, 0, 0), 0);	     /* one GSI, two eventfds: fine */
	assert_int_equal(irqfd(copy, 6, OFF, 0), 0); /* not bound there: nothing happens */
	assert_int_equal(irqfd(copy, 6, 0, 0), EBUSY);
	close(e);
	assert_int_equal(irqfd(copy, 5, OFF, 0), 0);
	assert_int_equal(irqfd(copy, 6, 0, 0), 0);
	end();
	close(copy);
	close(f);
}

/* -- Delivery -- */

/* What was signalled before, what after DEASSIGN, and a number that becomes another eventfd's. */
static void delivers(void **state)
{
	int e = eventfd(3, EFD_NONBLOCK), copy = dup(e);

	begin(SPLIT);
	route(40, 0x51);
	assert_int_equal(irqfd(e, 40, 0, 0), 0);
	RU_UNTIL(in_irr(0x51));
	route(40, 0x52);
	close(e);
	e = eventfd(0, EFD_NONBLOCK);
	ring(e); /* the same number, nobody's */
	usleep(5000);
	assert_false(in_irr(0x52));
	assert_int_equal(count(e), 1);
	ring(copy);
	RU_UNTIL(in_irr(0x52));
	assert_int_equal(irqfd(copy, 40, OFF, 0), 0);
	route(40, 0x53);
	ring(copy);
	usleep(5000);
	assert_false(in_irr(0x53));
	assert_int_equal(count(copy), 1);
	end();
	close(e);
	close(copy);
}

/* The VM's fd is closed, a vCPU's keeps the VM: the irqfd is gone all the same. Seen to fail without
 * irq_release_irqfds in vm_release. */
static void closing_the_vm_detaches(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK);

	begin(SPLIT);
	route(40, 0x51);
	assert_int_equal(irqfd(e, 40, 0, 0), 0);
	close(vm.fd);
	ring(e);
	usleep(5000);
	assert_int_equal(count(e), 1);
	assert_false(in_irr(0x51));
	/* Free for another VM. */
	ku_vcpu_destroy(&cpu);
	close(vm.sys);
	begin(SPLIT);
	route(40, 0x51);
	assert_int_equal(irqfd(e, 40, 0, 0), 0);
	ring(e);
	RU_UNTIL(in_irr(0x51));
	end();
	close(e);
}

/* -- A forked child -- */

/* The event loop is the process's: a child that makes a VM has its own, and the parent's goes on. Seen to
 * fail (the child's event never comes) without `started = false` in forget_parent, base/loop.c. */
static void forked_child(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK), status;
	pid_t pid;

	begin(SPLIT);
	route(40, 0x51);
	assert_int_equal(irqfd(e, 40, 0, 0), 0);
	pid = fork();
	if (!pid) {
		int own = eventfd(0, EFD_NONBLOCK);

		begin(SPLIT);
		route(40, 0x61);
		if (irqfd(own, 40, 0, 0))
			_exit(1);
		ring(own);
		RU_UNTIL(in_irr(0x61));
		end();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_false(in_irr(0x51));
	ring(e);
	RU_UNTIL(in_irr(0x51));
	end();
	close(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(errno_matrix), cmocka_unit_test(one_gsi_each),
	    cmocka_unit_test(delivers),	    cmocka_unit_test(closing_the_vm_detaches),
	    cmocka_unit_test(forked_child),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
