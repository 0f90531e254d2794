/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hardware task switches (SDM 3A chapter 8). Before the commit point (the old state is saved and the new TSS
 * read) faults belong to the old task; behind it they are raised in the new one, at its EIP.
 */
#include "engine/system.h"

/* Word offsets in a TSS: of 32-bit and 16-bit ones. */
struct tss_layout {
	unsigned word, ip, flags, gpr, seg, segs, ldt, limit;
};
static const struct tss_layout layouts[2] = {
    {2, 14, 16, 18, 34, 4, 42, 43},
    {4, 32, 36, 40, 72, 6, 96, 103},
};
static const uint8_t seg_order[] = {ES, CS, SS, DS, FS, GS};

struct task {
	uint64_t cr3, ip, flags, gpr[8];
	uint16_t sel[6], ldt;
	bool trap, wide;
};

static const struct tss_layout *layout(bool wide)
{
	return &layouts[wide];
}

static uint64_t tss_ld(struct engine_cpu *c, uint64_t base, unsigned off, unsigned size)
{
	return guest_ld_sys(c, (uint32_t)(base + off), size);
}

static void tss_st(struct engine_cpu *c, uint64_t base, unsigned off, uint64_t val, unsigned size)
{
	guest_st_sys(c, (uint32_t)(base + off), val, size);
}

static void read_task(struct engine_cpu *c, const struct desc *d, struct task *t)
{
	uint64_t base = desc_base(d);
	const struct tss_layout *l;

	t->wide = desc_type(d) & 8;
	l = layout(t->wide);
	t->ip = tss_ld(c, base, l->ip, l->word);
	t->flags = tss_ld(c, base, l->flags, l->word);
	for (unsigned k = 0; k < 8; k++)
		t->gpr[k] = tss_ld(c, base, l->gpr + k * l->word, l->word);
	for (unsigned k = 0; k < 6; k++)
		t->sel[k] = k < l->segs ? tss_ld(c, base, l->seg + k * l->word, 2) : 0;
	t->ldt = tss_ld(c, base, l->ldt, 2);
	t->cr3 = t->wide ? tss_ld(c, base, 28, 4) : c->cr3;
	t->trap = t->wide && (tss_ld(c, base, 100, 2) & 1);
}

/* Where the old task will go on. */
static uint64_t resume_ip(const struct engine_cpu *c, enum task_source src)
{
	return src == TASK_EVENT ? c->rip + c->delivering.insn_len : c->next_rip;
}

static void save_task(struct engine_cpu *c, enum task_source src)
{
	const struct engine_seg *tr = &c->seg[TR];
	const struct tss_layout *l = layout(SEG_TYPE(tr->attr) & 8);
	uint64_t flags = c->rflags;

	if (src == TASK_IRET)
		flags &= ~FLAG_NT;
	tss_st(c, tr->base, l->ip, resume_ip(c, src), l->word);
	tss_st(c, tr->base, l->flags, flags, l->word);
	for (unsigned k = 0; k < 8; k++)
		tss_st(c, tr->base, l->gpr + k * l->word, c->gpr[k], l->word);
	for (unsigned k = 0; k < l->segs; k++)
		tss_st(c, tr->base, l->seg + k * l->word, c->seg[seg_order[k]].sel, 2);
}

/* Busy bits of both descriptors, and the link of a nested task. */
static void mark_busy(struct engine_cpu *c, const struct desc *tss, enum task_source src)
{
	uint16_t old = c->seg[TR].sel;

	if (src == TASK_JMP || src == TASK_IRET)
		sys_rmw8(c, (uint32_t)(c->gdt.base + (old & 0xfff8) + 5), 0xfd, 0);
	if (src != TASK_IRET)
		sys_rmw8(c, tss->addr + 5, 0xff, 2);
	if (src == TASK_CALL || src == TASK_EVENT)
		tss_st(c, desc_base(tss), 0, old, 2);
}

/* -- Behind the commit point -- */

static _Noreturn void bad_ts(struct engine_cpu *c, uint16_t sel)
{
	engine_raise_err(c, EXC_TS, sel_error(c, sel));
}

static void load_ldt(struct engine_cpu *c, uint16_t sel)
{
	struct desc d;

	if (!(sel & 0xfffc))
		return;
	if ((sel & 4) || !desc_read(c, sel, &d) || desc_is_seg(&d) || desc_type(&d) != SYS_LDT ||
	    !desc_present(&d))
		bad_ts(c, sel);
	desc_to_seg(&d, sel, &c->seg[LDTR]);
}

static bool task_seg_ok(const struct engine_cpu *c, enum seg s, uint16_t sel, const struct desc *d,
			unsigned cpl)
{
	unsigned dpl = desc_dpl(d), rpl = sel & 3;

	if (!desc_is_seg(d))
		return false;
	if (s == CS)
		return desc_is_code(d) && (desc_is_conforming(d) ? dpl <= rpl : dpl == rpl);
	if (s == SS)
		return desc_is_writable_data(d) && rpl == cpl && dpl == cpl;
	if ((desc_type(d) & 10) == 8)
		return false;
	return desc_is_conforming(d) || (dpl >= cpl && dpl >= rpl);
}

