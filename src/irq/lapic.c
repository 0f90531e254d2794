/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The LAPIC as the guest sees it: registers through MMIO and MSRs, priorities, acknowledge, EOI, ICR. */
#include "irq/lapic.h"

#define ICR_BUSY 0x1000u

/* -- Priorities -- */

/* PPR: the higher class of TPR and the highest vector in service (SDM 3A 11.8.3.1). */
static uint32_t processor_priority(const struct lapic *l)
{
	uint32_t tpr = lapic_reg(l, APIC_TPR) & 0xff;
	int isr = lapic_highest(l, APIC_ISR);

	if (isr >= 0 && (isr & 0xf0) > (int)(tpr & 0xf0))
		return isr & 0xf0;
	return tpr;
}

int lapic_pending(const struct lapic *l)
{
	int irr;

	if (!lapic_hw_enabled(l))
		return -1;
	irr = lapic_highest(l, APIC_IRR);
	if (irr < 0 || (irr & 0xf0) <= (int)(processor_priority(l) & 0xf0))
		return -1;
	return irr;
}

static bool synic_has(const _Atomic uint32_t bits[8], uint8_t vector)
{
	return atomic_load_explicit(&bits[vector >> 5], memory_order_relaxed) >> (vector & 31) & 1;
}

int lapic_ack(struct lapic *l)
{
	int vector = lapic_pending(l);

	if (vector < 0)
		return -1;
	if (likely(!synic_has(l->auto_eoi, vector)))
		lapic_bit_set(l, APIC_ISR, vector);
	lapic_bit_clear(l, APIC_IRR, vector);
	return vector;
}

void lapic_recheck(struct lapic *l)
{
	if (irq_cpu_pending(l->vm, l) >= 0)
		l->vm->port->tick(l->vcpu); /* what it tells was told when it came */
}

void lapic_error(struct lapic *l, uint32_t bit)
{
	uint32_t lvt = lapic_reg(l, APIC_LVTERR);

	if (atomic_fetch_or(&l->errors, bit) & bit)
		return;
	if ((lvt & 0xff) >= 16) /* an error about the error's own vector would not end */
		lapic_local_deliver(l, APIC_LVTERR);
}

uint64_t lapic_get_cr8(const struct lapic *l)
{
	return (lapic_reg(l, APIC_TPR) & 0xf0) >> 4;
}

static void set_tpr(struct lapic *l, uint32_t tpr)
{
	uint32_t old = lapic_reg(l, APIC_TPR);

	lapic_put(l, APIC_TPR, tpr);
	if (tpr < old)
		lapic_recheck(l);
}

void lapic_set_cr8(struct lapic *l, uint64_t val)
{
	set_tpr(l, (val & 0xf) << 4);
}

bool lapic_sw_enabled(const struct lapic *l)
{
	return lapic_reg(l, APIC_SPIV) & SPIV_ENABLED;
}

bool lapic_is_bsp(const struct lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed) & BASE_BSP;
}

bool lapic_accepts_extint(const struct lapic *l)
{
	uint32_t v = lapic_reg(l, APIC_LVT0);

	if (!lapic_hw_enabled(l)) /* then INTR is the PIC's wire, and that goes to the boot vCPU */
		return l->bsp;
	return !(v & LVT_MASKED) && LVT_MODE(v) == DM_EXTINT;
}

/* -- EOI -- */

static void end_of_interrupt(struct lapic *l)
{
	int vector = lapic_highest(l, APIC_ISR), idx;
	bool directed;

	if (vector < 0)
		return;
	lapic_bit_clear(l, APIC_ISR, vector);
	directed = lapic_reg(l, APIC_SPIV) & lapic_reg(l, APIC_VERSION) >> 12 & SPIV_DIRECTED_EOI;
	idx = irq_enter(l->vm);
	irq_eoi(l, vector, lapic_bit(l, APIC_TMR, vector), directed);
	irq_leave(l->vm, idx);
	if (unlikely(synic_has(l->synic, vector)))
		l->vm->port->synic_eoi(l->vcpu, vector);
	lapic_recheck(l);
}

void lapic_set_synic(struct lapic *l, uint8_t vector, bool connected, bool auto_eoi)
{
	uint32_t bit = 1u << (vector & 31);

	if (connected)
		atomic_fetch_or(&l->synic[vector >> 5], bit);
	else
		atomic_fetch_and(&l->synic[vector >> 5], ~bit);
	if (auto_eoi)
		atomic_fetch_or(&l->auto_eoi[vector >> 5], bit);
	else
		atomic_fetch_and(&l->auto_eoi[vector >> 5], ~bit);
}

bool lapic_pv_eoi_wanted(struct lapic *l)
{
	int vector = lapic_highest(l, APIC_ISR), idx, i;
	unsigned in_service = 0;
	bool wanted;

	if (vector < 0 || lapic_highest(l, APIC_IRR) >= 0)
		return false;
	for (i = 0; i < 8; i++)
		in_service += __builtin_popcount(lapic_reg(l, APIC_ISR + i * 16));
	if (in_service != 1)
		return false;
	idx = irq_enter(l->vm);
	wanted = !irq_eoi_needed(l, vector);
	irq_leave(l->vm, idx);
	return wanted;
}

