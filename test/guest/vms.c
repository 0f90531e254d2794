/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Several VMs in a process, one vCPU on many threads, ioctls on a vCPU that runs, fork under a running vCPU,
 * signals into all of them.
 *	make check T=guest/vms
 *	USERKVM_ORACLE=1 build/checked/test/guest/vms
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/wait.h>

#include "guest_util.h"
#include "run_util.h"

#define VMS 4

/* Counts for ever at GU_DATA, and in rax. */
KU_ASM(count, 64, "1: inc %rax\n mov %rax, 0x20000\n jmp 1b");
KU_ASM(report, 64, "1: inc %rax\n out %al, $0xe4\n jmp 1b");

static volatile uint64_t *ticks(struct gu *g)
{
	return (volatile uint64_t *)(g->vm.ram + GU_DATA);
}

static uint64_t rax(struct gu *g)
{
	struct kvm_regs r;

	ku_get_regs(&g->cpu, &r);
	return r.rax;
}

/* -- Several VMs -- */

/* Each is stopped, changed and destroyed without the others' noticing. */
static void several(void **state)
{
	struct gu g[VMS];
	struct ru run[VMS];

	if (ku_oracle())
		skip(); /* four vCPUs */
	for (unsigned i = 0; i < VMS; i++) {
		gu_start(&g[i], i & 1 ? GU_LONG : GU_PROT32);
		if (!(i & 1)) {
			static const uint8_t count32[] = {0x40, 0xa3, 0, 0, 2, 0, 0xeb, 0xf8};

			gu_code(&g[i], count32, sizeof(count32), 0);
		} else {
			GU_ASM(&g[i], count);
		}
		run[i] = (struct ru){.cpu = &g[i].cpu};
		ru_start(&run[i]);
	}
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < VMS; i++) {
			uint64_t seen = *ticks(&g[i]);

			RU_UNTIL(*ticks(&g[i]) > seen);
			assert_int_equal(ku_set_slot(&g[i].vm, 1, 0, 0x40000000, g[i].vm.ram, 0x1000), 0);
			assert_int_equal(ku_set_slot(&g[i].vm, 1, 0, 0x40000000, g[i].vm.ram, 0), 0);
		}
		assert_int_equal(ru_stop(&run[round % VMS]), EINTR);
		assert_in_range(rax(&g[round % VMS]), *ticks(&g[round % VMS]), *ticks(&g[round % VMS]) + 1);
		ru_start(&run[round % VMS]);
	}
	for (unsigned i = 0; i < VMS; i++) {
		assert_int_equal(ru_stop(&run[i]), EINTR);
		gu_end(&g[i]);
	}
}

/* One VM's ioctls on another's descriptors, two VMs with the same memory. */
static void shared_memory(void **state)
{
	struct gu a, b;
	struct ku_vm vm;

	gu_start(&a, GU_LONG);
	gu_start(&b, GU_LONG);
	vm = b.vm;
	assert_int_equal(ku_set_slot(&vm, 1, 0, 0x10000000, a.vm.ram, GU_RAM), 0);
	GU_ASM(&a, report);
	for (unsigned i = 1; i < 50; i++) {
		assert_int_equal(ku_run(&a.cpu), KVM_EXIT_IO);
		assert_int_equal(*(uint8_t *)ku_io_data(&a.cpu), i);
		GU_ASM(&b, report);
		assert_int_equal(ku_run(&b.cpu), KVM_EXIT_IO);
		assert_int_equal(*(uint8_t *)ku_io_data(&b.cpu), 1);
	}
	gu_end(&a);
	GU_ASM(&b, report);
	assert_int_equal(ku_run(&b.cpu), KVM_EXIT_IO);
	gu_end(&b);
}

/* -- One vCPU, many threads -- */

struct turn {
	struct gu *g;
	unsigned n;
};

static void *one_turn(void *arg)
{
	struct turn *t = arg;

	KU_CHECK(ku_run(&t->g->cpu) == KVM_EXIT_IO);
	KU_CHECK(*(uint8_t *)ku_io_data(&t->g->cpu) == (uint8_t)t->n);
	return NULL;
}

