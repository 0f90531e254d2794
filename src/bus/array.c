/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The arrays: copy, change, publish, wait or defer, free. A reader that entered its section before a change
 * sees the whole old array, one that entered after it sees the new one (systems.md C1..C6).
 */
#include "bus/set.h"

#define FIRST_CAP 8

/* -- Accessors: who may look at the published array, and why it stays -- */

struct bus_array *bus_array_reader(struct bus_set *b, enum bus_kind kind)
{
#ifdef USERKVM_CHECKED
	base_bug_on(!srcu_read_held(b->srcu));
#endif
	/* Pairs with publish(); the fence in srcu_read_lock orders it after what the guest has seen. */
	return srcu_dereference(b->array[kind]);
}

struct bus_array *bus_array_updater(struct bus_set *b, enum bus_kind kind)
{
	lock_assert_held(b->slots_lock);
	return atomic_load_explicit(&b->array[kind], memory_order_relaxed);
}

struct bus_array *bus_array_teardown(struct bus_set *b, enum bus_kind kind)
{
	lock_assert_teardown(b->slots_lock);
	return atomic_load_explicit(&b->array[kind], memory_order_relaxed);
}

/* -- Reading -- */

/* True if the access lies in the range; a range of length 0 takes any access that begins at its address. */
static bool covers(const struct bus_range *r, uint64_t addr, uint64_t last)
{
	if (!r->len)
		return r->addr == addr;
	return r->addr <= addr && last >= addr && last - r->addr < r->len;
}

