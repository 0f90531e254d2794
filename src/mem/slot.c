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
	hva_add(s);
	return s;
}

void slot_free(struct slot *s)
{
	if (!s)
		return;
	hva_del(s);
	base_free((void *)atomic_load(&s->log));
	base_free((void *)atomic_load(&s->sptes));
	base_free((void *)atomic_load(&s->track));
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

struct slot_set *slot_set_create(unsigned capacity, unsigned which)
{
	struct slot_set *set = base_zalloc(sizeof(*set) + capacity * sizeof(set->slots[0]));

	if (set) {
		set->capacity = capacity;
		set->which = which;
	}
	return set;
}

struct slot_set *slot_set_replace(struct slot_set *to, struct slot_set *from)
{
	to->n = from->n;
	to->which = from->which;
	to->by_hva = from->by_hva;
	memcpy(to->slots, from->slots, from->n * sizeof(to->slots[0]));
	base_free(from);
	return to;
}

void slot_set_edit(struct slot_set *set, const struct slot *out, struct slot *in)
{
	unsigned i;

	if (out) {
		i = lower_bound(set, out->base_gfn);
		base_bug_on(i == set->n || set->slots[i] != out);
		set->n--;
		memmove(&set->slots[i], &set->slots[i + 1], (set->n - i) * sizeof(set->slots[0]));
		slot_hva_remove(set, out);
	}
	if (in) {
		i = lower_bound(set, in->base_gfn);
		base_bug_on(set->n == set->capacity);
		memmove(&set->slots[i + 1], &set->slots[i], (set->n++ - i) * sizeof(set->slots[0]));
		set->slots[i] = in;
		slot_hva_insert(set, in);
	}
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
	struct slot_set *set = srcu_dereference(m->active[as]);
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
	*out = (slot & 0xffff) < m->nr_ids[slot >> 16] ? m->by_id[slot >> 16][slot & 0xffff] : NULL;
	return 0;
}

int slot_reserve_id(struct mem *m, uint32_t slot)
{
	unsigned as = slot >> 16, id = slot & 0xffff, old = m->nr_ids[as], n = old;
	struct slot **table;

	if (id < old)
		return 0;
	while (n <= id)
		n *= 2;
	table = base_zalloc(n * sizeof(struct slot *));
	if (!table)
		return -ENOMEM;
	memcpy(table, m->by_id[as], old * sizeof(struct slot *));
	base_free(m->by_id[as]);
	m->by_id[as] = table;
	m->nr_ids[as] = n;
	return 0;
}

/* -- Arch data -- */

_Atomic uint64_t *slot_sptes(struct mem *m, struct slot *s)
{
	_Atomic uint64_t *sptes = atomic_load(&s->sptes);

	if (likely(sptes))
		return sptes;
	mutex_lock(&m->slots_arch_lock);
	sptes = atomic_load(&s->sptes);
	if (!sptes) {
		sptes = base_zalloc(s->npages * sizeof(*sptes));
		atomic_store(&s->sptes, sptes);
	}
	mutex_unlock(&m->slots_arch_lock);
	return sptes;
}

/* -- The object -- */

#define FIRST_CAPACITY 16 /* of a set */
#define FIRST_IDS      16 /* of a table of ids */

int mem_create(struct mem **out, const struct mem_port *port, void *ctx, struct srcu *srcu,
	       struct mutex *slots_lock)
{
	struct mem *m = base_zalloc(sizeof(*m));

	if (!m)
		return -ENOMEM;
	*m = (struct mem){.port = port, .ctx = ctx, .srcu = srcu, .slots_lock = slots_lock};
	spin_init(&m->access_lock, LOCK_INVALIDATE);
	mutex_init(&m->slots_arch_lock, LOCK_SLOTS_ARCH);
	if (srcu_init(&m->track_srcu, LOCK_SRCU_TRACK)) {
		base_free(m);
		return -ENOMEM;
	}
	for (unsigned as = 0; as < MEM_ADDRESS_SPACES; as++) {
		struct slot_set *active = slot_set_create(FIRST_CAPACITY, 0);

		atomic_store(&m->active[as], active);
		m->inactive[as] = slot_set_create(FIRST_CAPACITY, 1);
		m->by_id[as] = base_zalloc(FIRST_IDS * sizeof(struct slot *));
		m->nr_ids[as] = FIRST_IDS;
		if (!active || !m->inactive[as] || !m->by_id[as]) {
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
	base_bug_on(atomic_load(&m->track_nodes));
	for (unsigned as = 0; as < MEM_ADDRESS_SPACES; as++) {
		struct slot_set *set = atomic_load(&m->active[as]);

		for (unsigned i = 0; set && i < set->n; i++)
			slot_free(set->slots[i]);
		base_free(set);
		base_free(m->inactive[as]);
		base_free(m->by_id[as]);
	}
	srcu_cleanup(&m->track_srcu);
	base_free(m);
}

uint64_t mem_generation(const struct mem *m)
{
	return atomic_load(&m->generation);
}