void lapic_pv_eoi_done(struct lapic *l)
{
	end_of_interrupt(l);
}

/* -- Interprocessor interrupts -- */

/* What a write to ICR sends. */
static void send_ipi(struct lapic *l, uint32_t low, uint32_t high)
{
	struct irq_msg m = {
	    .dest = lapic_x2apic(l) ? high : high >> 24,
	    .vector = low,
	    .mode = low >> 8 & 7,
	    .to = low >> 18 & 3,
	    .logical = low >> 11 & 1,
	    .level = low >> 15 & 1,
	    .asserted = low >> 14 & 1,
	};
	int idx;

	if ((m.mode == DM_FIXED || m.mode == DM_LOWEST) && m.vector < 16) {
		lapic_error(l, ESR_SEND_VECTOR);
		return;
	}
	idx = irq_enter(l->vm);
	irq_deliver(l->vm, l, &m, NULL);
	irq_leave(l->vm, idx);
}

/* -- Registers -- */

/* Registers that can be read, by offset / 16. x2APIC: a subset, anything else is #GP. */
#define R(offset) (1ULL << ((offset) >> 4))
#define R8(base)  (0xffULL << ((base) >> 4))
#define READABLE_X2APIC                                                                                   \
	(R(APIC_ID) | R(APIC_VERSION) | R(APIC_TPR) | R(APIC_PPR) | R(APIC_LDR) | R(APIC_SPIV) |          \
	 R8(APIC_ISR) | R8(APIC_TMR) | R8(APIC_IRR) | R(APIC_ESR) | R(APIC_ICR) | R(APIC_LVTT) |          \
	 R(APIC_LVTTHMR) | R(APIC_LVTPC) | R(APIC_LVT0) | R(APIC_LVT1) | R(APIC_LVTERR) | R(APIC_TMICT) | \
	 R(APIC_TMCCT) | R(APIC_TDCR))
#define READABLE_XAPIC (READABLE_X2APIC | R(APIC_ARBPRI) | R(APIC_DFR) | R(APIC_ICR2))

/* Reads one register; false if there is none to read. */
static bool read_reg(struct lapic *l, uint32_t offset, uint32_t *val)
{
	uint64_t readable = lapic_x2apic(l) ? READABLE_X2APIC : READABLE_XAPIC;

	*val = 0;
	if (l->cmci)
		readable |= R(APIC_LVTCMCI);
	if (!(readable >> (offset >> 4) & 1))
		return false;
	switch (offset) {
	case APIC_PPR: *val = processor_priority(l); break;
	case APIC_ARBPRI: break;
	case APIC_TMCCT: *val = lapic_timer_current(l); break;
	default: *val = lapic_reg(l, offset); break;
	}
	return true;
}

/* Bits of an LVT entry that a write may change, besides the timer's mode. */
static uint32_t lvt_writable(uint32_t offset)
{
	switch (offset) {
	case APIC_LVTT:
	case APIC_LVTERR: return LVT_MASKED | 0xff;
	case APIC_LVTCMCI:
	case APIC_LVTTHMR:
	case APIC_LVTPC: return LVT_MASKED | 0x7ff;
	default: return LVT_MASKED | 0xa7ff; /* LINT0, LINT1: level and polarity too */
	}
}

static void write_lvt(struct lapic *l, uint32_t offset, uint32_t val)
{
	uint32_t mask = lvt_writable(offset);

	if (!lapic_sw_enabled(l))
		val |= LVT_MASKED;
	if (offset == APIC_LVTT)
		mask |= l->tsc_deadline ? TIMER_MODE : TIMER_PERIODIC;
	lapic_put(l, offset, val & mask);
	if (offset == APIC_LVTT)
		lapic_timer_mode_changed(l);
	if (offset == APIC_LVT0)
		lapic_recheck(l);
}

static void write_spiv(struct lapic *l, uint32_t val)
{
	uint32_t mask = 0x3ff | (lapic_reg(l, APIC_VERSION) >> 12 & SPIV_DIRECTED_EOI), lvt;

	lapic_put(l, APIC_SPIV, val & mask);
	if (val & SPIV_ENABLED)
		return;
	for (lvt = APIC_LVTT; lvt <= APIC_LVTERR; lvt += 16)
		lapic_put(l, lvt, lapic_reg(l, lvt) | LVT_MASKED);
	if (l->cmci)
		lapic_put(l, APIC_LVTCMCI, lapic_reg(l, APIC_LVTCMCI) | LVT_MASKED);
}

