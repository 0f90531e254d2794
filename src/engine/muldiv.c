/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MUL IMUL DIV IDIV MULX, and the decimal adjustments of 16- and 32-bit code. */
#include "engine/ops.h"

static inline uint64_t operand(struct engine_cpu *c, const struct insn *i, unsigned size)
{
	if (i->mem)
		return mem_ld(c, i, ea_linear(c, i, size, false), size);
	return reg_get(c, i->dst, size);
}

/* -- One-operand multiplication: accumulator times r/m -- */

#define MUL_OP(NAME, TEXT)                                                                                  \
	static void op_##NAME##8(struct engine_cpu * c, const struct insn *i)                               \
	{                                                                                                   \
		uint64_t v = operand(c, i, 1), a = REG8(c, RAX * 8), f;                                     \
                                                                                                            \
		__asm__(TEXT "b %b[v]\n\tpushfq\n\tpopq %[f]" : "+&a"(a), [f] "=r"(f) : [v] "r"(v) : "cc"); \
		REG16(c, RAX * 8) = a;                                                                      \
		c->rflags = (c->rflags & ~FLAGS_ARITH) | (f & FLAGS_ARITH);                                 \
	}                                                                                                   \
	static void op_##NAME(struct engine_cpu *c, const struct insn *i)                                   \
	{                                                                                                   \
		uint64_t v = operand(c, i, i->opsize), a = c->gpr[RAX], d = c->gpr[RDX], f;                 \
                                                                                                            \
		switch (i->opsize) {                                                                        \
		case 2: MUL_ASM(TEXT "w %w[v]"); break;                                                     \
		case 4: MUL_ASM(TEXT "l %k[v]"); break;                                                     \
		default: MUL_ASM(TEXT "q %q[v]"); break;                                                    \
		}                                                                                           \
		c->gpr[RAX] = a;                                                                            \
		c->gpr[RDX] = d;                                                                            \
		c->rflags = (c->rflags & ~FLAGS_ARITH) | (f & FLAGS_ARITH);                                 \
	}
#define MUL_ASM(text) \
	__asm__(text "\n\tpushfq\n\tpopq %[f]" : "+&a"(a), "+&d"(d), [f] "=r"(f) : [v] "r"(v) : "cc")
MUL_OP(mul, "mul")
MUL_OP(imul, "imul")

/* IMUL r, r/m and IMUL r, r/m, imm: op 1 = immediate. */
static void op_imul_r(struct engine_cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = i->mem ? mem_ld(c, i, ea_linear(c, i, size, false), size) : reg_get(c, i->src, size);
	uint64_t a = i->op ? i->imm : reg_get(c, i->dst, size), f;

	switch (size) {
	case 2:
		__asm__("imulw %w[v], %w[a]\n\tpushfq\n\tpopq %[f]"
			: [a] "+&r"(a), [f] "=r"(f)
			: [v] "r"(v)
			: "cc");
		break;
	case 4:
		__asm__("imull %k[v], %k[a]\n\tpushfq\n\tpopq %[f]"
			: [a] "+&r"(a), [f] "=r"(f)
			: [v] "r"(v)
			: "cc");
		break;
	default:
		__asm__("imulq %q[v], %q[a]\n\tpushfq\n\tpopq %[f]"
			: [a] "+&r"(a), [f] "=r"(f)
			: [v] "r"(v)
			: "cc");
		break;
	}
	reg_set(c, i->dst, a, size);
	c->rflags = (c->rflags & ~FLAGS_ARITH) | (f & FLAGS_ARITH);
}

/* MULX hi, lo, r/m: no flags. op = offset of the r/m register. */
static void op_mulx(struct engine_cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = i->mem ? mem_ld(c, i, ea_linear(c, i, size, false), size) : reg_get(c, i->op, size);
	unsigned __int128 p = (unsigned __int128)reg_get(c, RDX * 8, size) * v;

	reg_set(c, i->src, p, size);
	reg_set(c, i->dst, p >> (size * 8), size); /* the same register: the high half stays */
}

