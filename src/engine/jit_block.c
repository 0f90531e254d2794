/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A block: its head, its instructions, its exits.
 *
 *	head	the word (exit word, slow bits, epoch) plus the block's stamp must be 0: nobody wants us, and the
 *		guest bytes were compared in this epoch
 *	...	instructions
 *	stubs	the slow sides of the memory accesses, and the exits
 */
#include "engine/jit_emit.h"

#define BLOCK_ROOM 65536 /* bytes that a block may take */
#define NO_PATCH   UINT32_MAX

/* The trace's instruction number m->index is the one that is emitted. */
static void take_insn(struct making *m)
{
	const struct trace_insn *i = &m->t->insn[m->index];

	m->i = i;
	m->next = i->next;
	m->accesses = 0;
	m->led = NULL;
	m->d.in = i->d.in;
	memcpy(m->d.op, i->d.op, i->d.in.operand_count * sizeof(m->d.op[0]));
}

static void emit_op(struct making *m)
{
	if (!jit_op(m))
		jit_op_call(m);
	if (m->j->by_mnemonic)
		m->uncounted++;
}

/* -- Sites and their slow sides -- */

struct jit_site *jit_site_new(struct making *m, enum jit_site_kind kind, unsigned size)
{
	struct jit_site *s = &m->j->site[m->j->nsites++];

	*s = (struct jit_site){.start = e_here(&m->e),
			       .end = e_here(&m->e),
			       .again = e_here(&m->e),
			       .block = m->block_id,
			       .index = (uint8_t)m->index,
			       .size = (uint8_t)size,
			       .kind = (uint8_t)kind,
			       .leads = NO_GROUP,
			       .apart = (uint8_t)m->apart,
			       .own_size = (uint8_t)size,
			       .own_write = kind == SITE_WRITE,
			       .plain = m->d.in.meta.isa_ext == ZYDIS_ISA_EXT_BASE ||
					m->d.in.meta.isa_ext == ZYDIS_ISA_EXT_LONGMODE,
			       .uncounted = (int8_t)m->uncounted,
			       .vector = m->vector,
			       .behind_sti =
				   m->index && m->t->insn[m->index - 1].d.in.mnemonic == ZYDIS_MNEMONIC_STI,
			       .mnemonic = (uint16_t)m->d.in.mnemonic};
	return s;
}

static void stub_new(struct making *m, const struct jit_site *s, uint32_t patch, const struct address *a,
		     int64_t delta)
{
	m->stub[m->nstubs].site = (uint32_t)(s - m->j->site);
	m->stub[m->nstubs].patch = patch;
	m->stub[m->nstubs].computes = a;
	m->stub[m->nstubs].looks = m->stub[m->nstubs].astray = m->stub[m->nstubs].apart = false;
	m->stub[m->nstubs].delta = delta;
	if (a)
		m->stub[m->nstubs].a = *a;
	m->nstubs++;
}

void jit_jump_slow(struct making *m, const struct jit_site *s, const struct address *a, int64_t delta)
{
	stub_new(m, s, e_jmp(&m->e, 0), a, delta);
}

void jit_jump_far(struct making *m, const struct jit_site *s, uint32_t patch, const struct address *a,
		  int64_t delta, uint32_t back)
{
	stub_new(m, s, patch, a, delta);
	m->stub[m->nstubs - 1].looks = true;
	m->stub[m->nstubs - 1].back = back;
}

void jit_jump_apart(struct making *m, const struct jit_site *s, const struct address *a, int64_t delta)
{
	jit_jump_slow(m, s, a, delta);
	m->stub[m->nstubs - 1].apart = m->grouping == GROUPS_APART;
}

void jit_need_zero(struct making *m, const struct jit_site *s)
{
	e_jrcxz(&m->e, 5);
	jit_jump_slow(m, s, NULL, 0);
}

