/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory accesses of generated code: from the guest's address to the operand of the host's instruction.
 *
 * A look-up (jit_tlb.c) gives what is to be added to the linear address. It is made for one access, or by the first of
 * a group for all of it: the group's addend then waits in jit->group, where whatever makes the table forget puts one
 * that faults. From the look-up to the access is one window: it changes only scratch registers (rcx, r14, r15), so it
 * can be begun again at any point (engine_kick), and the access commits all at once. Nothing in it touches flags.
 */
#include "engine/jit_emit.h"

#define GPR_OFF(n) ((uint32_t)(offsetof(struct engine_cpu, gpr) + 8 * (n)))

/* -- Addresses -- */

/* Outside 64-bit mode: the offset plus delta in r14. */
static void emit_offset(struct making *m, const struct address *a, int64_t delta)
{
	int64_t disp = a->disp + delta;
	struct emit *e = &m->e;

	if (a->absolute) {
		e_mov_imm(e, H_R14, a->width == 16 ? (uint16_t)disp : (uint32_t)disp);
		return;
	}
	e_lea_full(e, false, false, H_R14, a->base < 0 ? -1 : jit_host_of(a->base),
		   a->index < 0 ? -1 : jit_host_of(a->index), a->scale, (int32_t)disp);
	if (a->width == 16)
		e_rr(e, OP_MOVZX16, false, H_R14, H_R14);
}

static void add_base(struct making *m, const struct address *a)
{
	if (!a->seg)
		return;
	e_gs(&m->e, OP_MOV_LOAD, false, H_RCX, a->seg);
	e_lea_full(&m->e, false, false, H_R14, H_R14, H_RCX, 0, 0);
}

/* The linear address in r14, if all of the access lies in its segment and may be made there. Uses rcx. */
static void emit_checked(struct making *m, const struct address *a, const struct jit_site *s)
{
	uint32_t room = CPU_OFF(seg_room) + 8 * (SEGS * (s->kind == SITE_WRITE) + a->check - 1U);
	struct emit *e = &m->e;

	emit_offset(m, a, 0);
	e_gs(e, OP_MOV_LOAD, true, H_RCX, room);
	e_lea_full(e, true, false, H_RCX, H_RCX, H_R14, 0, s->size - 1);
	e_not(e, H_RCX);
	e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_sign));
	jit_need_zero(m, m->outside);
	add_base(m, a);
}

/* The linear address plus delta in r14; uses r15 and rcx. */
static void emit_linear(struct making *m, const struct address *a, int64_t delta)
{
	struct emit *e = &m->e;
	int64_t disp = a->disp + delta;

	if (a->width) {
		emit_offset(m, a, delta);
		add_base(m, a);
		return;
	}
	if (a->absolute) {
		e_mov_imm(e, H_R14, (uint64_t)disp);
	} else {
		int base = a->base < 0 ? -1 : (int)jit_reg_in(m, a->base, H_R14);
		int index = a->index < 0 ? -1 : (int)jit_reg_in(m, a->index, H_R15);

		if (index < 0 && !disp) {
			if (base != H_R14)
				e_rr(e, OP_MOV_STORE, true, (unsigned)base, H_R14);
		} else {
			e_lea_full(e, true, false, H_R14, base, index, a->scale, (int32_t)disp);
		}
	}
	if (a->seg) {
		e_gs(e, OP_MOV_LOAD, true, H_RCX, a->seg);
		e_lea_full(e, true, false, H_R14, H_R14, H_RCX, 0, 0);
	}
}

/* A host register that is the address but for its displacement; -1: there is none. */
static int direct_base(const struct address *a)
{
	return a->base >= 0 && a->index < 0 && !a->seg && !a->width && !jit_in_memory(a->base)
		   ? jit_host_of(a->base)
		   : -1;
}

static bool fits(int64_t v)
{
	return v == (int32_t)v;
}

/* -- The look-up -- */

struct look jit_columns(const struct making *m, bool write)
{
	uint32_t table = JIT_OFF(tlb) + (m->b->key & JIT_KEY_CLASS) * (uint32_t)sizeof(struct jit_tlb);

