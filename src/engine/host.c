/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host's CPU can do: vector width, XSAVE layout, and instruction sets by CPUID bit. */
#include <cpuid.h>

#include "engine/fpu.h"

struct host_cpu host_cpu;

/* -- CPUID -- */

enum cpuid_word { L1C, L1D, L7B, L7C, L7D, L71A, X1C, X1D, D1A, CPUID_WORDS };
static uint32_t cpuid_words[CPUID_WORDS];

static void read_cpuid(void)
{
	uint32_t a, b, c, d;

	__cpuid(1, a, b, c, d);
	cpuid_words[L1C] = c;
	cpuid_words[L1D] = d;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		cpuid_words[L7B] = b;
		cpuid_words[L7C] = c;
		cpuid_words[L7D] = d;
		host_cpu.fcs_gone = b >> 13 & 1;
	}
	if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
		cpuid_words[L71A] = a;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
		cpuid_words[X1C] = c;
		cpuid_words[X1D] = d;
	}
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
		cpuid_words[D1A] = a;
}

static uint64_t read_xcr0(void)
{
	uint32_t lo, hi;

	if (!(cpuid_words[L1C] & BIT(27)))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | (uint64_t)hi << 32;
}

static void read_layout(void)
{
	uint32_t a, b, c, d;

	host_cpu.off[0] = 0;
	host_cpu.size[0] = 160;
	host_cpu.off[1] = 160;
	host_cpu.size[1] = 256;
	for (unsigned n = 2; n < 8; n++) {
		if (!(host_cpu.xcr0 & BIT(n)))
			continue;
		__cpuid_count(0xd, n, a, b, c, d);
		host_cpu.size[n] = a;
		host_cpu.off[n] = b;
		host_cpu.align64[n] = c >> 1 & 1;
	}
}

static uint32_t read_mxcsr_mask(void)
{
	static struct x87_image image __attribute__((aligned(64)));

	__asm__ volatile("fxsave %0" : "=m"(image));
	return image.mxcsr_mask ? image.mxcsr_mask : 0xffbf;
}

void host_detect(void)
{
	read_cpuid();
	host_cpu.xcr0 = read_xcr0() & XF_ALL;
	if ((host_cpu.xcr0 & XF_AVX512) != XF_AVX512 || !(cpuid_words[L7B] & BIT(16)) ||
	    !(cpuid_words[L7B] & BIT(31)))
		host_cpu.xcr0 &= ~(uint64_t)XF_AVX512;
	host_cpu.width = host_cpu.xcr0 & XF_AVX512 ? 64 : host_cpu.xcr0 & XF_AVX ? 32 : 16;
	host_cpu.avx512bw = cpuid_words[L7B] >> 30 & 1;
	host_cpu.mxcsr_mask = read_mxcsr_mask();
	read_layout();
}

/* -- Instruction sets -- */

