/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The 8259A pair of the PC with its edge/level registers. What an operation causes outside (the wake-up of
 * a vCPU, acknowledge notifiers) is noted under the lock and done after it, in pic_unlock.
 */
#include "irq/lapic.h"

#define CASCADE	  2
#define PORT_ELCR 0x4d0

struct pic_ports {
	struct bus_device dev;
	struct pic *pic;
};

struct pic {
	struct irq_vm *vm;
	struct spinlock lock; /* everything below; entered under irq_srcu */
	struct kvm_pic_state chip[2];
	uint32_t sources[PIC_PINS]; /* who holds each line up */
	_Atomic bool output;	    /* INTR of the master */
	bool rose;		    /* output went up in this critical section */
	uint16_t acked;		    /* pins whose service ended in this critical section */
	struct pic_ports ports[3];
};

/* -- Lock -- */

static void pic_lock(struct pic *p)
{
	spin_lock(&p->lock);
}

/* Wakes whoever takes the PIC's interrupt: the LAPICs whose LINT0 does, else the boot vCPU. */
static void wake_takers(struct irq_vm *v)
{
	unsigned i, n = atomic_load_explicit(&v->nr_slots, memory_order_acquire);
	bool any = false;

	for (i = 0; i < n; i++) {
		struct lapic *l = atomic_load_explicit(&v->lapics[i], memory_order_acquire);

		if (!l || !lapic_accepts_extint(l))
			continue;
		v->port->kick(l->vcpu);
		any = true;
	}
	if (!any)
		v->port->kick_boot(v->ctx);
}

static void pic_unlock(struct pic *p)
{
	uint16_t acked = p->acked;
	bool rose = p->rose;
	unsigned pin;

	p->acked = 0;
	p->rose = false;
	spin_unlock(&p->lock);
	if (rose)
		wake_takers(p->vm);
	for (pin = 0; acked >> pin; pin++)
		if (acked >> pin & 1)
			irq_notify_ack(p->vm, CHIP_PIC, pin);
}

/* -- Priorities -- */

/* Rank of the highest request in mask, 0 first; 8 if there is none. */
static unsigned rank(const struct kvm_pic_state *s, uint8_t mask)
{
	unsigned i;

	for (i = 0; i < 8; i++)
		if (mask >> ((i + s->priority_add) & 7) & 1)
			break;
	return i;
}

/* The request that chip `which` would put on its INT pin, or -1. */
static int chip_request(const struct pic *p, unsigned which)
{
	const struct kvm_pic_state *s = &p->chip[which];
	unsigned want = rank(s, s->irr & ~s->imr);
	uint8_t in_service = s->isr;

	if (want == 8)
		return -1;
	if (s->special_mask) /* masked levels in service hold nobody back */
		in_service &= ~s->imr;
	if (s->special_fully_nested_mode && which == 0)
		in_service &= ~(1 << CASCADE);
	return want < rank(s, in_service) ? (int)((want + s->priority_add) & 7) : -1;
}

/* Sets a line of one chip; 1 = requested, 0 = was already, -1 = masked. */
static int chip_line(struct kvm_pic_state *s, unsigned irq, bool level)
{
	uint8_t bit = 1 << irq;
	int r = 1;

	if (!level) {
		s->last_irr &= ~bit;
		if (s->elcr & bit)
			s->irr &= ~bit;
	} else {
		if ((s->elcr & bit) || !(s->last_irr & bit)) {
			r = !(s->irr & bit);
			s->irr |= bit;
		}
		s->last_irr |= bit;
	}
	return s->imr & bit ? -1 : r;
}

/* Carries the slave's request to the master and the master's to INTR. */
static void update(struct pic *p)
{
	bool out;

	if (chip_request(p, 1) >= 0) {
		chip_line(&p->chip[0], CASCADE, true);
		chip_line(&p->chip[0], CASCADE, false);
	}
	out = chip_request(p, 0) >= 0;
	if (out && !atomic_load_explicit(&p->output, memory_order_relaxed))
		p->rose = true;
	atomic_store(&p->output, out);
}

/* -- Acknowledge and end -- */

/* Ends the service of an input. */
static void end_service(struct pic *p, unsigned which, unsigned irq)
{
	p->chip[which].isr &= ~(1 << irq);
	p->acked |= 1 << (which * 8 + irq);
}

/* Moves a request into service. */
static void begin_service(struct pic *p, unsigned which, unsigned irq)
{
	struct kvm_pic_state *s = &p->chip[which];

	s->isr |= 1 << irq;
	if (!(s->elcr >> irq & 1))
		s->irr &= ~(1 << irq);
	if (s->auto_eoi) {
		if (s->rotate_on_auto_eoi)
			s->priority_add = (irq + 1) & 7;
		end_service(p, which, irq);
	}
}

