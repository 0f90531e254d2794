/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Code that is not 64-bit, which the host executes in 64-bit mode all the same. What it means is kept by four rules:
 *
 *	- an instruction is copied only if the host's decoder sees in the copy what the guest's saw (jit_mode_same);
 *	  opcodes that mean something else there are spelt otherwise first, and in 16-bit code prefix 66 is turned round
 *	- an offset is computed with 32 bits, or cut to 16; an address is cut to 32 bits
 *	- flat 32-bit data segments (by the block's key) are not looked at; other segments are, at each access: their base,
 *	  limit and type are what struct engine_cpu says at that time
 *	- CS has the limit that its mode can use at most, and a block ends before its IPs or addresses do
 */
#include "engine/jit_emit.h"

/* -- The trace's questions -- */

static bool is_default(const ZydisDecodedInstruction *in)
{
	return in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	       in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
}

static void has_modrm(ZydisDecodedInstruction *in, unsigned op, unsigned mod, unsigned reg, unsigned rm)
{
	in->opcode = (ZyanU8)op;
	in->attributes |= ZYDIS_ATTRIB_HAS_MODRM;
	in->raw.modrm.mod = (ZyanU8)mod;
	in->raw.modrm.reg = (ZyanU8)reg;
	in->raw.modrm.rm = (ZyanU8)rm;
}

void jit_mode_respell(struct insn_decoded *d)
{
	ZydisDecodedInstruction *in = &d->in;
	unsigned op = in->opcode;

	if (!is_default(in))
		return;
	if ((op & 0xf0) == 0x40) { /* INC, DEC; here REX */
		has_modrm(in, 0xff, 3, op >> 3 & 1, op & 7);
		d->op[0].encoding = ZYDIS_OPERAND_ENCODING_MODRM_RM;
	} else if (op >= 0xa0 && op <= 0xa3) { /* MOV with an offset, of 64 bits here */
		has_modrm(in, 0x8a - (op & 2) + (op & 1), 0, 0, 5);
		for (unsigned k = 0; k < 2; k++)
			d->op[k].encoding = d->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY
						? ZYDIS_OPERAND_ENCODING_MODRM_RM
						: ZYDIS_OPERAND_ENCODING_MODRM_REG;
	} else if (op == 0x82) { /* once more 80 */
		in->opcode = 0x80;
	}
}

static uint64_t ip_of(const struct trace *t, uint64_t lin)
{
	return (uint32_t)(lin - t->base);
}

bool jit_mode_fits(const struct trace *t, const struct trace_insn *i)
{
	return ip_of(t, i->rip) + i->d.in.length <= jit_last_ip(t->key) && i->next <= UINT32_MAX;
}

uint64_t jit_mode_target(const struct trace *t, const struct trace_insn *i)
{
	uint32_t ip = (uint32_t)(ip_of(t, i->next) + i->d.op[0].imm.value.u);

	if (i->d.in.operand_width == 16)
		ip = (uint16_t)ip;
	return ip <= jit_last_ip(t->key) ? (uint32_t)(t->base + ip) : TRACE_ASTRAY;
}

void jit_mode_segment(unsigned key, unsigned seg, struct address *a)
{
	if (key & JIT_KEY_FLAT && (seg == DS || seg == ES || seg == SS))
		return;
	a->seg = CPU_OFF(seg) + seg * (uint32_t)sizeof(struct engine_seg) +
		 (uint32_t)offsetof(struct engine_seg, base);
	a->check = (uint8_t)(seg + 1);
}

struct address jit_mode_stack(unsigned key, int base, int32_t disp)
{
	struct address a = {
	    .base = base, .index = -1, .disp = disp, .width = key & JIT_KEY_STACK32 ? 32 : 16};

	jit_mode_segment(key, SS, &a);
	return a;
}

bool jit_mode_unknown(const struct trace_insn *i)
{
	switch (i->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
	case ZYDIS_MNEMONIC_ENTER: return true;
	default: return false;
	}
}

/* -- Copies -- */

/* The copy's bytes, its operands where nothing is renamed. */
static unsigned spell(struct making *m, uint8_t *buf, unsigned size)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	struct place_of at = m->at;
	struct emit e = m->e;
	int rm = in->raw.modrm.rm, opc = -1;
	unsigned n;

	for (unsigned k = 0; k < in->operand_count; k++) {
		if (m->d.op[k].encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
			opc = in->opcode & 7;
		if (m->d.op[k].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    m->d.op[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			rm = -1;
	}
	m->e = (struct emit){.j = m->j, .p = buf, .end = buf + size};
	m->at = (struct place_of){H_R14, H_R15, 0};
	jit_emit_copy(m, in->raw.modrm.reg, rm, opc, (unsigned)~in->raw.vex.vvvv & 7);
	n = m->e.full ? 0 : (unsigned)(m->e.p - buf);
	m->e = e;
	m->at = at;
	return n;
}

static bool is_flags(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_FLAGS;
}

/* A register that no renaming touches: implicit, or named by an immediate, of which 64-bit mode uses one bit more. */
static bool is_fixed(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && !is_flags(o) &&
	       o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG &&
	       o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM && o->encoding != ZYDIS_OPERAND_ENCODING_OPCODE;
}

static bool means_the_same(struct making *m)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	struct insn_decoded h;
	uint8_t buf[32];
	unsigned n = spell(m, buf, sizeof(buf));

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decode_host(), buf, n, &h.in, h.op)) || h.in.length != n ||
	    h.in.mnemonic != in->mnemonic || h.in.operand_count != in->operand_count)
		return false;
	for (unsigned k = 0; k < in->operand_count; k++) {
		const ZydisDecodedOperand *a = &m->d.op[k], *b = &h.op[k];

		if (a->type != b->type || a->actions != b->actions ||
		    (!is_flags(a) && (a->size != b->size || a->element_count != b->element_count)))
			return false;
		if ((a->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && a->imm.value.u != b->imm.value.u) ||
		    (is_fixed(a) && a->reg.value != b->reg.value))
			return false;
	}
	return true;
}

