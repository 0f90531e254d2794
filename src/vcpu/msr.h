/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MSRs that this room owns, and exits to the VMM for them. Private to vcpu/; embedded in struct vcpu, so no
 * include of internal.h here. */
#ifndef USERKVM_VCPU_MSR_H
#define USERKVM_VCPU_MSR_H

#include "base/base.h"

#define MSR_MCE_BANKS	  32 /* as VCPU_MCE_BANKS, which vcpu.h tells the outside */
#define MSR_MTRR_FIXED	  11
#define MSR_MTRR_VARIABLE 8

/* Belongs to the vCPU's own thread. */
struct vcpu_msrs {
	uint64_t mtrr_fixed[MSR_MTRR_FIXED];
	uint64_t mtrr_var[2 * MSR_MTRR_VARIABLE]; /* base, mask, base, ... */
	uint64_t mtrr_deftype;
	uint64_t mcg_cap, mcg_status, mcg_ctl;
	uint64_t mce[4 * 32];  /* CTL, STATUS, ADDR, MISC of each bank */
	uint64_t mce_ctl2[32]; /* CTL2 of each bank */
	uint64_t misc_enable, platform_info, misc_features_enables;
	uint64_t arch_capabilities, spec_ctrl, feat_ctl, ucode_rev, power_ctl, hwcr, decfg;
	uint64_t smi_count; /* smm.c counts */
};

struct vcpu;
struct vcpu_vm;

struct msr_row;
typedef int msr_get_fn(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host);
typedef int msr_set_fn(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host);

/* One row of msr_table.h: the MSRs first..last. */
struct msr_row {
	uint32_t first, last;
	uint64_t arg; /* a constant, or the offset of a field of struct vcpu_msrs */
	msr_get_fn *get;
	msr_set_fn *set;
	unsigned flags;
};

#define MSR_LISTED BIT(0) /* in KVM_GET_MSR_INDEX_LIST; readable by the VMM whatever the guest's CPUID */
#define MSR_HOST_W BIT(1) /* only the VMM writes it */
#define MSR_HOST_R BIT(2) /* only the VMM reads it */

/* msr_mtrr.c and msr_mce.c: 0, or -EINVAL = #GP */
int msr_mtrr_get(struct vcpu *v, uint32_t index, uint64_t *val);
int msr_mtrr_set(struct vcpu *v, uint32_t index, uint64_t val);
int msr_mce_get(struct vcpu *v, uint32_t index, uint64_t *val, bool host);
int msr_mce_set(struct vcpu *v, uint32_t index, uint64_t val, bool host);
void msr_mce_init(struct vcpu *v);

/* msr_filter.c: may the guest read (write) this MSR. */
bool msr_filter_allows(struct vcpu_vm *vm, uint32_t index, bool write);

#endif
