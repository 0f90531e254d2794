/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of mem share: a VM's worth of surroundings, and a port that counts flushes. */
#ifndef USERKVM_TEST_MEM_H
#define USERKVM_TEST_MEM_H

#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "mem/mem.h"
#include "sig_shim.h"

struct world {
	struct srcu srcu;
	struct mutex slots_lock;
	struct mem *mem;
	_Atomic unsigned flushes;
	void (*on_flush)(struct world *w);
	long live;
	unsigned bugs, reports;
};

static void world_flush(void *ctx)
{
	struct world *w = ctx;

	w->flushes++;
	if (w->on_flush)
		w->on_flush(w);
}

static const struct mem_port world_port = {.flush = world_flush};

static int world_make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	w->live = base_alloc_live();
	w->bugs = base_bug_count();
	w->reports = lockdep_reports();
	mutex_init(&w->slots_lock, LOCK_SLOTS);
	*state = w;
	return srcu_init(&w->srcu, LOCK_SRCU_VM) ||
	       mem_create(&w->mem, &world_port, w, &w->srcu, &w->slots_lock);
}

/* Fails if memory leaked, an invariant broke or the lock checker spoke. */
static int world_unmake(void **state)
{
	struct world *w = *state;
	bool bad;

	base_alloc_fail_at(0);
	srcu_barrier(&w->srcu);
	mem_destroy(w->mem);
	srcu_cleanup(&w->srcu);
	bad = base_alloc_live() != w->live || base_bug_count() != w->bugs || lockdep_reports() != w->reports;
	free(w);
	return bad;
}

/* KVM_SET_USER_MEMORY_REGION under its lock. */
static int set_region(struct world *w, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *hva)
{
	struct kvm_userspace_memory_region r = {.slot = slot,
						.flags = flags,
						.guest_phys_addr = gpa,
						.memory_size = size,
						.userspace_addr = (uint64_t)hva};
	int ret;

	mutex_lock(&w->slots_lock);
	ret = mem_set_region(w->mem, &r);
	mutex_unlock(&w->slots_lock);
	return ret;
}

static __attribute__((unused)) int get_log(struct world *w, uint32_t slot, void *bitmap)
{
	struct kvm_dirty_log d = {.slot = slot, .dirty_bitmap = bitmap};
	int ret;

	mutex_lock(&w->slots_lock);
	ret = mem_get_dirty_log(w->mem, &d);
	mutex_unlock(&w->slots_lock);
	return ret;
}

static __attribute__((unused)) int clear_log(struct world *w, uint32_t slot, uint64_t first, uint32_t n,
					     void *bitmap)
{
	struct kvm_clear_dirty_log d = {
	    .slot = slot, .first_page = first, .num_pages = n, .dirty_bitmap = bitmap};
	int ret;

	mutex_lock(&w->slots_lock);
	ret = mem_clear_dirty_log(w->mem, &d);
	mutex_unlock(&w->slots_lock);
	return ret;
}

static inline void *ram(size_t pages)
{
	void *p = mmap(NULL, pages * PAGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_make, world_unmake)

#endif
