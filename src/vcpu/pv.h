/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Paravirtual pages: kvmclock, steal time, PV EOI. Private to vcpu/; embedded in struct vcpu, so no include
 * of internal.h here. */
#ifndef USERKVM_VCPU_PV_H
#define USERKVM_VCPU_PV_H

#include "base/base.h"

/* Belongs to the vCPU's own thread. */
struct vcpu_pv {
	uint64_t system_time;	/* MSR_KVM_SYSTEM_TIME(_NEW): address | 1 */
	uint64_t steal;		/* MSR_KVM_STEAL_TIME: address | 1 */
	uint64_t eoi;		/* MSR_KVM_PV_EOI_EN: address | 1 */
	uint64_t poll_control;	/* MSR_KVM_POLL_CONTROL */
	bool enforce;		/* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */
	bool guest_stopped;	/* KVM_KVMCLOCK_CTRL: to be told once */
	bool eoi_set;		/* the guest's PV EOI word says "no EOI needed" */
	uint64_t steal_seen;	/* run_delay at the last look, ns */
	uint64_t steal_read_ns; /* when that was */
	int steal_tid;		/* the thread whose schedstat steal_fd is; 0 = none */
	int steal_fd;		/* valid with steal_tid */
};

struct vcpu;

/* The paravirtual MSRs: 0, or -EINVAL = #GP. */
int pv_get_msr(struct vcpu *v, uint32_t index, uint64_t *val);
int pv_set_msr(struct vcpu *v, uint32_t index, uint64_t val);
/* MSR_KVM_PV_EOI_EN, or Hyper-V's assist page: address | 1, or 0. */
int pv_set_eoi(struct vcpu *v, uint64_t val);
/* How long this thread has waited for a CPU, in ns; false if the host does not tell. */
bool pv_run_delay(struct vcpu *v, uint64_t *delay);
void pv_destroy(struct vcpu *v);
/* PV EOI, without pv_before_entry's other duties: after an injection, and before the LAPIC is looked at. */
void pv_eoi_to_guest(struct vcpu *v);
void pv_eoi_from_guest(struct vcpu *v);

#endif
