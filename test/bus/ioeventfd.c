/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* KVM_IOEVENTFD: the errno matrix, matching, identity of eventfds, full counters, deassign under fire.
 * make check T=bus/ioeventfd */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <cmocka.h>

#include "bus/set.h"

static struct srcu srcu;
static struct mutex slots;
static struct bus_set *bus;
static int efd;

static int ioctl_ioeventfd(uint64_t addr, uint32_t len, int fd, uint32_t flags, uint64_t match)
{
	struct kvm_ioeventfd a = {.datamatch = match, .addr = addr, .len = len, .fd = fd, .flags = flags};
	int r;

	mutex_lock(&slots);
	r = bus_ioeventfd(bus, &a);
	mutex_unlock(&slots);
	return r;
}

#define PIO   KVM_IOEVENTFD_FLAG_PIO
#define MATCH KVM_IOEVENTFD_FLAG_DATAMATCH
#define DEL   KVM_IOEVENTFD_FLAG_DEASSIGN

static int wr(enum bus_kind kind, uint64_t addr, unsigned len, uint64_t v)
{
	int idx = srcu_read_lock(&srcu), r;

	r = bus_write(bus, kind, addr, len, len ? &v : NULL);
	srcu_read_unlock(&srcu, idx);
	return r;
}

static uint64_t count(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, 8) == 8 ? n : 0;
}

static int setup(void **state)
{
	assert_int_equal(srcu_init(&srcu, LOCK_SRCU_VM), 0);
	mutex_init(&slots, LOCK_SLOTS);
	efd = eventfd(0, EFD_NONBLOCK);
	assert_true(efd >= 0);
	return bus_create(&bus, &srcu, &slots);
}

static int teardown(void **state)
{
	close(efd);
	mutex_retire(&slots, &(struct ref){0});
	bus_destroy(bus);
	srcu_barrier(&srcu);
	srcu_cleanup(&srcu);
	return 0;
}

/* Seen to fail without the test for a power of two in assign. */
static void refusals(void **state)
{
	int p[2];
	unsigned len;

	assert_int_equal(pipe(p), 0);
	for (len = 0; len < 20; len++)
		assert_int_equal(ioctl_ioeventfd(0x10, len, -1, 0, 0),
				 len == 0 || len == 1 || len == 2 || len == 4 || len == 8 ? -EBADF : -EINVAL);
	assert_int_equal(ioctl_ioeventfd(UINT64_MAX, 4, efd, 0, 0), -EINVAL);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, 1 << 5, 0), -EINVAL);
	assert_int_equal(ioctl_ioeventfd(0x10, 0, efd, MATCH, 1), -EINVAL);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, p[0], 0, 0), -EINVAL);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, 9999, 0, 0), -EBADF);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, DEL, 0), -ENOENT);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, p[0], DEL, 0), -EINVAL);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, -1, DEL, 0), -EBADF);
	assert_int_equal(wr(BUS_MMIO, 0x10, 4, 0), -EOPNOTSUPP);
	close(p[0]);
	close(p[1]);
}

/* Seen to fail with collides never true, and with the eventfd not compared in is_same. */
static void collisions(void **state)
{
	int other = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, MATCH, 7), 0);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, other, MATCH, 7), -EEXIST);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, other, 0, 0), -EEXIST);
	assert_int_equal(ioctl_ioeventfd(0x10, 0, other, 0, 0), -EEXIST);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, other, MATCH, 8), 0);
	assert_int_equal(ioctl_ioeventfd(0x10, 2, other, 0, 0), 0);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, other, PIO, 0), 0);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, PIO | MATCH, 1), -EEXIST);
	/* a refused any-length bell leaves nothing on the fast bus */
	assert_int_equal(wr(BUS_FAST_MMIO, 0x10, 0, 0), -EOPNOTSUPP);
	/* deassign names the whole bell */
	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, DEL | MATCH, 8), -ENOENT);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, other, DEL | MATCH, 7), -ENOENT);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, DEL, 7), -ENOENT);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, DEL | MATCH, 7), 0);
	assert_int_equal(ioctl_ioeventfd(0x10, 4, efd, DEL | MATCH, 7), -ENOENT);
	close(other);
}

