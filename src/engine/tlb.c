/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The translation cache's two levels. The first, c->tlb, has one entry per slot, for one generation and privilege class:
 * what the inline accesses compare. The second, c->stlb, has what a walk found, by page and generation, so it answers
 * for every class, and address spaces do not push each other out; global pages have a generation of their own.
 *
 * jit_fill comes here with the guest's vector registers in the host's: this file is built without them, and calls
 * nothing that is not.
 */
#include "engine/jit.h"
#include "engine/walk.h"

/* Beside the page in stlb_entry.host. */
enum {
	HOLD_USER = 1,
	HOLD_WRITE = 2,
	HOLD_NX = 4,
	HOLD_STORE = 8, /* dirty already, and nobody else wants to hear of stores */
};

static uint64_t large_bit(uint64_t lin)
{
	return BIT(((lin >> 30) * 0x9e3779b97f4a7c15ULL) >> 58);
}

bool tlb_may_be_large(const struct engine_cpu *c, uint64_t lin)
{
	return c->tlb_large && (c->tlb_large_map & large_bit(lin));
}

/* -- The first level -- */

struct found {
	uint64_t lin, hold, seq;
	bool global, watched;
};

static void forget(struct tlb_entry *e)
{
	e->rtag = e->wtag = e->xtag = ~0ULL;
}

/* Caches the page, for data only if nobody is to hear of each access. */
static void fill_first(struct engine_cpu *c, const struct found *f, enum mmu_class class)
{
	uint64_t lin = f->lin, hold = f->hold;
	uint8_t *host = (uint8_t *)(hold & ~PAGE_OFFSET_MASK);
	struct rights r = class_rights(c, class, hold & HOLD_USER, hold & HOLD_WRITE, hold & HOLD_NX);
	uint64_t tag = lin | (c->tlb_key & GEN_MASK) | class;
	struct tlb_entry *e = TLB_AT(c, lin);

	forget(e);
	atomic_signal_fence(memory_order_seq_cst);
	e->addend = (uint64_t)host - lin;
	jit_tlb_inserted(c, lin, f->global);
	atomic_signal_fence(memory_order_seq_cst);
	if (r.read && !f->watched)
		e->rtag = tag;
	if (r.write && !f->watched && (hold & HOLD_STORE) && !jit_is_code_page(c, host))
		e->wtag = tag;
	if (r.exec)
		e->xtag = tag;
	atomic_signal_fence(memory_order_seq_cst);
	if (walk_seq(c) != f->seq)
		forget(e);
}

/* -- The second level -- */

static uint64_t tag_of(uint64_t lin, uint64_t gen)
{
	return (lin & ~PAGE_OFFSET_MASK) | gen << CLASS_BITS;
}

/* The two places that an entry may have. */
static struct stlb_entry *set_of(struct engine_cpu *c, uint64_t lin, uint64_t gen)
{
	return c->stlb[((lin >> PAGE_SHIFT) ^ gen * 0x9e5) & (STLB_SETS - 1)];
}

static struct stlb_entry *held(struct engine_cpu *c, uint64_t lin, uint64_t gen)
{
	struct stlb_entry *set = set_of(c, lin, gen);
	uint64_t tag = tag_of(lin, gen);

	return set[0].tag == tag ? &set[0] : set[1].tag == tag ? &set[1] : NULL;
}

static void drop(struct engine_cpu *c, uint64_t lin, uint64_t gen)
{
	struct stlb_entry *set = set_of(c, lin, gen);
	uint64_t tag = tag_of(lin, gen);

	for (unsigned k = 0; k < 2; k++)
		if (set[k].tag == tag)
			set[k].tag = 0;
}

void tlb_hold(struct engine_cpu *c, uint64_t seq)
{
	if (likely(c->held_seq == seq))
		return;
	for (unsigned k = 0; k < STLB_SETS; k++)
		c->stlb[k][0].tag = c->stlb[k][1].tag = 0;
	for (unsigned k = 0; k < PTLB_ENTRIES; k++)
		c->ptlb[k].tag = 0;
	c->held_seq = seq;
}

void tlb_insert(struct engine_cpu *c, const struct walk *w, enum mmu_class class,
		const struct engine_page *page)
{
	struct found f = {
	    .lin = w->lin & ~PAGE_OFFSET_MASK,
	    .hold = (uint64_t)page->host,
	    .seq = w->seq,
	    .global = w->n && (w->level[w->n - 1].pte & PTE_G) && (c->cr4 & CR4_PGE),
	    .watched =
		(c->break_data && debug_page_watched(c, w->lin & ~PAGE_OFFSET_MASK)) || c->slow & SLOW_AC,
	};
	uint64_t gen = f.global ? c->tlb_global_gen : mmu_generation(c);
	struct stlb_entry *set = set_of(c, f.lin, gen);

	f.hold |= (w->user ? HOLD_USER : 0) | (w->write ? HOLD_WRITE : 0) | (w->nx ? HOLD_NX : 0);
	f.hold |= w->dirty && page->writable && !page->tracked ? HOLD_STORE : 0;
	if (w->shift > 12) {
		c->tlb_large = true;
		c->tlb_large_map |= large_bit(f.lin);
	}
	fill_first(c, &f, class);
	if (f.watched || c->held_seq != f.seq)
		return;
	if (set[0].tag != tag_of(f.lin, gen))
		set[1] = set[0];
	set[0] = (struct stlb_entry){tag_of(f.lin, gen), f.hold};
}

bool tlb_reload(struct engine_cpu *c, uint64_t lin, enum mmu_class class, unsigned acc)
{
	struct found f = {.lin = lin & ~PAGE_OFFSET_MASK, .seq = walk_seq(c)};
	const struct stlb_entry *e;

	if (c->held_seq != f.seq || unlikely(c->break_data || c->slow & SLOW_AC))
		return false;
	e = held(c, lin, mmu_generation(c));
	if (!e) {
		e = held(c, lin, c->tlb_global_gen);
		f.global = true;
	}
	if (!e)
		return false;
	f.hold = e->host;
	fill_first(c, &f, class);
	return tlb_has(c, lin, class, acc);
}

void tlb_forget_page(struct engine_cpu *c, uint64_t lin, uint64_t gen)
{
	forget(TLB_AT(c, lin));
	drop(c, lin, gen);
	drop(c, lin, c->tlb_global_gen);
}
