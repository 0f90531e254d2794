/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks of the guest's page tables (SDM 3A chapter 4): 32-bit, PAE and 4-level. Entries are read
 * and updated in place in guest memory, inside windows, under one sampled revocation sequence.
 */
#include <sched.h>

#include "engine/walk.h"

/* -- Windows on one entry -- */

/* WIN_FAULT: not memory, or not writable memory; WIN_BAD: the host's mapping is gone. */
enum win { WIN_OK, WIN_FAULT, WIN_MOVED, WIN_BAD };

static enum win win_ld64(struct engine_cpu *c, uint64_t seq, const void *p, uint64_t *out)
{
	uint64_t v;

	ASM_GOTO(WINDOW("1f", "2f", "%l[fault]", "1f") "1:\tcmpq %[cur], %[seq]\n\tjne %l[moved]\n\t"
						       "movq (%[p]), %[v]\n2:"
		 : [v] "=&r"(v)
		 : [seq] "r"(seq), [cur] "m"(c->revoke_seq), [p] "r"(p)
		 : "cc", "memory"
		 : fault, moved);
	*out = v;
	return WIN_OK;
fault:
	return WIN_BAD;
moved:
	return WIN_MOVED;
}

static enum win win_ld32(struct engine_cpu *c, uint64_t seq, const void *p, uint64_t *out)
{
	uint32_t v;

	ASM_GOTO(WINDOW("1f", "2f", "%l[fault]", "1f") "1:\tcmpq %[cur], %[seq]\n\tjne %l[moved]\n\t"
						       "movl (%[p]), %[v]\n2:"
		 : [v] "=&r"(v)
		 : [seq] "r"(seq), [cur] "m"(c->revoke_seq), [p] "r"(p)
		 : "cc", "memory"
		 : fault, moved);
	*out = v;
	return WIN_OK;
fault:
	return WIN_BAD;
moved:
	return WIN_MOVED;
}

/* Sets bits in an entry that must still hold `old`: WIN_MOVED if it does not. */
static enum win win_update(struct engine_cpu *c, uint64_t seq, void *p, uint64_t old, uint64_t val,
			   bool narrow)
{
	if (narrow)
		ASM_GOTO(
		    WINDOW("1f", "2f", "%l[fault]", "1f") "1:\tcmpq %[cur], %[seq]\n\t"
							  "jne %l[moved]\n\tmovl %k[old], %%eax\n\t"
							  "lock cmpxchgl %k[val], (%[p])\n2:\t"
							  "jne %l[moved]"
		    :
		    : [seq] "r"(seq), [cur] "m"(c->revoke_seq), [p] "r"(p), [old] "r"(old), [val] "r"(val)
		    : "cc", "memory", "rax"
		    : fault, moved);
	else
		ASM_GOTO(
		    WINDOW("1f", "2f", "%l[fault]", "1f") "1:\tcmpq %[cur], %[seq]\n\t"
							  "jne %l[moved]\n\tmovq %[old], %%rax\n\t"
							  "lock cmpxchgq %[val], (%[p])\n2:\t"
							  "jne %l[moved]"
		    :
		    : [seq] "r"(seq), [cur] "m"(c->revoke_seq), [p] "r"(p), [old] "r"(old), [val] "r"(val)
		    : "cc", "memory", "rax"
		    : fault, moved);
	return WIN_OK;
fault:
	return WIN_BAD;
moved:
	return WIN_MOVED;
}

/* -- Pages that hold tables -- */

/* Leaves the run loop's instruction so that it is executed again after a look at the exit word. */
static _Noreturn void leave_redo(struct engine_cpu *c)
{
	c->leave = LEAVE_REDO;
	siglongjmp(*c->jump, 1);
}

/* port->fill, waiting out FILL_RETRY; leaves with LEAVE_REDO if the exit word is set meanwhile (not quiet).
 */
static enum engine_fill walk_fill(struct engine_cpu *c, uint64_t gpa, bool write, bool quiet,
				  struct engine_page *page)
{
	for (unsigned tries = 0;; tries++) {
		enum engine_fill r;

		page->tracked = false;
		if (!quiet)
			port_enter(c);
		r = c->port->fill(c->ctx, gpa & ~PAGE_OFFSET_MASK, write, page);
		if (!quiet)
			port_leave(c);
		if (r != FILL_RETRY)
			return r;
		if (quiet && tries > 100000)
			return FILL_BADHOST;
		if (!quiet && atomic_load_explicit(&c->exit_word, memory_order_relaxed))
			leave_redo(c);
		sched_yield();
	}
}

