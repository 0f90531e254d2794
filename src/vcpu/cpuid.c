/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's CPUID: the VMM's table, the bits of it that follow the running state, and the engine's
 * features that follow from it.
 */
#include <asm/kvm_para.h>

#include "vcpu/internal.h"

#define MSR_MISC_ENABLE		  0x1a0
#define MSR_MISC_FEATURES_ENABLES 0x140
#define CR4_OSXSAVE_BIT		  BIT(18)

const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *v, uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < v->cpuid.n; i++) {
		const struct kvm_cpuid_entry2 *e = &v->cpuid.entries[i];

		if (e->function == function &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

bool cpuid_has_pv(const struct vcpu *v, unsigned bit)
{
	/* behind Hyper-V's leaves the signature moves up in steps of 0x100 */
	for (uint32_t base = KVM_CPUID_SIGNATURE; base < 0x40010000; base += 0x100) {
		const struct kvm_cpuid_entry2 *e = cpuid_find(v, base, 0), *f;

		if (!e || memcmp(&e->ebx, "KVMK", 4) || memcmp(&e->ecx, "VMKV", 4))
			continue;
		f = cpuid_find(v, base | KVM_CPUID_FEATURES, 0);
		return f && (f->eax >> bit & 1);
	}
	return false;
}

const struct engine_features *cpuid_features(const struct vcpu *v)
{
	return &v->cpuid.feat;
}

static uint32_t feature(const struct vcpu *v, uint32_t function, unsigned reg)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, function, 0);

	if (!e)
		return 0;
	return reg == 0 ? e->eax : reg == 1 ? e->ebx : reg == 2 ? e->ecx : e->edx;
}

/* What the guest may set in CR4 (SDM 3A 2.5, and as KVM: the first features were never optional). */
static uint64_t cr4_allowed(const struct vcpu *v)
{
	/* before the first KVM_SET_CPUID nothing is reserved but what the host lacks */
	uint32_t c1 = v->cpuid.given ? feature(v, 1, 2) : cpuid_offered(1, 2);
	uint32_t b7 = v->cpuid.given ? feature(v, 7, 1) : cpuid_offered(7, 1);
	uint32_t c7 = v->cpuid.given ? feature(v, 7, 2) : cpuid_offered(7, 2);
	uint64_t cr4 = 0x7ff; /* VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT */

	cr4 |= c7 & BIT(2) ? BIT(11) : 0;  /* UMIP */
	cr4 |= b7 & BIT(0) ? BIT(16) : 0;  /* FSGSBASE */
	cr4 |= c1 & BIT(17) ? BIT(17) : 0; /* PCID */
	cr4 |= c1 & BIT(26) ? BIT(18) : 0; /* XSAVE */
	cr4 |= b7 & BIT(7) ? BIT(20) : 0;  /* SMEP */
	cr4 |= b7 & BIT(20) ? BIT(21) : 0; /* SMAP */
	return cr4;
}

/* Recomputes what follows from the table and hands it to the engine and the LAPIC. */
static void update_features(struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *d = cpuid_find(v, 0xd, 0);
	uint32_t d81 = feature(v, 0x80000001, 3);
	struct engine_features f = {
	    .cr4_allowed = cr4_allowed(v),
	    .efer_allowed = BIT(0) | (d81 & BIT(20) ? BIT(11) : 0) | (d81 & BIT(29) ? BIT(8) | BIT(10) : 0) |
			    (d81 & BIT(25) ? BIT(14) : 0),
	    .xcr0_allowed = d ? (d->eax | (uint64_t)d->edx << 32) & engine_xcr0_host() : 0,
	    .maxphyaddr = 36,
	    .rdtscp = d81 & BIT(27),
	    .pcid = feature(v, 1, 2) & BIT(17),
	    .gbpages = d81 & BIT(26),
	    .umip = feature(v, 7, 2) & BIT(2),
	};
	uint32_t phys = feature(v, 0x80000008, 0) & 0xff;

	if (feature(v, 0x80000000, 0) >= 0x80000008 && phys)
		f.maxphyaddr = (uint8_t)MIN(MAX(phys, 32U), 52U);
	v->cpuid.feat = f;
	v->cpuid.amd = feature(v, 0, 1) == 0x68747541 || feature(v, 0, 1) == 0x6f677948; /* Auth, Hygo */
	hyperv_update_cpuid(v);
	pmu_refresh(v);
	engine_set_features(v->cpu, &f);
	if (v->lapic)
		lapic_set_features(v->lapic, feature(v, 1, 2) & BIT(24));
}

void cpuid_reset(struct vcpu *v)
{
	update_features(v);
}

void cpuid_destroy(struct vcpu *v)
{
	base_free(v->cpuid.entries);
	v->cpuid.entries = NULL;
	v->cpuid.n = 0;
}

static uint64_t apic_base(const struct vcpu *v)
{
	return v->lapic ? lapic_get_base(v->lapic) : v->apic_base;
}

