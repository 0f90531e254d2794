/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The slots of a set by host address: what a munmap or madvise of the VMM's asks, once for each VM and call. (KVM:
 * hva_tree.) A treap whose nodes live in the slots, one for each of the two sets, so that an edit needs no memory; a
 * node knows the highest end of the host ranges below it. Several slots may show the same host memory.
 */
#include "mem/slot.h"

static uint64_t start(const struct slot *s)
{
	return (uint64_t)s->hva;
}

static uint64_t end(const struct slot *s)
{
	return (uint64_t)s->hva + (s->npages << PAGE_SHIFT);
}

static bool before(const struct slot *a, const struct slot *b)
{
	return start(a) != start(b) ? start(a) < start(b) : a->uid < b->uid;
}

/* A tree's shape: as random as the hash of a counter is. */
static uint64_t rank(const struct slot *s)
{
	uint64_t x = s->uid * 0x9e3779b97f4a7c15;

	return (x ^ x >> 29) * 0xbf58476d1ce4e5b9;
}

static struct slot *with_max(struct slot *t, unsigned w)
{
	struct slot_hva *n = &t->by_hva[w];

	n->max = end(t);
	if (n->left)
		n->max = MAX(n->max, n->left->by_hva[w].max);
	if (n->right)
		n->max = MAX(n->max, n->right->by_hva[w].max);
	return t;
}

/* All of a lies before all of b. */
static struct slot *join(struct slot *a, struct slot *b, unsigned w)
{
	if (!a || !b)
		return a ? a : b;
	if (rank(a) > rank(b)) {
		a->by_hva[w].right = join(a->by_hva[w].right, b, w);
		return with_max(a, w);
	}
	b->by_hva[w].left = join(a, b->by_hva[w].left, w);
	return with_max(b, w);
}

/* Parts t into what lies before s and the rest. */
static void part(struct slot *t, const struct slot *s, unsigned w, struct slot **lo, struct slot **hi)
{
	if (!t) {
		*lo = *hi = NULL;
	} else if (before(t, s)) {
		part(t->by_hva[w].right, s, w, &t->by_hva[w].right, hi);
		*lo = with_max(t, w);
	} else {
		part(t->by_hva[w].left, s, w, lo, &t->by_hva[w].left);
		*hi = with_max(t, w);
	}
}

static struct slot *take_out(struct slot *t, const struct slot *s, unsigned w)
{
	struct slot_hva *n = &t->by_hva[w];

	if (t == s)
		return join(n->left, n->right, w);
	if (before(s, t))
		n->left = take_out(n->left, s, w);
	else
		n->right = take_out(n->right, s, w);
	return with_max(t, w);
}

void slot_hva_insert(struct slot_set *set, struct slot *s)
{
	struct slot *lo, *hi;
	unsigned w = set->which;

	s->by_hva[w] = (struct slot_hva){.max = end(s)};
	part(set->by_hva, s, w, &lo, &hi);
	set->by_hva = join(join(lo, s, w), hi, w);
}

void slot_hva_remove(struct slot_set *set, const struct slot *s)
{
	set->by_hva = take_out(set->by_hva, s, set->which);
}

bool slot_set_shows(const struct slot_set *set, uint64_t lo, uint64_t hi)
{
	const struct slot *t = set->by_hva;

	while (t && (start(t) >= hi || end(t) <= lo)) {
		const struct slot_hva *n = &t->by_hva[set->which];

		/* Where the left side reaches beyond lo and yet misses the range, the right side begins behind it. */
		t = n->left && n->left->by_hva[set->which].max > lo ? n->left : n->right;
	}
	return t;
}
