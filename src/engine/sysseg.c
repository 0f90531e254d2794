/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Instructions on segment registers and descriptor tables. */
#include "engine/system.h"

static _Noreturn void gp0(struct engine_cpu *c)
{
	engine_raise_err(c, EXC_GP, 0);
}

/* Instructions that only protected mode knows. */
static void require_protected(struct engine_cpu *c)
{
	if (c->real || c->v86)
		engine_raise(c, EXC_UD);
}

static void check_umip(struct engine_cpu *c)
{
	if (c->cpl && (c->cr4 & CR4_UMIP))
		gp0(c);
}

static uint16_t rm16(struct engine_cpu *c, const struct insn *i)
{
	return i->mem ? guest_ld(c, insn_ea(c, i, 2, false), 2) : c->gpr[i->rm];
}

/* A selector to a register (zero-extended) or to two bytes of memory. */
static void put_rm16(struct engine_cpu *c, const struct insn *i, uint16_t val)
{
	if (i->mem)
		guest_st(c, insn_ea(c, i, 2, true), val, 2);
	else
		gpr_write(c, i->rm, val, i->opsize);
}

/* -- Tables -- */

static void load_table(struct engine_cpu *c, const struct insn *i, uint64_t *base, uint16_t *limit)
{
	unsigned width = c->code64 ? 8 : 4;
	uint64_t ea, b;
	uint16_t l;

	require_cpl0(c);
	ea = insn_ea(c, i, 2 + width, false);
	l = guest_ld(c, ea, 2);
	b = guest_ld(c, c->code64 ? ea + 2 : (uint32_t)(ea + 2), width);
	if (c->code64 && !control_is_canonical(c, b))
		gp0(c);
	if (!c->code64 && i->opsize == 2)
		b &= 0xffffff;
	*base = b;
	*limit = l;
}

static void store_table(struct engine_cpu *c, const struct insn *i, uint64_t base, uint16_t limit)
{
	unsigned width = c->code64 ? 8 : 4;
	uint8_t image[10];

	check_umip(c);
	memcpy(image, &limit, 2);
	memcpy(image + 2, &base, 8);
	guest_write(c, insn_ea(c, i, 2 + width, true), image, 2 + width);
}

static void op_lgdt(struct engine_cpu *c, const struct insn *i)
{
	load_table(c, i, &c->gdt.base, &c->gdt.limit);
}

static void op_lidt(struct engine_cpu *c, const struct insn *i)
{
	load_table(c, i, &c->idt.base, &c->idt.limit);
}

static void op_sgdt(struct engine_cpu *c, const struct insn *i)
{
	store_table(c, i, c->gdt.base, c->gdt.limit);
}

static void op_sidt(struct engine_cpu *c, const struct insn *i)
{
	store_table(c, i, c->idt.base, c->idt.limit);
}

static void op_lldt(struct engine_cpu *c, const struct insn *i)
{
	require_protected(c);
	require_cpl0(c);
	seg_load_ldt(c, rm16(c, i));
}

static void op_ltr(struct engine_cpu *c, const struct insn *i)
{
	require_protected(c);
	require_cpl0(c);
	seg_load_tr(c, rm16(c, i));
}

static void op_sldt(struct engine_cpu *c, const struct insn *i)
{
	require_protected(c);
	check_umip(c);
	put_rm16(c, i, c->seg[LDTR].sel);
}

static void op_str(struct engine_cpu *c, const struct insn *i)
{
	require_protected(c);
	check_umip(c);
	put_rm16(c, i, c->seg[TR].sel);
}

/* -- Looking at descriptors -- */

static void set_zf(struct engine_cpu *c, bool zf)
{
	c->rflags = (c->rflags & ~FLAG_ZF) | (zf ? FLAG_ZF : 0);
}

static void op_lar(struct engine_cpu *c, const struct insn *i)
{
	uint32_t val;
	bool ok;

	require_protected(c);
	ok = seg_lar(c, rm16(c, i), &val);
	if (ok)
		gpr_write(c, i->reg, val, i->opsize);
	set_zf(c, ok);
}

static void op_lsl(struct engine_cpu *c, const struct insn *i)
{
	uint32_t val;
	bool ok;

	require_protected(c);
	ok = seg_lsl(c, rm16(c, i), &val);
	if (ok)
		gpr_write(c, i->reg, val, i->opsize);
	set_zf(c, ok);
}

static void op_verr(struct engine_cpu *c, const struct insn *i)
{
	require_protected(c);
	set_zf(c, seg_verify(c, rm16(c, i), i->op));
}

static void op_arpl(struct engine_cpu *c, const struct insn *i)
{
	uint16_t dst, src;

	require_protected(c);
	dst = rm16(c, i);
	src = c->gpr[i->reg];
	if ((dst & 3) >= (src & 3)) {
		set_zf(c, false);
		return;
	}
	dst = (dst & ~3) | (src & 3);
	if (i->mem)
		guest_st(c, insn_ea(c, i, 2, true), dst, 2);
	else
		gpr_write(c, i->rm, dst, 2);
	set_zf(c, true);
}

