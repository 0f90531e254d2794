/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Coalesced zones: guest writes that may wait are put into a ring which the VMM drains when it likes
 * (api.rst 4.116, systems.md C8). The ring is the VMM's memory too: its indices are checked at every use,
 * and one slot is always empty.
 */
#include "base/mutate.h"
#include "bus/set.h"

struct coalesced {
	struct bus_device dev;
	struct coalesced *next;
	struct bus_set *bus;
	struct kvm_coalesced_mmio_zone zone;
};

/* True if [addr, addr+len) lies in the zone. */
static bool contains(const struct kvm_coalesced_mmio_zone *z, uint64_t addr, uint64_t len)
{
	if (addr + len < addr || addr < z->addr)
		return false;
	return addr + len <= z->addr + z->size;
}

/* Puts the write at the ring's end, or passes it on if there is no room; ring_lock held. */
static int ring_put(struct kvm_coalesced_mmio_ring *ring, const struct coalesced *c, uint64_t addr,
		    unsigned len, const void *val)
{
	uint32_t last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED);
	uint32_t next = (last + 1) % KVM_COALESCED_MMIO_MAX;
	struct kvm_coalesced_mmio *slot;

	/* Acquire: the VMM has read the slot that we are about to fill before it moved `first`. */
	if (last >= KVM_COALESCED_MMIO_MAX || next == __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE))
		return -EOPNOTSUPP;
	slot = &ring->coalesced_mmio[last];
	slot->phys_addr = addr;
	slot->len = len;
	slot->pio = c->zone.pio;
	memcpy(slot->data, val, len);
	pause_if(PAUSE_RING);
	/* Release: the VMM sees the slot's content before it sees `last` move. */
	__atomic_store_n(&ring->last, next, __ATOMIC_RELEASE);
	return 0;
}

static int coalesced_write(struct bus_device *dev, uint64_t addr, unsigned len, const void *val)
{
	struct coalesced *c = container_of(dev, struct coalesced, dev);
	int r;

	if (!c->bus->ring || len > sizeof(c->bus->ring->coalesced_mmio[0].data) ||
	    !contains(&c->zone, addr, len))
		return -EOPNOTSUPP;
	spin_lock(&c->bus->ring_lock);
	r = ring_put(c->bus->ring, c, addr, len, val);
	spin_unlock(&c->bus->ring_lock);
	return r;
}

static void coalesced_destroy(struct bus_device *dev)
{
	base_free(container_of(dev, struct coalesced, dev));
}

static const struct bus_device_ops coalesced_ops = {.write = coalesced_write, .destroy = coalesced_destroy};

void bus_coalesced_set_ring(struct bus_set *b, struct kvm_coalesced_mmio_ring *ring)
{
	b->ring = ring;
}

int bus_coalesced_register(struct bus_set *b, const struct kvm_coalesced_mmio_zone *zone)
{
	struct coalesced *c;
	int r;

	lock_assert_held(b->slots_lock);
	if (zone->pio > 1)
		return -EINVAL;
	c = base_zalloc(sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct coalesced){.dev.ops = &coalesced_ops, .bus = b, .zone = *zone, .next = b->zones};
	r = bus_register(b, zone->pio ? BUS_PIO : BUS_MMIO, zone->addr, zone->size, &c->dev);
	if (r < 0) {
		base_free(c);
		return r;
	}
	b->zones = c;
	return 0;
}

int bus_coalesced_unregister(struct bus_set *b, const struct kvm_coalesced_mmio_zone *zone)
{
	struct coalesced **at = &b->zones;

	lock_assert_held(b->slots_lock);
	if (zone->pio > 1)
		return -EINVAL;
	while (*at) {
		struct coalesced *c = *at;

		if (c->zone.pio != zone->pio || !contains(&c->zone, zone->addr, zone->size)) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		bus_unregister(b, c->zone.pio ? BUS_PIO : BUS_MMIO, &c->dev);
	}
	return 0;
}
