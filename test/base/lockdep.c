/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * make check T=base/lockdep: every chain of systems.md, section 2, with bare locks is reported before it hangs; clean
 * nesting is not. In the shipped code: test/lockorder. Each case was seen to fail with lockdep_acquire and lockdep_sync
 * made to record no edge (the chains), check_patience empty (patience), or the assertion's body removed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/base.h"

static char last[8192]; /* the last report */

static void remember(const char *text)
{
	strncpy(last, text, sizeof(last) - 1);
}

/* Every role's lock. */
static struct mutex of[LOCK_ROLES];
static struct srcu vm_srcu, irq_srcu;

static void take(enum lock_role outer, enum lock_role inner)
{
	mutex_lock(&of[outer]);
	mutex_lock(&of[inner]);
	mutex_unlock(&of[inner]);
	mutex_unlock(&of[outer]);
}

static void take_inside(struct srcu *s, enum lock_role inner)
{
	int idx = srcu_read_lock(s);

	mutex_lock(&of[inner]);
	mutex_unlock(&of[inner]);
	srcu_read_unlock(s, idx);
}

static void sync_under(enum lock_role outer, struct srcu *s)
{
	mutex_lock(&of[outer]);
	srcu_synchronize(s);
	mutex_unlock(&of[outer]);
}

#define assert_reports(n) assert_int_equal(lockdep_reports(), n)
#define assert_told(what) assert_non_null(strstr(last, what))
#define assert_deadlock() assert_told("possible deadlock")

static int fresh(void **state)
{
	lockdep_reset();
	lockdep_on_report(remember);
	last[0] = 0;
	for (int r = 0; r < LOCK_ROLES; r++)
		mutex_init(&of[r], r);
	return srcu_init(&vm_srcu, LOCK_SRCU_VM) || srcu_init(&irq_srcu, LOCK_SRCU_IRQ);
}