/* -- Segment registers: i->op is the segment -- */

/* A load of SS holds interrupts and debug traps off for one more instruction. */
static void load_shadowed(struct engine_cpu *c, enum seg s, uint16_t sel)
{
	seg_load(c, s, sel);
	if (s == SS)
		engine_set_shadow(c, ENGINE_SHADOW_MOVSS);
}

static void op_mov_to_seg(struct engine_cpu *c, const struct insn *i)
{
	if (i->op == CS)
		engine_raise(c, EXC_UD);
	load_shadowed(c, i->op, rm16(c, i));
}

static void op_mov_from_seg(struct engine_cpu *c, const struct insn *i)
{
	put_rm16(c, i, c->seg[i->op].sel);
}

/* With 32-bit operands CPUs store two bytes into the four that are pushed. */
static void op_push_seg(struct engine_cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t sp;

	if (size != 4) {
		stack_push(c, c->seg[i->op].sel, size);
		return;
	}
	sp = (stack_get(c) - 4) & (c->stack32 || c->code64 ? ~0ULL : 0xffff);
	if (!c->code64 && c->stack32)
		sp = (uint32_t)sp;
	guest_st(c, seg_linear(c, SS, sp, 2, true), c->seg[i->op].sel, 2);
	stack_set(c, sp);
}

/* The stack pointer moves by the width that the stack had before. */
static void op_pop_seg(struct engine_cpu *c, const struct insn *i)
{
	uint16_t sel = stack_peek(c, 0, 2); /* whatever the operand size */
	bool wide = c->code64 || c->stack32;
	uint64_t sp = stack_get(c) + i->opsize;

	load_shadowed(c, i->op, sel);
	if (c->code64)
		c->gpr[RSP] = sp;
	else if (wide)
		c->gpr[RSP] = (uint32_t)sp;
	else
		c->gpr[RSP] = (c->gpr[RSP] & ~0xffffULL) | (sp & 0xffff);
}

/* LDS, LES, LSS, LFS, LGS */
static void op_load_far(struct engine_cpu *c, const struct insn *i)
{
	uint64_t off = guest_ld(c, insn_part(c, i, 0, i->opsize, false), i->opsize);

	seg_load(c, i->op, (uint16_t)guest_ld(c, insn_part(c, i, i->opsize, 2, false), 2));
	gpr_write(c, i->reg, off, i->opsize);
}

/* -- Selection -- */

static insn_fn with_seg(struct insn *i, enum seg s, insn_fn fn)
{
	i->op = s;
	return fn;
}

static bool seg_operand(const ZydisDecodedOperand *o, enum seg *s)
{
	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    ZydisRegisterGetClass(o->reg.value) != ZYDIS_REGCLASS_SEGMENT)
		return false;
	*s = o->reg.value - ZYDIS_REGISTER_ES;
	return true;
}

static insn_fn select_moves(struct insn *i, const struct insn_decoded *d)
{
	enum seg s;

	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (seg_operand(&d->op[0], &s))
			return with_seg(i, s, op_mov_to_seg);
		if (seg_operand(&d->op[1], &s)) {
			if (!i->mem)
				i->opsize = d->op[0].size / 8;
			return with_seg(i, s, op_mov_from_seg);
		}
		return NULL;
	case ZYDIS_MNEMONIC_PUSH: return seg_operand(&d->op[0], &s) ? with_seg(i, s, op_push_seg) : NULL;
	case ZYDIS_MNEMONIC_POP: return seg_operand(&d->op[0], &s) ? with_seg(i, s, op_pop_seg) : NULL;
	case ZYDIS_MNEMONIC_LES: return with_seg(i, ES, op_load_far);
	case ZYDIS_MNEMONIC_LDS: return with_seg(i, DS, op_load_far);
	case ZYDIS_MNEMONIC_LSS: return with_seg(i, SS, op_load_far);
	case ZYDIS_MNEMONIC_LFS: return with_seg(i, FS, op_load_far);
	case ZYDIS_MNEMONIC_LGS: return with_seg(i, GS, op_load_far);
	default: return NULL;
	}
}

insn_fn sysseg_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_LGDT: return op_lgdt;
	case ZYDIS_MNEMONIC_LIDT: return op_lidt;
	case ZYDIS_MNEMONIC_SGDT: return op_sgdt;
	case ZYDIS_MNEMONIC_SIDT: return op_sidt;
	case ZYDIS_MNEMONIC_LLDT: return op_lldt;
	case ZYDIS_MNEMONIC_SLDT: return op_sldt;
	case ZYDIS_MNEMONIC_LTR: return op_ltr;
	case ZYDIS_MNEMONIC_STR: return op_str;
	case ZYDIS_MNEMONIC_LAR: return op_lar;
	case ZYDIS_MNEMONIC_LSL: return op_lsl;
	case ZYDIS_MNEMONIC_VERR: i->op = false; return op_verr;
	case ZYDIS_MNEMONIC_VERW: i->op = true; return op_verr;
	case ZYDIS_MNEMONIC_ARPL: return op_arpl;
	default: return select_moves(i, d);
	}
}
