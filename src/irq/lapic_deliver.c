/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages to LAPICs: who is meant, and what taking one does. Destinations are found through a map from id
 * to LAPIC, an immutable table swapped whole; what the map finds is checked against the LAPIC itself, so a
 * map that is a moment old sends nothing to the wrong one. Broadcasts and logical xAPIC destinations ask
 * every LAPIC.
 */
#include "irq/lapic.h"

#define XAPIC_BROADCAST	 0xffu
#define X2APIC_BROADCAST 0xffffffffu
#define DFR_FLAT	 0xfu
#define DFR_CLUSTER	 0x0u

struct apic_map {
	struct srcu_head head;
	bool all_x2apic;
	bool ambiguous; /* two LAPICs claim one id */
	uint32_t max_id;
	struct lapic *id[];
};

/* -- Taking a message -- */

/* Requests the vector of a fixed interrupt. Any thread. */
static int accept_vector(struct lapic *l, const struct irq_msg *m)
{
	if (m->level && !m->asserted)
		return 0;
	if (!lapic_hw_enabled(l) || !(lapic_reg(l, APIC_SPIV) & SPIV_ENABLED))
		return 0;
	if (m->vector < 16) {
		lapic_error(l, ESR_RECV_VECTOR);
		return 0;
	}
	if (lapic_bit(l, APIC_TMR, m->vector) != m->level) {
		if (m->level)
			lapic_bit_set(l, APIC_TMR, m->vector);
		else
			lapic_bit_clear(l, APIC_TMR, m->vector);
	}
	/* Whoever finds the bit set leaves the kick to the one who set it, but for a tick says less than others do. */
	if (!lapic_bit_set(l, APIC_IRR, m->vector) ||
	    (!m->tick && m->vector == (lapic_reg(l, APIC_LVTT) & 0xff)))
		(m->tick ? l->vm->port->tick : l->vm->port->kick)(l->vcpu);
	return 1;
}

int lapic_accept(struct lapic *l, const struct irq_msg *m)
{
	const struct irq_port *port = l->vm->port;

	switch (m->mode) {
	case DM_FIXED:
	case DM_LOWEST: return accept_vector(l, m);
	case DM_SMI: port->request(l->vcpu, IRQ_REQ_SMI, 0); return 1;
	case DM_NMI: port->request(l->vcpu, IRQ_REQ_NMI, 0); return 1;
	case DM_INIT:
		if (m->level && !m->asserted) /* de-assert: only the arbitration ids of old hardware cared */
			return 0;
		port->request(l->vcpu, IRQ_REQ_INIT, 0);
		return 1;
	case DM_STARTUP: port->request(l->vcpu, IRQ_REQ_SIPI, m->vector); return 1;
	default: return 0; /* ExtINT comes by wire from the PIC, remote read is gone */
	}
}

int lapic_local_deliver(struct lapic *l, unsigned lvt)
{
	uint32_t v;

	if (lvt == APIC_LVTCMCI ? !l->cmci : lvt < APIC_LVTT || lvt > APIC_LVTERR)
		return 0;
	if (!lapic_hw_enabled(l))
		return 0;
	v = lapic_reg(l, lvt);
	if (v & LVT_MASKED)
		return 0;
	if (lvt == APIC_LVTPC) /* a performance interrupt masks itself (SDM 3A 11.5.1) */
		lapic_put(l, lvt, v | LVT_MASKED);
	return lapic_accept(l, &(struct irq_msg){
				   .vector = v,
				   .mode = lvt == APIC_LVTT || lvt == APIC_LVTERR ? DM_FIXED : LVT_MODE(v),
				   .level = v & LVT_LEVEL,
				   .asserted = true,
			       });
}

int lapic_interrupt(struct lapic *l, uint8_t vector)
{
	return accept_vector(l, &(struct irq_msg){.vector = vector, .mode = DM_FIXED, .asserted = true});
}

/* -- Who is meant -- */

static bool no_broadcast_quirk(const struct irq_vm *v)
{
	return atomic_load_explicit(&v->x2apic_api, memory_order_relaxed) & X2APIC_NO_BROADCAST;
}

static bool matches_physical(const struct lapic *l, uint32_t dest)
{
	if (dest == (lapic_x2apic(l) ? X2APIC_BROADCAST : XAPIC_BROADCAST))
		return true;
	/* An id that xAPIC cannot express reaches its vCPU in either mode. */
	if (lapic_x2apic(l) || dest > 0xff)
		return dest == l->id;
	return dest == lapic_reg(l, APIC_ID) >> 24;
}

