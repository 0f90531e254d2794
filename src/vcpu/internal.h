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
#include "vcpu/hyperv.h"
#include "vcpu/msr.h"
#include "vcpu/pmu.h"
#include "vcpu/pv.h"
#include "vcpu/replay.h"
#include "vcpu/vcpu.h"
#include "vcpu/xen.h"

/* Requests: bits set by any thread (vcpu_request), handled by the vCPU's own thread before entry. */
#define VCPU_REQ_EVENT	      BIT(0) /* an interrupt may have become deliverable */
#define VCPU_REQ_NMI	      BIT(1) /* nmi_queued went up */
#define VCPU_REQ_SMI	      BIT(2)
#define VCPU_REQ_REVOKE	      BIT(5) /* host pointers must be dropped before guest code runs */
#define VCPU_REQ_EOI_EXIT     BIT(6) /* KVM_EXIT_IOAPIC_EOI for eoi_vectors */
#define VCPU_REQ_TPR_REPORT   BIT(7) /* KVM_EXIT_TPR_ACCESS */
#define VCPU_REQ_TRIPLE_FAULT BIT(8)
#define VCPU_REQ_TLB_FLUSH    BIT(9)  /* drop cached translations */
#define VCPU_REQ_HV_EXIT      BIT(10) /* hyperv.c: KVM_EXIT_HYPERV with hv.exit */
#define VCPU_REQ_HV_CRASH     BIT(11) /* KVM_EXIT_SYSTEM_EVENT */
#define VCPU_REQ_HV_RESET     BIT(12)
#define VCPU_REQ_HV_STIMER    BIT(13) /* hyperv_synic.c: a synthetic timer is due */
#define VCPU_REQ_PMU	      BIT(14) /* pmu.c: an overflow may be due, or the filter changed */
#define VCPU_REQ_XEN	      BIT(15) /* xen.c: events raised elsewhere, or the timer */
#define VCPU_REQ_CLOCK	      BIT(16) /* clock.c, pv.c: rewrite the guest's kvmclock page */
#define VCPU_REQ_STEAL	      BIT(17) /* pv.c: rewrite steal time */

/* An exception on its way to the guest, as KVM_GET_VCPU_EVENTS tells it. */
struct vcpu_exception {
	bool pending;  /* raised, its payload not yet in CR2 or DR6 */
	bool injected; /* to be delivered (again) */
	bool has_error, has_payload;
	uint8_t vector;
	uint32_t error;
	uint64_t payload;
};

struct vcpu_events {
	struct vcpu_exception exc;
	struct {
		bool injected; /* chosen and acknowledged, not yet delivered */
		bool soft;     /* an INT n whose delivery was interrupted */
		uint8_t vector;
	} irq;
	struct {
		bool injected, masked;
		unsigned pending; /* 0..2 */
	} nmi;
	struct {
		bool pending, in_smm;
		bool inside_nmi; /* NMIs were masked when the SMI came */
	} smi;
	int extint; /* KVM_INTERRUPT with a split irqchip: vector, -1 = none */
};

/* Waiting for the VMM: how to take its answer out of kvm_run at the next KVM_RUN. */
struct vcpu_pending {
	/* Takes the VMM's answer from kvm_run into the replay log. NULL: nothing is pending. */
	void (*complete)(struct vcpu *v);
	uint64_t linear_rip;	   /* the answer is dropped if the VMM moved RIP */
	struct vcpu_access access; /* what complete() finishes */
	bool delivering;	   /* it stopped an event's delivery, not an instruction */
	bool early;		   /* complete before KVM_RUN returns: OUT 7E quirk */
};

/* In run_result: a page could not be had now, and kvm_run already says why KVM_RUN returns 0. */
#define RUN_FILLED 1

#define VCPU_EVENT_INIT BIT(0) /* vcpu->init_sipi */
#define VCPU_EVENT_SIPI BIT(1)

struct vcpu {
	struct vcpu_vm *vm;
	struct engine_cpu *cpu;
	struct lapic *lapic;   /* NULL with the APIC in the VMM */
	struct kvm_run *run;   /* first of three shared pages: the VMM may change it at any time */
	struct mem_ring *ring; /* NULL without KVM_CAP_DIRTY_LOG_RING */
	uint32_t id;
	unsigned index;
	struct mutex mutex;