/* -- Division: #DE for a zero divisor or a quotient that does not fit; the flags stay -- */

static void op_div8(struct engine_cpu *c, const struct insn *i)
{
	unsigned v = operand(c, i, 1), a = REG16(c, RAX * 8);

	if (v == 0 || a / v > 0xff)
		engine_raise(c, EXC_DE);
	REG16(c, RAX * 8) = a / v | a % v << 8;
}

static void op_idiv8(struct engine_cpu *c, const struct insn *i)
{
	int v = (int8_t)operand(c, i, 1), a = (int16_t)REG16(c, RAX * 8);

	if (v == 0 || a / v != (int8_t)(a / v))
		engine_raise(c, EXC_DE);
	REG16(c, RAX * 8) = (uint8_t)(a / v) | (uint8_t)(a % v) << 8;
}

/* 16 and 32 bits: the dividend fits 64. */
static void op_div(struct engine_cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, bits = size * 8;
	uint64_t v = operand(c, i, size), a;

	a = reg_get(c, RDX * 8, size) << bits | reg_get(c, RAX * 8, size);
	if (v == 0 || a / v >> bits)
		engine_raise(c, EXC_DE);
	reg_set(c, RAX * 8, a / v, size);
	reg_set(c, RDX * 8, a % v, size);
}

static void op_idiv(struct engine_cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, bits = size * 8;
	int64_t v = (int64_t)(operand(c, i, size) << (64 - bits)) >> (64 - bits), a, q;

	a = (int64_t)((reg_get(c, RDX * 8, size) << bits | reg_get(c, RAX * 8, size)) << (64 - 2 * bits));
	a >>= 64 - 2 * bits;
	if (v == 0 || (v == -1 && a == INT64_MIN))
		engine_raise(c, EXC_DE);
	q = a / v;
	if (q != (int64_t)((uint64_t)q << (64 - bits)) >> (64 - bits))
		engine_raise(c, EXC_DE);
	reg_set(c, RAX * 8, q, size);
	reg_set(c, RDX * 8, a % v, size);
}

static void op_div64(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = operand(c, i, 8), hi = c->gpr[RDX], lo = c->gpr[RAX];

	if (hi >= v) /* a zero divisor too */
		engine_raise(c, EXC_DE);
	__asm__("divq %[v]" : "+a"(lo), "+d"(hi) : [v] "r"(v) : "cc");
	c->gpr[RAX] = lo;
	c->gpr[RDX] = hi;
}

static void op_idiv64(struct engine_cpu *c, const struct insn *i)
{
	int64_t v = operand(c, i, 8);
	__int128 a = (__int128)((unsigned __int128)c->gpr[RDX] << 64 | c->gpr[RAX]), q;

	if (v == 0 || (v == -1 && a == (__int128)((unsigned __int128)1 << 127)))
		engine_raise(c, EXC_DE);
	q = a / v;
	if (q != (int64_t)q)
		engine_raise(c, EXC_DE);
	c->gpr[RAX] = q;
	c->gpr[RDX] = a % v;
}

/* -- Decimal adjustments (SDM 2A; not in 64-bit mode) -- */

/* SF ZF PF of al; the rest as told. */
static void decimal_flags(struct engine_cpu *c, uint8_t al, bool cf, bool af, bool of)
{
	uint64_t f = c->rflags & ~FLAGS_ARITH;

	if (cf)
		f |= FLAG_CF;
	if (af)
		f |= FLAG_AF;
	if (of)
		f |= FLAG_OF;
	if (!al)
		f |= FLAG_ZF;
	if (al & 0x80)
		f |= FLAG_SF;
	if (!__builtin_parity(al))
		f |= FLAG_PF;
	c->rflags = f;
}

