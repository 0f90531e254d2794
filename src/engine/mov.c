/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MOV MOVZX MOVSX MOVBE BSWAP LEA XCHG (registers) CMOVcc SETcc XLAT CBW CWD families, direct stores. */
#include "engine/ops.h"

/* Bit cc of entry (low flags, with OF moved to bit 3): is the condition true? ORDER cc */
#define C1(f, cc)                                                 \
	((((cc) >> 1 == 0   ? (f) >> 3                            \
	   : (cc) >> 1 == 1 ? (f)                                 \
	   : (cc) >> 1 == 2 ? (f) >> 6                            \
	   : (cc) >> 1 == 3 ? (f) | (f) >> 6                      \
	   : (cc) >> 1 == 4 ? (f) >> 7                            \
	   : (cc) >> 1 == 5 ? (f) >> 2                            \
	   : (cc) >> 1 == 6 ? (f) >> 7 ^ (f) >> 3                 \
			    : ((f) >> 7 ^ (f) >> 3) | (f) >> 6) ^ \
	  (cc)) &                                                 \
	 1)
#define C4(f, cc)                                                                    \
	(C1(f, cc) << (cc) | C1(f, cc + 1) << (cc + 1) | C1(f, cc + 2) << (cc + 2) | \
	 C1(f, cc + 3) << (cc + 3))
#define C16(f) (C4(f, 0) | C4(f, 4) | C4(f, 8) | C4(f, 12))
#define F4(f)  C16(f), C16(f + 1), C16(f + 2), C16(f + 3)
#define F16(f) F4(f), F4(f + 4), F4(f + 8), F4(f + 12)
#define F64(f) F16(f), F16(f + 16), F16(f + 32), F16(f + 48)
const uint16_t cond_table[256] = {F64(0), F64(64), F64(128), F64(192)};

const struct insn insn_ss = {.seg = SS};

/* -- MOV -- */

