/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The run loop of the translator: cold code by the interpreter, hot code by blocks; and what blocks ask of C.
 *
 * Generated code is entered with the guest's registers in c and left the same way, so whatever happens in jit_slow
 * (a fault that jumps to the run loop included) finds c->gpr and c->rflags as the interpreter would have left them
 * before the instruction of the site.
 */
#include "engine/code.h"
#include "engine/jit.h"

/* -- Flags and counts between the two -- */

static void flags_in(struct engine_cpu *c)
{
	c->rflags = jit_flags(c);
}

/* Statistics: instructions before a site that c->retired has not heard of; minus those once it has been there. */
static void count_owed(struct engine_cpu *c, int n)
{
	if (unlikely(c->jit->by_mnemonic))
		c->retired += (uint64_t)(int64_t)n;
}

/* -- Blocks that must be looked at before they run -- */

enum same { SAME, OTHER, NOT_NOW };

/* Compares the block's bytes in its page number k with those of `host`. */
static enum same same_bytes(struct engine_cpu *c, struct jit_block *b, unsigned k, const uint8_t *host,
			    uint64_t seq)
{
	const uint8_t *kept = c->jit->bytes + b->bytes;

	for (const struct jit_range *r = b->range; r < b->range + b->nranges; kept += r++->len) {
		if (r->page != k)
			continue;
		switch (raw_compare(c, host + r->off, kept, r->len, seq)) {
		case RAW_OK: break;
		case RAW_OTHER: return OTHER;
		case RAW_MOVED: return NOT_NOW;
		case RAW_BAD:
			if (!k)
				access_bad(c);
			return NOT_NOW;
		}
	}
	return SAME;
}

/* Where the block's page number k leads; that of RIP may raise. False: a fetch from it would. */
static bool page_host(struct engine_cpu *c, const struct jit_block *b, unsigned k, const uint8_t **host,
		      uint64_t *seq)
{
	struct place p;

	if (!k) {
		*host = (const uint8_t *)((uint64_t)interp_code_host(c, seq) & ~PAGE_OFFSET_MASK);
		return true;
	}
	if (!mmu_try_fetch(c, b->page[k].lin, &p))
		return false;
	*host = p.host;
	*seq = p.seq;
	return true;
}

/* Whether the guest's bytes, and if their pages are global, are still those of the block. May raise. */
static enum same same_code(struct engine_cpu *c, struct jit_block *b)
{
	struct jit *j = c->jit;
	bool old = j->contents != b->contents || (!b->global && j->spaces != b->spaces);

	for (unsigned k = 0; k < b->npages; k++) {
		const uint8_t *host;
		enum same is;
		uint64_t seq;

		if (!page_host(c, b, k, &host, &seq))
			return NOT_NOW;
		if (b->global && !jit_is_global(c, b->page[k].lin))
			return OTHER;
		if (host == b->page[k].host && !old)
			continue;
		j->stats.validations++;
		is = same_bytes(c, b, k, host, seq);
		if (is != SAME)
			return is;
		jit_page_compared(c, b, k, host);
	}
	b->contents = j->contents;
	b->spaces = j->spaces;
	return SAME;
}

void jit_forget(struct jit *j, struct jit_block *b)
{
	b->dead = true;
	j->stamp[b - j->block] = JIT_NO_STAMP;
	j->stats.retranslated++;
}

/* At a block's head: calm and compared, go on; else leave. */
static uint64_t enter_block(struct engine_cpu *c, struct jit_block *b)
{
	struct jit *j = c->jit;
	uint32_t id = (uint32_t)(b - j->block);

	jit_go(c, b->rip);
	if (b->dead || !jit_calm(c) || jit_key(c) != b->key)
		return 0;
	switch (same_code(c, b)) {
	case SAME: break;
	case OTHER: jit_forget(j, b); return 0;
	case NOT_NOW:
		j->missed = true;
		if (++b->misses == JIT_IN_VAIN) {
			*jit_alone(j, b->rip) = true;
			jit_forget(j, b);
		}
		return 0;
	}
	j->stamp[id] = jit_stamp(c, b);
	return (uint64_t)j->rx + b->body;
}

/* The block that runs may go on: its stamp is still that of the word. */
static bool stamped(const struct engine_cpu *c, const struct jit_block *b)
{
	return jit_block_word(c, b) + c->jit->stamp[b - c->jit->block] == 0;
}

/* -- Sites -- */

