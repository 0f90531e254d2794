/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GSI routing: an immutable table per VM from GSI to chip pins or messages, replaced whole under irq_lock
 * and read under irq_srcu (systems.md C9). The VM begins with an empty table, so there is no "no table".
 *
 *                   | raise | notify | install | ack_add | ack_del
 *   raise, notify   |   X   |   X    |    X    |    X    |    X      X = may run concurrently
 *   install         |   X   |   X    |    X    |    X    |    X
 */
#include "base/mutate.h"
#include "irq/lapic.h"

struct route {
	uint8_t to; /* enum irq_chip, or ROUTE_* */
	uint8_t pin;
	uint32_t lo, hi, data; /* the message; of Xen's and Hyper-V's: the vCPU, and port or source */
};

enum { ROUTE_MSI = CHIPS, ROUTE_XEN, ROUTE_SINT };

struct irq_table {
	uint64_t level_vectors[4];	      /* split irqchip: vectors whose EOI the VMM's IOAPIC may want */
	int16_t chip_gsi[CHIPS][IOAPIC_PINS]; /* the GSI of a pin, or -1 */
	uint32_t nr_gsi;
	uint16_t first[IRQ_ROUTES + 1]; /* routes of gsi g: [first[g], first[g + 1]) */
	struct route r[];
};

_Static_assert(PIC_PINS <= IOAPIC_PINS, "chip_gsi is wide enough for both chips");

/* -- Messages -- */

/* True if the message's address is none that this VM can express. */
static bool bad_message(const struct irq_vm *v, uint32_t hi)
{
	return (atomic_load_explicit(&v->x2apic_api, memory_order_relaxed) & X2APIC_32BIT_IDS) && (hi & 0xff);
}

/* Decodes an MSI (SDM 3A 11.11). The address is not compared with 0xfee00000: KVM does not either. */
static struct irq_msg decode(const struct irq_vm *v, uint32_t lo, uint32_t hi, uint32_t data)
{
	struct irq_msg m = {
	    .dest = lo >> 12 & 0xff,
	    .vector = data,
	    .mode = data >> 8 & 7,
	    .logical = lo >> 2 & 1,
	    .hint = lo >> 3 & 1,
	    .level = data >> 15 & 1,
	    .asserted = true,
	};

	if (atomic_load_explicit(&v->x2apic_api, memory_order_relaxed) & X2APIC_32BIT_IDS)
		m.dest |= hi & 0xffffff00;
	return m;
}

int irq_signal_msi(struct irq_vm *v, const struct kvm_msi *msi)
{
	struct irq_msg m;
	int idx, r;

	if (irq_get_mode(v) == IRQ_MODE_NONE || (msi->flags & ~KVM_MSI_VALID_DEVID))
		return -EINVAL;
	if (bad_message(v, msi->address_hi))
		return -EINVAL;
	m = decode(v, msi->address_lo, msi->address_hi, msi->data);
	idx = irq_enter(v);
	r = irq_deliver(v, NULL, &m, NULL);
	irq_leave(v, idx);
	return r;
}

/* -- Raising -- */

/* Drives one route; <0 ignored or masked, 0 coalesced, >0 delivered. irq_srcu held. */
static int drive(struct irq_vm *v, const struct route *r, unsigned source, bool level, bool status)
{
	struct irq_msg m;

	switch (r->to) {
	case CHIP_PIC: return pic_set_line(v->pic, r->pin, source, level);
	case CHIP_IOAPIC: return ioapic_set_line(v->ioapic, r->pin, source, level, status);
	case ROUTE_XEN: return level ? v->port->xen_event(v->ctx, r->lo, r->hi) : -EINVAL;
	case ROUTE_SINT: return level ? v->port->sint(v->ctx, r->lo, r->hi) : -1;
	default:
		if (!level)
			return -1;
		m = decode(v, r->lo, r->hi, r->data);
		return irq_deliver(v, NULL, &m, NULL);
	}
}

int irq_set_line(struct irq_vm *v, unsigned source, uint32_t gsi, int level, int *status)
{
	const struct irq_table *t;
	int idx, sum = -1, i;

	if (irq_get_mode(v) == IRQ_MODE_NONE)
		return -ENXIO;
	idx = irq_enter(v);
	t = srcu_dereference(v->table);
	pause_if(PAUSE_ROUTE_HELD);
	for (i = gsi < t->nr_gsi ? t->first[gsi] : 0; gsi < t->nr_gsi && i < t->first[gsi + 1]; i++) {
		int r = drive(v, &t->r[i], source, level != 0, status != NULL);

		if (r >= 0)
			sum = MAX(sum, 0) + r;
	}
	irq_leave(v, idx);
	if (status)
		*status = sum;
	return 0;
}