/* The bits that follow CR4, the APIC base, XCR0 and MISC_ENABLE. */
static void runtime(struct vcpu *v, struct kvm_cpuid_entry2 *e)
{
	uint64_t xcr0 = engine_get_xcr0(v->cpu), misc, xss = 0;

	switch (e->function) {
	case 1:
		if (e->ecx & BIT(26))
			e->ecx = (e->ecx & ~(uint32_t)BIT(27)) |
				 (engine_get_cr4(v->cpu) & CR4_OSXSAVE_BIT ? (uint32_t)BIT(27) : 0);
		e->edx = (e->edx & ~(uint32_t)BIT(9)) | (apic_base(v) & BIT(11) ? (uint32_t)BIT(9) : 0);
		if ((v->vm->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) &&
		    vcpu_rdmsr(v, MSR_MISC_ENABLE, &misc, true) == 0)
			e->ecx = (e->ecx & ~(uint32_t)BIT(3)) | (misc & BIT(18) ? (uint32_t)BIT(3) : 0);
		break;
	case 0xd:
		if (e->index == 0)
			e->ebx = engine_xsave_size(xcr0, false);
		else if (e->index == 1 && (e->eax & (BIT(1) | BIT(3)))) {
			engine_get_msr(v->cpu, 0xda0, &xss);
			e->ebx = engine_xsave_size(xcr0 | xss, true);
		}
		break;
	}
}

uint32_t cpuid_feature(struct vcpu *v, uint32_t function, unsigned reg)
{
	const struct kvm_cpuid_entry2 *found = cpuid_find(v, function, 0);
	struct kvm_cpuid_entry2 e;

	if (!found)
		return 0;
	e = *found;
	runtime(v, &e);
	return reg == 0 ? e.eax : reg == 1 ? e.ebx : reg == 2 ? e.ecx : e.edx;
}

/* A leaf beyond the range answers as the highest basic leaf, except on AMD (SDM 2A, CPUID; as KVM). */
static const struct kvm_cpuid_entry2 *out_of_range(const struct vcpu *v, uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *basic = cpuid_find(v, 0, 0), *class;

	if (!basic || v->cpuid.amd)
		return NULL;
	if (function >= 0x40000000 && function <= 0x4fffffff)
		class = cpuid_find(v, function & 0xffffff00, 0);
	else
		class = cpuid_find(v, function & 0x80000000, 0);
	if (class && function <= class->eax)
		return NULL;
	return cpuid_find(v, basic->eax, index);
}

enum engine_status vcpu_cpuid_port(struct vcpu *v, uint32_t regs[4])
{
	uint32_t function = regs[0], index = regs[2];
	const struct kvm_cpuid_entry2 *found, *topology;
	struct kvm_cpuid_entry2 e = {0};
	uint64_t faulting;

	if (engine_cpl(v->cpu) > 0 && vcpu_rdmsr(v, MSR_MISC_FEATURES_ENABLES, &faulting, true) == 0 &&
	    (faulting & 1))
		return ENGINE_GP;
	found = cpuid_find(v, function, index);
	if (!found)
		found = out_of_range(v, function, index);
	if (found) {
		e = *found;
		runtime(v, &e);
	} else if (function == 0xb || function == 0x1f) {
		/* levels that do not exist still tell the level asked for and the x2APIC id */
		topology = cpuid_find(v, function, 1);
		if (topology) {
			e.ecx = index & 0xff;
			e.edx = topology->edx;
		}
	}
	regs[0] = e.eax;
	regs[1] = e.ebx;
	regs[2] = e.ecx;
	regs[3] = e.edx;
	return ENGINE_OK;
}

int vcpu_get_cpuid(struct vcpu *v, struct kvm_cpuid_entry2 *e, unsigned *n)
{
	unsigned room = *n;

	*n = v->cpuid.n;
	if (room < v->cpuid.n)
		return -E2BIG;
	for (unsigned i = 0; i < v->cpuid.n; i++) {
		e[i] = v->cpuid.entries[i];
		runtime(v, &e[i]);
	}
	return 0;
}

/* A table that a CPU which ran may keep: the same, runtime bits aside (KVM 6.1 refuses any other). */
static bool unchanged(struct vcpu *v, const struct kvm_cpuid_entry2 *e, unsigned n)
{
	if (n != v->cpuid.n)
		return false;
	for (unsigned i = 0; i < n; i++) {
		struct kvm_cpuid_entry2 a = e[i], b = v->cpuid.entries[i];

		runtime(v, &a);
		runtime(v, &b);
		if (a.function != b.function || a.index != b.index || a.flags != b.flags || a.eax != b.eax ||
		    a.ebx != b.ebx || a.ecx != b.ecx || a.edx != b.edx)
			return false;
	}
	return true;
}

int vcpu_set_cpuid(struct vcpu *v, const struct kvm_cpuid_entry2 *e, unsigned n)
{
	struct kvm_cpuid_entry2 *copy = NULL;

	if (n > VCPU_MAX_CPUID)
		return -E2BIG;
	for (unsigned i = 0; i < n; i++) {
		uint32_t bits = (e[i].eax >> 8) & 0xff;

		if (e[i].function == 0x80000008 && bits != 48 && bits != 57 && bits != 0)
			return -EINVAL;
	}
	if (engine_progress(v->cpu))
		return unchanged(v, e, n) ? 0 : -EINVAL;
	if (n) {
		copy = base_zalloc(n * sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, e, n * sizeof(*copy));
	}
	cpuid_destroy(v);
	v->cpuid.entries = copy;
	v->cpuid.n = n;
	v->cpuid.given = true;
	update_features(v);
	return 0;
}