	if (write)
		return (struct look){table + (uint32_t)offsetof(struct jit_tlb, wneg),
				     table + (uint32_t)offsetof(struct jit_tlb, wadd)};
	return (struct look){table + (uint32_t)offsetof(struct jit_tlb, rneg),
			     table + (uint32_t)offsetof(struct jit_tlb, radd)};
}

void jit_probe(struct making *m, unsigned first, uint32_t neg, int32_t more)
{
	struct emit *e = &m->e;

	e_pext(e, H_R15, first, JIT_OFF(mask_index));
	e_gs_index(e, H_RCX, H_R15, neg);
	/* The last byte's page, where the first one's is kept. */
	e_lea_full(e, true, false, H_RCX, H_RCX, H_R14, 0, more);
	e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_page));
}

/* rcx 0: on; else to the site's slow side. */
static void emit_judge(struct making *m, const struct jit_site *s, const struct address *a, int64_t delta)
{
	e_jrcxz(&m->e, 5);
	if (s->leads == NO_GROUP)
		jit_jump_slow(m, s, a, delta);
	else
		jit_jump_apart(m, s, a, delta);
}

static uint64_t constant(const struct address *a, int64_t delta)
{
	uint64_t at = (uint64_t)(a->disp + delta);

	return a->width == 16 ? (uint16_t)at : a->width ? (uint32_t)at : at;
}

/* A place that is known: its page and index are constants. */
static void look_absolute(struct making *m, const struct jit_site *s, const struct address *a, int64_t delta)
{
	uint64_t first = constant(a, delta), last = first + s->size - 1, page = first & ~PAGE_OFFSET_MASK;
	struct look t = jit_columns(m, s->kind == SITE_WRITE);
	uint32_t at = 8 * (uint32_t)(first >> PAGE_SHIFT & (JIT_TLB - 1));
	struct emit *e = &m->e;

	if ((first ^ last) >> PAGE_SHIFT) {
		jit_jump_slow(m, s, a, delta);
		return;
	}
	e_gs(e, OP_MOV_LOAD, true, H_RCX, t.neg + at);
	if (fits((int64_t)page)) {
		e_lea(e, H_RCX, H_RCX, (int32_t)page);
	} else {
		e_mov_imm(e, H_R14, page);
		e_lea_full(e, true, false, H_RCX, H_RCX, H_R14, 0, 0);
	}
	emit_judge(m, s, a, delta);
	e_gs(e, OP_MOV_LOAD, true, H_R15, t.add + at);
	e_mov_imm(e, H_R14, constant(a, 0));
	m->at = (struct place_of){H_R14, H_R15, 0};
}

/*
 * Both ends of s->size bytes at rcx, an offset in a page: rcx 0 if they lie there. `exact` false: and only if they are
 * aligned, which is one instruction. Uses r15.
 */
static void emit_inside(struct making *m, const struct jit_site *s, bool exact)
{
	struct emit *e = &m->e;
	unsigned size = s->size;

	if (size == 1 || (size == m->aligned && size <= 64) ||
	    (!exact && size <= 8 && !(size & (size - 1)))) {
		e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_near) + 8 * (uint32_t)__builtin_ctz(size));
		return;
	}
	e_pext(e, H_R15, H_RCX, JIT_OFF(mask_page));
	e_lea(e, H_RCX, H_RCX, (int32_t)size - 1);
	e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_page));
	e_lea_full(e, true, false, H_RCX, H_RCX, H_R15, 0, 0);
}

static uint32_t near_table(const struct making *m, const struct jit_site *s)
{
	return JIT_OFF(near) + (2 * (m->b->key & JIT_KEY_CLASS) + (s->kind == SITE_WRITE)) *
				   (uint32_t)sizeof(struct jit_near);
}

static struct look near_columns(const struct making *m, const struct jit_site *s)
{
	uint32_t table = near_table(m, s);

	return (struct look){table + (uint32_t)offsetof(struct jit_near, neg) + 8U * s->near,
			     table + (uint32_t)offsetof(struct jit_near, add) + 8U * s->near};
}

