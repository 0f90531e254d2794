/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vCPUs as objects: one ioctl at a time on each (a second waits until KVM_RUN returns, or a signal comes), fds
 * that somebody guesses while they are made, and 1,024 of them under a soft limit of 1,124 descriptors.
 *	make check T=api/vcpus
 *	USERKVM_ORACLE=1 build/checked/test/api/vcpus
 * WORKS: Many vCPUs | 1,024 in a VM, 1,124 descriptors suffice
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/resource.h>

#include "run_util.h"
#include "torture.h"

static const uint8_t spin[] = {0xff, 0x06, 0x00, 0x20, 0xeb, 0xfa}; /* 1: incw 0x2000; jmp 1b */
static const uint8_t hlt[] = {0xf4};

/* -- One ioctl at a time -- */

struct asker {
	struct ku_vcpu *cpu;
	struct kvm_regs regs;
	_Atomic int state; /* 1: asking, 2: answered */
	int error;
	uint64_t began_ns, took_ns;
};

static void *ask(void *arg)
{
	struct asker *a = arg;

	atomic_store(&a->state, 1);
	a->began_ns = torture_now_ns();
	a->error = ku_errno(a->cpu->fd, KVM_GET_REGS, &a->regs);
	a->took_ns = torture_now_ns() - a->began_ns;
	atomic_store(&a->state, 2);
	return NULL;
}

/* Waits while the guest runs, is answered when a kick has ended KVM_RUN. Seen to fail without L_VCPU in
 * take_locks (api/dispatch.c). */
static void second_ioctl_waits(void **state)
{
	struct ku_vm vm;
	struct ku_vcpu cpu;
	struct ru run = {.cpu = &cpu};
	struct asker a = {.cpu = &cpu};
	pthread_t th;

	ku_vm_create(&vm, 1 << 20);
	ku_vcpu_create(&vm, 0, &cpu);
	ku_load(&vm, 0x1000, spin, sizeof(spin));
	ku_real_mode(&cpu, 0x1000);
	ru_start(&run);
	RU_UNTIL(*(volatile uint16_t *)(vm.ram + 0x2000));
	KU_CHECK(pthread_create(&th, NULL, ask, &a) == 0);
	RU_UNTIL(atomic_load(&a.state));
	usleep(50000);
	assert_int_equal(atomic_load(&a.state), 1); /* still waiting */
	assert_int_equal(ru_stop(&run), EINTR);
	RU_UNTIL(atomic_load(&a.state) == 2);
	KU_CHECK(pthread_join(th, NULL) == 0);
	assert_int_equal(a.error, 0);
	assert_true(a.regs.rip == 0x1000 || a.regs.rip == 0x1004);
	assert_true(a.took_ns > 40000000);
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
}

/* -- A guessed fd -- */

static _Atomic bool stop;
static _Atomic int guess; /* the fd that the next vCPU will very likely have */
static _Atomic unsigned hits, wrong;

/* Nothing there; a VM or a /dev/kvm that a late guess hit; ours has the number already while it makes the
 * vCPU, and says of it what it says of another process's. */
static bool may_be_told(int e)
{
	return e == EBADF || e == ENOTTY || e == EINVAL || e == EIO;
}

/* A vCPU that answers is whole: its RIP is the reset vector's. */
static void *guesser(void *arg)
{
	while (!atomic_load(&stop)) {
		struct kvm_regs r = {0};
		int fd = atomic_load(&guess), e = ku_errno(fd, KVM_GET_REGS, &r);

		if (!e) {
			atomic_fetch_add(&hits, 1);
			if (r.rip != 0xfff0) {
				atomic_fetch_add(&wrong, 1);
				print_error("fd %d: RIP 0x%llx\n", fd, r.rip);
			}
		} else if (!may_be_told(e)) {
			atomic_fetch_add(&wrong, 1);
			print_error("fd %d: %s\n", fd, strerror(e));
		}
	}
	return NULL;
}