static bool matches_logical(const struct lapic *l, uint32_t dest)
{
	uint32_t ldr = lapic_reg(l, APIC_LDR);

	if (lapic_x2apic(l))
		return dest == X2APIC_BROADCAST || (ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff));
	if (dest == XAPIC_BROADCAST)
		return true;
	ldr >>= 24;
	switch (lapic_reg(l, APIC_DFR) >> 28) {
	case DFR_FLAT: return (ldr & dest) != 0;
	case DFR_CLUSTER: return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf);
	default: return false;
	}
}

bool irq_dest_matches(const struct lapic *src, const struct lapic *l, const struct irq_msg *m)
{
	uint32_t dest = m->dest;

	switch (m->to) {
	case TO_SELF: return l == src;
	case TO_ALL: return true;
	case TO_OTHERS: return l != src;
	default: break;
	}
	/* 0xff from a device is everybody, x2APIC or not, unless the VMM said that it knows better. */
	if (!src && dest == XAPIC_BROADCAST && lapic_x2apic(l) && !no_broadcast_quirk(l->vm))
		dest = X2APIC_BROADCAST;
	return m->logical ? matches_logical(l, dest) : matches_physical(l, dest);
}

/* True if the destination may mean everybody, so that the map is of no use. */
static bool is_broadcast(const struct irq_vm *v, const struct lapic *src, const struct irq_msg *m,
			 const struct apic_map *map)
{
	if (m->dest == X2APIC_BROADCAST)
		return true;
	if (no_broadcast_quirk(v))
		return m->dest == XAPIC_BROADCAST && !map->all_x2apic;
	return m->dest == XAPIC_BROADCAST && !(src && lapic_x2apic(src));
}

/* A walk over the destinations of one message, in three small steps: begin, candidate, next. */
struct walk {
	struct irq_vm *v;
	struct lapic *src;
	const struct irq_msg *m;
	const struct apic_map *map;
	enum { WALK_ALL, WALK_ONE, WALK_CLUSTER } kind;
	uint32_t at, end;
};

static void walk_begin(struct walk *w)
{
	w->map = srcu_dereference(w->v->map);
	w->kind = WALK_ALL;
	w->at = 0;
	w->end = atomic_load_explicit(&w->v->nr_slots, memory_order_acquire);
	if (w->m->to != TO_DEST || !w->map || w->map->ambiguous || is_broadcast(w->v, w->src, w->m, w->map))
		return;
	if (!w->m->logical) {
		w->kind = WALK_ONE;
		w->end = 1;
	} else if (w->map->all_x2apic) {
		w->kind = WALK_CLUSTER;
		w->end = 16;
	}
}

static struct lapic *by_id(const struct apic_map *map, uint32_t id)
{
	return id <= map->max_id ? map->id[id] : NULL;
}

/* The LAPIC at the walk's position, meant or not; may be NULL. */
static struct lapic *walk_candidate(const struct walk *w)
{
	switch (w->kind) {
	case WALK_ONE: return by_id(w->map, w->m->dest);
	case WALK_CLUSTER:
		return w->m->dest >> w->at & 1 ? by_id(w->map, (w->m->dest >> 16) << 4 | w->at) : NULL;
	default: return atomic_load_explicit(&w->v->lapics[w->at], memory_order_acquire);
	}
}

/* The next LAPIC that is meant, or NULL at the end. */
static struct lapic *walk_next(struct walk *w)
{
	while (w->at < w->end) {
		struct lapic *l = walk_candidate(w);

		w->at++;
		if (l && lapic_hw_enabled(l) && irq_dest_matches(w->src, l, w->m))
			return l;
	}
	return NULL;
}

static int take(struct lapic *l, const struct irq_msg *m, struct irq_dests *reached)
{
	int r = lapic_accept(l, m);

	if (r && reached)
		reached->slot[l->slot / 64] |= 1ULL << (l->slot % 64);
	return r;
}

