/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=base/lockdep: every chain is reported before it hangs; clean nesting is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/base.h"

static char last[4096];

static void remember(const char *text)
{
	strncpy(last, text, sizeof(last) - 1);
}

static int fresh(void **state)
{
	lockdep_reset();
	lockdep_on_report(remember);
	last[0] = 0;
	return 0;
}

static void rank_and_cycle_are_reported(void **state)
{
	struct mutex a, b;

	mutex_init(&a, LOCK_TEST_A);
	mutex_init(&b, LOCK_TEST_B);
	mutex_lock(&a);
	mutex_lock(&b);
	mutex_unlock(&b);
	mutex_unlock(&a);
	assert_int_equal(lockdep_reports(), 0);
	mutex_lock(&b);
	mutex_lock(&a); /* nobody waits here, yet it is reported */
	assert_int_equal(lockdep_reports(), 1);
	assert_non_null(strstr(last, "possible deadlock"));
	assert_non_null(strstr(last, "seen before: test_a -> test_b"));
	mutex_unlock(&a);
	mutex_lock(&a); /* once per edge */
	mutex_unlock(&a);
	mutex_unlock(&b);
	assert_int_equal(lockdep_reports(), 1);
}

static void wrong_order_alone_is_reported(void **state)
{
	struct mutex a, b;

	mutex_init(&a, LOCK_TEST_A);
	mutex_init(&b, LOCK_TEST_B);
	mutex_lock(&b);
	mutex_lock(&a);
	assert_int_equal(lockdep_reports(), 1);
	assert_non_null(strstr(last, "wrong order"));
	mutex_unlock(&a);
	mutex_unlock(&b);
}

static void trylock_makes_no_edge(void **state)
{
	struct mutex a, b;

	mutex_init(&a, LOCK_TEST_A);
	mutex_init(&b, LOCK_TEST_B);
	mutex_lock(&b);
	assert_true(mutex_trylock(&a));
	assert_false(mutex_trylock(&a));
	assert_int_equal(lockdep_reports(), 0);
	mutex_unlock(&a);
	mutex_unlock(&b);
	mutex_lock(&a);
	mutex_lock(&b);
	assert_int_equal(lockdep_reports(), 0);
	mutex_unlock(&b);
	mutex_unlock(&a);
}

static void srcu_self_deadlock_is_reported(void **state)
{
	struct mutex slots;
	struct srcu s;
	int idx;

	assert_int_equal(srcu_init(&s, LOCK_SRCU_VM), 0);
	mutex_init(&slots, LOCK_SLOTS);
	/* The updater: slots_lock, then synchronise. */
	mutex_lock(&slots);
	srcu_synchronize(&s);
	mutex_unlock(&slots);
	assert_int_equal(lockdep_reports(), 0);
	/* The broken reader: slots_lock inside the read section. */
	idx = srcu_read_lock(&s);
	assert_true(srcu_read_held(&s));
	mutex_lock(&slots);
	assert_int_equal(lockdep_reports(), 1);
	assert_non_null(strstr(last, "possible deadlock"));
	mutex_unlock(&slots);
	/* And one that would wait for itself. */
	lockdep_sync(LOCK_SRCU_VM, &s);
	assert_int_equal(lockdep_reports(), 2);
	assert_non_null(strstr(last, "self-deadlock"));
	srcu_read_unlock(&s, idx);
	assert_false(srcu_read_held(&s));
	srcu_cleanup(&s);
}

