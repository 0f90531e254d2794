/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hyper-V's synthetic interrupt controller: 16 sources with a message slot each, and four timers that use them. */
#include "vcpu/hyperv.h"
#include "vcpu/internal.h"

#define SINT_MASKED	BIT(16)
#define SINT_AUTO_EOI	BIT(17)
#define FIRST_VECTOR	16
#define SYNIC_VERSION	1
#define SYNIC_ENABLED	1
#define MSG_SIZE	256
#define MSG_EXPIRED	0x80000010U
#define MSG_PENDING	1 /* of a message's flags */
#define NEVER_NS	(INT64_MAX / 2)
#define TIMER_ENABLE	BIT(0)
#define TIMER_PERIODIC	BIT(1)
#define TIMER_AUTO	BIT(3)
#define TIMER_VECTOR(c) ((uint8_t)((c) >> 4))
#define TIMER_DIRECT	BIT(12)
#define TIMER_SINT(c)	((unsigned)((c) >> 16) & 0xf)

/* A timer's message, as the guest finds it in its SINT's slot. */
struct timer_msg {
	uint32_t type;
	uint8_t payload_size, flags, reserved[2];
	uint64_t sender;
	uint32_t timer_index, reserved2;
	uint64_t expiration_time, delivery_time;
};

/* -- Sources -- */

static int vector_of(uint64_t sint)
{
	return sint & SINT_MASKED ? -1 : (int)(sint & 0xff);
}

/* What the LAPIC has to know of a vector after some SINT changed. */
static void update_vector(struct vcpu *v, uint8_t vector)
{
	bool connected = false, auto_eoi = false;

	if (vector < FIRST_VECTOR || !v->lapic)
		return;
	for (unsigned i = 0; i < HV_SINTS; i++) {
		uint64_t sint = atomic_load(&v->hv.synic.sint[i]);

		if (vector_of(sint) != vector)
			continue;
		connected = true;
		auto_eoi |= !!(sint & SINT_AUTO_EOI);
	}
	lapic_set_synic(v->lapic, vector, connected, auto_eoi);
}

/* A masked source may name any vector: guests write reset values back. */
static int set_sint(struct vcpu *v, unsigned i, uint64_t val, bool host)
{
	uint8_t old;

	if ((val & 0xff) < FIRST_VECTOR && !host && !(val & SINT_MASKED))
		return -EINVAL;
	old = (uint8_t)atomic_exchange(&v->hv.synic.sint[i], val);
	update_vector(v, old);
	update_vector(v, (uint8_t)val);
	return 0;
}

/* 1 = the interrupt was taken, 0 = not, -ENOENT masked. */
static int raise_sint(struct vcpu *v, unsigned i)
{
	int vector = vector_of(atomic_load(&v->hv.synic.sint[i]));

	if (vector < 0)
		return -ENOENT;
	return v->lapic ? lapic_interrupt(v->lapic, (uint8_t)vector) : -EINVAL;
}

static void mark(struct hv_stimer *t)
{
	atomic_fetch_or(&t->vcpu->hv.stimer_pending, 1u << t->index);
	vcpu_request(t->vcpu, VCPU_REQ_HV_STIMER | VCPU_REQ_EVENT);
}

/* The guest took a source's message: those that found the slot full try again. */
static void acknowledged(struct vcpu *v, unsigned sint)
{
	for (unsigned i = 0; i < HV_STIMERS; i++) {
		struct hv_stimer *t = &v->hv.stimer[i];

		if (t->msg_pending && (t->config & TIMER_ENABLE) && !(t->config & TIMER_DIRECT) &&
		    TIMER_SINT(t->config) == sint)
			mark(t);
	}
	irq_notify_sint(v->vm->irq, atomic_load(&v->hv.vp_index), sint);
}

int synic_raise(struct vcpu_vm *vm, uint32_t vp, uint32_t sint)
{
	unsigned n = atomic_load(&vm->nr_vcpus);

	for (unsigned i = 0; i < n && sint < HV_SINTS; i++) {
		struct vcpu *v = atomic_load(&vm->vcpus[i]);

		if (v && atomic_load(&v->hv.vp_index) == vp)
			return atomic_load(&v->hv.synic.active) ? raise_sint(v, sint) : -EINVAL;
	}
	return -EINVAL;
}

void synic_eoi(struct vcpu *v, uint8_t vector)
{
	for (unsigned i = 0; i < HV_SINTS; i++)
		if (vector_of(atomic_load(&v->hv.synic.sint[i])) == vector)
			acknowledged(v, i);
}

/* -- MSRs -- */

