/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The IOAPIC: 24 pins, version 0x11 as KVM's (no EOI register). Entered under irq_srcu. A level-triggered
 * pin that was delivered waits in Remote IRR for the LAPIC's EOI.
 */
#include "irq/lapic.h"

#define IOAPIC_BASE    0xfec00000ULL
#define IOAPIC_SIZE    0x100
#define IOAPIC_VERSION 0x11
#define REG_SELECT     0x00
#define REG_WINDOW     0x10
#define STORM_EOIS     10000	/* EOIs in a row with the line still up */
#define STORM_DELAY_NS 10000000 /* then the guest gets this much air */

typedef __typeof__(((struct kvm_ioapic_state *)0)->redirtbl[0]) entry_t;

struct ioapic {
	struct irq_vm *vm;
	struct bus_device dev;
	struct spinlock lock; /* everything below */
	struct kvm_ioapic_state s;
	uint32_t sources[IOAPIC_PINS]; /* who holds each line up */
	uint32_t sent;		       /* edges delivered: not part of the state's irr */
	unsigned eois[IOAPIC_PINS];    /* in a row, for the storm check */
	_Atomic uint64_t vectors[4];   /* of all entries; read without the lock at every EOI */
	struct irq_dests rtc;	       /* who got the last RTC interrupt, */
	uint8_t rtc_vector;	       /* and as what */
	struct loop_timer storm_timer;
};

/* -- Delivery -- */

/* True while a LAPIC still has the last RTC interrupt pending or in service: a VMM that compensates lost
 * RTC ticks wants to know. irq_srcu held. */
static bool rtc_busy(const struct ioapic *io)
{
	unsigned i, n = atomic_load_explicit(&io->vm->nr_slots, memory_order_acquire);

	for (i = 0; i < n; i++) {
		const struct lapic *l = atomic_load_explicit(&io->vm->lapics[i], memory_order_acquire);

		if (l && (io->rtc.slot[i / 64] >> (i % 64) & 1) &&
		    (lapic_bit(l, APIC_IRR, io->rtc_vector) || lapic_bit(l, APIC_ISR, io->rtc_vector)))
			return true;
	}
	return false;
}

/* Sends the pin's message. -1 masked or waiting for an EOI, else as irq_deliver. lock held. */
static int service(struct ioapic *io, unsigned pin, bool status)
{
	entry_t *e = &io->s.redirtbl[pin];
	struct irq_msg m = {
	    .dest = e->fields.dest_id,
	    .vector = e->fields.vector,
	    .mode = e->fields.delivery_mode,
	    .logical = e->fields.dest_mode,
	    .level = e->fields.trig_mode,
	    .asserted = true,
	};
	bool rtc = pin == RTC_PIN && status;
	int r;

	if (e->fields.mask || (m.level && e->fields.remote_irr))
		return -1;
	if (!m.level)
		io->sent |= 1u << pin;
	if (rtc) {
		memset(&io->rtc, 0, sizeof(io->rtc));
		io->rtc_vector = m.vector;
	}
	r = irq_deliver(io->vm, NULL, &m, rtc ? &io->rtc : NULL);
	if (r > 0 && m.level)
		e->fields.remote_irr = 1;
	return r;
}

/* The line of a pin is up or down. lock held. */
static int line(struct ioapic *io, unsigned pin, bool level, bool status)
{
	uint32_t bit = 1u << pin, old = io->s.irr;

	if (!level) {
		io->s.irr &= ~bit;
		return 1;
	}
	if (pin == RTC_PIN && status && rtc_busy(io))
		return 0;
	io->s.irr |= bit;
	if (!io->s.redirtbl[pin].fields.trig_mode) {
		io->sent &= ~bit;
		if (old & bit) /* no edge */
			return 0;
	}
	return service(io, pin, status);
}

int ioapic_set_line(struct ioapic *io, unsigned pin, unsigned source, bool level, bool status)
{
	int r;

	spin_lock(&io->lock);
	if (level)
		io->sources[pin] |= 1u << source;
	else
		io->sources[pin] &= ~(1u << source);
	r = line(io, pin, io->sources[pin] != 0, status);
	spin_unlock(&io->lock);
	return r;
}

/* -- End of interrupt -- */

bool ioapic_has_vector(const struct ioapic *io, uint8_t vector)
{
	return atomic_load_explicit(&io->vectors[vector / 64], memory_order_relaxed) >> (vector % 64) & 1;
}