/* systems.md section 2, chain 1, with TEST_A for cpu_hotplug_lock and REGISTRY for kvm_lock. */
static void three_cpu_chain_is_reported(void **state)
{
	struct mutex slots, hotplug, registry;
	struct srcu s;
	int idx;

	assert_int_equal(srcu_init(&s, LOCK_SRCU_VM), 0);
	mutex_init(&slots, LOCK_SLOTS);
	mutex_init(&hotplug, LOCK_TEST_A);
	mutex_init(&registry, LOCK_REGISTRY);
	mutex_lock(&slots); /* CPU 0 */
	srcu_synchronize(&s);
	mutex_unlock(&slots);
	idx = srcu_read_lock(&s); /* CPU 2 */
	mutex_lock(&hotplug);
	mutex_unlock(&hotplug);
	srcu_read_unlock(&s, idx);
	mutex_lock(&hotplug); /* CPU 1, against our table too: reported for the order */
	mutex_lock(&registry);
	mutex_unlock(&hotplug);
	assert_int_equal(lockdep_reports(), 1);
	assert_non_null(strstr(last, "wrong order"));
	mutex_lock(&slots); /* the edge that closes the ring */
	assert_int_equal(lockdep_reports(), 2);
	assert_non_null(strstr(last, "possible deadlock"));
	assert_non_null(strstr(last, "kvm->slots_lock -> kvm->srcu"));
	assert_non_null(strstr(last, "kvm->srcu -> test_a"));
	assert_non_null(strstr(last, "test_a -> kvm_registry"));
	mutex_unlock(&slots);
	mutex_unlock(&registry);
	srcu_cleanup(&s);
}

static void arch_lock_across_sync_is_reported(void **state)
{
	struct mutex arch;
	struct srcu s;
	int idx;

	assert_int_equal(srcu_init(&s, LOCK_SRCU_VM), 0);
	mutex_init(&arch, LOCK_SLOTS_ARCH);
	idx = srcu_read_lock(&s);
	mutex_lock(&arch); /* allowed inside a read section */
	mutex_unlock(&arch);
	srcu_read_unlock(&s, idx);
	assert_int_equal(lockdep_reports(), 0);
	mutex_lock(&arch);
	srcu_synchronize(&s); /* but then not across a synchronise */
	assert_int_equal(lockdep_reports(), 1);
	mutex_unlock(&arch);
	srcu_cleanup(&s);
}

static void own_role_nests_only_for_vcpus_under_kvm(void **state)
{
	struct mutex kvm, v1, v2, a1, a2;

	mutex_init(&kvm, LOCK_KVM);
	mutex_init(&v1, LOCK_VCPU);
	mutex_init(&v2, LOCK_VCPU);
	mutex_init(&a1, LOCK_TEST_A);
	mutex_init(&a2, LOCK_TEST_A);
	mutex_lock(&kvm);
	mutex_lock(&v1);
	mutex_lock(&v2);
	mutex_unlock(&v1);
	mutex_unlock(&v2);
	mutex_unlock(&kvm);
	assert_int_equal(lockdep_reports(), 0);
	mutex_lock(&v1);
	mutex_lock(&v2);
	assert_int_equal(lockdep_reports(), 1);
	mutex_unlock(&v2);
	mutex_unlock(&v1);
	mutex_lock(&a1);
	mutex_lock(&a2);
	assert_int_equal(lockdep_reports(), 2);
	mutex_unlock(&a2);
	mutex_unlock(&a1);
}

static void vcpu_slots_inversion_is_reported(void **state)
{
	struct mutex vcpu, slots;

	mutex_init(&vcpu, LOCK_VCPU);
	mutex_init(&slots, LOCK_SLOTS);
	mutex_lock(&vcpu);
	mutex_lock(&slots);
	mutex_unlock(&slots);
	mutex_unlock(&vcpu);
	mutex_lock(&slots);
	mutex_lock(&vcpu);
	assert_int_equal(lockdep_reports(), 1);
	assert_non_null(strstr(last, "possible deadlock"));
	mutex_unlock(&vcpu);
	mutex_unlock(&slots);
}

