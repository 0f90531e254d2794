/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table that generated code looks up is a part of c->tlb in a form that needs no flags: never fuller than
 * that, and emptied whenever that forgets something.
 */
#include "engine/jit.h"
#include "engine/walk.h"

static unsigned index_of(uint64_t lin)
{
	return (lin >> PAGE_SHIFT) & (JIT_TLB - 1);
}

/* What a handler may call: no sanitizer hears of it. */
#define SIGSAFE __attribute__((no_sanitize("thread")))

static SIGSAFE void no_pages(uint64_t *neg, size_t n)
{

	_Static_assert(JIT_NO_PAGE == 0x0101010101010101ULL, "bytes of one value");
	n *= sizeof(*neg);
	__asm__ volatile("rep stosb" : "+D"(neg), "+c"(n) : "a"(1) : "memory");
}

SIGSAFE void jit_drop_groups(struct jit *j)
{
	j->dropped++;
	for (unsigned k = 0; k < JIT_GROUPS; k++)
		((volatile uint64_t *)j->group)[k] = JIT_NO_ADDEND;
}

static SIGSAFE void near_clear(struct jit *j, unsigned class)
{
	for (struct jit_near *n = j->near[class]; n < j->near[class] + 2; n++)
		for (unsigned k = 0; k < ARRAY_SIZE(n->used); k++)
			if (((volatile uint64_t *)n->used)[k]) {
				((volatile uint64_t *)n->used)[k] = 0;
				no_pages(n->neg + k * JIT_NEAR_PART, JIT_NEAR_PART);
			}
}

SIGSAFE void jit_near_clear(struct jit *j)
{
	for (unsigned k = 0; k < JIT_CLASSES; k++)
		near_clear(j, k);
}

SIGSAFE void jit_tlb_clear(struct engine_cpu *c)
{
	struct jit *j = c->jit;

	if (!j || !j->rw)
		return;
	jit_drop_groups(j);
	jit_near_clear(j);
	for (unsigned k = 0; k < JIT_CLASSES; k++) {
		no_pages(j->tlb[k].rneg, JIT_TLB);
		no_pages(j->tlb[k].wneg, JIT_TLB);
		j->holds[k] = 0;
	}
}

/* Puts the current generation where blocks look at it. */
static void set_generation(struct engine_cpu *c)
{
	c->slow = (c->slow & ((1u << JIT_GEN_SHIFT) - 1)) | (uint32_t)(c->tlb_key >> 2) << JIT_GEN_SHIFT;
}

void jit_new_mapping(struct engine_cpu *c)
{
	if (!c->jit || !c->jit->rw)
		return;
	jit_tlb_clear(c);
	jit_new_epoch(c);
	set_generation(c);
}

static void no_local_pages(struct jit_tlb *t)
{
	for (unsigned i = 0; i < JIT_TLB; i++) {
		t->rneg[i] = t->rglobal[i] ? t->rneg[i] : JIT_NO_PAGE;
		t->wneg[i] = t->wglobal[i] ? t->wneg[i] : JIT_NO_PAGE;
	}
}

void jit_new_space(struct engine_cpu *c)
{
	struct jit *j = c->jit;

	if (!j || !j->rw)
		return;
	set_generation(c);
	jit_drop_groups(j);
	for (unsigned k = 0; k < JIT_CLASSES; k++) {
		if (j->holds[k] & JIT_HOLDS_LOCAL)
			near_clear(j, k);
		j->holds[k] &= ~JIT_HOLDS_LOCAL;
	}
	for (unsigned k = 0; j->nlocal > JIT_LOCAL && k < JIT_CLASSES; k++)
		no_local_pages(&j->tlb[k]);
	for (unsigned k = 0; j->nlocal <= JIT_LOCAL && k < j->nlocal; k++) {
		struct jit_tlb *t = &j->tlb[j->local[k].class];
		unsigned i = j->local[k].index;

		if (j->local[k].write)
			t->wneg[i] = t->wglobal[i] ? t->wneg[i] : JIT_NO_PAGE;
		else
			t->rneg[i] = t->rglobal[i] ? t->rneg[i] : JIT_NO_PAGE;
	}
	j->nlocal = 0;
}

static unsigned half_of(uint64_t lin)
{
	return lin >> 63 ? JIT_HOLDS_HIGH : JIT_HOLDS_LOW;
}

void jit_new_page(struct engine_cpu *c, uint64_t lin)
{
	if (!c->jit || !c->jit->rw)
		return;
	jit_page_moved(c, lin);
	jit_drop_groups(c->jit);
	for (unsigned k = 0; k < JIT_CLASSES; k++) {
		if (c->jit->holds[k] & half_of(lin))
			near_clear(c->jit, k);
		c->jit->tlb[k].rneg[index_of(lin)] = c->jit->tlb[k].wneg[index_of(lin)] = JIT_NO_PAGE;
	}
}