/* Instructions that are executed together have different ones, mostly. */
static uint16_t near_of(const struct trace_insn *i, const struct address *a)
{
	return ((i->rip >> 1) * 0x9e3779b97f4a7c15ULL >> 40 ^ (uint64_t)(a->base + 1)) & (JIT_NEAR - 1);
}

/* The table at once. */
static void look_table(struct making *m, const struct jit_site *s, const struct address *a, int64_t delta)
{
	struct look t = jit_columns(m, s->kind == SITE_WRITE);
	int base = direct_base(a);
	struct emit *e = &m->e;

	if (a->check)
		emit_checked(m, a, s);
	else
		emit_linear(m, a, delta);
	jit_probe(m, H_R14, t.neg, s->size - 1);
	emit_judge(m, s, a, delta);
	m->at = base >= 0 ? (struct place_of){base, H_R15, (int32_t)a->disp}
			  : (struct place_of){H_R14, H_R15, (int32_t)-delta};
	e_gs_index(e, H_R15, H_R15, t.add);
}

/* From a base register no address is computed but by the access itself; else it is in r14 first. */
static void look_near(struct making *m, struct jit_site *s, const struct address *a, int64_t delta,
		      bool exact)
{
	struct look near = near_columns(m, s);
	int base = direct_base(a);
	struct emit *e = &m->e;
	uint32_t far;

	if (base >= 0) {
		m->at = (struct place_of){base, H_R15, (int32_t)a->disp};
		s->look = e_here(e);
		e_gs(e, OP_MOV_LOAD, true, H_R15, near.neg);
		e_lea_full(e, true, false, H_RCX, base, H_R15, 0, (int32_t)(a->disp + delta));
	} else {
		m->at = (struct place_of){H_R14, H_R15, (int32_t)-delta};
		if (a->check)
			emit_checked(m, a, s);
		else
			emit_linear(m, a, delta);
		s->look = e_here(e);
		e_gs(e, OP_MOV_LOAD, true, H_R15, near.neg);
		e_lea_full(e, true, false, H_RCX, H_R14, H_R15, 0, 0);
	}
	emit_inside(m, s, exact);
	e_jrcxz(e, 5);
	far = e_jmp(e, 0);
	e_gs(e, OP_MOV_LOAD, true, H_R15, near.add);
	jit_jump_far(m, s, far, a, delta, e_here(e));
}

/* Of a site that looked near; uses rcx. */
static void count_far(struct making *m, const struct jit_site *s)
{
	uint32_t slot = near_table(m, s) + (uint32_t)offsetof(struct jit_near, far) + 8U * s->near;

	e_gs(&m->e, OP_MOV_LOAD, false, H_RCX, slot);
	e_lea(&m->e, H_RCX, H_RCX, 1);
	e_gs(&m->e, OP_MOV_STORE, false, H_RCX, slot);
	e_mov_imm(&m->e, H_RCX, (uint64_t)(s - m->j->site));
	e_gs(&m->e, OP_MOV_STORE, false, H_RCX, slot + 4);
}

void jit_access_far(struct making *m, struct jit_site *s, const struct jit_stub *stub)
{
	struct look t = jit_columns(m, s->kind == SITE_WRITE), near = near_columns(m, s);
	const struct address *a = &stub->a;
	int base = direct_base(a);
	struct emit *e = &m->e;

	s->far = e_here(e);
	count_far(m, s);
	if (base >= 0)
		e_lea(e, H_R14, (unsigned)base, (int32_t)(a->disp + stub->delta));
	e_pext(e, H_R15, H_R14, JIT_OFF(mask_index));
	e_gs_index(e, H_R15, H_R15, t.neg);
	e_lea_full(e, true, false, H_RCX, H_R14, H_R15, 0, s->size - 1);
	e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_page));
	emit_judge(m, s, a, stub->delta);
	/* RSP is not 0. A kick in between begins the look-up again. */
	e_gs(e, OP_MOV_STORE, true, H_RSP,
	     near_table(m, s) + (uint32_t)offsetof(struct jit_near, used) + 8U * (s->near / JIT_NEAR_PART));
	e_gs(e, OP_MOV_STORE, true, H_R15, near.neg);
	e_pext(e, H_R15, H_R14, JIT_OFF(mask_index));
	e_gs_index(e, H_R15, H_R15, t.add);
	e_gs(e, OP_MOV_STORE, true, H_R15, near.add);
	e_jmp(e, stub->back);
	if (!e->full)
		jit_near_made(m->j, s);
}

