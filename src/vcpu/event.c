/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Injection and its order, KVM's: what was half delivered, a pending exception, SMI, NMI, interrupt. One
 * event at a time is handed to the engine; a delivery that stopped (its stack or IDT is a device) stays
 * `injected` and is delivered again.
 */
#include "vcpu/internal.h"

#define DR6_TRAPS	 15ULL	       /* B0-B3 */
#define DR6_ACTIVE_LOW	 0xffff0ff0ULL /* bits that read as 1 unless their event happened */
#define DR6_PENDING_ONLY BIT(12)       /* in the payload "enabled breakpoint", reserved in DR6 */
#define DR7_GD		 BIT(13)
#define VEC_DB		 1
#define VEC_NMI		 2
#define VEC_DF		 8
#define VEC_PF		 14
#define APIC_TASKPRI	 0x80
#define APIC_ISR	 0x100
#define APIC_IRR	 0x200
#define APIC_LVT0	 0x350
#define APIC_MASKED	 BIT(16)
#define APIC_MODE(lvt)	 (((lvt) >> 8) & 7)
#define APIC_EXTINT	 7
#define BASE_X2APIC	 BIT(10)
#define BASE_ENABLE	 BIT(11)

/* inject_next: something was delivered or changed, look again. */
#define AGAIN 2

/* -- What is there -- */

/* One LAPIC register, whatever the mode. */
static uint32_t lapic_reg(const struct vcpu *v, uint32_t offset)
{
	uint32_t val = 0;
	uint64_t wide = 0;

	if (lapic_get_base(v->lapic) & BASE_X2APIC) {
		lapic_msr_read(v->lapic, 0x800 + (offset >> 4), &wide);
		return wide;
	}
	lapic_mmio_read(v->lapic, offset, sizeof(val), &val);
	return val;
}

/* True if this vCPU takes the PIC's (or the VMM's external) interrupts. */
static bool accepts_extint(const struct vcpu *v)
{
	uint32_t lvt0;

	if (!v->lapic || !(lapic_get_base(v->lapic) & BASE_ENABLE))
		return true;
	lvt0 = lapic_reg(v, APIC_LVT0);
	return !(lvt0 & APIC_MASKED) && APIC_MODE(lvt0) == APIC_EXTINT;
}

/* True if an interrupt waits that could be acknowledged now. */
static bool has_interrupt(struct vcpu *v)
{
	int vector;

	if (!v->lapic)
		return false;
	if (xen_has_interrupt(v, &vector) || (v->ev.extint >= 0 && accepts_extint(v)))
		return true;
	return irq_cpu_pending(v->vm->irq, v->lapic) >= 0;
}

/* Acknowledges the interrupt that has_interrupt saw; -1 if it went away. */
static int take_interrupt(struct vcpu *v)
{
	int vector;

	if (v->lapic && xen_has_interrupt(v, &vector))
		return vector; /* again, until the guest clears it */
	vector = v->ev.extint;
	if (vector >= 0 && accepts_extint(v)) {
		v->ev.extint = -1;
		return vector;
	}
	return irq_cpu_ack(v->vm->irq, v->lapic);
}

/* True if a delivery must be done or repeated before anything new. */
static bool half_delivered(const struct vcpu *v)
{
	return v->ev.exc.injected || v->ev.irq.injected || v->ev.nmi.injected;
}

void event_collect(struct vcpu *v)
{
	unsigned limit = v->ev.nmi.masked || v->ev.nmi.injected ? 1 : 2;
	unsigned queued;

	if (vcpu_request_take(v, VCPU_REQ_SMI))
		v->ev.smi.pending = true;
	if (!vcpu_request_take(v, VCPU_REQ_NMI))
		return;
	queued = atomic_exchange(&v->nmi_queued, 0);
	v->ev.nmi.pending = MIN(v->ev.nmi.pending + queued, limit);
}

static bool init_sipi_waits(const struct vcpu *v)
{
	return !v->ev.smi.in_smm && atomic_load(&v->init_sipi);
}

bool event_wakes(struct vcpu *v)
{
	uint32_t mp = atomic_load(&v->mp_state);

	if (init_sipi_waits(v))
		return true;
	if (mp == KVM_MP_STATE_UNINITIALIZED || mp == KVM_MP_STATE_INIT_RECEIVED)
		return false;
	event_collect(v);
	if (stimer_waits(v) || (atomic_load(&v->requests) & VCPU_REQ_XEN))
		return true;
	if (atomic_load(&v->unhalted) || v->ev.exc.pending || half_delivered(v))
		return true;
	if (v->ev.nmi.pending && !v->ev.nmi.masked)
		return true;
	if (v->ev.smi.pending && !v->ev.smi.in_smm)
		return true;
	return engine_interruptible(v->cpu) && has_interrupt(v);
}

