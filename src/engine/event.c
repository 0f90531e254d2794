/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Delivery of interrupts and exceptions (SDM 3A chapter 6; 20.1.4 real mode; 20.3 virtual-8086 mode).
 *
 * c->delivering is the event, c->is_delivering is set while its delivery can still fault. Such a fault
 * leaves through c->jump; event_begin then combines the two (table 6-5).
 */
#include "engine/code.h"
#include "engine/system.h"

/* -- Combination -- */

enum event_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum event_class class_of(const struct engine_event *ev)
{
	if (ev->kind != ENGINE_EV_EXCEPTION)
		return BENIGN;
	switch (ev->vector) {
	case EXC_DE:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP: return CONTRIBUTORY;
	case EXC_PF: return PAGE_FAULT;
	case EXC_DF: return DOUBLE_FAULT;
	default: return BENIGN;
	}
}

/* #DB is being delivered: its causes go to DR6, and general detection ends. */
static void commit_db(struct engine_cpu *c, uint64_t payload)
{
	c->dr6 = (c->dr6 & ~15ULL) | DR6_FIXED | payload;
	if (c->dr7 & DR7_GD) {
		c->dr7 &= ~DR7_GD;
		debug_update(c);
	}
}

bool event_begin(struct engine_cpu *c)
{
	enum event_class first = c->is_delivering ? class_of(&c->delivering) : BENIGN;
	enum event_class second = class_of(&c->fault);

	if (c->fault.vector == EXC_PF)
		c->cr2 = c->fault_payload;
	if (first == DOUBLE_FAULT && second != BENIGN) {
		c->is_delivering = false;
		return false;
	}
	if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
	    (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT))) {
		c->delivering =
		    (struct engine_event){.kind = ENGINE_EV_EXCEPTION, .vector = EXC_DF, .has_error = true};
	} else {
		c->delivering = c->fault;
		if (c->fault.vector == EXC_DB)
			commit_db(c, c->fault_payload);
	}
	c->is_delivering = true;
	return true;
}

/* -- What is pushed -- */

/* A trap's return address lies behind its instruction, a fault's at it. */
static uint64_t return_rip(const struct engine_cpu *c)
{
	bool behind = c->delivering.kind == ENGINE_EV_SOFT || c->delivering.kind == ENGINE_EV_EXCEPTION;

	return (c->rip + (behind ? c->delivering.insn_len : 0)) & c->ip_mask;
}

/* RF is set in the image that a fault pushes, so that its instruction's breakpoint does not hit again. */
static uint64_t pushed_flags(const struct engine_cpu *c)
{
	const unsigned not_faults =
	    1 << EXC_DB | 1 << EXC_NMI | 1 << EXC_BP | 1 << EXC_OF | 1 << EXC_DF | 1 << EXC_MC;
	uint64_t flags = c->rflags;

	if (c->delivering.kind == ENGINE_EV_EXCEPTION && !(not_faults >> c->delivering.vector & 1))
		flags |= FLAG_RF;
	return flags;
}

static uint32_t idt_error(const struct engine_cpu *c)
{
	return c->delivering.vector * 8 + 2 + event_ext(c);
}

/* The event is delivered: nothing can fault any more. */
static void delivered(struct engine_cpu *c)
{
	c->is_delivering = false;
	c->shadow = 0;
	c->rip = c->next_rip;
}

/* -- Real mode, and virtual-8086 interrupts redirected by VME -- */

/* Pushes FLAGS, CS, IP and enters at the vector of the table at `ivt`. */
static void enter_vector16(struct engine_cpu *c, uint64_t ivt, uint64_t flags, uint64_t new_flags)
{
	uint32_t vec = guest_ld_sys(c, ivt + c->delivering.vector * 4, 4);
	struct engine_seg cs = c->seg[CS];
	struct far_stack st;

	far_stack_current(c, &st, 0);
	far_push(c, &st, flags, 2);
	far_push(c, &st, c->seg[CS].sel, 2);
	far_push(c, &st, return_rip(c), 2);
	cs.sel = vec >> 16;
	cs.base = (uint64_t)cs.sel << 4;
	if ((vec & 0xffff) > cs.limit)
		engine_raise_err(c, EXC_GP, 0);
	far_stack_commit(c, &st, false);
	c->seg[CS] = cs;
	c->next_rip = vec & 0xffff;
	rflags_set(c, new_flags);
	mode_update(c);
	delivered(c);
}

static void deliver_real(struct engine_cpu *c)
{
	uint64_t flags = c->rflags;

	if (c->delivering.vector * 4u + 3 > c->idt.limit)
		engine_raise_err(c, EXC_GP, idt_error(c));
	enter_vector16(c, c->idt.base, flags, flags & ~(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF));
}

