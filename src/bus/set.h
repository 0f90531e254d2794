/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside the bus room: the set of buses, their arrays, and the lists of doorbells. */
#ifndef USERKVM_BUS_SET_H
#define USERKVM_BUS_SET_H

#include "bus/bus.h"

struct bus_range {
	uint64_t addr, len;
	uint64_t reach; /* highest address that this range or an earlier one covers */
	struct bus_device *dev;
	bool doorbell; /* an ioeventfd: not counted against BUS_MAX_DEVICES */
};

/* Immutable once published; sorted by address, equal addresses by length, then by age. */
struct bus_array {
	struct srcu_head head;
	unsigned n, cap, doorbells;
	struct bus_range r[];
};

struct coalesced;

/* One bit per 16 ports or 4 KiB of addresses, hashed: some range has its beginning or its body there. */
#define BUS_FILTER 256

struct bus_set {
	struct srcu *srcu;
	struct mutex *slots_lock;
	_Atomic(struct bus_array *) array[BUS_KINDS];
	_Atomic uint64_t filter[BUS_KINDS][BUS_FILTER / 64];
	struct bus_array *spare[BUS_KINDS]; /* as large as the array: what unregister writes into */
	struct coalesced *zones;	    /* slots_lock */
	struct kvm_coalesced_mmio_ring *ring;
	struct spinlock ring_lock; /* writers of the ring: vCPUs */
};

/* The array for a reader: inside an srcu section, good until its end. May be NULL. */
struct bus_array *bus_array_reader(struct bus_set *b, enum bus_kind kind);
/* For an updater: slots_lock held. May be NULL. */
struct bus_array *bus_array_updater(struct bus_set *b, enum bus_kind kind);
/* For teardown: slots_lock is retired, nobody else is left. May be NULL. */
struct bus_array *bus_array_teardown(struct bus_set *b, enum bus_kind kind);

/* The position of the first range at this address or after it. */
unsigned bus_array_at(const struct bus_array *a, uint64_t addr);

/* As bus_register; a doorbell does not count against BUS_MAX_DEVICES. */
int bus_insert(struct bus_set *b, enum bus_kind kind, uint64_t addr, uint64_t len, struct bus_device *dev,
	       bool doorbell);

#endif
