/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The LAPIC as the VMM sees it: creation, reset, IA32_APIC_BASE, KVM_GET_LAPIC and KVM_SET_LAPIC. */
#include "irq/lapic.h"

#define DEFAULT_BASE  0xfee00000ULL
#define BASE_RESERVED 0x2ffULL
#define VERSION	      0x50014u /* version 0x14, six LVT entries */
#define ICR_BUSY      0x1000u

/* Where a word of the register page lies in the ioctl's structure. */
static uint32_t state_get(const struct kvm_lapic_state *s, uint32_t offset)
{
	uint32_t v;

	memcpy(&v, s->regs + offset, sizeof(v));
	return v;
}

static void state_put(struct kvm_lapic_state *s, uint32_t offset, uint32_t v)
{
	memcpy(s->regs + offset, &v, sizeof(v));
}

/* -- Life -- */

int lapic_create(struct lapic **out, struct irq_vm *v, void *vcpu, uint32_t id, bool bsp)
{
	struct lapic *l = base_zalloc(sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->vm = v;
	l->vcpu = vcpu;
	l->id = id;
	l->bsp = bsp;
	lapic_timer_setup(l);
	lapic_reset(l, false);
	r = apic_join(v, l);
	if (r < 0) {
		base_free(l);
		return r;
	}
	*out = l;
	return 0;
}

void lapic_destroy(struct lapic *l)
{
	if (!l)
		return;
	apic_leave(l->vm, l);
	lapic_timer_stop(l);
	loop_timer_cancel(&l->timer);
	base_free(l);
}

/* The version register: directed EOI is offered where the VMM's IOAPIC may have an EOI register. */
static void set_version(struct lapic *l)
{
	bool split = irq_get_mode(l->vm) == IRQ_MODE_SPLIT;

	lapic_put(l, APIC_VERSION, (VERSION + (l->cmci ? 1 << 16 : 0)) | (split ? VERSION_DIRECTED_EOI : 0));
}

static void put_base(struct lapic *l, uint64_t base)
{
	atomic_store_explicit(&l->base, base, memory_order_relaxed);
}

/* Id and LDR as the mode has them. */
static void set_id(struct lapic *l, bool x2apic)
{
	lapic_put(l, APIC_ID, x2apic ? l->id : l->id << 24);
	if (x2apic)
		lapic_put(l, APIC_LDR, x2apic_ldr(l->id));
}

void lapic_reset(struct lapic *l, bool init)
{
	uint32_t offset;

	lapic_timer_stop(l);
	if (!init) {
		put_base(l, DEFAULT_BASE | BASE_ENABLED | (l->bsp ? BASE_BSP : 0));
		set_id(l, false);
	}
	set_version(l);
	for (offset = APIC_LVTT; offset <= APIC_LVTERR; offset += 16)
		lapic_put(l, offset, LVT_MASKED);
	lapic_put(l, APIC_LVTCMCI, l->cmci ? LVT_MASKED : 0);
	if (l->bsp) /* firmware expects the PIC to reach the boot vCPU (KVM_X86_QUIRK_LINT0_REENABLED) */
		lapic_put(l, APIC_LVT0, DM_EXTINT << 8);
	lapic_timer_mode_changed(l);
	lapic_put(l, APIC_DFR, 0xffffffff);
	lapic_put(l, APIC_SPIV, 0xff);
	lapic_put(l, APIC_TPR, 0);
	if (!lapic_x2apic(l))
		lapic_put(l, APIC_LDR, 0);
	lapic_put(l, APIC_ESR, 0);
	atomic_store(&l->errors, 0);
	lapic_put(l, APIC_ICR, 0);
	lapic_put(l, APIC_ICR2, 0);
	lapic_put(l, APIC_TMICT, 0);
	lapic_put(l, APIC_TDCR, 0);
	lapic_timer_divide_changed(l);
	for (offset = 0; offset < 0x80; offset += 16) {
		lapic_put(l, APIC_IRR + offset, 0);
		lapic_put(l, APIC_ISR + offset, 0);
		lapic_put(l, APIC_TMR + offset, 0);
	}
	if (!init)
		apic_map_update(l->vm);
}

/* -- IA32_APIC_BASE -- */

uint64_t lapic_get_base(const struct lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed);
}