bool irq_route_msi(struct irq_vm *v, uint32_t gsi, struct irq_msi *msi)
{
	const struct irq_table *t = srcu_dereference(v->table);
	const struct route *r;

	if (gsi >= t->nr_gsi || t->first[gsi + 1] - t->first[gsi] != 1)
		return false;
	r = &t->r[t->first[gsi]];
	*msi = (struct irq_msi){r->lo, r->hi, r->data};
	return r->to == ROUTE_MSI;
}

void irq_send_msi(struct irq_vm *v, const struct irq_msi *msi)
{
	struct irq_msg m = decode(v, msi->lo, msi->hi, msi->data);

	irq_deliver(v, NULL, &m, NULL);
}

/* -- Building a table -- */

/* The route that an entry asks for. -EINVAL. */
static int classify(const struct irq_vm *v, bool chips, const struct kvm_irq_routing_entry *e,
		    struct route *r)
{
	uint32_t pin = e->u.irqchip.pin;

	if (e->gsi >= IRQ_ROUTES)
		return -EINVAL;
	switch (e->type) {
	case KVM_IRQ_ROUTING_MSI:
		if ((e->flags & ~KVM_MSI_VALID_DEVID) || bad_message(v, e->u.msi.address_hi))
			return -EINVAL;
		*r = (struct route){.to = ROUTE_MSI,
				    .lo = e->u.msi.address_lo,
				    .hi = e->u.msi.address_hi,
				    .data = e->u.msi.data};
		return 0;
	case KVM_IRQ_ROUTING_IRQCHIP:
		if (e->flags || !chips)
			return -EINVAL;
		switch (e->u.irqchip.irqchip) {
		case KVM_IRQCHIP_PIC_MASTER:
		case KVM_IRQCHIP_PIC_SLAVE:
			if (pin >= PIC_PINS / 2)
				return -EINVAL;
			pin += e->u.irqchip.irqchip == KVM_IRQCHIP_PIC_SLAVE ? PIC_PINS / 2 : 0;
			*r = (struct route){.to = CHIP_PIC, .pin = pin};
			return 0;
		case KVM_IRQCHIP_IOAPIC:
			if (pin >= IOAPIC_PINS)
				return -EINVAL;
			*r = (struct route){.to = CHIP_IOAPIC, .pin = pin};
			return 0;
		default: return -EINVAL;
		}
	case KVM_IRQ_ROUTING_XEN_EVTCHN:
		if (e->flags || !v->port->xen_event ||
		    e->u.xen_evtchn.priority != KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL)
			return -EINVAL;
		*r = (struct route){.to = ROUTE_XEN, .lo = e->u.xen_evtchn.vcpu, .hi = e->u.xen_evtchn.port};
		return 0;
	case KVM_IRQ_ROUTING_HV_SINT:
		if (e->flags || !v->port->sint)
			return -EINVAL;
		*r = (struct route){.to = ROUTE_SINT, .lo = e->u.hv_sint.vcpu, .hi = e->u.hv_sint.sint};
		return 0;
	default: return -EINVAL;
	}
}

/* True if a GSI may have both routes: pins of two chips, and nothing beside a message. */
static bool may_share(const struct kvm_irq_routing_entry *a, const struct kvm_irq_routing_entry *b)
{
	return a->type == KVM_IRQ_ROUTING_IRQCHIP && b->type == KVM_IRQ_ROUTING_IRQCHIP &&
	       a->u.irqchip.irqchip != b->u.irqchip.irqchip;
}

/* Puts entry e's route at its GSI's next free place; place[] counts what is there. -EINVAL. */
static int place_route(struct irq_table *t, const struct kvm_irq_routing_entry *e, unsigned n,
		       const struct route *r, uint8_t *placed, const uint16_t *from)
{
	unsigned gsi = e[n].gsi, at = t->first[gsi], i;

	/* `from` remembers which entry made each route. */
	for (i = 0; i < placed[gsi]; i++)
		if (!may_share(&e[from[at + i]], &e[n]))
			return -EINVAL;
	t->r[at + placed[gsi]++] = *r;
	if (r->to < CHIPS)
		t->chip_gsi[r->to][r->pin] = gsi;
	return 0;
}

