/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ioctls that read and write a vCPU's state, with KVM 6.1's validation. */
#include "base/mutate.h"
#include "vcpu/internal.h"

#define CPUID1_X2APIC	   BIT(21) /* ECX */
#define APIC_BASE_BSP	   BIT(8)
#define APIC_BASE_X2APIC   BIT(10)
#define APIC_BASE_ENABLE   BIT(11)
#define APIC_BASE_RESERVED 0x2ffULL
#define CR8_MAX		   15
#define XCR0_INDEX	   0
#define RESET_RIP	   0xfff0
#define RESET_CS_SEL	   0xf000
#define RESET_CS_BASE	   0xffff0000ULL
#define CR0_PE		   BIT(0)
#define VEC_NMI		   2
#define MAX_EXCEPTION	   31

/*
 * Brackets what may walk guest memory through the engine: host pointers are revocable inside. Within
 * KVM_RUN the signals are ours already.
 */
static void section_begin(struct vcpu *v)
{
	if (!v->in_run)
		base_sig_run_begin(&v->sig, NULL);
	guest_enter(v);
}

static void section_end(struct vcpu *v)
{
	guest_leave(v);
	if (!v->in_run)
		base_sig_run_end(&v->sig);
}

/* -- APIC base and CR8 -- */

uint64_t vcpu_get_apic_base(const struct vcpu *v)
{
	return v->lapic ? lapic_get_base(v->lapic) : v->apic_base;
}

/* Bits of IA32_APIC_BASE that this guest cannot set. */
static uint64_t apic_base_reserved(const struct vcpu *v, bool x2apic)
{
	unsigned width = cpuid_features(v)->maxphyaddr;

	return ~(BIT(width) - 1) | APIC_BASE_RESERVED | (x2apic ? 0 : APIC_BASE_X2APIC);
}

/* The rules of a LAPIC's base for one that lives in the VMM. */
static int check_apic_base(const struct vcpu *v, uint64_t base, bool host, uint64_t reserved)
{
	uint64_t mode = base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC);
	uint64_t old = v->apic_base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC);

	if ((base & reserved) || mode == APIC_BASE_X2APIC)
		return -EINVAL;
	if (host)
		return 0;
	if (old == (APIC_BASE_ENABLE | APIC_BASE_X2APIC) && mode == APIC_BASE_ENABLE)
		return -EINVAL;
	return !old && mode == (APIC_BASE_ENABLE | APIC_BASE_X2APIC) ? -EINVAL : 0;
}

/* What KVM does here: a static branch is switched, for which a lock of the whole machine is taken. */
static void patch_in_section(struct vcpu *v)
{
	int idx = srcu_read_lock(v->vm->srcu);

	lock_host_enter();
	lock_host_leave();
	srcu_read_unlock(v->vm->srcu, idx);
}

int vcpu_set_apic_base(struct vcpu *v, uint64_t base, bool host)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 1, 0);
	bool x2apic = e && (e->ecx & CPUID1_X2APIC);
	uint64_t reserved = apic_base_reserved(v, x2apic);
	int r;

	if (mutated(MUTATE_HOST_IN_SRCU))
		patch_in_section(v);
	if (v->lapic)
		return lapic_set_base(v->lapic, base, host, x2apic, reserved);
	r = check_apic_base(v, base, host, reserved);
	if (!r)
		v->apic_base = base;
	return r;
}

uint64_t vcpu_get_cr8(const struct vcpu *v)
{
	return v->lapic ? lapic_get_cr8(v->lapic) : v->cr8;
}

int vcpu_set_cr8(struct vcpu *v, uint64_t cr8)
{
	if (cr8 > CR8_MAX)
		return -EINVAL;
	if (v->lapic)
		lapic_set_cr8(v->lapic, cr8);
	else
		v->cr8 = cr8;
	return 0;
}

/* -- General registers -- */

int vcpu_get_regs(struct vcpu *v, struct kvm_regs *r)
{
	engine_get_regs(v->cpu, r);
	return 0;
}

int vcpu_set_regs(struct vcpu *v, const struct kvm_regs *r)
{
	engine_set_regs(v->cpu, r);
	v->ev.exc.pending = false;
	return 0;
}

/* -- System registers -- */

static void get_sregs_common(struct vcpu *v, struct kvm_sregs *s)
{
	engine_get_sregs(v->cpu, s);
	s->cr8 = vcpu_get_cr8(v);
	s->apic_base = vcpu_get_apic_base(v);
}

