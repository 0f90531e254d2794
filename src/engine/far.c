/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Far jumps, calls, returns and interrupt returns (SDM 3A 5.8; 2A JMP, CALL, RET, IRET). */
#include "engine/system.h"

static uint64_t opsize_mask(unsigned opsize, uint64_t val)
{
	return opsize == 8 ? val : opsize == 4 ? (uint32_t)val : (uint16_t)val;
}

/* -- Real and virtual-8086 mode -- */

static void commit_real_cs(struct engine_cpu *c, uint16_t sel, uint64_t rip)
{
	c->next_rip = rip;
	seg_set_real(c, CS, sel);
}

static void check_real_rip(struct engine_cpu *c, uint64_t off)
{
	if (off > (c->v86 ? 0xffff : c->seg[CS].limit))
		engine_raise_err(c, EXC_GP, 0);
}

/* -- Targets -- */

/* A code segment that a direct JMP or CALL (or a gate's selector) may enter without a change of level. */
static void check_code(struct engine_cpu *c, struct desc *d, uint16_t sel, bool direct)
{
	bool ok;

	if (desc_is_conforming(d))
		ok = desc_dpl(d) <= c->cpl;
	else
		ok = desc_dpl(d) == c->cpl && (!direct || (sel & 3) <= c->cpl);
	if (!ok || (c->long_mode && (desc_attr(d) & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB)))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (!desc_present(d))
		engine_raise_err(c, EXC_NP, sel_error(c, sel));
}

static void read_target(struct engine_cpu *c, uint16_t sel, struct desc *d)
{
	if (!(sel & 0xfffc))
		engine_raise_err(c, EXC_GP, 0);
	if (!desc_read(c, sel, d))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
}

struct call_gate {
	uint16_t sel;
	uint64_t off;
	unsigned params;
	unsigned size; /* of a pushed word */
	struct desc target;
};

/* The gate's own checks, then its code segment up to "is a code segment". */
static void read_call_gate(struct engine_cpu *c, uint16_t gate_sel, struct desc *d, struct call_gate *g)
{
	if (desc_dpl(d) < c->cpl || desc_dpl(d) < (gate_sel & 3))
		engine_raise_err(c, EXC_GP, sel_error(c, gate_sel));
	if (c->long_mode && !desc_read_high(c, gate_sel, d))
		engine_raise_err(c, EXC_GP, sel_error(c, gate_sel));
	if (!desc_present(d))
		engine_raise_err(c, EXC_NP, sel_error(c, gate_sel));
	g->sel = d->raw >> 16;
	g->off = (d->raw & 0xffff) | ((d->raw >> 32) & 0xffff0000) | d->high << 32;
	g->params = (d->raw >> 32) & 31;
	g->size = c->long_mode ? 8 : desc_type(d) & 8 ? 4 : 2;
	if (g->size == 2)
		g->off &= 0xffff;
	read_target(c, g->sel, &g->target);
	if (!desc_is_code(&g->target) || desc_dpl(&g->target) > c->cpl ||
	    (c->long_mode && (desc_attr(&g->target) & (SEG_L | SEG_DB)) != SEG_L))
		engine_raise_err(c, EXC_GP, sel_error(c, g->sel));
}

static void enter_same_level(struct engine_cpu *c, struct desc *d, uint16_t sel, uint64_t off)
{
	struct engine_seg cs;

	desc_set_accessed(c, d);
	desc_to_seg(d, sel, &cs);
	far_commit_cs(c, &cs, c->cpl, off);
}

/* A TSS or task gate as the target; false if the descriptor is neither (or the mode knows no tasks). */
static bool switch_task(struct engine_cpu *c, uint16_t sel, struct desc *d, enum task_source src)
{
	unsigned type = desc_type(d);
	bool gate = type == SYS_TASK;

	if (c->long_mode || (!gate && type != SYS_TSS16 && type != SYS_TSS32))
		return false;
	if (desc_dpl(d) < c->cpl || desc_dpl(d) < (sel & 3))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (gate && !desc_present(d))
		engine_raise_err(c, EXC_NP, sel_error(c, sel));
	task_switch_to(c, gate ? d->raw >> 16 : sel, src, false, 0);
	return true;
}

static bool is_call_gate(const struct engine_cpu *c, const struct desc *d)
{
	return desc_type(d) == SYS_CALL32 || (!c->long_mode && desc_type(d) == SYS_CALL16);
}

/* Outside 64-bit code an offset has 32 bits, whatever width it came in. */
static uint64_t target_off(const struct engine_cpu *c, const struct engine_seg *cs, uint64_t off)
{
	return c->long_mode && (cs->attr & SEG_L) ? off : (uint32_t)off;
}

/* -- JMP -- */