int pic_peek(struct pic *p)
{
	int irq, vector = -1;

	pic_lock(p);
	irq = chip_request(p, 0);
	if (irq == CASCADE) {
		int low = chip_request(p, 1);

		vector = p->chip[1].irq_base + (low < 0 ? 7 : low);
	} else if (irq >= 0) {
		vector = p->chip[0].irq_base + irq;
	}
	pic_unlock(p);
	return vector;
}

int pic_ack(struct pic *p)
{
	int irq, low, vector;

	pic_lock(p);
	atomic_store(&p->output, false);
	irq = chip_request(p, 0);
	if (irq < 0) {
		vector = p->chip[0].irq_base + 7; /* spurious: the request went away */
	} else if (irq == CASCADE) {
		begin_service(p, 0, CASCADE);
		low = chip_request(p, 1);
		if (low >= 0)
			begin_service(p, 1, low);
		else
			low = 7; /* spurious on the slave */
		vector = p->chip[1].irq_base + low;
	} else {
		begin_service(p, 0, irq);
		vector = p->chip[0].irq_base + irq;
	}
	update(p);
	pic_unlock(p);
	return vector;
}

int pic_set_line(struct pic *p, unsigned pin, unsigned source, bool level)
{
	int r;

	pic_lock(p);
	if (level)
		p->sources[pin] |= 1u << source;
	else
		p->sources[pin] &= ~(1u << source);
	r = chip_line(&p->chip[pin / 8], pin % 8, p->sources[pin] != 0);
	update(p);
	pic_unlock(p);
	return r;
}

bool pic_output(const struct pic *p)
{
	return atomic_load(&p->output);
}

/* -- Ports -- */

/* ICW1: initialisation begins. Requests of edge inputs are forgotten, and so is what was in service. */
static void write_icw1(struct pic *p, unsigned which, uint8_t val)
{
	struct kvm_pic_state *s = &p->chip[which];
	uint8_t gone = (s->irr & ~s->elcr) | s->isr;
	unsigned irq;

	s->init4 = val & 1;
	s->last_irr = 0;
	s->irr &= s->elcr;
	s->imr = 0;
	s->priority_add = 0;
	s->special_mask = 0;
	s->read_reg_select = 0;
	s->poll = 0;
	s->auto_eoi = 0;
	s->rotate_on_auto_eoi = 0;
	s->special_fully_nested_mode = 0;
	s->init_state = 1;
	for (irq = 0; irq < 8; irq++)
		if (gone >> irq & 1)
			end_service(p, which, irq);
}

/* OCW2: end of interrupt and rotation. */
static void write_ocw2(struct pic *p, unsigned which, uint8_t val)
{
	struct kvm_pic_state *s = &p->chip[which];
	unsigned irq = val & 7, top;

	switch (val >> 5) {
	case 0: s->rotate_on_auto_eoi = 0; return;
	case 4: s->rotate_on_auto_eoi = 1; return;
	case 1:
	case 5: /* the highest in service; masked ones are passed over in special mask mode */
		top = rank(s, s->special_mask ? s->isr & ~s->imr : s->isr);
		if (top == 8)
			return;
		irq = (top + s->priority_add) & 7;
		end_service(p, which, irq);
		break;
	case 3:
	case 7: end_service(p, which, irq); break;
	case 6: break;
	default: return;
	}
	if (val & 0x80)
		s->priority_add = (irq + 1) & 7;
}

/* OCW3: poll, register to read, special mask. */
static void write_ocw3(struct kvm_pic_state *s, uint8_t val)
{
	if (val & 0x04)
		s->poll = 1;
	if (val & 0x02)
		s->read_reg_select = val & 1;
	if (val & 0x40)
		s->special_mask = val >> 5 & 1;
}

static void write_imr(struct pic *p, unsigned which, uint8_t val)
{
	uint8_t diff = p->chip[which].imr ^ val;
	unsigned irq;

	p->chip[which].imr = val;
	for (irq = 0; irq < 8; irq++)
		if (diff >> irq & 1)
			irq_notify_mask(p->vm, CHIP_PIC, which * 8 + irq, val >> irq & 1);
}

/* ICW2 to ICW4, or OCW1 when initialisation is done. */
static void write_odd(struct pic *p, unsigned which, uint8_t val)
{
	struct kvm_pic_state *s = &p->chip[which];

	switch (s->init_state) {
	case 1:
		s->irq_base = val & 0xf8;
		s->init_state = 2;
		break;
	case 2: s->init_state = s->init4 ? 3 : 0; break; /* the cascade is wired */
	case 3:
		s->special_fully_nested_mode = val >> 4 & 1;
		s->auto_eoi = val >> 1 & 1;
		s->init_state = 0;
		break;
	default: write_imr(p, which, val); break;
	}
}

