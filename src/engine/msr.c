/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The MSRs that are the engine's own state (SDM 4), for RDMSR, WRMSR and KVM_GET/SET_MSRS. */
#include "engine/system.h"

enum msr_index {
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP,
	MSR_SYSENTER_EIP,
	MSR_PAT = 0x277,
	MSR_XSS = 0xda0,
	MSR_EFER = 0xc0000080,
	MSR_STAR,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_SFMASK,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE,
	MSR_TSC_AUX,
};

int engine_get_msr(const struct engine_cpu *c, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_SYSENTER_CS: *value = c->sysenter_cs; break;
	case MSR_SYSENTER_ESP: *value = c->sysenter_esp; break;
	case MSR_SYSENTER_EIP: *value = c->sysenter_eip; break;
	case MSR_PAT: *value = c->pat; break;
	case MSR_XSS: *value = c->xss; break;
	case MSR_EFER: *value = c->efer; break;
	case MSR_STAR: *value = c->star; break;
	case MSR_LSTAR: *value = c->lstar; break;
	case MSR_CSTAR: *value = c->cstar; break;
	case MSR_SFMASK: *value = c->sfmask; break;
	case MSR_FS_BASE: *value = c->seg[FS].base; break;
	case MSR_GS_BASE: *value = c->seg[GS].base; break;
	case MSR_KERNEL_GS_BASE: *value = c->kernel_gs_base; break;
	case MSR_TSC_AUX: *value = c->tsc_aux; break;
	default: return -ENOENT;
	}
	return 0;
}

/* Memory types 0, 1, 4..7 in each byte. */
static bool pat_valid(uint64_t val)
{
	for (; val; val >>= 8)
		if ((val & 0xff) > 7 || (val & 0xff) == 2 || (val & 0xff) == 3)
			return false;
	return true;
}

static int set_efer(struct engine_cpu *c, uint64_t val, bool host)
{
	uint64_t allowed = c->feat.efer_allowed | EFER_LMA, changed;

	if (val & ~(host ? allowed | EFER_KNOWN : allowed))
		return -EINVAL;
	val = (val & ~EFER_LMA) | (c->efer & EFER_LMA);
	changed = val ^ c->efer;
	if (!host && (changed & EFER_LME) && (c->cr0 & CR0_PG))
		return -EINVAL;
	c->efer = val;
	mode_update(c);
	if (changed & EFER_NX)
		mmu_flush_all(c);
	return 0;
}

static int set_canonical(const struct engine_cpu *c, uint64_t *to, uint64_t val)
{
	if (!control_is_canonical(c, val))
		return -EINVAL;
	*to = val;
	return 0;
}

/* As KVM: SYSENTER's addresses are made canonical instead of refused, since AMD's CPUs do not refuse them. */
static int set_made_canonical(uint64_t *to, uint64_t val)
{
	*to = (uint64_t)((int64_t)(val << 16) >> 16);
	return 0;
}

static int set_tsc_aux(struct engine_cpu *c, uint64_t val, bool host)
{
	if ((!host && !c->feat.rdtscp) || val >> 32)
		return -EINVAL;
	c->tsc_aux = val;
	return 0;
}

int engine_set_msr(struct engine_cpu *c, uint32_t index, uint64_t val, bool host)
{
	switch (index) {
	case MSR_SYSENTER_CS: c->sysenter_cs = (uint32_t)val; return 0;
	case MSR_SYSENTER_ESP: return set_made_canonical(&c->sysenter_esp, val);
	case MSR_SYSENTER_EIP: return set_made_canonical(&c->sysenter_eip, val);
	case MSR_PAT:
		if (!pat_valid(val))
			return -EINVAL;
		c->pat = val;
		return 0;
	case MSR_XSS:
		if (val & ~c->feat.xss_allowed)
			return -EINVAL;
		c->xss = val;
		return 0;
	case MSR_EFER: return set_efer(c, val, host);
	case MSR_STAR: c->star = val; return 0;
	case MSR_LSTAR: return set_canonical(c, &c->lstar, val);
	case MSR_CSTAR: return set_canonical(c, &c->cstar, val);
	case MSR_SFMASK: c->sfmask = val; return 0;
	case MSR_FS_BASE: return set_canonical(c, &c->seg[FS].base, val);
	case MSR_GS_BASE: return set_canonical(c, &c->seg[GS].base, val);
	case MSR_KERNEL_GS_BASE: return set_canonical(c, &c->kernel_gs_base, val);
	case MSR_TSC_AUX: return set_tsc_aux(c, val, host);
	default: return -ENOENT;
	}
}

/* -- Instructions -- */

static bool msr_watched(struct engine_cpu *c, uint32_t index)
{
	return c->port->msr_watched && c->port->msr_watched(c->ctx, index);
}

void op_rdmsr(struct engine_cpu *c, const struct insn *i)
{
	uint32_t index = c->gpr[RCX];
	uint64_t val = 0;

	require_cpl0(c);
	if (index == MSR_TSC_AUX && !c->feat.rdtscp)
		engine_raise_err(c, EXC_GP, 0);
	if (msr_watched(c, index) || engine_get_msr(c, index, &val))
		PORT_CALL(c, c->port->rdmsr(c->ctx, index, &val));
	c->gpr[RAX] = (uint32_t)val;
	c->gpr[RDX] = val >> 32;
}

void op_wrmsr(struct engine_cpu *c, const struct insn *i)
{
	uint32_t index = c->gpr[RCX];
	uint64_t val = (c->gpr[RDX] << 32) | (uint32_t)c->gpr[RAX];
	int err;

	require_cpl0(c);
	err = msr_watched(c, index) ? -ENOENT : engine_set_msr(c, index, val, false);
	if (err == -ENOENT)
		PORT_CALL(c, c->port->wrmsr(c->ctx, index, val));
	else if (err)
		engine_raise_err(c, EXC_GP, 0);
	seg_flat_update(c, FS);
	seg_flat_update(c, GS);
}
