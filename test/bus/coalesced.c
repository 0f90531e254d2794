/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Coalesced zones: refusals, every ring start, unregister by range, draining under fire, a hostile ring.
 * make check T=bus/coalesced */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/mutate.h"
#include "bus/set.h"

#define MAX_RING KVM_COALESCED_MMIO_MAX

static struct srcu srcu;
static struct mutex slots;
static struct bus_set *bus;
static struct {
	_Alignas(4096) char page[4096];
	char guard[4096];
} mem;
static struct kvm_coalesced_mmio_ring *ring = (void *)mem.page;

static int zone(bool add, uint64_t addr, uint32_t size, uint32_t pio)
{
	struct kvm_coalesced_mmio_zone z = {.addr = addr, .size = size, .pio = pio};
	int r;

	mutex_lock(&slots);
	r = add ? bus_coalesced_register(bus, &z) : bus_coalesced_unregister(bus, &z);
	mutex_unlock(&slots);
	return r;
}

static int wr(enum bus_kind kind, uint64_t addr, unsigned len, uint64_t v)
{
	int idx = srcu_read_lock(&srcu), r;

	r = bus_write(bus, kind, addr, len, &v);
	srcu_read_unlock(&srcu, idx);
	return r;
}

static int setup(void **state)
{
	memset(&mem, 0, sizeof(mem));
	assert_int_equal(srcu_init(&srcu, LOCK_SRCU_VM), 0);
	mutex_init(&slots, LOCK_SLOTS);
	assert_int_equal(bus_create(&bus, &srcu, &slots), 0);
	bus_coalesced_set_ring(bus, ring);
	return 0;
}

static int teardown(void **state)
{
	mutex_retire(&slots, &(struct ref){0});
	bus_destroy(bus);
	srcu_barrier(&srcu);
	srcu_cleanup(&srcu);
	return 0;
}

/* Seen to fail without the look at pio in bus_coalesced_register. */
static void refusals(void **state)
{
	assert_int_equal(zone(true, 0x1000, 0x100, 2), -EINVAL);
	assert_int_equal(zone(false, 0x1000, 0x100, 2), -EINVAL);
	assert_int_equal(zone(false, 0x1000, 0x100, 0), 0);
	base_alloc_fail_at(1);
	assert_int_equal(zone(true, 0x1000, 0x100, 0), -ENOMEM);
	base_alloc_fail_at(2);
	assert_int_equal(zone(true, 0x1000, 0x100, 0), -ENOMEM);
	base_alloc_fail_at(0);
	assert_int_equal(wr(BUS_MMIO, 0x1000, 4, 1), -EOPNOTSUPP);
}

/* Seen to fail (the empty zone) without contains in coalesced_write. */
static void entries_and_zones(void **state)
{
	uint64_t v = 0;

	assert_int_equal(zone(true, 0x1000, 0x100, 0), 0);
	assert_int_equal(zone(true, 0x70, 2, 1), 0);
	assert_int_equal(zone(true, 0x2000, 0, 0), 0);
	assert_int_equal(wr(BUS_MMIO, 0x2000, 1, 1), -EOPNOTSUPP); /* an empty zone has room for no write */
	assert_int_equal(wr(BUS_MMIO, 0x10fc, 8, 1), -EOPNOTSUPP); /* not wholly inside */
	assert_int_equal(wr(BUS_PIO, 0x1000, 4, 1), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_MMIO, 0x10f8, 8, 0x1122334455667788), 0);
	assert_int_equal(wr(BUS_PIO, 0x71, 1, 0xab), 0);
	assert_int_equal(ring->last, 2);
	assert_int_equal(ring->first, 0);
	assert_true(ring->coalesced_mmio[0].phys_addr == 0x10f8);
	assert_int_equal(ring->coalesced_mmio[0].len, 8);
	assert_int_equal(ring->coalesced_mmio[0].pio, 0);
	memcpy(&v, ring->coalesced_mmio[0].data, 8);
	assert_true(v == 0x1122334455667788);
	assert_true(ring->coalesced_mmio[1].phys_addr == 0x71);
	assert_int_equal(ring->coalesced_mmio[1].pio, 1);
	assert_int_equal(ring->coalesced_mmio[1].data[0], 0xab);
}

/* From every start the ring takes all but one slot, then the access is the VMM's. Seen to fail without the comparison
 * with `first` in ring_put. */
