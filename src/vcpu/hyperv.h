/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hyper-V's interface to a guest (Hypervisor Top-Level Functional Specification), as much as KVM offers:
 * MSRs, TSC page, hypercalls, the synthetic interrupt controller and its timers. Private to vcpu/; embedded in
 * struct vcpu and struct vcpu_vm, so no include of internal.h here.
 *
 *	hyperv.c	CPUID, MSRs of the partition, TSC page, requests
 *	hyperv_call.c	hypercalls
 *	hyperv_synic.c	SynIC and synthetic timers
 */
#ifndef USERKVM_VCPU_HYPERV_H
#define USERKVM_VCPU_HYPERV_H

#include <linux/kvm.h>

#include "base/base.h"
#include "base/loop.h"

#define HV_SINTS   16
#define HV_STIMERS 4

#define HV_MSR_FIRST	   0x40000000U
#define HV_MSR_LAST	   0x400001ffU
#define HV_GUEST_OS_ID	   0x40000000U
#define HV_HYPERCALL	   0x40000001U
#define HV_VP_INDEX	   0x40000002U
#define HV_RESET	   0x40000003U
#define HV_VP_RUNTIME	   0x40000010U
#define HV_TIME_REF_COUNT  0x40000020U
#define HV_REFERENCE_TSC   0x40000021U
#define HV_TSC_FREQUENCY   0x40000022U
#define HV_APIC_FREQUENCY  0x40000023U
#define HV_EOI		   0x40000070U
#define HV_ICR		   0x40000071U
#define HV_TPR		   0x40000072U
#define HV_VP_ASSIST_PAGE  0x40000073U
#define HV_SCONTROL	   0x40000080U
#define HV_SVERSION	   0x40000081U
#define HV_SIEFP	   0x40000082U
#define HV_SIMP		   0x40000083U
#define HV_EOM		   0x40000084U
#define HV_SINT0	   0x40000090U
#define HV_SINT15	   0x4000009fU
#define HV_STIMER0_CONFIG  0x400000b0U
#define HV_STIMER3_COUNT   0x400000b7U
#define HV_SYNDBG_CONTROL  0x400000f1U
#define HV_SYNDBG_STATUS   0x400000f2U
#define HV_SYNDBG_SEND	   0x400000f3U
#define HV_SYNDBG_RECV	   0x400000f4U
#define HV_SYNDBG_PENDING  0x400000f5U
#define HV_SYNDBG_OPTIONS  0x400000ffU
#define HV_CRASH_P0	   0x40000100U
#define HV_CRASH_P4	   0x40000104U
#define HV_CRASH_CTL	   0x40000105U
#define HV_REENLIGHTENMENT 0x40000106U
#define HV_TSC_EMULATION   0x40000107U
#define HV_TSC_EMUL_STATUS 0x40000108U
#define HV_PAGE_ENABLE	   1ULL /* bit 0 of every MSR that names a page */

/* CPUID 0x40000003: EAX, EBX, EDX; 0x40000004 EAX; 0x40000082 EAX. */
#define HV_A_RUNTIME	     BIT(0)
#define HV_A_REF_COUNT	     BIT(1)
#define HV_A_SYNIC	     BIT(2)
#define HV_A_STIMER	     BIT(3)
#define HV_A_APIC	     BIT(4)
#define HV_A_HYPERCALL	     BIT(5)
#define HV_A_VP_INDEX	     BIT(6)
#define HV_A_RESET	     BIT(7)
#define HV_A_TSC_PAGE	     BIT(9)
#define HV_A_FREQUENCY	     BIT(11)
#define HV_A_REENLIGHTENMENT BIT(13)
#define HV_B_POST_MESSAGES   BIT(4)
#define HV_B_SIGNAL_EVENTS   BIT(5)
#define HV_B_DEBUGGING	     BIT(11)
#define HV_D_DEBUGGING	     BIT(1)
#define HV_D_XMM_INPUT	     BIT(4)
#define HV_D_FREQUENCY	     BIT(8)
#define HV_D_CRASH	     BIT(10)
#define HV_D_SYNDBG	     BIT(11)
#define HV_D_STIMER_DIRECT   BIT(19)
#define HV_E_TLB_FLUSH	     BIT(2)
#define HV_E_APIC	     BIT(3)
#define HV_E_RELAXED_TIMING  BIT(5)
#define HV_E_NO_AUTO_EOI     BIT(9)
#define HV_E_CLUSTER_IPI     BIT(10)
#define HV_E_EX_MASKS	     BIT(11)
#define HV_E_NO_SMT	     BIT(18)
#define HV_DBG_KERNEL	     BIT(1)