void far_jump(struct engine_cpu *c, uint16_t sel, uint64_t off, unsigned opsize)
{
	struct call_gate g;
	struct engine_seg cs;
	struct desc d;

	off = opsize_mask(opsize, off);
	if (c->real || c->v86) {
		check_real_rip(c, off);
		commit_real_cs(c, sel, off);
		return;
	}
	read_target(c, sel, &d);
	if (desc_is_seg(&d)) {
		if (!desc_is_code(&d))
			engine_raise_err(c, EXC_GP, sel_error(c, sel));
		check_code(c, &d, sel, true);
		desc_to_seg(&d, sel, &cs);
		off = target_off(c, &cs, off);
		far_check_rip(c, &cs, off, 0);
		enter_same_level(c, &d, sel, off);
	} else if (is_call_gate(c, &d)) {
		read_call_gate(c, sel, &d, &g);
		check_code(c, &g.target, g.sel, false);
		desc_to_seg(&g.target, g.sel, &cs);
		far_check_rip(c, &cs, g.off, 0);
		enter_same_level(c, &g.target, g.sel, g.off);
	} else if (!switch_task(c, sel, &d, TASK_JMP)) {
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	}
}

/* -- CALL -- */

/* Pushes the return address and enters a code segment of the same level. */
static void call_same_level(struct engine_cpu *c, struct desc *d, uint16_t sel, uint64_t off, unsigned size)
{
	struct far_stack st;
	struct engine_seg cs;

	desc_to_seg(d, sel, &cs);
	far_stack_current(c, &st, 0);
	if (c->long_mode)
		st.wide = cs.attr & SEG_L; /* the pushes are the target mode's */
	off = target_off(c, &cs, off);
	far_push(c, &st, c->seg[CS].sel, size);
	far_push(c, &st, c->next_rip, size);
	far_check_rip(c, &cs, off, 0);
	desc_set_accessed(c, d);
	far_stack_commit(c, &st, false);
	far_commit_cs(c, &cs, c->cpl, off);
}

/* A gate to a more privileged level: new stack, parameters copied. */
static void call_inner(struct engine_cpu *c, struct call_gate *g)
{
	unsigned dpl = desc_dpl(&g->target);
	struct far_stack old, st;
	struct engine_seg cs;
	uint64_t param[32];
	unsigned n = c->long_mode ? 0 : g->params;

	far_stack_inner(c, &st, dpl, 0);
	far_stack_current(c, &old, 0);
	for (unsigned k = 0; k < n; k++)
		param[k] = far_pop(c, &old, g->size);
	far_push(c, &st, c->seg[SS].sel, g->size);
	far_push(c, &st, c->gpr[RSP], g->size);
	while (n--)
		far_push(c, &st, param[n], g->size);
	far_push(c, &st, c->seg[CS].sel, g->size);
	far_push(c, &st, c->next_rip, g->size);
	desc_to_seg(&g->target, g->sel, &cs);
	far_check_rip(c, &cs, g->off, 0);
	desc_set_accessed(c, &g->target);
	cs.attr |= 1;
	far_stack_commit(c, &st, true);
	far_commit_cs(c, &cs, dpl, g->off);
}

static void call_gate(struct engine_cpu *c, uint16_t sel, struct desc *d)
{
	struct call_gate g;

	read_call_gate(c, sel, d, &g);
	if (!desc_present(&g.target))
		engine_raise_err(c, EXC_NP, sel_error(c, g.sel));
	if (!desc_is_conforming(&g.target) && desc_dpl(&g.target) < c->cpl)
		call_inner(c, &g);
	else
		call_same_level(c, &g.target, g.sel, g.off, g.size);
}

void far_call(struct engine_cpu *c, uint16_t sel, uint64_t off, unsigned opsize)
{
	struct far_stack st;
	struct desc d;

	off = opsize_mask(opsize, off);
	if (c->real || c->v86) {
		far_stack_current(c, &st, 0);
		far_push(c, &st, c->seg[CS].sel, opsize);
		far_push(c, &st, c->next_rip, opsize);
		check_real_rip(c, off);
		far_stack_commit(c, &st, false);
		commit_real_cs(c, sel, off);
		return;
	}
	read_target(c, sel, &d);
	if (desc_is_seg(&d)) {
		if (!desc_is_code(&d))
			engine_raise_err(c, EXC_GP, sel_error(c, sel));
		check_code(c, &d, sel, true);
		call_same_level(c, &d, sel, off, opsize);
	} else if (is_call_gate(c, &d)) {
		call_gate(c, sel, &d);
	} else if (!switch_task(c, sel, &d, TASK_CALL)) {
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	}
}

/* -- RET and the common end of IRET -- */