/* Counts the entries of each GSI into first[], as start positions. */
static void count_routes(struct irq_table *t, const struct kvm_irq_routing_entry *e, unsigned n)
{
	unsigned i, sum = 0;

	for (i = 0; i < n; i++) {
		t->first[e[i].gsi + 1]++;
		t->nr_gsi = MAX(t->nr_gsi, e[i].gsi + 1);
	}
	for (i = 0; i <= IRQ_ROUTES; i++) {
		sum += t->first[i];
		t->first[i] = sum;
	}
}

/* Fills t; scratch for `placed` and `from` is the caller's. -EINVAL. */
static int fill_table(const struct irq_vm *v, bool chips, struct irq_table *t,
		      const struct kvm_irq_routing_entry *e, unsigned n, uint8_t *placed, uint16_t *from)
{
	struct route r;
	unsigned i;
	int err;

	for (i = 0; i < n; i++) {
		err = classify(v, chips, &e[i], &r);
		if (err < 0)
			return err;
	}
	memset(t->chip_gsi, 0xff, sizeof(t->chip_gsi));
	count_routes(t, e, n);
	for (i = 0; i < n; i++) {
		classify(v, chips, &e[i], &r);
		/* At most three pins share a GSI; the fourth is refused before the count can wrap. */
		from[t->first[e[i].gsi] + placed[e[i].gsi]] = i;
		err = place_route(t, e, i, &r, placed, from);
		if (err < 0)
			return err;
		if (r.to == ROUTE_MSI && (r.data >> 15 & 1) && e[i].gsi < v->split_pins)
			t->level_vectors[(r.data & 0xff) / 64] |= 1ULL << (r.data & 63);
	}
	return 0;
}

/* Makes a table. chips: pins of PIC and IOAPIC may be named. -EINVAL, -ENOMEM. */
static int build_table(const struct irq_vm *v, bool chips, const struct kvm_irq_routing_entry *e, unsigned n,
		       struct irq_table **out)
{
	struct irq_table *t = base_zalloc(sizeof(*t) + n * sizeof(t->r[0]));
	uint8_t *placed = base_zalloc(IRQ_ROUTES + (n + 1) * sizeof(uint16_t));
	int r = -ENOMEM;

	if (t && placed)
		r = fill_table(v, chips, t, e, n, placed, (uint16_t *)(placed + IRQ_ROUTES));
	base_free(placed);
	if (r < 0)
		base_free(t);
	else
		*out = t;
	return r;
}

/* Publishes t, refreshes what irqfds have cached, and waits until nobody uses what was before: no interrupt
 * takes an old route afterwards. The wait is after irq_lock: an ack notifier may want it under irq_srcu. */
static void install(struct irq_vm *v, struct irq_table *t)
{
	struct irq_table *old;

	mutex_lock(&v->lock);
	old = atomic_exchange(&v->table, t); /* pairs with srcu_dereference in the readers */
	irqfd_refresh(v);
	if (!mutated(MUTATE_SYNC_IN_IRQ))
		mutex_unlock(&v->lock);
	if (old)
		srcu_synchronize(&v->srcu);
	if (mutated(MUTATE_SYNC_IN_IRQ))
		mutex_unlock(&v->lock);
	base_free(old);
}

int irq_set_routing(struct irq_vm *v, const struct kvm_irq_routing_entry *e, unsigned n, unsigned flags)
{
	enum irq_mode mode = irq_get_mode(v);
	struct irq_table *t;
	int r;

	if (mode == IRQ_MODE_NONE || n > IRQ_ROUTES || flags)
		return -EINVAL;
	r = build_table(v, mode == IRQ_MODE_KERNEL, e, n, &t);
	if (r < 0)
		return r;
	install(v, t);
	return 0;
}

int irq_routing_init(struct irq_vm *v)
{
	struct irq_table *t;
	int r = build_table(v, false, NULL, 0, &t);

	if (r < 0)
		return r;
	install(v, t);
	return 0;
}

int irq_routing_default(struct irq_vm *v)
{
	struct kvm_irq_routing_entry e[PIC_PINS + IOAPIC_PINS];
	struct irq_table *t;
	unsigned i, n = 0;
	int r;

	memset(e, 0, sizeof(e));
	for (i = 0; i < IOAPIC_PINS; i++) {
		e[n].gsi = i;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[n++].u.irqchip.pin = i;
		if (i >= PIC_PINS)
			continue;
		e[n].gsi = i;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e[n++].u.irqchip.pin = i % 8;
	}
	r = build_table(v, true, e, n, &t);
	if (r < 0)
		return r;
	install(v, t);
	return 0;
}

