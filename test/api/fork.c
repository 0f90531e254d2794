/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fork: the child's ioctls on inherited VMs are refused, it may make VMs of its own, and the parent's go on.
 *	make check T=api/fork
 *	USERKVM_ORACLE=1 build/checked/test/api/fork
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kvm_util.h"

static const uint8_t hlt[] = {0xf4};

/* Makes a VM, runs it to HLT, destroys it. */
static void run_a_guest(void)
{
	struct ku_vm vm;
	struct ku_vcpu cpu;

	ku_vm_create(&vm, 1 << 20);
	ku_vcpu_create(&vm, 0, &cpu);
	ku_load(&vm, 0x1000, hlt, sizeof(hlt));
	ku_real_mode(&cpu, 0x1000);
	KU_CHECK(ku_run(&cpu) == KVM_EXIT_HLT);
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
}

/* Real mode: PIC at vector 8, PIT at 1 kHz, and a handler that leaves by `out 0xe0`. */
KU_ASM(ticks, 16,
       "movb $0x11, %al; outb %al, $0x20; movb $8, %al; outb %al, $0x21; movb $4, %al; outb %al, $0x21;"
       "movb $1, %al; outb %al, $0x21; movb $0xfe, %al; outb %al, $0x21;"
       "movb $0x34, %al; outb %al, $0x43; movb $0xa9, %al; outb %al, $0x40; movb $4, %al; outb %al, $0x40;"
       "sti; 1: hlt; jmp 1b");
KU_ASM(tick, 16, "movb $0x20, %al; outb %al, $0x20; outb %al, $0xe0; iret");

/* What needs an event loop: an irqfd is emptied, and a timer fires while the guest sleeps. False if it does not. Seen to
 * fail in a child with loop.started kept by forget_parent. */
static bool loop_works(void)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .gsi = 5};
	struct kvm_pit_config pit = {.flags = 0};
	struct pollfd p = {.fd = (int)irqfd.fd, .events = POLLIN};
	uint64_t one = 1;
	struct ku_vm vm;
	struct ku_vcpu cpu;
	bool ok;

	ku_vm_create(&vm, 1 << 20);
	KU_CHECK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0) == 0);
	KU_CHECK(ioctl(vm.fd, KVM_CREATE_PIT2, &pit) == 0);
	KU_CHECK(ioctl(vm.fd, KVM_IRQFD, &irqfd) == 0);
	KU_CHECK(write((int)irqfd.fd, &one, 8) == 8);
	ku_vcpu_create(&vm, 0, &cpu);
	ku_load(&vm, 0x1000, ticks, (size_t)(ticks_end - ticks));
	ku_load(&vm, 0x2000, tick, (size_t)(tick_end - tick));
	*(uint32_t *)(vm.ram + 8 * 4) = 0x2000;
	ku_real_mode(&cpu, 0x1000);
	alarm(20);
	for (int i = 0; i < 3; i++)
		KU_CHECK(ku_run(&cpu) == KVM_EXIT_IO && cpu.run->io.port == 0xe0);
	for (int i = 0; i < 5000 && poll(&p, 1, 0); i++)
		usleep(1000);
	alarm(0);
	ok = poll(&p, 1, 0) == 0;
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	close((int)irqfd.fd);
	return ok;
}

/* The child's part; exits with the number of the first thing that was wrong. */
static void child(struct ku_vm *vm, struct ku_vcpu *cpu)
{
	struct kvm_regs regs;

	if (ku_errno(vm->fd, KVM_CREATE_VCPU, (void *)1) != EIO)
		_exit(1);
	if (ku_set_slot(vm, 0, 0, 0, NULL, 0) != EIO)
		_exit(2);
	if (ku_errno(cpu->fd, KVM_GET_REGS, &regs) != EIO || ku_errno(cpu->fd, KVM_RUN, 0) != EIO)
		_exit(3);
	if (ku_errno(vm->fd, _IO(KVMIO, 0xfe), 0) != EIO)
		_exit(4);
	/* /dev/kvm itself belongs to nobody. */
	if (ioctl(vm->sys, KVM_GET_API_VERSION, 0) != 12)
		_exit(5);
	/* Closing them here is no last close. */
	if (close(cpu->fd) || close(vm->fd))
		_exit(6);
	if (ku_errno(vm->fd, KVM_CREATE_VCPU, (void *)1) != EBADF)
		_exit(7);
	run_a_guest();
	if (!loop_works())
		_exit(8);
	_exit(0);
}