#define MOV_FORMS(SZ)                                                                         \
	static void op_mov##SZ##_rr(struct engine_cpu *c, const struct insn *i)               \
	{                                                                                     \
		reg_set(c, i->dst, REG##SZ(c, i->src), SZ / 8);                               \
	}                                                                                     \
	static void op_mov##SZ##_ri(struct engine_cpu *c, const struct insn *i)               \
	{                                                                                     \
		reg_set(c, i->dst, i->imm, SZ / 8);                                           \
	}                                                                                     \
	static void op_mov##SZ##_rm(struct engine_cpu *c, const struct insn *i)               \
	{                                                                                     \
		reg_set(c, i->dst, mem_ld##SZ(c, i, ea_linear(c, i, SZ / 8, false)), SZ / 8); \
	}                                                                                     \
	static void op_mov##SZ##_mr(struct engine_cpu *c, const struct insn *i)               \
	{                                                                                     \
		mem_st##SZ(c, i, ea_linear(c, i, SZ / 8, true), REG##SZ(c, i->src));          \
	}                                                                                     \
	static void op_mov##SZ##_mi(struct engine_cpu *c, const struct insn *i)               \
	{                                                                                     \
		mem_st##SZ(c, i, ea_linear(c, i, SZ / 8, true), i->imm);                      \
	}
MOV_FORMS(8)
MOV_FORMS(16)
MOV_FORMS(32)
MOV_FORMS(64)

#define MOV_ROW(SZ)                                                                                 \
	{                                                                                           \
		op_mov##SZ##_rr, op_mov##SZ##_ri, op_mov##SZ##_rm, op_mov##SZ##_mr, op_mov##SZ##_mi \
	}
static const insn_fn table_mov[4][5] = {MOV_ROW(8), MOV_ROW(16), MOV_ROW(32), MOV_ROW(64)};

/* Segment, control and debug registers are system.c's. */
static insn_fn pick_mov(const struct insn_decoded *d)
{
	const ZydisDecodedOperand *a = &d->op[0], *b = &d->op[1];
	const insn_fn *row;

	if ((!is_gpr(a) && !is_mem(a)) || (!is_gpr(b) && !is_mem(b) && !is_imm(b)))
		return NULL;
	row = table_mov[size_index(a->size)];
	if (is_gpr(a))
		return row[is_gpr(b) ? 0 : is_imm(b) ? 1 : 2];
	return row[is_gpr(b) ? 3 : 4];
}

/* -- Widening -- */

#define EXTEND(NAME, FROM, TO, TYPE)                                                    \
	static void op_##NAME##FROM##TO##_r(struct engine_cpu *c, const struct insn *i) \
	{                                                                               \
		reg_set(c, i->dst, (int64_t)(TYPE)REG##FROM(c, i->src), TO / 8);        \
	}                                                                               \
	static void op_##NAME##FROM##TO##_m(struct engine_cpu *c, const struct insn *i) \
	{                                                                               \
		uint64_t v = mem_ld##FROM(c, i, ea_linear(c, i, FROM / 8, false));      \
		reg_set(c, i->dst, (int64_t)(TYPE)v, TO / 8);                           \
	}
#define EXTENDS(TO)                     \
	EXTEND(movzx, 8, TO, uint8_t)   \
	EXTEND(movzx, 16, TO, uint16_t) \
	EXTEND(movsx, 8, TO, int8_t)    \
	EXTEND(movsx, 16, TO, int16_t)  \
	EXTEND(movsx, 32, TO, int32_t)
EXTENDS(16)
EXTENDS(32)
EXTENDS(64)

#define EXTEND_ROW(N, F)                                          \
	{op_##N##F##16_r, op_##N##F##32_r, op_##N##F##64_r},      \
	{                                                         \
		op_##N##F##16_m, op_##N##F##32_m, op_##N##F##64_m \
	}
static insn_fn pick_extend(const struct insn_decoded *d, bool sign)
{
	static const insn_fn t[10][3] = {
	    EXTEND_ROW(movzx, 8),  EXTEND_ROW(movzx, 16), EXTEND_ROW(movsx, 8),
	    EXTEND_ROW(movsx, 16), EXTEND_ROW(movsx, 32),
	};
	unsigned from = size_index(d->op[1].size) + (sign ? 2 : 0);

	return t[from * 2 + is_mem(&d->op[1])][size_index(d->op[0].size) - 1];
}

/* CBW CWDE CDQE: op = source size in bytes; CWD CDQ CQO: the sign of the accumulator fills DX. */
static void op_cbw(struct engine_cpu *c, const struct insn *i)
{
	int64_t v = i->opsize == 2   ? (int8_t)c->gpr[RAX]
		    : i->opsize == 4 ? (int16_t)c->gpr[RAX]
				     : (int32_t)c->gpr[RAX];

	reg_set(c, RAX * 8, v, i->opsize);
}

static void op_cwd(struct engine_cpu *c, const struct insn *i)
{
	uint64_t sign = c->gpr[RAX] >> (i->opsize * 8 - 1) & 1;

	reg_set(c, RDX * 8, -sign, i->opsize);
}

/* -- LEA -- */

static void op_lea64(struct engine_cpu *c, const struct insn *i)
{
	REG64(c, i->dst) = ea_offset(c, i);
}

static void op_lea32(struct engine_cpu *c, const struct insn *i)
{
	REG64(c, i->dst) = (uint32_t)ea_offset(c, i);
}

static void op_lea(struct engine_cpu *c, const struct insn *i)
{
	reg_set(c, i->dst, insn_offset(c, i), i->opsize);
}

static insn_fn pick_lea(const struct insn *i)
{
	if (i->opsize == 8 && i->adsize == 8)
		return op_lea64;
	if (i->opsize == 4 && i->adsize >= 4)
		return op_lea32;
	return op_lea;
}

/* -- XCHG of registers, BSWAP, MOVBE -- */

static void op_xchg_rr(struct engine_cpu *c, const struct insn *i)
{
	uint64_t a = reg_get(c, i->dst, i->op), b = reg_get(c, i->src, i->op);

	reg_set(c, i->dst, b, i->op);
	reg_set(c, i->src, a, i->op);
}

static void op_bswap(struct engine_cpu *c, const struct insn *i)
{
	/* BSWAP of a 16-bit register is undefined; CPUs clear it. */
	if (i->opsize == 8)
		REG64(c, i->dst) = __builtin_bswap64(REG64(c, i->dst));
	else if (i->opsize == 4)
		REG64(c, i->dst) = __builtin_bswap32(REG32(c, i->dst));
	else
		REG16(c, i->dst) = 0;
}

static uint64_t swap_bytes(uint64_t v, unsigned size)
{
	return __builtin_bswap64(v) >> (64 - size * 8);
}

static void op_movbe_rm(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = mem_ld(c, i, ea_linear(c, i, i->opsize, false), i->opsize);

	reg_set(c, i->dst, swap_bytes(v, i->opsize), i->opsize);
}

static void op_movbe_mr(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = swap_bytes(reg_get(c, i->src, i->opsize), i->opsize);

	mem_st(c, i, ea_linear(c, i, i->opsize, true), v, i->opsize);
}

/* -- Conditional -- */

static void op_cmov16_r(struct engine_cpu *c, const struct insn *i)
{
	if (cond(c->rflags, i->cc))
		REG16(c, i->dst) = REG16(c, i->src);
}

/* A 32-bit CMOV clears the upper half even if it moves nothing. */
static void op_cmov32_r(struct engine_cpu *c, const struct insn *i)
{
	uint32_t a = REG32(c, i->dst), b = REG32(c, i->src);

	REG64(c, i->dst) = cond(c->rflags, i->cc) ? b : a;
}

static void op_cmov64_r(struct engine_cpu *c, const struct insn *i)
{
	uint64_t a = REG64(c, i->dst), b = REG64(c, i->src);

	REG64(c, i->dst) = cond(c->rflags, i->cc) ? b : a;
}

/* The load happens, and may fault, whatever the condition. */
static void op_cmov_m(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = mem_ld(c, i, ea_linear(c, i, i->opsize, false), i->opsize);

	if (!cond(c->rflags, i->cc))
		v = reg_get(c, i->dst, i->opsize);
	reg_set(c, i->dst, v, i->opsize);
}

static void op_setcc_r(struct engine_cpu *c, const struct insn *i)
{
	REG8(c, i->dst) = cond(c->rflags, i->cc);
}

static void op_setcc_m(struct engine_cpu *c, const struct insn *i)
{
	mem_st8(c, i, ea_linear(c, i, 1, true), cond(c->rflags, i->cc));
}

static insn_fn pick_cmov(struct insn *i, const struct insn_decoded *d)
{
	i->cc = d->in.opcode & 15;
	if (is_mem(&d->op[1]))
		return op_cmov_m;
	return i->opsize == 2 ? op_cmov16_r : i->opsize == 4 ? op_cmov32_r : op_cmov64_r;
}

static insn_fn pick_setcc(struct insn *i, const struct insn_decoded *d)
{
	i->cc = d->in.opcode & 15;
	return is_mem(&d->op[0]) ? op_setcc_m : op_setcc_r;
}

/* -- XLAT, direct stores -- */

static void op_xlat(struct engine_cpu *c, const struct insn *i)
{
	uint64_t off = c->gpr[RBX] + (c->gpr[RAX] & 0xff);

	off &= i->adsize == 8 ? ~0ULL : BIT(i->adsize * 8) - 1;
	REG8(c, RAX * 8) = guest_ld(c, seg_linear(c, i->seg, off, 1, false), 1);
}

static void op_store_r(struct engine_cpu *c, const struct insn *i)
{
	mem_st(c, i, ea_linear(c, i, i->opsize, true), reg_get(c, i->src, i->opsize), i->opsize);
}

/* MOVDIR64B: destination ES:reg, 64-byte aligned. */
static void op_movdir64b(struct engine_cpu *c, const struct insn *i)
{
	uint64_t to = reg_get(c, i->dst, i->adsize), from, buf[8];

	from = insn_ea(c, i, 64, false);
	guest_read(c, from, buf, 64);
	to = seg_linear(c, ES, to, 64, true);
	if (to & 63)
		engine_raise_err(c, EXC_GP, 0);
	guest_write(c, to, buf, 64);
}

/* SALC (D6): AL = CF ? FF : 0; undocumented, in every CPU outside 64-bit mode. */
static void op_salc(struct engine_cpu *c, const struct insn *i)
{
	REG8(c, RAX * 8) = c->rflags & FLAG_CF ? 0xff : 0;
}

/* -- Selection -- */

static insn_fn select_conditional(struct insn *i, const struct insn_decoded *d)
{
	ZydisMnemonic m = d->in.mnemonic;

	if (m >= ZYDIS_MNEMONIC_CMOVB && m <= ZYDIS_MNEMONIC_CMOVZ)
		return pick_cmov(i, d);
	if (m >= ZYDIS_MNEMONIC_SETB && m <= ZYDIS_MNEMONIC_SETZ && m != ZYDIS_MNEMONIC_SETSSBSY)
		return pick_setcc(i, d);
	return NULL;
}

insn_fn mov_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return pick_mov(d);
	case ZYDIS_MNEMONIC_MOVZX: return pick_extend(d, false);
	case ZYDIS_MNEMONIC_MOVSX: return pick_extend(d, true);
	case ZYDIS_MNEMONIC_MOVSXD:
		/* Without REX.W a plain MOV, of 16 or 32 bits. */
		if (d->op[0].size == 64)
			return pick_extend(d, true);
		if (is_mem(&d->op[1]))
			return d->op[0].size == 32 ? op_mov32_rm : op_mov16_rm;
		return d->op[0].size == 32 ? op_mov32_rr : op_mov16_rr;
	case ZYDIS_MNEMONIC_LEA: return pick_lea(i);
	case ZYDIS_MNEMONIC_XCHG:
		i->op = d->op[0].size / 8;
		return is_gpr(&d->op[0]) && is_gpr(&d->op[1]) ? op_xchg_rr : NULL;
	case ZYDIS_MNEMONIC_BSWAP: return op_bswap;
	case ZYDIS_MNEMONIC_MOVBE: return is_mem(&d->op[0]) ? op_movbe_mr : op_movbe_rm;
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE: return op_cbw;
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO: return op_cwd;
	case ZYDIS_MNEMONIC_XLAT: return op_xlat;
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_MOVDIRI: i->opsize = d->op[1].size / 8; return op_store_r;
	case ZYDIS_MNEMONIC_MOVDIR64B: return op_movdir64b;
	case ZYDIS_MNEMONIC_SALC: return op_salc;
	default: return select_conditional(i, d);
	}
}
