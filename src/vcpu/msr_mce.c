/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Machine checks: the banks, and the errors that a VMM injects (SDM 3B 16.3, api.rst 4.105 to 4.107). */
#include "vcpu/internal.h"

#define MCG_CAP	   0x179
#define MCG_STATUS 0x17a
#define MCG_CTL	   0x17b
#define MC0_CTL2   0x280
#define MC0_CTL	   0x400

#define MCG_CTL_P	BIT(8)
#define MCG_CMCI_P	BIT(10)
#define MCG_SER_P	BIT(24)
#define MCG_STATUS_MCIP BIT(2)

#define CTL2_CMCI_EN  BIT(30)
#define CTL2_WRITABLE (CTL2_CMCI_EN | 0x7fff)

#define MCI_VAL	 BIT(63)
#define MCI_OVER BIT(62)
#define MCI_UC	 BIT(61)
#define MCI_PCC	 BIT(57)
#define MCI_S	 BIT(56)
#define MCI_AR	 BIT(55)

#define HWCR_MCI_STATUS_WR BIT(18)
#define CR4_MCE		   BIT(6)
#define MC_VECTOR	   18
#define APIC_LVTCMCI	   0x2f0

enum { BANK_CTL, BANK_STATUS, BANK_ADDR, BANK_MISC };

static unsigned nr_banks(const struct vcpu *v)
{
	return v->msr.mcg_cap & 0xff;
}

static bool is_ctl2(const struct vcpu *v, uint32_t index)
{
	return index >= MC0_CTL2 && index < MC0_CTL2 + nr_banks(v);
}

int msr_mce_get(struct vcpu *v, uint32_t index, uint64_t *val, bool host)
{
	const struct vcpu_msrs *m = &v->msr;

	if (is_ctl2(v, index)) {
		*val = m->mce_ctl2[index - MC0_CTL2];
		return (m->mcg_cap & MCG_CMCI_P) || host ? 0 : -EINVAL;
	}
	switch (index) {
	case MCG_CAP: *val = m->mcg_cap; return 0;
	case MCG_STATUS: *val = m->mcg_status; return 0;
	case MCG_CTL:
		if (!(m->mcg_cap & MCG_CTL_P) && !host)
			return -EINVAL;
		*val = m->mcg_ctl;
		return 0;
	default:
		if (index < MC0_CTL || index >= MC0_CTL + 4 * nr_banks(v))
			return -EINVAL;
		*val = m->mce[index - MC0_CTL];
		return 0;
	}
}

/* A bank's register. Guests clear bits 0 and 10 of CTL to work around real machines. */
static int set_bank(struct vcpu *v, unsigned i, uint64_t val, bool host)
{
	if (i >= 4 * nr_banks(v))
		return -EINVAL;
	if (i % 4 == BANK_CTL && val && (val | BIT(10) | BIT(0)) != ~0ULL)
		return -EINVAL;
	if (i % 4 == BANK_STATUS && val && !host && !(v->cpuid.amd && (v->msr.hwcr & HWCR_MCI_STATUS_WR)))
		return -EINVAL;
	v->msr.mce[i] = val;
	return 0;
}

/* Where a bank tells of corrected errors by interrupt. */
static int set_ctl2(struct vcpu *v, unsigned bank, uint64_t val, bool host)
{
	if (!(v->msr.mcg_cap & MCG_CMCI_P) && (val || !host))
		return -EINVAL;
	if (val & ~CTL2_WRITABLE)
		return -EINVAL;
	v->msr.mce_ctl2[bank] = val;
	return 0;
}

int msr_mce_set(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	struct vcpu_msrs *m = &v->msr;

	if (is_ctl2(v, index))
		return set_ctl2(v, index - MC0_CTL2, val, host);
	switch (index) {
	case MCG_STATUS: m->mcg_status = val; return 0;
	case MCG_CTL:
		if (!(m->mcg_cap & MCG_CTL_P) && (val || !host))
			return -EINVAL;
		if (val && val != ~0ULL)
			return -EINVAL;
		m->mcg_ctl = val;
		return 0;
	default: return index < MC0_CTL ? -EINVAL : set_bank(v, index - MC0_CTL, val, host);
	}
}