static void write_port(struct pic *p, uint64_t port, uint8_t val)
{
	unsigned which = port >> 7 & 1;

	if (port >= PORT_ELCR)
		p->chip[port & 1].elcr = val & p->chip[port & 1].elcr_mask;
	else if (port & 1)
		write_odd(p, which, val);
	else if (val & 0x10)
		write_icw1(p, which, val);
	else if (val & 0x08)
		write_ocw3(&p->chip[which], val);
	else
		write_ocw2(p, which, val);
	update(p);
}

/* The read after a poll command: acknowledges without INTA. */
static uint8_t read_poll(struct pic *p, unsigned which)
{
	int irq = chip_request(p, which);

	p->chip[which].poll = 0;
	if (irq < 0)
		return 7;
	begin_service(p, which, irq);
	update(p);
	return 0x80 | irq;
}

static uint8_t read_port(struct pic *p, uint64_t port)
{
	unsigned which = port >> 7 & 1;
	const struct kvm_pic_state *s = &p->chip[which];

	if (port >= PORT_ELCR)
		return p->chip[port & 1].elcr;
	if (s->poll)
		return read_poll(p, which);
	if (port & 1)
		return s->imr;
	return s->read_reg_select ? s->isr : s->irr;
}

static int pic_write(struct bus_device *dev, uint64_t addr, unsigned len, const void *val)
{
	struct pic *p = container_of(dev, struct pic_ports, dev)->pic;
	int idx;

	if (len != 1) /* taken and ignored, as by KVM */
		return 0;
	idx = irq_enter(p->vm);
	pic_lock(p);
	write_port(p, addr, *(const uint8_t *)val);
	pic_unlock(p);
	irq_leave(p->vm, idx);
	return 0;
}

static int pic_read(struct bus_device *dev, uint64_t addr, unsigned len, void *val)
{
	struct pic *p = container_of(dev, struct pic_ports, dev)->pic;
	int idx;

	memset(val, 0, len);
	if (len != 1)
		return 0;
	idx = irq_enter(p->vm);
	pic_lock(p);
	*(uint8_t *)val = read_port(p, addr);
	pic_unlock(p);
	irq_leave(p->vm, idx);
	return 0;
}

static const struct bus_device_ops pic_ops = {.read = pic_read, .write = pic_write};

/* -- State -- */

void pic_get(struct pic *p, unsigned which, struct kvm_pic_state *s)
{
	int idx = irq_enter(p->vm);

	pic_lock(p);
	*s = p->chip[which];
	pic_unlock(p);
	irq_leave(p->vm, idx);
}

void pic_set(struct pic *p, unsigned which, const struct kvm_pic_state *s)
{
	int idx = irq_enter(p->vm);

	pic_lock(p);
	p->chip[which] = *s;
	p->chip[which].priority_add &= 7;
	update(p);
	pic_unlock(p);
	irq_leave(p->vm, idx);
}

/* -- Life -- */

/* Takes the first n port ranges off the bus again. slots_lock held. */
static void unplug(struct pic *p, unsigned n)
{
	while (n--)
		bus_unregister(p->vm->bus, BUS_PIO, &p->ports[n].dev);
}

/* Puts the three port ranges on the bus. */
static int plug(struct pic *p)
{
	static const uint16_t port[] = {0x20, 0xa0, PORT_ELCR};
	unsigned i;
	int r = 0;

	mutex_lock(p->vm->slots_lock);
	for (i = 0; i < ARRAY_SIZE(port); i++) {
		p->ports[i] = (struct pic_ports){.dev.ops = &pic_ops, .pic = p};
		r = bus_register(p->vm->bus, BUS_PIO, port[i], 2, &p->ports[i].dev);
		if (r < 0)
			break;
	}
	if (r < 0)
		unplug(p, i);
	mutex_unlock(p->vm->slots_lock);
	return r;
}

int pic_create(struct irq_vm *v)
{
	struct pic *p = base_zalloc(sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->vm = v;
	spin_init(&p->lock, LOCK_PIC);
	p->chip[0].elcr_mask = 0xf8;
	p->chip[1].elcr_mask = 0xde;
	r = plug(p);
	if (r < 0) {
		base_free(p);
		return r;
	}
	v->pic = p;
	return 0;
}

void pic_destroy(struct irq_vm *v)
{
	if (!v->pic)
		return;
	mutex_lock(v->slots_lock);
	unplug(v->pic, ARRAY_SIZE(v->pic->ports));
	mutex_unlock(v->slots_lock);
	base_free(v->pic);
	v->pic = NULL;
}