/* op: 0 DAA, 1 DAS */
static void op_daa(struct engine_cpu *c, const struct insn *i)
{
	uint8_t old = c->gpr[RAX], al = old;
	bool cf = c->rflags & FLAG_CF, af = c->rflags & FLAG_AF, carry = false;
	int sign = i->op ? -1 : 1;

	if ((al & 15) > 9 || af) {
		carry = cf || (i->op ? al < 6 : al > 0xf9);
		al += sign * 6;
		af = true;
	}
	if (old > 0x99 || cf) {
		al += sign * 0x60;
		carry = true;
	}
	REG8(c, RAX * 8) = al;
	decimal_flags(c, al, carry, af, false);
}

/* op: 0 AAA, 1 AAS */
static void op_aaa(struct engine_cpu *c, const struct insn *i)
{
	uint16_t ax = c->gpr[RAX];
	bool adjust = (ax & 15) > 9 || (c->rflags & FLAG_AF);

	if (adjust)
		ax += i->op ? -0x106 : 0x106;
	ax &= 0xff0f;
	REG16(c, RAX * 8) = ax;
	decimal_flags(c, ax, adjust, adjust, false);
}

static void op_aam(struct engine_cpu *c, const struct insn *i)
{
	uint8_t al = c->gpr[RAX], base = i->imm;

	if (!base)
		engine_raise(c, EXC_DE);
	REG16(c, RAX * 8) = al / base << 8 | al % base;
	decimal_flags(c, al % base, false, false, false);
}

/* The flags are those of the byte addition. */
static void op_aad(struct engine_cpu *c, const struct insn *i)
{
	uint64_t al = c->gpr[RAX] & 0xff, add = (c->gpr[RAX] >> 8 & 0xff) * i->imm, f;

	__asm__("addb %b[add], %b[al]\n\tpushfq\n\tpopq %[f]"
		: [al] "+r"(al), [f] "=r"(f)
		: [add] "r"(add)
		: "cc");
	REG16(c, RAX * 8) = (uint8_t)al;
	c->rflags = (c->rflags & ~FLAGS_ARITH) | (f & FLAGS_ARITH);
}

/* -- Selection -- */

static insn_fn with_op(struct insn *i, unsigned op, insn_fn fn)
{
	i->op = op;
	return fn;
}

static insn_fn pick_imul(struct insn *i, const struct insn_decoded *d)
{
	if (d->in.operand_count_visible == 1)
		return d->op[0].size == 8 ? op_imul8 : op_imul;
	return with_op(i, d->in.operand_count_visible == 3, op_imul_r);
}

static insn_fn pick_mulx(struct insn *i, const struct insn_decoded *d)
{
	i->opsize = d->op[0].size / 8;
	return with_op(i, is_gpr(&d->op[2]) ? decode_gpr_offset(d->op[2].reg.value) : 0, op_mulx);
}

insn_fn muldiv_select(struct insn *i, const struct insn_decoded *d)
{
	unsigned bits = d->op[0].size;

	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_MUL: return bits == 8 ? op_mul8 : op_mul;
	case ZYDIS_MNEMONIC_IMUL: return pick_imul(i, d);
	case ZYDIS_MNEMONIC_DIV: return bits == 8 ? op_div8 : bits == 64 ? op_div64 : op_div;
	case ZYDIS_MNEMONIC_IDIV: return bits == 8 ? op_idiv8 : bits == 64 ? op_idiv64 : op_idiv;
	case ZYDIS_MNEMONIC_MULX: return pick_mulx(i, d);
	case ZYDIS_MNEMONIC_DAA: return with_op(i, 0, op_daa);
	case ZYDIS_MNEMONIC_DAS: return with_op(i, 1, op_daa);
	case ZYDIS_MNEMONIC_AAA: return with_op(i, 0, op_aaa);
	case ZYDIS_MNEMONIC_AAS: return with_op(i, 1, op_aaa);
	case ZYDIS_MNEMONIC_AAM: return op_aam;
	case ZYDIS_MNEMONIC_AAD: return op_aad;
	default: return NULL;
	}
}
