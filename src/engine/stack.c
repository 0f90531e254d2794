/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE. The 64-bit forms that compilers emit have handlers of their
 * own. */
#include "engine/ops.h"

/* -- PUSH -- */

static void op_push64_r(struct engine_cpu *c, const struct insn *i)
{
	uint64_t sp = c->gpr[RSP] - 8;

	mem_st64(c, &insn_ss, sp, REG64(c, i->dst));
	c->gpr[RSP] = sp;
}

static void op_push64_i(struct engine_cpu *c, const struct insn *i)
{
	uint64_t sp = c->gpr[RSP] - 8;

	mem_st64(c, &insn_ss, sp, i->imm);
	c->gpr[RSP] = sp;
}

static void op_push_r(struct engine_cpu *c, const struct insn *i)
{
	stack_push(c, reg_get(c, i->dst, i->opsize), i->opsize);
}

static void op_push_i(struct engine_cpu *c, const struct insn *i)
{
	stack_push(c, i->imm, i->opsize);
}

static void op_push_m(struct engine_cpu *c, const struct insn *i)
{
	stack_push(c, mem_ld(c, i, ea_linear(c, i, i->opsize, false), i->opsize), i->opsize);
}

/* -- POP -- */

static void op_pop64_r(struct engine_cpu *c, const struct insn *i)
{
	uint64_t sp = c->gpr[RSP], v = mem_ld64(c, &insn_ss, sp);

	c->gpr[RSP] = sp + 8;
	REG64(c, i->dst) = v;
}

static void op_pop_r(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = stack_peek(c, 0, i->opsize);

	stack_set(c, stack_get(c) + i->opsize);
	reg_set(c, i->dst, v, i->opsize);
}

/* The address is computed with the stack pointer already incremented. */
static void op_pop_m(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = stack_peek(c, 0, i->opsize);
	struct insn at = *i;

	if (i->base == RSP)
		at.disp += i->opsize;
	mem_st(c, i, ea_linear(c, &at, i->opsize, true), v, i->opsize);
	stack_set(c, stack_get(c) + i->opsize);
}

/* -- All registers -- */

static void op_pusha(struct engine_cpu *c, const struct insn *i)
{
	uint64_t mask = c->stack32 ? 0xffffffff : 0xffff, sp = stack_get(c);

	for (unsigned r = RAX; r <= RDI; r++) {
		sp = (sp - i->opsize) & mask;
		guest_st(c, seg_linear(c, SS, sp, i->opsize, true), c->gpr[r], i->opsize);
	}
	stack_set(c, sp);
}

/* The registers that were read before a fault keep their new values, as on the CPUs; RSP then has its old
 * one. */
static void op_popa(struct engine_cpu *c, const struct insn *i)
{
	for (unsigned k = 0; k < 8; k++) {
		uint64_t v = stack_peek(c, k * i->opsize, i->opsize);

		if (k != 7 - RSP)
			reg_set(c, (7 - k) * 8, v, i->opsize);
	}
	stack_set(c, stack_get(c) + 8 * i->opsize);
}

/* -- Flags (SDM 2B POPF, PUSHF; 3B 20.3 for virtual-8086 mode) -- */

static unsigned iopl(const struct engine_cpu *c)
{
	return c->rflags >> 12 & 3;
}

/* Virtual-8086 mode below IOPL 3: 16-bit operands go by VIF if CR4.VME says so, all else is #GP. */
static bool v86_virtual_if(struct engine_cpu *c, const struct insn *i)
{
	if (!c->v86 || iopl(c) == 3)
		return false;
	if (!(c->cr4 & CR4_VME) || i->opsize != 2)
		engine_raise_err(c, EXC_GP, 0);
	return true;
}

static void op_pushf(struct engine_cpu *c, const struct insn *i)
{
	uint64_t image = c->rflags & ~(FLAG_VM | FLAG_RF);

	if (v86_virtual_if(c, i)) {
		image = (image & ~FLAG_IF) | FLAG_IOPL;
		if (c->rflags & FLAG_VIF)
			image |= FLAG_IF;
	}
	stack_push(c, image, i->opsize);
}