static void full_from_every_start(void **state)
{
	uint32_t start, i;

	assert_int_equal(zone(true, 0x1000, 0x100, 0), 0);
	for (start = 0; start < MAX_RING; start++) {
		ring->first = ring->last = start;
		for (i = 0; i < MAX_RING - 1; i++)
			assert_int_equal(wr(BUS_MMIO, 0x1000, 4, i), 0);
		assert_int_equal(wr(BUS_MMIO, 0x1000, 4, i), -EOPNOTSUPP);
		assert_int_equal((ring->last + 1) % MAX_RING, ring->first);
		ring->first = (ring->first + 1) % MAX_RING;
		assert_int_equal(wr(BUS_MMIO, 0x1000, 4, i), 0);
	}
}

/* Seen to fail with zones taken away that are equal to the range, not those that contain it. */
static void unregister_by_range(void **state)
{
	assert_int_equal(zone(true, 0x1000, 0x100, 0), 0);
	assert_int_equal(zone(true, 0x1000, 0x1000, 0), 0);
	assert_int_equal(zone(true, 0x3000, 0x100, 0), 0);
	assert_int_equal(zone(true, 0x1000, 0x100, 1), 0);
	assert_int_equal(zone(false, 0x0, 0x10000, 0), 0); /* larger than any zone: none contains it */
	assert_int_equal(wr(BUS_MMIO, 0x1000, 4, 0), 0);
	assert_int_equal(zone(false, 0x1010, 0x10, 0), 0); /* both zones there contain it */
	assert_int_equal(wr(BUS_MMIO, 0x1000, 4, 0), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_MMIO, 0x1800, 4, 0), -EOPNOTSUPP);
	assert_int_equal(wr(BUS_MMIO, 0x3000, 4, 0), 0);
	assert_int_equal(wr(BUS_PIO, 0x1000, 4, 0), 0);
}

static uint64_t writes; /* of each vCPU */

static void *writer(void *arg)
{
	uint64_t id = (uint64_t)(uintptr_t)arg, i;

	for (i = 0; i < writes; i++)
		while (wr(BUS_MMIO, 0x1000, 8, id << 32 | i))
			sched_yield();
	return NULL;
}

static void drain(uint64_t n)
{
	pthread_t th[2];
	uint64_t next[2] = {0, 0};
	uintptr_t i;

	writes = n;
	for (i = 0; i < 2; i++)
		pthread_create(&th[i], NULL, writer, (void *)i);
	while (next[0] + next[1] < 2 * writes) {
		uint32_t first = ring->first;
		uint64_t v;

		if (first == __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
			sched_yield();
			continue;
		}
		memcpy(&v, ring->coalesced_mmio[first].data, 8);
		assert_in_range(v >> 32, 0, 1);
		assert_int_equal(v & 0xffffffff, next[v >> 32]);
		next[v >> 32]++;
		__atomic_store_n(&ring->first, (first + 1) % MAX_RING, __ATOMIC_RELEASE);
	}
	for (i = 0; i < 2; i++)
		pthread_join(th[i], NULL);
}

/* Two vCPUs write while the VMM drains: every write arrives once, each vCPU's in order; at full speed, and with a pause
 * where another one could take the same place. Seen to fail without ring_lock (at the pause), and with `last` moved
 * past `first`. */
static void drain_under_fire(void **state)
{
	assert_int_equal(zone(true, 0x1000, 0x100, 0), 0);
	drain(20000);
	atomic_store(&base_mutations, BIT(PAUSE_RING));
	drain(200);
	atomic_store(&base_mutations, 0);
}

/* The VMM may write anything into the ring's indices. Seen to fail with the comparison of `last` left out of ring_put. */
static void hostile_ring(void **state)
{
	const uint32_t bad[] = {MAX_RING, MAX_RING + 1, 0x7fffffff, 0x80000000, 0xffffffff};
	unsigned i, j;

	assert_int_equal(zone(true, 0x1000, 0x100, 0), 0);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		ring->first = 0;
		ring->last = bad[i];
		assert_int_equal(wr(BUS_MMIO, 0x1000, 4, ~0ULL), -EOPNOTSUPP);
		assert_int_equal(ring->last, bad[i]);
		ring->first = bad[i];
		ring->last = 0;
		wr(BUS_MMIO, 0x1000, 4, ~0ULL);
	}
	for (j = 0; j < sizeof(mem.guard); j++)
		assert_int_equal(mem.guard[j], 0);
	/* afterwards the ring works again */
	ring->first = ring->last = 5;
	assert_int_equal(wr(BUS_MMIO, 0x1000, 4, 1), 0);
	assert_int_equal(ring->last, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(refusals, setup, teardown),
	    cmocka_unit_test_setup_teardown(entries_and_zones, setup, teardown),
	    cmocka_unit_test_setup_teardown(full_from_every_start, setup, teardown),
	    cmocka_unit_test_setup_teardown(unregister_by_range, setup, teardown),
	    cmocka_unit_test_setup_teardown(drain_under_fire, setup, teardown),
	    cmocka_unit_test_setup_teardown(hostile_ring, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