static void tell_vmm(struct vcpu *v, uint32_t index)
{
	v->hv.exit = (struct kvm_hyperv_exit){.type = KVM_EXIT_HYPERV_SYNIC,
					      .u.synic = {.msr = index,
							  .control = v->hv.synic.control,
							  .evt_page = v->hv.synic.evt_page,
							  .msg_page = v->hv.synic.msg_page}};
	vcpu_request(v, VCPU_REQ_HV_EXIT);
}

/* The event flags' or the messages' page. */
static int set_page(struct vcpu *v, uint64_t *field, uint64_t val, bool host)
{
	static const uint8_t zeros[PAGE_SIZE];

	if ((val & HV_PAGE_ENABLE) && !host && !v->hv.synic.keep_pages &&
	    mem_write(v->vm->mem, 0, val & ~PAGE_OFFSET_MASK, zeros, PAGE_SIZE))
		return -EINVAL;
	*field = val;
	return 0;
}

int synic_get_msr(struct vcpu *v, uint32_t index, uint64_t *val, bool host)
{
	if (!atomic_load(&v->hv.synic.active) && !host)
		return -EINVAL;
	switch (index) {
	case HV_SCONTROL: *val = v->hv.synic.control; return 0;
	case HV_SVERSION: *val = v->hv.synic.version; return 0;
	case HV_SIEFP: *val = v->hv.synic.evt_page; return 0;
	case HV_SIMP: *val = v->hv.synic.msg_page; return 0;
	case HV_EOM: *val = 0; return 0;
	default:
		if (index < HV_SINT0)
			return -EINVAL;
		*val = atomic_load(&v->hv.synic.sint[index - HV_SINT0]);
		return 0;
	}
}

static int set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	switch (index) {
	case HV_SCONTROL: v->hv.synic.control = val; return 0;
	case HV_SVERSION:
		if (!host)
			return -EINVAL;
		v->hv.synic.version = val;
		return 0;
	case HV_SIEFP: return set_page(v, &v->hv.synic.evt_page, val, host);
	case HV_SIMP: return set_page(v, &v->hv.synic.msg_page, val, host);
	case HV_EOM:
		for (unsigned i = 0; i < HV_SINTS && atomic_load(&v->hv.synic.active); i++)
			acknowledged(v, i);
		return 0;
	default: return index < HV_SINT0 ? -EINVAL : set_sint(v, index - HV_SINT0, val, host);
	}
}

int synic_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	int r;

	if (!atomic_load(&v->hv.synic.active) && (!host || val))
		return -EINVAL;
	r = set_msr(v, index, val, host);
	if (!r && !host && (index == HV_SCONTROL || index == HV_SIEFP || index == HV_SIMP))
		tell_vmm(v, index);
	return r;
}

int synic_activate(struct vcpu *v, bool keep_pages)
{
	if (!v->lapic)
		return -EINVAL;
	v->hv.synic.keep_pages = keep_pages;
	v->hv.synic.control = SYNIC_ENABLED;
	atomic_store(&v->hv.synic.active, true);
	return 0;
}

/* -- Timers -- */

static void on_timer(void *arg)
{
	mark(arg);
}

static void timer_stop(struct hv_stimer *t)
{
	loop_timer_cancel(&t->timer);
	atomic_fetch_and(&t->vcpu->hv.stimer_pending, ~(1u << t->index));
	t->msg_pending = false;
	t->exp_time = 0;
}

/* count is not 0, the timer is enabled. */
static void timer_start(struct hv_stimer *t)
{
	uint64_t now = hyperv_time(t->vcpu), now_ns = base_now_ns(), delta;

	if (t->config & TIMER_PERIODIC) {
		if (!t->exp_time)
			t->exp_time = now + t->count;
		else if (now >= t->exp_time)
			t->exp_time = now + (t->count - (now - t->exp_time) % t->count);
	} else {
		t->exp_time = t->count;
	}
	if (now >= t->exp_time) { /* one shot in the past: at once */
		mark(t);
		return;
	}
	delta = t->exp_time - now;
	loop_timer_set(&t->timer, delta >= NEVER_NS / 100 ? NEVER_NS : now_ns + delta * 100);
}