int vcpu_get_sregs(struct vcpu *v, struct kvm_sregs *s)
{
	*s = (struct kvm_sregs){0};
	get_sregs_common(v, s);
	memset(s->interrupt_bitmap, 0, sizeof(s->interrupt_bitmap));
	if (v->ev.irq.injected && !v->ev.irq.soft)
		s->interrupt_bitmap[v->ev.irq.vector / 64] |= BIT(v->ev.irq.vector % 64);
	return 0;
}

/* A VMM older than KVM_SET_MP_STATE resets the boot CPU by its registers. */
static void unhalt_on_reset(struct vcpu *v, const struct kvm_sregs *s)
{
	struct kvm_regs r;

	engine_get_regs(v->cpu, &r);
	if (v->id == v->vm->boot_cpu_id && r.rip == RESET_RIP && s->cs.selector == RESET_CS_SEL &&
	    s->cs.base == RESET_CS_BASE && !(s->cr0 & CR0_PE))
		atomic_store(&v->mp_state, KVM_MP_STATE_RUNNABLE);
}

/* All of kvm_sregs but the interrupt bitmap; -EINVAL changes nothing. */
static int set_sregs_common(struct vcpu *v, const struct kvm_sregs *s)
{
	uint64_t old = vcpu_get_apic_base(v);
	int r = 0;

	if (s->apic_base != old)
		r = vcpu_set_apic_base(v, s->apic_base, true);
	if (r)
		return r;
	section_begin(v);
	r = engine_set_sregs(v->cpu, s);
	section_end(v);
	if (r) {
		if (s->apic_base != old)
			base_bug_on(vcpu_set_apic_base(v, old, true));
		return r;
	}
	(void)vcpu_set_cr8(v, s->cr8); /* KVM ignores reserved bits here */
	unhalt_on_reset(v, s);
	return 0;
}

int vcpu_set_sregs(struct vcpu *v, const struct kvm_sregs *s)
{
	int r = set_sregs_common(v, s);
	unsigned i;

	if (r)
		return r;
	for (i = 0; i < ARRAY_SIZE(s->interrupt_bitmap); i++) {
		if (!s->interrupt_bitmap[i])
			continue;
		v->ev.irq.injected = true;
		v->ev.irq.soft = false;
		v->ev.irq.vector = 64 * i + __builtin_ctzll(s->interrupt_bitmap[i]);
		break;
	}
	return 0;
}

int vcpu_get_sregs2(struct vcpu *v, struct kvm_sregs2 *s2)
{
	struct kvm_sregs s = {0};

	get_sregs_common(v, &s);
	*s2 = (struct kvm_sregs2){
	    .cs = s.cs,
	    .ds = s.ds,
	    .es = s.es,
	    .fs = s.fs,
	    .gs = s.gs,
	    .ss = s.ss,
	    .tr = s.tr,
	    .ldt = s.ldt,
	    .gdt = s.gdt,
	    .idt = s.idt,
	    .cr0 = s.cr0,
	    .cr2 = s.cr2,
	    .cr3 = s.cr3,
	    .cr4 = s.cr4,
	    .cr8 = s.cr8,
	    .efer = s.efer,
	    .apic_base = s.apic_base,
	};
	if (engine_pae_paging(v->cpu)) {
		uint64_t pdptrs[4];

		engine_get_pdptrs(v->cpu, pdptrs);
		memcpy(s2->pdptrs, pdptrs, sizeof(pdptrs));
		s2->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
	}
	return 0;
}

int vcpu_set_sregs2(struct vcpu *v, const struct kvm_sregs2 *s2)
{
	struct kvm_sregs s = {
	    .cs = s2->cs,
	    .ds = s2->ds,
	    .es = s2->es,
	    .fs = s2->fs,
	    .gs = s2->gs,
	    .ss = s2->ss,
	    .tr = s2->tr,
	    .ldt = s2->ldt,
	    .gdt = s2->gdt,
	    .idt = s2->idt,
	    .cr0 = s2->cr0,
	    .cr2 = s2->cr2,
	    .cr3 = s2->cr3,
	    .cr4 = s2->cr4,
	    .cr8 = s2->cr8,
	    .efer = s2->efer,
	    .apic_base = s2->apic_base,
	};
	bool valid = s2->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	bool pae = (s2->cr0 & BIT(31)) && (s2->cr4 & BIT(5)) && !(s2->efer & BIT(10));
	uint64_t pdptrs[4];
	int r;

	if ((s2->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID) || (valid && !pae))
		return -EINVAL;
	r = set_sregs_common(v, &s);
	if (r || !valid)
		return r;
	memcpy(pdptrs, s2->pdptrs, sizeof(pdptrs));
	engine_set_pdptrs(v->cpu, pdptrs);
	return 0;
}

