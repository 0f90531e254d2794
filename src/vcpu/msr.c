/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MSRs: the table of those that this room owns, the ioctls, and the guest's RDMSR and WRMSR with filter and
 * exits to the VMM. What an MSR does is KVM's, where KVM has it; see msr_table.h.
 */
#include "vcpu/internal.h"

#define X2APIC_FIRST	  0x800
#define X2APIC_LAST	  0x8ff
#define IA32_TSC_DEADLINE 0x6e0
#define IA32_BIOS_SIGN_ID 0x8b
#define IA32_ARCH_CAPS	  0x10a
#define IA32_PERF_CAPS	  0x345
#define AMD_DE_CFG	  0xc0011029

#define UCODE_REVISION 0x100000000ULL
/*
 * RDCL_NO SKIP_L1DFL_VMENTRY SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO PBRSB_NO: a
 * guest address is checked in software before anything is accessed, so no mitigation in the guest helps.
 */
#define ARCH_CAPABILITIES \
	(BIT(0) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(24))
#define DE_CFG_LFENCE_SERIALIZE BIT(1)

#define MISC_ENABLE_EMON     BIT(7)
#define MISC_ENABLE_NO_BTS   BIT(11)
#define MISC_ENABLE_NO_PEBS  BIT(12)
#define MISC_ENABLE_MWAIT    BIT(18)
#define MISC_ENABLE_RESET    (MISC_ENABLE_NO_BTS | MISC_ENABLE_NO_PEBS)
#define PLATFORM_CPUID_FAULT BIT(31)
#define FEATURES_CPUID_FAULT BIT(0)
#define FEAT_CTL_LOCKED	     BIT(0)
#define HWCR_MCI_STATUS_WR   BIT(18)
#define HWCR_IGNORED	     (BIT(3) | BIT(6) | BIT(8)) /* TLB cache, flush filter, IGNNE */

enum { EAX, EBX, ECX, EDX };

/* True if the guest's CPUID has any of these bits. */
static bool guest_has(const struct vcpu *v, uint32_t function, unsigned reg, uint32_t bits)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, function, 0);

	if (!e)
		return false;
	return (reg == EAX ? e->eax : reg == EBX ? e->ebx : reg == ECX ? e->ecx : e->edx) & bits;
}

/* -- Plain rows ----------------------------------------------------------- */

static uint64_t *row_field(struct vcpu *v, const struct msr_row *r)
{
	return (uint64_t *)((char *)&v->msr + r->arg);
}

static int get_const(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	*val = r->arg;
	return 0;
}

static int get_field(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	*val = *row_field(v, r);
	return 0;
}

static int set_field(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	*row_field(v, r) = val;
	return 0;
}

static int set_nothing(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return 0;
}

static int set_zero(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return val ? -EINVAL : 0;
}

/* -- Time ----------------------------------------------------------------- */

static int get_tsc(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	*val = clock_guest_tsc(v);
	return 0;
}

static int set_tsc(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	clock_write_tsc(v, val, host);
	return 0;
}

static int get_tsc_adjust(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	*val = v->clk.tsc_adjust;
	return 0;
}

/* Without CPUID's TSC_ADJUST a write has no effect, but does not fault: as KVM. */
static int set_tsc_adjust(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (guest_has(v, 7, EBX, BIT(1)))
		clock_write_tsc_adjust(v, val, host);
	return 0;
}

static int get_tsc_deadline(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	*val = v->lapic ? lapic_get_tscdeadline(v->lapic) : 0;
	return 0;
}

static int set_tsc_deadline(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (v->lapic)
		lapic_set_tscdeadline(v->lapic, val);
	return 0;
}

static int get_pv(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	return pv_get_msr(v, index, val);
}

static int set_pv(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return pv_set_msr(v, index, val);
}

static int get_hyperv(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	return hyperv_get_msr(v, index, val, host);
}

static int set_hyperv(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return hyperv_set_msr(v, index, val, host);
}

/* -- Neighbours: APIC base, SMBASE, MTRRs, machine checks -------------------- */

static int get_apic_base(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	*val = vcpu_get_apic_base(v);
	return 0;
}

static int set_apic_base(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return vcpu_set_apic_base(v, val, host);
}

static int get_smbase(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	*val = v->smbase;
	return 0;
}

static int set_smbase(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	v->smbase = (uint32_t)val;
	return 0;
}

static int get_mtrr(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	return msr_mtrr_get(v, index, val);
}

static int set_mtrr(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return msr_mtrr_set(v, index, val);
}

static int get_mce(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	return msr_mce_get(v, index, val, host);
}

static int set_mce(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return msr_mce_set(v, index, val, host);
}

/* -- Speculation ---------------------------------------------------------- */