void event_init_sipi(struct vcpu *v)
{
	uint32_t what;

	if (!atomic_load(&v->init_sipi) || !v->lapic)
		return;
	if (v->ev.smi.in_smm) {
		atomic_fetch_and(&v->init_sipi, ~VCPU_EVENT_SIPI);
		return;
	}
	what = atomic_exchange(&v->init_sipi, 0);
	if (what & VCPU_EVENT_INIT) {
		vcpu_reset(v, true);
		atomic_store(&v->mp_state,
			     lapic_is_bsp(v->lapic) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED);
	}
	if ((what & VCPU_EVENT_SIPI) && atomic_load(&v->mp_state) == KVM_MP_STATE_INIT_RECEIVED) {
		uint32_t vector = atomic_load(&v->sipi_vector);
		struct kvm_sregs s;
		struct kvm_regs r;

		engine_get_sregs(v->cpu, &s);
		s.cs.selector = vector << 8;
		s.cs.base = vector << 12;
		base_bug_on(engine_set_sregs(v->cpu, &s));
		engine_get_regs(v->cpu, &r);
		r.rip = 0;
		engine_set_regs(v->cpu, &r);
		atomic_store(&v->mp_state, KVM_MP_STATE_RUNNABLE);
	}
}

/* -- Exceptions -- */

/* 2 = #PF, 1 = contributory, 0 = benign (SDM 3A table 6-4). */
static int exception_class(uint8_t vector)
{
	if (vector == VEC_PF)
		return 2;
	return vector == 0 || (vector >= 10 && vector <= 13);
}

void event_queue(struct vcpu *v, uint8_t vector, bool has_error, uint32_t error)
{
	struct vcpu_exception *x = &v->ev.exc;
	int first, second;

	if (x->pending || x->injected) {
		first = exception_class(x->vector);
		second = exception_class(vector);
		if (x->vector == VEC_DF) {
			x->pending = x->injected = false;
			vcpu_request_quiet(v, VCPU_REQ_TRIPLE_FAULT);
			return;
		}
		if ((first == 1 && second == 1) || (first == 2 && second)) {
			vector = VEC_DF;
			has_error = true;
			error = 0;
		}
	}
	*x = (struct vcpu_exception){
	    .pending = true, .vector = vector, .has_error = has_error, .error = error};
}

/* CR2 alone; PDPTEs that the guest has loaded stay loaded. */
static void set_cr2(struct vcpu *v, uint64_t cr2)
{
	bool pae = engine_pae_paging(v->cpu);
	struct kvm_sregs s;
	uint64_t pdptrs[4];

	engine_get_pdptrs(v->cpu, pdptrs);
	engine_get_sregs(v->cpu, &s);
	s.cr2 = cr2;
	base_bug_on(engine_set_sregs(v->cpu, &s));
	if (pae)
		engine_set_pdptrs(v->cpu, pdptrs);
}

/* Moves a pending exception's payload to where the guest looks for it. */
void event_payload(struct vcpu *v)
{
	struct vcpu_exception *x = &v->ev.exc;

	if (!x->has_payload)
		return;
	x->has_payload = false;
	if (x->vector == VEC_DB) {
		struct kvm_debugregs d;

		engine_get_debugregs(v->cpu, &d);
		d.dr6 = (d.dr6 & ~DR6_TRAPS) | DR6_ACTIVE_LOW | x->payload;
		d.dr6 ^= x->payload & DR6_ACTIVE_LOW;
		d.dr6 &= ~DR6_PENDING_ONLY;
		base_bug_on(engine_set_debugregs(v->cpu, &d));
	} else if (x->vector == VEC_PF) {
		set_cr2(v, x->payload);
	}
}

/* #DB clears DR7.GD before its handler runs. */
static void clear_general_detect(struct vcpu *v)
{
	struct kvm_debugregs d;

	engine_get_debugregs(v->cpu, &d);
	if (!(d.dr7 & DR7_GD))
		return;
	d.dr7 &= ~(uint64_t)DR7_GD;
	base_bug_on(engine_set_debugregs(v->cpu, &d));
}

/* -- Delivery -- */

/* Hands one event to the engine. AGAIN when the guest stands at its handler, else as run_exit. */
static int deliver(struct vcpu *v, const struct engine_event *ev)
{
	enum engine_exit x;
	int r;

	replay_rewind(v);
	v->run_result = 0;
	x = engine_deliver(v->cpu, ev);
	if (x == ENGINE_EXIT_STEPPED) {
		replay_clear(v);
		return AGAIN;
	}
	r = run_exit(v, x);
	if (x == ENGINE_EXIT_STOP)
		v->pending.delivering = true;
	return r;
}

static int deliver_exception(struct vcpu *v)
{
	struct vcpu_exception *x = &v->ev.exc;
	struct engine_event ev = {
	    .kind = ENGINE_EV_EXCEPTION,
	    .vector = x->vector,
	    .has_error = x->has_error && (engine_get_cr0(v->cpu) & 1),
	    .error = x->error,
	};
	int r = deliver(v, &ev);

	if (r == AGAIN)
		x->injected = false;
	return r;
}