	/* Any thread. */
	_Atomic uint64_t requests;
	_Atomic uint32_t nmi_queued;	 /* NMIs not yet seen by event_collect */
	_Atomic uint32_t init_sipi;	 /* VCPU_EVENT_*; latched while in SMM */
	_Atomic uint32_t sipi_vector;	 /* written before VCPU_EVENT_SIPI is set */
	_Atomic uint64_t eoi_vectors[4]; /* VCPU_REQ_EOI_EXIT */
	_Atomic bool unhalted;		 /* KVM_HC_KICK_CPU: one HLT is over */
	_Atomic int in_guest_tid;	 /* thread that may use host pointers, 0 = none: flush.c */
	_Atomic uint64_t flushed_at;	 /* engine_progress at the last revocation by signal */
	_Atomic bool waiting;		 /* sleeps on exit_word */
	_Atomic bool news;		 /* kicked, and not for time alone: run_engine */
	bool entered;			 /* KVM_RUN began, and guest code has not run yet */
	_Atomic uint32_t mp_state;	 /* KVM_MP_STATE_*; written by the owner */
	_Atomic uint32_t *exit_word;	 /* engine_exit_word(cpu) */

	struct vcpu_events ev;
	struct vcpu_pending pending;
	struct vcpu_replay replay;
	int run_result;	 /* what vcpu_run returns when a port call stopped the engine; RUN_FILLED: 0 */
	bool in_run;	 /* between base_sig_run_begin and _end of KVM_RUN */
	bool completing; /* poll says go on until the stopped instruction is done */
	bool step_once;	 /* an event waits for the end of an interrupt shadow */
	bool hlt_active; /* HLT without exit, APIC in the VMM: waits for an event */

	bool has_sigmask;
	sigset_t sigmask;
	uint32_t guest_debug; /* KVM_GUESTDBG_* control */
	uint32_t smbase;
	uint64_t apic_base; /* with the APIC in the VMM */
	uint64_t cr8;	    /* with the APIC in the VMM */
	bool tpr_reporting; /* KVM_TPR_ACCESS_REPORTING */
	bool set_tpr_exit;  /* CR8 fell with the APIC in the VMM: KVM_EXIT_SET_TPR is due */
	uint64_t vapic_addr;
	struct {
		uint64_t rip;
		bool write;
	} tpr_access;

	struct vcpu_cpuid cpuid;
	struct vcpu_msrs msr;
	struct vcpu_clock clk;
	struct vcpu_pv pv;
	struct vcpu_hv hv;
	struct vcpu_pmu pmu;
	struct vcpu_xen xen;

	struct sig_run sig;
};

/* -- vcpu.c -- */
/* Sets request bits and makes the vCPU look at them soon. Any thread. */
void vcpu_request(struct vcpu *v, uint64_t bits);
/* VCPU_REQ_EVENT without news: the vCPU's own doing, or time's, made an event deliverable. Any thread. */
void vcpu_look_again(struct vcpu *v);
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
/* A vCPU of the VM by APIC id, or NULL. Any thread. */
struct vcpu *vcpu_by_id(struct vcpu_vm *vm, uint32_t id);

/* -- port.c -- */
extern const struct engine_port vcpu_engine_port;
/*
 * A port call must ask the VMM: the caller has filled kvm_run (exit_reason included); a is remembered and
 * complete() runs at the next KVM_RUN: it reads kvm_run and calls replay_add with the answer. Then the
 * instruction is executed again and the same port call finds the answer by replay_find. The port call
 * returns this function's result.
 */
enum engine_status vcpu_stop(struct vcpu *v, const struct vcpu_access *a, void (*complete)(struct vcpu *v));
/* The same for leaving KVM_RUN with a result (0: kvm_run is filled) and nothing to complete. */
enum engine_status vcpu_stop_result(struct vcpu *v, int result);

/* -- hypercall.c -- */
enum engine_status vcpu_hypercall(struct vcpu *v, bool vmmcall);

/* -- run.c -- */
/* What an engine exit means for KVM_RUN: 1 = go on, 0 = kvm_run is filled, -errno. */
int run_exit(struct vcpu *v, enum engine_exit x);