/* The exit by which the last block left leads to b from now on; an indirect branch finds it in the table. */
static void link_to(struct engine_cpu *c, const struct jit_block *b, uint32_t exit_id)
{
	struct jit *j = c->jit;
	struct jit_jump *t = &j->jump[b->table];
	unsigned i = jit_jump_index(jit_place(b), b->base);

	if (exit_id != JIT_NO_EXIT && j->exit[exit_id].target == b->rip && j->exit[exit_id].key == b->key) {
		jit_patch(j, j->exit[exit_id].patch, b->entry);
		return;
	}
	t->at[i].entry = (uint64_t)j->rx + b->entry;
	t->at[i].not_rip = ~jit_place(b);
}

/* RIP stands somewhere else: the block there, if there is one; 0 = leave. Its head looks at the word. */
static uint64_t go_on_at(struct engine_cpu *c)
{
	struct jit_block *b = jit_may(c) ? jit_find(c) : NULL;

	if (!b)
		return 0;
	link_to(c, b, JIT_NO_EXIT);
	jit_flags_out(c);
	c->jit->vector_want = 0;
	return (uint64_t)c->jit->rx + b->entry;
}

static struct jit_step *step_of(const struct jit *j, const struct jit_block *b, unsigned k)
{
	return &j->step[b->step + k];
}

static uint64_t rip_of(const struct jit_block *b, const struct jit_step *s)
{
	return b->rip + (uint64_t)(int64_t)s->at;
}

/* What the block was made from at rip: up to 15 bytes. */
static unsigned bytes_at(const struct jit *j, const struct jit_block *b, uint64_t rip, uint8_t *buf)
{
	unsigned n = 0;

	for (bool more = true; more && n < 15;) {
		const uint8_t *kept = j->bytes + b->bytes;

		more = false;
		for (const struct jit_range *r = b->range; r < b->range + b->nranges && !more;
		     kept += r++->len) {
			uint64_t at = rip + n - (b->page[r->page].lin + r->off);
			unsigned here = at < r->len ? MIN(r->len - (unsigned)at, 15 - n) : 0;

			memcpy(buf + n, kept + (here ? at : 0), here);
			n += here;
			more = here;
		}
	}
	return n;
}

/* The step's instruction, decoded once: the block's bytes have been compared. NULL: no room. */
static const struct insn *insn_of(struct engine_cpu *c, const struct jit_block *b, struct jit_step *s)
{
	struct jit *j = c->jit;
	uint8_t buf[16];
	unsigned n;

	if (s->insn)
		return &j->insn[s->insn - 1];
	n = bytes_at(j, b, rip_of(b, s), buf);
	if (j->ninsns == JIT_INSNS || decode_bytes(c, &j->insn[j->ninsns], buf, n) != DECODE_OK)
		return NULL;
	s->insn = ++j->ninsns;
	return &j->insn[s->insn - 1];
}

/* Executes it, a repeated one up to its end unless somebody asks. */
static void execute(struct engine_cpu *c, const struct jit_block *b, struct jit_step *s)
{
	const struct insn *i = insn_of(c, b, s);
	uint64_t at = c->rip, base = c->seg[CS].base;

	if (!i) {
		interp_one(c);
		return;
	}
	do {
		c->next_rip = at + i->len;
		i->exec(c, i);
		c->rip = c->next_rip;
		c->retired++;
		/* A far transfer may lead to this RIP in another segment. */
	} while (c->rip == at && c->seg[CS].base == base && c->mode_key == i->mode_key && stamped(c, b));
}

/* Executes the block's instruction number k by its handler. True if the block goes on behind it, and may. */
static bool step_over(struct engine_cpu *c, const struct jit_block *b, unsigned k)
{
	const struct jit_step *next = step_of(c->jit, b, k + 1);
	struct jit *j = c->jit;
	unsigned key = b->key;
	uint32_t dropped = j->dropped;

	j->stats.fallbacks++;
	jit_go(c, rip_of(b, step_of(j, b, k)));
	execute(c, b, step_of(j, b, k));
	return next->at != JIT_NOWHERE && jit_lin(c) == rip_of(b, next) && jit_key(c) == key &&
	       jit_base(c) == b->base && jit_may(c) && dropped == j->dropped && stamped(c, b);
}

/* No look-up for a group: if that happens again and again, the block is made otherwise. */
static bool look_in_vain(struct jit *j, struct jit_block *b)
{
	if (++b->in_vain < JIT_IN_VAIN)
		return false;
	*jit_grouping(j, b->rip) = *jit_grouping(j, b->rip) == GROUPS ? GROUPS_APART : NO_GROUPS;
	jit_forget(j, b);
	return true;
}

