/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Write tracking: drivers that want to see what guests write (systems.md B9). A slot counts the wishes for each
 * of its pages; while there is one, mem_fill hands the page out for one write at a time, which its maker tells
 * when the bytes are in memory. The nodes are a list that is read under an SRCU domain of its own, so that a
 * node's functions may sleep without holding up memslots, and unregistering waits for them alone.
 */
#include "mem/slot.h"

/* -- Nodes -- */

void mem_track_register(struct mem *m, struct kvm_track *node)
{
	mutex_lock(&m->slots_arch_lock);
	atomic_store(&node->next, atomic_load(&m->track_nodes));
	srcu_assign(m->track_nodes, node);
	mutex_unlock(&m->slots_arch_lock);
}

/* Takes a node from the list; false if it is not there. The list stays whole for those who stand on it. */
static bool unlink_node(struct mem *m, struct kvm_track *node)
{
	_Atomic(struct kvm_track *) *at = &m->track_nodes;
	struct kvm_track *n;

	while ((n = atomic_load(at)) && n != node)
		at = &n->next;
	if (!n)
		return false;
	srcu_assign(*at, atomic_load(&n->next));
	return true;
}

void mem_track_unregister(struct mem *m, struct kvm_track *node)
{
	bool found;

	mutex_lock(&m->slots_arch_lock);
	found = unlink_node(m, node);
	mutex_unlock(&m->slots_arch_lock);
	base_bug_on(!found);
	srcu_synchronize(&m->track_srcu);
}

/* -- Counts -- */

/* The count of a gfn, attached to its slot if it was not; NULL without a slot (-EINVAL) or memory. Inside an
 * srcu section, slots_arch_lock held. */
static _Atomic uint16_t *count_of(struct mem *m, uint64_t gfn, struct slot **slot, int *err)
{
	struct slot *s = slot_find(m, 0, gfn);
	_Atomic uint16_t *track;

	*err = -EINVAL;
	*slot = s;
	if (!s || atomic_load(&s->invalid))
		return NULL;
	track = atomic_load(&s->track);
	if (!track) {
		track = base_zalloc(s->npages * sizeof(*track));
		atomic_store(&s->track, track);
	}
	*err = track ? 0 : -ENOMEM;
	return track ? &track[gfn - s->base_gfn] : NULL;
}

/* Changes a count by one; true in *first if it left zero. */
static int change_count(struct mem *m, uint64_t gfn, int by, bool *first)
{
	_Atomic uint16_t *count;
	struct slot *s;
	int r, n;

	mutex_lock(&m->slots_arch_lock);
	count = count_of(m, gfn, &s, &r);
	n = count ? atomic_load(count) + by : 0;
	if (count && (n < 0 || n > UINT16_MAX)) {
		base_bug_on(true);
		r = -EINVAL;
	}
	*first = !r && by > 0 && n == 1;
	if (!r) {
		atomic_store(count, (uint16_t)n);
		if (*first || n == 0) {
			s->tracked += (uint64_t)(int64_t)by;
			atomic_fetch_add(&m->tracked, (uint64_t)(int64_t)by);
		}
	}
	mutex_unlock(&m->slots_arch_lock);
	return r;
}

int mem_track_add(struct mem *m, uint64_t gfn)
{
	int idx = srcu_read_lock(m->srcu), r;
	bool first;

	r = change_count(m, gfn, 1, &first);
	srcu_read_unlock(m->srcu, idx);
	if (first)
		mem_revoke(m);
	return r;
}

int mem_track_del(struct mem *m, uint64_t gfn)
{
	int idx = srcu_read_lock(m->srcu), r;
	bool first;

	r = change_count(m, gfn, -1, &first);
	srcu_read_unlock(m->srcu, idx);
	return r;
}

/* -- Telling -- */

void mem_track_told(struct mem *m, uint64_t gpa, const void *data, unsigned len)
{
	int idx = srcu_read_lock(&m->track_srcu);

	for (struct kvm_track *n = srcu_dereference(m->track_nodes); n; n = srcu_dereference(n->next))
		if (n->write)
			n->write(n, gpa, data, len);
	srcu_read_unlock(&m->track_srcu, idx);
}

/* True if the page is tracked now. */
static bool gfn_tracked(struct mem *m, uint64_t gfn)
{
	int idx = srcu_read_lock(m->srcu);
	struct slot *s = slot_find(m, 0, gfn);
	bool tracked = s && slot_tracked(s, gfn - s->base_gfn);

	srcu_read_unlock(m->srcu, idx);
	return tracked;
}

void track_wrote(struct mem *m, unsigned as, uint64_t gpa, const void *data, size_t len)
{
	unsigned n;

	if (likely(!atomic_load(&m->tracked)) || as)
		return;
	for (; len; gpa += n, data = (const char *)data + n, len -= n) {
		n = (unsigned)MIN(len, (size_t)(PAGE_SIZE - (gpa & PAGE_OFFSET_MASK)));
		if (gfn_tracked(m, gpa >> PAGE_SHIFT))
			mem_track_told(m, gpa, data, n);
	}
}

void track_slot_gone(struct mem *m, struct slot *s)
{
	int idx;

	pins_end(m, (uint64_t)s->hva, (uint64_t)s->hva + (s->npages << PAGE_SHIFT));
	if (likely(!s->tracked))
		return;
	atomic_fetch_sub(&m->tracked, s->tracked);
	idx = srcu_read_lock(&m->track_srcu);
	for (struct kvm_track *n = srcu_dereference(m->track_nodes); n; n = srcu_dereference(n->next))
		if (n->removed)
			n->removed(n, s->base_gfn, s->npages);
	srcu_read_unlock(&m->track_srcu, idx);
}
