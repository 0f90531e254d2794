/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A test's state into a guest of the engine, the run, and the state that it left. */
#include <stdio.h>
#include <stdlib.h>

#include "diff_side.h"

/* -- State -- */

static struct kvm_segment from_ldt(uint16_t sel)
{
	const struct ldt_desc *d = &ldt[(sel >> 3) % L_ENTRIES];

	return (struct kvm_segment){
	    .base = d->base,
	    .limit = d->pages ? d->limit << 12 | 0xfff : d->limit,
	    .selector = sel,
	    .type = (!d->read_only) << 1 | d->contents << 2 | 1,
	    .present = !d->absent,
	    .dpl = 3,
	    .db = d->big,
	    .s = 1,
	    .g = d->pages,
	    .avl = 1,
	};
}

static struct kvm_segment segment(uint16_t sel, uint64_t base)
{
	struct kvm_segment s = {.base = base,
				.limit = 0xffffffff,
				.selector = sel,
				.type = 3,
				.present = 1,
				.dpl = 3,
				.db = 1,
				.s = 1,
				.g = 1};

	if (sel & 4)
		return from_ldt(sel);
	if (sel == 0x10 || sel == 0x18)
		s.dpl = 0;
	if (sel == 0x33 || sel == 0x10) {
		s.type = 11;
		s.db = 0;
		s.l = 1;
	}
	if (!(sel & ~3))
		s = (struct kvm_segment){.base = base, .selector = sel, .unusable = 1};
	return s;
}

static struct kvm_segment real_segment(uint16_t sel, uint64_t base)
{
	return (struct kvm_segment){
	    .base = base, .limit = 0xffff, .selector = sel, .type = 3, .present = 1, .s = 1};
}

static void long_segments(struct kvm_sregs *s, const struct tstate *in)
{
	s->cs = segment(in->sel[S_CS], 0);
	s->ss = segment(in->sel[S_SS], 0);
	s->ds = segment(in->sel[S_DS], 0);
	s->es = segment(in->sel[S_ES], 0);
	s->fs = segment(in->sel[S_FS], in->fsbase);
	s->gs = segment(in->sel[S_GS], in->gsbase);
	s->idt = (struct kvm_dtable){.base = KLIN(K_IDT), .limit = 4095};
	s->cr0 = 0x80050033;
	s->cr4 = 0x620 | BIT(16) | BIT(18);
	s->efer = 0xd01;
}

static void real_segments(struct kvm_sregs *s, const struct tstate *in)
{
	s->cs = real_segment(in->sel[S_CS], CODE);
	s->ss = real_segment(in->sel[S_SS], DATA);
	s->ds = real_segment(in->sel[S_DS], DATA);
	s->es = real_segment(in->sel[S_ES], DATA);
	s->fs = real_segment(in->sel[S_FS], DATA);
	s->gs = real_segment(in->sel[S_GS], DATA);
	s->idt = (struct kvm_dtable){.base = KPAGE(K_IVT), .limit = 0x3ff};
	s->cr0 = 0x32;
	s->cr4 = 0x600 | BIT(18);
	s->efer = 0;
}

static void set_segments(struct side *side, const struct tstate *in)
{
	struct kvm_sregs s;

	engine_get_sregs(side->cpu, &s);
	if (side->real)
		real_segments(&s, in);
	else
		long_segments(&s, in);
	s.tr = (struct kvm_segment){
	    .base = KLIN(K_TSS), .limit = 0x67, .selector = 0x40, .type = 11, .present = 1};
	s.ldt = (struct kvm_segment){.base = KLIN(K_GDT) + LDT_OFFSET,
				     .limit = L_ENTRIES * 8 - 1,
				     .selector = 0x50,
				     .type = 2,
				     .present = 1};
	s.gdt = (struct kvm_dtable){.base = KLIN(K_GDT), .limit = 16 * 8 - 1};
	s.cr2 = 0;
	s.cr3 = 0;
	if (engine_set_sregs(side->cpu, &s)) {
		fprintf(stderr, "engine_set_sregs refused\n");
		exit(2);
	}
}

/* What code at level 0 may have left behind. */
static void set_system(struct side *side)
{
	struct kvm_debugregs none = {.dr6 = 0xffff0ff0, .dr7 = 0x400};
	static const uint32_t zero[] = {0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102,
					0xc0000103, 0x174,	0x175,	    0x176,	0xda0};

	side_tables(side);
	engine_set_debugregs(side->cpu, &none);
	for (unsigned n = 0; n < ARRAY_SIZE(zero); n++)
		engine_set_msr(side->cpu, zero[n], 0, true);
}