static int stale(void **state)
{
	srcu_cleanup(&vm_srcu);
	srcu_cleanup(&irq_srcu);
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

/* -- The chains, by number -- */

/* 1: four edges, none wrong by itself where it was found. Here two of them are against our table, too. */
static void three_cpu_chain_is_reported(void **state)
{
	int idx;

	sync_under(LOCK_SLOTS, &vm_srcu); /* CPU 0 */
	idx = srcu_read_lock(&vm_srcu);	  /* CPU 2: */
	lock_host_enter();		  /* stands for cpu_hotplug_lock, read */
	lock_host_leave();
	srcu_read_unlock(&vm_srcu, idx);
	assert_reports(1);
	assert_told("wrong order: libc is wanted while kvm->srcu is held");
	lock_host_enter(); /* CPU 1: CREATE_VM */
	mutex_lock(&of[LOCK_REGISTRY]);
	lock_host_leave();
	assert_reports(1);
	mutex_lock(&of[LOCK_SLOTS]); /* ... its walk: the edge that closes the ring */
	assert_reports(2);
	assert_deadlock();
	assert_told("kvm_registry -> kvm->slots_lock");
	assert_told("kvm->slots_lock -> kvm->srcu");
	assert_told("kvm->srcu -> libc");
	assert_told("libc -> kvm_registry");
	mutex_unlock(&of[LOCK_SLOTS]);
	mutex_unlock(&of[LOCK_REGISTRY]);
}

/* 2: a notifier inside the hotplug lock takes the registry's, whose holder waits for that lock. */
static void walk_under_registry_is_reported(void **state)
{
	lock_host_enter();
	mutex_lock(&of[LOCK_REGISTRY]);
	mutex_unlock(&of[LOCK_REGISTRY]);
	lock_host_leave();
	assert_reports(0);
	mutex_lock(&of[LOCK_REGISTRY]);
	lock_host_enter();
	assert_reports(1);
	assert_deadlock();
	lock_host_leave();
	mutex_unlock(&of[LOCK_REGISTRY]);
}

/* 3 */
static void arch_lock_across_sync_is_reported(void **state)
{
	take_inside(&vm_srcu, LOCK_SLOTS_ARCH); /* allowed inside a read section */
	assert_reports(0);
	sync_under(LOCK_SLOTS_ARCH, &vm_srcu); /* but then not across a synchronise */
	assert_deadlock();
	assert_reports(2); /* nor has its holder that patience */
}

/* 4: T1 takes slots_lock in its section, T2 synchronises under it. */
static void srcu_against_slots_is_reported(void **state)
{
	sync_under(LOCK_SLOTS, &vm_srcu);
	assert_reports(0);
	take_inside(&vm_srcu, LOCK_SLOTS);
	assert_reports(1);
	assert_deadlock();
}

/* 4, and 11: it would wait for itself, and is sent back. */
static void sync_in_own_section_is_reported(void **state)
{
	struct srcu other;
	int idx = srcu_read_lock(&vm_srcu);

	assert_true(srcu_read_held(&vm_srcu));
	srcu_synchronize(&vm_srcu);
	assert_reports(1);
	assert_told("self-deadlock");
	srcu_barrier(&vm_srcu);
	assert_reports(2);
	/* Another VM's domain: two threads may do so crosswise. */
	assert_int_equal(srcu_init(&other, LOCK_SRCU_VM), 0);
	srcu_synchronize(&other);
	assert_reports(3);
	assert_told("nested in its own role");
	srcu_read_unlock(&vm_srcu, idx);
	assert_false(srcu_read_held(&vm_srcu));
	srcu_cleanup(&other);
}

/* 5 */
static void vcpu_slots_inversion_is_reported(void **state)
{
	take(LOCK_VCPU, LOCK_SLOTS);
	assert_reports(0);
	take(LOCK_SLOTS, LOCK_VCPU);
	assert_reports(1);
	assert_deadlock();
}

/* 6 */
static void kvm_lock_in_exit_is_reported(void **state)
{
	take(LOCK_KVM, LOCK_VCPU);
	assert_reports(0);
	take(LOCK_VCPU, LOCK_KVM);
	assert_reports(1);
	assert_deadlock();
}

/* 7: open takes group_lock, then a driver kvm->lock; the kvm-vfio file's release sets the link under group_lock. */
static void vfio_link_is_reported(void **state)
{
	take(LOCK_VFIO_GROUP, LOCK_VFIO_DEVSET);
	take(LOCK_VFIO_DEVSET, LOCK_KVM);
	take(LOCK_KVM, LOCK_KVM_VFIO);
	take(LOCK_KVM_VFIO, LOCK_VFIO_KVM_REF); /* the fix */
	assert_reports(0);
	take(LOCK_KVM_VFIO, LOCK_VFIO_GROUP);
	assert_reports(1);
	assert_deadlock();
	assert_told("kv->lock -> group_lock");
	assert_told("group_lock -> dev_set->lock");
	assert_told("dev_set->lock -> kvm->lock");
	/* The variant: a last put there. */
	mutex_lock(&of[LOCK_VFIO_GROUP]);
	lock_assert_may_put("a VM");
	assert_reports(2);
	assert_told("holds group_lock");
	mutex_unlock(&of[LOCK_VFIO_GROUP]);
}

/* 8: between begin and end an invalidation wants slots_lock; an update waits for the end with slots_lock held. */
static void notifier_is_reported(void **state)
{
	int one = 0;

	lock_section_enter(LOCK_INVALIDATING, &one);
	mutex_lock(&of[LOCK_SLOTS]);
	mutex_unlock(&of[LOCK_SLOTS]);
	lock_section_leave(LOCK_INVALIDATING, &one);
	assert_reports(0);
	mutex_lock(&of[LOCK_SLOTS]);
	lock_section_wait(LOCK_INVALIDATING, NULL);
	mutex_unlock(&of[LOCK_SLOTS]);
	assert_reports(1);
	assert_deadlock();
}

/* 9 */
static void irq_srcu_against_irq_lock_is_reported(void **state)
{
	take_inside(&irq_srcu, LOCK_IRQFDS);
	assert_reports(0);
	sync_under(LOCK_IRQ, &irq_srcu); /* its holder has no such patience */
	assert_reports(1);
	assert_told("a wait under a lock that allows none");
	take_inside(&irq_srcu, LOCK_IRQ); /* an ack notifier */
	assert_reports(2);
	assert_deadlock();
}

/* 10: the loader is called under our outermost lock; constructors call us under the loader's. */
static void loader_under_lock_is_reported(void **state)
{
	lock_host_enter();
	mutex_lock(&of[LOCK_USAGE]);
	mutex_unlock(&of[LOCK_USAGE]);
	lock_host_leave();
	assert_reports(0);
	mutex_lock(&of[LOCK_USAGE]);
	lock_host_enter();
	lock_host_leave();
	mutex_unlock(&of[LOCK_USAGE]);
	assert_reports(1);
	assert_deadlock();
}

/* 11, but for the section above: two vcpu->mutexes without kvm->lock. */
static void own_role_nests_only_for_vcpus_under_kvm(void **state)
{
	struct mutex v2, a2;

	mutex_init(&v2, LOCK_VCPU);
	mutex_init(&a2, LOCK_TEST_A);
	mutex_lock(&of[LOCK_KVM]);
	mutex_lock(&of[LOCK_VCPU]);
	mutex_lock(&v2);
	mutex_unlock(&of[LOCK_VCPU]);
	mutex_unlock(&v2);
	mutex_unlock(&of[LOCK_KVM]);
	assert_reports(0);
	mutex_lock(&of[LOCK_VCPU]);
	mutex_lock(&v2);
	assert_reports(1);
	mutex_unlock(&v2);
	mutex_unlock(&of[LOCK_VCPU]);
	mutex_lock(&of[LOCK_TEST_A]);
	mutex_lock(&a2);
	assert_reports(2);
	mutex_unlock(&a2);
	mutex_unlock(&of[LOCK_TEST_A]);
}

/* 11: put, copy and wait under locks that forbid it. */
static void patience(void **state)
{
	static const struct {
		enum lock_role role;
		bool wait, fault, put;
	} rows[] = {
	    {LOCK_HOST, true, true, true},
	    {LOCK_USAGE, true, false, false},
	    {LOCK_REGISTRY, false, false, false},
	    {LOCK_KVM, true, true, false},
	    {LOCK_VCPU, true, true, false},
	    {LOCK_SLOTS, true, true, false},
	    {LOCK_IRQ, false, false, false},
	    {LOCK_RING, false, false, false},
	    {LOCK_VFIO_KVM_REF, false, false, false},
	    {LOCK_STATS, false, false, false},
	};
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct mutex *m = &of[rows[i].role];

		mutex_lock(m);
		lock_assert_may_wait("a vCPU");
		n += !rows[i].wait;
		assert_reports(n);
		lock_assert_may_fault("guest memory");
		n += !rows[i].fault;
		assert_reports(n);
		lock_assert_may_put("a VM");
		n += !rows[i].put;
		assert_reports(n);
		mutex_unlock(m);
	}
	lock_assert_may_wait("a vCPU");
	lock_assert_may_fault("guest memory");
	lock_assert_may_put("a VM");
	assert_reports(n);
}