/* An entry that the next address space may not see. */
static void note_local(struct jit *j, unsigned class, unsigned index, bool write)
{
	if (j->nlocal < JIT_LOCAL) {
		j->local[j->nlocal].class = (uint8_t) class;
		j->local[j->nlocal].index = (uint16_t)index;
		j->local[j->nlocal++].write = write;
	} else {
		j->nlocal = JIT_LOCAL + 1;
	}
}

/* The page's entry in c->tlb is current, and has this much. */
static bool known(const struct engine_cpu *c, uint64_t lin, unsigned size, bool write)
{
	const volatile struct tlb_entry *e = TLB_AT(c, lin);

	return (write ? e->wtag : e->rtag) == TLB_TAG(c, lin, size);
}

static bool copy_entry(struct engine_cpu *c, uint64_t lin, unsigned size, bool write)
{
	uint64_t seq = atomic_load_explicit(&c->revoke_seq, memory_order_relaxed);
	volatile struct jit_tlb *t = &c->jit->tlb[jit_class(c)];
	const volatile struct tlb_entry *e = TLB_AT(c, lin);
	unsigned i = index_of(lin);

	if (!known(c, lin, size, write))
		return false;
	/* In this order: generated code on this thread only, but engine_kick may come between any two. */
	c->jit->holds[jit_class(c)] |= half_of(lin) | (jit_is_global(c, lin) ? 0 : JIT_HOLDS_LOCAL);
	atomic_signal_fence(memory_order_seq_cst);
	(write ? t->wneg : t->rneg)[i] = JIT_NO_PAGE;
	(write ? t->wadd : t->radd)[i] = e->addend;
	(write ? t->wglobal : t->rglobal)[i] = jit_is_global(c, lin);
	if (!jit_is_global(c, lin))
		note_local(c->jit, jit_class(c), i, write);
	(write ? t->wneg : t->rneg)[i] = -(lin & ~PAGE_OFFSET_MASK);
	atomic_signal_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&c->revoke_seq, memory_order_relaxed) == seq)
		return true;
	(write ? t->wneg : t->rneg)[i] = JIT_NO_PAGE;
	return false;
}

uint64_t jit_tlb_addend(const struct engine_cpu *c, uint64_t lin, bool write)
{
	const struct jit_tlb *t = &c->jit->tlb[jit_class(c)];

	return (write ? t->wadd : t->radd)[index_of(lin)];
}

bool jit_tlb_fill(struct engine_cpu *c, uint64_t lin, unsigned size, bool write)
{
	if (!known(c, lin, size, write) && size - 1 <= (~lin & PAGE_OFFSET_MASK))
		tlb_reload(c, lin, jit_class(c), write ? ACC_WRITE : ACC_READ);
	return copy_entry(c, lin, size, write);
}

/* True if a fetch from lin comes from the page `host` of late, which the translation cache still says. */
static bool leads_to(struct engine_cpu *c, uint64_t lin, const uint8_t *host)
{
	enum mmu_class class = jit_class(c);

	if (!tlb_has(c, lin, class, ACC_EXEC) && !tlb_reload(c, lin, class, ACC_EXEC))
		return false;
	return (uint8_t *)((lin & ~PAGE_OFFSET_MASK) + TLB_AT(c, lin)->addend) == host;
}

/*
 * The head of a block that was compared in these contents, but under another word: another address space had its turn.
 * As jit_head's enter_block where nothing has changed; 0: it must look.
 */
uint64_t jit_again(struct engine_cpu *c, uint32_t block)
{
	struct jit *j = c->jit;
	const struct jit_block *b = &j->block[block];

	if (b->dead || (!b->global && b->spaces != j->spaces) || b->contents != j->contents || !c->code64 ||
	    !jit_calm(c) || jit_key(c) != b->key)
		return 0;
	for (unsigned k = 0; k < b->npages; k++)
		if (!leads_to(c, b->page[k].lin, b->page[k].host) ||
		    (b->global && !jit_is_global(c, b->page[k].lin)))
			return 0;
	j->stamp[b - j->block] = jit_stamp(c, b);
	return (uint64_t)j->rx + b->body;
}

uint64_t jit_fill(struct engine_cpu *c, uint32_t site)
{
	struct jit *j = c->jit;
	const struct jit_site *s = &j->site[site];

	if (s->lean)
		return jit_lean(c, s);
	if ((s->kind != SITE_READ && s->kind != SITE_WRITE) || s->member ||
	    (site == j->filled_site && j->lin == j->filled_lin) ||
	    !jit_tlb_fill(c, j->lin, s->size, s->kind == SITE_WRITE))
		return 0;
	j->filled_site = site;
	j->filled_lin = j->lin;
	j->stats.fills++;
	return (uint64_t)j->rx + s->again;
}