enum engine_fill walk_page(struct engine_cpu *c, const struct walk *w, uint64_t gpa, bool write,
			   struct engine_page *page)
{
	uint64_t at = gpa & ~PAGE_OFFSET_MASK;
	struct ptlb_entry *e = &c->ptlb[(gpa >> PAGE_SHIFT ^ gpa >> 24) & (PTLB_ENTRIES - 1)];
	enum engine_fill r;

	tlb_hold(c, w->seq);
	if (e->tag == (at | 1) && (!write || e->writable)) {
		*page = (struct engine_page){.host = e->host, .writable = e->writable};
		return FILL_FIXED;
	}
	r = walk_fill(c, at, write, w->quiet, page);
	if (r != FILL_FIXED)
		return r;
	e->host = page->host;
	e->writable = page->writable && !page->tracked;
	e->tag = at | 1;
	atomic_signal_fence(memory_order_seq_cst);
	if (walk_seq(c) == w->seq)
		return FILL_FIXED;
	e->tag = 0;
	return FILL_RETRY;
}

/* Host address of a table entry, and whether a write there is to be told. */
static enum win table_page(struct engine_cpu *c, const struct walk *w, uint64_t gpa, bool write,
			   uint8_t **host, bool *tracked)
{
	struct engine_page page;

	switch (walk_page(c, w, gpa, write, &page)) {
	case FILL_FIXED:
		*host = page.host + (gpa & PAGE_OFFSET_MASK);
		*tracked = page.tracked;
		return WIN_OK;
	case FILL_RETRY: return WIN_MOVED;
	case FILL_BADHOST: return WIN_BAD;
	default: return WIN_FAULT;
	}
}

/* Reads the next entry of the walk; an entry outside of memory counts as not present. */
static enum walk_status next_entry(struct engine_cpu *c, struct walk *w, uint64_t gpa, uint64_t *pte)
{
	uint8_t *host;
	bool tracked;
	enum win r = table_page(c, w, gpa, false, &host, &tracked);

	if (r == WIN_OK)
		r = w->narrow ? win_ld32(c, w->seq, host, pte) : win_ld64(c, w->seq, host, pte);
	if (r == WIN_MOVED)
		return WALK_MOVED;
	if (r == WIN_BAD)
		return WALK_BADHOST;
	if (r == WIN_FAULT || !(*pte & PTE_P))
		return WALK_FAULT;
	w->level[w->n].gpa = gpa;
	w->level[w->n++].pte = *pte;
	return WALK_OK;
}

enum walk_status walk_set_ad(struct engine_cpu *c, struct walk *w, bool write)
{
	for (unsigned k = 0; k < w->n; k++) {
		bool last = k == w->n - 1;
		uint64_t old = w->level[k].pte;
		uint64_t val = old | PTE_A | (last && write ? PTE_D : 0);
		bool tracked;
		uint8_t *host;
		enum win r;

		if (val == old)
			continue;
		r = table_page(c, w, w->level[k].gpa, true, &host, &tracked);
		if (r == WIN_OK)
			r = win_update(c, w->seq, host, old, val, w->narrow);
		if (r == WIN_MOVED)
			return WALK_MOVED;
		if (r == WIN_BAD)
			return WALK_BADHOST;
		if (r == WIN_OK && tracked)
			access_told(c, w->level[k].gpa, &val, w->narrow ? 4 : 8);
		if (r == WIN_OK && last && write)
			w->dirty = true;
	}
	return WALK_OK;
}

/* -- The forms of paging -- */

static uint64_t bits(unsigned lo, unsigned hi)
{
	return hi < lo ? 0 : (~0ULL >> (63 - hi)) & (~0ULL << lo);
}

static unsigned phys_bits(const struct engine_cpu *c)
{
	return c->feat.maxphyaddr ? c->feat.maxphyaddr : 36;
}

static enum walk_status reserved(struct walk *w)
{
	w->rsvd = true;
	return WALK_FAULT;
}

/* Combines one entry's rights with those above it. */
static void combine(struct walk *w, uint64_t pte)
{
	w->write &= !!(pte & PTE_W);
	w->user &= !!(pte & PTE_U);
}

static void finish(struct walk *w, uint64_t frame, unsigned shift, uint64_t pte)
{
	w->shift = shift;
	w->dirty = pte & PTE_D;
	w->gpa = frame | (w->lin & ((1ULL << shift) - 1));
}

