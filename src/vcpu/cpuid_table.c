/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_GET_SUPPORTED_CPUID: what the host has and the engine can run. The host is asked once per process,
 * since a CPUID leaf costs microseconds inside a virtual machine.
 */
#include <cpuid.h>

#include <asm/kvm_para.h>

#include "vcpu/internal.h"

/* Feature bits that are offered when the host has them. Rows: leaf, index, register, bits, what is left out.
 */
#define B(n) (1U << (n))
static const struct {
	uint32_t leaf, index;
	unsigned reg;	 /* 0 eax .. 3 edx */
	uint32_t host;	 /* passed on from the host */
	uint32_t always; /* made by us */
} masks[] = {
    /* SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND; X2APIC is ours.
     * TSC_DEADLINE is told by KVM_CAP_TSC_DEADLINE_TIMER, since it needs an irqchip (api.rst 4.46). */
    {1, 0, 2,
     B(0) | B(1) | B(9) | B(12) | B(13) | B(17) | B(19) | B(20) | B(22) | B(23) | B(25) | B(26) | B(28) |
	 B(29) | B(30),
     B(21)},
    /* FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFLUSH MMX FXSR SSE SSE2 SS */
    {1, 0, 3, 0x078bfbff | B(19) | B(27), B(9)},
    /* ARAT: our LAPIC timer never stops */
    {6, 0, 0, 0, B(2)},
    /* FSGSBASE BMI1 AVX2 FDP_EXCPTN SMEP BMI2 ERMS INVPCID ZERO_FCS AVX512{F,DQ,IFMA,CD,BW,VL} RDSEED ADX
     * SMAP CLFLUSHOPT CLWB SHA; TSC_ADJUST is ours. No TSX, SGX, MPX, PT, RDT. */
    {7, 0, 1,
     B(0) | B(3) | B(5) | B(6) | B(7) | B(8) | B(9) | B(10) | B(13) | B(16) | B(17) | B(18) | B(19) | B(20) |
	 B(21) | B(23) | B(24) | B(28) | B(29) | B(30) | B(31),
     B(1)},
    /* VBMI UMIP VBMI2 GFNI VAES VPCLMUL VNNI BITALG VPOPCNTDQ RDPID CLDEMOTE MOVDIRI MOVDIR64B. No PKU, CET,
     * LA57, WAITPKG, KL, ENQCMD, SGX_LC. */
    {7, 0, 2,
     B(1) | B(2) | B(6) | B(8) | B(9) | B(10) | B(11) | B(12) | B(14) | B(22) | B(25) | B(27) | B(28), 0},
    /* FSRM VP2INTERSECT MD_CLEAR SERIALIZE FP16 SPEC_CTRL STIBP SSBD; ARCH_CAPABILITIES is ours */
    {7, 0, 3, B(4) | B(8) | B(10) | B(14) | B(23) | B(26) | B(27) | B(31), B(29)},
    /* AVX_VNNI AVX512_BF16 */
    {7, 1, 0, B(4) | B(5), 0},
    /* XSAVEOPT XSAVEC XGETBV1 XSAVES */
    {0xd, 1, 0, B(0) | B(1) | B(2) | B(3), 0},
    /* LAHF CMP_LEGACY ABM SSE4A PREFETCHW XOP FMA4 TBM TOPOEXT */
    {0x80000001, 0, 2, B(0) | B(1) | B(5) | B(6) | B(8) | B(11) | B(16) | B(21) | B(22), 0},
    /* as leaf 1, SYSCALL NX MMXEXT FXSR_OPT GBPAGES RDTSCP LM */
    {0x80000001, 0, 3, 0x0183f3ff | B(11) | B(20) | B(22) | B(25) | B(26) | B(27) | B(29), 0},
    /* invariant TSC */
    {0x80000007, 0, 3, B(8), 0},
    /* WBNOINVD */
    {0x80000008, 0, 1, B(9), 0},
};

bool vcpu_host_is_amd(void)
{
	static _Atomic int known; /* 1 no, 2 yes */
	uint32_t a, b, c = 0, d;
	int is = atomic_load_explicit(&known, memory_order_relaxed);

	if (!is) {
		__cpuid(0, a, b, c, d);
		is = c == 0x444d4163 || c == 0x656e6975 ? 2 : 1;
		atomic_store_explicit(&known, is, memory_order_relaxed);
	}
	return is == 2;
}

