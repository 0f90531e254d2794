/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The test's data: what is excluded and why, and what a CPU leaves undefined. */
#include <stdio.h>

#include "diff.h"
#include "engine/fpu.h"

/* The first and the last are for what wraps at 64 KiB. */
const uint8_t data_page_kind[DATA_PAGES] = {
    [0] = READ_WRITE, [1] = READ_WRITE, [2] = READ_WRITE, [3] = READ_ONLY,
    [4] = READ_WRITE, [5] = READ_WRITE, [7] = READ_WRITE, [15] = READ_WRITE};

const struct ldt_desc ldt[L_ENTRIES] = {
    [L_CODE32] = {.limit = 0xfffff, .big = true, .pages = true, .contents = 2},
    [L_FLAT32] = {.limit = 0xfffff, .big = true, .pages = true},
    [L_CODE16] = {.base = CODE, .limit = 0xffff, .contents = 2},
    [L_DATA16] = {.base = DATA, .limit = 0xffff},
    [L_BASED32] = {.base = DATA, .limit = 0x5fff, .big = true},
    [L_DOWN32] = {.base = DATA, .limit = 0x1fff, .big = true, .contents = 1},
    [L_CONST32] = {.base = DATA, .limit = 0xffff, .big = true, .read_only = true},
    [L_ABSENT] = {.base = DATA, .limit = 0xffff, .big = true, .absent = true},
};

/* -- Exclusions -- */

struct row {
	uint16_t id;
	const char *why;
};

static const char not_deterministic[] = "its result differs from run to run";
static const char enters_kernel[] = "enters the kernel";
static const char hidden[] = "hidden from guests";
static const char kernel_answers[] = "the host's kernel emulates it for user code (UMIP)";
static const char host_policy[] = "the result is a policy of the host's kernel";

static const struct row by_mnemonic[] = {
    {ZYDIS_MNEMONIC_RDTSC, not_deterministic},
    {ZYDIS_MNEMONIC_RDTSCP, not_deterministic},
    {ZYDIS_MNEMONIC_RDRAND, not_deterministic},
    {ZYDIS_MNEMONIC_RDSEED, not_deterministic},
    {ZYDIS_MNEMONIC_RDPID, not_deterministic},
    {ZYDIS_MNEMONIC_CPUID, not_deterministic},
    {ZYDIS_MNEMONIC_XGETBV, "XINUSE is the CPU's to choose; XCR0 is tested by guest programs"},
    {ZYDIS_MNEMONIC_RDPMC, host_policy},
    {ZYDIS_MNEMONIC_SYSCALL, enters_kernel},
    {ZYDIS_MNEMONIC_SYSENTER, enters_kernel},
    {ZYDIS_MNEMONIC_INT, enters_kernel},
    {ZYDIS_MNEMONIC_SGDT, kernel_answers},
    {ZYDIS_MNEMONIC_SIDT, kernel_answers},
    {ZYDIS_MNEMONIC_SLDT, kernel_answers},
    {ZYDIS_MNEMONIC_SMSW, kernel_answers},
    {ZYDIS_MNEMONIC_STR, kernel_answers},
    {ZYDIS_MNEMONIC_XABORT, hidden},
    {ZYDIS_MNEMONIC_XTEST, hidden},
    {ZYDIS_MNEMONIC_VMCALL, "the outer hypervisor answers"},
    {ZYDIS_MNEMONIC_VMMCALL, "the outer hypervisor answers"},
    {ZYDIS_MNEMONIC_VMFUNC, "the outer hypervisor answers"},
    {ZYDIS_MNEMONIC_GETSEC, "the outer hypervisor answers"},
    {ZYDIS_MNEMONIC_ENCLU, hidden},
    {ZYDIS_MNEMONIC_SENDUIPI, hidden},
};

static const struct row by_isa_set[] = {
    {ZYDIS_ISA_SET_RTM, "TSX: hidden from guests"},
    {ZYDIS_ISA_SET_TSX_LDTRK, "TSX: hidden from guests"},
    {ZYDIS_ISA_SET_WAITPKG, "WAITPKG: hidden from guests"},
    {ZYDIS_ISA_SET_CET, "CET: hidden from guests"},
    {ZYDIS_ISA_SET_PKU, "PKU: hidden from guests"},
    {ZYDIS_ISA_SET_SGX, "SGX: hidden from guests"},
    {ZYDIS_ISA_SET_SGX_ENCLV, "SGX: hidden from guests"},
    {ZYDIS_ISA_SET_UINTR, "UINTR: hidden from guests"},
    {ZYDIS_ISA_SET_AMX_BF16, "AMX: hidden from guests"},
    {ZYDIS_ISA_SET_AMX_INT8, "AMX: hidden from guests"},
    {ZYDIS_ISA_SET_AMX_TILE, "AMX: hidden from guests"},
    {ZYDIS_ISA_SET_PADLOCK_RNG, "VIA"},
    {ZYDIS_ISA_SET_PADLOCK_ACE, "VIA"},
    {ZYDIS_ISA_SET_PADLOCK_PHE, "VIA"},
    {ZYDIS_ISA_SET_PADLOCK_PMM, "VIA"},
    {ZYDIS_ISA_SET_MPX, "MPX is off: NOPs that Zydis calls otherwise"},
    {ZYDIS_ISA_SET_VTX, "the outer hypervisor answers"},
    {ZYDIS_ISA_SET_SVM, "AMD's"},
    {ZYDIS_ISA_SET_KEYLOCKER, "KEYLOCKER: hidden from guests"},
    {ZYDIS_ISA_SET_KEYLOCKER_WIDE, "KEYLOCKER: hidden from guests"},
    {ZYDIS_ISA_SET_HRESET, hidden},
    {ZYDIS_ISA_SET_ENQCMD, hidden},
    {ZYDIS_ISA_SET_PCONFIG, hidden},
    {ZYDIS_ISA_SET_TDX, hidden},
};