static void wait_for(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void forked(pid_t (*do_fork)(void))
{
	struct ku_vm vm;
	struct ku_vcpu cpu;
	pid_t pid;

	ku_vm_create(&vm, 1 << 20);
	ku_vcpu_create(&vm, 0, &cpu);
	pid = do_fork();
	if (!pid)
		child(&vm, &cpu);
	wait_for(pid);
	ku_load(&vm, 0x1000, hlt, sizeof(hlt));
	ku_real_mode(&cpu, 0x1000);
	assert_int_equal(ku_run(&cpu), KVM_EXIT_HLT);
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	assert_true(loop_works());
}

static void by_fork(void **state)
{
	forked(fork);
}

/* vCPUs that the library maps: as many as live, with their VMs. */
static int live(void)
{
	char line[512];
	FILE *f = fopen("/proc/self/maps", "r");
	int n = 0;

	KU_CHECK(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "/memfd:kvm-vcpu:") != NULL;
	fclose(f);
	return n;
}

/* The child closes last, and lives on: that is noticed here, not earlier and not only at its end. Seen to fail with watch.c's
 * descriptor not given to the event loop. */
static void closed_last_by_child(void **state)
{
	int gate[2], sys, vm, cpu;
	char byte = 0;
	pid_t pid;

	if (ku_oracle())
		skip(); /* looks at memfds, which only we have */
	sys = ku_open();
	vm = ioctl(sys, KVM_CREATE_VM, 0);
	close(sys);
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	assert_true(cpu >= 0);
	assert_int_equal(pipe(gate), 0);
	pid = fork();
	if (!pid) {
		close(gate[1]);
		if (read(gate[0], &byte, 1) != 1 || close(vm) || close(cpu))
			_exit(1);
		_exit(read(gate[0], &byte, 1) == 0 ? 0 : 2);
	}
	close(gate[0]);
	close(vm);
	close(cpu);
	usleep(30000);
	assert_int_equal(live(), 1);
	assert_int_equal(write(gate[1], &byte, 1), 1);
	for (int i = 0; i < 5000 && live(); i++)
		usleep(1000);
	assert_int_equal(live(), 0);
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
	close(gate[1]);
	wait_for(pid);
}

static pid_t raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/* Without any atfork handler. */
static void by_clone(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* it does not see this fork: the parent's threads run on in its eyes */
#endif
	forked(raw_fork);
}

static void repeated(void **state)
{
	for (int i = 0; i < 10; i++) {
		pid_t pid = fork();

		if (!pid) {
			pid_t inner = fork();
			int status;

			run_a_guest();
			if (!inner)
				_exit(0);
			waitpid(inner, &status, 0);
			_exit(status != 0);
		}
		run_a_guest();
		wait_for(pid);
	}
}

/* A vfork child shares our memory: its ioctls are ours, its closes are its own. */
static void by_vfork(void **state)
{
	struct ku_vm vm;
	struct kvm_regs regs;
	struct ku_vcpu cpu;
	pid_t pid;

#ifdef __SANITIZE_THREAD__
	skip(); /* its vfork is a fork */
#endif
	ku_vm_create(&vm, 0);
	ku_vcpu_create(&vm, 0, &cpu);
	pid = vfork();
	if (!pid) {
		int bad = ku_errno(cpu.fd, KVM_GET_REGS, &regs);

		close(cpu.fd);
		close(vm.fd);
		dup2(vm.sys, vm.fd);
		_exit(bad);
	}
	wait_for(pid);
	assert_int_equal(ku_errno(cpu.fd, KVM_GET_REGS, &regs), 0);
	assert_int_equal(ku_errno(vm.fd, KVM_CREATE_VCPU, (void *)1), 0);
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(by_fork), cmocka_unit_test(closed_last_by_child),
					   cmocka_unit_test(by_clone), cmocka_unit_test(repeated),
					   cmocka_unit_test(by_vfork)};

#ifdef __SANITIZE_ADDRESS__
	/* gcc 12's does not hold its allocator's locks across fork. A child would wait for the one that the loop's thread has
	 * when it begins: caught once in 22 runs on a busy machine. */
	KU_CHECK(loop_works());
#endif
	return cmocka_run_group_tests(tests, NULL, NULL);
}