static void load_task_seg(struct engine_cpu *c, enum seg s, uint16_t sel, unsigned cpl)
{
	struct desc d;

	if (!(sel & 0xfffc)) {
		if (s == CS || s == SS)
			bad_ts(c, sel);
		return;
	}
	if (!desc_read(c, sel, &d) || !task_seg_ok(c, s, sel, &d, cpl))
		bad_ts(c, sel);
	if (!desc_present(&d))
		engine_raise_err(c, s == SS ? EXC_SS : EXC_NP, sel_error(c, sel));
	desc_set_accessed(c, &d);
	desc_to_seg(&d, sel, &c->seg[s]);
	mode_update(c);
}

/* Registers of the new task, its segment registers as bare selectors. */
static void load_registers(struct engine_cpu *c, const struct task *t, unsigned cpl)
{
	uint64_t keep = t->wide ? 0 : 0xffff0000;

	for (unsigned k = 0; k < 8; k++)
		c->gpr[k] = (c->gpr[k] & keep) | t->gpr[k];
	for (unsigned k = 0; k < 6; k++)
		seg_make_null(&c->seg[seg_order[k]], t->sel[k]);
	seg_make_null(&c->seg[LDTR], t->ldt);
	c->seg[LDTR].attr = SYS_LDT;
	c->seg[SS].attr = cpl << 5;
	c->rip = c->next_rip = t->ip;
}

static void load_segments(struct engine_cpu *c, const struct task *t, unsigned cpl)
{
	static const uint8_t checked[] = {CS, SS, DS, ES, FS, GS};
	static const uint8_t at[] = {1, 2, 3, 0, 4, 5};

	load_ldt(c, t->ldt);
	for (unsigned k = 0; k < ARRAY_SIZE(checked); k++) {
		if (c->rflags & FLAG_VM)
			seg_set_real(c, checked[k], t->sel[at[k]]);
		else
			load_task_seg(c, checked[k], t->sel[at[k]], cpl);
	}
	mode_update(c);
}

static void push_error(struct engine_cpu *c, bool wide, uint32_t error)
{
	struct far_stack st;

	far_stack_current(c, &st, event_ext(c));
	far_push(c, &st, error, wide ? 4 : 2);
	far_stack_commit(c, &st, false);
}

static void switch_cr3(struct engine_cpu *c, const struct task *t, const uint64_t pdptr[4])
{
	if (!(c->cr0 & CR0_PG) || !t->wide)
		return;
	c->cr3 = t->cr3;
	if (c->cr4 & CR4_PAE)
		memcpy(c->pdptr, pdptr, sizeof(c->pdptr));
	mmu_new_cr3(c, false);
}

void task_switch(struct engine_cpu *c, uint16_t sel, struct desc *tss, enum task_source src, bool has_error,
		 uint32_t error)
{
	bool paging = c->cr0 & CR0_PG;
	uint64_t pdptr[4], flags;
	struct task t;
	unsigned cpl;

	if (desc_limit(tss) < layout(desc_type(tss) & 8)->limit)
		bad_ts(c, sel);
	read_task(c, tss, &t);
	if (paging && t.wide && (c->cr4 & CR4_PAE) && !mmu_load_pdptrs(c, t.cr3, pdptr))
		bad_ts(c, sel);
	save_task(c, src);
	mark_busy(c, tss, src);
	/* The commit point. */
	flags = t.flags | (src == TASK_CALL || src == TASK_EVENT ? FLAG_NT : 0);
	cpl = flags & FLAG_VM ? 3 : t.sel[1] & 3;
	desc_to_seg(tss, sel, &c->seg[TR]);
	c->seg[TR].attr |= 2;
	c->cr0 |= CR0_TS;
	c->dr7 &= ~0x155ULL;
	switch_cr3(c, &t, pdptr);
	load_registers(c, &t, cpl);
	rflags_set(c, flags);
	mode_update(c);
	debug_update(c);
	load_segments(c, &t, cpl);
	if (has_error)
		push_error(c, t.wide, error);
	far_check_rip(c, &c->seg[CS], t.ip, event_ext(c));
	if (t.trap) {
		c->is_delivering = false;
		engine_raise_db(c, DR6_BT);
	}
}

void task_switch_to(struct engine_cpu *c, uint16_t sel, enum task_source src, bool has_error, uint32_t error)
{
	struct desc d;

	if (!(sel & 0xfffc) || (sel & 4) || !desc_read(c, sel, &d) || desc_is_seg(&d) ||
	    (desc_type(&d) != SYS_TSS16 && desc_type(&d) != SYS_TSS32))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (!desc_present(&d))
		engine_raise_err(c, EXC_NP, sel_error(c, sel));
	task_switch(c, sel, &d, src, has_error, error);
}

void task_return(struct engine_cpu *c)
{
	uint16_t sel = tss_ld(c, c->seg[TR].base, 0, 2);
	struct desc d;

	if (!(sel & 0xfffc) || (sel & 4) || !desc_read(c, sel, &d) || desc_is_seg(&d) ||
	    (desc_type(&d) != SYS_TSS16_BUSY && desc_type(&d) != SYS_TSS32_BUSY))
		bad_ts(c, sel);
	if (!desc_present(&d))
		engine_raise_err(c, EXC_NP, sel_error(c, sel));
	task_switch(c, sel, &d, TASK_IRET, false, 0);
}