/* IBRS, STIBP or SSBD, by Intel's bits or AMD's */
static bool guest_has_spec_ctrl(const struct vcpu *v)
{
	return guest_has(v, 7, EDX, BIT(26) | BIT(27) | BIT(31)) ||
	       guest_has(v, 0x80000008, EBX, BIT(14) | BIT(15) | BIT(24));
}

static int get_spec_ctrl(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	if (!host && !guest_has_spec_ctrl(v))
		return -EINVAL;
	*val = v->msr.spec_ctrl;
	return 0;
}

static int set_spec_ctrl(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if ((!host && !guest_has_spec_ctrl(v)) || (val & ~7ULL))
		return -EINVAL;
	v->msr.spec_ctrl = val;
	return 0;
}

static int set_pred_cmd(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (!host && !guest_has(v, 7, EDX, BIT(26)) && !guest_has(v, 0x80000008, EBX, BIT(12)))
		return -EINVAL;
	return val & ~1ULL ? -EINVAL : 0;
}

static int set_flush_cmd(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (!host && !guest_has(v, 7, EDX, BIT(28)))
		return -EINVAL;
	return val & ~1ULL ? -EINVAL : 0;
}

static int get_arch_capabilities(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val,
				 bool host)
{
	if (!host && !guest_has(v, 7, EDX, BIT(29)))
		return -EINVAL;
	*val = v->msr.arch_capabilities;
	return 0;
}

/* AMD's LFENCE_SERIALIZE; Linux sets it at boot. */
static int get_decfg(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	if (!host && !v->cpuid.amd)
		return -EINVAL;
	*val = v->msr.decfg;
	return 0;
}

static int set_decfg(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if ((!host && !v->cpuid.amd) || (val & ~DE_CFG_LFENCE_SERIALIZE))
		return -EINVAL;
	v->msr.decfg = val;
	return 0;
}

/* -- Model-specific odds and ends ------------------------------------------- */

/* There is no VMX and no LMCE to enable, so the guest may only lock it. */
static int get_feat_ctl(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	if (!host && v->cpuid.amd)
		return -EINVAL;
	*val = v->msr.feat_ctl;
	return 0;
}

static int set_feat_ctl(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (val & ~FEAT_CTL_LOCKED)
		return -EINVAL;
	if (!host && (v->cpuid.amd || (v->msr.feat_ctl & FEAT_CTL_LOCKED)))
		return -EINVAL;
	v->msr.feat_ctl = val;
	return 0;
}

/* The guest's write, with which software asks for the revision, changes nothing. */
static int set_ucode_rev(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (host)
		v->msr.ucode_rev = val;
	return 0;
}

static int get_platform_info(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val,
			     bool host)
{
	if (!host && v->vm->no_platform_info)
		return -EINVAL;
	*val = v->msr.platform_info;
	return 0;
}

static int set_platform_info(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (!(val & PLATFORM_CPUID_FAULT) && (v->msr.misc_features_enables & FEATURES_CPUID_FAULT))
		return -EINVAL;
	v->msr.platform_info = val;
	return 0;
}

static int set_misc_features(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if ((val & ~FEATURES_CPUID_FAULT) || (val && !(v->msr.platform_info & PLATFORM_CPUID_FAULT)))
		return -EINVAL;
	v->msr.misc_features_enables = val;
	return 0;
}

static int set_misc_enable(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	uint64_t old = v->msr.misc_enable;

	if (!host) {
		if ((old ^ val) & (MISC_ENABLE_NO_BTS | MISC_ENABLE_NO_PEBS))
			return -EINVAL;
		val = (val & ~MISC_ENABLE_EMON) | (old & MISC_ENABLE_EMON);
	}
	/* Without the quirk the MWAIT bit needs SSE3 (KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT). */
	if (((old ^ val) & MISC_ENABLE_MWAIT) &&
	    !(v->vm->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) && !guest_has(v, 1, ECX, BIT(0)))
		return -EINVAL;
	v->msr.misc_enable = val;
	return 0;
}

/* BTF and LBR are swallowed: guests set them without asking CPUID. */
static int set_debugctl(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	return val & ~3ULL ? -EINVAL : 0;
}

static int set_hwcr(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	val &= ~HWCR_IGNORED;
	if (val & ~HWCR_MCI_STATUS_WR)
		return -EINVAL;
	v->msr.hwcr = val;
	return 0;
}

static int get_perf_capabilities(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val,
				 bool host)
{
	if (!host && !guest_has(v, 1, ECX, BIT(15)))
		return -EINVAL;
	*val = v->pmu.perf_caps;
	return 0;
}

static int set_perf_capabilities(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val,
				 bool host)
{
	return pmu_set_caps(v, val);
}

/* Without the guest's CPUID: the VMM may save and restore nothing; P6's two counters are never missed. */
static int get_pmu(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t *val, bool host)
{
	if (pmu_has_msr(v, index))
		return pmu_get_msr(v, index, val);
	*val = 0;
	return r->arg || (host && (r->flags & MSR_LISTED)) ? 0 : -EINVAL;
}

