/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_RUN (api.rst 4.10). One run is: finish what the VMM was asked for, obey immediate_exit, then loop:
 * requests, events, guest, until an exit is due or a signal was caught. Functions that answer "and now?"
 * return 1 = go on, 0 = kvm_run tells the VMM, -errno = KVM_RUN fails with it.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vcpu/internal.h"

#define MAX_INSN 15

/* -- Exits -- */

static int run_leave(struct vcpu *v, uint32_t reason)
{
	v->run->exit_reason = reason;
	return 0;
}

/* Reads up to 15 instruction bytes at RIP; returns how many. */
static unsigned fetch_bytes(struct vcpu *v, uint8_t buf[MAX_INSN])
{
	uint64_t lin = engine_linear_rip(v->cpu), gpa;
	unsigned n = 0, chunk;
	bool writable, user;

	while (n < MAX_INSN && engine_translate(v->cpu, lin + n, &gpa, &writable, &user)) {
		chunk = MIN(MAX_INSN - n, PAGE_SIZE - (gpa & PAGE_OFFSET_MASK));
		if (mem_read(v->vm->mem, vcpu_as(v), gpa, buf + n, chunk))
			break;
		n += chunk;
	}
	return n;
}

/* KVM_INTERNAL_ERROR_EMULATION, laid out as KVM does: flags, instruction bytes, then debug words. */
static int emulation_failure(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t bytes[MAX_INSN];
	unsigned n, words = 1;

	guest_enter(v);
	n = fetch_bytes(v, bytes);
	guest_leave(v);
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->emulation_failure.flags = 0;
	if (n) {
		run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
		run->emulation_failure.insn_size = n;
		memset(run->emulation_failure.insn_bytes, 0x90, sizeof(run->emulation_failure.insn_bytes));
		memcpy(run->emulation_failure.insn_bytes, bytes, n);
		words += 2;
	}
	run->emulation_failure.ndata = words;
	return 0;
}

/* The engine cannot go on here: #UD for user code, the VMM's problem otherwise (KVM's policy). */
static int run_noemu(struct vcpu *v)
{
	if (v->vm->exit_on_emulation_error)
		return emulation_failure(v);
	event_queue(v, 6, false, 0);
	return engine_cpl(v->cpu) ? 1 : emulation_failure(v);
}

/* HLT retired. */
static int run_halt(struct vcpu *v)
{
	if (!v->lapic) {
		if (!(v->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT))
			return run_leave(v, KVM_EXIT_HLT);
		v->hlt_active = true;
		return 1;
	}
	if (event_wakes(v))
		atomic_store(&v->unhalted, false);
	else
		atomic_store(&v->mp_state, KVM_MP_STATE_HALTED);
	return 1;
}

static int run_debug(struct vcpu *v)
{
	engine_debug_info(v->cpu, &v->run->debug.arch);
	return run_leave(v, KVM_EXIT_DEBUG);
}

static int run_finish(struct vcpu *v);

/* A port call stopped the instruction. For port 7E KVM moves RIP before the VMM sees the exit. */
static int run_stop(struct vcpu *v)
{
	__typeof__(v->run->io) io;

	if (v->run_result || !v->pending.complete || !v->pending.early)
		return v->run_result;
	v->pending.early = false;
	io = v->run->io;
	run_finish(v);
	v->run->io = io;
	return run_leave(v, KVM_EXIT_IO);
}

int run_exit(struct vcpu *v, enum engine_exit x)
{
	switch (x) {
	case ENGINE_EXIT_POLL:
	case ENGINE_EXIT_WINDOW:
	case ENGINE_EXIT_STEPPED: return 1;
	case ENGINE_EXIT_STOP: return run_stop(v);
	case ENGINE_EXIT_HLT: return run_halt(v);
	case ENGINE_EXIT_SHUTDOWN: return run_leave(v, KVM_EXIT_SHUTDOWN);
	case ENGINE_EXIT_DEBUG: return run_debug(v);
	case ENGINE_EXIT_BADHOST:
		if (v->run_result == RUN_FILLED)
			return 0;
		return v->run_result ? v->run_result : -EFAULT;
	case ENGINE_EXIT_NOEMU: return run_noemu(v);
	}
	base_bug("unknown engine exit");
	return -EINVAL;
}

/* -- Requests -- */

/* Takes one vector of those whose EOI the VMM wants to hear; 1 if there is none. */
static int request_eoi(struct vcpu *v)
{
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(v->eoi_vectors); i++) {
		uint64_t bits = atomic_load(&v->eoi_vectors[i]);

		if (!bits)
			continue;
		v->run->eoi.vector = 64 * i + __builtin_ctzll(bits);
		atomic_fetch_and(&v->eoi_vectors[i], ~(bits & -bits));
		vcpu_request_quiet(v, VCPU_REQ_EOI_EXIT); /* look for the next one at the next entry */
		return run_leave(v, KVM_EXIT_IOAPIC_EOI);
	}
	return 1;
}