/* 32-bit paging: two levels of 4-byte entries; 4 MiB pages with up to 40 address bits (PSE-36). */
static enum walk_status walk_32(struct engine_cpu *c, struct walk *w)
{
	uint32_t lin = w->lin;
	uint64_t pte;
	enum walk_status r;

	w->narrow = true;
	r = next_entry(c, w, (c->cr3 & 0xfffff000) + (lin >> 22) * 4, &pte);
	if (r != WALK_OK)
		return r;
	combine(w, pte);
	if ((pte & PTE_PS) && (c->cr4 & CR4_PSE)) {
		if (pte & (bits(MIN(phys_bits(c), 40) - 32 + 13, 20) | BIT(21)))
			return reserved(w);
		finish(w, (pte & 0xffc00000) | ((pte & bits(13, 20)) << 19), 22, pte);
		return WALK_OK;
	}
	r = next_entry(c, w, (pte & 0xfffff000) + ((lin >> 12) & 1023) * 4, &pte);
	if (r != WALK_OK)
		return r;
	combine(w, pte);
	finish(w, pte & 0xfffff000, 12, pte);
	return WALK_OK;
}

/* Bits that must be clear in a large page's frame below its alignment. */
static uint64_t large_reserved(unsigned shift)
{
	return bits(13, shift - 1);
}

/* Levels of 8-byte entries from `shift` down, starting at `table`. */
static enum walk_status walk_64(struct engine_cpu *c, struct walk *w, uint64_t table, unsigned shift)
{
	bool pae = !c->long_mode;
	uint64_t frame = bits(12, phys_bits(c) - 1);
	uint64_t rsvd = bits(phys_bits(c), pae ? 62 : 51) | (c->efer & EFER_NX ? 0 : PTE_NX);

	for (;; shift -= 9) {
		uint64_t pte;
		enum walk_status r = next_entry(c, w, table + ((w->lin >> shift) & 511) * 8, &pte);

		if (r != WALK_OK)
			return r;
		if (pte & rsvd)
			return reserved(w);
		combine(w, pte);
		w->nx |= !!(pte & PTE_NX);
		if (shift == 12 || ((pte & PTE_PS) && (shift == 21 || (shift == 30 && c->feat.gbpages)))) {
			if (shift > 12 && (pte & large_reserved(shift)))
				return reserved(w);
			finish(w, pte & frame & ~((1ULL << shift) - 1), shift, pte);
			return WALK_OK;
		}
		if ((pte & PTE_PS) && shift > 21)
			return reserved(w);
		table = pte & frame;
	}
}

enum walk_status walk_tables(struct engine_cpu *c, struct walk *w)
{
	w->n = 0;
	w->user = w->write = true;
	w->nx = w->rsvd = w->dirty = w->narrow = false;
	if (!c->long_mode)
		w->lin = (uint32_t)w->lin;
	if (!(c->cr0 & CR0_PG)) {
		finish(w, 0, 63, PTE_D);
		w->gpa = w->lin;
		w->shift = 12;
		return WALK_OK;
	}
	if (c->long_mode)
		return walk_64(c, w, c->cr3 & bits(12, phys_bits(c) - 1), 39);
	if (c->cr4 & CR4_PAE) {
		uint64_t pdpte = c->pdptr[(w->lin >> 30) & 3];

		if (!(pdpte & PTE_P))
			return WALK_FAULT;
		return walk_64(c, w, pdpte & bits(12, phys_bits(c) - 1), 21);
	}
	return walk_32(c, w);
}

bool mmu_load_pdptrs(struct engine_cpu *c, uint64_t cr3, uint64_t out[4])
{
	uint64_t rsvd = bits(phys_bits(c), 63) | bits(5, 8) | bits(1, 2);
	uint64_t val[4];
	struct walk w = {.quiet = true};

	for (unsigned k = 0; k < 4;) {
		bool tracked;
		uint8_t *host;
		enum win r;

		w.seq = walk_seq(c);
		r = table_page(c, &w, (cr3 & 0xffffffe0) + k * 8, false, &host, &tracked);
		if (r == WIN_OK)
			r = win_ld64(c, w.seq, host, &val[k]);
		if (r == WIN_FAULT || r == WIN_BAD || (r == WIN_OK && (val[k] & PTE_P) && (val[k] & rsvd)))
			return false;
		k += r == WIN_OK;
	}
	memcpy(out, val, sizeof(val));
	return true;
}