void jit_need_expected(struct making *m)
{
	e_jrcxz(&m->e, 5);
	stub_new(m, m->j->site, e_jmp(&m->e, 0), NULL, 0);
	m->stub[m->nstubs - 1].astray = true;
	m->stub[m->nstubs - 1].index = (uint8_t)m->index;
	m->stub[m->nstubs - 1].vector = m->vector;
	m->stub[m->nstubs - 1].uncounted = m->uncounted;
	m->stub[m->nstubs - 1].until = (uint8_t)m->apart;
}

void jit_only_slow(struct making *m, const struct jit_site *s, const struct address *a)
{
	stub_new(m, s, NO_PATCH, a, 0);
}

/* A part of the site's window that stands elsewhere. */
static void emit_far(struct making *m, unsigned k)
{
	uint32_t main = m->stub[k].site;
	struct jit_site *s = &m->j->site[m->j->nsites++];

	*s = m->j->site[main];
	s->look = 0;
	s->start = e_here(&m->e);
	jit_patch(m->j, m->stub[k].patch, s->start);
	jit_access_far(m, &m->j->site[main], &m->stub[k]);
	s->end = e_here(&m->e);
}

/* What emit_insn would go on with; no access joins a group. */
static void emit_astray(struct making *m, unsigned k)
{
	jit_patch(m->j, m->stub[k].patch, e_here(&m->e));
	m->index = m->stub[k].index;
	m->vector = m->stub[k].vector;
	m->uncounted = m->stub[k].uncounted;
	m->apart = m->stub[k].until;
	take_insn(m);
	m->accesses = m->i->naccess;
	jit_astray(m);
	m->apart = 0;
}

/*
 * What counts on the look-up of the stub's site, from its instruction on, each access with its own; the way back into the
 * block. An access that the interpreter executes here takes it to the part's end, as no group is looked up.
 */
static void emit_apart(struct making *m, unsigned k)
{
	const struct jit_step *step = &m->j->step[m->b->step];
	unsigned from = m->j->site[m->stub[k].site].index;

	jit_patch(m->j, m->stub[k].patch, e_here(&m->e));
	m->stub[k].patch = NO_PATCH;
	m->apart = step[from].until;
	m->nparted += m->apart - from + 1;
	m->vector = step[from].vector;
	m->uncounted = step[from].uncounted;
	m->ends = false;
	for (m->index = from; m->index <= m->apart && !m->e.full; m->index++) {
		take_insn(m);
		m->accesses = m->i->naccess;
		emit_op(m);
	}
	if (!m->ends)
		e_jmp(&m->e, step[m->apart + 1].code);
	m->apart = 0;
}

static bool may_part(const struct making *m, const struct jit_stub *stub)
{
	unsigned from = m->j->site[stub->site].index, until = m->j->step[m->b->step + from].until;

	return stub->apart && m->nparted + until - from < JIT_PARTED_MAX;
}

static void emit_stubs(struct making *m)
{
	for (unsigned k = 0; k < m->nstubs && !m->e.full; k++) {
		uint32_t here = e_here(&m->e);

		if (m->stub[k].looks) {
			emit_far(m, k);
			continue;
		}
		if (m->stub[k].astray) {
			emit_astray(m, k);
			continue;
		}
		if (may_part(m, &m->stub[k])) {
			emit_apart(m, k);
			here = e_here(&m->e);
		}
		if (m->stub[k].computes)
			jit_slow_address(m, &m->stub[k].a, m->stub[k].delta);
		e_leave(&m->e, m->stub[k].site, JIT_OFF(slow_thunk));
		if (m->e.full)
			return;
		if (m->stub[k].patch != NO_PATCH)
			jit_patch(m->j, m->stub[k].patch, here);
		m->j->site[m->stub[k].site].slow = here;
	}
}

/* -- Exits -- */

static struct jit_exit *exit_new(struct making *m, uint64_t target)
{
	struct jit_exit *x = &m->j->exit[m->j->nexits++];

	*x = (struct jit_exit){.target = target, .key = m->b->key};
	return x;
}

void jit_exit_to_key(struct making *m, uint64_t target, unsigned key)
{
	struct jit_exit *x = exit_new(m, target);

	x->key = key;
	x->patch = e_jmp(&m->e, 0);
}