#define MAX_OFFERED 96
static struct kvm_cpuid_entry2 offered[MAX_OFFERED];
static unsigned noffered;

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, unsigned reg)
{
	return reg == 0 ? &e->eax : reg == 1 ? &e->ebx : reg == 2 ? &e->ecx : &e->edx;
}

/* Appends the host's leaf; feature registers that have no row in `masks` stay as they are. */
static struct kvm_cpuid_entry2 *add(uint32_t leaf, uint32_t index, bool indexed)
{
	struct kvm_cpuid_entry2 *e = &offered[noffered];

	if (noffered == MAX_OFFERED) {
		base_bug("CPUID table full");
		e--;
	} else {
		noffered++;
	}
	*e = (struct kvm_cpuid_entry2){
	    .function = leaf, .index = index, .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0};
	__cpuid_count(leaf, index, e->eax, e->ebx, e->ecx, e->edx);
	return e;
}

static struct kvm_cpuid_entry2 *add_zero(uint32_t leaf, uint32_t index, bool indexed)
{
	struct kvm_cpuid_entry2 *e = &offered[noffered++];

	*e = (struct kvm_cpuid_entry2){
	    .function = leaf, .index = index, .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0};
	return e;
}

/* Clears the feature registers that `masks` knows for this leaf down to what is offered. */
static void mask(struct kvm_cpuid_entry2 *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(masks); i++) {
		uint32_t *r = reg_of(e, masks[i].reg);

		if (masks[i].leaf == e->function && masks[i].index == e->index)
			*r = (*r & masks[i].host) | masks[i].always;
	}
}

/* Drops AVX and AVX-512 where XCR0 cannot carry their state. */
static void mask_by_xcr0(struct kvm_cpuid_entry2 *e, uint64_t xcr0)
{
	bool avx = (xcr0 & 6) == 6, avx512 = (xcr0 & 0xe6) == 0xe6;

	if (e->function == 1 && !avx)
		e->ecx &= ~(B(12) | B(28) | B(29));
	if (e->function == 7 && e->index == 0 && !avx512) {
		e->ebx &= ~(B(16) | B(17) | B(21) | B(28) | B(30) | B(31));
		e->ecx &= ~(B(1) | B(6) | B(11) | B(12) | B(14));
		e->edx &= ~(B(8) | B(23));
	}
	if (e->function == 7 && e->index == 0 && !avx) {
		e->ebx &= ~B(5);
		e->ecx &= ~(B(9) | B(10));
	}
	if (e->function == 7 && e->index == 1)
		e->eax &= ~((avx ? 0 : B(4)) | (avx512 ? 0 : B(5)));
}

/* Leaf 0xd: the components of XCR0 that host and engine can run (SDM 1, 13.2). */
static void add_xsave(uint64_t xcr0)
{
	struct kvm_cpuid_entry2 *e;

	e = add(0xd, 0, true);
	e->eax = (uint32_t)xcr0;
	e->edx = (uint32_t)(xcr0 >> 32);
	e->ebx = e->ecx = engine_xsave_size(xcr0, false);
	e = add(0xd, 1, true);
	mask(e);
	e->ebx = e->eax & (B(1) | B(3)) ? engine_xsave_size(xcr0, true) : 0;
	e->ecx = e->edx = 0;
	for (unsigned i = 2; i < 63; i++)
		if (xcr0 & BIT(i))
			add(0xd, i, true);
}

static void add_basic(uint32_t max, uint64_t xcr0)
{
	for (uint32_t leaf = 1; leaf <= max; leaf++) {
		struct kvm_cpuid_entry2 *e;

		switch (leaf) {
		case 1:
		case 2:
			e = add(leaf, 0, false);
			mask(e);
			mask_by_xcr0(e, xcr0);
			if (leaf == 1 && !vcpu_host_is_amd())
				e->ecx |= B(15); /* PDCM */
			if (leaf == 1)
				e->ebx &= 0xff00; /* ids and counts are the VMM's */
			break;
		case 4:
			for (unsigned i = 0; i < 8; i++)
				if (!(add(4, i, true)->eax & 0x1f))
					break;
			break;
		case 7:
			e = add(7, 0, true);
			e->eax = MIN(e->eax, 1U);
			mask(e);
			mask_by_xcr0(e, xcr0);
			if (e->eax == 0)
				break;
			e = add(7, 1, true);
			mask(e);
			mask_by_xcr0(e, xcr0);
			e->ebx = e->ecx = e->edx = 0;
			break;
		case 0xa:
			e = add_zero(leaf, 0, false);
			if (vcpu_host_is_amd())
				break;
			e->eax = PMU_EAX;
			e->ebx = PMU_EBX;
			e->edx = PMU_EDX;
			break;
		case 0xd: add_xsave(xcr0); break;
		case 6: mask(add_zero(leaf, 0, false)); break;
		default: /* MONITOR, power, topology, PT, SGX, AMX: absent or the VMM's */
			add_zero(leaf, 0,
				 leaf == 0xb || leaf == 0xf || leaf == 0x10 || leaf == 0x14 || leaf == 0x1f);
		}
	}
}