/* Lowest priority: one of the enabled destinations, chosen by the vector, so that a source stays put. */
static int deliver_to_one(struct walk *w, struct irq_dests *reached)
{
	struct lapic *l, *last = NULL;
	unsigned n = 0, pick;

	for (walk_begin(w); (l = walk_next(w));)
		n += lapic_sw_enabled(l);
	if (!n)
		return w->kind == WALK_ALL ? -1 : 0;
	pick = w->m->vector % n;
	for (walk_begin(w); (l = walk_next(w));) {
		if (!lapic_sw_enabled(l))
			continue;
		last = l;
		if (!pick--)
			break;
	}
	return last ? take(last, w->m, reached) : 0;
}

int irq_deliver(struct irq_vm *v, struct lapic *src, const struct irq_msg *m, struct irq_dests *reached)
{
	struct walk w = {.v = v, .src = src, .m = m};
	struct lapic *l;
	int r;

	if (m->to == TO_SELF)
		return src ? take(src, m, reached) : -1;
	if ((m->mode == DM_LOWEST || m->hint) && m->to == TO_DEST && (m->logical || m->hint))
		return deliver_to_one(&w, reached);
	walk_begin(&w);
	/* A known id that nobody has is a message lost; "nobody at all" is told apart, as KVM does. */
	r = w.kind == WALK_ALL ? -1 : 0;
	while ((l = walk_next(&w)))
		r = MAX(r, 0) + take(l, m, reached);
	return r;
}

/* -- The map -- */

/* The id under which l is found by a physical destination. */
static uint32_t map_id(const struct lapic *l)
{
	if (lapic_x2apic(l) || l->id > 0xff)
		return l->id;
	return lapic_reg(l, APIC_ID) >> 24;
}

/* A new map of the LAPICs that are enabled; NULL without memory. map_lock held. */
static struct apic_map *map_build(struct irq_vm *v)
{
	unsigned i, n = atomic_load_explicit(&v->nr_slots, memory_order_relaxed);
	struct apic_map *map;
	uint32_t max = 0;

	for (i = 0; i < n; i++) {
		struct lapic *l = atomic_load_explicit(&v->lapics[i], memory_order_relaxed);

		if (l && lapic_hw_enabled(l))
			max = MAX(max, map_id(l));
	}
	map = base_zalloc(sizeof(*map) + (max + 1UL) * sizeof(map->id[0]));
	if (!map)
		return NULL;
	map->max_id = max;
	map->all_x2apic = true;
	for (i = 0; i < n; i++) {
		struct lapic *l = atomic_load_explicit(&v->lapics[i], memory_order_relaxed);
		uint32_t id;

		if (!l || !lapic_hw_enabled(l))
			continue;
		id = map_id(l);
		map->all_x2apic &= lapic_x2apic(l);
		map->ambiguous |= id > max || map->id[id];
		if (id <= max)
			map->id[id] = l;
	}
	return map;
}

static void map_free(struct srcu_head *head)
{
	base_free(container_of(head, struct apic_map, head));
}

void apic_map_update(struct irq_vm *v)
{
	struct apic_map *old, *new;

	spin_lock(&v->map_lock);
	new = map_build(v);
	old = atomic_exchange(&v->map, new); /* pairs with walk_begin */
	spin_unlock(&v->map_lock);
	if (old)
		srcu_call(&v->srcu, &old->head, map_free);
}

int apic_join(struct irq_vm *v, struct lapic *l)
{
	unsigned i, n;

	spin_lock(&v->map_lock);
	n = atomic_load_explicit(&v->nr_slots, memory_order_relaxed);
	for (i = 0; i < IRQ_LAPICS && atomic_load_explicit(&v->lapics[i], memory_order_relaxed); i++)
		;
	if (i < IRQ_LAPICS) {
		l->slot = i;
		atomic_store_explicit(&v->lapics[i], l, memory_order_release);
		if (i >= n)
			atomic_store_explicit(&v->nr_slots, i + 1, memory_order_release);
	}
	spin_unlock(&v->map_lock);
	if (i == IRQ_LAPICS)
		return -EINVAL;
	apic_map_update(v);
	return 0;
}

void apic_leave(struct irq_vm *v, struct lapic *l)
{
	spin_lock(&v->map_lock);
	atomic_store_explicit(&v->lapics[l->slot], NULL, memory_order_relaxed);
	spin_unlock(&v->map_lock);
	apic_map_update(v);
	srcu_synchronize(&v->srcu);
}

void apic_map_free(struct irq_vm *v)
{
	base_free(atomic_exchange(&v->map, NULL));
}
