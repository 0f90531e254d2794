/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One VM's interrupt world: creation, the kind of irqchip, chip state ioctls, and what the run loop asks. */
#include "irq/lapic.h"

int irq_create(struct irq_vm **out, const struct irq_port *port, void *ctx, struct bus_set *bus,
	       struct mutex *slots_lock)
{
	struct irq_vm *v = base_zalloc(sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	v->port = port;
	v->ctx = ctx;
	v->bus = bus;
	v->slots_lock = slots_lock;
	mutex_init(&v->lock, LOCK_IRQ);
	mutex_init(&v->irqfd_lock, LOCK_RESAMPLER);
	spin_init(&v->irqfds_lock, LOCK_IRQFDS);
	spin_init(&v->map_lock, LOCK_LAPIC);
	r = srcu_init(&v->srcu, LOCK_SRCU_IRQ);
	if (r < 0)
		goto out_free;
	r = irq_routing_init(v);
	if (r < 0)
		goto out_srcu;
	*out = v;
	return 0;

out_srcu:
	srcu_cleanup(&v->srcu);
out_free:
	base_free(v);
	return r;
}

void irq_stop(struct irq_vm *v)
{
	irq_release_irqfds(v);
	pit_destroy(v);
	ioapic_stop(v);
}

void irq_destroy(struct irq_vm *v)
{
	if (!v)
		return;
	irq_stop(v);
	ioapic_destroy(v);
	pic_destroy(v);
	irq_routing_free(v);
	apic_map_free(v);
	srcu_barrier(&v->srcu);
	srcu_cleanup(&v->srcu);
	base_free(v);
}

enum irq_mode irq_get_mode(const struct irq_vm *v)
{
	/* Acquire: the chips and pins that a mode announces are there. Pairs with set_mode. */
	return atomic_load_explicit(&v->mode, memory_order_acquire);
}

static void set_mode(struct irq_vm *v, enum irq_mode mode)
{
	atomic_store_explicit(&v->mode, mode, memory_order_release);
}

/* -- The kind of irqchip -- */

int irq_create_chip(struct irq_vm *v)
{
	int r;

	if (irq_get_mode(v) != IRQ_MODE_NONE)
		return -EEXIST;
	r = pic_create(v);
	if (r < 0)
		return r;
	r = ioapic_create(v);
	if (r < 0)
		goto out_pic;
	r = irq_routing_default(v);
	if (r < 0)
		goto out_ioapic;
	set_mode(v, IRQ_MODE_KERNEL);
	return 0;

out_ioapic:
	ioapic_destroy(v);
out_pic:
	pic_destroy(v);
	return r;
}

int irq_create_split(struct irq_vm *v, unsigned pins)
{
	if (pins > IRQ_ROUTES)
		return -EINVAL;
	if (irq_get_mode(v) != IRQ_MODE_NONE)
		return -EEXIST;
	v->split_pins = pins;
	set_mode(v, IRQ_MODE_SPLIT);
	return 0;
}

unsigned irq_split_pins(const struct irq_vm *v)
{
	return v->split_pins;
}

void irq_set_x2apic_api(struct irq_vm *v, uint64_t flags)
{
	atomic_store(&v->x2apic_api, flags);
}

/* -- Chip state -- */

int irq_get_chip(struct irq_vm *v, struct kvm_irqchip *chip)
{
	if (irq_get_mode(v) != IRQ_MODE_KERNEL)
		return -ENXIO;
	switch (chip->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER: pic_get(v->pic, 0, &chip->chip.pic); return 0;
	case KVM_IRQCHIP_PIC_SLAVE: pic_get(v->pic, 1, &chip->chip.pic); return 0;
	case KVM_IRQCHIP_IOAPIC: ioapic_get(v->ioapic, &chip->chip.ioapic); return 0;
	default: return -EINVAL;
	}
}

int irq_set_chip(struct irq_vm *v, const struct kvm_irqchip *chip)
{
	if (irq_get_mode(v) != IRQ_MODE_KERNEL)
		return -ENXIO;
	switch (chip->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER: pic_set(v->pic, 0, &chip->chip.pic); return 0;
	case KVM_IRQCHIP_PIC_SLAVE: pic_set(v->pic, 1, &chip->chip.pic); return 0;
	case KVM_IRQCHIP_IOAPIC: ioapic_set(v->ioapic, &chip->chip.ioapic); return 0;
	default: return -EINVAL;
	}
}

/* -- What the run loop asks -- */

/* True if the PIC has something for this vCPU. */
static bool pic_wants(struct irq_vm *v, const struct lapic *l)
{
	return irq_get_mode(v) == IRQ_MODE_KERNEL && pic_output(v->pic) && lapic_accepts_extint(l);
}

int irq_cpu_pending(struct irq_vm *v, struct lapic *l)
{
	if (!l)
		return -1;
	if (pic_wants(v, l)) {
		int idx = irq_enter(v), vector = pic_peek(v->pic);

		irq_leave(v, idx);
		if (vector >= 0)
			return vector;
	}
	return lapic_pending(l);
}

int irq_cpu_ack(struct irq_vm *v, struct lapic *l)
{
	if (!l)
		return -1;
	if (pic_wants(v, l)) {
		int idx = irq_enter(v), vector = pic_ack(v->pic);

		irq_leave(v, idx);
		return vector;
	}
	return lapic_ack(l);
}
