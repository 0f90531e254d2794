/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MTRRs: kept for the guest, without effect, since all of a guest's memory is the VMM's write-back memory. */
#include "vcpu/internal.h"

#define MTRR_CAP     0xfe
#define MTRR_VAR     0x200
#define MTRR_DEFTYPE 0x2ff
/* write-combining and fixed ranges, and the number of variable ones */
#define MTRR_CAP_VALUE (0x500 | MSR_MTRR_VARIABLE)

/* The fixed-range MSR with this index: its place in mtrr_fixed, or -1. */
static int fixed_slot(uint32_t index)
{
	switch (index) {
	case 0x250: return 0;
	case 0x258: return 1;
	case 0x259: return 2;
	case 0x268 ... 0x26f: return 3 + (int)(index - 0x268);
	default: return -1;
	}
}

static uint64_t *mtrr_place(struct vcpu *v, uint32_t index)
{
	int slot = fixed_slot(index);

	if (slot >= 0)
		return &v->msr.mtrr_fixed[slot];
	if (index >= MTRR_VAR && index < MTRR_VAR + ARRAY_SIZE(v->msr.mtrr_var))
		return &v->msr.mtrr_var[index - MTRR_VAR];
	return index == MTRR_DEFTYPE ? &v->msr.mtrr_deftype : NULL;
}

/* UC WC WT WP WB (SDM 3A 12.11.1) */
static bool valid_type(unsigned type)
{
	return type < 8 && (0x73 & (1U << type));
}

static bool valid_value(struct vcpu *v, uint32_t index, uint64_t val)
{
	uint64_t reserved;

	if (index == MTRR_DEFTYPE)
		return !(val & ~0xcffULL) && valid_type(val & 0xff);
	if (fixed_slot(index) >= 0) {
		for (unsigned i = 0; i < 8; i++)
			if (!valid_type(val >> (8 * i) & 0xff))
				return false;
		return true;
	}
	reserved = ~(BIT(cpuid_features(v)->maxphyaddr) - 1);
	if (index & 1) /* a mask */
		return !(val & (reserved | 0x7ff));
	return !(val & (reserved | 0xf00)) && valid_type(val & 0xff);
}

int msr_mtrr_get(struct vcpu *v, uint32_t index, uint64_t *val)
{
	uint64_t *place;

	if (index == MTRR_CAP) {
		*val = MTRR_CAP_VALUE;
		return 0;
	}
	place = mtrr_place(v, index);
	if (!place)
		return -EINVAL;
	*val = *place;
	return 0;
}

int msr_mtrr_set(struct vcpu *v, uint32_t index, uint64_t val)
{
	uint64_t *place = mtrr_place(v, index);

	if (!place || !valid_value(v, index, val))
		return -EINVAL;
	*place = val;
	return 0;
}
