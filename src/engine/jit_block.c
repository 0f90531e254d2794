/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A block: what belongs to it, its head, its exits.
 *
 *	head	the word (exit word, slow bits, epoch) plus the block's stamp must be 0: nobody wants us, and the
 *		guest bytes were compared in this epoch
 *	body	the retired count goes up by all instructions; jit_slow takes back what was not reached
 *	...	instructions, the last one an exit
 *	stubs	the slow sides of the memory accesses
 */
#include "engine/jit_emit.h"

#define BLOCK_ROOM 16384 /* bytes that a block may take */

/* -- Exits -- */

static struct jit_exit *exit_new(struct making *m, uint64_t target)
{
	struct jit_exit *x = &m->j->exit[m->j->nexits++];

	*x = (struct jit_exit){.target = target, .key = m->b->key};
	return x;
}

/* Where an exit goes before its target is known: tells C which one it was. */
static void exit_stub(struct making *m, const struct jit_exit *x)
{
	e8(&m->e, 0xb8 | H_RCX);
	e32(&m->e, (uint32_t)(x - m->j->exit));
	e_jmp_gs(&m->e, JIT_OFF(exit_thunk));
}

void jit_exit_to(struct making *m, uint64_t target)
{
	struct jit_exit *x = exit_new(m, target);

	x->patch = e_jmp(&m->e, e_here(&m->e) + 5); /* the stub behind it */
	exit_stub(m, x);
}

void jit_exit_if(struct making *m, unsigned cc, uint64_t target)
{
	struct jit_exit *x = exit_new(m, target);

	x->patch = e_jcc(&m->e, cc, 0);
	jit_exit_to(m, m->next);
	if (!m->e.full)
		jit_patch(m->j, x->patch, e_here(&m->e));
	exit_stub(m, x);
}

/* -- The block -- */

static void emit_head(struct making *m)
{
	struct emit *e = &m->e;
	struct jit_site *s = jit_site_new(m, SITE_ENTRY, 0);

	e_gs(e, OP_MOV_LOAD, true, H_RCX, CPU_WORD);
	if (m->b->global)
		e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_global));
	e_gs(e, OP_MOV_LOAD, true, H_R14, JIT_OFF(stamp) + 8 * m->block_id);
	e_lea_full(e, true, false, H_RCX, H_RCX, H_R14, 0, 0);
	e8(e, 0xe3);
	e8(e, 5);
	m->stub[m->nstubs].site = (uint32_t)(s - m->j->site);
	m->stub[m->nstubs++].patch = e_jmp(e, 0);
	m->b->body = e_here(e);
}

/* The count's increment, whose amount is known at the end. Returns where it stands. */
static uint8_t *emit_retired(struct making *m)
{
	struct emit *e = &m->e;
	uint8_t *at;

	e_gs(e, OP_MOV_LOAD, true, H_RCX, CPU_OFF(retired));
	e_lea(e, H_RCX, H_RCX, 1);
	at = e->p - 1;
	e_gs(e, OP_MOV_STORE, true, H_RCX, CPU_OFF(retired));
	return at;
}

static void emit_stubs(struct making *m)
{
	for (unsigned k = 0; k < m->nstubs; k++) {
		uint32_t here = e_here(&m->e);

		e8(&m->e, 0xb8 | H_RCX);
		e32(&m->e, m->stub[k].site);
		e_jmp_gs(&m->e, JIT_OFF(slow_thunk));
		if (m->e.full)
			return;
		if (m->stub[k].patch != NO_PATCH)
			jit_patch(m->j, m->stub[k].patch, here);
		m->j->site[m->stub[k].site].slow = here;
	}
}

/* Decodes the instruction at offset `at` of the n bytes; false if none is whole there. */
static bool decode_next(struct making *m, const ZydisDecoder *dec, const uint8_t *bytes, unsigned n,
			unsigned at)
{
	if (at >= n ||
	    !ZYAN_SUCCESS(ZydisDecoderDecodeFull(dec, bytes + at, MIN(n - at, 15U), &m->d.in, m->d.op)))
		return false;
	m->rip = m->b->rip + at;
	m->next = m->rip + m->d.in.length;
	m->bytes = bytes + at;
	return true;
}

/* Emits instructions until one ends the block; their bytes. */
static unsigned emit_body(struct making *m, const uint8_t *bytes, unsigned n)
{
	const ZydisDecoder *dec = decode_machine(m->c);
	unsigned at = 0;

	while (m->index < JIT_BLOCK_MAX && decode_next(m, dec, bytes, n, at)) {
		if (!jit_op(m))
			jit_op_call(m);
		m->index++;
		at += m->d.in.length;
		if (m->ends || m->e.full)
			break;
	}
	if (at && !m->ends) {
		m->rip = m->next = m->b->rip + at;
		jit_exit_to(m, m->next);
	}
	return at;
}

/* The bytes of the page from RIP on, at most max; 0 if they cannot be read now. */
static unsigned read_code(struct engine_cpu *c, uint8_t *buf, unsigned max, uint8_t **page)
{
	unsigned n = MIN(max, (unsigned)(PAGE_SIZE - (c->rip & PAGE_OFFSET_MASK)));
	uint64_t seq;
	uint8_t *host = interp_code_host(c, c->rip, &seq);

	*page = (uint8_t *)((uint64_t)host & ~PAGE_OFFSET_MASK);
	return raw_copy(c, buf, host, n, seq) ? 0 : n;
}

/* True if there is room for one more block with everything that it may need. */
static bool room(const struct jit *j)
{
	return j->used + BLOCK_ROOM < JIT_CODE_SIZE && j->nblocks + 1 < JIT_BLOCKS &&
	       j->nsites + JIT_BLOCK_MAX * 4 < JIT_SITES && j->nexits + 4 < JIT_EXITS &&
	       j->bytes_used + 1024 < JIT_BYTES;
}

struct jit_block *jit_translate(struct engine_cpu *c)
{
	uint8_t buf[JIT_BLOCK_MAX * 15], *page, *retired;
	struct jit *j = c->jit;
	struct making m = {.c = c, .j = j};
	uint32_t sites, exits;
	unsigned n;

	if (!room(j))
		jit_flush(c);
	n = read_code(c, buf, sizeof(buf), &page);
	if (!n)
		return NULL;
	sites = j->nsites;
	exits = j->nexits;
	m.block_id = j->nblocks;
	m.b = &j->block[m.block_id];
	*m.b = (struct jit_block){.rip = c->rip,
				  .key = (uint8_t)jit_key(c),
				  .global = jit_is_global(c, c->rip),
				  .bytes = j->bytes_used};
	m.e = (struct emit){.j = j, .p = j->rw + j->used, .end = j->rw + j->used + BLOCK_ROOM};
	m.b->entry = j->used;
	emit_head(&m);
	retired = emit_retired(&m);
	m.b->len = (uint16_t)emit_body(&m, buf, n);
	emit_stubs(&m);
	if (!m.b->len || m.e.full) {
		j->nsites = sites;
		j->nexits = exits;
		return NULL;
	}
	*retired = (uint8_t)m.index;
	m.b->insns = (uint8_t)m.index;
	memcpy(j->bytes + j->bytes_used, buf, m.b->len);
	j->bytes_used += m.b->len;
	j->used = (e_here(&m.e) + 15) & ~15U;
	j->nblocks++;
	j->stats.translated++;
	jit_perf_block(j, m.b);
	jit_page_compared(c, m.b, page + (c->rip & PAGE_OFFSET_MASK));
	j->stamp[m.block_id] = JIT_NO_STAMP; /* validated at its first entry */
	jit_insert(c, m.b);
	return m.b;
}
