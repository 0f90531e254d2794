/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shifts and rotates, double shifts, and the flagless ones of BMI2. */
#include "engine/ops.h"

#define SHIFT_FLAGS  FLAGS_ARITH
#define ROTATE_FLAGS (FLAG_CF | FLAG_OF)

/* `b` is the count, masked as the CPU does; a count of 0 changes no flag. */
#define SHIFT_FN(NAME, TEXT, PRE, SZ, SFX, MOD, MASK)                         \
	static inline uint64_t NAME##SZ(uint64_t a, uint64_t b, uint64_t *fl) \
	{                                                                     \
		unsigned ax;                                                  \
                                                                              \
		__asm__(PRE TEXT SFX " %%cl, %" MOD "[a]\n\t" LAHF_SETO       \
			: "=&a"(ax), [a] "+r"(a)                              \
			: "c"(b), [fl] "r"(*fl)                               \
			: "cc");                                              \
		if (b)                                                        \
			flags_put(fl, ax, MASK);                              \
		return a;                                                     \
	}
/* KEEPS: what SDM leaves undefined for counts above 1 and Intel's CPUs leave alone, given a register and a constant. */
#define SHIFT_FORMS(NAME, TEXT, PRE, SZ, SFX, MASK, KEEPS, FORM, COUNT)                    \
	static void op_##NAME##SZ##_r##FORM(struct engine_cpu *c, const struct insn *i)    \
	{                                                                                  \
		uint64_t b = (COUNT) & (SZ == 64 ? 63 : 31), before = c->rflags & (KEEPS); \
                                                                                           \
		reg_set(c, i->dst, NAME##SZ(REG##SZ(c, i->dst), b, &c->rflags), SZ / 8);   \
		if (b > 1)                                                                 \
			c->rflags = (c->rflags & ~(uint64_t)(KEEPS)) | before;             \
	}                                                                                  \
	static void op_##NAME##SZ##_m##FORM(struct engine_cpu *c, const struct insn *i)    \
	{                                                                                  \
		uint64_t b = (COUNT) & (SZ == 64 ? 63 : 31);                               \
		RMW_BODY(SZ / 8, PRE TEXT SFX " %%cl, (%%rax)", 0, NAME##SZ, "c")          \
		if (b)                                                                     \
			flags_put(&c->rflags, ax, MASK);                                   \
	}
#define SHIFT(NAME, TEXT, PRE, SZ, SFX, MOD, MASK, KEEPS)             \
	SHIFT_FN(NAME, TEXT, PRE, SZ, SFX, MOD, MASK)                 \
	SHIFT_FORMS(NAME, TEXT, PRE, SZ, SFX, MASK, KEEPS, i, i->imm) \
	SHIFT_FORMS(NAME, TEXT, PRE, SZ, SFX, MASK, 0, c, c->gpr[RCX])
#define SHIFT_ROW(NAME, SZ)                                                                    \
	{                                                                                      \
		op_##NAME##SZ##_ri, op_##NAME##SZ##_rc, op_##NAME##SZ##_mi, op_##NAME##SZ##_mc \
	}
#define SHIFT_SIZES(NAME, TEXT, PRE, MASK, KEEPS)                                           \
	SHIFT(NAME, TEXT, PRE, 8, "b", "b", MASK, KEEPS)                                    \
	SHIFT(NAME, TEXT, PRE, 16, "w", "w", MASK, KEEPS)                                   \
	SHIFT(NAME, TEXT, PRE, 32, "l", "k", MASK, KEEPS)                                   \
	SHIFT(NAME, TEXT, PRE, 64, "q", "q", MASK, KEEPS)                                   \
	static const insn_fn table_##NAME[4][4] = {SHIFT_ROW(NAME, 8), SHIFT_ROW(NAME, 16), \
						   SHIFT_ROW(NAME, 32), SHIFT_ROW(NAME, 64)};

SHIFT_SIZES(shl, "shl", "", SHIFT_FLAGS, 0)
SHIFT_SIZES(shr, "shr", "", SHIFT_FLAGS, 0)
SHIFT_SIZES(sar, "sar", "", SHIFT_FLAGS, 0)
SHIFT_SIZES(rol, "rol", "", ROTATE_FLAGS, FLAG_OF)
SHIFT_SIZES(ror, "ror", "", ROTATE_FLAGS, FLAG_OF)
SHIFT_SIZES(rcl, "rcl", CARRY_IN, ROTATE_FLAGS, 0)
SHIFT_SIZES(rcr, "rcr", CARRY_IN, ROTATE_FLAGS, 0)

/* -- Double shifts -- */

struct fill {
	uint64_t from, count;
};

#define DOUBLE_FN(NAME, TEXT, SZ, SFX, MOD)                                      \
	static uint64_t NAME##SZ(uint64_t a, uint64_t b, uint64_t *fl)           \
	{                                                                        \
		const struct fill *f = (const struct fill *)(uintptr_t)b;        \
		unsigned ax;                                                     \
                                                                                 \
		if (!f->count)                                                   \
			return a;                                                \
		__asm__(TEXT SFX " %%cl, %" MOD "[b], %" MOD "[a]\n\t" LAHF_SETO \
			: "=&a"(ax), [a] "+r"(a)                                 \
			: "c"(f->count), [b] "r"(f->from)                        \
			: "cc");                                                 \
		flags_put(fl, ax, SHIFT_FLAGS);                                  \
		return a;                                                        \
	}
DOUBLE_FN(shld, "shld", 16, "w", "w")
DOUBLE_FN(shld, "shld", 32, "l", "k")
DOUBLE_FN(shld, "shld", 64, "q", "q")
DOUBLE_FN(shrd, "shrd", 16, "w", "w")
DOUBLE_FN(shrd, "shrd", 32, "l", "k")
DOUBLE_FN(shrd, "shrd", 64, "q", "q")

/* op bit 0: SHRD; bit 1: the count is CL. */
static void op_double_shift(struct engine_cpu *c, const struct insn *i)
{
	static const rmw_fn fn[2][3] = {{shld16, shld32, shld64}, {shrd16, shrd32, shrd64}};
	rmw_fn f = fn[i->op & 1][__builtin_ctz(i->opsize) - 1];
	struct fill a = {reg_get(c, i->src, i->opsize), i->op & 2 ? c->gpr[RCX] : i->imm};
	uint64_t v;

	a.count &= i->opsize == 8 ? 63 : 31;
	if (i->mem) {
		access_rmw(c, i, ea_linear(c, i, i->opsize, true), i->opsize, f, (uintptr_t)&a, false);
		return;
	}
	v = f(reg_get(c, i->dst, i->opsize), (uintptr_t)&a, &c->rflags);
	reg_set(c, i->dst, v, i->opsize);
}

/* -- BMI2: no flags -- */

static uint64_t rm_value(struct engine_cpu *c, const struct insn *i)
{
	if (i->mem)
		return mem_ld(c, i, ea_linear(c, i, i->opsize, false), i->opsize);
	return reg_get(c, i->src, i->opsize);
}

static void op_rorx(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = rm_value(c, i);
	unsigned bits = i->opsize * 8, n = i->imm & (bits - 1);

	if (n)
		v = v >> n | v << (bits - n);
	reg_set(c, i->dst, v, i->opsize);
}

/* op: byte offset of the register that holds the count. */
#define BMI_SHIFT(NAME, EXPR32, EXPR64)                                                                  \
	static void op_##NAME(struct engine_cpu *c, const struct insn *i)                                \
	{                                                                                                \
		uint64_t v = rm_value(c, i);                                                             \
		unsigned n = REG8(c, i->op);                                                             \
                                                                                                         \
		reg_set(c, i->dst, i->opsize == 8 ? (uint64_t)(EXPR64) : (uint32_t)(EXPR32), i->opsize); \
	}
BMI_SHIFT(shlx, (uint32_t)v << (n & 31), v << (n & 63))
BMI_SHIFT(shrx, (uint32_t)v >> (n & 31), v >> (n & 63))
BMI_SHIFT(sarx, (int32_t)v >> (n & 31), (int64_t)v >> (n & 63))

/* -- Selection -- */

static insn_fn pick(const insn_fn t[4][4], const struct insn_decoded *d)
{
	return t[size_index(d->op[0].size)][(is_mem(&d->op[0]) ? 2 : 0) + (is_imm(&d->op[1]) ? 0 : 1)];
}

static insn_fn pick_double(struct insn *i, const struct insn_decoded *d, unsigned right)
{
	i->op = right | (is_imm(&d->op[2]) ? 0 : 2);
	return op_double_shift;
}

/* VEX: 32 or 64 bits by W, whatever the code segment's default is. */
static insn_fn pick_bmi(struct insn *i, const struct insn_decoded *d, insn_fn fn)
{
	i->opsize = d->op[0].size / 8;
	if (is_gpr(&d->op[2]))
		i->op = decode_gpr_offset(d->op[2].reg.value);
	return fn;
}

insn_fn shift_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_SHL: return pick(table_shl, d);
	case ZYDIS_MNEMONIC_SHR: return pick(table_shr, d);
	case ZYDIS_MNEMONIC_SAR: return pick(table_sar, d);
	case ZYDIS_MNEMONIC_ROL: return pick(table_rol, d);
	case ZYDIS_MNEMONIC_ROR: return pick(table_ror, d);
	case ZYDIS_MNEMONIC_RCL: return pick(table_rcl, d);
	case ZYDIS_MNEMONIC_RCR: return pick(table_rcr, d);
	case ZYDIS_MNEMONIC_SHLD: return pick_double(i, d, 0);
	case ZYDIS_MNEMONIC_SHRD: return pick_double(i, d, 1);
	case ZYDIS_MNEMONIC_RORX: return pick_bmi(i, d, op_rorx);
	case ZYDIS_MNEMONIC_SHLX: return pick_bmi(i, d, op_shlx);
	case ZYDIS_MNEMONIC_SHRX: return pick_bmi(i, d, op_shrx);
	case ZYDIS_MNEMONIC_SARX: return pick_bmi(i, d, op_sarx);
	default: return NULL;
	}
}