#define SET(name, word, bit) [ZYDIS_ISA_SET_##name] = {1, word, bit}
#define SET3(name, word, bit) \
	SET(name##_128, word, bit), SET(name##_256, word, bit), SET(name##_512, word, bit)
#define NEVER(name) [ZYDIS_ISA_SET_##name] = {2, 0, 0}

/* Instruction sets that are not in every 64-bit CPU, by the CPUID bit that announces them. */
static const struct {
	uint8_t kind; /* 0: every CPU; 1: by bit; 2: none that we run */
	uint8_t word, bit;
} sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    SET(ADOX_ADCX, L7B, 19),
    SET(AES, L1C, 25),
    SET(AVX, L1C, 28),
    SET(AVX2, L7B, 5),
    SET(AVX2GATHER, L7B, 5),
    SET(AVXAES, L1C, 25),
    SET(AVX_GFNI, L7C, 8),
    SET(AVX_VNNI, L71A, 4),
    SET3(AVX512BW, L7B, 30),
    SET(AVX512BW_128N, L7B, 30),
    SET(AVX512BW_KOP, L7B, 30),
    SET3(AVX512CD, L7B, 28),
    SET3(AVX512DQ, L7B, 17),
    SET(AVX512DQ_128N, L7B, 17),
    SET(AVX512DQ_KOP, L7B, 17),
    SET(AVX512DQ_SCALAR, L7B, 17),
    SET(AVX512ER_512, L7B, 27),
    SET(AVX512ER_SCALAR, L7B, 27),
    SET3(AVX512F, L7B, 16),
    SET(AVX512F_128N, L7B, 16),
    SET(AVX512F_KOP, L7B, 16),
    SET(AVX512F_SCALAR, L7B, 16),
    SET(AVX512PF_512, L7B, 26),
    SET3(AVX512_BF16, L71A, 5),
    SET3(AVX512_BITALG, L7C, 12),
    SET3(AVX512_FP16, L7D, 23),
    SET(AVX512_FP16_128N, L7D, 23),
    SET(AVX512_FP16_SCALAR, L7D, 23),
    SET3(AVX512_GFNI, L7C, 8),
    SET3(AVX512_IFMA, L7B, 21),
    SET3(AVX512_VAES, L7C, 9),
    SET3(AVX512_VBMI2, L7C, 6),
    SET3(AVX512_VBMI, L7C, 1),
    SET3(AVX512_VNNI, L7C, 11),
    SET3(AVX512_VP2INTERSECT, L7D, 8),
    SET3(AVX512_VPCLMULQDQ, L7C, 10),
    SET3(AVX512_VPOPCNTDQ, L7C, 14),
    SET(AVX512_4FMAPS_512, L7D, 3),
    SET(AVX512_4FMAPS_SCALAR, L7D, 3),
    SET(AVX512_4VNNIW_512, L7D, 2),
    SET(BMI1, L7B, 3),
    SET(BMI2, L7B, 8),
    SET(CLDEMOTE, L7C, 25),
    SET(CLFLUSHOPT, L7B, 23),
    SET(CLWB, L7B, 24),
    SET(CMPXCHG16B, L1C, 13),
    SET(F16C, L1C, 29),
    SET(FMA, L1C, 12),
    SET(GFNI, L7C, 8),
    SET(INVPCID, L7B, 10),
    SET(LZCNT, X1C, 5),
    SET(MOVBE, L1C, 22),
    SET(PCLMULQDQ, L1C, 1),
    SET(POPCNT, L1C, 23),
    SET(PREFETCHWT1, L7C, 0),
    SET(RDPID, L7C, 22),
    SET(RDRAND, L1C, 30),
    SET(RDSEED, L7B, 18),
    SET(RDTSCP, X1D, 27),
    SET(RDWRFSGS, L7B, 0),
    SET(SERIALIZE, L7D, 14),
    SET(SHA, L7B, 29),
    SET(SSE3, L1C, 0),
    SET(SSE3X87, L1C, 0),
    SET(SSE4, L1C, 19),
    SET(SSE42, L1C, 20),
    SET(SSSE3, L1C, 9),
    SET(SSSE3MMX, L1C, 9),
    SET(SSE4A, X1C, 6),
    SET(FMA4, X1C, 16),
    SET(XOP, X1C, 11),
    SET(TBM, X1C, 21),
    SET(VAES, L7C, 9),
    SET(VPCLMULQDQ, L7C, 10),
    SET(XSAVE, L1C, 26),
    SET(XSAVEC, D1A, 1),
    SET(XSAVEOPT, D1A, 0),
    SET(XSAVES, D1A, 3),
    SET(LAHF, X1C, 0),
    SET(PT, L7B, 25),
    NEVER(AMD3DNOW),
    NEVER(AMX_BF16),
    NEVER(AMX_INT8),
    NEVER(AMX_TILE),
    NEVER(KNCE),
    NEVER(KNCJKBR),
    NEVER(KNCSTREAM),
    NEVER(KNCV),
    NEVER(KNC_MISC),
    NEVER(KNC_PF_HINT),
    NEVER(LWP),
    NEVER(KEYLOCKER),
    NEVER(KEYLOCKER_WIDE),
};

/* True if the component that a set's registers live in is enabled, so that we can execute it here. */
static bool enabled(ZydisISASet set)
{
	const char *name = ZydisISASetGetString(set);

	if (name && !strncmp(name, "AVX512", 6))
		return host_cpu.width == 64;
	if (set == ZYDIS_ISA_SET_AVX || set == ZYDIS_ISA_SET_AVX2 || set == ZYDIS_ISA_SET_AVX2GATHER ||
	    set == ZYDIS_ISA_SET_AVXAES || set == ZYDIS_ISA_SET_AVX_GFNI || set == ZYDIS_ISA_SET_AVX_VNNI ||
	    set == ZYDIS_ISA_SET_FMA || set == ZYDIS_ISA_SET_F16C || set == ZYDIS_ISA_SET_VAES ||
	    set == ZYDIS_ISA_SET_VPCLMULQDQ || set == ZYDIS_ISA_SET_FMA4 || set == ZYDIS_ISA_SET_XOP)
		return host_cpu.width >= 32;
	return true;
}

bool host_has(ZydisISASet set)
{
	if ((unsigned)set >= ARRAY_SIZE(sets) || sets[set].kind == 0)
		return true;
	return sets[set].kind == 1 && cpuid_words[sets[set].word] >> sets[set].bit & 1 && enabled(set);
}