/* A new thread for each run; between them this one looks at the registers. */
static void from_thread_to_thread(void **state)
{
	struct turn t;
	struct gu g;
	pthread_t thread;

	gu_start(&g, GU_LONG);
	GU_ASM(&g, report);
	for (unsigned i = 1; i <= 100; i++) {
		t = (struct turn){&g, i};
		assert_int_equal(pthread_create(&thread, NULL, one_turn, &t), 0);
		pthread_join(thread, NULL);
		assert_int_equal(rax(&g), i);
	}
	gu_end(&g);
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CONTENDED 20
#else
#define CONTENDED 200
#endif

/* Long enough to lose the CPU on the way. */
KU_ASM(report_late, 64, "1: mov $50000, %ecx\n 2: dec %ecx\n jnz 2b\n inc %eax\n out %al, $0xe1\n jmp 1b");

static struct gu contended;
static _Atomic uint64_t runs;
static pthread_barrier_t together;

static void *contender(void *arg)
{
	pthread_barrier_wait(&together);
	for (unsigned i = 0; i < CONTENDED; i++) {
		struct kvm_regs r;
		int e = ku_errno(contended.cpu.fd, KVM_RUN, 0);

		KU_CHECK(e == 0 || e == EINTR);
		if (!e)
			atomic_fetch_add(&runs, 1);
		KU_CHECK(ku_errno(contended.cpu.fd, KVM_GET_REGS, &r) == 0);
	}
	return NULL;
}

/* Several threads at once want to run it: one does, the others wait for it. Seen to fail with vcpu->mutex not taken by
 * take_locks. */
static void contention(void **state)
{
	pthread_t t[3];

	gu_start(&contended, GU_LONG);
	GU_ASM(&contended, report_late);
	pthread_barrier_init(&together, NULL, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, contender, NULL), 0);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(rax(&contended), atomic_load(&runs));
	gu_end(&contended);
}

static void *get_regs(void *arg)
{
	struct gu *g = arg;
	struct kvm_regs r;

	ku_get_regs(&g->cpu, &r);
	return (void *)(uintptr_t)r.rax;
}

/* A vCPU ioctl from elsewhere waits until KVM_RUN returns; VM ioctls do not. Seen to fail with vcpu->mutex not taken by
 * take_locks. */
static void ioctl_waits(void **state)
{
	struct kvm_clock_data clock;
	struct gu g;
	struct ru run = {.cpu = &g.cpu};
	pthread_t t;
	void *val;

	gu_start(&g, GU_LONG);
	GU_ASM(&g, count);
	ru_start(&run);
	RU_UNTIL(*ticks(&g) > 10);
	assert_int_equal(pthread_create(&t, NULL, get_regs, &g), 0);
	assert_int_equal(ku_errno(g.vm.fd, KVM_GET_CLOCK, &clock), 0);
	usleep(20000);
	assert_int_equal(pthread_tryjoin_np(t, &val), EBUSY);
	assert_int_equal(ru_stop(&run), EINTR);
	pthread_join(t, &val);
	assert_true((uintptr_t)val > 10);
	gu_end(&g);
}

/* -- fork -- */

/* A child is made while the vCPU runs: neither is disturbed, and its death is noticed by nobody. */
static void forked_under_a_run(void **state)
{
	struct gu g;
	struct ru run = {.cpu = &g.cpu};

	gu_start(&g, GU_LONG);
	GU_ASM(&g, count);
	ru_start(&run);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t seen = *ticks(&g);
		int status;
		pid_t pid;

		RU_UNTIL(*ticks(&g) > seen);
		pid = fork();
		if (!pid) {
			struct kvm_regs r;

			/* The VM is the parent's. */
			if (ku_errno(g.vm.fd, KVM_CREATE_VCPU, (void *)1) != EIO ||
			    ku_errno(g.cpu.fd, KVM_GET_REGS, &r) != EIO)
				_exit(1);
			_exit(0);
		}
		assert_true(pid > 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		seen = *ticks(&g);
		RU_UNTIL(*ticks(&g) > seen);
	}
	assert_int_equal(ru_stop(&run), EINTR);
	assert_in_range(rax(&g), *ticks(&g), *ticks(&g) + 1);
	gu_end(&g);
}