/* True if the TSS's redirection bitmap sends INT n to the 8086 program's own handler. */
static bool vme_redirects(struct engine_cpu *c, uint8_t vector)
{
	const struct engine_seg *tr = &c->seg[TR];
	uint32_t off;

	if (tr->unusable || !(SEG_TYPE(tr->attr) & 8) || tr->limit < 103)
		engine_raise_err(c, EXC_GP, 0);
	off = guest_ld_sys(c, tr->base + 102, 2) - 32 + vector / 8;
	if (off > tr->limit)
		engine_raise_err(c, EXC_GP, 0);
	return !(guest_ld_sys(c, tr->base + off, 1) >> (vector & 7) & 1);
}

/* INT n in virtual-8086 mode; true if it has been delivered here. */
static bool soft_int_v86(struct engine_cpu *c, uint8_t vector)
{
	bool iopl3 = (c->rflags & FLAG_IOPL) == FLAG_IOPL;
	uint64_t flags = c->rflags, new_flags;

	if (!(c->cr4 & CR4_VME) || !vme_redirects(c, vector)) {
		if (!iopl3)
			engine_raise_err(c, EXC_GP, 0);
		return false;
	}
	new_flags = flags & ~(FLAG_TF | FLAG_RF | FLAG_NT | (iopl3 ? FLAG_IF : FLAG_VIF));
	if (!iopl3)
		flags = (flags & ~FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
	enter_vector16(c, 0, flags, new_flags);
	return true;
}

/* -- Gates -- */

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned type, dpl, ist;
	bool present;
	unsigned size; /* of a pushed word: 2, 4, 8 */
};

static void read_gate(struct engine_cpu *c, struct gate *g)
{
	unsigned width = c->long_mode ? 16 : 8;
	unsigned at = c->delivering.vector * width;
	uint64_t lin = c->idt.base + at, raw;

	if (at + width - 1 > c->idt.limit)
		engine_raise_err(c, EXC_GP, idt_error(c));
	raw = guest_ld_sys(c, c->long_mode ? lin : (uint32_t)lin, 8);
	g->sel = raw >> 16;
	g->off = (raw & 0xffff) | ((raw >> 32) & 0xffff0000);
	g->type = (raw >> 40) & 31;
	g->dpl = (raw >> 45) & 3;
	g->present = raw & BIT(47);
	g->ist = 0;
	g->size = g->type & 8 ? 4 : 2;
	if (g->size == 2)
		g->off &= 0xffff;
	if (c->long_mode) {
		g->off |= guest_ld_sys(c, lin + 8, 4) << 32;
		g->ist = (raw >> 32) & 7;
		g->size = 8;
	}
}

static void check_gate(struct engine_cpu *c, const struct gate *g)
{
	const unsigned legacy =
	    1 << SYS_TASK | 1 << SYS_INT16 | 1 << SYS_TRAP16 | 1 << SYS_INT32 | 1 << SYS_TRAP32;
	const unsigned wide = 1 << SYS_INT32 | 1 << SYS_TRAP32;

	if (g->type > 15 || !((c->long_mode ? wide : legacy) >> g->type & 1))
		engine_raise_err(c, EXC_GP, idt_error(c));
	if (c->delivering.kind == ENGINE_EV_SOFT && g->dpl < c->cpl)
		engine_raise_err(c, EXC_GP, idt_error(c));
	if (!g->present)
		engine_raise_err(c, EXC_NP, idt_error(c));
}

/* The handler's code segment; *cpl is the level that it runs at. */
static void load_handler_cs(struct engine_cpu *c, const struct gate *g, struct engine_seg *cs, unsigned *cpl)
{
	struct desc d;
	uint32_t error = sel_error(c, g->sel);

	if (!(g->sel & 0xfffc))
		engine_raise_err(c, EXC_GP, event_ext(c));
	if (!desc_read(c, g->sel, &d) || !desc_is_code(&d) || desc_dpl(&d) > c->cpl)
		engine_raise_err(c, EXC_GP, error);
	if (c->long_mode && (desc_attr(&d) & (SEG_L | SEG_DB)) != SEG_L)
		engine_raise_err(c, EXC_GP, error);
	if (!desc_present(&d))
		engine_raise_err(c, EXC_NP, error);
	*cpl = desc_is_conforming(&d) ? c->cpl : desc_dpl(&d);
	if (c->v86 && *cpl != 0)
		engine_raise_err(c, EXC_GP, error);
	desc_set_accessed(c, &d);
	desc_to_seg(&d, g->sel, cs);
}

/* The handler's stack: the TSS's for an inner level or an IST, else the current one. */
static void choose_stack(struct engine_cpu *c, const struct gate *g, unsigned cpl, struct far_stack *st)
{
	if (cpl < c->cpl || g->ist) {
		far_stack_inner(c, st, cpl, g->ist);
		if (cpl == c->cpl)
			st->ss = c->seg[SS];
	} else {
		far_stack_current(c, st, event_ext(c));
		st->wide = c->long_mode;
	}
	if (c->long_mode)
		st->sp &= ~15ULL;
}