/* -- Vector state -- */

/* KVM neither tells nor takes MXCSR by these two. */
int vcpu_get_fpu(struct vcpu *v, struct kvm_fpu *f)
{
	engine_get_fpu(v->cpu, f);
	f->mxcsr = 0;
	return 0;
}

int vcpu_set_fpu(struct vcpu *v, const struct kvm_fpu *f)
{
	struct kvm_fpu now, wanted = *f;

	engine_get_fpu(v->cpu, &now);
	wanted.mxcsr = now.mxcsr;
	engine_set_fpu(v->cpu, &wanted);
	return 0;
}

int vcpu_get_xsave(struct vcpu *v, struct kvm_xsave *x)
{
	memset(x, 0, sizeof(*x));
	engine_get_xsave(v->cpu, x, sizeof(*x));
	return 0;
}

uint32_t vcpu_xsave2_size(struct vcpu *v)
{
	uint32_t size = engine_xsave_size(vcpu_supported_xcr0(), false);

	return MAX(size, sizeof(struct kvm_xsave));
}

int vcpu_get_xsave2(struct vcpu *v, void *area, uint32_t size)
{
	memset(area, 0, size);
	engine_get_xsave(v->cpu, area, size);
	return 0;
}

int vcpu_set_xsave(struct vcpu *v, const void *area, uint32_t size)
{
	return engine_set_xsave(v->cpu, area, size);
}

int vcpu_get_xcrs(struct vcpu *v, struct kvm_xcrs *x)
{
	*x = (struct kvm_xcrs){.nr_xcrs = 1};
	x->xcrs[0].xcr = XCR0_INDEX;
	x->xcrs[0].value = engine_get_xcr0(v->cpu);
	return 0;
}

int vcpu_set_xcrs(struct vcpu *v, const struct kvm_xcrs *x)
{
	unsigned i;

	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return -EINVAL;
	for (i = 0; i < x->nr_xcrs; i++)
		if (x->xcrs[i].xcr == XCR0_INDEX)
			return engine_set_xcr0(v->cpu, x->xcrs[i].value) ? -EINVAL : 0;
	return 0;
}

int vcpu_get_debugregs(struct vcpu *v, struct kvm_debugregs *d)
{
	*d = (struct kvm_debugregs){0};
	engine_get_debugregs(v->cpu, d);
	return 0;
}

int vcpu_set_debugregs(struct vcpu *v, const struct kvm_debugregs *d)
{
	return d->flags ? -EINVAL : engine_set_debugregs(v->cpu, d);
}

/* -- Events -- */

