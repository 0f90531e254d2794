/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table that generated code looks up is a part of c->tlb in a form that needs no flags: never fuller than
 * that, and emptied whenever that forgets something. And the coherence of code: a page with translated code is in
 * no table writable, so a store to it comes to the slow path, which begins a new epoch: every block's bytes are
 * compared before it runs again. The same happens whenever somebody else may have written: at the start of a run,
 * at an external interrupt, when what an address means has changed.
 */
#include "engine/jit.h"

static unsigned index_of(uint64_t lin)
{
	return (lin >> PAGE_SHIFT) & (JIT_TLB - 1);
}

/* What a handler may call: no sanitizer hears of it. */
#define SIGSAFE __attribute__((no_sanitize("thread")))

static SIGSAFE void no_pages(uint64_t *neg)
{
	size_t n = sizeof(uint64_t) * JIT_TLB;

	_Static_assert(JIT_NO_PAGE == 0x0101010101010101ULL, "bytes of one value");
	__asm__ volatile("rep stosb" : "+D"(neg), "+c"(n) : "a"(1) : "memory");
}

SIGSAFE void jit_tlb_clear(struct engine_cpu *c)
{
	struct jit *j = c->jit;

	if (!j || !j->rw)
		return;
	for (unsigned k = 0; k < JIT_CLASSES; k++) {
		no_pages(j->tlb[k].rneg);
		no_pages(j->tlb[k].wneg);
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

void jit_new_space(struct engine_cpu *c)
{
	if (!c->jit || !c->jit->rw)
		return;
	set_generation(c);
	for (unsigned k = 0; k < JIT_CLASSES; k++) {
		struct jit_tlb *t = &c->jit->tlb[k];

		for (unsigned i = 0; i < JIT_TLB; i++) {
			t->rneg[i] = t->rglobal[i] ? t->rneg[i] : JIT_NO_PAGE;
			t->wneg[i] = t->wglobal[i] ? t->wneg[i] : JIT_NO_PAGE;
		}
	}
}

void jit_new_page(struct engine_cpu *c, uint64_t lin)
{
	if (!c->jit || !c->jit->rw)
		return;
	jit_new_epoch(c);
	for (unsigned k = 0; k < JIT_CLASSES; k++)
		c->jit->tlb[k].rneg[index_of(lin)] = c->jit->tlb[k].wneg[index_of(lin)] = JIT_NO_PAGE;
}

bool jit_tlb_fill(struct engine_cpu *c, uint64_t lin, unsigned size, bool write)
{
	uint64_t seq = atomic_load_explicit(&c->revoke_seq, memory_order_relaxed),
		 tag = TLB_TAG(c, lin, size);
	volatile struct jit_tlb *t = &c->jit->tlb[jit_class(c)];
	const volatile struct tlb_entry *e = TLB_AT(c, lin);
	unsigned i = index_of(lin);

	if ((write ? e->wtag : e->rtag) != tag)
		return false;
	/* In this order: generated code on this thread only, but engine_kick may come between any two. */
	(write ? t->wneg : t->rneg)[i] = JIT_NO_PAGE;
	(write ? t->wadd : t->radd)[i] = e->addend;
	(write ? t->wglobal : t->rglobal)[i] = jit_is_global(c, lin);
	(write ? t->wneg : t->rneg)[i] = -(lin >> PAGE_SHIFT);
	atomic_signal_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&c->revoke_seq, memory_order_relaxed) == seq)
		return true;
	(write ? t->wneg : t->rneg)[i] = JIT_NO_PAGE;
	return false;
}

/* -- Pages with translated code -- */

static unsigned page_bit(const uint8_t *host)
{
	/* Not hashed: no two pages of a mapping of up to 16 GiB have one bit. */
	return (unsigned)((uint64_t)host >> PAGE_SHIFT) & (JIT_CODE_PAGES - 1);
}

void jit_store_to(struct engine_cpu *c, const uint8_t *host)
{
	if (jit_is_code_page(c, host))
		jit_new_epoch(c);
}

bool jit_is_code_page(const struct engine_cpu *c, const uint8_t *host)
{
	unsigned bit = page_bit(host);

	if (!c->jit)
		return false;
	return c->jit->code_pages[bit / 64] >> (bit % 64) & 1;
}

void jit_code_page(struct engine_cpu *c, const uint8_t *host)
{
	unsigned bit = page_bit(host);

	if (jit_is_code_page(c, host))
		return;
	c->jit->code_pages[bit / 64] |= BIT(bit % 64);
	/* Whoever may write there now must ask again; other pages of the same bit, too. */
	for (unsigned i = 0; i < TLB_ENTRIES; i++) {
		struct tlb_entry *e = &c->tlb[i];

		if (e->wtag != ~0ULL &&
		    jit_is_code_page(c, (uint8_t *)((e->wtag & ~PAGE_OFFSET_MASK) + e->addend)))
			e->wtag = ~0ULL;
	}
	for (unsigned k = 0; k < JIT_CLASSES; k++)
		for (unsigned i = 0; i < JIT_TLB; i++)
			c->jit->tlb[k].wneg[i] = JIT_NO_PAGE;
}

void jit_new_epoch(struct engine_cpu *c)
{
	uint32_t field = (JIT_EPOCHS - 1) << JIT_EPOCH_SHIFT;
	uint32_t epoch = (c->slow + (1u << JIT_EPOCH_SHIFT)) & field;
	struct jit *j = c->jit;

	j->stats.bumps++;
	/* The numbers begin again: no old stamp may match. */
	for (uint32_t k = 0; !epoch && k < j->nblocks; k++)
		j->stamp[k] = 1;
	c->slow = (c->slow & ~field) | epoch;
}
