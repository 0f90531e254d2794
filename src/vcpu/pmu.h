/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Intel's architectural performance monitoring, version 2 (SDM 3B 20.2): four general counters and three fixed
 * ones. Instructions and branches are counted by the engine, exactly; cycles are those of the TSC while the guest
 * runs. What we cannot count (cache, mispredictions) CPUID says is not available. Private to vcpu/; embedded in
 * struct vcpu and struct vcpu_vm, so no include of internal.h here.
 */
#ifndef USERKVM_VCPU_PMU_H
#define USERKVM_VCPU_PMU_H

#include <linux/kvm.h>

#include "base/base.h"
#include "base/loop.h"

#define PMU_GP	  4
#define PMU_FIXED 3
#define PMU_WIDTH 48
#define PMU_ALL	  (PMU_GP + PMU_FIXED)
/* CPUID 0xa */
#define PMU_EAX	 (2 | PMU_GP << 8 | PMU_WIDTH << 16 | 7 << 24)
#define PMU_EBX	 (BIT(3) | BIT(4) | BIT(6)) /* not available: cache references and misses, mispredictions */
#define PMU_EDX	 (PMU_FIXED | PMU_WIDTH << 5)
#define PMU_CAPS BIT(13) /* IA32_PERF_CAPABILITIES: full-width writes */

struct vcpu;
struct vcpu_vm;
struct pmu_filter;

/* Belongs to the vCPU's own thread. Counters 0..3 are general, 4..6 fixed. */
struct vcpu_pmu {
	unsigned version, gp, fixed; /* as the guest's CPUID has them, and no more than there are */
	uint64_t gp_mask, fixed_mask;
	uint32_t events; /* architectural events that CPUID offers */
	uint64_t select[PMU_GP], fixed_ctrl, global_ctrl, status, perf_caps;
	uint64_t counter[PMU_ALL]; /* without what `since` tells */
	uint64_t since[PMU_ALL];   /* the source's value when `counter` was right */
	uint32_t running;	   /* bit per counter that counts now */
	bool armed;		   /* anything is running: cycles are taken at entry and exit */
	uint64_t cycles, entered;  /* host TSC spent in the guest; when it was entered, 0 = it is not */
	struct loop_timer timer;   /* a cycle counter may overflow now */
};

/* The guest's CPUID was set. */
void pmu_refresh(struct vcpu *v);
void pmu_init(struct vcpu *v);
void pmu_destroy(struct vcpu *v);
void pmu_reset(struct vcpu *v);
/* True if the MSR is a counter's or a control's of this guest's monitor. */
bool pmu_has_msr(const struct vcpu *v, uint32_t index);
/* 0, or -EINVAL = #GP; only for an MSR that it has. */
int pmu_get_msr(struct vcpu *v, uint32_t index, uint64_t *val);
int pmu_set_msr(struct vcpu *v, uint32_t index, uint64_t val, bool host);
/* RDPMC: -EINVAL = #GP. */
int pmu_rdpmc(struct vcpu *v, uint32_t index, uint64_t *val);
/* IA32_PERF_CAPABILITIES by the VMM: -EINVAL. */
int pmu_set_caps(struct vcpu *v, uint64_t val);
/* Around guest execution, when v->pmu.armed. */
void pmu_enter(struct vcpu *v);
void pmu_leave(struct vcpu *v);
/* VCPU_REQ_PMU: overflows are looked for, or the filter changed. */
void pmu_request(struct vcpu *v);
void pmu_vm_destroy(struct vcpu_vm *vm);

#endif
