/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small VM driven through the ioctls of its files, in this process and by one thread: what the tests of the lock
 * order run, once as it is shipped and once with a fix switched off. And the reports that this makes.
 */
#ifndef TEST_LOCKORDER_WORLD_H
#define TEST_LOCKORDER_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "file_call.h"
#include "api/api.h"
#include "base/mutate.h"
#include "vcpu/vcpu.h"
#include "../sig_shim.h"

#define RAM_SIZE 0x10000UL
#define CODE_AT	 0x1000
#define DATA_AT	 0x8000
#define EXIT_AT	 0xe0 /* the port at which guest code stops */
#define BELL_AT	 0xe8
#define MAX_CPUS 2

struct world {
	int sys, vm, cpu[MAX_CPUS];
	struct kvm_run *run[MAX_CPUS];
	uint8_t *ram;
};

/* -- Reports -- */

#define MAX_REPORTS 32
#define MAX_REPORT  8192

/* Shared with forked children. */
struct reports {
	_Atomic unsigned n;
	char text[MAX_REPORTS][MAX_REPORT];
};
static struct reports *reports;

static void keep_report(const char *text)
{
	unsigned i = atomic_fetch_add(&reports->n, 1);

	if (i < MAX_REPORTS)
		snprintf(reports->text[i], MAX_REPORT, "%s", text);
}

static inline void reports_begin(void)
{
	if (!reports)
		reports =
		    mmap(NULL, sizeof(*reports), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(reports != MAP_FAILED);
	lockdep_reset();
	atomic_store(&reports->n, 0);
	lockdep_on_report(keep_report);
}

static inline void reports_print(void)
{
	for (unsigned i = 0; i < MIN(atomic_load(&reports->n), (unsigned)MAX_REPORTS); i++)
		print_message("-- report %u --\n%s", i + 1, reports->text[i]);
}

/* True if one report contains every one of the words; the list ends with NULL. */
static inline bool one_report_names(const char *const *words)
{
	for (unsigned i = 0; i < MIN(atomic_load(&reports->n), (unsigned)MAX_REPORTS); i++) {
		unsigned w = 0;

		while (words[w] && strstr(reports->text[i], words[w]))
			w++;
		if (!words[w])
			return true;
	}
	return false;
}

/* -- Calls -- */

static inline long set_slot(const struct world *w, uint32_t slot, uint64_t gpa, uint64_t size)
{
	struct kvm_userspace_memory_region r = {
	    .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uint64_t)w->ram};

	return call(w->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static inline void world_add_cpu(struct world *w, int i)
{
	struct kvm_sregs s;
	struct file *f;

	w->cpu[i] = (int)call(w->vm, KVM_CREATE_VCPU, (void *)(long)i);
	assert_true(w->cpu[i] >= 0);
	f = file_get(w->cpu[i]);
	w->run[i] = (struct kvm_run *)file_mmap(f, w->cpu[i], NULL, VCPU_MMAP_SIZE, PROT_READ | PROT_WRITE,
						MAP_SHARED, 0);
	file_put(f);
	assert_true((long)w->run[i] > 0);
	assert_int_equal(call(w->cpu[i], KVM_GET_SREGS, &s), 0);
	s.cs.base = s.cs.selector = 0;
	assert_int_equal(call(w->cpu[i], KVM_SET_SREGS, &s), 0);
}

/* A VM with 64 KiB at 0 (slot 0), an irqchip and one vCPU in real mode. */
static inline void world_open(struct world *w)
{
	*w = (struct world){.cpu = {-1, -1}};
	w->sys = api_open(O_CLOEXEC);
	assert_true(w->sys >= 0);
	w->vm = (int)call(w->sys, KVM_CREATE_VM, NULL);
	assert_true(w->vm >= 0);
	w->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(w->ram != MAP_FAILED);
	assert_int_equal(call(w->vm, KVM_CREATE_IRQCHIP, NULL), 0);
	assert_int_equal(set_slot(w, 0, 0, RAM_SIZE), 0);
	world_add_cpu(w, 0);
}

static inline void world_close(struct world *w)
{
	for (int i = 0; i < MAX_CPUS; i++) {
		if (w->cpu[i] < 0)
			continue;
		file_munmap(w->run[i], VCPU_MMAP_SIZE);
		file_close(w->cpu[i]);
	}
	file_close(w->vm);
	file_close(w->sys);
	munmap(w->ram, RAM_SIZE);
}

/* Runs code on vCPU 0 until it writes to port EXIT_AT. */
static inline void world_run(struct world *w, const uint8_t *code, size_t len)
{
	static const uint8_t leave[] = {0xe6, EXIT_AT}; /* out %al, $EXIT_AT */
	struct kvm_regs r = {.rip = CODE_AT, .rflags = 2, .rsp = 0x7000};

	memcpy(w->ram + CODE_AT, code, len);
	memcpy(w->ram + CODE_AT + len, leave, sizeof(leave));
	assert_int_equal(call(w->cpu[0], KVM_SET_REGS, &r), 0);
	assert_int_equal(call(w->cpu[0], KVM_RUN, NULL), 0);
	assert_int_equal(w->run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(w->run[0]->io.port, EXIT_AT);
	/* The instruction is finished here, so that nothing is left pending. */
	w->run[0]->immediate_exit = 1;
	assert_int_equal(call(w->cpu[0], KVM_RUN, NULL), -EINTR);
	w->run[0]->immediate_exit = 0;
}
#define WORLD_RUN(w, ...)                                    \
	do {                                                 \
		static const uint8_t code[] = {__VA_ARGS__}; \
		world_run(w, code, sizeof(code));            \
	} while (0)

/* The VMM changes a mapping of guest memory, as the shim tells it. */
static inline void world_remap(struct world *w)
{
	struct mem_invalidation i;

	assert_true(api_invalidate_begin(&i, w->ram, RAM_SIZE));
	assert_int_equal(mprotect(w->ram, RAM_SIZE, PROT_READ | PROT_WRITE), 0);
	api_invalidate_end(&i);
}

#endif
