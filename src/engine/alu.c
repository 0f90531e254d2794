/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT: every size and form. */
#include "engine/ops.h"

#define ARITH	 FLAGS_ARITH
#define BUT_CF	 (FLAGS_ARITH & ~FLAG_CF)
#define NO_FLAGS 0ULL

/* -- Two operands -- */

#define ALU_FN(NAME, TEXT, PRE, SZ, SFX, MOD)                                  \
	static inline uint64_t NAME##SZ(uint64_t a, uint64_t b, uint64_t *fl)  \
	{                                                                      \
		unsigned ax;                                                   \
                                                                               \
		__asm__(PRE TEXT SFX " %" MOD "[b], %" MOD "[a]\n\t" LAHF_SETO \
			: "=&a"(ax), [a] "+r"(a)                               \
			: [b] "r"(b), [fl] "r"(*fl)                            \
			: "cc");                                               \
		flags_put(fl, ax, ARITH);                                      \
		return a;                                                      \
	}
/* STORE(x): keep x, or nothing for CMP and TEST. */
#define ALU_READ_FORMS(NAME, SZ, STORE)                                                    \
	static void op_##NAME##SZ##_rr(struct engine_cpu *c, const struct insn *i)         \
	{                                                                                  \
		uint64_t v = NAME##SZ(REG##SZ(c, i->dst), REG##SZ(c, i->src), &c->rflags); \
		STORE(reg_set(c, i->dst, v, SZ / 8);)                                      \
		(void)v;                                                                   \
	}                                                                                  \
	static void op_##NAME##SZ##_ri(struct engine_cpu *c, const struct insn *i)         \
	{                                                                                  \
		uint64_t v = NAME##SZ(REG##SZ(c, i->dst), i->imm, &c->rflags);             \
		STORE(reg_set(c, i->dst, v, SZ / 8);)                                      \
		(void)v;                                                                   \
	}                                                                                  \
	static void op_##NAME##SZ##_rm(struct engine_cpu *c, const struct insn *i)         \
	{                                                                                  \
		uint64_t m = mem_ld##SZ(c, i, ea_linear(c, i, SZ / 8, false));             \
		uint64_t v = NAME##SZ(REG##SZ(c, i->dst), m, &c->rflags);                  \
		STORE(reg_set(c, i->dst, v, SZ / 8);)                                      \
		(void)v;                                                                   \
	}
