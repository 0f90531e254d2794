/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to vcpu/: struct vcpu and what the files of this room promise one another. Everything needs
 * vcpu->mutex except the atomics, which any thread may touch through vcpu_request and vcpu_kick.
 *
 *	vcpu.c	creation, kick, the calls up from irq/	run.c	KVM_RUN
 *	event.c	injection and its order			smm.c	SMI and RSM
 *	port.c	what the engine asks			replay.c  answers for a re-executed instruction
 *	state.c	register ioctls				flush.c	revocation
 *	cpuid.c msr.c clock.c pv.c			the guest's view of CPU, time and hypervisor
 */
#ifndef USERKVM_VCPU_INTERNAL_H
#define USERKVM_VCPU_INTERNAL_H

#include <signal.h>

#include "vcpu/clock.h"
#include "vcpu/cpuid.h"
#include "vcpu/msr.h"
#include "vcpu/pv.h"
#include "vcpu/replay.h"
#include "vcpu/vcpu.h"

/* Requests: bits set by any thread (vcpu_request), handled by the vCPU's own thread before entry. */
#define VCPU_REQ_EVENT	      BIT(0) /* an interrupt may have become deliverable */
#define VCPU_REQ_NMI	      BIT(1) /* nmi_queued went up */
#define VCPU_REQ_SMI	      BIT(2)
#define VCPU_REQ_INIT	      BIT(3)
#define VCPU_REQ_SIPI	      BIT(4)
#define VCPU_REQ_REVOKE	      BIT(5) /* host pointers must be dropped before guest code runs */
#define VCPU_REQ_EOI_EXIT     BIT(6) /* KVM_EXIT_IOAPIC_EOI for eoi_vectors */
#define VCPU_REQ_TPR_REPORT   BIT(7) /* KVM_EXIT_TPR_ACCESS */
#define VCPU_REQ_TRIPLE_FAULT BIT(8)
#define VCPU_REQ_TLB_FLUSH    BIT(9)  /* drop cached translations */
#define VCPU_REQ_CLOCK	      BIT(16) /* clock.c, pv.c: rewrite the guest's kvmclock page */
#define VCPU_REQ_STEAL	      BIT(17) /* pv.c: rewrite steal time */
#define VCPU_REQ_PV_EOI	      BIT(18) /* pv.c */
#define VCPU_REQ_PV	      (VCPU_REQ_CLOCK | VCPU_REQ_STEAL | VCPU_REQ_PV_EOI)

/* An exception on its way to the guest, as KVM_GET_VCPU_EVENTS tells it. */
struct vcpu_exception {
	bool pending;  /* raised, its payload not yet in CR2/DR6 */
	bool injected; /* to be delivered (again) */
	bool has_error, has_payload;
	uint8_t vector;
	uint32_t error;
	uint64_t payload;
};

struct vcpu_events {
	struct vcpu_exception exc;
	struct {
		bool injected, soft; /* chosen and acknowledged, not yet delivered */
		uint8_t vector;
		uint8_t insn_len;
	} irq;
	struct {
		bool injected, masked;
		unsigned pending; /* 0..2 */
	} nmi;
	struct {
		bool pending, in_smm, latched_init;
	} smi;
	uint8_t sipi_vector;
	int extint; /* KVM_INTERRUPT with irqchip off or split: vector, -1 none */
};

/* Waiting for the VMM: how to take its answer out of kvm_run at the next KVM_RUN. */
struct vcpu_pending {
	/* Takes the VMM's answer from kvm_run into the replay log. NULL: nothing is pending. */
	void (*complete)(struct vcpu *v);
	uint64_t linear_rip;	   /* the answer is dropped if the VMM moved RIP */
	struct vcpu_access access; /* what complete() finishes */
};

struct vcpu {
	struct vcpu_vm *vm;
	struct engine_cpu *cpu;
	struct lapic *lapic; /* NULL with the APIC in the VMM */
	struct kvm_run *run; /* first of three shared pages: the VMM may change it at any time */
	uint32_t id;
	unsigned index;
	struct mutex mutex;

	_Atomic uint64_t requests;
	_Atomic uint32_t nmi_queued;
	_Atomic uint32_t sipi_latch;	 /* vector of the latest SIPI */
	_Atomic uint64_t eoi_vectors[4]; /* VCPU_REQ_EOI_EXIT */
	_Atomic int in_guest_tid;	 /* thread inside the run section, 0 = outside; see flush.c */
	_Atomic uint32_t mp_state;	 /* KVM_MP_STATE_*; written by the owner, read by anybody */
	_Atomic uint32_t *exit_word;	 /* engine_exit_word(cpu) */

	struct vcpu_events ev;
	struct vcpu_pending pending;
	struct vcpu_replay replay;
	int run_result; /* what vcpu_run returns when a port call asked to leave */

