/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory operands under a mask: only elements whose mask bit is set are accessed, so a page without any of
 * them cannot fault. Runs of neighbouring elements are one access.
 */
#include "engine/fpu.h"
#include "engine/vaccess.h"

static uint64_t low_bits(unsigned n)
{
	return n >= 64 ? ~0ULL : BIT(n) - 1;
}

/* Bits of a mask over all lanes, folded onto the elements in memory (a broadcast repeats them). */
static uint64_t folded(uint64_t k, const struct vstub *st)
{
	uint64_t bits = 0;

	k &= low_bits(st->lanes);
	for (unsigned n = 0; n < st->lanes; n += st->elems)
		bits |= k >> n;
	return bits & low_bits(st->elems);
}

static uint64_t signs(const uint8_t *reg, const struct vstub *st)
{
	uint64_t bits = 0;

	for (unsigned n = 0; n < st->elems; n++)
		bits |= (uint64_t)(reg[(n + 1) * st->elem_len - 1] >> 7) << n;
	return bits;
}

/* The elements in memory that the instruction accesses. */
static uint64_t wanted(const struct engine_fpu *f, const struct vstub *st)
{
	switch (st->vmem) {
	case VMEM_EXPAND:
	case VMEM_COMPRESS: return low_bits(__builtin_popcountll(f->k[st->mask] & low_bits(st->elems)));
	case VMEM_LOAD_SIGN:
	case VMEM_STORE_SIGN: return signs(f->zmm[st->mask], st);
	default: return folded(f->k[st->mask], st);
	}
}

enum touch { CHECK, READ, PROBE, WRITE };

static void touch_run(struct engine_cpu *c, const struct insn *i, const struct vstub *st, unsigned from,
		      unsigned n, enum touch how)
{
	unsigned at = from * st->elem_len, len = n * st->elem_len;
	bool unchecked = st->elems > 1 && c->slow & SLOW_AC; /* no #AC for parts of a vector */
	uint64_t off = insn_offset(c, i) + at, lin;

	/* No element's address wraps by itself: the operand is one. */
	lin = seg_linear(c, i->seg, off, len, stub_stores(st));
	switch (how) {
	case CHECK: break;
	case READ:
		if (unchecked)
			vaccess_ld(c, i, lin, c->fpu->mem + at, len);
		else
			vmem_ld(c, i, lin, c->fpu->mem + at, len);
		break;
	case PROBE: guest_probe(c, lin, len, true); break;
	case WRITE:
		if (unchecked)
			vaccess_st(c, i, lin, c->fpu->mem + at, len);
		else
			vmem_st(c, i, lin, c->fpu->mem + at, len);
		break;
	}
}

static void touch(struct engine_cpu *c, const struct insn *i, const struct vstub *st, uint64_t bits,
		  enum touch how)
{
	while (bits) {
		unsigned from = __builtin_ctzll(bits);
		uint64_t rest = ~(bits >> from);
		unsigned n = rest ? __builtin_ctzll(rest) : 64;

		if (from + n > st->elems)
			n = st->elems - from;
		touch_run(c, i, st, from, n, how);
		bits &= ~(low_bits(n) << from);
	}
}

/* Aligned forms check the operand's address if any element is accessed; #AC is the whole operand's. */
static void check_align(struct engine_cpu *c, const struct insn *i, const struct vstub *st, uint64_t bits,
			bool write)
{
	if (bits)
		vector_ac(c, i, st);
	if (st->align > 1 && bits)
		vmem_ea(c, i, st->mem_len, st->align, write);
}

void op_masked_load(struct engine_cpu *c, const struct insn *i)
{
	const struct vstub *st = i->extra;
	uint64_t bits;

	vector_check(c, st->need);
	bits = wanted(c->fpu, st);
	check_align(c, i, st, bits, false);
	if (bits != low_bits(st->elems))
		memset(c->fpu->mem, 0, st->mem_len);
	touch(c, i, st, bits,
	      CHECK); /* segment and canonicality of all elements before the first page fault */
	touch(c, i, st, bits, READ);
	vector_run(c, i, st);
}

void op_masked_store(struct engine_cpu *c, const struct insn *i)
{
	const struct vstub *st = i->extra;
	uint64_t bits;

	vector_check(c, st->need);
	bits = wanted(c->fpu, st);
	check_align(c, i, st, bits, true);
	vector_run(c, i, st);
	touch(c, i, st, bits, CHECK);
	if (st->nf)
		touch(c, i, st, low_bits(st->elems), PROBE);
	else if (bits & (bits + (bits & -bits)))
		touch(c, i, st, bits, PROBE); /* several runs: all or none */
	touch(c, i, st, bits, WRITE);
}
