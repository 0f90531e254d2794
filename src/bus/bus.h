/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * I/O buses: immutable sorted arrays of address ranges, replaced whole. Readers hold the VM's srcu and take
 * the array that is current at each access; nobody keeps a bus or device pointer across guest instructions.
 *
 *                        needs
 *   bus_may_claim        nothing
 *   bus_read, bus_write  an srcu read section of the VM held by the caller
 *   bus_register         slots_lock; publishes and returns, the old array is freed later
 *   bus_unregister       slots_lock; waits for readers, cannot fail, allocates nothing
 *   bus_destroy          no vCPU, no reader left; slots_lock retired
 */
#ifndef USERKVM_BUS_BUS_H
#define USERKVM_BUS_BUS_H

#include <linux/kvm.h>

#include "base/base.h"

enum bus_kind { BUS_MMIO, BUS_PIO, BUS_VIRTIO_CCW, BUS_FAST_MMIO, BUS_KINDS };

#define BUS_MAX_DEVICES 1000 /* without ioeventfds, per bus: -ENOSPC beyond */

struct bus_device;

struct bus_device_ops {
	/* 0 = handled; -EOPNOTSUPP = not mine, ask the next. len 1, 2, 4 or 8. Called under srcu. */
	int (*read)(struct bus_device *dev, uint64_t addr, unsigned len, void *val);
	int (*write)(struct bus_device *dev, uint64_t addr, unsigned len, const void *val);
	/* Last call, after readers are gone. May be NULL. */
	void (*destroy)(struct bus_device *dev);
};

struct bus_device {
	const struct bus_device_ops *ops;
};

struct bus_set; /* the buses, ioeventfds and coalesced zones of one VM */

int bus_create(struct bus_set **out, struct srcu *srcu, struct mutex *slots_lock);
void bus_destroy(struct bus_set *b);

/*
 * False: no device is there, and the access is the VMM's. True: perhaps; ask. Needs no read section, and a device whose
 * registration the guest has seen is never missed.
 */
bool bus_may_claim(const struct bus_set *b, enum bus_kind kind, uint64_t addr);
/* 0 = some device took it; -EOPNOTSUPP = nobody: the VMM's. */
int bus_read(struct bus_set *b, enum bus_kind kind, uint64_t addr, unsigned len, void *val);
int bus_write(struct bus_set *b, enum bus_kind kind, uint64_t addr, unsigned len, const void *val);

/* -ENOSPC, -ENOMEM. len 0 matches addr exactly, whatever the access's length. */
int bus_register(struct bus_set *b, enum bus_kind kind, uint64_t addr, uint64_t len, struct bus_device *dev);
/* Removes dev, waits, then calls its destroy. -ENOENT if it is not there. */
int bus_unregister(struct bus_set *b, enum bus_kind kind, struct bus_device *dev);

/* KVM_IOEVENTFD (api.rst 4.59); errno matrix in systems.md C7. slots_lock held. */
int bus_ioeventfd(struct bus_set *b, const struct kvm_ioeventfd *args);
/* KVM_(UN)REGISTER_COALESCED_MMIO; -EINVAL if pio is neither 0 nor 1. slots_lock held. */
int bus_coalesced_register(struct bus_set *b, const struct kvm_coalesced_mmio_zone *zone);
int bus_coalesced_unregister(struct bus_set *b, const struct kvm_coalesced_mmio_zone *zone);
/* Gives the ring page (PAGE_SIZE bytes, mapped into every vCPU by api) to the set. Once, at VM creation. */
void bus_coalesced_set_ring(struct bus_set *b, struct kvm_coalesced_mmio_ring *ring);

#endif