void irq_routing_free(struct irq_vm *v)
{
	base_free(atomic_exchange(&v->table, NULL));
}

/* -- Ack notifiers -- */

void irq_ack_add(struct irq_vm *v, struct irq_ack *ack)
{
	mutex_lock(&v->lock);
	atomic_store_explicit(&ack->next, atomic_load(&v->acks), memory_order_relaxed);
	srcu_assign(v->acks, ack); /* pairs with irq_notify_ack */
	mutex_unlock(&v->lock);
}

void irq_ack_del(struct irq_vm *v, struct irq_ack *ack)
{
	_Atomic(struct irq_ack *) *at = &v->acks;

	mutex_lock(&v->lock);
	while (atomic_load(at) && atomic_load(at) != ack)
		at = &atomic_load(at)->next;
	if (atomic_load(at))
		srcu_assign(*at, atomic_load(&ack->next));
	mutex_unlock(&v->lock);
	srcu_synchronize(&v->srcu);
}

void irq_notify_ack(struct irq_vm *v, enum irq_chip chip, unsigned pin)
{
	int gsi = srcu_dereference(v->table)->chip_gsi[chip][pin];
	struct irq_ack *a;

	if (gsi < 0)
		return;
	for (a = srcu_dereference(v->acks); a; a = srcu_dereference(a->next))
		if (a->gsi == (uint32_t)gsi)
			a->fn(a);
}

void irq_notify_sint(struct irq_vm *v, uint32_t vcpu, uint32_t sint)
{
	int idx = irq_enter(v);
	const struct irq_table *t = srcu_dereference(v->table);
	struct irq_ack *a;

	for (a = srcu_dereference(v->acks); a; a = srcu_dereference(a->next)) {
		const struct route *r = a->gsi < t->nr_gsi ? &t->r[t->first[a->gsi]] : NULL;

		if (r && t->first[a->gsi + 1] > t->first[a->gsi] && r->to == ROUTE_SINT && r->lo == vcpu &&
		    r->hi == sint)
			a->fn(a);
	}
	irq_leave(v, idx);
}

void irq_notify_mask(struct irq_vm *v, enum irq_chip chip, unsigned pin, bool masked)
{
	struct pit *pit = srcu_dereference(v->pit);

	if (pit && !masked && srcu_dereference(v->table)->chip_gsi[chip][pin] == 0)
		pit_unmasked(pit);
}

/* -- End of interrupt -- */

/* True if a level-triggered route of the VMM's IOAPIC pins sends this vector to l. */
static bool split_wants_eoi(struct lapic *l, uint8_t vector)
{
	const struct irq_table *t = srcu_dereference(l->vm->table);
	unsigned i, end = t->first[MIN(t->nr_gsi, l->vm->split_pins)];

	if (!(t->level_vectors[vector / 64] >> (vector % 64) & 1))
		return false;
	if (lapic_bit(l, APIC_TMR, vector)) /* it came here as level, wherever it would go now */
		return true;
	for (i = 0; i < end; i++) {
		struct irq_msg m = decode(l->vm, t->r[i].lo, t->r[i].hi, t->r[i].data);

		if (t->r[i].to == ROUTE_MSI && m.level && m.vector == vector && irq_dest_matches(NULL, l, &m))
			return true;
	}
	return false;
}

bool irq_eoi_needed(struct lapic *l, uint8_t vector)
{
	switch (irq_get_mode(l->vm)) {
	case IRQ_MODE_KERNEL: return ioapic_has_vector(l->vm->ioapic, vector);
	case IRQ_MODE_SPLIT: return split_wants_eoi(l, vector);
	default: return false;
	}
}

void irq_eoi(struct lapic *l, uint8_t vector, bool level, bool directed)
{
	if (!irq_eoi_needed(l, vector))
		return;
	if (irq_get_mode(l->vm) == IRQ_MODE_KERNEL)
		ioapic_eoi(l->vm->ioapic, vector, level);
	else if (!directed) /* with directed EOI the guest tells the VMM's IOAPIC itself */
		l->vm->port->eoi_exit(l->vcpu, vector);
}