/* Writes a register that only xAPIC mode has; false in x2APIC mode. */
static bool write_xapic_reg(struct lapic *l, uint32_t offset, uint32_t val)
{
	if (lapic_x2apic(l))
		return false;
	switch (offset) {
	case APIC_ID:
		if (lapic_reg(l, APIC_ID) == (val & 0xff000000))
			break;
		lapic_put(l, APIC_ID, val & 0xff000000);
		apic_map_update(l->vm);
		break;
	case APIC_LDR: lapic_put(l, APIC_LDR, val & 0xff000000); break;
	case APIC_DFR: lapic_put(l, APIC_DFR, val | 0x0fffffff); break;
	default: lapic_put(l, APIC_ICR2, val & 0xff000000); break;
	}
	return true;
}

/* Writes one register; false if there is none to write. */
static bool write_reg(struct lapic *l, uint32_t offset, uint32_t val)
{
	switch (offset) {
	case APIC_ID:
	case APIC_LDR:
	case APIC_DFR:
	case APIC_ICR2: return write_xapic_reg(l, offset, val);
	case APIC_TPR: set_tpr(l, val & 0xff); break;
	case APIC_EOI: end_of_interrupt(l); break;
	case APIC_SPIV: write_spiv(l, val); break;
	case APIC_ESR:
		if (lapic_x2apic(l) && val)
			return false;
		lapic_put(l, APIC_ESR, atomic_exchange(&l->errors, 0));
		break;
	case APIC_ICR:
		lapic_put(l, APIC_ICR, val & ~ICR_BUSY);
		send_ipi(l, val, lapic_reg(l, APIC_ICR2));
		break;
	case APIC_LVTCMCI:
		if (!l->cmci)
			return false;
		write_lvt(l, offset, val);
		break;
	case APIC_LVTT:
	case APIC_LVTTHMR:
	case APIC_LVTPC:
	case APIC_LVT0:
	case APIC_LVT1:
	case APIC_LVTERR: write_lvt(l, offset, val); break;
	case APIC_TMICT:
		if ((lapic_reg(l, APIC_LVTT) & TIMER_MODE) == TIMER_TSC)
			break;
		lapic_put(l, APIC_TMICT, val);
		lapic_timer_start(l);
		break;
	case APIC_TDCR:
		lapic_put(l, APIC_TDCR, val & 0xb);
		lapic_timer_divide_changed(l);
		break;
	case APIC_SELF_IPI:
		if (!lapic_x2apic(l))
			return false;
		send_ipi(l, (val & 0xff) | TO_SELF << 18, 0);
		break;
	default: return false;
	}
	return true;
}

/* -- MMIO -- */

bool lapic_mmio_match(const struct lapic *l, uint64_t gpa)
{
	uint64_t base = atomic_load_explicit(&l->base, memory_order_relaxed);

	return (base & (BASE_ENABLED | BASE_X2APIC)) == BASE_ENABLED &&
	       gpa >> PAGE_SHIFT == base >> PAGE_SHIFT;
}

void lapic_mmio_read(struct lapic *l, uint32_t offset, unsigned len, void *data)
{
	uint32_t reg = offset & ~0xfu, at = offset & 0xf, val;

	memset(data, 0, len);
	if (at + len > 4) /* reserved: only the first word of each 16 bytes exists */
		return;
	if (reg >= APIC_WORDS * 16 || (!read_reg(l, reg, &val) && reg != APIC_EOI)) {
		lapic_error(l, ESR_REGISTER);
		return;
	}
	memcpy(data, (const char *)&val + at, len);
}

void lapic_mmio_write(struct lapic *l, uint32_t offset, unsigned len, const void *data)
{
	uint32_t val;

	if (len != 4 || (offset & 0xf))
		return;
	memcpy(&val, data, 4);
	if (offset >= APIC_WORDS * 16 || !write_reg(l, offset, val)) {
		if (offset >= APIC_WORDS * 16 || !(READABLE_XAPIC >> (offset >> 4) & 1)) /* else read-only */
			lapic_error(l, ESR_REGISTER);
	}
}

/* -- MSRs -- */

int lapic_msr_read(struct lapic *l, uint32_t index, uint64_t *val)
{
	uint32_t offset = (index - 0x800) << 4, low;

	if (!lapic_x2apic(l) || index < 0x800 || offset >= APIC_WORDS * 16 || !read_reg(l, offset, &low))
		return -EINVAL;
	*val = low;
	if (offset == APIC_ICR)
		*val |= (uint64_t)lapic_reg(l, APIC_ICR2) << 32;
	return 0;
}

int lapic_msr_write(struct lapic *l, uint32_t index, uint64_t val)
{
	uint32_t offset = (index - 0x800) << 4;

	if (!lapic_x2apic(l) || index < 0x800 || offset >= APIC_WORDS * 16)
		return -EINVAL;
	if (offset == APIC_ICR) {
		lapic_put(l, APIC_ICR2, val >> 32);
		lapic_put(l, APIC_ICR, val & ~ICR_BUSY);
		send_ipi(l, val, val >> 32);
		return 0;
	}
	if (val >> 32 || !write_reg(l, offset, val))
		return -EINVAL;
	return 0;
}