static int run_requests(struct vcpu *v)
{
	if (unlikely(mem_ring_soft_full(v->ring)))
		return run_leave(v, KVM_EXIT_DIRTY_RING_FULL);
	if (unlikely(v->set_tpr_exit)) {
		v->set_tpr_exit = false;
		return run_leave(v, KVM_EXIT_SET_TPR);
	}
	if (likely(!atomic_load(&v->requests)))
		return 1;
	vcpu_request_take(v, VCPU_REQ_EVENT);
	if (vcpu_request_take(v, VCPU_REQ_TLB_FLUSH))
		engine_flush_tlb(v->cpu);
	if (vcpu_request_take(v, VCPU_REQ_TPR_REPORT)) {
		v->run->tpr_access.rip = v->tpr_access.rip;
		v->run->tpr_access.is_write = v->tpr_access.write;
		return run_leave(v, KVM_EXIT_TPR_ACCESS);
	}
	if (vcpu_request_take(v, VCPU_REQ_TRIPLE_FAULT))
		return run_leave(v, KVM_EXIT_SHUTDOWN);
	if (hyperv_requests(v) == 0)
		return 0;
	if (vcpu_request_take(v, VCPU_REQ_XEN))
		xen_request(v);
	if (vcpu_request_take(v, VCPU_REQ_PMU))
		pmu_request(v);
	event_collect(v);
	return vcpu_request_take(v, VCPU_REQ_EOI_EXIT) ? request_eoi(v) : 1;
}

/* -- Guest and sleep -- */

/*
 * To the next exit. Who tells a vCPU of code that it wrote does so by a kick (an interrupt of any kind but its own timer's)
 * or, being the VMM, outside KVM_RUN.
 */
static enum engine_exit run_engine(struct vcpu *v)
{
	bool told = v->entered;

	v->entered = false;
	/* Taken before the code is read again. */
	if (atomic_load_explicit(&v->news, memory_order_relaxed) && atomic_exchange(&v->news, false))
		told = true;
	if (v->step_once)
		return engine_step(v->cpu);
	return told ? engine_run(v->cpu) : engine_go_on(v->cpu);
}

static int run_guest(struct vcpu *v)
{
	enum engine_exit x;
	int r;

	guest_enter(v);
	r = run_requests(v);
	if (r > 0)
		r = event_inject(v);
	if (r <= 0) {
		guest_leave(v);
		return r;
	}
	pv_before_entry(v);
	event_vapic_to(v);
	replay_rewind(v);
	v->run_result = 0;
	if (unlikely(v->pmu.armed))
		pmu_enter(v);
	x = run_engine(v);
	if (unlikely(v->pmu.armed))
		pmu_leave(v);
	guest_leave(v);
	pv_after_exit(v);
	return run_exit(v, x);
}