#define ALU_RMW(NAME, FORM, TEXT, PRE, SZ, SFX, MOD, LOCK, LOCKED, SRC)                            \
	static void op_##NAME##SZ##_##FORM(struct engine_cpu *c, const struct insn *i)             \
	{                                                                                          \
		uint64_t b = SRC;                                                                  \
		RMW_BODY(SZ / 8, PRE LOCK TEXT SFX " %" MOD "[b], (%%rax)", LOCKED, NAME##SZ, "r") \
		flags_put(&c->rflags, ax, ARITH);                                                  \
	}
#define ALU_COMPARE(NAME, FORM, SZ, SRC)                                                     \
	static void op_##NAME##SZ##_##FORM(struct engine_cpu *c, const struct insn *i)       \
	{                                                                                    \
		NAME##SZ(mem_ld##SZ(c, i, ea_linear(c, i, SZ / 8, false)), SRC, &c->rflags); \
	}

#define KEEP(x) x
#define DROP(x)
#define ALU(NAME, TEXT, PRE, SZ, SFX, MOD)                                          \
	ALU_FN(NAME, TEXT, PRE, SZ, SFX, MOD)                                       \
	ALU_READ_FORMS(NAME, SZ, KEEP)                                              \
	ALU_RMW(NAME, mr, TEXT, PRE, SZ, SFX, MOD, "", 0, REG##SZ(c, i->src))       \
	ALU_RMW(NAME, mi, TEXT, PRE, SZ, SFX, MOD, "", 0, i->imm)                   \
	ALU_RMW(NAME, lmr, TEXT, PRE, SZ, SFX, MOD, "lock ", 1, REG##SZ(c, i->src)) \
	ALU_RMW(NAME, lmi, TEXT, PRE, SZ, SFX, MOD, "lock ", 1, i->imm)
#define ALU_CMP(NAME, TEXT, PRE, SZ, SFX, MOD)        \
	ALU_FN(NAME, TEXT, PRE, SZ, SFX, MOD)         \
	ALU_READ_FORMS(NAME, SZ, DROP)                \
	ALU_COMPARE(NAME, mr, SZ, REG##SZ(c, i->src)) \
	ALU_COMPARE(NAME, mi, SZ, i->imm)
#define SIZES(M, NAME, TEXT, PRE)        \
	M(NAME, TEXT, PRE, 8, "b", "b")  \
	M(NAME, TEXT, PRE, 16, "w", "w") \
	M(NAME, TEXT, PRE, 32, "l", "k") \
	M(NAME, TEXT, PRE, 64, "q", "q")

SIZES(ALU, add, "add", "")
SIZES(ALU, or, "or", "")
SIZES(ALU, adc, "adc", CARRY_IN)
SIZES(ALU, sbb, "sbb", CARRY_IN)
SIZES(ALU, and, "and", "")
SIZES(ALU, sub, "sub", "")
SIZES(ALU, xor, "xor", "")
SIZES(ALU_CMP, cmp, "cmp", "")
SIZES(ALU_CMP, test, "test", "")

enum form { RR, RI, RM, MR, MI, LMR, LMI, FORMS };

#define ROW(NAME, SZ)                                                                           \
	{                                                                                       \
		op_##NAME##SZ##_rr, op_##NAME##SZ##_ri, op_##NAME##SZ##_rm, op_##NAME##SZ##_mr, \
		    op_##NAME##SZ##_mi, op_##NAME##SZ##_lmr, op_##NAME##SZ##_lmi                \
	}
#define ROW_CMP(NAME, SZ)                                                                       \
	{                                                                                       \
		op_##NAME##SZ##_rr, op_##NAME##SZ##_ri, op_##NAME##SZ##_rm, op_##NAME##SZ##_mr, \
		    op_##NAME##SZ##_mi                                                          \
	}
#define TABLE(ROWS, NAME)                                                                             \
	static const insn_fn table_##NAME[4][FORMS] = {ROWS(NAME, 8), ROWS(NAME, 16), ROWS(NAME, 32), \
						       ROWS(NAME, 64)};
TABLE(ROW, add)
TABLE(ROW, or)
TABLE(ROW, adc)
TABLE(ROW, sbb)
TABLE(ROW, and)
TABLE(ROW, sub)
TABLE(ROW, xor)
TABLE(ROW_CMP, cmp)
TABLE(ROW_CMP, test)

/* -- One operand -- */

#define UNARY_FN(NAME, TEXT, SZ, SFX, MOD, MASK)                                                  \
	static inline uint64_t NAME##SZ(uint64_t a, uint64_t b, uint64_t *fl)                     \
	{                                                                                         \
		unsigned ax;                                                                      \
                                                                                                  \
		__asm__(TEXT SFX " %" MOD "[a]\n\t" LAHF_SETO : "=&a"(ax), [a] "+r"(a) : : "cc"); \
		if (MASK)                                                                         \
			flags_put(fl, ax, MASK);                                                  \
		return a;                                                                         \
	}                                                                                         \
	static void op_##NAME##SZ##_r(struct engine_cpu *c, const struct insn *i)                 \
	{                                                                                         \
		reg_set(c, i->dst, NAME##SZ(REG##SZ(c, i->dst), 0, &c->rflags), SZ / 8);          \
	}
#define UNARY_RMW(NAME, FORM, TEXT, SZ, SFX, MASK, LOCK, LOCKED)                       \
	static void op_##NAME##SZ##_##FORM(struct engine_cpu *c, const struct insn *i) \
	{                                                                              \
		uint64_t b = 0;                                                        \
		RMW_BODY(SZ / 8, LOCK TEXT SFX " (%%rax)", LOCKED, NAME##SZ, "r")      \
		if (MASK)                                                              \
			flags_put(&c->rflags, ax, MASK);                               \
	}
#define UNARY(NAME, TEXT, SZ, SFX, MOD, MASK)          \
	UNARY_FN(NAME, TEXT, SZ, SFX, MOD, MASK)       \
	UNARY_RMW(NAME, m, TEXT, SZ, SFX, MASK, "", 0) \
	UNARY_RMW(NAME, lm, TEXT, SZ, SFX, MASK, "lock ", 1)
#define UNARY_SIZES(NAME, TEXT, MASK)                             \
	UNARY(NAME, TEXT, 8, "b", "b", MASK)                      \
	UNARY(NAME, TEXT, 16, "w", "w", MASK)                     \
	UNARY(NAME, TEXT, 32, "l", "k", MASK)                     \
	UNARY(NAME, TEXT, 64, "q", "q", MASK)                     \
	static const insn_fn table_##NAME[4][3] = {               \
	    {op_##NAME##8_r, op_##NAME##8_m, op_##NAME##8_lm},    \
	    {op_##NAME##16_r, op_##NAME##16_m, op_##NAME##16_lm}, \
	    {op_##NAME##32_r, op_##NAME##32_m, op_##NAME##32_lm}, \
	    {op_##NAME##64_r, op_##NAME##64_m, op_##NAME##64_lm}, \
	};

UNARY_SIZES(inc, "inc", BUT_CF)
UNARY_SIZES(dec, "dec", BUT_CF)
UNARY_SIZES(neg, "neg", ARITH)
UNARY_SIZES(not, "not", NO_FLAGS)

/* -- Selection -- */

static insn_fn pick2(const insn_fn t[4][FORMS], const struct insn *i, const struct insn_decoded *d)
{
	const insn_fn *row = t[size_index(d->op[0].size)];

	if (is_gpr(&d->op[0]))
		return row[is_gpr(&d->op[1]) ? RR : is_mem(&d->op[1]) ? RM : RI];
	return row[(is_gpr(&d->op[1]) ? MR : MI) + (i->lock ? 2 : 0)];
}

static insn_fn pick1(const insn_fn t[4][3], const struct insn *i, const struct insn_decoded *d)
{
	const insn_fn *row = t[size_index(d->op[0].size)];

	return row[is_gpr(&d->op[0]) ? 0 : i->lock ? 2 : 1];
}

insn_fn alu_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_ADD: return pick2(table_add, i, d);
	case ZYDIS_MNEMONIC_OR: return pick2(table_or, i, d);
	case ZYDIS_MNEMONIC_ADC: return pick2(table_adc, i, d);
	case ZYDIS_MNEMONIC_SBB: return pick2(table_sbb, i, d);
	case ZYDIS_MNEMONIC_AND: return pick2(table_and, i, d);
	case ZYDIS_MNEMONIC_SUB: return pick2(table_sub, i, d);
	case ZYDIS_MNEMONIC_XOR: return pick2(table_xor, i, d);
	case ZYDIS_MNEMONIC_CMP: return pick2(table_cmp, i, d);
	case ZYDIS_MNEMONIC_TEST: return pick2(table_test, i, d);
	case ZYDIS_MNEMONIC_INC: return pick1(table_inc, i, d);
	case ZYDIS_MNEMONIC_DEC: return pick1(table_dec, i, d);
	case ZYDIS_MNEMONIC_NEG: return pick1(table_neg, i, d);
	case ZYDIS_MNEMONIC_NOT: return pick1(table_not, i, d);
	default: return NULL;
	}
}