static int set_pmu(struct vcpu *v, const struct msr_row *r, uint32_t index, uint64_t val, bool host)
{
	if (pmu_has_msr(v, index))
		return pmu_set_msr(v, index, val, host);
	return r->arg || (host && !val && (r->flags & MSR_LISTED)) ? 0 : -EINVAL;
}

/* -- The table ------------------------------------------------------------ */

#define F(field) offsetof(struct vcpu_msrs, field)
static const struct msr_row rows[] = {
#define MSR(first, last, arg, get, set, flags) {first, last, arg, get, set, flags},
#include "vcpu/msr_table.h"
#undef MSR
};
#undef F

/* Listed MSRs that the engine owns: SYSENTER_*, PAT, XSS, STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX
 */
static const uint32_t engine_listed[] = {0x174,	     0x175,	 0x176,	     0x277,
					 0xda0,	     0xc0000081, 0xc0000082, 0xc0000083,
					 0xc0000084, 0xc0000102, 0xc0000103};

#define LIST_MAX 160
static uint32_t listed[LIST_MAX];
static unsigned nlisted;
static uint32_t feature_listed[4];
static unsigned nfeatures;

static const struct msr_row *row_find(uint32_t index)
{
	unsigned lo = 0, hi = ARRAY_SIZE(rows);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (index < rows[mid].first)
			hi = mid;
		else if (index > rows[mid].last)
			lo = mid + 1;
		else
			return &rows[mid];
	}
	return NULL;
}

int vcpu_rdmsr(struct vcpu *v, uint32_t index, uint64_t *val, bool host)
{
	const struct msr_row *r;
	int ret;

	if (index >= X2APIC_FIRST && index <= X2APIC_LAST)
		return v->lapic ? lapic_msr_read(v->lapic, index, val) : -EINVAL;
	ret = engine_get_msr(v->cpu, index, val);
	if (ret != -ENOENT)
		return ret;
	r = row_find(index);
	if (!r || !r->get)
		return -ENOENT;
	if ((r->flags & MSR_HOST_R) && !host)
		return -EINVAL;
	return r->get(v, r, index, val, host);
}

int vcpu_wrmsr(struct vcpu *v, uint32_t index, uint64_t val, bool host)
{
	const struct msr_row *r;
	int ret;

	if (index >= X2APIC_FIRST && index <= X2APIC_LAST)
		return v->lapic ? lapic_msr_write(v->lapic, index, val) : -EINVAL;
	if (index == IA32_TSC_DEADLINE) /* the one that a guest writes thousands of times a second */
		return set_tsc_deadline(v, NULL, index, val, host);
	if (unlikely(index == vcpu_xen_msr(v->vm)) && index)
		return xen_hypercall_page(v, val);
	ret = engine_set_msr(v->cpu, index, val, host);
	if (ret != -ENOENT)
		return ret;
	r = row_find(index);
	if (!r || !r->set)
		return -ENOENT;
	if ((r->flags & MSR_HOST_W) && !host)
		return -EINVAL;
	return r->set(v, r, index, val, host);
}

/* -- The guest's RDMSR, WRMSR and RDPMC --------------------------------------- */

/* Takes the VMM's answer to KVM_EXIT_X86_RDMSR or WRMSR. */
static void complete_msr(struct vcpu *v)
{
	struct vcpu_access *a = &v->pending.access;
	uint64_t data = v->run->msr.data;

	a->failed = v->run->msr.error;
	if (!a->write)
		memcpy(a->data, &data, sizeof(data));
	replay_add(v, a, NULL);
}

/* The access failed for this reason (KVM_MSR_EXIT_REASON_*): #GP, or the VMM's word if it wants to have it.
 */
static enum engine_status refuse(struct vcpu *v, uint32_t index, bool write, uint64_t val, uint32_t reason)
{
	struct vcpu_access a = {
	    .kind = write ? ACCESS_WRMSR : ACCESS_RDMSR, .write = write, .len = 8, .addr = index};
	struct kvm_run *run = v->run;

	if (!(v->vm->user_space_msr_mask & reason))
		return ENGINE_GP;
	if (!replay_reserve(v))
		return vcpu_stop_result(v, -ENOMEM);
	memcpy(a.data, &val, sizeof(val));
	run->exit_reason = write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
	memset(&run->msr, 0, sizeof(run->msr));
	run->msr.reason = reason;
	run->msr.index = index;
	run->msr.data = val;
	return vcpu_stop(v, &a, complete_msr);
}

static uint32_t reason_of(int err)
{
	return err == -ENOENT ? KVM_MSR_EXIT_REASON_UNKNOWN : KVM_MSR_EXIT_REASON_INVAL;
}

