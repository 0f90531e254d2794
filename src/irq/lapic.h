/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside the irq room: one local APIC. Registers are atomic words: IRR and TMR are set by any thread, the
 * rest is written by the owning vCPU's thread (or under its mutex) and read by any. The timer has a lock.
 */
#ifndef USERKVM_IRQ_LAPIC_H
#define USERKVM_IRQ_LAPIC_H

#include "irq/chips.h"

/* Register offsets in the page; an x2APIC MSR is 0x800 + offset / 16. */
#define APIC_ID	      0x020
#define APIC_VERSION  0x030
#define APIC_TPR      0x080
#define APIC_ARBPRI   0x090
#define APIC_PPR      0x0a0
#define APIC_EOI      0x0b0
#define APIC_LDR      0x0d0
#define APIC_DFR      0x0e0
#define APIC_SPIV     0x0f0
#define APIC_ISR      0x100
#define APIC_TMR      0x180
#define APIC_IRR      0x200
#define APIC_ESR      0x280
#define APIC_LVTCMCI  0x2f0
#define APIC_ICR      0x300
#define APIC_ICR2     0x310
#define APIC_LVTT     0x320
#define APIC_LVTTHMR  0x330
#define APIC_LVTPC    0x340
#define APIC_LVT0     0x350
#define APIC_LVT1     0x360
#define APIC_LVTERR   0x370
#define APIC_TMICT    0x380
#define APIC_TMCCT    0x390
#define APIC_TDCR     0x3e0
#define APIC_SELF_IPI 0x3f0
#define APIC_WORDS    64

#define SPIV_ENABLED	     0x100
#define SPIV_DIRECTED_EOI    0x1000
#define VERSION_DIRECTED_EOI (1u << 24)
#define LVT_MASKED	     0x10000
#define LVT_LEVEL	     0x8000
#define LVT_MODE(v)	     (((v) >> 8) & 7) /* ORDER DM */
#define TIMER_MODE	     0x60000
#define TIMER_ONESHOT	     0
#define TIMER_PERIODIC	     0x20000
#define TIMER_TSC	     0x40000

#define BASE_BSP     0x100ULL
#define BASE_X2APIC  0x400ULL
#define BASE_ENABLED 0x800ULL

#define ESR_SEND_VECTOR 0x20
#define ESR_RECV_VECTOR 0x40
#define ESR_REGISTER	0x80

struct lapic {
	struct irq_vm *vm;
	void *vcpu;
	uint32_t id; /* the vCPU's id: the x2APIC id, and the xAPIC id after reset */
	unsigned slot;
	bool tsc_deadline; /* CPUID offers the TSC-deadline mode */
	bool cmci;	   /* there is a seventh LVT entry */
	bool bsp;	   /* the boot vCPU, from creation */
	_Atomic uint64_t base;
	_Atomic uint32_t reg[APIC_WORDS];
	_Atomic uint32_t synic[8], auto_eoi[8]; /* bit per vector: lapic_set_synic */
	_Atomic uint32_t errors;		/* shown in ESR at its next write */
	struct spinlock lock;			/* the timer: everything below */
	struct loop_timer timer;
	uint32_t timer_mode;
	uint32_t divide;
	uint64_t period_ns; /* of TMICT; 0 = stopped */
	uint64_t target_ns; /* next expiry; 0 = not running */
	_Atomic uint64_t tscdeadline;
};

static inline uint32_t lapic_reg(const struct lapic *l, uint32_t offset)
{
	return atomic_load_explicit(&l->reg[offset >> 4], memory_order_relaxed);
}
static inline void lapic_put(struct lapic *l, uint32_t offset, uint32_t val)
{
	atomic_store_explicit(&l->reg[offset >> 4], val, memory_order_relaxed);
}
static inline bool lapic_hw_enabled(const struct lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed) & BASE_ENABLED;
}
static inline bool lapic_x2apic(const struct lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed) & BASE_X2APIC;
}
static inline uint32_t x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

/* -- 256-bit registers (ISR, TMR, IRR) -- */
static inline bool lapic_bit(const struct lapic *l, uint32_t base, uint8_t vector)
{
	return lapic_reg(l, base + (vector >> 5) * 16) >> (vector & 31) & 1;
}
static inline bool lapic_bit_set(struct lapic *l, uint32_t base, uint8_t vector)
{
	return atomic_fetch_or(&l->reg[(base >> 4) + (vector >> 5)], 1u << (vector & 31)) >> (vector & 31) &
	       1;
}
static inline void lapic_bit_clear(struct lapic *l, uint32_t base, uint8_t vector)
{
	atomic_fetch_and(&l->reg[(base >> 4) + (vector >> 5)], ~(1u << (vector & 31)));
}
/* The highest vector set, or -1. */
static inline int lapic_highest(const struct lapic *l, uint32_t base)
{
	int i;

	for (i = 7; i >= 0; i--) {
		uint32_t w = lapic_reg(l, base + i * 16);

		if (w)
			return i * 32 + 31 - __builtin_clz(w);
	}
	return -1;
}

/* -- lapic.c -- */
void lapic_recheck(struct lapic *l); /* kicks the owner if an interrupt became deliverable */
void lapic_error(struct lapic *l, uint32_t bit);
int lapic_pending(const struct lapic *l); /* the vector above PPR, or -1 */
int lapic_ack(struct lapic *l);

/* -- lapic_deliver.c -- */
int lapic_accept(struct lapic *l, const struct irq_msg *m); /* 1 = taken, 0 = not. irq_srcu not needed */
void apic_map_update(struct irq_vm *v);			    /* ids or modes changed. Outside irq_srcu */
int apic_join(struct irq_vm *v, struct lapic *l);	    /* -EINVAL: all slots taken */
void apic_leave(struct irq_vm *v, struct lapic *l);	    /* waits for readers */
void apic_map_free(struct irq_vm *v);

/* -- lapic_timer.c -- */
void lapic_timer_setup(struct lapic *l);
void lapic_timer_start(struct lapic *l);			  /* TMICT was written */
void lapic_timer_resume(struct lapic *l, uint32_t current_count); /* state was restored */
void lapic_timer_stop(struct lapic *l);
void lapic_timer_mode_changed(struct lapic *l);
void lapic_timer_divide_changed(struct lapic *l);
void lapic_timer_settle(struct lapic *l); /* delivers an expiry that the loop has not come to yet */
uint32_t lapic_timer_current(struct lapic *l);

#endif