static void set_state(struct side *side, const struct test *t)
{
	const uint64_t *g = t->in.gpr;
	struct kvm_regs r = {
	    .rax = g[0],
	    .rcx = g[1],
	    .rdx = g[2],
	    .rbx = g[3],
	    .rsp = g[4],
	    .rbp = g[5],
	    .rsi = g[6],
	    .rdi = g[7],
	    .r8 = g[8],
	    .r9 = g[9],
	    .r10 = g[10],
	    .r11 = g[11],
	    .r12 = g[12],
	    .r13 = g[13],
	    .r14 = g[14],
	    .r15 = g[15],
	    .rip = t->in.rip,
	    .rflags = t->in.rflags,
	};
	uint8_t xs[XS_SIZE] __attribute__((aligned(64)));
	uint64_t all = engine_xcr0_host();

	if (side->real != is_real(t->mode))
		engine_revoke(side->cpu); /* physical memory is another */
	side->real = is_real(t->mode);
	side->cpu->is_delivering = false; /* of a run that stopped in it */
	if (is_system(t->mode))
		set_system(side);
	side_handlers(side, t->step);
	set_segments(side, &t->in);
	engine_set_shadow(side->cpu, 0);
	engine_set_regs(side->cpu, &r);
	memcpy(xs, t->in.xs, XS_SIZE);
	memcpy(xs + 512, &all, 8);
	memset(xs + 520, 0, 56);
	if (engine_set_xcr0(side->cpu, all) || engine_set_xsave(side->cpu, xs, XS_SIZE)) {
		fprintf(stderr, "engine_set_xsave refused\n");
		exit(2);
	}
	memset(side->ram + KPAGE(K_COUNT), 0, 16);
}

/* -- The state that a run left -- */

/* Does this vector push an error code? */
static bool has_error(unsigned v)
{
	return v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21;
}

/* The vector whose handler halted, or what else ended the run. */
static int vector_of(const struct side *side, enum engine_exit e, const struct kvm_regs *r,
		     const struct kvm_sregs *s)
{
	uint64_t at = r->rip - 1 - (side->real ? 0 : KLIN(K_HANDLERS));

	if (e != ENGINE_EXIT_HLT)
		return END_EXIT + (int)e;
	if (at >= PAGE_SIZE || (at & 15) || (side->real && s->cs.base != KPAGE(K_HANDLERS)))
		return END_HALT;
	return (int)(at / 16);
}

static void get_state(struct side *side, enum engine_exit e, struct outcome *o)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	engine_get_regs(side->cpu, &r);
	engine_get_sregs(side->cpu, &s);
	o->vector = vector_of(side, e, &r, &s);
	o->error = 0;
	o->cr2 = s.cr2;
	o->counts[0] = *(uint64_t *)(side->ram + KPAGE(K_COUNT));
	o->counts[1] = *(uint64_t *)(side->ram + KPAGE(K_COUNT) + 8);
	o->st = (struct tstate){
	    .gpr = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
		    r.r13, r.r14, r.r15},
	    .rip = r.rip,
	    .rflags = r.rflags,
	    .sel = {s.es.selector, s.cs.selector, s.ss.selector, s.ds.selector, s.fs.selector, s.gs.selector},
	    .fsbase = s.fs.base,
	    .gsbase = s.gs.base,
	};
	if (o->vector < 256 && !side->real) { /* the frame has what the test left */
		uint64_t frame[6] = {0}, *f = frame;
		const uint8_t *at = side->ram + KPAGE(K_STACK) + (r.rsp & PAGE_OFFSET_MASK);

		memcpy(frame, at, MIN(48, PAGE_SIZE - (r.rsp & PAGE_OFFSET_MASK)));
		o->error = has_error((unsigned)o->vector) ? *f++ : 0;
		o->st.rip = f[0];
		o->st.sel[S_CS] = (uint16_t)f[1];
		o->st.rflags = f[2];
		o->st.gpr[GP_SP] = f[3];
		o->st.sel[S_SS] = (uint16_t)f[4];
	}
	engine_get_xsave(side->cpu, o->st.xs, XS_SIZE);
}

/* -- The run -- */

bool side_poll(struct side *s)
{
	return s->disturb || watchdog_ticks - s->started_tick > 4;
}

/* The watchdog's signal makes the engine look at the clock. */
void engine_side_kick(void)
{
	if (under_test.cpu)
		atomic_store(engine_exit_word(under_test.cpu), 1);
	if (reference.cpu)
		atomic_store(engine_exit_word(reference.cpu), 1);
}

static bool late(const struct side *s)
{
	return watchdog_ticks - s->started_tick > 4;
}

/* The translator has not come here yet, or not often; it waits as long as the test says, and makes groups as it says. */
static void make_cold(struct side *side, const struct test *t)
{
	uint64_t at = (side->real ? REAL_CODE : CODE) + t->code_at;

	jit_threshold = t->cold;
	for (uint64_t k = 0; side->cpu->jit && t->sequence && k < t->code_len; k++) {
		*jit_grouping(side->cpu->jit, at + k) = t->grouping;
		if (t->cold)
			*jit_heat(side->cpu->jit, at + k) = 0;
	}
}

uint64_t engine_insns;

void engine_side_run(struct side *side, const struct test *t, struct outcome *out)
{
	uint64_t before = engine_retired(side->cpu);
	enum engine_exit e;

	set_state(side, t);
	side->started_tick = watchdog_ticks;
	side->disturb = t->disturb && side == &under_test;
	if (side == &under_test)
		make_cold(side, t);
	do {
		atomic_store(engine_exit_word(side->cpu), 0);
		e = engine_run(side->cpu);
		if (e == ENGINE_EXIT_POLL && side->disturb)
			e = disturb(side);
	} while ((e == ENGINE_EXIT_POLL || e == ENGINE_EXIT_STEPPED) && !late(side));
	if (side == &reference || (!t->against && !t->third))
		engine_insns += engine_retired(side->cpu) - before;
	if (e == ENGINE_EXIT_POLL || e == ENGINE_EXIT_STEPPED)
		*out = (struct outcome){.vector = END_TIMEOUT};
	else
		get_state(side, e, out);
}
