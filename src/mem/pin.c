/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pins: ranges of guest memory that drivers use at their host address for a while. A pin ends by unpin, with its
 * slot, or when the VMM unmaps the memory; in the latter two cases its maker is told before the address is free
 * for anything else.
 *
 *	pin				slot goes			VMM unmaps
 *	slot found, valid		INVALID				range into the list
 *	into the list			readers waited for		pins told
 *	look for invalidations		pins told			unmaps
 *
 * So a pin that was not told of either began after it, and finds no slot, or waits.
 */
#include "mem/slot.h"

#include <sched.h>

/* Takes a pin from the list; false if it is not there. slots_arch_lock. */
static bool unlink_pin(struct mem *m, const struct kvm_pin *pin)
{
	struct kvm_pin **p;

	for (p = &m->pins; *p && *p != pin; p = &(*p)->next)
		;
	if (!*p)
		return false;
	*p = pin->next;
	return true;
}

static bool forget(struct mem *m, const struct kvm_pin *pin)
{
	bool found;

	mutex_lock(&m->slots_arch_lock);
	found = unlink_pin(m, pin);
	mutex_unlock(&m->slots_arch_lock);
	return found;
}

/* Finds the range and lists the pin: 0, -EFAULT, or -EAGAIN for a slot that is being changed. */
static int enlist(struct mem *m, struct kvm_pin *pin)
{
	int idx = srcu_read_lock(m->srcu), r = 0;
	struct slot *s;
	uint64_t offset;

	mutex_lock(&m->slots_arch_lock);
	s = slot_find(m, 0, pin->gpa >> PAGE_SHIFT);
	offset = s ? pin->gpa - (s->base_gfn << PAGE_SHIFT) : 0;
	if (!s || (pin->write && s->readonly) || pin->len > (s->npages << PAGE_SHIFT) - offset)
		r = -EFAULT;
	else if (atomic_load(&s->invalid))
		r = -EAGAIN;
	if (!r) {
		pin->host = s->hva + offset;
		pin->next = m->pins;
		m->pins = pin;
	}
	mutex_unlock(&m->slots_arch_lock);
	srcu_read_unlock(m->srcu, idx);
	return r;
}

/* True if the VMM is unmapping a page of the range. */
static bool is_invalidating(const struct kvm_pin *pin)
{
	uint64_t at = (uint64_t)pin->host & ~PAGE_OFFSET_MASK, end = (uint64_t)pin->host + pin->len;
	bool hit = false;

	for (; at < end && !hit; at += PAGE_SIZE)
		hit = mem_invalidating(at);
	return hit;
}

/* -EFAULT if a page of the range is not there. Told pins may see anything: their makers know. */
static int touch(const struct kvm_pin *pin)
{
	uint64_t at = (uint64_t)pin->host, end = at + pin->len;
	uint8_t byte;

	for (; at < end; at = (at & ~PAGE_OFFSET_MASK) + PAGE_SIZE) {
		if (base_copy_in(&byte, (void *)at, 1))
			return -EFAULT;
	}
	return 0;
}

int mem_pin(struct mem *m, struct kvm_pin *pin)
{
	int r;

	if (!pin->len || pin->gpa + pin->len - 1 < pin->gpa)
		return -EINVAL;
	for (;;) {
		r = enlist(m, pin);
		/* Listed first: an invalidation that we do not see here sees the pin. */
		if (!r && is_invalidating(pin) && forget(m, pin))
			r = -EAGAIN;
		if (r != -EAGAIN)
			break;
		sched_yield();
	}
	if (r)
		return r;
	r = touch(pin);
	if (!r && pin->write)
		r = mem_pin_dirty(m, pin->gpa, pin->len);
	if (r)
		mem_unpin(m, pin);
	return r;
}

void mem_unpin(struct mem *m, struct kvm_pin *pin)
{
	bool found = forget(m, pin);

	if (found && pin->write)
		mem_pin_dirty(m, pin->gpa, pin->len);
	srcu_synchronize(&m->track_srcu);
}

int mem_pin_dirty(struct mem *m, uint64_t gpa, uint64_t len)
{
	int idx = srcu_read_lock(m->srcu), r = 0;
	uint64_t gfn = gpa >> PAGE_SHIFT, last = (gpa + len - 1) >> PAGE_SHIFT;
	struct mem_page page;

	for (; !r && len && gfn <= last; gfn++) {
		struct slot *s = slot_find(m, 0, gfn);

		if (!s || s->readonly)
			r = -EFAULT;
		else if (slot_grant(m, s, gfn - s->base_gfn, true, &page) != MEM_FIXED)
			r = -ENOMEM;
	}
	srcu_read_unlock(m->srcu, idx);
	return r;
}

void pins_end(struct mem *m, uint64_t lo, uint64_t hi)
{
	int idx = srcu_read_lock(&m->track_srcu);
	struct kvm_pin *pin;

	do {
		mutex_lock(&m->slots_arch_lock);
		pin = m->pins;
		while (pin && ((uint64_t)pin->host >= hi || (uint64_t)pin->host + pin->len <= lo))
			pin = pin->next;
		if (pin)
			unlink_pin(m, pin);
		mutex_unlock(&m->slots_arch_lock);
		if (pin && pin->removed)
			pin->removed(pin);
	} while (pin);
	srcu_read_unlock(&m->track_srcu, idx);
}