void jit_exit_to(struct making *m, uint64_t target)
{
	jit_exit_to_key(m, target, m->b->key);
}

void jit_exit_if(struct making *m, unsigned cc, uint64_t target)
{
	exit_new(m, target)->patch = e_jcc(&m->e, cc, 0);
}

/* Where exits go before their targets are known: tells C which one it was. */
static void emit_exits(struct making *m)
{
	for (uint32_t k = m->first_exit; k < m->j->nexits && !m->e.full; k++) {
		jit_patch(m->j, m->j->exit[k].patch, e_here(&m->e));
		e_leave(&m->e, k, JIT_OFF(exit_thunk));
	}
}

/* -- Statistics -- */

void jit_count(struct making *m)
{
	struct emit *e = &m->e;

	if (!m->j->by_mnemonic)
		return;
	e_gs(e, OP_MOV_LOAD, true, H_RCX, CPU_OFF(retired));
	e_lea(e, H_RCX, H_RCX, m->uncounted + 1);
	e_gs(e, OP_MOV_STORE, true, H_RCX, CPU_OFF(retired));
	m->uncounted = -1;
}

/* -- The block -- */

static void emit_head(struct making *m)
{
	struct emit *e = &m->e;
	uint32_t over;

	e_gs(e, OP_MOV_LOAD, true, H_RCX, CPU_WORD);
	if (m->b->global)
		e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_global));
	e_gs(e, OP_MOV_LOAD, true, H_R14, JIT_OFF(stamp) + 8 * m->block_id);
	e_lea_full(e, true, false, H_RCX, H_RCX, H_R14, 0, 0);
	e_jrcxz(e, 13);
	over = e_here(e);
	e_leave(e, m->block_id, JIT_OFF(head_thunk));
	base_bug_on(!e->full && e_here(e) != over + 13);
	m->b->body = e_here(e);
}

static void begin_step(struct making *m, bool known, uint64_t rip)
{
	int64_t at = (int64_t)(rip - m->b->rip);

	m->j->step[m->j->nsteps++] =
	    (struct jit_step){.code = e_here(&m->e),
			      .at = known && at == (int32_t)at ? (int32_t)at : JIT_NOWHERE,
			      .until = (uint8_t)m->index,
			      .uncounted = (uint8_t)m->uncounted,
			      .vector = m->vector};
}

static void emit_insn(struct making *m)
{
	take_insn(m);
	begin_step(m, true, m->i->rip);
	emit_op(m);
}

/* If the interpreter executes an instruction that leads a group, it goes on to the group's last: no look-up was made. */
static void find_ends(struct making *m)
{
	struct jit_step *step = &m->j->step[m->b->step];

	for (unsigned k = m->t->n; k--;) {
		for (unsigned g = 0; g < m->t->ngroups; g++)
			if (m->t->group[g].led && m->t->group[g].lead == k)
				step[k].until = (uint8_t)MAX(step[k].until, m->t->group[g].last);
		for (unsigned n = k + 1; n <= step[k].until; n++)
			step[k].until = MAX(step[k].until, step[n].until);
	}
}

static void emit_body(struct making *m)
{
	struct trace *t = m->t;

	for (unsigned g = 0; g < t->ngroups; g++)
		t->group[g].led = false;
	for (m->index = 0; m->index < t->n && !m->e.full; m->index++)
		emit_insn(m);
	begin_step(m, !m->ends, t->end);
	if (!m->ends) {
		m->uncounted--; /* jit_count counts the instruction that it stands in */
		jit_count(m);
		jit_exit_to(m, t->end);
	}
	if (!m->e.full)
		find_ends(m);
}

/* Reads the page that RIP is in, the trace's first; false if it cannot be read now. */
static bool read_page(struct engine_cpu *c, struct trace *t)
{
	struct trace_page *page = &t->page[0];
	uint64_t seq;
	const uint8_t *host = interp_code_host(c, &seq);

	page->lin = jit_lin(c) & ~PAGE_OFFSET_MASK;
	page->host = (const uint8_t *)((uint64_t)host & ~PAGE_OFFSET_MASK);
	page->global = jit_is_global(c, page->lin);
	t->npages = 1;
	return !raw_copy(c, page->bytes, page->host, PAGE_SIZE, seq);
}

