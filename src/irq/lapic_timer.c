/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The LAPIC's timer. The bus clock is 1 GHz, as KVM's: one count of an undivided timer is 1 ns. The event
 * loop fires it; the expiry is decided and delivered under the timer's lock, so that after a stop returned
 * nothing more is delivered. A timer that the loop still has queued but that is stopped fires into nothing.
 */
#include "irq/lapic.h"

#define MIN_PERIOD_NS 200000 /* periodic only: a guest cannot keep the event loop busy */

/* Nanoseconds of `count` ticks at the present divider. */
static uint64_t ticks_ns(const struct lapic *l, uint32_t count)
{
	return (uint64_t)count * l->divide;
}

/* Delivers the timer's interrupt unless LVTT masks it. lock held. */
static void expire(struct lapic *l)
{
	uint32_t v = lapic_reg(l, APIC_LVTT);

	if (lapic_hw_enabled(l) && !(v & LVT_MASKED))
		lapic_accept(
		    l, &(struct irq_msg){.vector = v, .mode = DM_FIXED, .asserted = true, .tick = true});
}

/* Arms the loop for target_ns. lock held. */
static void arm(struct lapic *l)
{
	if (l->target_ns)
		loop_timer_set(&l->timer, l->target_ns);
}

/* Fires if the time has come; a periodic timer goes on from its own grid. lock held. */
static void fire_if_due(struct lapic *l)
{
	uint64_t now = base_now_ns();

	if (!l->target_ns)
		return;
	if (now >= l->target_ns) {
		if (l->timer_mode == TIMER_PERIODIC && l->period_ns) {
			l->target_ns += ((now - l->target_ns) / l->period_ns + 1) * l->period_ns;
		} else {
			l->target_ns = 0;
			l->tscdeadline = 0;
		}
		expire(l);
	}
	arm(l);
}

static void on_loop(void *arg)
{
	struct lapic *l = arg;

	spin_lock(&l->lock);
	fire_if_due(l);
	spin_unlock(&l->lock);
}

void lapic_timer_setup(struct lapic *l)
{
	spin_init(&l->lock, LOCK_LAPIC);
	loop_timer_init(&l->timer, on_loop, l);
	l->divide = 2;
}

void lapic_timer_settle(struct lapic *l)
{
	spin_lock(&l->lock);
	if (l->target_ns && base_now_ns() >= l->target_ns)
		fire_if_due(l);
	spin_unlock(&l->lock);
}

/* A period below the limit is stretched. lock held. */
static void limit_period(struct lapic *l)
{
	if (l->timer_mode == TIMER_PERIODIC && l->period_ns && l->period_ns < MIN_PERIOD_NS)
		l->period_ns = MIN_PERIOD_NS;
}

/* Starts the count-down of TMICT with `left_ns` to go (0 = the whole period). lock held. */
static void start_counting(struct lapic *l, uint64_t left_ns)
{
	l->target_ns = 0;
	l->period_ns = ticks_ns(l, lapic_reg(l, APIC_TMICT));
	if (!l->period_ns)
		return;
	limit_period(l);
	if (!left_ns || left_ns > l->period_ns)
		left_ns = l->period_ns;
	l->target_ns = base_now_ns() + left_ns;
	arm(l);
}

/* Counts while TMICT does: not in TSC-deadline mode nor in the reserved one. */
static bool counts(const struct lapic *l)
{
	return l->timer_mode == TIMER_ONESHOT || l->timer_mode == TIMER_PERIODIC;
}

void lapic_timer_start(struct lapic *l)
{
	spin_lock(&l->lock);
	if (counts(l))
		start_counting(l, 0);
	spin_unlock(&l->lock);
}

void lapic_timer_stop(struct lapic *l)
{
	spin_lock(&l->lock);
	l->target_ns = l->period_ns = 0;
	l->tscdeadline = 0;
	spin_unlock(&l->lock);
}

void lapic_timer_mode_changed(struct lapic *l)
{
	uint32_t mode = lapic_reg(l, APIC_LVTT) & TIMER_MODE;

	spin_lock(&l->lock);
	if (mode != l->timer_mode) {
		/* Counting and deadline do not survive a change between them (SDM 3A 11.5.4.1). */
		if ((mode == TIMER_TSC) != (l->timer_mode == TIMER_TSC)) {
			l->target_ns = l->period_ns = 0;
			l->tscdeadline = 0;
			lapic_put(l, APIC_TMICT, 0);
		}
		l->timer_mode = mode;
		limit_period(l);
	}
	spin_unlock(&l->lock);
}

void lapic_timer_divide_changed(struct lapic *l)
{
	uint32_t v = lapic_reg(l, APIC_TDCR), old = l->divide;
	uint64_t now = base_now_ns();

	spin_lock(&l->lock);
	/* Bits 3, 1 and 0 count 2, 4, ... 128, and then 1. */
	l->divide = 1u << ((((v & 3) | (v & 8) >> 1) + 1) & 7);
	if (counts(l) && l->target_ns > now && l->divide != old) {
		uint64_t left = mul_div64(l->target_ns - now, l->divide, old);

		start_counting(l, MAX(left, 1ULL));
	}
	spin_unlock(&l->lock);
}

uint32_t lapic_timer_current(struct lapic *l)
{
	uint64_t left = 0, now = base_now_ns();

	spin_lock(&l->lock);
	if (counts(l) && l->period_ns && l->target_ns > now)
		left = (l->target_ns - now) % l->period_ns;
	/* The first instant of a period reads as all of it. */
	if (counts(l) && l->period_ns && l->target_ns - now == l->period_ns)
		left = l->period_ns;
	left /= l->divide;
	spin_unlock(&l->lock);
	return (uint32_t)left;
}

/* -- TSC deadline -- */

uint64_t lapic_get_tscdeadline(const struct lapic *l)
{
	return l->timer_mode == TIMER_TSC ? l->tscdeadline : 0;
}

/* Starts the deadline that is in the register; one that has passed is delivered at once. */
static void start_deadline(struct lapic *l, uint64_t guest_tsc)
{
	uint64_t ns = guest_tsc ? l->vm->port->tsc_deadline_ns(l->vcpu, guest_tsc) : 0;

	spin_lock(&l->lock);
	l->tscdeadline = guest_tsc;
	l->target_ns = guest_tsc ? MAX(ns, 1ULL) : 0;
	fire_if_due(l);
	spin_unlock(&l->lock);
}

void lapic_set_tscdeadline(struct lapic *l, uint64_t guest_tsc)
{
	if (l->timer_mode == TIMER_TSC)
		start_deadline(l, guest_tsc);
}

void lapic_timer_resume(struct lapic *l, uint32_t current_count)
{
	if (l->timer_mode == TIMER_TSC) {
		start_deadline(l, l->tscdeadline);
		return;
	}
	spin_lock(&l->lock);
	/* A one-shot timer at 0 has fired; its interrupt is in the restored IRR or was served. */
	if (l->timer_mode == TIMER_PERIODIC || (counts(l) && current_count)) {
		start_counting(l, ticks_ns(l, current_count));
	} else {
		l->period_ns = ticks_ns(l, lapic_reg(l, APIC_TMICT));
		l->target_ns = 0;
	}
	spin_unlock(&l->lock);
}