int vcpu_get_events(struct vcpu *v, struct kvm_vcpu_events *e)
{
	struct vcpu_exception *x = &v->ev.exc;
	bool payload = v->vm->exception_payload;

	event_collect(v);
	if (!payload && x->pending)
		event_payload(v);
	*e = (struct kvm_vcpu_events){
	    .exception = {.nr = x->vector, .has_error_code = x->has_error, .error_code = x->error},
	    .exception_has_payload = x->has_payload,
	    .exception_payload = x->payload,
	    .interrupt = {.injected = v->ev.irq.injected && !v->ev.irq.soft,
			  .nr = v->ev.irq.vector,
			  .shadow = engine_get_shadow(v->cpu)},
	    .nmi = {.injected = v->ev.nmi.injected, .pending = v->ev.nmi.pending, .masked = v->ev.nmi.masked},
	    .smi = {.smm = v->ev.smi.in_smm,
		    .pending = v->ev.smi.pending,
		    .smm_inside_nmi = v->ev.smi.inside_nmi,
		    .latched_init = !!(atomic_load(&v->init_sipi) & VCPU_EVENT_INIT)},
	    .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM,
	};
	if (x->vector != 3 && x->vector != 4) { /* #BP and #OF come again by themselves */
		e->exception.injected = x->injected || (!payload && x->pending);
		e->exception.pending = x->pending;
	}
	if (payload)
		e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (v->vm->triple_fault_event) {
		e->triple_fault.pending = !!(atomic_load(&v->requests) & VCPU_REQ_TRIPLE_FAULT);
		e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
	return 0;
}

#define EVENTS_VALID                                                                                      \
	(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW | \
	 KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT)

/* Everything that KVM_SET_VCPU_EVENTS refuses. */
static int check_events(const struct vcpu *v, const struct kvm_vcpu_events *e)
{
	bool pending = e->exception.pending && (e->flags & KVM_VCPUEVENT_VALID_PAYLOAD);

	if (e->flags & ~EVENTS_VALID)
		return -EINVAL;
	if ((e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && !v->vm->exception_payload)
		return -EINVAL;
	if ((e->exception.injected || pending) &&
	    (e->exception.nr > MAX_EXCEPTION || e->exception.nr == VEC_NMI))
		return -EINVAL;
	if ((e->flags & KVM_VCPUEVENT_VALID_SMM) && (e->smi.smm || e->smi.pending) &&
	    atomic_load(&v->mp_state) == KVM_MP_STATE_INIT_RECEIVED)
		return -EINVAL;
	if ((e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !v->vm->triple_fault_event)
		return -EINVAL;
	return 0;
}

static void set_smm_events(struct vcpu *v, const struct kvm_vcpu_events *e)
{
	if (v->ev.smi.in_smm != !!e->smi.smm)
		smm_switch(v, e->smi.smm);
	v->ev.smi.pending = e->smi.pending;
	if (e->smi.smm)
		v->ev.smi.inside_nmi = e->smi.smm_inside_nmi;
	if (!v->lapic)
		return;
	if (e->smi.latched_init)
		atomic_fetch_or(&v->init_sipi, VCPU_EVENT_INIT);
	else
		atomic_fetch_and(&v->init_sipi, ~VCPU_EVENT_INIT);
}

int vcpu_set_events(struct vcpu *v, const struct kvm_vcpu_events *e)
{
	bool payload = e->flags & KVM_VCPUEVENT_VALID_PAYLOAD;
	bool pending = payload && e->exception.pending;
	int r = check_events(v, e);

	if (r)
		return r;
	event_collect(v);
	v->ev.exc = (struct vcpu_exception){
	    .injected = e->exception.injected && !pending,
	    .pending = pending,
	    .vector = e->exception.nr,
	    .has_error = e->exception.has_error_code,
	    .error = e->exception.error_code,
	    .has_payload = pending && e->exception_has_payload,
	    .payload = e->exception_payload,
	};
	v->ev.irq.injected = e->interrupt.injected;
	v->ev.irq.vector = e->interrupt.nr;
	v->ev.irq.soft = e->interrupt.soft;
	if (e->flags & KVM_VCPUEVENT_VALID_SHADOW)
		engine_set_shadow(v->cpu, e->interrupt.shadow & (ENGINE_SHADOW_STI | ENGINE_SHADOW_MOVSS));
	v->ev.nmi.injected = e->nmi.injected;
	if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		v->ev.nmi.pending = e->nmi.pending;
	v->ev.nmi.masked = e->nmi.masked;
	if ((e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) && v->lapic)
		atomic_store(&v->sipi_vector, e->sipi_vector);
	if (e->flags & KVM_VCPUEVENT_VALID_SMM)
		set_smm_events(v, e);
	if (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) {
		if (e->triple_fault.pending)
			vcpu_request_quiet(v, VCPU_REQ_TRIPLE_FAULT);
		else
			vcpu_request_take(v, VCPU_REQ_TRIPLE_FAULT);
	}
	vcpu_request_quiet(v, VCPU_REQ_EVENT);
	return 0;
}

/* -- MP state and LAPIC -- */

int vcpu_get_mp_state(struct vcpu *v, struct kvm_mp_state *s)
{
	event_init_sipi(v);
	s->mp_state = atomic_load(&v->mp_state);
	if (s->mp_state == KVM_MP_STATE_HALTED && atomic_load(&v->unhalted))
		s->mp_state = KVM_MP_STATE_RUNNABLE;
	return 0;
}

int vcpu_set_mp_state(struct vcpu *v, const struct kvm_mp_state *s)
{
	uint32_t mp = s->mp_state;

	switch (mp) {
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (v->ev.smi.in_smm || v->ev.smi.pending)
			return -EINVAL;
		/* fall through */
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_AP_RESET_HOLD:
		if (!v->lapic)
			return -EINVAL;
		break;
	case KVM_MP_STATE_RUNNABLE: break;
	default: return -EINVAL;
	}
	if (mp == KVM_MP_STATE_SIPI_RECEIVED) {
		atomic_fetch_or(&v->init_sipi, VCPU_EVENT_SIPI);
		mp = KVM_MP_STATE_INIT_RECEIVED;
	}
	atomic_store(&v->mp_state, mp);
	v->hlt_active = false;
	vcpu_request_quiet(v, VCPU_REQ_EVENT);
	return 0;
}

bool vcpu_has_lapic(const struct vcpu *v)
{
	return v->lapic != NULL;
}

int vcpu_get_lapic(struct vcpu *v, struct kvm_lapic_state *s)
{
	return v->lapic ? lapic_get_state(v->lapic, s) : -EINVAL;
}

int vcpu_set_lapic(struct vcpu *v, const struct kvm_lapic_state *s)
{
	int r = v->lapic ? lapic_set_state(v->lapic, s) : -EINVAL;

	if (!r)
		vcpu_request_quiet(v, VCPU_REQ_EVENT);
	return r;
}

/* -- Injection by the VMM -- */

int vcpu_interrupt(struct vcpu *v, const struct kvm_interrupt *irq)
{
	enum irq_mode mode = irq_get_mode(v->vm->irq);

	if (irq->irq > 255)
		return -EINVAL;
	if (mode == IRQ_MODE_KERNEL)
		return -ENXIO;
	if (mode == IRQ_MODE_SPLIT) {
		if (v->ev.extint >= 0)
			return -EEXIST;
		v->ev.extint = irq->irq;
	} else {
		v->ev.irq.injected = true;
		v->ev.irq.soft = false;
		v->ev.irq.vector = irq->irq;
	}
	vcpu_request_quiet(v, VCPU_REQ_EVENT);
	return 0;
}

int vcpu_nmi(struct vcpu *v)
{
	atomic_fetch_add(&v->nmi_queued, 1);
	vcpu_request_quiet(v, VCPU_REQ_NMI);
	return 0;
}

int vcpu_smi(struct vcpu *v)
{
	vcpu_request_quiet(v, VCPU_REQ_SMI);
	return 0;
}

/* -- Debugging, signals, kvmvapic -- */

int vcpu_set_guest_debug(struct vcpu *v, const struct kvm_guest_debug *d)
{
	uint64_t regs[8];
	uint32_t control = d->control;
	unsigned i;

	if (control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		if (v->ev.exc.pending)
			return -EBUSY;
		event_queue(v, control & KVM_GUESTDBG_INJECT_DB ? 1 : 3, false, 0);
	}
	if (!(control & KVM_GUESTDBG_ENABLE))
		control = 0;
	v->guest_debug = control;
	for (i = 0; i < ARRAY_SIZE(regs); i++)
		regs[i] = d->arch.debugreg[i];
	engine_set_debug(v->cpu, control, regs);
	return 0;
}

int vcpu_set_signal_mask(struct vcpu *v, const sigset_t *set)
{
	v->has_sigmask = set;
	if (set) {
		v->sigmask = *set;
		sigdelset(&v->sigmask, SIGKILL);
		sigdelset(&v->sigmask, SIGSTOP);
	}
	return 0;
}

int vcpu_tpr_access_reporting(struct vcpu *v, struct kvm_tpr_access_ctl *t)
{
	if (t->flags)
		return -EINVAL;
	v->tpr_reporting = t->enabled;
	return 0;
}

int vcpu_set_vapic_addr(struct vcpu *v, const struct kvm_vapic_addr *a)
{
	uint32_t word;

	if (!v->lapic)
		return -EINVAL;
	if (a->vapic_addr && mem_read(v->vm->mem, vcpu_as(v), a->vapic_addr, &word, sizeof(word)))
		return -EINVAL;
	v->vapic_addr = a->vapic_addr;
	return 0;
}

int vcpu_translate(struct vcpu *v, struct kvm_translation *t)
{
	uint64_t lin = t->linear_address, gpa = ~0ULL;
	bool writable, user, found;

	section_begin(v);
	found = engine_translate(v->cpu, lin, &gpa, &writable, &user);
	section_end(v);
	*t = (struct kvm_translation){
	    .linear_address = lin,
	    .physical_address = found ? gpa : ~0ULL,
	    .valid = found,
	    .writeable = 1,
	};
	return 0;
}