/* The code segment that a return goes to, at the level of its RPL. */
static void read_return_cs(struct engine_cpu *c, uint16_t sel, struct engine_seg *cs)
{
	struct desc d;
	unsigned rpl = sel & 3;

	read_target(c, sel, &d);
	if (!desc_is_code(&d) || rpl < c->cpl ||
	    (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl) ||
	    (c->long_mode && (desc_attr(&d) & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB)))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (!desc_present(&d))
		engine_raise_err(c, EXC_NP, sel_error(c, sel));
	desc_set_accessed(c, &d);
	desc_to_seg(&d, sel, cs);
}

/* The stack segment of a return to level cpl; 64-bit code outside of level 3 may have a null one. */
static void read_return_ss(struct engine_cpu *c, uint16_t sel, unsigned cpl, bool to64, struct engine_seg *ss)
{
	struct desc d;

	if (!(sel & 0xfffc)) {
		if (!to64 || cpl == 3 || (sel & 3) != cpl)
			engine_raise_err(c, EXC_GP, 0);
		seg_make_null(ss, sel);
		ss->attr = cpl << 5;
		return;
	}
	if (!desc_read(c, sel, &d) || (sel & 3) != cpl || desc_dpl(&d) != cpl || !desc_is_writable_data(&d))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (!desc_present(&d))
		engine_raise_err(c, EXC_SS, sel_error(c, sel));
	desc_set_accessed(c, &d);
	desc_to_seg(&d, sel, ss);
}

/* RSP as a return to another level sets it: by the width of the new stack. */
static void set_outer_sp(struct engine_cpu *c, const struct engine_seg *ss, bool to64, uint64_t sp)
{
	if (to64)
		c->gpr[RSP] = sp;
	else if (ss->attr & SEG_DB)
		c->gpr[RSP] = (uint32_t)sp;
	else
		c->gpr[RSP] = (c->gpr[RSP] & ~0xffffULL) | (sp & 0xffff);
}

static void ret_real(struct engine_cpu *c, unsigned opsize, uint16_t pop)
{
	struct far_stack st;
	uint64_t off, sel;

	far_stack_current(c, &st, 0);
	off = far_pop(c, &st, opsize);
	sel = far_pop(c, &st, opsize);
	check_real_rip(c, off);
	far_stack_commit(c, &st, false);
	stack_set(c, stack_get(c) + pop);
	commit_real_cs(c, sel, off);
}

void far_ret(struct engine_cpu *c, unsigned opsize, uint16_t pop)
{
	struct engine_seg cs, ss;
	struct far_stack st, above;
	uint64_t off, sp;
	uint16_t sel, ss_sel;
	bool to64;

	if (c->real || c->v86) {
		ret_real(c, opsize, pop);
		return;
	}
	far_stack_current(c, &st, 0);
	above = st; /* the selector is read first */
	above.sp += opsize;
	sel = far_pop_sel(c, &above, opsize);
	off = far_pop(c, &st, opsize);
	st = above;
	read_return_cs(c, sel, &cs);
	to64 = c->long_mode && (cs.attr & SEG_L);
	off = target_off(c, &cs, off);
	if ((sel & 3) == c->cpl) {
		far_check_rip(c, &cs, off, 0);
		far_stack_commit(c, &st, false);
		if (to64)
			c->gpr[RSP] += pop;
		else
			stack_set(c, stack_get(c) + pop);
		far_commit_cs(c, &cs, c->cpl, off);
		return;
	}
	st.sp += pop;
	sp = far_pop(c, &st, opsize);
	ss_sel = far_pop(c, &st, opsize);
	read_return_ss(c, ss_sel, sel & 3, to64, &ss);
	far_check_rip(c, &cs, off, 0);
	set_outer_sp(c, &ss, to64, sp + pop);
	c->seg[SS] = ss;
	far_commit_cs(c, &cs, sel & 3, off);
	seg_drop_privileged(c);
}

/* -- IRET -- */

static void iret_done(struct engine_cpu *c)
{
	if (c->port->iret)
		c->port->iret(c->ctx);
}

/* Flags that an IRET at this level with this operand size may change. */
static uint64_t iret_flags_mask(const struct engine_cpu *c, unsigned opsize)
{
	uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;

	if (opsize > 2)
		mask |= FLAG_RF | FLAG_AC | FLAG_ID;
	if (c->real || c->cpl <= (c->rflags & FLAG_IOPL) >> 12)
		mask |= FLAG_IF;
	if (c->cpl == 0)
		mask |= FLAG_IOPL;
	if (c->cpl == 0 && !c->real && opsize > 2)
		mask |= FLAG_VIF | FLAG_VIP;
	return mask;
}