/* The handler has made the access known, perhaps. True: so is its group. */
static bool fill_after(struct engine_cpu *c, const struct jit_site *s)
{
	uint64_t seq = atomic_load_explicit(&c->revoke_seq, memory_order_relaxed);
	volatile uint64_t *addend = &c->jit->group[MAX(s->leads, 0)];
	struct jit *j = c->jit;

	if (!jit_tlb_fill(c, j->lin, s->size, s->kind == SITE_WRITE) || s->leads < 0 || !s->sole)
		return false;
	*addend = jit_tlb_addend(c, j->lin, s->kind == SITE_WRITE);
	atomic_signal_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&c->revoke_seq, memory_order_relaxed) == seq)
		return true;
	*addend = JIT_NO_ADDEND;
	return false;
}

/* Executes the site's instruction by its handler, and those behind it that count on its look-up; where to go on. */
static uint64_t call_handler(struct engine_cpu *c, const struct jit_site *s, struct jit_block *b)
{
	unsigned k = s->index, until = s->apart ? s->apart : step_of(c->jit, b, k)->until;
	bool looks = s->kind != SITE_CALL && !s->member && !s->apart, on;
	struct jit *j = c->jit;

	if (unlikely(j->by_mnemonic))
		jit_stats_site(j, s);
	count_owed(c, s->uncounted);
	do {
		on = step_over(c, b, k);
		if (on && k == s->index && looks && fill_after(c, s))
			until = k;
	} while (on && k++ < until);
	/* A path that was left on its way says nothing of a branch's own look-up. */
	if ((on || looks) && until > s->index && !s->apart && look_in_vain(j, b))
		on = false;
	if (!on)
		return go_on_at(c);
	count_owed(c, -step_of(j, b, k)->uncounted);
	jit_flags_out(c);
	j->vector_want = step_of(j, b, k)->vector;
	return (uint64_t)j->rx + step_of(j, b, k)->code;
}

/* The access is not in the table: from c->tlb, else by a walk, which may raise. False: that is not enough. */
static bool find_page(struct engine_cpu *c, const struct jit_site *s, const struct jit_block *b)
{
	struct jit *j = c->jit;
	uint64_t lin = c->code64 ? j->lin + s->own : (uint32_t)(j->lin + s->own);
	struct place p;

	if (jit_tlb_fill(c, j->lin, s->size, s->kind == SITE_WRITE))
		return true;
	if (!s->plain || s->own_size - 1U > (~lin & PAGE_OFFSET_MASK) || !is_canonical(lin))
		return false;
	jit_go(c, rip_of(b, step_of(j, b, s->index)));
	count_owed(c, s->uncounted);
	mmu_find(c, lin, s->own_write ? ACC_WRITE : ACC_READ, &p);
	count_owed(c, -s->uncounted);
	/* A store to the block's own code: not from within. */
	return stamped(c, b) && jit_tlb_fill(c, j->lin, s->size, s->kind == SITE_WRITE);
}

uint64_t jit_slow(struct engine_cpu *c, uint32_t site)
{
	struct jit *j = c->jit;
	const struct jit_site *s = &j->site[site];
	struct jit_block *b = &j->block[s->block];

	flags_in(c);
	j->exit_id = JIT_NO_EXIT;
	j->vector_want = s->vector;
	if (unlikely(s->behind_sti && j->sti_opened)) {
		/* In its shadow, and perhaps about to leave: the careful way. */
		j->sti_opened = 0;
		jit_go(c, rip_of(b, step_of(j, b, s->index)));
		count_owed(c, s->uncounted);
		engine_set_shadow(c, ENGINE_SHADOW_STI);
		return 0;
	}
	j->sti_opened = 0;
	if (s->kind != SITE_CALL && !s->member && (site != j->filled_site || j->lin != j->filled_lin) &&
	    find_page(c, s, b)) {
		j->filled_site = site;
		j->filled_lin = j->lin;
		j->stats.fills++;
		return (uint64_t)j->rx + s->again;
	}
	return call_handler(c, s, b);
}

uint64_t jit_head(struct engine_cpu *c, uint32_t block)
{
	flags_in(c);
	c->jit->exit_id = JIT_NO_EXIT;
	return enter_block(c, &c->jit->block[block]);
}

/* -- The loop -- */

static unsigned heat_index(uint64_t rip)
{
	return (unsigned)(rip ^ rip >> 14) & (JIT_HEAT - 1);
}

uint8_t *jit_heat(struct jit *j, uint64_t rip)
{
	return &j->heat[heat_index(rip)];
}

uint8_t *jit_grouping(struct jit *j, uint64_t rip)
{
	return &j->grouping[heat_index(rip)];
}

bool *jit_by_table(struct jit *j, uint64_t rip)
{
	return &j->table[heat_index(rip)];
}

