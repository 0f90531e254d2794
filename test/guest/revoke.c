/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory changes under running vCPUs: when the ioctl returns, no vCPU touches what it took away.
 *	make check T=guest/revoke
 *	USERKVM_ORACLE=1 build/checked/test/guest/revoke	on the machine's own KVM
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <cmocka.h>

#include "kvm_util.h"
#include "torture.h"

#define RAM    0x200000
#define CODE   0x1000
#define WINDOW 0x40000000U /* the slot that comes and goes */
#define SIZE   0x10000
#define VCPUS  8
#define AWAY   0x50000000U /* where nobody looks */
#define ROUNDS 60

/* for (;;) for (i = 0; i < SIZE; i += 64) WINDOW[i + 4 * vcpu]++ */
static const uint8_t code[] = {
    0x89, 0xde,			  /* 1: mov %ebx, %esi */
    0xb9, 0x00, 0x04, 0x00, 0x00, /* mov $SIZE/64, %ecx */
    0xff, 0x06,			  /* 2: incl (%esi) */
    0x83, 0xc6, 0x40,		  /* add $64, %esi */
    0x49,			  /* dec %ecx */
    0x75, 0xf8,			  /* jnz 2b */
    0xeb, 0xef,			  /* jmp 1b */
};

struct env {
	struct ku_vm vm;
	struct ku_vcpu cpu[VCPUS];
	pthread_t thread[VCPUS];
	uint32_t *mem;
};

static _Atomic bool stop;
static _Atomic unsigned mmio_exits, other_exits;

/* Runs its vCPU; reads of the missing slot are zero, writes go nowhere. */
static void *run(void *arg)
{
	struct ku_vcpu *cpu = arg;

	while (!atomic_load(&stop)) {
		if (ioctl(cpu->fd, KVM_RUN, 0)) {
			if (errno != EINTR)
				atomic_fetch_add(&other_exits, 1);
			continue;
		}
		if (cpu->run->exit_reason != KVM_EXIT_MMIO) {
			atomic_fetch_add(&other_exits, 1);
			break;
		}
		if (!cpu->run->mmio.is_write)
			memset(cpu->run->mmio.data, 0, 8);
		atomic_fetch_add(&mmio_exits, 1);
	}
	return NULL;
}

static void on_signal(int sig)
{
}

static int setup(void **state)
{
	static struct env e;
	struct sigaction sa = {.sa_handler = on_signal};
	unsigned i;

	sigaction(SIGUSR1, &sa, NULL);
	ku_vm_create(&e.vm, RAM);
	e.mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	KU_CHECK(e.mem != MAP_FAILED);
	ku_load(&e.vm, CODE, code, sizeof(code));
	atomic_store(&stop, false);
	atomic_store(&mmio_exits, 0);
	atomic_store(&other_exits, 0);
	for (i = 0; i < VCPUS; i++) {
		struct kvm_regs r = {.rip = CODE, .rflags = 2, .rbx = WINDOW + 4 * i};

		ku_vcpu_create(&e.vm, i, &e.cpu[i]);
		ku_protected_mode(&e.cpu[i], CODE, 0x8000);
		ku_set_regs(&e.cpu[i], &r);
	}
	*state = &e;
	return 0;
}

static void begin(struct env *e)
{
	for (unsigned i = 0; i < VCPUS; i++)
		KU_CHECK(pthread_create(&e->thread[i], NULL, run, &e->cpu[i]) == 0);
}

static void end(struct env *e)
{
	atomic_store(&stop, true);
	for (unsigned i = 0; i < VCPUS; i++) {
		e->cpu[i].run->immediate_exit = 1;
		pthread_kill(e->thread[i], SIGUSR1);
		pthread_join(e->thread[i], NULL);
	}
}

static int teardown(void **state)
{
	struct env *e = *state;

	for (unsigned i = 0; i < VCPUS; i++)
		ku_vcpu_destroy(&e->cpu[i]);
	ku_vm_destroy(&e->vm);
	munmap(e->mem, SIZE);
	return 0;
}

static void wait_for(_Atomic unsigned *counter)
{
	unsigned from = atomic_load(counter);

	for (unsigned i = 0; atomic_load(counter) == from && i < 5000; i++)
		usleep(200);
	assert_int_not_equal(atomic_load(counter), from);
}

static uint64_t sum(struct env *e)
{
	uint64_t s = 0;

	for (unsigned i = 0; i < SIZE / 4; i++)
		s += ((_Atomic uint32_t *)e->mem)[i];
	return s;
}

/* The slot has gone from where the vCPUs write: the memory is taken away altogether, or watched for a while. A late
 * access would be a fault of the host (SIGSEGV, or EFAULT), or a changed sum. */
