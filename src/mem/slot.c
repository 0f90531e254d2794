/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slots, sets of slots, and the object that holds them. */
#include "mem/slot.h"

static _Atomic uint64_t next_uid = 1;

/* -- Slots -- */

struct slot *slot_create(const struct kvm_userspace_memory_region *r)
{
	struct slot *s = base_zalloc(sizeof(*s));

	if (!s)
		return NULL;
	s->base_gfn = r->guest_phys_addr >> PAGE_SHIFT;
	s->npages = r->memory_size >> PAGE_SHIFT;
	s->hva = (uint8_t *)r->userspace_addr;
	s->uid = atomic_fetch_add(&next_uid, 1);
	s->id = r->slot & 0xffff;
	s->as = r->slot >> 16;
	s->readonly = r->flags & KVM_MEM_READONLY;
	atomic_store(&s->gen, 1);
	s->sptes = base_zalloc(s->npages * sizeof(*s->sptes));
	if (!s->sptes) {
		base_free(s);
		return NULL;
	}
	return s;
}

void slot_free(struct slot *s)
{
	if (!s)
		return;
	base_free((void *)atomic_load(&s->log));
	base_free((void *)s->sptes);
	base_free(s);
}

_Atomic uint64_t *slot_log_create(const struct slot *s, bool all_set)
{
	uint64_t words = slot_words(s);
	_Atomic uint64_t *log = base_zalloc(2 * words * sizeof(*log));

	if (!log || !all_set)
		return log;
	for (uint64_t i = 0; i < words; i++)
		atomic_store_explicit(&log[i], UINT64_MAX, memory_order_relaxed);
	if (s->npages % 64)
		atomic_store_explicit(&log[words - 1], BIT(s->npages % 64) - 1, memory_order_relaxed);
	return log;
}

/* -- Sets -- */

/* The first index whose slot ends behind gfn. */
static unsigned lower_bound(const struct slot_set *set, uint64_t gfn)
{
	unsigned lo = 0, hi = set->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct slot *s = set->slots[mid];

		if (s->base_gfn + s->npages <= gfn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Appends a slot to a set being built in order. */
static void append(struct slot_set *set, struct slot *s)
{
	uint64_t lo = (uint64_t)s->hva, hi = lo + (s->npages << PAGE_SHIFT);

	set->hva_lo = set->n ? MIN(set->hva_lo, lo) : lo;
	set->hva_hi = set->n ? MAX(set->hva_hi, hi) : hi;
	set->slots[set->n++] = s;
}

struct slot_set *slot_set_copy(const struct slot_set *from, const struct slot *out, struct slot *in)
{
	struct slot_set *set = base_zalloc(sizeof(*set) + (from->n + 1) * sizeof(set->slots[0]));

	if (!set)
		return NULL;
	for (unsigned i = 0; i < from->n; i++) {
		if (from->slots[i] == out)
			continue;
		if (in && in->base_gfn < from->slots[i]->base_gfn) {
			append(set, in);
			in = NULL;
		}
		append(set, from->slots[i]);
	}
	if (in)
		append(set, in);
	return set;
}

bool slot_set_overlaps(const struct slot_set *set, uint64_t base, uint64_t npages, const struct slot *but)
{
	for (unsigned i = lower_bound(set, base); i < set->n; i++) {
		const struct slot *s = set->slots[i];

		if (s->base_gfn >= base + npages)
			return false;
		if (s != but)
			return true;
	}
	return false;
}

struct slot *slot_find(const struct mem *m, unsigned as, uint64_t gfn)
{
	struct slot_set *set = srcu_dereference(m->sets[as]);
	unsigned i = atomic_load_explicit(&set->hint, memory_order_relaxed);

	if (i < set->n && gfn - set->slots[i]->base_gfn < set->slots[i]->npages)
		return set->slots[i];
	i = lower_bound(set, gfn);
	if (i == set->n || gfn < set->slots[i]->base_gfn)
		return NULL;
	atomic_store_explicit(&set->hint, i, memory_order_relaxed);
	return set->slots[i];
}

int slot_by_id(const struct mem *m, uint32_t slot, struct slot **out)
{
	if (slot >> 16 >= MEM_ADDRESS_SPACES || (slot & 0xffff) >= MEM_USER_SLOTS)
		return -EINVAL;
	*out = m->by_id[slot >> 16][slot & 0xffff];
	return 0;
}

/* -- The object -- */

int mem_create(struct mem **out, const struct mem_port *port, void *ctx, struct srcu *srcu,
	       struct mutex *slots_lock)
{
	struct mem *m = base_zalloc(sizeof(*m));

	if (!m)
		return -ENOMEM;
	*m = (struct mem){.port = port, .ctx = ctx, .srcu = srcu, .slots_lock = slots_lock};
	spin_init(&m->invalidate_lock, LOCK_INVALIDATE);
	for (unsigned as = 0; as < MEM_ADDRESS_SPACES; as++) {
		struct slot_set *empty = base_zalloc(sizeof(*empty));

		atomic_store(&m->sets[as], empty);
		m->by_id[as] = base_zalloc(MEM_USER_SLOTS * sizeof(*m->by_id[as]));
		if (!empty || !m->by_id[as]) {
			mem_destroy(m);
			return -ENOMEM;
		}
	}
	*out = m;
	return 0;
}

void mem_destroy(struct mem *m)
{
	if (!m)
		return;
	for (unsigned as = 0; as < MEM_ADDRESS_SPACES; as++) {
		struct slot_set *set = atomic_load(&m->sets[as]);

		for (unsigned i = 0; set && i < set->n; i++)
			slot_free(set->slots[i]);
		base_free(set);
		base_free(m->by_id[as]);
	}
	base_free(m);
}

uint64_t mem_generation(const struct mem *m)
{
	return atomic_load(&m->generation);
}