enum engine_status vcpu_rdmsr_port(struct vcpu *v, uint32_t index, uint64_t *val)
{
	const struct vcpu_access *done = v->replay.n ? replay_find(v, ACCESS_RDMSR, index, 8, false) : NULL;
	int ret;

	if (done) {
		memcpy(val, done->data, sizeof(*val));
		return done->failed ? ENGINE_GP : ENGINE_OK;
	}
	if (!msr_filter_allows(v->vm, index, false))
		return refuse(v, index, false, 0, KVM_MSR_EXIT_REASON_FILTER);
	ret = vcpu_rdmsr(v, index, val, false);
	if (likely(!ret))
		return ENGINE_OK;
	base_log(LOG_DEBUG, "rdmsr %#x refused", index);
	return refuse(v, index, false, 0, reason_of(ret));
}

enum engine_status vcpu_wrmsr_port(struct vcpu *v, uint32_t index, uint64_t val)
{
	const struct vcpu_access *done = v->replay.n ? replay_find(v, ACCESS_WRMSR, index, 8, true) : NULL;
	int ret;

	if (done)
		return done->failed ? ENGINE_GP : ENGINE_OK;
	if (!msr_filter_allows(v->vm, index, true))
		return refuse(v, index, true, val, KVM_MSR_EXIT_REASON_FILTER);
	ret = vcpu_wrmsr(v, index, val, false);
	if (likely(!ret))
		return ENGINE_OK;
	base_log(LOG_DEBUG, "wrmsr %#x %#llx refused", index, (unsigned long long)val);
	return refuse(v, index, true, val, reason_of(ret));
}

enum engine_status vcpu_rdpmc_port(struct vcpu *v, uint32_t index, uint64_t *val)
{
	return pmu_rdpmc(v, index, val) ? ENGINE_GP : ENGINE_OK;
}

/* -- ioctls --------------------------------------------------------------- */

int vcpu_get_msrs(struct vcpu *v, struct kvm_msr_entry *e, unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		uint64_t val;

		if (vcpu_rdmsr(v, e[i].index, &val, true))
			break;
		e[i].data = val;
	}
	return (int)i;
}

int vcpu_set_msrs(struct vcpu *v, const struct kvm_msr_entry *e, unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++)
		if (vcpu_wrmsr(v, e[i].index, e[i].data, true))
			break;
	return (int)i;
}

const uint32_t *vcpu_msr_list(unsigned *n)
{
	*n = nlisted;
	return listed;
}

const uint32_t *vcpu_msr_feature_list(unsigned *n)
{
	*n = nfeatures;
	return feature_listed;
}

int vcpu_get_feature_msr(uint32_t index, uint64_t *val)
{
	for (unsigned i = 0; i < nfeatures; i++) {
		if (feature_listed[i] != index)
			continue;
		switch (index) {
		case IA32_BIOS_SIGN_ID: *val = UCODE_REVISION; break;
		case IA32_ARCH_CAPS: *val = ARCH_CAPABILITIES; break;
		case AMD_DE_CFG: *val = DE_CFG_LFENCE_SERIALIZE; break;
		default: *val = vcpu_host_is_amd() ? 0 : PMU_CAPS; /* PERF_CAPABILITIES */
		}
		return 0;
	}
	return -EINVAL;
}

/* -- Birth and reset ------------------------------------------------------ */

static void list_add(uint32_t index)
{
	base_bug_on(nlisted == LIST_MAX);
	if (nlisted < LIST_MAX)
		listed[nlisted++] = index;
}

int msr_init(void)
{
	nlisted = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(engine_listed); i++)
		list_add(engine_listed[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		base_bug_on(i && rows[i].first <= rows[i - 1].last);
		for (uint32_t m = rows[i].first; (rows[i].flags & MSR_LISTED) && m <= rows[i].last; m++)
			list_add(m);
	}
	nfeatures = 0;
	feature_listed[nfeatures++] = IA32_BIOS_SIGN_ID;
	feature_listed[nfeatures++] = IA32_ARCH_CAPS;
	feature_listed[nfeatures++] = IA32_PERF_CAPS;
	if (vcpu_host_is_amd())
		feature_listed[nfeatures++] = AMD_DE_CFG;
	return 0;
}

void msr_reset(struct vcpu *v, bool init)
{
	v->msr.spec_ctrl = 0;
	if (init) /* the rest survives INIT */
		return;
	v->msr = (struct vcpu_msrs){.misc_enable = MISC_ENABLE_RESET,
				    .platform_info = PLATFORM_CPUID_FAULT,
				    .arch_capabilities = ARCH_CAPABILITIES,
				    .ucode_rev = UCODE_REVISION};
	msr_mce_init(v);
}

/* What MSR writes set up: the rest is embedded in the vCPU. */
void msr_destroy(struct vcpu *v)
{
	pv_destroy(v);
}