/* Recomputes what ioapic_has_vector reads. lock held. */
static void note_vectors(struct ioapic *io)
{
	uint64_t v[4] = {0};
	unsigned i;

	for (i = 0; i < IOAPIC_PINS; i++)
		v[io->s.redirtbl[i].fields.vector / 64] |= 1ULL << (io->s.redirtbl[i].fields.vector % 64);
	for (i = 0; i < 4; i++)
		atomic_store_explicit(&io->vectors[i], v[i], memory_order_relaxed);
}

/* The LAPIC ended a level-triggered interrupt of this pin: deliver again if the line is still up. */
static void end_pin(struct ioapic *io, unsigned pin)
{
	entry_t *e = &io->s.redirtbl[pin];

	e->fields.remote_irr = 0;
	if (e->fields.mask || !(io->s.irr >> pin & 1)) {
		io->eois[pin] = 0;
		return;
	}
	if (++io->eois[pin] < STORM_EOIS) {
		service(io, pin, false);
		return;
	}
	/* The guest does not silence its device: let it make progress between the interrupts. */
	io->eois[pin] = 0;
	loop_timer_set(&io->storm_timer, base_now_ns() + STORM_DELAY_NS);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector, bool level)
{
	uint32_t pins = 0;
	unsigned i;

	spin_lock(&io->lock);
	for (i = 0; i < IOAPIC_PINS; i++)
		if (io->s.redirtbl[i].fields.vector == vector)
			pins |= 1u << i;
	spin_unlock(&io->lock);
	/* Without the lock: a notifier may lower the line, or raise it again. What is raised meanwhile waits
	 * in irr behind Remote IRR. */
	for (i = 0; i < IOAPIC_PINS; i++)
		if (pins >> i & 1)
			irq_notify_ack(io->vm, CHIP_IOAPIC, i);
	if (!level || !pins)
		return;
	spin_lock(&io->lock);
	for (i = 0; i < IOAPIC_PINS; i++) {
		const entry_t *e = &io->s.redirtbl[i];

		if ((pins >> i & 1) && e->fields.vector == vector && e->fields.trig_mode)
			end_pin(io, i);
	}
	spin_unlock(&io->lock);
}

/* On the loop: the pause of a storm is over. */
static void storm_over(void *arg)
{
	struct ioapic *io = arg;
	int idx = irq_enter(io->vm);
	unsigned i;

	spin_lock(&io->lock);
	for (i = 0; i < IOAPIC_PINS; i++)
		if (io->s.redirtbl[i].fields.trig_mode && (io->s.irr >> i & 1))
			service(io, i, false);
	spin_unlock(&io->lock);
	irq_leave(io->vm, idx);
}

/* -- Registers -- */

static uint32_t read_window(const struct ioapic *io)
{
	uint32_t index = io->s.ioregsel, pin = (index - 0x10) >> 1;
	uint64_t bits = ~0ULL;

	switch (index) {
	case 0:
	case 2: return (io->s.id & 0xf) << 24;
	case 1: return (IOAPIC_PINS - 1) << 16 | IOAPIC_VERSION;
	default:
		if (index >= 0x10 && pin < IOAPIC_PINS)
			bits = io->s.redirtbl[pin].bits;
		return index & 1 ? bits >> 32 : bits;
	}
}

/* Writes half of a redirection entry; Remote IRR and delivery status are read-only. */
static void write_entry(struct ioapic *io, unsigned pin, bool high, uint32_t val)
{
	entry_t *e = &io->s.redirtbl[pin], old = *e;

	if (high)
		e->bits = (e->bits & 0xffffffff) | (uint64_t)val << 32;
	else
		e->bits = (e->bits & ~0xffffffffULL) | val;
	e->fields.delivery_status = old.fields.delivery_status;
	/* Guests without an EOI register clear Remote IRR by switching the pin to edge and back. */
	e->fields.remote_irr = e->fields.trig_mode ? old.fields.remote_irr : 0;
	note_vectors(io);
	if (old.fields.mask != e->fields.mask)
		irq_notify_mask(io->vm, CHIP_IOAPIC, pin, e->fields.mask);
	if (e->fields.trig_mode && (io->s.irr >> pin & 1))
		service(io, pin, false);
}