static void gone(struct env *e, uint64_t round)
{
	uint64_t before = sum(e);

	if (round % 2)
		assert_int_equal(mprotect(e->mem, SIZE, PROT_NONE), 0);
	if (round % 16 == 0)
		wait_for(&mmio_exits);
	else
		sched_yield();
	assert_int_equal(mprotect(e->mem, SIZE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(sum(e), before);
}

/* Seen to fail with the revocation left out of mem_set_region (flush_if), and with the kick left out of flush_one.
 * torture: revoke-delete */
static void test_delete(void **state)
{
	struct env *e = *state;
	struct torture t = torture_begin(ROUNDS, UINT64_MAX);

	begin(e);
	while (torture_more(&t)) {
		assert_int_equal(ku_set_slot(&e->vm, 1, 0, WINDOW, e->mem, SIZE), 0);
		if (t.round % 4 == 0)
			usleep(300);
		assert_int_equal(ku_set_slot(&e->vm, 1, 0, WINDOW, e->mem, 0), 0);
		gone(e, t.round);
	}
	end(e);
	assert_int_equal(atomic_load(&other_exits), 0);
	assert_true(sum(e) > 0);
	torture_end(&t, "revoke-delete");
}

/* The same for a slot that moves away and back. Seen to fail as above. torture: revoke-move */
static void test_move(void **state)
{
	struct env *e = *state;
	struct torture t = torture_begin(ROUNDS, UINT64_MAX);

	assert_int_equal(ku_set_slot(&e->vm, 1, 0, WINDOW, e->mem, SIZE), 0);
	begin(e);
	while (torture_more(&t)) {
		if (t.round % 4 == 0)
			usleep(300);
		assert_int_equal(ku_set_slot(&e->vm, 1, 0, AWAY, e->mem, SIZE), 0);
		gone(e, t.round);
		assert_int_equal(ku_set_slot(&e->vm, 1, 0, WINDOW, e->mem, SIZE), 0);
	}
	end(e);
	assert_int_equal(atomic_load(&other_exits), 0);
	assert_true(sum(e) > 0);
	torture_end(&t, "revoke-move");
}

/* Read-only from now on: every later write is the VMM's. */
static void test_make_readonly(void **state)
{
	struct env *e = *state;
	uint64_t before;

	begin(e);
	for (unsigned i = 0; i < ROUNDS / 4; i++) {
		assert_int_equal(ku_set_slot(&e->vm, 1, 0, WINDOW, e->mem, SIZE), 0);
		usleep(200);
		assert_int_equal(ku_set_slot(&e->vm, 1, 0, WINDOW, e->mem, 0), 0);
		assert_int_equal(ku_set_slot(&e->vm, 1, KVM_MEM_READONLY, WINDOW, e->mem, SIZE), 0);
		before = sum(e);
		wait_for(&mmio_exits);
		assert_int_equal(sum(e), before);
		assert_int_equal(ku_set_slot(&e->vm, 1, 0, WINDOW, e->mem, 0), 0);
	}
	end(e);
	assert_int_equal(atomic_load(&other_exits), 0);
}

/* No write is lost from the dirty log: a page that changed after the log was read is in the next one. */
static void test_dirty_log(void **state)
{
	struct env *e = *state;
	unsigned pages = SIZE / 4096, changed = 0;
	uint64_t bitmap[4] = {0};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bitmap};
	uint8_t *copy = malloc(SIZE);

	assert_non_null(copy);
	assert_int_equal(ku_set_slot(&e->vm, 1, KVM_MEM_LOG_DIRTY_PAGES, WINDOW, e->mem, SIZE), 0);
	begin(e);
	assert_int_equal(ku_errno(e->vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		/* What changes between the copy and the next log must be in one of the two logs around it. */
		uint64_t seen = 0;

		memcpy(copy, e->mem, SIZE);
		assert_int_equal(ku_errno(e->vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
		seen |= bitmap[0];
		usleep(i % 3 * 100);
		for (unsigned p = 0; p < pages; p++) {
			bool differs = memcmp(copy + 4096 * p, (uint8_t *)e->mem + 4096 * p, 4096);

			if (!differs)
				continue;
			changed++;
			if (!(seen & 1ULL << p)) {
				uint64_t more;

				assert_int_equal(ku_errno(e->vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
				more = bitmap[0];
				seen |= more;
				assert_true(seen & 1ULL << p);
			}
		}
	}
	end(e);
	free(copy);
	assert_true(changed > ROUNDS);
	assert_int_equal(atomic_load(&other_exits) + atomic_load(&mmio_exits), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(test_delete),
	    CASE(test_move),
	    CASE(test_make_readonly),
	    CASE(test_dirty_log),
	};

	if (ku_oracle()) {
		printf("eight vCPUs: too much for the machine's own KVM\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