/* Sleeps until there is a reason to run or a signal was caught. */
static void run_sleep(struct vcpu *v)
{
	for (;;) {
		atomic_store(v->exit_word, 0);
		if (event_wakes(v) || base_sig_run_caught(&v->sig))
			return;
		atomic_store(&v->waiting, true); /* before the word is compared; pairs with vcpu_kick */
		syscall(SYS_futex, v->exit_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		atomic_store(&v->waiting, false);
	}
}

/* Halted, or waiting for INIT and SIPI. */
static int run_block(struct vcpu *v)
{
	run_sleep(v);
	if (!event_wakes(v))
		return 1;
	event_init_sipi(v);
	switch (atomic_load(&v->mp_state)) {
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_AP_RESET_HOLD:
		atomic_store(&v->unhalted, false);
		atomic_store(&v->mp_state, KVM_MP_STATE_RUNNABLE);
		xen_poll_end(v);
		break;
	}
	v->hlt_active = false;
	return 1;
}

/* True if the VMM asked for a window and it is open. */
static bool dm_window(struct vcpu *v)
{
	return v->run->request_interrupt_window && irq_get_mode(v->vm->irq) != IRQ_MODE_KERNEL &&
	       event_dm_ready(v);
}

static int run_loop(struct vcpu *v)
{
	for (;;) {
		int r;

		event_init_sipi(v);
		if (atomic_load_explicit(&v->mp_state, memory_order_relaxed) == KVM_MP_STATE_RUNNABLE &&
		    !v->hlt_active)
			r = run_guest(v);
		else
			r = run_block(v);
		if (r <= 0)
			return r;
		if (dm_window(v))
			return run_leave(v, KVM_EXIT_IRQ_WINDOW_OPEN);
		if (base_sig_run_caught(&v->sig)) {
			v->run->exit_reason = KVM_EXIT_INTR;
			return -EINTR;
		}
	}
}

/* -- Begin and end -- */

/*
 * Takes the VMM's answer and executes the stopped instruction (or event delivery) again; it may stop at its
 * next access. A plain IN or OUT has no next one, nor anything else to do. If the VMM moved RIP the answer is for
 * nobody.
 */
static int run_finish(struct vcpu *v)
{
	void (*complete)(struct vcpu * v) = v->pending.complete;
	enum engine_exit x;
	int r;

	v->pending.complete = NULL;
	if (engine_linear_rip(v->cpu) != v->pending.linear_rip) {
		replay_clear(v);
		return 1;
	}
	if (v->pending.access.kind == ACCESS_PIO && !v->pending.delivering &&
	    engine_finish_io(v->cpu, (uint8_t *)v->run + VCPU_IO_PAGE_OFFSET))
		return 1;
	complete(v);
	guest_enter(v);
	if (v->pending.delivering) {
		r = event_redeliver(v);
		guest_leave(v);
		return MIN(r, 1);
	}
	replay_rewind(v);
	v->run_result = 0;
	v->completing = true;
	do {
		x = engine_step(v->cpu);
	} while (x == ENGINE_EXIT_POLL);
	v->completing = false;
	guest_leave(v);
	return run_exit(v, x);
}

/* An AP before its first SIPI: waits, then -EAGAIN; -EINTR for a signal or immediate_exit. */
static int run_uninitialized(struct vcpu *v)
{
	if (v->run->immediate_exit)
		return -EINTR;
	run_sleep(v);
	event_init_sipi(v);
	if (base_sig_run_caught(&v->sig)) {
		v->run->exit_reason = KVM_EXIT_INTR;
		return -EINTR;
	}
	return -EAGAIN;
}

/* Takes the registers that the VMM changed in kvm_run (KVM_CAP_SYNC_REGS). */
static int run_sync_regs(struct vcpu *v, uint64_t dirty)
{
	struct kvm_sync_regs s = v->run->s.regs;
	int r;

	if (dirty & KVM_SYNC_X86_REGS) {
		vcpu_set_regs(v, &s.regs);
		v->run->kvm_dirty_regs &= ~(uint64_t)KVM_SYNC_X86_REGS;
	}
	if (dirty & KVM_SYNC_X86_SREGS) {
		r = vcpu_set_sregs(v, &s.sregs);
		if (r)
			return -EINVAL;
		v->run->kvm_dirty_regs &= ~(uint64_t)KVM_SYNC_X86_SREGS;
	}
	if (dirty & KVM_SYNC_X86_EVENTS) {
		r = vcpu_set_events(v, &s.events);
		if (r)
			return -EINVAL;
		v->run->kvm_dirty_regs &= ~(uint64_t)KVM_SYNC_X86_EVENTS;
	}
	return 0;
}

/* Takes what the VMM left in kvm_run. 0, or -EINVAL. */
static int run_take_input(struct vcpu *v)
{
	uint64_t valid = v->run->kvm_valid_regs, dirty = v->run->kvm_dirty_regs;

	if ((valid | dirty) & ~(uint64_t)KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	if (dirty && run_sync_regs(v, dirty))
		return -EINVAL;
	return v->lapic ? 0 : vcpu_set_cr8(v, v->run->cr8);
}

/* Tells the VMM what every exit tells. */
static void run_save(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t valid = run->kvm_valid_regs;

	if (valid & KVM_SYNC_X86_REGS)
		vcpu_get_regs(v, &run->s.regs.regs);
	if (valid & KVM_SYNC_X86_SREGS)
		vcpu_get_sregs(v, &run->s.regs.sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		vcpu_get_events(v, &run->s.regs.events);
	run->if_flag = engine_get_rflags(v->cpu) >> 9 & 1;
	run->cr8 = vcpu_get_cr8(v);
	run->apic_base = vcpu_get_apic_base(v);
	run->ready_for_interrupt_injection = irq_get_mode(v->vm->irq) == IRQ_MODE_KERNEL || event_dm_ready(v);
	if (v->ev.smi.in_smm)
		run->flags |= KVM_RUN_X86_SMM;
}

static int run_all(struct vcpu *v)
{
	int r;

	if (atomic_load(&v->mp_state) == KVM_MP_STATE_UNINITIALIZED)
		return run_uninitialized(v);
	r = run_take_input(v);
	if (r)
		return r;
	if (v->pending.complete) {
		r = run_finish(v);
		if (r <= 0)
			return r;
	}
	if (v->run->immediate_exit)
		return -EINTR;
	return run_loop(v);
}

int vcpu_run(struct vcpu *v)
{
	struct mem_ring *outer = mem_ring_use(v->ring);
	int r;

	base_sig_run_begin(&v->sig, v->has_sigmask ? &v->sigmask : NULL);
	v->in_run = true;
	v->entered = true;
	v->run->flags = 0;
	pv_begin_run(v);
	hyperv_begin_run(v);
	xen_begin_run(v);
	r = run_all(v);
	run_save(v);
	v->in_run = false;
	base_sig_run_end(&v->sig);
	mem_ring_use(outer);
	return r;
}
