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
#include <sched.h>
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
}

static void by_fork(void **state)
{
	forked(fork);
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
	const struct CMUnitTest tests[] = {cmocka_unit_test(by_fork), cmocka_unit_test(by_clone),
					   cmocka_unit_test(repeated), cmocka_unit_test(by_vfork)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
