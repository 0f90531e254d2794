/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The i8254 timer: three channels and the speaker port. Channel 0 drives GSI 0 from the event loop.
 *
 * Lost ticks: with reinjection (the default) a tick that the guest has not acknowledged yet is counted and
 * sent after the acknowledge; without, it is dropped as on a busy machine.
 */
#include "irq/lapic.h"

#define PIT_HZ	      1193182
#define SECOND_NS     1000000000ULL
#define MIN_PERIOD_NS 200000 /* periodic only: a guest cannot keep the event loop busy */
#define PORT_PIT      0x40
#define PORT_SPEAKER  0x61
#define MODE_NONE     0xff /* not programmed since reset */

/* Access of a channel's count: what RW of the control word means, and the second half of a word. */
enum { RW_LATCH, RW_LSB, RW_MSB, RW_WORD, RW_WORD2 };

struct pit {
	struct irq_vm *vm;
	struct bus_device dev, speaker;
	bool has_speaker;
	struct mutex lock; /* from here to deadline */
	struct kvm_pit_channel_state ch[3];
	uint32_t flags;		   /* KVM_PIT_FLAGS_* */
	bool periodic;		   /* channel 0 */
	uint64_t period, deadline; /* ns; deadline 0 = channel 0 does not tick */
	struct loop_timer tick;
	struct loop_timer again; /* a lost tick is due */
	struct irq_ack ack;
	_Atomic bool reinject;
	_Atomic int pending; /* ticks not acknowledged yet */
	_Atomic bool acked;  /* the last one was */
};

/* -- Channels; lock held -- */

/* Ticks since the count was loaded. */
static uint64_t elapsed(const struct kvm_pit_channel_state *c)
{
	int64_t ns = (int64_t)base_now_ns() - c->count_load_time;

	return ns > 0 ? mul_div64(ns, PIT_HZ, SECOND_NS) : 0;
}

/* The counter as a read would see it. */
static uint32_t counter(const struct kvm_pit_channel_state *c)
{
	uint64_t d = elapsed(c);

	switch (c->mode) {
	case 0:
	case 1:
	case 4:
	case 5: return (c->count - d) & 0xffff;
	case 3: return c->count - (2 * d) % c->count; /* counts by two */
	default: return c->count - d % c->count;
	}
}

/* The OUT pin. */
static bool out(const struct kvm_pit_channel_state *c)
{
	uint64_t d = elapsed(c);

	switch (c->mode) {
	case 1: return d < c->count;
	case 2: return d % c->count == 0 && d != 0;
	case 3: return d % c->count < (c->count + 1) >> 1;
	case 4:
	case 5: return d == c->count;
	default: return d >= c->count;
	}
}

/* A rising gate starts the count again in the modes that listen to it. */
static void set_gate(struct kvm_pit_channel_state *c, bool gate)
{
	bool restarts = c->mode == 1 || c->mode == 2 || c->mode == 3 || c->mode == 5;

	if (restarts && gate && !c->gate)
		c->count_load_time = base_now_ns();
	c->gate = gate;
}

static void latch_count(struct kvm_pit_channel_state *c)
{
	if (c->count_latched)
		return;
	c->latched_count = counter(c);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct kvm_pit_channel_state *c)
{
	if (c->status_latched)
		return;
	c->status = out(c) << 7 | (c->rw_mode & 3) << 4 | (c->mode & 7) << 1 | (c->bcd & 1);
	c->status_latched = 1;
}

/* -- Channel 0's interrupt -- */

/* What was lost so far is forgotten, and the next tick need not wait for an acknowledge. */
static void reset_reinject(struct pit *p)
{
	atomic_store(&p->pending, 0);
	atomic_store(&p->acked, true);
}

void pit_unmasked(struct pit *p)
{
	reset_reinject(p);
}