unsigned bus_array_at(const struct bus_array *a, uint64_t addr)
{
	unsigned lo = 0, hi = a->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (a->r[mid].addr < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Finds [*from, *to): every range that may cover the access is among these. */
static void candidates(const struct bus_array *a, uint64_t addr, uint64_t last, unsigned *from, unsigned *to)
{
	unsigned lo = 0, hi = a->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (a->r[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	*to = lo;
	while (lo > 0 && (a->r[lo - 1].addr == addr || a->r[lo - 1].reach >= last))
		lo--;
	*from = lo;
}

int bus_read(struct bus_set *b, enum bus_kind kind, uint64_t addr, unsigned len, void *val)
{
	const struct bus_array *a = bus_array_reader(b, kind);
	uint64_t last = addr + (len ? len - 1 : 0);
	unsigned i, to;

	if (!a)
		return -EOPNOTSUPP;
	for (candidates(a, addr, last, &i, &to); i < to; i++) {
		struct bus_device *dev = a->r[i].dev;

		if (covers(&a->r[i], addr, last) && dev->ops->read && !dev->ops->read(dev, addr, len, val))
			return 0;
	}
	return -EOPNOTSUPP;
}

int bus_write(struct bus_set *b, enum bus_kind kind, uint64_t addr, unsigned len, const void *val)
{
	const struct bus_array *a = bus_array_reader(b, kind);
	uint64_t last = addr + (len ? len - 1 : 0);
	unsigned i, to;

	if (!a)
		return -EOPNOTSUPP;
	for (candidates(a, addr, last, &i, &to); i < to; i++) {
		struct bus_device *dev = a->r[i].dev;

		if (covers(&a->r[i], addr, last) && dev->ops->write && !dev->ops->write(dev, addr, len, val))
			return 0;
	}
	return -EOPNOTSUPP;
}

/* -- The filter: most accesses are nobody's, and so the VMM's -- */

static unsigned granule_shift(enum bus_kind kind)
{
	return kind == BUS_PIO ? 4 : PAGE_SHIFT;
}

/* The bit of a granule. */
static unsigned granule_bit(uint64_t granule)
{
	return (granule ^ granule >> 8 ^ granule >> 16) & (BUS_FILTER - 1);
}

bool bus_may_claim(const struct bus_set *b, enum bus_kind kind, uint64_t addr)
{
	unsigned bit = granule_bit(addr >> granule_shift(kind));

	/* Set before the array is published; pairs with bus_insert. */
	return atomic_load_explicit(&b->filter[kind][bit / 64], memory_order_acquire) & BIT(bit % 64);
}

static void filter_add(uint64_t filter[BUS_FILTER / 64], enum bus_kind kind, const struct bus_range *r)
{
	unsigned shift = granule_shift(kind);
	uint64_t first = r->addr >> shift, n = r->len ? ((r->addr + r->len - 1) >> shift) - first + 1 : 1;

	if (n >= BUS_FILTER || r->len > UINT64_MAX - r->addr) {
		memset(filter, 0xff, BUS_FILTER / 8);
		return;
	}
	for (uint64_t g = first; g < first + n; g++)
		filter[granule_bit(g) / 64] |= BIT(granule_bit(g) % 64);
}

/* Makes the filter what the array says. Bits appear before the array is published and go after that. */
static void filter_set(struct bus_set *b, enum bus_kind kind, const struct bus_array *a)
{
	uint64_t filter[BUS_FILTER / 64] = {0};

	for (unsigned i = 0; i < a->n; i++)
		filter_add(filter, kind, &a->r[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(filter); i++)
		atomic_store(&b->filter[kind][i], filter[i]);
}

/* -- Updating -- */

static struct bus_array *array_alloc(unsigned cap)
{
	struct bus_array *a = base_zalloc(sizeof(*a) + cap * sizeof(a->r[0]));

	if (a)
		a->cap = cap;
	return a;
}

static void array_free(struct srcu_head *head)
{
	base_free(container_of(head, struct bus_array, head));
}

/* Appends one range to an array under construction and extends the reach. */
static void append(struct bus_array *a, const struct bus_range *r)
{
	struct bus_range *new = &a->r[a->n];
	uint64_t reach = a->n ? new[-1].reach : 0;

	*new = *r;
	if (r->len)
		reach = MAX(reach, r->len - 1 > UINT64_MAX - r->addr ? UINT64_MAX : r->addr + r->len - 1);
	new->reach = reach;
	a->n++;
}

/* True if the existing range is offered an access before a new one. */
static bool goes_before(const struct bus_range *old, const struct bus_range *new)
{
	if (old->addr != new->addr)
		return old->addr < new->addr;
	return !new->len || old->len <= new->len;
}

/* Fills `to` with the ranges of `from` (which may be NULL) and the new one, in order. */
static void copy_with(struct bus_array *to, const struct bus_array *from, const struct bus_range *new)
{
	unsigned i = 0, n = from ? from->n : 0;

	if (from)
		i = bus_array_at(from, new->addr);
	while (i < n && goes_before(&from->r[i], new))
		i++;
	if (i) { /* what lies before keeps its reach */
		memcpy(to->r, from->r, i * sizeof(to->r[0]));
		to->n = i;
	}
	append(to, new);
	while (i < n)
		append(to, &from->r[i++]);
	to->doorbells = (from ? from->doorbells : 0) + new->doorbell;
}

int bus_insert(struct bus_set *b, enum bus_kind kind, uint64_t addr, uint64_t len, struct bus_device *dev,
	       bool doorbell)
{
	struct bus_array *old = bus_array_updater(b, kind);
	const struct bus_range r = {.addr = addr, .len = len, .dev = dev, .doorbell = doorbell};
	unsigned n = old ? old->n : 0, cap = old ? old->cap : FIRST_CAP;
	struct bus_array *new, *spare = NULL;

	if (!doorbell && old && old->n - old->doorbells >= BUS_MAX_DEVICES)
		return -ENOSPC;
	if (n == cap)
		cap *= 2;
	new = array_alloc(cap);
	if (!new)
		return -ENOMEM;
	if (!b->spare[kind] || b->spare[kind]->cap < cap) {
		spare = array_alloc(cap);
		if (!spare) {
			base_free(new);
			return -ENOMEM;
		}
	}
	if (spare) {
		base_free(b->spare[kind]);
		b->spare[kind] = spare;
	}
	copy_with(new, old, &r);
	filter_set(b, kind, new);
	srcu_assign(b->array[kind], new); /* pairs with bus_array_reader */
	if (old)
		srcu_call(b->srcu, &old->head, array_free);
	return 0;
}

int bus_register(struct bus_set *b, enum bus_kind kind, uint64_t addr, uint64_t len, struct bus_device *dev)
{
	return bus_insert(b, kind, addr, len, dev, false);
}

int bus_unregister(struct bus_set *b, enum bus_kind kind, struct bus_device *dev)
{
	struct bus_array *old = bus_array_updater(b, kind), *new = b->spare[kind];
	unsigned i, at = 0;

	while (old && at < old->n && old->r[at].dev != dev)
		at++;
	if (!old || at == old->n)
		return -ENOENT;
	memcpy(new->r, old->r, at * sizeof(new->r[0]));
	new->n = at;
	for (i = at + 1; i < old->n; i++)
		append(new, &old->r[i]);
	new->doorbells = old->doorbells - old->r[at].doorbell;
	srcu_assign(b->array[kind], new); /* pairs with bus_array_reader */
	filter_set(b, kind, new);
	srcu_synchronize(b->srcu);
	b->spare[kind] = old; /* as large as new: the next unregister cannot fail either */
	if (dev->ops->destroy)
		dev->ops->destroy(dev);
	return 0;
}

/* -- Life -- */

int bus_create(struct bus_set **out, struct srcu *srcu, struct mutex *slots_lock)
{
	struct bus_set *b = base_zalloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->srcu = srcu;
	b->slots_lock = slots_lock;
	spin_init(&b->ring_lock, LOCK_RING);
	*out = b;
	return 0;
}

void bus_destroy(struct bus_set *b)
{
	unsigned kind, i;

	if (!b)
		return;
	for (kind = 0; kind < BUS_KINDS; kind++) {
		struct bus_array *a = bus_array_teardown(b, kind);

		for (i = 0; a && i < a->n; i++)
			if (a->r[i].dev->ops->destroy)
				a->r[i].dev->ops->destroy(a->r[i].dev);
		base_free(a);
		base_free(b->spare[kind]);
	}
	base_free(b);
}