/* -- event.c -- */
/* Queues an exception for injection at the next entry (a pending one becomes #DF as on a CPU). */
void event_queue(struct vcpu *v, uint8_t vector, bool has_error, uint32_t error);
/* Takes NMI and SMI requests into v->ev. */
void event_collect(struct vcpu *v);
/* True if a halted vCPU has a reason to run. */
bool event_wakes(struct vcpu *v);
/* Acts on a latched INIT and SIPI. */
void event_init_sipi(struct vcpu *v);
/* Delivers what can be delivered now and arranges windows for the rest; as run_exit. Inside the section. */
int event_inject(struct vcpu *v);
/* The first part of it: what is half delivered or pending. 2 = nothing of that is left. */
int event_redeliver(struct vcpu *v);
/* Moves a pending exception's payload into CR2 or DR6. */
void event_payload(struct vcpu *v);
/* KVM_RUN's ready_for_interrupt_injection, for an irqchip that is not whole in the library. */
bool event_dm_ready(struct vcpu *v);
/* kvmvapic: takes the guest's TPR from the page that KVM_SET_VAPIC_ADDR named; puts TPR, ISR and IRR there.
 */
void event_vapic_from(struct vcpu *v);
void event_vapic_to(struct vcpu *v);

/* -- smm.c -- */
/* Saves state at SMBASE and enters SMM; without memory there the state is lost, as on a CPU. */
void smm_enter(struct vcpu *v);
/* RSM: restores state, or leaves with KVM_EXIT_SHUTDOWN if the image is impossible; #UD outside SMM. */
enum engine_status smm_leave(struct vcpu *v);
/* Enters or leaves the SMM address space without touching registers. */
void smm_switch(struct vcpu *v, bool smm);

/* -- state.c -- */
uint64_t vcpu_get_apic_base(const struct vcpu *v);
/* IA32_APIC_BASE by the guest or (host) by the VMM: -EINVAL = #GP. */
int vcpu_set_apic_base(struct vcpu *v, uint64_t base, bool host);
uint64_t vcpu_get_cr8(const struct vcpu *v);
int vcpu_set_cr8(struct vcpu *v, uint64_t cr8); /* -EINVAL reserved bits */

/* -- flush.c -- */
/* Between these two host pointers may be held and SIG_KICK finds engine_kick: revocation is obeyed. */
void guest_enter(struct vcpu *v);
void guest_leave(struct vcpu *v);
/* Obeys a revocation on the vCPU's own thread. */
void guest_revoke(struct vcpu *v);

/* -- cpuid.c -- */
enum engine_status vcpu_cpuid_port(struct vcpu *v, uint32_t regs[4]);
void cpuid_reset(struct vcpu *v);
/* A feature register (0 eax .. 3 edx) of leaf (function, 0) as CPUID shows it now; 0 if the leaf is absent. */
uint32_t cpuid_feature(struct vcpu *v, uint32_t function, unsigned reg);
/* The entry that answers (function, index), or NULL. */
const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *v, uint32_t function, uint32_t index);
/* The features as last computed from the VMM's CPUID. */
const struct engine_features *cpuid_features(const struct vcpu *v);
/* True unless the VMM has KVM enforce its PV feature leaf and this KVM_FEATURE_* bit is not in it. */
bool cpuid_has_pv(const struct vcpu *v, unsigned feature);
/* Frees what vcpu_set_cpuid allocated. */
void cpuid_destroy(struct vcpu *v);
/* Process-wide tables. */
int cpuid_init(void);

/* -- msr.c (and the ioctls vcpu_get/set_msrs, vcpu_setup_mce, vcpu_set_mce): 0, -EINVAL = #GP, -ENOENT
 * unknown -- */
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

/* -- clock.c (and the ioctls on TSC, KVM clock, KVM_KVMCLOCK_CTRL, vcpu_*_attr) -- */
int clock_vm_init(struct vcpu_vm *vm);
void clock_vm_destroy(struct vcpu_vm *vm);
void clock_vcpu_init(struct vcpu *v);
uint64_t clock_guest_tsc(struct vcpu *v);
/* CLOCK_MONOTONIC ns at which the guest's TSC reaches the value. Any thread. */
uint64_t clock_tsc_deadline_ns(struct vcpu *v, uint64_t tsc);

/* -- pv.c (and vcpu_enable_cap) -- */
/* KVM_RUN begins: the guest's record of stolen time is due, as at every vcpu_load of KVM. */
void pv_begin_run(struct vcpu *v);
/* On the vCPU's thread outside guest execution, no lock but vcpu->mutex; cheap when nothing was requested. */
void pv_before_entry(struct vcpu *v);
/* After the guest stopped running: PV EOI settled, steal time marked preempted where it applies. */
void pv_after_exit(struct vcpu *v);
/* Reset and INIT: pages registered by MSR are forgotten as KVM forgets them. */
void pv_reset(struct vcpu *v, bool init);

#endif