static void write_window(struct ioapic *io, uint32_t val)
{
	uint32_t index = io->s.ioregsel;

	if (index == 0)
		io->s.id = val >> 24 & 0xf;
	else if (index >= 0x10 && (index - 0x10) >> 1 < IOAPIC_PINS)
		write_entry(io, (index - 0x10) >> 1, index & 1, val);
}

static bool in_range(const struct ioapic *io, uint64_t addr)
{
	return addr - io->s.base_address < IOAPIC_SIZE;
}

static int ioapic_read(struct bus_device *dev, uint64_t addr, unsigned len, void *val)
{
	struct ioapic *io = container_of(dev, struct ioapic, dev);
	uint64_t result = 0;
	int idx = irq_enter(io->vm), r = -EOPNOTSUPP;

	spin_lock(&io->lock);
	if (in_range(io, addr)) {
		r = 0;
		if ((addr & 0xff) == REG_SELECT)
			result = io->s.ioregsel;
		else if ((addr & 0xff) == REG_WINDOW)
			result = read_window(io);
		memcpy(val, &result, MIN(len, sizeof(result)));
	}
	spin_unlock(&io->lock);
	irq_leave(io->vm, idx);
	return r;
}

static int ioapic_write(struct bus_device *dev, uint64_t addr, unsigned len, const void *val)
{
	struct ioapic *io = container_of(dev, struct ioapic, dev);
	int idx = irq_enter(io->vm), r = -EOPNOTSUPP;
	uint32_t data = 0;

	memcpy(&data, val, MIN(len, sizeof(data)));
	spin_lock(&io->lock);
	if (in_range(io, addr)) {
		r = 0;
		if ((addr & 0xff) == REG_SELECT)
			io->s.ioregsel = data & 0xff;
		else if ((addr & 0xff) == REG_WINDOW)
			write_window(io, data);
	}
	spin_unlock(&io->lock);
	irq_leave(io->vm, idx);
	return r;
}

static const struct bus_device_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write};

/* -- State -- */

void ioapic_get(struct ioapic *io, struct kvm_ioapic_state *s)
{
	int idx = irq_enter(io->vm);

	spin_lock(&io->lock);
	*s = io->s;
	s->irr &= ~io->sent;
	spin_unlock(&io->lock);
	irq_leave(io->vm, idx);
}

void ioapic_set(struct ioapic *io, const struct kvm_ioapic_state *s)
{
	int idx = irq_enter(io->vm);
	unsigned i;

	spin_lock(&io->lock);
	io->s = *s;
	io->s.irr = 0;
	io->sent = 0;
	memset(&io->rtc, 0, sizeof(io->rtc));
	note_vectors(io);
	for (i = 0; i < IOAPIC_PINS; i++)
		if (s->irr >> i & 1)
			line(io, i, true, true);
	spin_unlock(&io->lock);
	irq_leave(io->vm, idx);
}

/* -- Life -- */

int ioapic_create(struct irq_vm *v)
{
	struct ioapic *io = base_zalloc(sizeof(*io));
	unsigned i;
	int r;

	if (!io)
		return -ENOMEM;
	io->vm = v;
	io->dev.ops = &ioapic_ops;
	spin_init(&io->lock, LOCK_IOAPIC);
	loop_timer_init(&io->storm_timer, storm_over, io);
	io->s.base_address = IOAPIC_BASE;
	for (i = 0; i < IOAPIC_PINS; i++)
		io->s.redirtbl[i].fields.mask = 1;
	note_vectors(io);
	mutex_lock(v->slots_lock);
	r = bus_register(v->bus, BUS_MMIO, IOAPIC_BASE, IOAPIC_SIZE, &io->dev);
	mutex_unlock(v->slots_lock);
	if (r < 0) {
		base_free(io);
		return r;
	}
	v->ioapic = io;
	return 0;
}

void ioapic_stop(struct irq_vm *v)
{
	if (v->ioapic)
		loop_timer_cancel(&v->ioapic->storm_timer);
}

void ioapic_destroy(struct irq_vm *v)
{
	if (!v->ioapic)
		return;
	ioapic_stop(v);
	mutex_lock(v->slots_lock);
	bus_unregister(v->bus, BUS_MMIO, &v->ioapic->dev);
	mutex_unlock(v->slots_lock);
	base_free(v->ioapic);
	v->ioapic = NULL;
}