/* LINT0 as NMI: the PIT is then a watchdog of every vCPU that has it so. */
static void kick_watchdogs(struct irq_vm *v)
{
	unsigned i, n = atomic_load_explicit(&v->nr_slots, memory_order_acquire);
	int idx = irq_enter(v);

	for (i = 0; i < n; i++) {
		struct lapic *l = atomic_load_explicit(&v->lapics[i], memory_order_acquire);

		if (l && LVT_MODE(lapic_reg(l, APIC_LVT0)) == DM_NMI)
			lapic_local_deliver(l, APIC_LVT0);
	}
	irq_leave(v, idx);
}

/* Sends one tick, unless the previous one still waits for its acknowledge. No lock held. */
static void inject(struct pit *p)
{
	if (atomic_load(&p->reinject) && !atomic_exchange(&p->acked, false))
		return;
	irq_set_line(p->vm, IRQ_SOURCE_PIT, 0, 1, NULL);
	irq_set_line(p->vm, IRQ_SOURCE_PIT, 0, 0, NULL);
	kick_watchdogs(p->vm);
}

/* On the loop: channel 0 expired. */
static void on_tick(void *arg)
{
	struct pit *p = arg;
	uint64_t now = base_now_ns(), n = 0;

	mutex_lock(&p->lock);
	if (p->deadline && now >= p->deadline) {
		n = p->periodic ? (now - p->deadline) / p->period + 1 : 1;
		p->deadline = p->periodic ? p->deadline + n * p->period : 0;
	}
	if (p->deadline)
		loop_timer_set(&p->tick, p->deadline);
	mutex_unlock(&p->lock);
	if (!n)
		return;
	if (atomic_load(&p->reinject))
		atomic_fetch_add(&p->pending, MIN(n, 1000000ULL));
	inject(p);
}

/* On the loop: the guest acknowledged and more ticks are owed. */
static void on_again(void *arg)
{
	inject(arg);
}

/* Ack notifier of GSI 0: one tick less is owed. Any thread, under irq_srcu. */
static void on_ack(struct irq_ack *ack)
{
	struct pit *p = container_of(ack, struct pit, ack);
	int owed;

	/* acked before pending is read; on_tick adds to pending before inject looks at acked. */
	atomic_store(&p->acked, true);
	owed = atomic_load(&p->pending);
	while (owed > 0 && !atomic_compare_exchange_weak(&p->pending, &owed, owed - 1))
		;
	if (owed > 1)
		loop_timer_set(&p->again, 1);
}

/* -- Loading -- */

/* Arms or stops channel 0's tick for the count just loaded. lock held. */
static void start_tick(struct pit *p)
{
	const struct kvm_pit_channel_state *c = &p->ch[0];

	p->deadline = 0;
	if (p->flags & KVM_PIT_FLAGS_HPET_LEGACY) /* the HPET drives GSI 0 */
		return;
	switch (c->mode) {
	case 0:
	case 1:
	case 4: p->periodic = false; break;
	case 2:
	case 3: p->periodic = true; break;
	default: return;
	}
	p->period = mul_div64(c->count, SECOND_NS, PIT_HZ);
	if (p->periodic)
		p->period = MAX(p->period, (uint64_t)MIN_PERIOD_NS);
	p->period = MAX(p->period, 1ULL);
	reset_reinject(p);
	p->deadline = c->count_load_time + p->period;
	loop_timer_set(&p->tick, p->deadline);
}

/* Loads a count; 0 is the largest. lock held. */
static void load_count(struct pit *p, unsigned n, uint32_t val)
{
	p->ch[n].count = val ? val : 0x10000;
	p->ch[n].count_load_time = base_now_ns();
	if (n == 0)
		start_tick(p);
}

/* -- Ports -- */

/* The control word: read-back of several channels, latch of one, or a new mode. lock held. */
static void write_control(struct pit *p, uint8_t val)
{
	unsigned n = val >> 6, i;
	struct kvm_pit_channel_state *c;

	if (n == 3) {
		for (i = 0; i < 3; i++) {
			if (!(val & (2 << i)))
				continue;
			if (!(val & 0x20))
				latch_count(&p->ch[i]);
			if (!(val & 0x10))
				latch_status(&p->ch[i]);
		}
		return;
	}
	c = &p->ch[n];
	if (!(val >> 4 & 3)) {
		latch_count(c);
		return;
	}
	c->rw_mode = c->read_state = c->write_state = val >> 4 & 3;
	c->mode = val >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4;
	c->bcd = val & 1;
}