/* torture: guessed_fd. Whoever asks a vCPU that is not there yet is refused or waits until it is. Seen to fail
 * with vcpu->mutex not held in publish (api/vcpu_file.c) and the registers set after file_install. */
static void guessed_fd(void **state)
{
	struct torture t = torture_begin(30, 1000000);
	pthread_t th;

	if (ku_oracle())
		skip(); /* a race */
	atomic_store(&stop, false);
	atomic_store(&guess, -1);
	KU_CHECK(pthread_create(&th, NULL, guesser, NULL) == 0);
	while (torture_more(&t)) {
		struct ku_vm vm;
		int fd[16], next;

		ku_vm_create(&vm, 0);
		for (unsigned i = 0; i < 16; i++) {
			next = dup(vm.fd);
			close(next);
			atomic_store(&guess, next);
			fd[i] = ioctl(vm.fd, KVM_CREATE_VCPU, i);
			assert_int_equal(fd[i], next);
			if (i == 15)
				sched_yield();
		}
		for (unsigned i = 0; i < 16; i++)
			close(fd[i]);
		ku_vm_destroy(&vm);
	}
	atomic_store(&stop, true);
	KU_CHECK(pthread_join(th, NULL) == 0);
	assert_int_equal(wrong, 0);
	assert_true(hits > 0);
	torture_end(&t, "guessed_fd");
}

/* -- Very many -- */

#define MANY 1024

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* 1,024 vCPUs, mapped, each with its own id; the first, the last and some between run; then all are closed and
 * it works again. A hundred descriptors are for everything else: the library's own count too. Seen to fail
 * with a second descriptor kept for each vCPU. */
static void very_many(void **state)
{
	static struct ku_vcpu cpus[MANY];
	struct rlimit old, now;
	struct ku_vm vm;
	unsigned before = open_fds();

	if (ku_oracle())
		skip(); /* a thousand vCPUs */
	getrlimit(RLIMIT_NOFILE, &old);
	if (old.rlim_max < MANY + 100)
		skip(); /* the hard limit is lower than what is to be shown */
	now = (struct rlimit){MANY + 100, old.rlim_max};
	KU_CHECK(setrlimit(RLIMIT_NOFILE, &now) == 0);
	for (unsigned round = 0; round < 2; round++) {
		uint64_t t0 = torture_now_ns();

		ku_vm_create(&vm, 1 << 20);
		if (ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS) < MANY) {
			ku_vm_destroy(&vm);
			skip();
		}
		ku_load(&vm, 0x1000, hlt, sizeof(hlt));
		for (unsigned i = 0; i < MANY; i++) {
			cpus[i].fd = ioctl(vm.fd, KVM_CREATE_VCPU, i);
			if (cpus[i].fd < 0)
				print_error("vCPU %u: %s\n", i, strerror(errno));
			assert_true(cpus[i].fd >= 0);
			cpus[i].size = vm.vcpu_size;
			cpus[i].run =
			    mmap(NULL, vm.vcpu_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpus[i].fd, 0);
			assert_true(cpus[i].run != MAP_FAILED);
		}
		print_message("%u vCPUs in %lu ms, %u descriptors\n", MANY, (torture_now_ns() - t0) / 1000000,
			      open_fds());
		assert_int_equal(ku_errno(vm.fd, KVM_CREATE_VCPU, (void *)(MANY - 1)), EINVAL);
		for (unsigned i = 0; i < MANY; i += 93) {
			ku_real_mode(&cpus[i], 0x1000);
			assert_int_equal(ku_run(&cpus[i]), KVM_EXIT_HLT);
		}
		for (unsigned i = 0; i < MANY; i++)
			ku_vcpu_destroy(&cpus[i]);
		ku_vm_destroy(&vm);
	}
	assert_true(open_fds() <= before + 20); /* what the first VM of a process sets up stays */
	KU_CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(second_ioctl_waits),
	    cmocka_unit_test(guessed_fd),
	    cmocka_unit_test(very_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