/* IRET of virtual-8086 code whose IOPL is below 3, with VME: IF stands for VIF. */
static uint64_t iret_vme_flags(struct engine_cpu *c, uint64_t flags)
{
	const uint64_t mask = FLAGS_ARITH | FLAG_DF | FLAG_NT;

	if ((flags & FLAG_TF) || ((flags & FLAG_IF) && (c->rflags & FLAG_VIP)))
		engine_raise_err(c, EXC_GP, 0);
	return (c->rflags & ~(mask | FLAG_VIF)) | (flags & mask) | (flags & FLAG_IF ? FLAG_VIF : 0);
}

static void iret_real(struct engine_cpu *c, unsigned opsize)
{
	bool vme = false;
	struct far_stack st;
	uint64_t off, sel, flags, mask;

	if (c->v86 && (c->rflags & FLAG_IOPL) != FLAG_IOPL) {
		if (!(c->cr4 & CR4_VME) || opsize != 2)
			engine_raise_err(c, EXC_GP, 0);
		vme = true;
	}
	far_stack_current(c, &st, 0);
	off = far_pop(c, &st, opsize);
	sel = far_pop(c, &st, opsize);
	flags = far_pop(c, &st, opsize);
	check_real_rip(c, off);
	mask = iret_flags_mask(c, opsize);
	flags = vme ? iret_vme_flags(c, flags) : (c->rflags & ~mask) | (flags & mask);
	far_stack_commit(c, &st, false);
	commit_real_cs(c, sel, off);
	rflags_set(c, flags);
}

/* IRETD from level 0 into virtual-8086 mode; EIP, CS and EFLAGS have been popped. */
static void iret_to_v86(struct engine_cpu *c, struct far_stack *st, uint64_t off, uint16_t cs, uint64_t flags)
{
	static const uint8_t order[] = {ES, DS, FS, GS};
	uint16_t sel[ARRAY_SIZE(order)], ss;
	uint64_t sp = far_pop(c, st, 4);

	ss = far_pop(c, st, 4);
	for (unsigned k = 0; k < ARRAY_SIZE(order); k++)
		sel[k] = far_pop(c, st, 4);
	if ((uint32_t)off > 0xffff)
		engine_raise_err(c, EXC_GP, 0);
	c->gpr[RSP] = sp;
	c->rflags = flags | FLAG_VM | BIT(1);
	for (unsigned k = 0; k < ARRAY_SIZE(order); k++)
		seg_set_real(c, order[k], sel[k]);
	seg_set_real(c, SS, ss);
	commit_real_cs(c, cs, (uint16_t)off);
	rflags_set(c, flags);
	mode_update(c);
}

static void iret_protected(struct engine_cpu *c, unsigned opsize)
{
	uint64_t mask = iret_flags_mask(c, opsize), off, flags, sp = 0;
	struct engine_seg cs, ss;
	struct far_stack st, above, above_sel;
	uint16_t sel, ss_sel = 0;
	bool to64, outer;

	far_stack_current(c, &st, 0);
	above = above_sel = st; /* read from the top: flags, selector, offset */
	far_skip(&above_sel, opsize);
	far_skip(&above, 2 * opsize);
	flags = far_pop(c, &above, opsize);
	sel = far_pop_sel(c, &above_sel, opsize);
	off = far_pop(c, &st, opsize);
	st = above;
	if ((flags & FLAG_VM) && opsize == 4 && c->cpl == 0 && !c->long_mode) {
		iret_to_v86(c, &st, off, sel, flags);
		return;
	}
	flags = (c->rflags & ~mask) | (flags & mask);
	read_return_cs(c, sel, &cs);
	outer = (sel & 3) != c->cpl;
	to64 = c->long_mode && (cs.attr & SEG_L);
	off = target_off(c, &cs, off);
	if (outer || c->code64) {
		sp = far_pop(c, &st, opsize);
		ss_sel = far_pop_sel(c, &st, opsize);
		read_return_ss(c, ss_sel, sel & 3, to64, &ss);
	}
	far_check_rip(c, &cs, off, 0);
	if (outer || c->code64) {
		set_outer_sp(c, &ss, to64, sp);
		c->seg[SS] = ss;
	} else {
		far_stack_commit(c, &st, false);
	}
	far_commit_cs(c, &cs, sel & 3, off);
	if (outer)
		seg_drop_privileged(c);
	rflags_set(c, flags);
}

void far_iret(struct engine_cpu *c, unsigned opsize)
{
	if (c->real || c->v86) {
		iret_real(c, opsize);
	} else if (c->rflags & FLAG_NT) {
		if (c->long_mode)
			engine_raise_err(c, EXC_GP, 0);
		task_return(c);
	} else {
		iret_protected(c, opsize);
	}
	iret_done(c);
}