/* Seen to fail with value_matches always true. */
static void data_and_length(void **state)
{
	int other = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(ioctl_ioeventfd(0x10, 2, efd, MATCH | PIO, 0x1234), 0);
	assert_int_equal(ioctl_ioeventfd(0x10, 2, other, MATCH | PIO, 0x1235), 0);
	assert_int_equal(wr(BUS_PIO, 0x10, 2, 0xffff1234), 0);
	assert_int_equal(count(efd), 1);
	assert_int_equal(wr(BUS_PIO, 0x10, 2, 0x1235), 0);
	assert_int_equal(wr(BUS_PIO, 0x10, 2, 0x1235), 0);
	assert_int_equal(count(efd), 0);
	assert_int_equal(count(other), 2);
	assert_int_equal(wr(BUS_PIO, 0x10, 2, 0x1236), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_PIO, 0x10, 4, 0x1234), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_PIO, 0x11, 1, 0x12), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_MMIO, 0x10, 2, 0x1234), -EOPNOTSUPP);
	close(other);
}

/* Seen to fail with the fast bus forgotten by deassign. */
static void any_length_is_also_fast(void **state)
{
	assert_int_equal(ioctl_ioeventfd(0x20, 0, efd, 0, 0), 0);
	assert_int_equal(wr(BUS_FAST_MMIO, 0x20, 0, 0), 0);
	assert_int_equal(wr(BUS_MMIO, 0x20, 1, 9), 0);
	assert_int_equal(wr(BUS_MMIO, 0x20, 8, 9), 0);
	assert_int_equal(count(efd), 3);
	assert_int_equal(ioctl_ioeventfd(0x20, 0, efd, DEL, 0), 0);
	assert_int_equal(wr(BUS_FAST_MMIO, 0x20, 0, 0), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_MMIO, 0x20, 4, 0), -EOPNOTSUPP);
	/* PIO has no fast bus */
	assert_int_equal(ioctl_ioeventfd(0x20, 0, efd, PIO, 0), 0);
	assert_int_equal(wr(BUS_FAST_MMIO, 0x20, 0, 0), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_PIO, 0x20, 1, 0), 0);
}

/* Seen to fail with the bell left on the slow bus when the fast one cannot take it. */
static void out_of_memory_leaves_nothing(void **state)
{
	long n, live = base_alloc_live();

	for (n = 1; n < 20; n++) {
		int r;

		base_alloc_fail_at(n);
		r = ioctl_ioeventfd(0x20, 0, efd, 0, 0);
		base_alloc_fail_at(0);
		if (!r)
			break;
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(wr(BUS_MMIO, 0x20, 4, 0), -EOPNOTSUPP);
		assert_int_equal(wr(BUS_FAST_MMIO, 0x20, 0, 0), -EOPNOTSUPP);
		assert_int_equal(ioctl_ioeventfd(0x20, 0, efd, DEL, 0), -ENOENT);
	}
	assert_in_range(n, 3, 19);
	assert_int_equal(ioctl_ioeventfd(0x20, 0, efd, DEL, 0), 0);
	assert_true(base_alloc_live() <= live + 4); /* an array and a spare on each of two buses */
}

/* The bell keeps its own reference: the VMM may close its number, reuse it, and deassign by another one. Seen to fail
 * with the eventfd not compared in is_same. */