/* One byte of a channel's count. lock held. */
static void write_count(struct pit *p, unsigned n, uint8_t val)
{
	struct kvm_pit_channel_state *c = &p->ch[n];

	switch (c->write_state) {
	case RW_MSB: load_count(p, n, val << 8); break;
	case RW_WORD:
		c->write_latch = val;
		c->write_state = RW_WORD2;
		break;
	case RW_WORD2:
		c->write_state = RW_WORD;
		load_count(p, n, c->write_latch | val << 8);
		break;
	default: load_count(p, n, val); break;
	}
}

/* One byte of a channel: latched status first, then a latched count, then the counter. lock held. */
static uint8_t read_count(struct kvm_pit_channel_state *c)
{
	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched) {
		uint8_t half = c->count_latched;

		c->count_latched = half == RW_WORD ? RW_MSB : 0;
		return half == RW_MSB ? c->latched_count >> 8 : c->latched_count;
	}
	switch (c->read_state) {
	case RW_MSB: return counter(c) >> 8;
	case RW_WORD: c->read_state = RW_WORD2; return counter(c);
	case RW_WORD2: c->read_state = RW_WORD; return counter(c) >> 8;
	default: return counter(c);
	}
}

static int pit_write(struct bus_device *dev, uint64_t addr, unsigned len, const void *val)
{
	struct pit *p = container_of(dev, struct pit, dev);
	uint8_t v = *(const uint8_t *)val;
	unsigned port = addr & 3;

	mutex_lock(&p->lock);
	if (port == 3)
		write_control(p, v);
	else
		write_count(p, port, v);
	mutex_unlock(&p->lock);
	return 0;
}

static int pit_read(struct bus_device *dev, uint64_t addr, unsigned len, void *val)
{
	struct pit *p = container_of(dev, struct pit, dev);
	unsigned port = addr & 3;

	memset(val, 0, len);
	if (port == 3)
		return 0;
	mutex_lock(&p->lock);
	*(uint8_t *)val = read_count(&p->ch[port]);
	mutex_unlock(&p->lock);
	return 0;
}

static int speaker_write(struct bus_device *dev, uint64_t addr, unsigned len, const void *val)
{
	struct pit *p = container_of(dev, struct pit, speaker);
	uint8_t v = *(const uint8_t *)val;

	mutex_lock(&p->lock);
	if (v & 2)
		p->flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	else
		p->flags &= ~KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	set_gate(&p->ch[2], v & 1);
	mutex_unlock(&p->lock);
	return 0;
}

static int speaker_read(struct bus_device *dev, uint64_t addr, unsigned len, void *val)
{
	struct pit *p = container_of(dev, struct pit, speaker);
	uint8_t v;

	memset(val, 0, len);
	mutex_lock(&p->lock);
	v = p->ch[2].gate | !!(p->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) << 1;
	v |= (base_now_ns() >> 14 & 1) << 4; /* the DRAM refresh toggles, about every 15 us */
	v |= out(&p->ch[2]) << 5;
	mutex_unlock(&p->lock);
	*(uint8_t *)val = v;
	return 0;
}

static const struct bus_device_ops pit_ops = {.read = pit_read, .write = pit_write};
static const struct bus_device_ops speaker_ops = {.read = speaker_read, .write = speaker_write};

/* -- Ioctls -- */

int irq_get_pit(struct irq_vm *v, struct kvm_pit_state2 *s)
{
	struct pit *p = atomic_load(&v->pit);

	if (!p)
		return -ENXIO;
	memset(s, 0, sizeof(*s));
	mutex_lock(&p->lock);
	memcpy(s->channels, p->ch, sizeof(p->ch));
	s->flags = p->flags;
	mutex_unlock(&p->lock);
	return 0;
}