/* Puts a message into a SINT's slot. -EAGAIN: full, the guest will say when not. */
static int deliver(struct vcpu *v, unsigned sint, const struct timer_msg *m, bool no_retry)
{
	uint64_t gpa = (v->hv.synic.msg_page & ~PAGE_OFFSET_MASK) + sint * MSG_SIZE;
	uint8_t pending = MSG_PENDING;
	uint32_t type;
	int r;

	if (!(v->hv.synic.msg_page & HV_PAGE_ENABLE))
		return -ENOENT;
	r = mem_read(v->vm->mem, vcpu_as(v), gpa, &type, sizeof(type));
	if (r)
		return r;
	if (type) {
		if (no_retry)
			return 0;
		r = mem_write(v->vm->mem, vcpu_as(v), gpa + offsetof(struct timer_msg, flags), &pending, 1);
		return r ? r : -EAGAIN;
	}
	r = mem_write(v->vm->mem, vcpu_as(v), gpa, m, sizeof(*m));
	if (!r)
		r = raise_sint(v, sint);
	return r < 0 ? r : r ? 0 : -EFAULT;
}

static void expire(struct hv_stimer *t)
{
	struct vcpu *v = t->vcpu;
	struct timer_msg m = {.type = MSG_EXPIRED,
			      .payload_size = sizeof(m) - offsetof(struct timer_msg, timer_index),
			      .timer_index = t->index,
			      .expiration_time = t->exp_time,
			      .delivery_time = hyperv_time(v)};
	int r;

	t->msg_pending = true;
	if (t->config & TIMER_DIRECT)
		r = v->lapic && !lapic_interrupt(v->lapic, TIMER_VECTOR(t->config));
	else
		r = deliver(v, TIMER_SINT(t->config), &m, t->config & TIMER_PERIODIC);
	if (r)
		return;
	t->msg_pending = false;
	if (!(t->config & TIMER_PERIODIC))
		t->config &= ~TIMER_ENABLE;
}

void stimer_process(struct vcpu *v)
{
	uint32_t due = atomic_exchange(&v->hv.stimer_pending, 0);

	for (; due; due &= due - 1) {
		struct hv_stimer *t = &v->hv.stimer[__builtin_ctz(due)];

		if (!(t->config & TIMER_ENABLE))
			continue;
		if (t->exp_time && hyperv_time(v) >= t->exp_time)
			expire(t);
		if (!(t->config & TIMER_ENABLE) || !t->count)
			timer_stop(t);
		else if (!t->msg_pending)
			timer_start(t);
	}
}

bool stimer_waits(const struct vcpu *v)
{
	return atomic_load_explicit(&v->hv.stimer_pending, memory_order_relaxed) != 0;
}

int stimer_get_msr(struct vcpu *v, uint32_t index, uint64_t *val)
{
	const struct hv_stimer *t = &v->hv.stimer[(index - HV_STIMER0_CONFIG) / 2];

	*val = index & 1 ? t->count : t->config;
	return 0;
}

static int set_config(struct vcpu *v, struct hv_stimer *t, uint64_t val, bool host)
{
	if (!host && v->hv.enforce && (val & TIMER_DIRECT) && !(v->hv.cpuid.edx & HV_D_STIMER_DIRECT))
		return -EINVAL;
	if ((t->config & TIMER_ENABLE) && !(val & TIMER_DIRECT) && !TIMER_SINT(val))
		val &= ~TIMER_ENABLE;
	timer_stop(t);
	t->config = val;
	return 0;
}

static void set_count(struct hv_stimer *t, uint64_t val, bool host)
{
	timer_stop(t);
	t->count = val;
	if (host)
		return;
	if (!val)
		t->config &= ~TIMER_ENABLE;
	else if (t->config & TIMER_AUTO)
		t->config |= TIMER_ENABLE;
}

int stimer_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	struct hv_stimer *t = &v->hv.stimer[(index - HV_STIMER0_CONFIG) / 2];
	int r = 0;

	if (!atomic_load(&v->hv.synic.active) && (!host || val))
		return -EINVAL;
	if (index & 1)
		set_count(t, val, host);
	else
		r = set_config(v, t, val, host);
	if (!r && (t->config & TIMER_ENABLE))
		mark(t);
	return r;
}

/* -- Birth and end -- */

void synic_init(struct vcpu *v)
{
	v->hv.synic.version = SYNIC_VERSION;
	for (unsigned i = 0; i < HV_SINTS; i++)
		atomic_store(&v->hv.synic.sint[i], SINT_MASKED);
	for (unsigned i = 0; i < HV_STIMERS; i++) {
		struct hv_stimer *t = &v->hv.stimer[i];

		t->vcpu = v;
		t->index = i;
		loop_timer_init(&t->timer, on_timer, t);
	}
}

void synic_destroy(struct vcpu *v)
{
	for (unsigned i = 0; i < HV_STIMERS; i++)
		loop_timer_cancel(&v->hv.stimer[i].timer);
}
