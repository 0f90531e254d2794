/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Near branches, and the doors to far ones. A target outside the code segment (or not canonical) is the
 * branch's own #GP, before anything changes. In 64-bit code a direct target is judged once, at decoding.
 */
#include "engine/ops.h"

/* Goes to target, masked to the operand size already. Raises #GP. */
static inline void check_target(struct engine_cpu *c, uint64_t target)
{
	if (c->code64 ? !is_canonical(target) : target > c->seg[CS].limit)
		engine_raise_err(c, EXC_GP, 0);
}

static inline void branch_to(struct engine_cpu *c, uint64_t target)
{
	check_target(c, target);
	c->next_rip = target;
}

/* -- Jcc -- */

#define JCC(CC, EXPR)                                                         \
	static void op_jcc64_##CC(struct engine_cpu *c, const struct insn *i) \
	{                                                                     \
		uint64_t f = c->rflags;                                       \
                                                                              \
		if (EXPR)                                                     \
			c->next_rip = i->imm;                                 \
	}
#define SF_NE_OF(f) (((f) >> 4 ^ (f)) & FLAG_SF)
JCC(0, f &FLAG_OF)
JCC(1, !(f & FLAG_OF))
JCC(2, f &FLAG_CF)
JCC(3, !(f & FLAG_CF))
JCC(4, f &FLAG_ZF)
JCC(5, !(f & FLAG_ZF))
JCC(6, f &(FLAG_CF | FLAG_ZF))
JCC(7, !(f & (FLAG_CF | FLAG_ZF)))
JCC(8, f &FLAG_SF)
JCC(9, !(f & FLAG_SF))
JCC(10, f &FLAG_PF)
JCC(11, !(f & FLAG_PF))
JCC(12, SF_NE_OF(f))
JCC(13, !SF_NE_OF(f))
JCC(14, (f & FLAG_ZF) || SF_NE_OF(f))
JCC(15, !(f & FLAG_ZF) && !SF_NE_OF(f))

static const insn_fn jcc64[16] = {op_jcc64_0,  op_jcc64_1,  op_jcc64_2,	 op_jcc64_3, op_jcc64_4,  op_jcc64_5,
				  op_jcc64_6,  op_jcc64_7,  op_jcc64_8,	 op_jcc64_9, op_jcc64_10, op_jcc64_11,
				  op_jcc64_12, op_jcc64_13, op_jcc64_14, op_jcc64_15};

static void op_jcc(struct engine_cpu *c, const struct insn *i)
{
	if (cond(c->rflags, i->cc))
		branch_to(c, i->imm);
}

/* -- JMP, CALL, RET -- */

static void op_jmp64(struct engine_cpu *c, const struct insn *i)
{
	c->next_rip = i->imm;
}

static void op_jmp(struct engine_cpu *c, const struct insn *i)
{
	branch_to(c, i->imm);
}

static void op_call64(struct engine_cpu *c, const struct insn *i)
{
	uint64_t sp = c->gpr[RSP] - 8;

	mem_st64(c, &insn_ss, sp, c->next_rip);
	c->gpr[RSP] = sp;
	c->next_rip = i->imm;
}

/* CPUs store the return address before they look at the target; RSP changes behind both. */
static void call_to(struct engine_cpu *c, uint64_t target, unsigned size)
{
	uint64_t old = c->gpr[RSP], new;

	stack_push(c, c->next_rip, size);
	new = c->gpr[RSP];
	c->gpr[RSP] = old;
	check_target(c, target);
	c->gpr[RSP] = new;
	c->next_rip = target;
}

static void op_call(struct engine_cpu *c, const struct insn *i)
{
	call_to(c, i->imm, i->opsize);
}

/* The target of an indirect branch, cut to the operand size. */
static inline uint64_t indirect(struct engine_cpu *c, const struct insn *i)
{
	if (i->mem)
		return mem_ld(c, i, ea_linear(c, i, i->opsize, false), i->opsize);
	return reg_get(c, i->dst, i->opsize);
}

static void op_jmp_rm(struct engine_cpu *c, const struct insn *i)
{
	branch_to(c, indirect(c, i));
}

static void op_call_rm(struct engine_cpu *c, const struct insn *i)
{
	call_to(c, indirect(c, i), i->opsize);
}

static void op_ret64(struct engine_cpu *c, const struct insn *i)
{
	uint64_t sp = c->gpr[RSP], target = mem_ld64(c, &insn_ss, sp);

	if (unlikely(!is_canonical(target)))
		engine_raise_err(c, EXC_GP, 0);
	c->gpr[RSP] = sp + 8 + i->imm;
	c->next_rip = target;
}

static void op_ret(struct engine_cpu *c, const struct insn *i)
{
	uint64_t target = stack_peek(c, 0, i->opsize);

	check_target(c, target);
	stack_set(c, stack_get(c) + i->opsize + i->imm);
	c->next_rip = target;
}

/* -- LOOP family: the counter has the address size -- */

static void op_jcxz(struct engine_cpu *c, const struct insn *i)
{
	if (!reg_get(c, RCX * 8, i->adsize))
		branch_to(c, i->imm);
}