int lapic_set_base(struct lapic *l, uint64_t base, bool host, bool x2apic_allowed, uint64_t reserved)
{
	uint64_t old = lapic_get_base(l), mode = base & (BASE_ENABLED | BASE_X2APIC);
	uint64_t old_mode = old & (BASE_ENABLED | BASE_X2APIC);

	if (base & (reserved | BASE_RESERVED | (x2apic_allowed ? 0 : BASE_X2APIC)))
		return -EINVAL;
	if (mode == BASE_X2APIC)
		return -EINVAL;
	if (!host) {
		/* SDM 3A 11.12.5: x2APIC is left only by disabling, and entered only from xAPIC. */
		if (old_mode == (BASE_ENABLED | BASE_X2APIC) && mode == BASE_ENABLED)
			return -EINVAL;
		if (!old_mode && mode == (BASE_ENABLED | BASE_X2APIC))
			return -EINVAL;
	}
	put_base(l, base);
	if (mode == old_mode)
		return 0;
	if ((base & ~old) & BASE_ENABLED)
		set_id(l, false);
	if ((base & ~old) & BASE_X2APIC)
		set_id(l, true);
	else if (mode == BASE_ENABLED && (old & BASE_X2APIC)) /* the host steps back to xAPIC */
		set_id(l, false);
	apic_map_update(l->vm);
	lapic_recheck(l);
	return 0;
}

void lapic_set_features(struct lapic *l, bool tsc_deadline)
{
	l->tsc_deadline = tsc_deadline;
}

void lapic_set_cmci(struct lapic *l, bool cmci)
{
	if (l->cmci == cmci)
		return;
	l->cmci = cmci;
	lapic_put(l, APIC_LVTCMCI, cmci ? LVT_MASKED : 0);
	set_version(l);
}

/* -- State -- */

static bool ids_32bit(const struct lapic *l)
{
	return atomic_load_explicit(&l->vm->x2apic_api, memory_order_relaxed) & X2APIC_32BIT_IDS;
}

int lapic_get_state(struct lapic *l, struct kvm_lapic_state *s)
{
	uint32_t offset;

	lapic_timer_settle(l);
	memset(s, 0, sizeof(*s));
	for (offset = 0; offset < APIC_WORDS * 16; offset += 16)
		state_put(s, offset, lapic_reg(l, offset));
	state_put(s, APIC_TMCCT, lapic_timer_current(l));
	if (lapic_x2apic(l) && !ids_32bit(l))
		state_put(s, APIC_ID, l->id << 24);
	return 0;
}

int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *s)
{
	bool x2apic = lapic_x2apic(l);
	uint64_t deadline = l->tscdeadline;
	uint32_t offset;

	if (x2apic && ids_32bit(l) && state_get(s, APIC_ID) != l->id)
		return -EINVAL;
	lapic_timer_stop(l);
	for (offset = 0; offset < APIC_WORDS * 16; offset += 16)
		lapic_put(l, offset, state_get(s, offset));
	lapic_put(l, APIC_ICR, state_get(s, APIC_ICR) & ~ICR_BUSY);
	lapic_put(l, APIC_TMCCT, 0);
	if (x2apic)
		set_id(l, true);
	set_version(l);
	lapic_timer_mode_changed(l);
	/* A mode change has cleared TMICT: what counts is what the VMM gave. */
	lapic_put(l, APIC_TMICT, state_get(s, APIC_TMICT));
	lapic_timer_divide_changed(l);
	if (l->timer_mode == TIMER_TSC)
		l->tscdeadline = deadline;
	lapic_timer_resume(l, state_get(s, APIC_TMCCT));
	apic_map_update(l->vm);
	l->vm->port->kick(l->vcpu);
	return 0;
}
