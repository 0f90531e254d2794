/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instructions of a kernel's everyday work. What they change lives in struct engine_cpu; the guest's arithmetic flags
 * stay in EFLAGS, so a bit is set by LEA, where it is known to be clear, and cleared by PEXT and PDEP.
 *
 * Only at CPL 0, by the block's key: elsewhere IOPL and others have a say, and the handlers know about that.
 */
#include "engine/jit_emit.h"

#define RFLAGS CPU_OFF(rflags)

static void load(struct making *m, unsigned reg, uint32_t off)
{
	e_gs(&m->e, OP_MOV_LOAD, true, reg, off);
}

static void store(struct making *m, unsigned reg, uint32_t off)
{
	e_gs(&m->e, OP_MOV_STORE, true, reg, off);
}

/* reg &= the constant at `mask` */
static void keep(struct making *m, unsigned reg, uint32_t mask)
{
	e_pext(&m->e, reg, reg, mask);
	e_pdep(&m->e, reg, reg, mask);
}

/* Adds to a word of the cpu; uses rcx. */
static void add_to(struct making *m, uint32_t off, int32_t by)
{
	load(m, H_RCX, off);
	e_lea(&m->e, H_RCX, H_RCX, by);
	store(m, H_RCX, off);
}

static bool op_cli(struct making *m)
{
	load(m, H_RCX, RFLAGS);
	keep(m, H_RCX, JIT_OFF(mask_not_if));
	store(m, H_RCX, RFLAGS);
	return true;
}

/*
 * Between STI and the instruction behind it there is no head, so nobody comes in; should that one need C, jit_slow looks
 * whether the shadow was opened. Nobody can have been waiting for IF: with a wanted window nothing is translated.
 */
static bool op_sti(struct making *m)
{
	uint8_t *over;

	if (m->index + 1 >= m->t->n)
		return false;
	load(m, H_RCX, RFLAGS);
	e_pext(&m->e, H_R14, H_RCX, JIT_OFF(mask_not_if));
	e_pdep(&m->e, H_R14, H_R14, JIT_OFF(mask_not_if));
	e_lea(&m->e, H_R14, H_R14, FLAG_IF);
	store(m, H_R14, RFLAGS);
	e_pext(&m->e, H_RCX, H_RCX, JIT_OFF(mask_if));
	e_mov_imm(&m->e, H_R14, 1);
	e_jrcxz(&m->e, 0);
	over = m->e.p - 1;
	e_mov_imm(&m->e, H_R14, 0);
	if (!m->e.full)
		*over = (uint8_t)(m->e.p - over - 1);
	store(m, H_R14, JIT_OFF(sti_opened));
	return true;
}

static bool op_swapgs(struct making *m)
{
	load(m, H_RCX, CPU_OFF(seg[GS].base));
	load(m, H_R14, CPU_OFF(kernel_gs_base));
	store(m, H_RCX, CPU_OFF(kernel_gs_base));
	store(m, H_R14, CPU_OFF(seg[GS].base));
	return true;
}

/* The class changes: on to a block with another key. */
static void change_class(struct making *m, int32_t ac, int by)
{
	add_to(m, RFLAGS, ac);
	add_to(m, CPU_OFF(tlb_key), by);
	jit_count(m);
	jit_exit_to_key(m, m->next, (unsigned)((int)m->b->key + by));
	m->ends = true;
}

/* SMAP works while this class is current, hence AC is clear. */
static bool op_stac(struct making *m)
{
	if (!(m->c->feat.cr4_allowed & CR4_SMAP) || (m->b->key & JIT_KEY_CLASS) != JIT_CLASS_SMAP)
		return false;
	change_class(m, FLAG_AC, JIT_CLASS_SUPER - JIT_CLASS_SMAP);
	return true;
}

static bool op_clac(struct making *m)
{
	struct jit_site *s;

	if (!(m->c->feat.cr4_allowed & CR4_SMAP))
		return false;
	if ((m->b->key & JIT_KEY_CLASS) == JIT_CLASS_SMAP)
		return true;
	/* Without SMAP the class says nothing about AC. */
	s = jit_site_new(m, SITE_CALL, 0);
	load(m, H_RCX, CPU_OFF(cr4));
	e_pext(&m->e, H_RCX, H_RCX, JIT_OFF(mask_smap));
	e_lea(&m->e, H_RCX, H_RCX, -1);
	e_jrcxz(&m->e, 5);
	jit_jump_slow(m, s, NULL, 0);
	change_class(m, -(int32_t)FLAG_AC, JIT_CLASS_SMAP - JIT_CLASS_SUPER);
	return true;
}

/* PUSHFQ, at any CPL: the arithmetic flags are the host's. */
static bool op_pushf(struct making *m)
{
	if (m->d.in.operand_width != 64)
		return false;
	e8(&m->e, 0x9c); /* pushfq */
	e8(&m->e, 0x59); /* pop rcx */
	keep(m, H_RCX, JIT_OFF(mask_arith));
	load(m, H_R14, RFLAGS);
	keep(m, H_R14, JIT_OFF(mask_not_arith));
	e_lea_full(&m->e, true, false, H_RCX, H_RCX, H_R14, 0, 0);
	store(m, H_RCX, JIT_OFF(tmp));
	jit_push_tmp(m);
	return true;
}

/* Does the same outside 64-bit mode, virtual-8086 mode included. */
static bool in_all_modes(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_CLI || m == ZYDIS_MNEMONIC_STI || m == ZYDIS_MNEMONIC_STAC ||
	       m == ZYDIS_MNEMONIC_CLAC;
}

bool jit_system_op(struct making *m)
{
	if (m->d.in.attributes & (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPNE))
		return false;
	if (m->b->key & JIT_KEY_MODE && !in_all_modes(m->d.in.mnemonic))
		return false;
	if (m->d.in.mnemonic == ZYDIS_MNEMONIC_PUSHFQ)
		return op_pushf(m);
	if (!(m->b->key & JIT_KEY_RING0))
		return false;
	switch (m->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_CLI: return op_cli(m);
	case ZYDIS_MNEMONIC_STI: return op_sti(m);
	case ZYDIS_MNEMONIC_SWAPGS: return op_swapgs(m);
	case ZYDIS_MNEMONIC_STAC: return op_stac(m);
	case ZYDIS_MNEMONIC_CLAC: return op_clac(m);
	default: return false;
	}
}