/* op: 0 LOOP, 1 LOOPE, 2 LOOPNE */
static void op_loop(struct engine_cpu *c, const struct insn *i)
{
	uint64_t n = reg_get(c, RCX * 8, i->adsize) - 1;
	uint64_t left = i->adsize == 8 ? n : n & (BIT(i->adsize * 8) - 1);
	bool zf = c->rflags & FLAG_ZF;

	if (left && (i->op == 0 || zf == (i->op == 1)))
		branch_to(c, i->imm);
	reg_set(c, RCX * 8, n, i->adsize);
}

/* -- Software interrupts and far transfers: event.c and far.c do the work -- */

/* The delivery cleared TF: no single-step trap follows the instruction. */
static void soft_int(struct engine_cpu *c, uint8_t vector, bool int3_or_into)
{
	event_soft_int(c, vector, int3_or_into);
	c->before.tf = false;
}

static void op_int3(struct engine_cpu *c, const struct insn *i)
{
	soft_int(c, EXC_BP, true);
}

static void op_into(struct engine_cpu *c, const struct insn *i)
{
	if (c->rflags & FLAG_OF)
		soft_int(c, EXC_OF, true);
}

static void op_int(struct engine_cpu *c, const struct insn *i)
{
	soft_int(c, i->imm, false);
}

static void op_int1(struct engine_cpu *c, const struct insn *i)
{
	event_int1(c);
	c->before.tf = false;
}

static void op_far_jmp(struct engine_cpu *c, const struct insn *i)
{
	far_jump(c, i->far_sel, (uint32_t)i->disp, i->opsize);
}

static void op_far_call(struct engine_cpu *c, const struct insn *i)
{
	far_call(c, i->far_sel, (uint32_t)i->disp, i->opsize);
}

/* m16:16, m16:32, m16:64: the offset, then the selector. */
static uint16_t far_pointer(struct engine_cpu *c, const struct insn *i, uint64_t *off)
{
	*off = guest_ld(c, insn_part(c, i, 0, i->opsize, false), i->opsize);
	return (uint16_t)guest_ld(c, insn_part(c, i, i->opsize, 2, false), 2);
}

static void op_far_jmp_m(struct engine_cpu *c, const struct insn *i)
{
	uint64_t off;
	uint16_t sel = far_pointer(c, i, &off);

	far_jump(c, sel, off, i->opsize);
}

static void op_far_call_m(struct engine_cpu *c, const struct insn *i)
{
	uint64_t off;
	uint16_t sel = far_pointer(c, i, &off);

	far_call(c, sel, off, i->opsize);
}

static void op_far_ret(struct engine_cpu *c, const struct insn *i)
{
	far_ret(c, i->opsize, i->imm);
}

static void op_iret(struct engine_cpu *c, const struct insn *i)
{
	far_iret(c, i->opsize);
}

/* -- Selection -- */

/* Cuts a relative target to its size; true if 64-bit code may go there without a check. */
static bool direct_target(struct insn *i)
{
	if (i->mode_key == 64)
		return is_canonical(i->imm);
	i->imm &= i->opsize == 2 ? 0xffff : 0xffffffff;
	return false;
}

static insn_fn pick_jmp_call(struct insn *i, const struct insn_decoded *d, bool call)
{
	const ZydisDecodedOperand *o = &d->op[0];

	if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
		return call ? op_far_call : op_far_jmp;
	if (is_imm(o)) {
		if (direct_target(i))
			return call ? op_call64 : op_jmp64;
		return call ? op_call : op_jmp;
	}
	if (d->in.raw.modrm.reg == (call ? 3 : 5))
		return call ? op_far_call_m : op_far_jmp_m;
	return call ? op_call_rm : op_jmp_rm;
}

static insn_fn pick_ret(struct insn *i, const struct insn_decoded *d)
{
	if (d->in.opcode == 0xca || d->in.opcode == 0xcb)
		return op_far_ret;
	return i->opsize == 8 ? op_ret64 : op_ret;
}

static insn_fn pick_loop(struct insn *i, unsigned op)
{
	i->op = op;
	direct_target(i);
	return op_loop;
}

static insn_fn pick_jcc(struct insn *i, const struct insn_decoded *d)
{
	i->cc = d->in.opcode & 15;
	return direct_target(i) ? jcc64[i->cc] : op_jcc;
}

insn_fn branch_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ: direct_target(i); return op_jcxz;
	case ZYDIS_MNEMONIC_LOOP: return pick_loop(i, 0);
	case ZYDIS_MNEMONIC_LOOPE: return pick_loop(i, 1);
	case ZYDIS_MNEMONIC_LOOPNE: return pick_loop(i, 2);
	case ZYDIS_MNEMONIC_JMP: return pick_jmp_call(i, d, false);
	case ZYDIS_MNEMONIC_CALL: return pick_jmp_call(i, d, true);
	case ZYDIS_MNEMONIC_RET: return pick_ret(i, d);
	case ZYDIS_MNEMONIC_INT: return op_int;
	case ZYDIS_MNEMONIC_INT1: return op_int1;
	case ZYDIS_MNEMONIC_INT3: return op_int3;
	case ZYDIS_MNEMONIC_INTO: return op_into;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ: return op_iret;
	case ZYDIS_MNEMONIC_JKZD:
	case ZYDIS_MNEMONIC_JKNZD: return NULL;
	default:
		if (d->in.mnemonic >= ZYDIS_MNEMONIC_JB && d->in.mnemonic <= ZYDIS_MNEMONIC_JZ)
			return pick_jcc(i, d);
		return NULL;
	}
}