/* -- Groups -- */

#define GROUP_OFF(n) (JIT_OFF(group) + 8 * (uint32_t)(n))

static bool same_address(const struct address *a, const struct address *b)
{
	return a->base == b->base && a->index == b->index && a->scale == b->scale && a->disp == b->disp &&
	       a->absolute == b->absolute && a->seg == b->seg && a->width == b->width;
}

/* The access that the trace found for what is emitted now; NULL: it is alone. */
static const struct trace_access *next_access(struct making *m, const struct address *a, bool write,
					      unsigned size)
{
	const struct trace_access *x = m->accesses < m->i->naccess ? &m->i->access[m->accesses] : NULL;

	m->accesses++;
	if (!x || x->group == NO_GROUP || x->size != size || (write && !x->write) || !same_address(&x->a, a))
		return NULL;
	return x;
}

static bool by_table(const struct making *m)
{
	if (unlikely(jit_near_forced))
		return jit_near_at(m->i->rip) == NEAR_NOT;
	return *jit_by_table(m->j, m->i->rip);
}

/* Its look-up: for the access alone, or for a group, whose size may be the access's nevertheless. `exact`: emit_inside. */
static struct jit_site *emit_look(struct making *m, const struct address *a, enum jit_site_kind kind,
				  unsigned size, int64_t delta, bool exact, int group)
{
	struct jit_site *s = jit_site_new(m, kind, size);

	s->leads = (int8_t)group;
	s->near = near_of(m->i, a);
	if (a->absolute && !a->seg)
		look_absolute(m, s, a, delta);
	else if (by_table(m))
		look_table(m, s, a, delta);
	else
		look_near(m, s, a, delta, exact);
	return s;
}

/* A later member: the addend is there. */
static void emit_member(struct making *m, const struct address *a, int group)
{
	int base = direct_base(a);

	if (base >= 0) {
		m->at = (struct place_of){base, H_R15, (int32_t)a->disp};
	} else {
		emit_linear(m, a, 0);
		m->at = (struct place_of){H_R14, H_R15, 0};
	}
	e_gs(&m->e, OP_MOV_LOAD, true, H_R15, GROUP_OFF(group));
}

struct jit_site *jit_access(struct making *m, const struct address *a, enum jit_site_kind kind, unsigned size)
{
	const struct trace_access *x = next_access(m, a, kind == SITE_WRITE, size);
	struct trace_group *g = x ? &m->t->group[x->group] : NULL;
	int64_t delta = g ? g->lo - x->off : 0;
	struct jit_site *s;

	if (g && !fits(a->disp + delta) && !a->absolute)
		g = NULL;
	/* An access that its segment does not allow is the handler's at once. */
	m->outside = a->check ? jit_site_new(m, SITE_CALL, 0) : NULL;
	if (g && g->led) {
		s = jit_site_new(m, kind, size);
		s->member = true;
		emit_member(m, a, x->group);
		jit_only_slow(m, s, a);
		g->last = m->index;
		return s;
	}
	if (!g)
		return emit_look(m, a, kind, size, 0, false, NO_GROUP);
	s = emit_look(m, a, g->write ? SITE_WRITE : kind, (unsigned)(g->hi - g->lo), delta,
		      (unsigned)(g->hi - g->lo) != size, x->group);
	s->own = (uint8_t)-delta;
	s->own_size = (uint8_t)size;
	s->own_write = kind == SITE_WRITE;
	s->sole = !m->led;
	if (m->led)
		m->led->sole = false;
	m->led = s;
	e_gs(&m->e, OP_MOV_STORE, true, H_R15, GROUP_OFF(x->group));
	g->led = true;
	g->lead = g->last = m->index;
	return s;
}

void jit_slow_address(struct making *m, const struct address *a, int64_t delta)
{
	emit_linear(m, a, delta);
}
