/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Branches in generated code. One that the path follows costs a comparison at most (a return, or a target that an
 * instruction computed); another ends the block, by an exit that is patched or by the table of indirect targets.
 */
#include "engine/jit_emit.h"

/* r14 = the block that the table of indirect targets has for the IP there; else to the site's slow stub. */
static void look_up_target(struct making *m, const struct jit_site *s)
{
	uint32_t table = JIT_OFF(jump) + m->b->table * (uint32_t)sizeof(struct jit_jump);
	struct emit *e = &m->e;

	e_rr(e, OP_MOVZX16, false, H_R15, H_R14);
	if (m->b->base) {
		e_mov_imm(e, H_R15, (uint64_t)m->b->base << 32);
		e_lea_full(e, true, false, H_R14, H_R14, H_R15, 0, 0);
		e_lea(e, H_R15, H_R14, JIT_JUMP_BASE(m->b->base));
		e_rr(e, OP_MOVZX16, false, H_R15, H_R15);
	}
	e_lea_full(e, true, false, H_R15, H_R15, H_R15, 0, 0);
	e_gs_index(e, H_RCX, H_R15, table + (uint32_t)offsetof(struct jit_jump, at[0].not_rip));
	e_lea_full(e, true, false, H_RCX, H_RCX, H_R14, 0, 1);
	jit_need_zero(m, s);
	e_gs_index(e, H_R14, H_R15, table + (uint32_t)offsetof(struct jit_jump, at[0].entry));
}

static void jump_r14(struct making *m)
{
	e8(&m->e, 0x41);
	e8(&m->e, 0xff);
	e8(&m->e, 0xe0 | (H_R14 & 7));
}

/* Pushes the return address; then the block's exit follows. */
static void push_return(struct making *m)
{
	struct jit_site *s;

	if (m->b->key & JIT_KEY_MODE) {
		jit_mode_push_return(m);
		return;
	}
	s = jit_stack_access(m, SITE_WRITE, -8);
	e_mov_imm(&m->e, H_RCX, m->next);
	e_store(&m->e, H_RCX, &m->at);
	jit_stack_done(m, s, -8);
}

/* What a RET takes from the stack. */
static void pop_return(struct making *m)
{
	int32_t size =
	    m->d.in.operand_width / 8 + (m->d.in.opcode == 0xc2 ? (int32_t)m->d.op[0].imm.value.u : 0);

	if (m->b->key & JIT_KEY_MODE)
		jit_mode_move_stack(m, size);
	else
		e_lea(&m->e, H_GUEST_RSP, H_GUEST_RSP, size);
}

/* Nothing of the branch is done yet, so from the site the interpreter executes all of it. */
void jit_astray(struct making *m)
{
	look_up_target(m, jit_site_new(m, SITE_CALL, 0));
	if (m->d.in.meta.category == ZYDIS_CATEGORY_CALL) {
		e_gs(&m->e, OP_MOV_STORE, true, H_R14, JIT_OFF(tmp));
		push_return(m);
		e_jmp_gs(&m->e, JIT_OFF(tmp));
		return;
	}
	if (m->d.in.meta.category == ZYDIS_CATEGORY_RET)
		pop_return(m);
	jump_r14(m);
}

/* rcx 0: r14 is what the path goes on with. */
static void compare_expected(struct making *m)
{
	uint64_t minus = m->b->base - m->i->target;

	if (m->b->key & JIT_KEY_MODE)
		minus = -(uint64_t)(uint32_t)-minus;
	if (minus == (uint64_t)(int32_t)minus) {
		e_lea(&m->e, H_RCX, H_R14, (int32_t)minus);
	} else {
		e_mov_imm(&m->e, H_RCX, minus);
		e_lea_full(&m->e, true, false, H_RCX, H_RCX, H_R14, 0, 0);
	}
}