static void fill_reasons(const char **why, const struct row *rows, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		why[rows[k].id] = rows[k].why;
}

/* The CPU refuses what the host lacks; so must the engine, but it needs no test of every such encoding. */
const char *excluded(const struct tinsn *i)
{
	static const char *of_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1], *of_set[ZYDIS_ISA_SET_MAX_VALUE + 1];
	static bool filled;
	const char *why;

	if (!filled) {
		for (unsigned n = 0; n <= ZYDIS_ISA_SET_MAX_VALUE; n++)
			if (!host_has((ZydisISASet)n))
				of_set[n] = "the host's CPU lacks it";
		fill_reasons(of_set, by_isa_set, ARRAY_SIZE(by_isa_set));
		fill_reasons(of_mnemonic, by_mnemonic, ARRAY_SIZE(by_mnemonic));
		filled = true;
	}
	why = of_mnemonic[i->in.mnemonic];
	if (!why)
		why = of_set[i->in.meta.isa_set];
	if (!why && i->in.meta.isa_ext == ZYDIS_ISA_EXT_KNC)
		why = "Knights Corner";
	return why;
}

bool branches(const struct tinsn *i)
{
	return i->in.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
	       i->in.meta.category == ZYDIS_CATEGORY_RET || i->in.meta.category == ZYDIS_CATEGORY_CALL ||
	       i->in.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
	       i->in.meta.category == ZYDIS_CATEGORY_COND_BR;
}

/* -- Undefined results -- */

uint64_t undefined_flags(const struct tinsn *i)
{
	return i->in.cpu_flags ? i->in.cpu_flags->undefined : 0;
}

static bool masked(const struct tinsn *i)
{
	return i->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && i->in.raw.evex.aaa;
}

static bool sign_masked(const struct tinsn *i)
{
	return i->in.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
	       strstr(ZydisMnemonicGetString(i->in.mnemonic), "maskmov") &&
	       i->in.mnemonic != ZYDIS_MNEMONIC_VMASKMOVDQU;
}

static bool x87_image(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_FNSAVE || m == ZYDIS_MNEMONIC_FNSTENV || m == ZYDIS_MNEMONIC_FRSTOR ||
	       m == ZYDIS_MNEMONIC_FLDENV;
}

static bool state_area(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64: return true;
	default: return false;
	}
}

/*
 * Which of several reasons to fault comes first where the manuals leave it open: when a whole state area is
 * accessed; alignment against segment limit, type and canonicality; one element of a masked operand against
 * another.
 */
bool same_fault(const struct tinsn *i, int nat, int eng)
{
	const uint64_t faults = BIT(12) | BIT(13) | BIT(14) | BIT(17);

	if ((nat == 17 && (eng == 12 || eng == 13)) || (eng == 17 && (nat == 12 || nat == 13)))
		return true;
	if (!i)
		return false;
	return (state_area(i->in.mnemonic) || masked(i) || x87_image(i->in.mnemonic)) && nat >= 0 &&
	       nat < 32 && eng >= 0 && eng < 32 && BIT(nat) & faults && BIT(eng) & faults;
}

/* Instructions of many accesses: which byte of a page, or which end of the area, faults first. */
uint64_t cr2_slack(const struct tinsn *i)
{
	if (!i)
		return 0;
	if (state_area(i->in.mnemonic) || x87_image(i->in.mnemonic) ||
	    i->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return ~0ULL;
	switch (i->in.mnemonic) {
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ: return ~0ULL;
	default: break;
	}
	/* Masked stores: not the first byte that is written. */
	return masked(i) || sign_masked(i) ? 0xfff : 0;
}

/* Several stores: one that faults may leave earlier ones done. */
bool memory_undefined(const struct tinsn *i)
{
	switch (i->in.mnemonic) {
	case ZYDIS_MNEMONIC_FSTP:
	case ZYDIS_MNEMONIC_FBSTP: return i->op[0].size == 80;
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD: return true;
	default: return state_area(i->in.mnemonic) || x87_image(i->in.mnemonic);
	}
}

/* Part of a state may be loaded before a fault; a gather may have done elements behind the faulting one. */
bool vector_undefined(const struct tinsn *i, const struct outcome *o)
{
	if (o->vector == 3)
		return false;
	return state_area(i->in.mnemonic) || x87_image(i->in.mnemonic) ||
	       i->in.meta.category == ZYDIS_CATEGORY_GATHER ||
	       i->in.meta.category == ZYDIS_CATEGORY_AVX2GATHER;
}

/* -- How tests ended -- */

#define ENDS 64
static unsigned *ends;

void outcome_init(void)
{
	ends = shared_memory(ENDS * sizeof(*ends));
}

void outcome_count(const struct test *t, const struct outcome *o)
{
	ends[o->vector >= 0 && o->vector < 32 ? o->vector : o->vector == END_HALT ? 32 : 33]++;
}

void outcome_print(void)
{
	printf("  ended by");
	for (unsigned n = 0; n < ENDS; n++)
		if (ends[n])
			printf(n < 32 ? " #%u: %u" : " (%u): %u", n, ends[n]);
	printf("\n");
	memset(ends, 0, ENDS * sizeof(*ends));
}