static void add_extended(uint32_t max)
{
	for (uint32_t leaf = 0x80000001; leaf <= max; leaf++) {
		struct kvm_cpuid_entry2 *e;

		if (leaf > 0x80000008 && leaf != 0x8000001d) {
			add_zero(leaf, 0, false);
			continue;
		}
		if (leaf == 0x8000001d) {
			for (unsigned i = 0; i < 8; i++)
				if (!(add(leaf, i, true)->eax & 0x1f))
					break;
			continue;
		}
		e = add(leaf, 0, false);
		mask(e);
		if (leaf == 0x80000001)
			e->ebx = 0;
		if (leaf == 0x80000007)
			e->eax = e->ebx = e->ecx = 0;
		if (leaf == 0x80000008) { /* 4-level paging: 48 bits of linear address */
			e->eax = (e->eax & 0xff) | 48 << 8;
			e->ecx = e->edx = 0;
		}
	}
}

int cpuid_init(void)
{
	struct kvm_cpuid_entry2 *e;
	uint64_t xcr0 = engine_xcr0_host();

	noffered = 0;
	e = add(0, 0, false);
	e->eax = MIN(MAX(e->eax, vcpu_host_is_amd() ? 7U : 0xaU), 0x1fU);
	add_basic(e->eax, xcr0);
	e = add_zero(KVM_CPUID_SIGNATURE, 0, false);
	e->eax = KVM_CPUID_FEATURES;
	memcpy(&e->ebx, "KVMK", 4);
	memcpy(&e->ecx, "VMKV", 4);
	memcpy(&e->edx, "M\0\0", 4);
	e = add_zero(KVM_CPUID_FEATURES, 0, false);
	e->eax = B(KVM_FEATURE_CLOCKSOURCE) | B(KVM_FEATURE_NOP_IO_DELAY) | B(KVM_FEATURE_CLOCKSOURCE2) |
		 B(KVM_FEATURE_STEAL_TIME) | B(KVM_FEATURE_PV_EOI) | B(KVM_FEATURE_POLL_CONTROL) |
		 B(KVM_FEATURE_PV_UNHALT) | B(KVM_FEATURE_PV_SEND_IPI) | B(KVM_FEATURE_PV_SCHED_YIELD) |
		 B(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);
	e = add(0x80000000, 0, false);
	e->eax = MIN(MAX(e->eax, 0x80000008U), 0x8000001fU);
	add_extended(e->eax);
	return 0;
}

/* Copies n entries out as the two list ioctls do: -E2BIG with too little room, *n then the count. */
static int copy_list(struct kvm_cpuid_entry2 *to, unsigned *room, const struct kvm_cpuid_entry2 *from,
		     unsigned n)
{
	unsigned have = *room;

	if (have < 1)
		return -E2BIG;
	*room = n;
	if (have < n)
		return -E2BIG;
	memcpy(to, from, n * sizeof(*to));
	return 0;
}

int vcpu_supported_cpuid(struct kvm_cpuid_entry2 *e, unsigned *n)
{
	return copy_list(e, n, offered, noffered);
}

int vcpu_emulated_cpuid(struct kvm_cpuid_entry2 *e, unsigned *n)
{
	/* MOVBE and RDPID are interpreted, whatever the host has */
	static const struct kvm_cpuid_entry2 emulated[] = {
	    {.function = 0, .eax = 7},
	    {.function = 1, .ecx = B(22)},
	    {.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = B(22)},
	};

	return copy_list(e, n, emulated, ARRAY_SIZE(emulated));
}

uint64_t vcpu_supported_xcr0(void)
{
	return engine_xcr0_host();
}

uint32_t cpuid_offered(uint32_t function, unsigned reg)
{
	for (unsigned i = 0; i < noffered; i++)
		if (offered[i].function == function && offered[i].index == 0)
			return *reg_of(&offered[i], reg);
	return 0;
}
