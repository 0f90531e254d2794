/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VMs that end while the VMM's mappings change (systems.md D8): the change outlives the VM, or the walk that tells
 * of it holds the last reference.	make check T=life/invalidate
 */
#include <sys/mman.h>

#include "life.h"
#include "sig_shim.h"
#include "torture.h"

#define SIZE 0x10000UL

static uint8_t *ram;

static int setup(void **state)
{
	ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	file_close(vm_new(NULL)); /* what the process needs once */
	return ram == MAP_FAILED;
}

/* A VM with a slot, and somebody who was handed a page of it. */
static int vm_with_ram(struct kvm **kvm, enum mem_fill_result result)
{
	struct kvm_userspace_memory_region r = {.memory_size = SIZE, .userspace_addr = (uintptr_t)ram};
	struct mem_page page;
	int vm = vm_new(kvm);

	assert_int_equal(call(vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	assert_int_equal(mem_fill((*kvm)->vm.mem, 0, 0, true, &page), result);
	return vm;
}

/* What other threads do while the change is under way; its maker is inside munmap. */
static void *end_and_begin(void *arg)
{
	int *vm = arg;
	struct mem_page page;
	struct kvm *kvm;

	file_close(*vm);
	base_bug_on(vms() != 0);
	/* The next VM with the same memory finds the change under way. */
	*vm = vm_with_ram(&kvm, MEM_RETRY);
	base_bug_on(mem_fill(kvm->vm.mem, 0, 0x1000, false, &page) != MEM_RETRY);
	return kvm;
}

/* The change belongs to no VM: one may end, and another begin, before it does.
 * Seen to fail with the list of changes emptied by mem_destroy. */
static void a_change_outlives_the_vm(void **state)
{
	struct balance before = balance();
	struct mem_invalidation i;
	struct mem_page page;
	struct kvm *kvm;
	pthread_t t;
	void *next;
	int vm = vm_with_ram(&kvm, MEM_FIXED);

	assert_true(api_invalidate_begin(&i, ram, SIZE));
	assert_int_equal(mem_fill(kvm->vm.mem, 0, 0, true, &page), MEM_RETRY);
	pthread_create(&t, NULL, end_and_begin, &vm);
	pthread_join(t, &next);
	api_invalidate_end(&i);
	kvm = next;
	assert_int_equal(mem_fill(kvm->vm.mem, 0, 0, true, &page), MEM_FIXED);
	file_close(vm);
	assert_balance(&before, "a change that outlives its VM");
	no_reports(state);
}

static void *close_vm(void *arg)
{
	file_close(*(int *)arg);
	return NULL;
}

/* Seen to fail with the reference not taken by registry_next (ASan). */
static void the_walk_may_hold_the_last_reference(void **state)
{
	struct balance before = balance();
	struct mem_invalidation i;
	struct kvm *kvm, *seen;
	pthread_t t;
	int vm = vm_with_ram(&kvm, MEM_FIXED);

	mem_invalidate_begin(&i, (uint64_t)ram, SIZE);
	seen = registry_next(NULL);
	assert_ptr_equal(seen, kvm);
	pthread_create(&t, NULL, close_vm, &vm);
	pthread_join(t, NULL);
	mem_invalidate_vm(seen->vm.mem, &i);
	assert_null(registry_next(seen)); /* which ends the VM */
	mem_invalidate_end(&i);
	assert_balance(&before, "a walk that ends a VM");
}

static _Atomic bool stop;

static void *unmapper(void *arg)
{
	while (!atomic_load(&stop)) {
		struct mem_invalidation i;
		bool begun = api_invalidate_begin(&i, ram, SIZE);
		void *p =
		    mmap(ram, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

		base_bug_on(p != ram);
		if (begun)
			api_invalidate_end(&i);
		sched_yield();
	}
	return NULL;
}

/* VMs come and go with their memory being replaced all the time. torture: VMs under invalidation
 * Seen to fail with registry_next returning VMs without a reference (ASan, TSan). */
static void vms_come_and_go_under_changes(void **state)
{
	struct torture t = torture_begin(300, 1000000);
	struct balance before = balance();
	pthread_t thread[2];

	atomic_store(&stop, false);
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, unmapper, NULL);
	while (torture_more(&t)) {
		struct kvm_userspace_memory_region r = {.memory_size = SIZE,
							.userspace_addr = (uintptr_t)ram};
		struct mem_page page;
		uint64_t word = t.round;
		struct kvm *kvm;
		int vm = vm_new(&kvm);

		assert_int_equal(call(vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
		mem_fill(kvm->vm.mem, 0, 0, true, &page);
		assert_int_equal(mem_write(kvm->vm.mem, 0, 64, &word, 8), 0);
		file_close(vm);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	torture_end(&t, "VMs under invalidation");
	assert_balance(&before, "VMs under invalidation");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_change_outlives_the_vm),
	    cmocka_unit_test(the_walk_may_hold_the_last_reference),
	    cmocka_unit_test(vms_come_and_go_under_changes),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
