/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything that stops or copies the world at once, in one process: fork, dlopen, VMs that come and go, memslots that
 * change under running vCPUs, MSR writes that KVM takes a global lock for (systems.md E5). Nobody may wait for ever:
 * each thread makes progress in any 5 seconds.
 *	make check T=api/storm
 * torture: storm
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>

#include "run_util.h"
#include "torture.h"

#define RAM	    (1UL << 20)
#define EXTRA	    0x40000000UL /* a slot that comes and goes */
#define PATIENCE_MS 5000

static struct ku_vm vm;
static struct ku_vcpu cpus[2];
static uint8_t *extra;
static _Atomic bool stop;

/* Stores all over its RAM, and leaves now and then. */
KU_ASM(
    walk, 16,
    "1: movw $0x4000, %bx; 2: incw (%bx); addw $64, %bx; cmpw $0x8000, %bx; jb 2b; outb %al, $0x80; jmp 1b");

static const uint8_t hlt[] = {0xf4};

/* -- What each thread does, over and over; false: something is wrong -- */

static bool run(void)
{
	int r = ku_errno(cpus[0].fd, KVM_RUN, 0);

	return (!r && cpus[0].run->exit_reason == KVM_EXIT_IO) || r == EINTR;
}

static bool slots(void)
{
	return !ku_set_slot(&vm, 1, KVM_MEM_LOG_DIRTY_PAGES, EXTRA, extra, RAM) &&
	       !ku_set_slot(&vm, 1, 0, EXTRA + RAM, extra, RAM) && !ku_set_slot(&vm, 1, 0, 0, NULL, 0) &&
	       !ku_set_slot(&vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, vm.ram, RAM) &&
	       !ku_set_slot(&vm, 0, 0, 0, vm.ram, RAM);
}

/* Turns a local APIC off and on: a code patch of KVM's, under its global locks. */
static bool msrs(void)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = {.head.nmsrs = 1, .e.index = 0x1b};

	m.e.data = 0xfee00000;
	if (ioctl(cpus[1].fd, KVM_SET_MSRS, &m) != 1)
		return false;
	m.e.data = 0xfee00800;
	return ioctl(cpus[1].fd, KVM_SET_MSRS, &m) == 1;
}

static bool load(void)
{
	void *lib = dlopen("libresolv.so.2", RTLD_NOW);

	return lib && dlclose(lib) == 0;
}

/* A small VM, run to its HLT. */
static bool life(void)
{
	struct ku_vm v;
	struct ku_vcpu c;
	bool ok;

	ku_vm_create(&v, 0x10000);
	ku_vcpu_create(&v, 0, &c);
	ku_load(&v, 0x1000, hlt, sizeof(hlt));
	ku_real_mode(&c, 0x1000);
	ok = ku_run(&c) == KVM_EXIT_HLT;
	ku_vcpu_destroy(&c);
	ku_vm_destroy(&v);
	return ok;
}

/* A child that finds its parent's VM closed to it, and makes one of its own. */
static bool copy(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		alarm(60); /* one that hangs does not stay for ever */
#ifdef __SANITIZE_ADDRESS__
	/* Its allocator does not survive a fork in the middle of other threads' calls. */
	if (!pid)
		_exit(ku_errno(cpus[0].fd, KVM_RUN, 0) != EIO);
#else
	if (!pid)
		_exit(ku_errno(cpus[0].fd, KVM_RUN, 0) == EIO && life() ? 0 : 1);
#endif
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static struct actor {
	const char *name;
	bool (*act)(void);
	_Atomic uint64_t rounds;
	_Atomic bool failed;
	pthread_t thread;
	/* the watchdog's */
	uint64_t seen, since;
} actors[] = {{.name = "KVM_RUN", .act = run}, {.name = "memslots", .act = slots},
	      {.name = "MSRs", .act = msrs},   {.name = "dlopen", .act = load},
	      {.name = "VMs", .act = life},    {.name = "fork", .act = copy}};
#define ACTORS (sizeof(actors) / sizeof(actors[0]))

static void *act(void *arg)
{
	struct actor *a = arg;

	while (!atomic_load(&stop) && !atomic_load(&a->failed)) {
		if (!a->act())
			atomic_store(&a->failed, true);
		atomic_fetch_add(&a->rounds, 1);
	}
	return NULL;
}

/* The name of one who has stood still too long, or has failed. */
static const char *stuck(void)
{
	uint64_t now = ru_ms();

	for (unsigned i = 0; i < ACTORS; i++) {
		struct actor *a = &actors[i];
		uint64_t rounds = atomic_load(&a->rounds);

		if (atomic_load(&a->failed))
			return a->name;
		if (rounds != a->seen) {
			a->seen = rounds;
			a->since = now;
		} else if (now - a->since > PATIENCE_MS) {
			return a->name;
		}
	}
	return NULL;
}

/* Seen to fail (fork stands still) with mutex_forked(&files.lock) removed from files_forked. */
static void storm(void **state)
{
	uint64_t seconds = torture_seconds(), start = ru_ms(),
		 end = start + (seconds ? seconds * 1000 : 1500);
	const char *who = NULL;

	if (ku_oracle())
		skip(); /* the machine's own KVM is not to be stormed */
	for (unsigned i = 0; i < ACTORS; i++) {
		actors[i].since = ru_ms();
		pthread_create(&actors[i].thread, NULL, act, &actors[i]);
	}
	/* And until everybody has had his turn. */
	for (bool all = false; !who && (ru_ms() < end || !all);) {
		usleep(20000);
		who = stuck();
		all = true;
		for (unsigned i = 0; i < ACTORS; i++)
			all = all && atomic_load(&actors[i].rounds) > 1;
	}
	if (who) {
		/* The others cannot be waited for. */
		fprintf(stderr, "storm: %s: failed, or no progress in %d ms\n", who, PATIENCE_MS);
		_exit(1);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < ACTORS; i++)
		pthread_join(actors[i].thread, NULL);
	for (unsigned i = 0; i < ACTORS; i++)
		printf("%s%s: %llu rounds\n", seconds ? "torture: " : "", actors[i].name,
		       (unsigned long long)atomic_load(&actors[i].rounds));
}

static int setup(void **state)
{
	ku_vm_create(&vm, RAM);
	KU_CHECK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0) == 0);
	for (unsigned i = 0; i < 2; i++)
		ku_vcpu_create(&vm, i, &cpus[i]);
	extra = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ku_load(&vm, 0x1000, walk, (size_t)(walk_end - walk));
	ku_real_mode(&cpus[0], 0x1000);
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < 2; i++)
		ku_vcpu_destroy(&cpus[i]);
	ku_vm_destroy(&vm);
	munmap(extra, RAM);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(storm)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
