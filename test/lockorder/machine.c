/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands for KVM's cpu_hotplug_lock (systems.md, E5), all at once: fork and the loader, revocations of what a vCPU
 * holds, changes of memory slots, and a vCPU that runs and has its MSRs written. Everybody gets on, and the checker
 * is silent. torture: lockorder/machine
 * Seen to fail (nobody gets on, after five seconds) with MUTATE_SLOTS_IN_SRCU set.
 *	make check T=lockorder/machine
 */
#include "world.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "../torture.h"

#define SLOT_AT	    0x100000
#define WATCHDOG_NS 5000000000ULL

static struct world w;
static uint8_t *other; /* slot 1's memory */
static _Atomic bool stop;

struct worker {
	const char *name;
	void (*step)(void);
	_Atomic unsigned done;
	pthread_t thread;
};

/* cmocka belongs to the main thread. */
#define MUST(cond) ((cond) ? (void)0 : abort())

/* -- Steps -- */

/* Writes to slot 1, which comes and goes: memory, or an exit. */
static void run_and_write_msrs(void)
{
	/* mov $0xffff, %ax; mov %ax, %ds; mov %ax, 0x10: linear 0x100000; out %al, $EXIT_AT */
	static const uint8_t code[] = {0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa3, 0x10, 0x00, 0xe6, EXIT_AT};
	struct kvm_regs r = {.rip = CODE_AT, .rflags = 2};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} m = {.head.nmsrs = 2, .entry = {{.index = 0x1b}, {.index = 0x10}}};

	memcpy(w.ram + CODE_AT, code, sizeof(code));
	MUST(call(w.cpu[0], KVM_SET_REGS, &r) == 0);
	do
		MUST(call(w.cpu[0], KVM_RUN, NULL) == 0);
	while (w.run[0]->exit_reason == KVM_EXIT_MMIO);
	MUST(w.run[0]->exit_reason == KVM_EXIT_IO);
	MUST(call(w.cpu[0], KVM_GET_MSRS, &m) == 2);
	MUST(call(w.cpu[0], KVM_SET_MSRS, &m) == 2);
}

static void change_slot(void)
{
	struct kvm_userspace_memory_region r = {.slot = 1,
						.guest_phys_addr = SLOT_AT,
						.memory_size = RAM_SIZE,
						.userspace_addr = (uint64_t)other};

	MUST(call(w.vm, KVM_SET_USER_MEMORY_REGION, &r) == 0);
	r.memory_size = 0;
	MUST(call(w.vm, KVM_SET_USER_MEMORY_REGION, &r) == 0);
}

/* madvise as the shim tells it; the page that the vCPU writes is another one each time. One upon the other: seen to
 * starve a vCPU in its read section, and so the change of slots, without give_time in vcpu/flush.c. */
static void revoke_pages(void)
{
	struct mem_invalidation i;

	if (api_invalidate_begin(&i, other, RAM_SIZE)) {
		madvise(other, RAM_SIZE, MADV_DONTNEED);
		api_invalidate_end(&i);
	}
}

static void fork_once(void)
{
	pid_t pid = fork();

	MUST(pid >= 0);
	if (!pid)
		_exit(0);
	MUST(waitpid(pid, NULL, 0) == pid);
}

/* A library comes and goes; what its constructors might do is done with the loader's lock in the ledger. */
static void load_once(void)
{
	void *lib;
	int sys;

	lock_host_enter();
	lib = dlopen("libresolv.so.2", RTLD_NOW | RTLD_LOCAL);
	MUST(lib);
	sys = api_open(O_CLOEXEC);
	MUST(sys >= 0);
	file_close(sys);
	dlclose(lib);
	lock_host_leave();
}

/* -- All of them -- */

static struct worker workers[] = {
    {.name = "vCPU", .step = run_and_write_msrs}, {.name = "slots", .step = change_slot},
    {.name = "revocation", .step = revoke_pages}, {.name = "fork", .step = fork_once},
    {.name = "loader", .step = load_once},
};

static void *work(void *arg)
{
	struct worker *k = arg;

	while (!atomic_load(&stop)) {
		k->step();
		atomic_fetch_add(&k->done, 1);
	}
	return NULL;
}

/* True if every worker ends a step in the time. */
static bool all_get_on(void)
{
	unsigned before[ARRAY_SIZE(workers)];
	uint64_t limit = torture_now_ns() + WATCHDOG_NS;
	bool all = false;

	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++)
		before[i] = atomic_load(&workers[i].done);
	while (!all && torture_now_ns() < limit) {
		usleep(1000);
		all = true;
		for (unsigned i = 0; i < ARRAY_SIZE(workers); i++)
			all &= atomic_load(&workers[i].done) != before[i];
	}
	for (unsigned i = 0; i < ARRAY_SIZE(workers) && !all; i++) {
		unsigned now = atomic_load(&workers[i].done);

		print_message("%s: %u steps%s\n", workers[i].name, now, now == before[i] ? ", stuck" : "");
	}
	return all;
}

static void everybody_gets_on(void **state)
{
	struct torture t = torture_begin(100, 1000000);

	reports_begin();
	world_open(&w);
	other = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(other != MAP_FAILED);
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++)
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	while (torture_more(&t))
		assert_true(all_get_on());
	torture_end(&t, "everybody_gets_on");
	atomic_store(&stop, true);
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++)
		pthread_join(workers[i].thread, NULL);
	world_close(&w);
	munmap(other, RAM_SIZE);
	if (atomic_load(&reports->n))
		reports_print();
	assert_int_equal(atomic_load(&reports->n), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(everybody_gets_on)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