static void clean_nesting_is_silent(void **state)
{
	struct mutex kvm, vcpu, slots, irq;
	struct spinlock ring;
	struct srcu s;
	int i, j;

	assert_int_equal(srcu_init(&s, LOCK_SRCU_VM), 0);
	mutex_init(&kvm, LOCK_KVM);
	mutex_init(&vcpu, LOCK_VCPU);
	mutex_init(&slots, LOCK_SLOTS);
	mutex_init(&irq, LOCK_IRQ);
	spin_init(&ring, LOCK_RING);
	mutex_lock(&kvm);
	mutex_lock(&vcpu);
	mutex_lock(&slots);
	i = srcu_read_lock(&s);
	j = srcu_read_lock(&s); /* recursive */
	mutex_lock(&irq);
	spin_lock(&ring);
	lock_assert_held(&slots);
	mutex_unlock(&kvm); /* out of order is fine */
	spin_unlock(&ring);
	mutex_unlock(&irq);
	srcu_read_unlock(&s, j);
	srcu_read_unlock(&s, i);
	srcu_synchronize(&s);
	mutex_unlock(&slots);
	mutex_unlock(&vcpu);
	lock_assert_none("here");
	mutex_lock(&vcpu); /* KVM_RUN holds this one */
	lock_assert_none("here");
	mutex_unlock(&vcpu);
	assert_int_equal(lockdep_reports(), 0);
	srcu_cleanup(&s);
}

static void assertions_report(void **state)
{
	struct mutex a;

	mutex_init(&a, LOCK_TEST_A);
	lock_assert_held(&a);
	assert_int_equal(lockdep_reports(), 1);
	mutex_lock(&a);
	lock_assert_held(&a);
	assert_int_equal(lockdep_reports(), 1);
	lock_assert_none("guest entry");
	assert_int_equal(lockdep_reports(), 2);
	mutex_unlock(&a);
	lockdep_release(LOCK_TEST_A, &a);
	assert_int_equal(lockdep_reports(), 3);
}

static void nothing(int sig)
{
}

struct waiter {
	struct mutex *m;
	int result;
	_Atomic bool waiting;
};

static void *wait_interruptibly(void *arg)
{
	struct waiter *w = arg;

	atomic_store(&w->waiting, true);
	w->result = mutex_lock_interruptible(w->m);
	if (!w->result)
		mutex_unlock(w->m);
	return NULL;
}

static void signal_interrupts_a_wait(void **state)
{
	struct sigaction act = {.sa_handler = nothing};
	struct waiter w = {.result = 1};
	struct mutex m;
	pthread_t t;

	mutex_init(&m, LOCK_TEST_A);
	w.m = &m;
	sigaction(SIGUSR1, &act, NULL);
	mutex_lock(&m);
	pthread_create(&t, NULL, wait_interruptibly, &w);
	while (!atomic_load(&w.waiting))
		usleep(100);
	usleep(20000);
	pthread_kill(t, SIGUSR1);
	pthread_join(t, NULL);
	assert_int_equal(w.result, -EINTR);
	pthread_create(&t, NULL, wait_interruptibly, &w);
	usleep(1000);
	mutex_unlock(&m);
	pthread_join(t, NULL);
	assert_int_equal(w.result, 0);
	assert_int_equal(lockdep_reports(), 0);
}

static struct mutex counter_lock;
static long counter;

static void *count(void *arg)
{
	for (int i = 0; i < 50000; i++) {
		mutex_lock(&counter_lock);
		counter++;
		mutex_unlock(&counter_lock);
	}
	return NULL;
}

static void mutexes_exclude(void **state)
{
	pthread_t t[4];

	mutex_init(&counter_lock, LOCK_TEST_A);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, count, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(counter, 200000);
}

#define TEST(f) cmocka_unit_test_setup(f, fresh)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(rank_and_cycle_are_reported),
	    TEST(wrong_order_alone_is_reported),
	    TEST(trylock_makes_no_edge),
	    TEST(srcu_self_deadlock_is_reported),
	    TEST(three_cpu_chain_is_reported),
	    TEST(arch_lock_across_sync_is_reported),
	    TEST(own_role_nests_only_for_vcpus_under_kvm),
	    TEST(vcpu_slots_inversion_is_reported),
	    TEST(clean_nesting_is_silent),
	    TEST(assertions_report),
	    TEST(signal_interrupts_a_wait),
	    TEST(mutexes_exclude),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
