/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks over all VMs, by references, while VMs come and go (systems.md E3).
 *	make check T=life/walk
 * torture: registry
 */
#include "life.h"
#include "torture.h"

#define WALKERS 2
#define MAKERS	3

static _Atomic bool stop;
static _Atomic uint64_t seen, wrong;
static _Atomic int turns; /* rounds left for the makers together */

/* What a dump of statistics and a switch that all VMs have do: look at each, hold no lock meanwhile. */
static void *walk(void *arg)
{
	while (!atomic_load(&stop)) {
		for (struct kvm *kvm = registry_next(NULL); kvm; kvm = registry_next(kvm)) {
			atomic_fetch_add(&seen, 1);
			if (kvm->handle.magic != KVM_FILE_MAGIC || kvm->stage != KVM_STAGE_LISTED ||
			    !ref_read(&kvm->handle.users) || kvm->mmu_pages != KVM_MIN_MMU_PAGES)
				atomic_fetch_add(&wrong, 1);
			/* Takes locks of the VM, even ends it if the others are through with it. */
			stats_add(kvm, &kvm->stats.msi_calls);
		}
	}
	return NULL;
}

static void *churn(void *arg)
{
	int sys = api_open(0);

	while (atomic_fetch_sub(&turns, 1) > 0) {
		int vm = (int)call(sys, KVM_CREATE_VM, NULL);

		if (vm < 0)
			atomic_fetch_add(&wrong, 1);
		else
			file_close(vm);
	}
	file_close(sys);
	return NULL;
}

/*
 * Seen to fail with registry_next returning what it found without kvm_get_safe, and with kvm_get in its place.
 */
static void walkers(void **state)
{
	struct torture t = torture_begin(20, 1000);
	pthread_t w[WALKERS], m[MAKERS];
	struct balance before;
	int vm = vm_new(NULL);

	file_close(vm);
	before = balance();
	while (torture_more(&t)) {
		atomic_store(&stop, false);
		atomic_store(&turns, 100);
		for (int i = 0; i < WALKERS; i++)
			pthread_create(&w[i], NULL, walk, NULL);
		for (int i = 0; i < MAKERS; i++)
			pthread_create(&m[i], NULL, churn, NULL);
		for (int i = 0; i < MAKERS; i++)
			pthread_join(m[i], NULL);
		atomic_store(&stop, true);
		for (int i = 0; i < WALKERS; i++)
			pthread_join(w[i], NULL);
		assert_int_equal(atomic_load(&wrong), 0);
		assert_balance(&before, "walk");
	}
	assert_true(atomic_load(&seen) > 0);
	torture_end(&t, "registry (100 VMs a round)");
}

/* A VM whose last reference is the walker's ends in the walker's next step, not under the list's lock. */
static void ended_by_walker(void **state)
{
	int a = vm_new(NULL), b = vm_new(NULL);
	struct kvm *kvm = registry_next(NULL);

	assert_non_null(kvm);
	file_close(a);
	file_close(b);
	assert_int_equal(ref_read(&kvm->handle.users), 1);
	assert_null(registry_next(kvm));
	assert_int_equal(vms(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(walkers), cmocka_unit_test(ended_by_walker),
					   cmocka_unit_test(no_reports)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