bool *jit_alone(struct jit *j, uint64_t rip)
{
	return &j->alone[heat_index(rip)];
}

static struct jit_led *led_at(struct jit *j, uint64_t rip)
{
	return &j->led[(rip ^ rip >> 13) & (JIT_LED - 1)];
}

static void note_branch(struct jit *j, uint64_t from, uint64_t to)
{
	struct jit_led *l = led_at(j, from);

	l->times = l->from == from && l->to == to ? l->times + 1 : 1;
	l->from = from;
	l->to = to;
}

uint64_t jit_led_to(struct jit *j, uint64_t rip)
{
	const struct jit_led *l = led_at(j, rip);

	return l->from == rip && l->times * 2 >= jit_threshold ? l->to : JIT_NO_ADDEND;
}

/* One instruction after another until a branch, or until something asks. */
static void run_cold(struct engine_cpu *c)
{
	bool straight;

	do {
		uint64_t from = jit_lin(c);

		c->jit->stats.cold++;
		straight = interp_one(c);
		if (!straight)
			note_branch(c->jit, from, jit_lin(c));
	} while (straight && jit_calm(c));
}

static bool is_hot(struct jit *j, uint64_t rip)
{
	uint8_t *h = jit_heat(j, rip);

	if (*h >= jit_threshold)
		return true;
	++*h;
	return false;
}

/* The block at c->rip, made if the code is hot; NULL: interpret. */
static struct jit_block *block_here(struct engine_cpu *c)
{
	struct jit_block *b = jit_find(c);
	uint64_t rip = jit_lin(c), *none = &c->jit->no_block[heat_index(rip >> 4) & (JIT_CROSSINGS - 1)];

	if (b || *none == rip || !is_hot(c->jit, rip))
		return b;
	b = jit_translate(c);
	if (!b && (rip & PAGE_OFFSET_MASK) > PAGE_SIZE - 15)
		*none = rip; /* at worst: code that has changed since stays with the interpreter */
	return b;
}

/* No block here: cold, or nothing to translate (an instruction that is not whole), behind which there may be a block. */
static void run_without(struct engine_cpu *c)
{
	if (!jit_may(c) || *jit_heat(c->jit, jit_lin(c)) < jit_threshold) {
		run_cold(c);
		return;
	}
	c->jit->stats.cold++;
	interp_one(c);
}

static void run_block(struct engine_cpu *c, struct jit_block *b)
{
	struct jit *j = c->jit;
	uint32_t id;

	jit_flags_out(c);
	j->exit_id = JIT_NO_EXIT;
	j->stats.exits++;
	j->enter(c, (uint64_t)j->rx + b->entry);
	id = j->exit_id;
	if (id == JIT_NO_EXIT)
		return; /* jit_slow has put everything in place */
	flags_in(c);
	jit_go(c, j->exit[id].target);
}

void jit_run(struct engine_cpu *c)
{
	struct jit *j = c->jit;
	uint32_t exit_id = JIT_NO_EXIT;
	bool looked;

	if (!jit_start(c)) {
		while (jit_calm(c))
			interp_one(c);
		return;
	}
	code_keep_looking(c->code);
	looked = atomic_load_explicit(&c->look, memory_order_relaxed) && atomic_exchange(&c->look, false);
	if (looked || atomic_load_explicit(&c->revoke_seq, memory_order_relaxed) != j->seen_seq) {
		j->seen_seq = atomic_load_explicit(&c->revoke_seq, memory_order_relaxed);
		jit_new_contents(c);
	}
	if (looked)
		jit_near_judge(j);
	j->gs_outside = jit_gs_enter(c);
	j->inside = true;
	jit_watch(j);
	while (jit_calm(c)) {
		uint64_t generation = j->stats.flushes;
		struct jit_block *b = jit_may(c) ? block_here(c) : NULL;

		if (!b) {
			exit_id = JIT_NO_EXIT;
			run_without(c);
			continue;
		}
		if (generation == j->stats.flushes)
			link_to(c, b, exit_id);
		run_block(c, b);
		exit_id = j->exit_id;
		if (unlikely(j->missed)) {
			j->missed = false;
			run_cold(c);
		}
	}
	jit_landed(c);
}

void jit_landed(struct engine_cpu *c)
{
	if (!c->jit || !c->jit->inside)
		return;
	c->jit->inside = false;
	jit_watch(NULL);
	jit_gs_leave(c->jit->gs_outside);
}

void jit_begin(struct engine_cpu *c)
{
	if (c->jit && c->jit->rw)
		jit_new_contents(c);
}