static void identity_not_number(void **state)
{
	int a = eventfd(0, EFD_NONBLOCK), keep = dup(a), b;

	assert_int_equal(ioctl_ioeventfd(0x30, 4, a, 0, 0), 0);
	close(a);
	b = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(dup2(b, a), a);
	assert_int_equal(wr(BUS_MMIO, 0x30, 4, 0), 0);
	assert_int_equal(count(b), 0);
	assert_int_equal(count(keep), 1);
	assert_int_equal(ioctl_ioeventfd(0x30, 4, a, DEL, 0), -ENOENT);
	assert_int_equal(ioctl_ioeventfd(0x30, 4, keep, DEL, 0), 0);
	close(a);
	close(b);
	close(keep);
}

/* A full counter of a blocking eventfd stays full and nobody waits; the alarm would end the test. */
static void full_counter(void **state)
{
	uint64_t max = UINT64_MAX - 1;
	int full = eventfd(0, 0);

	alarm(5);
	assert_int_equal(write(full, &max, 8), 8);
	assert_int_equal(ioctl_ioeventfd(0x40, 4, full, 0, 0), 0);
	assert_int_equal(wr(BUS_MMIO, 0x40, 4, 0), 0);
	assert_int_equal(wr(BUS_MMIO, 0x40, 4, 0), 0);
	assert_true(count(full) == max);
	assert_int_equal(wr(BUS_MMIO, 0x40, 4, 0), 0);
	assert_int_equal(count(full), 1);
	alarm(0);
	close(full);
}

static _Atomic bool stop;

static void *ring(void *arg)
{
	while (!stop)
		wr(BUS_MMIO, 0x50, 4, 0);
	return NULL;
}

/* After DEASSIGN returned, the eventfd is never signalled again by that bell. */
static void deassign_under_fire(void **state)
{
	pthread_t th[2];
	int i, rang = 0;

	stop = false;
	for (i = 0; i < 2; i++)
		pthread_create(&th[i], NULL, ring, NULL);
	for (i = 0; i < 100; i++) {
		assert_int_equal(ioctl_ioeventfd(0x50, 4, efd, 0, 0), 0);
		if (i % 10 == 0)
			usleep(1000);
		assert_int_equal(ioctl_ioeventfd(0x50, 4, efd, DEL, 0), 0);
		rang += count(efd) > 0;
		if (i % 10 == 0)
			usleep(200);
		assert_int_equal(count(efd), 0);
	}
	stop = true;
	for (i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
	assert_true(rang > 0);
}

static _Atomic bool inside, left;

static void *stay(void *arg)
{
	int idx = srcu_read_lock(&srcu);

	atomic_store(&inside, true);
	usleep(20000);
	atomic_store(&left, true);
	srcu_read_unlock(&srcu, idx);
	return NULL;
}

/* Who may have found the bell before has rung it when DEASSIGN returns; ASSIGN waits for nobody. Seen to fail without
 * srcu_synchronize in bus_unregister, and with one in bus_insert. */
static void deassign_waits_for_who_found_it(void **state)
{
	pthread_t th;

	inside = left = false;
	pthread_create(&th, NULL, stay, NULL);
	while (!atomic_load(&inside))
		sched_yield();
	assert_int_equal(ioctl_ioeventfd(0x60, 4, efd, 0, 0), 0);
	assert_false(atomic_load(&left));
	assert_int_equal(ioctl_ioeventfd(0x60, 4, efd, DEL, 0), 0);
	assert_true(atomic_load(&left));
	pthread_join(th, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(refusals, setup, teardown),
	    cmocka_unit_test_setup_teardown(collisions, setup, teardown),
	    cmocka_unit_test_setup_teardown(data_and_length, setup, teardown),
	    cmocka_unit_test_setup_teardown(any_length_is_also_fast, setup, teardown),
	    cmocka_unit_test_setup_teardown(out_of_memory_leaves_nothing, setup, teardown),
	    cmocka_unit_test_setup_teardown(identity_not_number, setup, teardown),
	    cmocka_unit_test_setup_teardown(full_counter, setup, teardown),
	    cmocka_unit_test_setup_teardown(deassign_under_fire, setup, teardown),
	    cmocka_unit_test_setup_teardown(deassign_waits_for_who_found_it, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