/* -- Signals -- */

static _Atomic unsigned handled;

static void on_signal(int sig)
{
	atomic_fetch_add(&handled, 1);
}

/* A storm of signals: each is handled or one with another, the guest loses no step. */
static void storm(void **state)
{
	struct sigaction act = {.sa_handler = on_signal};
	struct gu g;
	struct ru run = {.cpu = &g.cpu};

	if (ku_oracle())
		skip(); /* stress */
	sigaction(SIGUSR2, &act, NULL);
	atomic_store(&handled, 0);
	gu_start(&g, GU_LONG);
	GU_ASM(&g, count);
	ru_start(&run);
	for (unsigned i = 0; i < 500; i++) {
		unsigned before = atomic_load(&handled);

		assert_int_equal(pthread_kill(run.thread, SIGUSR2), 0);
		if (i % 4 == 0)
			RU_UNTIL(atomic_load(&handled) > before);
	}
	assert_int_equal(ru_stop(&run), EINTR);
	assert_in_range(atomic_load(&handled), 125, 500);
	assert_in_range(rax(&g), *ticks(&g), *ticks(&g) + 1);
	gu_end(&g);
}

/* QEMU's older way: blocked everywhere but in KVM_RUN, taken by sigtimedwait behind it. */
static void *waiter(void *arg)
{
	struct gu *g = arg;
	struct {
		struct kvm_signal_mask head;
		uint8_t set[8];
	} mask = {.head.len = 8};
	struct timespec now = {0};
	unsigned taken = 0;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	KU_CHECK(ku_errno(g->cpu.fd, KVM_SET_SIGNAL_MASK, &mask) == 0);
	while (taken < 50) {
		KU_CHECK(ku_errno(g->cpu.fd, KVM_RUN, 0) == EINTR);
		while (sigtimedwait(&set, NULL, &now) == SIGUSR2)
			atomic_fetch_add(&handled, 1), taken++;
	}
	KU_CHECK(ku_errno(g->cpu.fd, KVM_SET_SIGNAL_MASK, NULL) == 0);
	return NULL;
}

static void waited_for(void **state)
{
	pthread_t t;
	struct gu g;

	signal(SIGUSR2, SIG_DFL);
	gu_start(&g, GU_LONG);
	GU_ASM(&g, count);
	atomic_store(&handled, 0);
	assert_int_equal(pthread_create(&t, NULL, waiter, &g), 0);
	RU_UNTIL(*ticks(&g) > 10);
	for (unsigned i = 1; i <= 50; i++) {
		pthread_kill(t, SIGUSR2);
		RU_UNTIL(atomic_load(&handled) == i);
	}
	pthread_join(t, NULL);
	assert_in_range(rax(&g), *ticks(&g), *ticks(&g) + 1);
	gu_end(&g);
}

/* immediate_exit set by another thread with a signal: the one that comes too early is not lost. */
static void immediate_exit(void **state)
{
	struct gu g;
	struct ru run = {.cpu = &g.cpu};

	gu_start(&g, GU_LONG);
	GU_ASM(&g, count);
	for (unsigned i = 0; i < 100; i++) {
		ru_start(&run);
		if (i & 1)
			usleep(50);
		assert_int_equal(ru_stop(&run), EINTR);
	}
	assert_in_range(rax(&g), *ticks(&g), *ticks(&g) + 1);
	gu_end(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(several),
	    cmocka_unit_test(shared_memory),
	    cmocka_unit_test(from_thread_to_thread),
	    cmocka_unit_test(contention),
	    cmocka_unit_test(ioctl_waits),
	    cmocka_unit_test(forked_under_a_run),
	    cmocka_unit_test(storm),
	    cmocka_unit_test(waited_for),
	    cmocka_unit_test(immediate_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
