/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instructions whose operands are not what a copy can rename.
 *
 * BT, BTS, BTR, BTC of memory by a register: the register is a signed index into a string of bits. The word that holds the
 * bit is looked up like any operand; its distance waits in jit->tmp, which stands in for the segment's base. Then the
 * instruction is copied with the bit's number in that word as its index, so the host reaches nowhere else either.
 */
#include "engine/jit_emit.h"

/* jit->tmp = distance of the word from the operand's address, with the segment's base in it. */
static void emit_distance(struct making *m, int index, unsigned log, uint32_t seg)
{
	unsigned r = jit_reg_in(m, index, H_R15);
	struct emit *e = &m->e;

	if (log < 3)
		e_rr(e, log == 2 ? 0x63 : 0x0fbf, true, H_R15, r); /* movsxd, movsx */
	e_mov_imm(e, H_R14, log + 3);
	e_sarx(e, H_R15, log < 3 ? H_R15 : r, H_R14);
	if (seg)
		e_gs(e, OP_MOV_LOAD, true, H_R14, seg);
	e_lea_full(e, true, false, H_R15, seg ? H_R14 : -1, H_R15, log, 0);
	e_gs(e, OP_MOV_STORE, true, H_R15, JIT_OFF(tmp));
}

bool jit_bit_string(struct making *m)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	const ZydisDecodedOperand *mem = &m->d.op[0], *reg = &m->d.op[1];
	unsigned size = mem->size / 8, log;
	struct jit_site *s;
	struct address a;
	int index;

	if (in->meta.category != ZYDIS_CATEGORY_BITBYTE || in->opcode_map != ZYDIS_OPCODE_MAP_0F ||
	    in->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 || mem->type != ZYDIS_OPERAND_TYPE_MEMORY ||
	    reg->type != ZYDIS_OPERAND_TYPE_REGISTER || !jit_plain_form(in) || !trace_address(m->i, mem, &a))
		return false;
	index = decode_gpr_number(reg->reg.value);
	log = (unsigned)__builtin_ctz(size);
	emit_distance(m, index, log, a.seg);
	a.seg = JIT_OFF(tmp);
	s = jit_access(m, &a, jit_writes(mem) ? SITE_WRITE : SITE_READ, size);
	e_pext(&m->e, H_RCX, jit_reg_in(m, index, H_RCX), JIT_OFF(mask_bit[0]) + 8 * (log - 1));
	jit_emit_copy(m, H_RCX, -1, -1, 0);
	s->end = e_here(&m->e);
	return true;
}

/* The other value is in RBX and RCX, so guest RCX goes to its own place for once. An address that is not aligned is the
 * interpreter's, who knows which fault comes first. */
bool jit_cmpxchg_pair(struct making *m)
{
	const ZydisDecodedOperand *mem = &m->d.op[0];
	struct jit_site *s;
	struct address a;

	if ((m->d.in.mnemonic != ZYDIS_MNEMONIC_CMPXCHG8B && m->d.in.mnemonic != ZYDIS_MNEMONIC_CMPXCHG16B) ||
	    m->b->key & JIT_KEY_MODE || !jit_plain_form(&m->d.in) || !trace_address(m->i, mem, &a))
		return false;
	m->aligned = mem->size / 8;
	s = jit_access(m, &a, SITE_WRITE, mem->size / 8);
	m->aligned = 0;
	s->plain = false;
	e_rr(&m->e, OP_MOV_STORE, true, H_GUEST_RCX, H_RCX);
	jit_emit_copy(m, m->d.in.raw.modrm.reg, -1, -1, 0);
	s->end = e_here(&m->e);
	return true;
}