/* -- Userspace's own -- */

/* A flush counts as a wait for the vCPUs; what one takes in guest code may not be held then. */
static void stop_under_a_vcpus_lock_is_reported(void **state)
{
	int vcpu = 0;

	lock_section_enter(LOCK_GUEST, &vcpu);
	mutex_lock(&of[LOCK_PIT]);
	mutex_unlock(&of[LOCK_PIT]);
	lock_section_leave(LOCK_GUEST, &vcpu);
	mutex_lock(&of[LOCK_SLOTS]);
	lock_section_wait(LOCK_GUEST, NULL);
	mutex_unlock(&of[LOCK_SLOTS]);
	assert_reports(0);
	mutex_lock(&of[LOCK_PIT]);
	lock_section_wait(LOCK_GUEST, NULL);
	mutex_unlock(&of[LOCK_PIT]);
	assert_deadlock();
}

/* Handlers and forked children: no lock; the allocator in the latter only if somebody repaired it. */
static void nothing_is_taken_in_a_handler(void **state)
{
	struct lock_nowait outer;

	outer = lock_nowait_enter("a handler", false);
	mutex_lock(&of[LOCK_TEST_A]);
	mutex_unlock(&of[LOCK_TEST_A]);
	assert_reports(1);
	assert_told("a handler");
	base_free(base_zalloc(1));
	assert_reports(3);
	assert_true(mutex_trylock(&of[LOCK_TEST_A])); /* waits for nobody */
	mutex_unlock(&of[LOCK_TEST_A]);
	assert_reports(3);
	lock_nowait_leave(outer);
	outer = lock_nowait_enter("a child", true);
	base_free(base_zalloc(1));
	assert_reports(3);
	lock_nowait_leave(outer);
	mutex_lock(&of[LOCK_TEST_A]);
	mutex_unlock(&of[LOCK_TEST_A]);
	assert_reports(3);
}