void jit_go_to_r14(struct making *m)
{
	if (m->i->way == WAY_END) {
		jit_astray(m);
		m->ends = true;
		return;
	}
	compare_expected(m);
	if (m->i->way == WAY_BACK)
		jit_need_zero(m, jit_site_new(m, SITE_CALL, 0));
	else
		jit_need_expected(m);
	if (m->d.in.meta.category == ZYDIS_CATEGORY_CALL)
		push_return(m);
	else if (m->d.in.meta.category == ZYDIS_CATEGORY_RET)
		pop_return(m);
}

bool jit_return(struct making *m)
{
	struct jit_site *s;

	if (m->d.in.operand_width != 64 || !trace_is_near_ret(m->i))
		return false;
	jit_count(m);
	s = jit_stack_access(m, SITE_READ, 0);
	e_load(&m->e, H_R14, &m->at);
	s->end = e_here(&m->e);
	jit_go_to_r14(m);
	return true;
}

/* JMP and CALL through a register or memory. */
static bool op_indirect(struct making *m)
{
	const ZydisDecodedOperand *o = &m->d.op[0];
	struct jit_site *s;
	struct address a;

	if (m->d.in.operand_width != 64 || m->d.in.opcode != 0xff)
		return false;
	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (!trace_address(m->i, o, &a))
			return false;
		jit_count(m);
		s = jit_access(m, &a, SITE_READ, 8);
		e_load(&m->e, H_R14, &m->at);
		s->end = e_here(&m->e);
	} else {
		unsigned r;

		jit_count(m);
		r = jit_reg_in(m, decode_gpr_number(o->reg.value), H_R14);
		if (r != H_R14)
			e_rr(&m->e, OP_MOV_STORE, true, r, H_R14);
	}
	jit_go_to_r14(m);
	return true;
}

/* A condition: out of the block on the side that is not expected. */
static void op_jcc(struct making *m, unsigned cc, uint64_t target)
{
	if (m->i->way == WAY_TAKEN)
		jit_exit_if(m, cc ^ 1, m->next);
	else
		jit_exit_if(m, cc, target);
}

/* Of LOOP and JCXZ: rcx = the counter, which has the address's size. */
static void counter(struct making *m)
{
	if (m->d.in.address_width == 16)
		e_rr(&m->e, OP_MOVZX16, false, H_RCX, H_GUEST_RCX);
	else
		e_rr(&m->e, OP_MOV_LOAD, m->d.in.address_width == 64, H_RCX, H_GUEST_RCX);
}

static bool op_loop(struct making *m)
{
	bool loop = m->d.in.mnemonic == ZYDIS_MNEMONIC_LOOP;
	unsigned width = m->d.in.address_width;

	jit_count(m);
	if (loop)
		e_lea_full(&m->e, width == 64, width == 16, H_GUEST_RCX, H_GUEST_RCX, -1, 0, -1);
	counter(m);
	if (!loop) {
		e_jrcxz(&m->e, 2);
		e8(&m->e, 0xeb); /* jmp over the exit */
		e8(&m->e, 5);
	} else {
		e_jrcxz(&m->e, 5);
	}
	jit_exit_to(m, m->i->target);
	return true;
}

bool jit_branch(struct making *m)
{
	const ZydisDecodedOperand *o = &m->d.op[0];
	bool relative = o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative;
	uint64_t target = m->i->target;
	unsigned op = m->d.in.opcode;

	if (m->d.in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || (relative && !is_canonical(target)))
		return false;
	if (!relative && m->b->key & JIT_KEY_MODE)
		return jit_mode_indirect(m);
	if (!relative)
		return op_indirect(m);
	if (trace_is_jcc(m->i)) {
		jit_count(m);
		op_jcc(m, op & 15, target);
		return true;
	}
	if (op == 0xe2 || op == 0xe3)
		return op_loop(m);
	if (op != 0xe9 && op != 0xeb && op != 0xe8)
		return false;
	jit_count(m);
	if (op == 0xe8)
		push_return(m);
	if (m->i->way == WAY_END) {
		jit_exit_to(m, target);
		m->ends = true;
	}
	return true;
}