/* Leaves out prefixes 66 that say how long operands are. */
static void drop_operand_size(ZydisDecodedInstruction *in)
{
	unsigned n = 0;

	for (unsigned k = 0; k < in->raw.prefix_count; k++)
		if (in->raw.prefixes[k].value != 0x66 ||
		    in->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			in->raw.prefixes[n++] = in->raw.prefixes[k];
	in->raw.prefix_count = (ZyanU8)n;
}

bool jit_mode_same(struct making *m)
{
	ZydisDecodedInstruction *in = &m->d.in;

	if ((m->b->key & JIT_KEY_MODE) == JIT_MODE_32)
		return means_the_same(m);
	drop_operand_size(in);
	if (means_the_same(m))
		return true;
	if (in->attributes & (ZYDIS_ATTRIB_HAS_VEX | ZYDIS_ATTRIB_HAS_EVEX))
		return false;
	in->raw.prefixes[in->raw.prefix_count++].value = 0x66;
	return means_the_same(m);
}

/* -- The stack -- */

static struct jit_site *stack_access(struct making *m, enum jit_site_kind kind, int32_t disp, unsigned size)
{
	struct address a = jit_mode_stack(m->b->key, RSP, disp);

	return jit_access(m, &a, kind, size);
}

/* The stack pointer, as wide as it is, becomes the register's value plus disp. */
static void set_stack(struct making *m, unsigned from, int32_t disp)
{
	e_lea_full(&m->e, false, !(m->b->key & JIT_KEY_STACK32), H_GUEST_RSP, (int)from, -1, 0, disp);
}

void jit_mode_move_stack(struct making *m, int32_t change)
{
	set_stack(m, H_GUEST_RSP, change);
}

static void stack_done(struct making *m, struct jit_site *s, int change)
{
	s->end = e_here(&m->e);
	jit_mode_move_stack(m, change);
}

/* mov between registers of 2 or 4 bytes: a part, or all of it with zeros above. */
static void set_register(struct making *m, unsigned to, unsigned from, unsigned size)
{
	if (size == 2)
		e8(&m->e, 0x66);
	e_rr(&m->e, OP_MOV_STORE, false, from, to);
}

void jit_mode_push_tmp(struct making *m)
{
	unsigned size = m->d.in.operand_width / 8;
	struct jit_site *s = stack_access(m, SITE_WRITE, -(int)size, size);

	e_gs(&m->e, OP_MOV_LOAD, true, H_RCX, JIT_OFF(tmp));
	e_store_size(&m->e, H_RCX, &m->at, size);
	stack_done(m, s, -(int)size);
}

static bool op_push_memory(struct making *m, unsigned size)
{
	struct jit_site *s;
	struct address a;

	if (!trace_address(m->i, &m->d.op[0], &a))
		return false;
	s = jit_access(m, &a, SITE_READ, size);
	e_load_size(&m->e, H_RCX, &m->at, size);
	s->end = e_here(&m->e);
	e_gs(&m->e, OP_MOV_STORE, true, H_RCX, JIT_OFF(tmp));
	jit_mode_push_tmp(m);
	return true;
}

static bool op_push(struct making *m, unsigned size)
{
	const ZydisDecodedOperand *o = &m->d.op[0];
	int n = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? decode_gpr_number(o->reg.value) : -1;
	struct jit_site *s;

	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return op_push_memory(m, size);
	if (n < 0 && o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return false;
	s = stack_access(m, SITE_WRITE, -(int)size, size);
	if (n < 0)
		e_mov_imm(&m->e, H_RCX, (uint32_t)o->imm.value.u);
	e_store_size(&m->e, n < 0 ? H_RCX : (unsigned)jit_host_of(n), &m->at, size);
	stack_done(m, s, -(int)size);
	return true;
}

static bool op_pop(struct making *m, unsigned size)
{
	const ZydisDecodedOperand *o = &m->d.op[0];
	int n = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? decode_gpr_number(o->reg.value) : -1;
	struct jit_site *s;

	if (n < 0 || (n == RSP && size == 2))
		return false;
	s = stack_access(m, SITE_READ, 0, size);
	e_load_size(&m->e, H_RCX, &m->at, size);
	stack_done(m, s, (int)size);
	set_register(m, (unsigned)jit_host_of(n), H_RCX, size);
	return true;
}

static bool op_leave(struct making *m, unsigned size)
{
	struct address a = jit_mode_stack(m->b->key, RBP, 0);
	struct jit_site *s = jit_access(m, &a, SITE_READ, size);

	e_load_size(&m->e, H_RCX, &m->at, size);
	s->end = e_here(&m->e);
	set_stack(m, H_RBP, (int)size);
	set_register(m, H_RBP, H_RCX, size);
	return true;
}

static bool op_ret(struct making *m, unsigned size)
{
	struct jit_site *s;

	if (!trace_is_near_ret(m->i))
		return false;
	jit_count(m);
	s = stack_access(m, SITE_READ, 0, size);
	e_load_size(&m->e, H_R14, &m->at, size);
	s->end = e_here(&m->e);
	jit_go_to_r14(m);
	return true;
}

bool jit_mode_stack_op(struct making *m)
{
	unsigned size = m->d.in.operand_width / 8;

	if (size != 2 && size != 4)
		return false;
	switch (m->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH: return op_push(m, size);
	case ZYDIS_MNEMONIC_POP: return op_pop(m, size);
	case ZYDIS_MNEMONIC_LEAVE: return op_leave(m, size);
	case ZYDIS_MNEMONIC_RET: return op_ret(m, size);
	default: return false;
	}
}

/* -- Branches -- */

void jit_mode_push_return(struct making *m)
{
	unsigned size = m->d.in.operand_width / 8;
	struct jit_site *s = stack_access(m, SITE_WRITE, -(int)size, size);

	e_mov_imm(&m->e, H_RCX, ip_of(m->t, m->next));
	e_store_size(&m->e, H_RCX, &m->at, size);
	stack_done(m, s, -(int)size);
}

bool jit_mode_indirect(struct making *m)
{
	const ZydisDecodedOperand *o = &m->d.op[0];
	unsigned size = m->d.in.operand_width / 8;
	struct jit_site *s;
	struct address a;

	if (m->d.in.opcode != 0xff || (size != 2 && size != 4))
		return false;
	if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (!trace_address(m->i, o, &a))
			return false;
		jit_count(m);
		s = jit_access(m, &a, SITE_READ, size);
		e_load_size(&m->e, H_R14, &m->at, size);
		s->end = e_here(&m->e);
	} else {
		jit_count(m);
		e_rr(&m->e, size == 2 ? OP_MOVZX16 : OP_MOV_LOAD, false, H_R14,
		     (unsigned)jit_host_of(decode_gpr_number(o->reg.value)));
	}
	jit_go_to_r14(m);
	return true;
}
