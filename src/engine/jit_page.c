/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages with translated code, and which blocks lie where. A block's bytes are compared when one of its pages was stored
 * to, whenever somebody else may have written (an epoch of the contents: engine_run, code_serialize, a revocation, every
 * 50 ms), and, unless its pages are global, when a new address space has begun. When only the meaning of addresses changed
 * (INVLPG, another address space), it is enough to see that each of its pages, up to JIT_BLOCK_PAGES, still leads to the
 * same host page.
 *
 * This vCPU's stores are seen because a page with compared code is in no table writable: the first store comes to the
 * slow path, where the page's blocks are marked and the page is let go; the next comparison takes it back.
 */
#include "engine/jit.h"

static uint32_t *lin_bucket(struct jit *j, uint64_t lin)
{
	return &j->by_lin[(lin >> PAGE_SHIFT ^ lin >> 24) & (JIT_PAGES - 1)];
}

static uint32_t *bit_bucket(struct jit *j, unsigned bit)
{
	return &j->by_bit[(bit ^ bit >> 12) & (JIT_PAGES - 1)];
}

/* Whoever may write to a page of this bit now must ask again. */
static void protect(struct engine_cpu *c, unsigned bit)
{
	c->jit->code_pages[bit / 64] |= BIT(bit % 64);
	jit_drop_groups(c->jit);
	jit_near_clear(c->jit);
	for (unsigned i = 0; i < TLB_ENTRIES; i++) {
		struct tlb_entry *e = &c->tlb[i];

		if (jit_page_bit((uint8_t *)((e->wtag & ~PAGE_OFFSET_MASK) + e->addend)) == bit)
			e->wtag = ~0ULL;
	}
	for (unsigned k = 0; k < JIT_CLASSES; k++) {
		struct jit_tlb *t = &c->jit->tlb[k];

		for (unsigned i = 0; i < JIT_TLB; i++)
			if (jit_page_bit((uint8_t *)(-t->wneg[i] + t->wadd[i])) == bit)
				t->wneg[i] = JIT_NO_PAGE;
	}
}

/* The lists hold pages of blocks: numbers above 0. */
static uint32_t node_of(const struct jit *j, const struct jit_block *b, unsigned k)
{
	return (uint32_t)(b - j->block) * JIT_BLOCK_PAGES + k + 1;
}

static struct jit_code_page *page_at(struct jit *j, uint32_t node, struct jit_block **b)
{
	*b = &j->block[(node - 1) / JIT_BLOCK_PAGES];
	return &(*b)->page[(node - 1) % JIT_BLOCK_PAGES];
}

static void unlink_bit(struct jit *j, const struct jit_code_page *page, uint32_t node)
{
	struct jit_block *b;

	for (uint32_t *k = bit_bucket(j, page->bit); *k; k = &page_at(j, *k, &b)->next_bit) {
		if (*k == node) {
			*k = page->next_bit;
			return;
		}
	}
}

void jit_page_compared(struct engine_cpu *c, struct jit_block *b, unsigned k, const uint8_t *host)
{
	struct jit_code_page *page = &b->page[k];
	struct jit *j = c->jit;
	uint32_t node = node_of(j, b, k);
	unsigned bit = jit_page_bit(host);

	if (!page->linked) {
		page->next_lin = *lin_bucket(j, page->lin);
		*lin_bucket(j, page->lin) = node;
	} else if (page->bit != bit) {
		unlink_bit(j, page, node);
	}
	if (!page->linked || page->bit != bit) {
		page->bit = bit;
		page->next_bit = *bit_bucket(j, bit);
		*bit_bucket(j, bit) = node;
	}
	page->linked = true;
	page->host = host;
	if (!jit_is_code_page(c, host))
		protect(c, bit);
}

void jit_store_to(struct engine_cpu *c, const uint8_t *host)
{
	unsigned bit = jit_page_bit(host);
	struct jit *j = c->jit;

	if (!jit_is_code_page(c, host))
		return;
	j->code_pages[bit / 64] &= ~BIT(bit % 64);
	for (uint32_t *k = bit_bucket(j, bit); *k;) {
		struct jit_block *b;
		struct jit_code_page *page = page_at(j, *k, &b);

		if (page->bit == bit) {
			j->stamp[b - j->block] = JIT_NO_STAMP;
			page->host = NULL;
			if (b->dead) {
				*k = page->next_bit;
				page->bit = UINT32_MAX; /* in no list */
				continue;
			}
		}
		k = &page->next_bit;
	}
}

void jit_page_moved(struct engine_cpu *c, uint64_t lin)
{
	struct jit *j = c->jit;

	for (uint32_t *k = lin_bucket(j, lin); *k;) {
		struct jit_block *b;
		struct jit_code_page *page = page_at(j, *k, &b);

		if (page->lin >> PAGE_SHIFT == lin >> PAGE_SHIFT) {
			j->stamp[b - j->block] = JIT_NO_STAMP;
			if (b->dead) {
				*k = page->next_lin;
				continue;
			}
		}
		k = &page->next_lin;
	}
}

/* -- Epochs -- */

void jit_new_epoch(struct engine_cpu *c)
{
	uint32_t field = (JIT_EPOCHS - 1) << JIT_EPOCH_SHIFT;
	uint32_t epoch = (c->slow + (1u << JIT_EPOCH_SHIFT)) & field;
	struct jit *j = c->jit;

	j->stats.bumps++;
	/* The numbers begin again: no old stamp may match. */
	for (uint32_t k = 0; !epoch && k < j->nblocks; k++)
		j->stamp[k] = JIT_NO_STAMP;
	c->slow = (c->slow & ~field) | epoch;
}

void jit_new_contents(struct engine_cpu *c)
{
	c->jit->contents++;
	jit_new_epoch(c);
}