struct vcpu;
struct vcpu_vm;

struct hv_stimer {
	struct vcpu *vcpu;
	unsigned index;
	uint64_t config, count;
	uint64_t exp_time; /* 100 ns of the reference counter; 0 = not started */
	bool msg_pending;  /* its message found the slot full: sent again when that is acknowledged */
	struct loop_timer timer;
};

/* Belongs to the vCPU's own thread, except the atomics. */
struct vcpu_hv {
	bool enabled; /* CPUID 0x40000001 says "Hv#1" */
	bool enforce; /* KVM_CAP_HYPERV_ENFORCE_CPUID */
	struct {
		uint32_t eax, ebx, edx;	   /* 0x40000003 */
		uint32_t enl_eax, enl_ebx; /* 0x40000004 */
		uint32_t dbg_eax;	   /* 0x40000082 */
	} cpuid;
	_Atomic uint32_t vp_index;
	uint64_t assist_page;
	uint64_t runtime_offset; /* 100 ns */
	struct {
		_Atomic bool active; /* KVM_CAP_HYPERV_SYNIC or SYNIC2 */
		bool keep_pages;     /* SYNIC2: pages are not zeroed when they are named */
		uint64_t control, version, evt_page, msg_page;
		_Atomic uint64_t sint[HV_SINTS];
	} synic;
	struct hv_stimer stimer[HV_STIMERS];
	_Atomic uint32_t stimer_pending; /* bit per timer, for VCPU_REQ_HV_STIMER */
	struct kvm_hyperv_exit exit;	 /* for VCPU_REQ_HV_EXIT */
	bool syndbg_answer;		 /* the next KVM_RUN brings the debugger's status */
};

struct hv_vm;

/* -- hyperv.c -- */
int hyperv_vm_init(struct vcpu_vm *vm);
void hyperv_vm_destroy(struct vcpu_vm *vm);
void hyperv_init(struct vcpu *v);
void hyperv_destroy(struct vcpu *v);
/* The VMM set CPUID. */
void hyperv_update_cpuid(struct vcpu *v);
/* True if hypercalls are Hyper-V's: the guest has told its identity. */
bool hyperv_active(const struct vcpu *v);
/* MSRs 0x40000000 and up: 0, -EINVAL = #GP. */
int hyperv_get_msr(struct vcpu *v, uint32_t index, uint64_t *val, bool host);
int hyperv_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host);
/* The reference counter: 100 ns units. */
uint64_t hyperv_time(struct vcpu *v);
/* kvmclock's parameters may have changed: vCPU 0 rewrites the TSC page, outside guest execution. */
void hyperv_clock_update(struct vcpu *v);
/* The VMM set the clock. */
void hyperv_clock_set(struct vcpu_vm *vm);
/* VCPU_REQ_HV_*: 1 = go on, 0 = kvm_run is filled. */
int hyperv_requests(struct vcpu *v);
/* KVM_RUN begins. */
void hyperv_begin_run(struct vcpu *v);
/* The first eventfd that the VMM bound to a connection is signalled; false if there is none. Any thread. */
bool hyperv_signal(struct vcpu_vm *vm, uint32_t conn_id);
/* SYNDBG's options say that the guest debugs by hypercall. */
bool hyperv_debugs_by_call(struct vcpu_vm *vm);

/* -- hyperv_call.c -- */
struct kvm_regs;
enum engine_status hyperv_call(struct vcpu *v, bool is64);

/* -- hyperv_synic.c -- */
void synic_init(struct vcpu *v);
void synic_destroy(struct vcpu *v);
/* KVM_CAP_HYPERV_SYNIC and 2. -EINVAL: the local APIC is the VMM's. */
int synic_activate(struct vcpu *v, bool keep_pages);
int synic_get_msr(struct vcpu *v, uint32_t index, uint64_t *val, bool host);
int synic_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host);
int stimer_get_msr(struct vcpu *v, uint32_t index, uint64_t *val);
int stimer_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host);
/* Sends what is due; on the vCPU's thread outside guest execution. */
void stimer_process(struct vcpu *v);
bool stimer_waits(const struct vcpu *v);
/* A route to a source of a VP. Any thread. 1 = taken, 0 = not, -errno. */
int synic_raise(struct vcpu_vm *vm, uint32_t vp, uint32_t sint);
/* The guest ended an interrupt that is some SINT's. */
void synic_eoi(struct vcpu *v, uint8_t vector);

#endif