void msr_mce_init(struct vcpu *v)
{
	v->msr.mcg_cap = MSR_MCE_BANKS;
}

/* -- ioctls --------------------------------------------------------------- */

uint64_t vcpu_mce_cap(void)
{
	return MCG_CTL_P | MCG_SER_P | (vcpu_host_is_amd() ? 0 : MCG_CMCI_P);
}

int vcpu_setup_mce(struct vcpu *v, uint64_t mcg_cap)
{
	unsigned banks = mcg_cap & 0xff;

	if (!banks || banks > MSR_MCE_BANKS || (mcg_cap & ~(vcpu_mce_cap() | 0xff00ff)))
		return -EINVAL;
	v->msr.mcg_cap = mcg_cap;
	if (mcg_cap & MCG_CTL_P)
		v->msr.mcg_ctl = ~0ULL;
	for (unsigned i = 0; i < banks; i++) {
		v->msr.mce[4 * i + BANK_CTL] = ~0ULL;
		v->msr.mce_ctl2[i] = 0;
	}
	if (v->lapic)
		lapic_set_cmci(v->lapic, mcg_cap & MCG_CMCI_P);
	return 0;
}

static void fill_bank(uint64_t *bank, const struct kvm_x86_mce *mce, uint64_t status)
{
	bank[BANK_STATUS] = status;
	bank[BANK_ADDR] = mce->addr;
	bank[BANK_MISC] = mce->misc;
}

/* An uncorrected error: #MC, or the end if the guest is not ready for one. */
static void uncorrected(struct vcpu *v, uint64_t *bank, const struct kvm_x86_mce *mce)
{
	struct kvm_sregs s;

	engine_get_sregs(v->cpu, &s);
	if ((v->msr.mcg_status & MCG_STATUS_MCIP) || !(s.cr4 & CR4_MCE)) {
		vcpu_request(v, VCPU_REQ_TRIPLE_FAULT);
		return;
	}
	fill_bank(bank, mce, mce->status | (bank[BANK_STATUS] & MCI_VAL ? MCI_OVER : 0));
	v->msr.mcg_status = mce->mcg_status;
	event_queue(v, MC_VECTOR, false, 0);
}

int vcpu_set_mce(struct vcpu *v, const struct kvm_x86_mce *mce)
{
	uint64_t *bank;

	if (mce->bank >= nr_banks(v) || !(mce->status & MCI_VAL))
		return -EINVAL;
	bank = &v->msr.mce[4 * mce->bank];
	if ((mce->status & MCI_UC) && !mce->mcg_status && !(mce->status & (MCI_PCC | MCI_S | MCI_AR))) {
		/* uncorrected, no action required: told as corrected errors are */
		fill_bank(bank, mce, mce->status);
		v->msr.mcg_status = mce->mcg_status;
		if (v->lapic && (v->msr.mcg_cap & MCG_CMCI_P) && (v->msr.mce_ctl2[mce->bank] & CTL2_CMCI_EN))
			lapic_local_deliver(v->lapic, APIC_LVTCMCI);
	} else if (mce->status & MCI_UC) {
		/* reporting may be switched off, globally or for the bank */
		if (((v->msr.mcg_cap & MCG_CTL_P) && v->msr.mcg_ctl != ~0ULL) || bank[BANK_CTL] != ~0ULL)
			return 0;
		uncorrected(v, bank, mce);
	} else if (!(bank[BANK_STATUS] & MCI_VAL) || !(bank[BANK_STATUS] & MCI_UC)) {
		fill_bank(bank, mce, mce->status | (bank[BANK_STATUS] & MCI_VAL ? MCI_OVER : 0));
	} else {
		bank[BANK_STATUS] |= MCI_OVER;
	}
	return 0;
}