static int deliver_nmi(struct vcpu *v)
{
	struct engine_event ev = {.kind = ENGINE_EV_NMI, .vector = VEC_NMI};
	int r;

	v->ev.nmi.masked = true;
	r = deliver(v, &ev);
	if (r == AGAIN)
		v->ev.nmi.injected = false;
	return r;
}

/* An interrupt that the VMM chose (KVM_INTERRUPT) waits here until the guest may take it. */
static int deliver_interrupt(struct vcpu *v)
{
	struct engine_event ev = {
	    .kind = v->ev.irq.soft ? ENGINE_EV_SOFT : ENGINE_EV_INTR,
	    .vector = v->ev.irq.vector,
	};
	int r;

	if (!v->ev.irq.soft && !engine_interruptible(v->cpu)) {
		engine_want_window(v->cpu, true);
		return 1;
	}
	r = deliver(v, &ev);
	if (r == AGAIN)
		v->ev.irq.injected = false;
	return r;
}

int event_redeliver(struct vcpu *v)
{
	struct vcpu_exception *x = &v->ev.exc;

	if (x->pending && !x->injected) {
		event_payload(v);
		if (x->vector == VEC_DB)
			clear_general_detect(v);
		x->pending = false;
		x->injected = true;
	}
	if (x->injected)
		return deliver_exception(v);
	if (v->ev.nmi.injected)
		return deliver_nmi(v);
	if (v->ev.irq.injected)
		return deliver_interrupt(v);
	return AGAIN;
}

/* -- Choice -- */

/* An NMI or SMI that is open but for an interrupt shadow: the engine shall stop behind the next instruction.
 */
static bool shadowed(struct vcpu *v)
{
	if (!engine_get_shadow(v->cpu))
		return false;
	v->step_once = true;
	return true;
}

/* Chooses among new events: AGAIN if one was taken, 1 if none can be now. */
static int choose(struct vcpu *v)
{
	int vector;

	if (v->guest_debug & KVM_GUESTDBG_BLOCKIRQ)
		return 1;
	if (v->ev.smi.pending && !v->ev.smi.in_smm) {
		if (shadowed(v))
			return 1;
		v->ev.smi.pending = false;
		smm_enter(v);
		return AGAIN;
	}
	if (v->ev.nmi.pending && !v->ev.nmi.masked) {
		if (shadowed(v))
			return 1;
		v->ev.nmi.pending--;
		v->ev.nmi.injected = true;
		return AGAIN;
	}
	if (!has_interrupt(v))
		return 1;
	if (!engine_interruptible(v->cpu)) {
		engine_want_window(v->cpu, true);
		return 1;
	}
	vector = take_interrupt(v);
	if (vector < 0)
		return 1;
	v->ev.irq.injected = true;
	v->ev.irq.soft = false;
	v->ev.irq.vector = vector;
	return AGAIN;
}

/* The VMM wants to know when it could inject: request_interrupt_window. */
static void arrange_dm_window(struct vcpu *v)
{
	if (!v->run->request_interrupt_window || irq_get_mode(v->vm->irq) == IRQ_MODE_KERNEL)
		return;
	if (!engine_interruptible(v->cpu))
		engine_want_window(v->cpu, true);
}

int event_inject(struct vcpu *v)
{
	int r;

	v->step_once = false;
	engine_want_window(v->cpu, false);
	event_vapic_from(v);
	do {
		r = half_delivered(v) || v->ev.exc.pending ? event_redeliver(v) : AGAIN;
		if (r == AGAIN)
			r = choose(v);
	} while (r == AGAIN);
	if (r == 1)
		arrange_dm_window(v);
	return r;
}

bool event_dm_ready(struct vcpu *v)
{
	return engine_interruptible(v->cpu) && !half_delivered(v) && !v->ev.exc.pending &&
	       accepts_extint(v) && v->ev.extint < 0;
}

/* -- kvmvapic -- */

/* Highest vector of a 256-bit LAPIC register, 0 if none. */
static unsigned highest(const struct vcpu *v, uint32_t offset)
{
	int i;

	for (i = 7; i >= 0; i--) {
		uint32_t bits = lapic_reg(v, offset + 0x10 * i);

		if (bits)
			return 32 * i + 31 - __builtin_clz(bits);
	}
	return 0;
}

void event_vapic_from(struct vcpu *v)
{
	uint32_t word, tpr;

	if (likely(!v->vapic_addr) || mem_read(v->vm->mem, vcpu_as(v), v->vapic_addr, &word, sizeof(word)))
		return;
	tpr = word & 0xff;
	if (tpr != (lapic_reg(v, APIC_TASKPRI) & 0xff))
		lapic_mmio_write(v->lapic, APIC_TASKPRI, sizeof(tpr), &tpr);
}

void event_vapic_to(struct vcpu *v)
{
	uint32_t word;

	if (likely(!v->vapic_addr))
		return;
	word = (lapic_reg(v, APIC_TASKPRI) & 0xff) | (highest(v, APIC_ISR) & 0xf0) << 8 |
	       highest(v, APIC_IRR) << 24;
	(void)mem_write(v->vm->mem, vcpu_as(v), v->vapic_addr, &word, sizeof(word));
}