/* A fair read waits like any other. */
static void fair_reads_block(void **state)
{
	lockdep_acquire(LOCK_TEST_A, &of[LOCK_TEST_A], LOCKDEP_READ);
	lockdep_acquire(LOCK_TEST_B, &of[LOCK_TEST_B], LOCKDEP_READ);
	lockdep_release(LOCK_TEST_B, &of[LOCK_TEST_B]);
	lockdep_release(LOCK_TEST_A, &of[LOCK_TEST_A]);
	assert_reports(0);
	lockdep_acquire(LOCK_TEST_B, &of[LOCK_TEST_B], LOCKDEP_READ);
	lockdep_acquire(LOCK_TEST_A, &of[LOCK_TEST_A], LOCKDEP_READ);
	assert_reports(1);
	assert_deadlock();
	lockdep_release(LOCK_TEST_A, &of[LOCK_TEST_A]);
	lockdep_release(LOCK_TEST_B, &of[LOCK_TEST_B]);
}

/* What is taken while a try-lock is held waits like anything else. */
static void trylock_is_held(void **state)
{
	mutex_lock(&of[LOCK_TEST_A]);
	mutex_lock(&of[LOCK_TEST_B]);
	mutex_unlock(&of[LOCK_TEST_B]);
	mutex_unlock(&of[LOCK_TEST_A]);
	assert_true(mutex_trylock(&of[LOCK_TEST_B]));
	mutex_lock(&of[LOCK_TEST_A]);
	assert_reports(1);
	assert_deadlock();
	mutex_unlock(&of[LOCK_TEST_A]);
	mutex_unlock(&of[LOCK_TEST_B]);
}

/* -- Retirement: assert_teardown(users == 0) -- */

static void retirement(void **state)
{
	struct mutex *m = &of[LOCK_SLOTS];
	unsigned bugs = base_bug_count();
	struct ref users;

	ref_init(&users, 1);
	lock_assert_teardown(m);
	assert_reports(1);
	mutex_retire(m, &users);
	assert_reports(2);
	assert_told("retired while there are users");
	mutex_init(m, LOCK_SLOTS);
	assert_true(ref_put(&users));
	mutex_lock(m);
	mutex_retire(m, &users);
	assert_reports(3);
	assert_told("retired while held");
	mutex_unlock(m);
	mutex_init(m, LOCK_SLOTS);
	mutex_retire(m, &users);
	lock_assert_teardown(m);
	assert_reports(3);
	base_bug_expect(1);
	mutex_lock(m);
	mutex_unlock(m);
	assert_int_equal(base_bug_count(), bugs + 1);
}

/* -- Silence -- */

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

#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh, stale)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(rank_and_cycle_are_reported),
	    TEST(wrong_order_alone_is_reported),
	    TEST(trylock_makes_no_edge),
	    TEST(three_cpu_chain_is_reported),
	    TEST(walk_under_registry_is_reported),
	    TEST(arch_lock_across_sync_is_reported),
	    TEST(srcu_against_slots_is_reported),
	    TEST(sync_in_own_section_is_reported),
	    TEST(vcpu_slots_inversion_is_reported),
	    TEST(kvm_lock_in_exit_is_reported),
	    TEST(vfio_link_is_reported),
	    TEST(notifier_is_reported),
	    TEST(irq_srcu_against_irq_lock_is_reported),
	    TEST(loader_under_lock_is_reported),
	    TEST(own_role_nests_only_for_vcpus_under_kvm),
	    TEST(patience),
	    TEST(stop_under_a_vcpus_lock_is_reported),
	    TEST(nothing_is_taken_in_a_handler),
	    TEST(fair_reads_block),
	    TEST(trylock_is_held),
	    TEST(retirement),
	    TEST(clean_nesting_is_silent),
	    TEST(assertions_report),
	    TEST(signal_interrupts_a_wait),
	    TEST(mutexes_exclude),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