/* True if there is room for one more block with everything that it may need. */
static bool room(const struct jit *j)
{
	return j->used + BLOCK_ROOM < JIT_CODE_SIZE && j->nblocks + 1 < JIT_BLOCKS &&
	       j->nsites + JIT_STUBS < JIT_SITES &&
	       j->nexits + JIT_BLOCK_MAX + JIT_PARTED_MAX + 1 < JIT_EXITS &&
	       j->nsteps + JIT_BLOCK_MAX + 1 < JIT_STEPS && j->bytes_used + JIT_BLOCK_MAX * 15 < JIT_BYTES;
}

/* Keeps where its pages are. */
static void keep_pages(struct jit_block *b, const struct trace *t)
{
	b->global = true;
	b->npages = (uint8_t)t->npages;
	for (unsigned k = 0; k < t->npages; k++) {
		b->global &= t->page[k].global;
		b->page[k].lin = t->page[k].lin;
	}
}

/* Keeps what the block was made from. */
static void keep_bytes(struct jit *j, struct jit_block *b, const struct trace *t)
{
	b->bytes = j->bytes_used;
	b->nranges = (uint8_t)t->nranges;
	for (unsigned k = 0; k < t->nranges; k++) {
		b->range[k] = t->range[k];
		memcpy(j->bytes + j->bytes_used, t->page[t->range[k].page].bytes + t->range[k].off,
		       t->range[k].len);
		j->bytes_used += t->range[k].len;
	}
}

static void count_translation(struct jit *j, unsigned key)
{
	j->stats.translated++;
	j->stats.translated32 += (key & JIT_KEY_MODE) == JIT_MODE_32;
	j->stats.translated16 += (key & JIT_KEY_MODE) > JIT_MODE_32;
}

struct jit_block *jit_translate(struct engine_cpu *c)
{
	struct jit *j = c->jit;
	struct making m = {.c = c, .j = j, .t = j->trace, .stub = j->stub};
	unsigned key = jit_key(c);
	uint64_t rip = jit_lin(c);
	uint32_t sites, steps;

	if (!room(j) || jit_table(j, key) < 0)
		jit_flush(c);
	if (!read_page(c, m.t))
		return NULL;
	m.t->alone = *jit_alone(j, rip);
	m.grouping = *jit_grouping(j, rip);
	trace_make(c, m.t, m.grouping == NO_GROUPS);
	if (!m.t->n)
		return NULL;
	sites = j->nsites;
	steps = j->nsteps;
	m.first_exit = j->nexits;
	m.block_id = j->nblocks;
	m.b = &j->block[m.block_id];
	*m.b = (struct jit_block){.rip = rip,
				  .base = jit_base(c),
				  .key = (uint16_t)key,
				  .table = (uint8_t)jit_table(j, key),
				  .insns = (uint8_t)m.t->n,
				  .step = steps,
				  .contents = j->contents,
				  .spaces = j->spaces};
	keep_pages(m.b, m.t);
	m.e = (struct emit){.j = j, .p = j->rw + j->used, .end = j->rw + j->used + BLOCK_ROOM};
	m.b->entry = j->used;
	emit_head(&m);
	emit_body(&m);
	emit_stubs(&m);
	emit_exits(&m);
	if (m.e.full) {
		j->nsites = sites;
		j->nsteps = steps;
		j->nexits = m.first_exit;
		return NULL;
	}
	keep_bytes(j, m.b, m.t);
	j->used = (e_here(&m.e) + 15) & ~15U;
	j->nblocks++;
	count_translation(j, m.b->key);
	jit_perf_block(j, m.b);
	for (unsigned k = 0; k < m.t->npages; k++)
		jit_page_compared(c, m.b, k, m.t->page[k].host);
	j->stamp[m.block_id] = JIT_NO_STAMP; /* validated at its first entry */
	jit_insert(c, m.b);
	return m.b;
}