int irq_set_pit(struct irq_vm *v, const struct kvm_pit_state2 *s)
{
	struct pit *p = atomic_load(&v->pit);
	unsigned i;

	if (!p)
		return -ENXIO;
	mutex_lock(&p->lock);
	p->flags = s->flags;
	memcpy(p->ch, s->channels, sizeof(p->ch));
	for (i = 0; i < 3; i++) {
		p->ch[i].gate = p->ch[i].gate != 0;
		load_count(p, i, p->ch[i].count);
	}
	mutex_unlock(&p->lock);
	return 0;
}

int irq_set_pit_reinject(struct irq_vm *v, bool reinject)
{
	struct pit *p = atomic_load(&v->pit);

	if (!p)
		return -ENXIO;
	if (atomic_load(&p->reinject) == reinject)
		return 0;
	if (reinject) {
		reset_reinject(p);
		irq_ack_add(v, &p->ack);
		atomic_store(&p->reinject, true);
	} else {
		atomic_store(&p->reinject, false);
		irq_ack_del(v, &p->ack);
	}
	return 0;
}

/* -- Life -- */

/* State after power-on: nothing counts, the speaker's gate is closed. */
static void reset(struct pit *p)
{
	unsigned i;

	mutex_lock(&p->lock);
	for (i = 0; i < 3; i++) {
		p->ch[i].mode = MODE_NONE;
		p->ch[i].gate = i != 2;
		load_count(p, i, 0);
	}
	mutex_unlock(&p->lock);
}

/* Puts the ports on the bus. */
static int plug(struct pit *p)
{
	int r;

	mutex_lock(p->vm->slots_lock);
	r = bus_register(p->vm->bus, BUS_PIO, PORT_PIT, 4, &p->dev);
	if (!r && p->has_speaker) {
		r = bus_register(p->vm->bus, BUS_PIO, PORT_SPEAKER, 1, &p->speaker);
		if (r < 0)
			bus_unregister(p->vm->bus, BUS_PIO, &p->dev);
	}
	mutex_unlock(p->vm->slots_lock);
	return r;
}

int irq_create_pit(struct irq_vm *v, const struct kvm_pit_config *cfg)
{
	struct pit *p;
	int r;

	if (atomic_load(&v->pit))
		return -EEXIST;
	if (irq_get_mode(v) != IRQ_MODE_KERNEL)
		return -ENOENT;
	p = base_zalloc(sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->vm = v;
	p->dev.ops = &pit_ops;
	p->speaker.ops = &speaker_ops;
	p->has_speaker = cfg->flags & KVM_PIT_SPEAKER_DUMMY;
	p->ack.fn = on_ack;
	mutex_init(&p->lock, LOCK_PIT);
	loop_timer_init(&p->tick, on_tick, p);
	loop_timer_init(&p->again, on_again, p);
	reset(p);
	r = plug(p);
	if (r < 0) {
		base_free(p);
		return r;
	}
	atomic_store_explicit(&v->pit, p, memory_order_release);
	return irq_set_pit_reinject(v, true);
}

void pit_destroy(struct irq_vm *v)
{
	struct pit *p = atomic_load(&v->pit);

	if (!p)
		return;
	mutex_lock(v->slots_lock);
	bus_unregister(v->bus, BUS_PIO, &p->dev);
	if (p->has_speaker)
		bus_unregister(v->bus, BUS_PIO, &p->speaker);
	mutex_unlock(v->slots_lock);
	irq_set_pit_reinject(v, false);
	atomic_store(&v->pit, NULL);
	srcu_synchronize(&v->srcu); /* irq_notify_mask */
	mutex_lock(&p->lock);
	p->deadline = 0;
	mutex_unlock(&p->lock);
	loop_timer_cancel(&p->tick);
	loop_timer_cancel(&p->again);
	base_free(p);
}