	bool has_sigmask;
	sigset_t sigmask;
	uint32_t guest_debug; /* KVM_GUESTDBG_* control */
	uint32_t smbase;
	uint64_t apic_base; /* with the APIC in the VMM */
	uint64_t cr8;	    /* with the APIC in the VMM */
	bool tpr_reporting;
	uint64_t vapic_addr;
	struct {
		uint64_t rip;
		bool write;
	} tpr_access;
	bool exit_on_msr_pending; /* reserved for msr.c */

	struct vcpu_cpuid cpuid;
	struct vcpu_msrs msr;
	struct vcpu_clock clk;
	struct vcpu_pv pv;

	struct sig_run sig;
};

/* -- vcpu.c -- */
/* Sets request bits and makes the vCPU look at them soon. Any thread. */
void vcpu_request(struct vcpu *v, uint64_t bits);
/* Sets request bits without a kick: for the vCPU's own thread, or where entry will come anyway. */
static inline void vcpu_request_quiet(struct vcpu *v, uint64_t bits)
{
	atomic_fetch_or(&v->requests, bits);
}
/* True and cleared if any of the bits was set. */
static inline bool vcpu_request_take(struct vcpu *v, uint64_t bits)
{
	if (!(atomic_load_explicit(&v->requests, memory_order_relaxed) & bits))
		return false;
	return atomic_fetch_and(&v->requests, ~bits) & bits;
}
/* Memory as this vCPU addresses it now: 0, or 1 in SMM. */
static inline unsigned vcpu_as(const struct vcpu *v)
{
	return v->ev.smi.in_smm ? 1 : 0;
}
/* Power-on state, or INIT. */
void vcpu_reset(struct vcpu *v, bool init);

/* -- port.c -- */
extern const struct engine_port vcpu_engine_port;
/*
 * A port call must ask the VMM: kvm_run is filled by the caller (exit_reason included); a is remembered
 * and complete() runs at the next KVM_RUN: it reads kvm_run and calls replay_add with the answer; then the
 * instruction is executed again and the same port call finds the answer by replay_find.
 */
enum engine_status vcpu_stop(struct vcpu *v, const struct vcpu_access *a, void (*complete)(struct vcpu *v));

/* -- event.c -- */
/* Queues an exception for injection at the next entry. */
void event_queue(struct vcpu *v, uint8_t vector, bool has_error, uint32_t error);

/* -- smm.c -- */
int smm_enter(struct vcpu *v);
enum engine_status smm_leave(struct vcpu *v);

/* -- cpuid.c -- */
enum engine_status vcpu_cpuid_port(struct vcpu *v, uint32_t regs[4]);
void cpuid_reset(struct vcpu *v);
/* The entry that answers (function, index), or NULL. */
const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *v, uint32_t function, uint32_t index);
/* The features as last computed from the VMM's CPUID. */
const struct engine_features *cpuid_features(const struct vcpu *v);
/* Frees what vcpu_set_cpuid allocated. */
void cpuid_destroy(struct vcpu *v);

/* -- msr.c: 0, -EINVAL = #GP, -ENOENT unknown -- */
int vcpu_rdmsr(struct vcpu *v, uint32_t index, uint64_t *val, bool host);
int vcpu_wrmsr(struct vcpu *v, uint32_t index, uint64_t val, bool host);
/* The guest's RDMSR and WRMSR: filter and exits to the VMM included. */
enum engine_status vcpu_rdmsr_port(struct vcpu *v, uint32_t index, uint64_t *val);
enum engine_status vcpu_wrmsr_port(struct vcpu *v, uint32_t index, uint64_t val);
enum engine_status vcpu_rdpmc_port(struct vcpu *v, uint32_t index, uint64_t *val);
void msr_reset(struct vcpu *v, bool init);
void msr_destroy(struct vcpu *v);
/* VM-wide parts: the filter. */
int msr_vm_init(struct vcpu_vm *vm);
void msr_vm_destroy(struct vcpu_vm *vm);
/* Process-wide tables (lists of MSRs). */
int msr_init(void);
int cpuid_init(void);

/* -- clock.c -- */
int clock_vm_init(struct vcpu_vm *vm);
void clock_vm_destroy(struct vcpu_vm *vm);
void clock_vcpu_init(struct vcpu *v);
uint64_t clock_guest_tsc(struct vcpu *v);
/* CLOCK_MONOTONIC ns at which the guest's TSC reaches the value. Any thread. */
uint64_t clock_tsc_deadline_ns(struct vcpu *v, uint64_t tsc);

/* -- pv.c -- */
/* On the vCPU's thread outside guest execution, no lock but vcpu->mutex; cheap when nothing was requested. */
void pv_before_entry(struct vcpu *v);
/* After the guest stopped running: PV EOI settled, steal time marked preempted where it applies. */
void pv_after_exit(struct vcpu *v);
/* Reset and INIT: pages registered by MSR are forgotten as KVM forgets them. */
void pv_reset(struct vcpu *v, bool init);

#endif