static void op_popf(struct engine_cpu *c, const struct insn *i)
{
	uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT, clear = 0, image, set = 0;
	bool virtual_if = v86_virtual_if(c, i);

	image = stack_peek(c, 0, i->opsize);
	if (i->opsize > 2) {
		mask |= FLAG_AC | FLAG_ID;
		clear = FLAG_RF;
	}
	if (virtual_if) {
		if ((image & FLAG_TF) || ((image & FLAG_IF) && (c->rflags & FLAG_VIP)))
			engine_raise_err(c, EXC_GP, 0);
		clear |= FLAG_VIF;
		set = image & FLAG_IF ? FLAG_VIF : 0;
	} else if (c->cpl <= iopl(c)) {
		mask |= FLAG_IF;
	}
	if (c->cpl == 0)
		mask |= FLAG_IOPL;
	stack_set(c, stack_get(c) + i->opsize);
	rflags_set(c, (c->rflags & ~(mask | clear)) | (image & mask) | set);
}

/* -- Frames -- */

static void op_leave64(struct engine_cpu *c, const struct insn *i)
{
	uint64_t bp = c->gpr[RBP], v = mem_ld64(c, &insn_ss, bp);

	c->gpr[RSP] = bp + 8;
	c->gpr[RBP] = v;
}

static void op_leave(struct engine_cpu *c, const struct insn *i)
{
	uint64_t mask = c->code64 ? ~0ULL : c->stack32 ? 0xffffffff : 0xffff;
	uint64_t bp = c->gpr[RBP] & mask;
	uint64_t v = guest_ld(c, seg_linear(c, SS, bp, i->opsize, false), i->opsize);

	stack_set(c, bp + i->opsize);
	reg_set(c, RBP * 8, v, i->opsize);
}

static void store_below(struct engine_cpu *c, uint64_t *sp, uint64_t mask, uint64_t val, unsigned size)
{
	*sp = (*sp - size) & mask;
	guest_st(c, seg_linear(c, SS, *sp, size, true), val, size);
}

/* imm = bytes to reserve, op = nesting level. Registers change after the last store. */
static void op_enter(struct engine_cpu *c, const struct insn *i)
{
	uint64_t mask = c->code64 ? ~0ULL : c->stack32 ? 0xffffffff : 0xffff;
	uint64_t sp = stack_get(c), bp = c->gpr[RBP], frame, top;
	unsigned level = i->op & 31, size = i->opsize;

	store_below(c, &sp, mask, bp, size);
	frame = mask == 0xffff ? (uint32_t)(c->gpr[RSP] - size)
			       : sp; /* as the host: a borrow reaches the upper half */
	for (unsigned k = 1; k < level; k++) {
		bp = (bp - size) & mask;
		store_below(c, &sp, mask, guest_ld(c, seg_linear(c, SS, bp, size, false), size), size);
	}
	if (level)
		store_below(c, &sp, mask, frame, size);
	sp = (sp - i->imm) & mask;
	top = seg_linear(c, SS, sp, size, true);
	access_align(c, top, size);
	guest_probe(c, top, size, true);
	stack_set(c, sp);
	reg_set(c, RBP * 8, frame, size);
}

/* -- Selection -- */

static insn_fn pick_push(struct insn *i, const struct insn_decoded *d)
{
	const ZydisDecodedOperand *o = &d->op[0];

	if (is_mem(o))
		return op_push_m;
	if (is_imm(o))
		return i->opsize == 8 ? op_push64_i : op_push_i;
	if (is_gpr(o))
		return i->opsize == 8 ? op_push64_r : op_push_r;
	return NULL; /* a segment register: sysseg.c */
}

static insn_fn pick_pop(struct insn *i, const struct insn_decoded *d)
{
	const ZydisDecodedOperand *o = &d->op[0];

	if (is_mem(o))
		return op_pop_m;
	if (is_gpr(o))
		return i->opsize == 8 ? op_pop64_r : op_pop_r;
	return NULL;
}

insn_fn stack_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: return pick_push(i, d);
	case ZYDIS_MNEMONIC_POP: return pick_pop(i, d);
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD: return op_pusha;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD: return op_popa;
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ: return op_pushf;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ: return op_popf;
	case ZYDIS_MNEMONIC_ENTER: return op_enter;
	case ZYDIS_MNEMONIC_LEAVE: return i->opsize == 8 ? op_leave64 : op_leave;
	default: return NULL;
	}
}
