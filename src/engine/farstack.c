/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stacks and code segments while a far transfer is not committed yet. */
#include "engine/system.h"

static uint64_t stack_mask_of(const struct far_stack *st)
{
	return st->wide ? ~0ULL : st->ss.attr & SEG_DB ? 0xffffffff : 0xffff;
}

static uint64_t stack_lin(struct engine_cpu *c, const struct far_stack *st, uint64_t off, unsigned size)
{
	if (!seg_stack_ok(c, &st->ss, st->wide, off, size))
		engine_raise_err(c, EXC_SS, st->error);
	return st->wide ? off : (uint32_t)(st->ss.base + off);
}

static void stack_move(struct far_stack *st, uint64_t off)
{
	uint64_t mask = stack_mask_of(st);

	st->sp = mask == 0xffff ? (st->sp & ~mask) | off : off;
}

void far_skip(struct far_stack *st, unsigned size)
{
	stack_move(st, (st->sp + size) & stack_mask_of(st));
}

void far_push(struct engine_cpu *c, struct far_stack *st, uint64_t val, unsigned size)
{
	uint64_t off = (st->sp - size) & stack_mask_of(st);
	uint64_t lin = stack_lin(c, st, off, size);

	if (st->cpl == c->cpl)
		guest_st(c, lin, val, size);
	else
		guest_st_sys(c, lin, val, size);
	stack_move(st, off);
}

uint64_t far_pop(struct engine_cpu *c, struct far_stack *st, unsigned size)
{
	uint64_t off = st->sp & stack_mask_of(st);
	uint64_t val = guest_ld(c, stack_lin(c, st, off, size), size);

	stack_move(st, (off + size) & stack_mask_of(st));
	return val;
}

uint16_t far_pop_sel(struct engine_cpu *c, struct far_stack *st, unsigned size)
{
	uint64_t off = st->sp & stack_mask_of(st);
	uint16_t sel = guest_ld(c, stack_lin(c, st, off, 2), 2);

	stack_move(st, (off + size) & stack_mask_of(st));
	return sel;
}

void far_stack_current(struct engine_cpu *c, struct far_stack *st, uint32_t error)
{
	*st = (struct far_stack){
	    .ss = c->seg[SS], .sp = c->gpr[RSP], .cpl = c->cpl, .wide = c->code64, .error = error};
}

/* SS of an inner level, from a legacy TSS: #TS, #SS for the selector. */
static void load_inner_ss(struct engine_cpu *c, struct far_stack *st, uint16_t sel, unsigned dpl)
{
	struct desc d;

	if (!(sel & 0xfffc))
		engine_raise_err(c, EXC_TS, event_ext(c));
	if (!desc_read(c, sel, &d) || (sel & 3) != dpl || desc_dpl(&d) != dpl || !desc_is_writable_data(&d))
		engine_raise_err(c, EXC_TS, sel_error(c, sel));
	if (!desc_present(&d))
		engine_raise_err(c, EXC_SS, sel_error(c, sel));
	desc_set_accessed(c, &d);
	desc_to_seg(&d, sel, &st->ss);
	st->error = sel_error(c, sel);
}

static void inner_legacy(struct engine_cpu *c, struct far_stack *st, unsigned dpl)
{
	const struct engine_seg *tr = &c->seg[TR];
	bool tss32 = SEG_TYPE(tr->attr) & 8;
	uint32_t off = tss32 ? 4 + dpl * 8 : 2 + dpl * 4;
	uint16_t sel;

	if (tr->unusable || off + (tss32 ? 7 : 3) > tr->limit)
		engine_raise_err(c, EXC_TS, sel_error(c, tr->sel));
	st->sp = guest_ld_sys(c, (uint32_t)(tr->base + off), tss32 ? 4 : 2);
	sel = guest_ld_sys(c, (uint32_t)(tr->base + off + (tss32 ? 4 : 2)), 2);
	load_inner_ss(c, st, sel, dpl);
}

void far_stack_inner(struct engine_cpu *c, struct far_stack *st, unsigned dpl, unsigned ist)
{
	const struct engine_seg *tr = &c->seg[TR];
	uint32_t off = ist ? 28 + ist * 8 : 4 + dpl * 8;

	*st = (struct far_stack){.cpl = dpl, .wide = c->long_mode, .error = event_ext(c)};
	if (!c->long_mode) {
		inner_legacy(c, st, dpl);
		return;
	}
	if (tr->unusable || off + 7 > tr->limit)
		engine_raise_err(c, EXC_TS, sel_error(c, tr->sel));
	st->sp = guest_ld_sys(c, tr->base + off, 8);
	if (!control_is_canonical(c, st->sp))
		engine_raise_err(c, EXC_SS, event_ext(c));
	seg_make_null(&st->ss, dpl);
	st->ss.attr = dpl << 5;
}

void far_stack_commit(struct engine_cpu *c, const struct far_stack *st, bool load_ss)
{
	if (load_ss)
		c->seg[SS] = st->ss;
	c->gpr[RSP] = !st->wide && (st->ss.attr & SEG_DB) ? (uint32_t)st->sp : st->sp;
}

void far_commit_cs(struct engine_cpu *c, const struct engine_seg *cs, unsigned cpl, uint64_t rip)
{
	c->seg[CS] = *cs;
	if (!c->real && !(c->rflags & FLAG_VM))
		c->seg[CS].sel = (cs->sel & ~3) | cpl;
	c->next_rip = rip;
	mode_update(c);
}

void far_check_rip(struct engine_cpu *c, const struct engine_seg *cs, uint64_t off, uint32_t error)
{
	bool ok;

	if (c->long_mode && (cs->attr & SEG_L))
		ok = control_is_canonical(c, off);
	else
		ok = off <= cs->limit;
	if (!ok)
		engine_raise_err(c, EXC_GP, error);
}