static void push_frame(struct engine_cpu *c, const struct gate *g, unsigned cpl, struct far_stack *st)
{
	static const uint8_t v86_segs[] = {GS, FS, DS, ES};

	if (c->v86)
		for (unsigned k = 0; k < ARRAY_SIZE(v86_segs); k++)
			far_push(c, st, c->seg[v86_segs[k]].sel, g->size);
	if (cpl < c->cpl || c->long_mode) {
		far_push(c, st, c->seg[SS].sel, g->size);
		far_push(c, st, c->gpr[RSP], g->size);
	}
	far_push(c, st, pushed_flags(c), g->size);
	far_push(c, st, c->seg[CS].sel, g->size);
	far_push(c, st, return_rip(c), g->size);
	if (c->delivering.has_error)
		far_push(c, st, c->delivering.error, g->size);
}

static void deliver_gate(struct engine_cpu *c)
{
	static const uint8_t v86_segs[] = {GS, FS, DS, ES};
	uint64_t flags = c->rflags & ~(FLAG_TF | FLAG_RF | FLAG_NT | FLAG_VM);
	struct engine_seg cs;
	struct far_stack st;
	struct gate g;
	unsigned cpl;
	bool v86 = c->v86;

	read_gate(c, &g);
	check_gate(c, &g);
	if (g.type == SYS_TASK) {
		task_switch_to(c, g.sel, TASK_EVENT, c->delivering.has_error, c->delivering.error);
		delivered(c);
		return;
	}
	load_handler_cs(c, &g, &cs, &cpl);
	choose_stack(c, &g, cpl, &st);
	push_frame(c, &g, cpl, &st);
	far_check_rip(c, &cs, g.off, event_ext(c));
	if (!(g.type & 1))
		flags &= ~FLAG_IF;
	if (v86)
		for (unsigned k = 0; k < ARRAY_SIZE(v86_segs); k++)
			seg_make_null(&c->seg[v86_segs[k]], 0);
	far_stack_commit(c, &st, cpl < c->cpl);
	c->rflags &= ~FLAG_VM;
	far_commit_cs(c, &cs, cpl, g.off);
	rflags_set(c, flags);
	delivered(c);
}

void event_deliver(struct engine_cpu *c)
{
	if (c->real)
		deliver_real(c);
	else
		deliver_gate(c);
}

/* -- Software interrupts -- */

void event_soft_int(struct engine_cpu *c, uint8_t vector, bool int3_or_into)
{
	const uint32_t sw_bp = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;

	if (vector == EXC_BP && int3_or_into && (c->debug_control & sw_bp) == sw_bp)
		debug_leave(c, EXC_BP, 0);
	c->delivering = (struct engine_event){
	    .kind = ENGINE_EV_SOFT, .vector = vector, .insn_len = (uint8_t)(c->next_rip - c->rip)};
	c->is_delivering = true;
	if (c->v86 && !int3_or_into && soft_int_v86(c, vector))
		return;
	event_deliver(c);
}

void event_int1(struct engine_cpu *c)
{
	if (debug_intercepts_db(c))
		debug_leave(c, EXC_DB, 0);
	commit_db(c, c->dr6 & 15);
	c->delivering = (struct engine_event){
	    .kind = ENGINE_EV_EXCEPTION, .vector = EXC_DB, .insn_len = (uint8_t)(c->next_rip - c->rip)};
	c->is_delivering = true;
	event_deliver(c);
}

/* -- From outside -- */

enum engine_exit engine_deliver(struct engine_cpu *c, const struct engine_event *ev)
{
	sigjmp_buf *outer = c->jump;
	sigjmp_buf here;
	volatile enum engine_exit exit = ENGINE_EXIT_STEPPED;
	volatile bool first = true;

	c->jump = &here;
	c->leave = LEAVE_NONE;
	c->next_rip = c->rip;
	run_enter(c);
	if (sigsetjmp(here, 0)) {
		if (c->leave == LEAVE_EXIT) {
			exit = c->exit;
			goto out;
		}
		if (c->leave == LEAVE_FAULT && !event_begin(c)) {
			exit = ENGINE_EXIT_SHUTDOWN;
			goto out;
		}
	}
	if (first) {
		first = false;
		c->delivering = *ev;
		/* #BP and #OF stand behind their instruction, whoever asks for them. */
		if (ev->kind == ENGINE_EV_EXCEPTION && (ev->vector == EXC_BP || ev->vector == EXC_OF)) {
			c->delivering.kind = ENGINE_EV_SOFT;
			if (!ev->insn_len)
				c->delivering.insn_len = 1;
		}
		c->is_delivering = true;
	}
	event_deliver(c);
out:
	run_leave(c);
	if (exit != ENGINE_EXIT_STEPPED)
		c->is_delivering = false;
	c->jump = outer;
	return exit;
}

bool engine_get_pending(const struct engine_cpu *c, struct engine_event *ev, uint64_t *payload)
{
	if (!c->is_delivering || c->delivering.kind != ENGINE_EV_EXCEPTION)
		return false;
	*ev = c->delivering;
	*payload = ev->vector == EXC_PF ? c->cr2 : ev->vector == EXC_DB ? c->dr6 & ~DR6_FIXED : 0;
	return true;
}
