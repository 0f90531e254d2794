/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Gathers, scatters and MASKMOV: memory operands of many addresses. Elements are accessed in order, one at a
 * time. A fault commits the elements before it, as the manual asks (SDM 2C, VPGATHERDD); an exit to a device
 * commits nothing, for the instruction begins again and replays its accesses.
 */
#include "engine/fpu.h"
#include "engine/vaccess.h"

/* How struct insn's free bytes are used here. */
#define G_DATA(i)    ((i)->reg)
#define G_INDEX(i)   ((i)->rm)
#define G_MASK(i)    ((i)->dst)
#define G_COUNT(i)   ((i)->src)
#define G_FLAGS(i)   ((i)->op)
#define G_INDEX64    1
#define G_DATA64     2
#define G_EVEX	     4
#define G_DATALEN(i) (G_FLAGS(i) & G_DATA64 ? 8u : 4u)

static uint64_t element_linear(struct engine_cpu *c, const struct insn *i, unsigned n, bool write)
{
	const uint8_t *idx = c->fpu->zmm[G_INDEX(i)];
	uint64_t off;
	int64_t index;

	if (G_FLAGS(i) & G_INDEX64)
		index = ((const int64_t *)idx)[n];
	else
		index = ((const int32_t *)idx)[n];
	off = ea_offset(c, i) + ((uint64_t)index << i->scale);
	if (i->adsize == 4)
		off = (uint32_t)off;
	return seg_linear(c, i->seg, off, G_DATALEN(i), write);
}

/* The elements that are to be accessed, one bit each. */
static uint64_t wanted(struct engine_cpu *c, const struct insn *i)
{
	const uint8_t *m = c->fpu->zmm[G_MASK(i)];
	uint64_t bits = 0;

	if (G_FLAGS(i) & G_EVEX)
		return c->fpu->k[G_MASK(i)] & (BIT(G_COUNT(i)) - 1);
	for (unsigned n = 0; n < G_COUNT(i); n++)
		bits |= (uint64_t)(m[(n + 1) * G_DATALEN(i) - 1] >> 7) << n;
	return bits;
}

/* -- Gather -- */

struct gather {
	uint8_t data[64];
	uint64_t left;
};

/* Reads element after element; g says how far it came if one of them raises. */
static __attribute__((noinline)) void gather_all(struct engine_cpu *c, const struct insn *i, struct gather *g)
{
	unsigned len = G_DATALEN(i);

	while (g->left) {
		unsigned n = __builtin_ctzll(g->left);
		uint64_t lin = element_linear(c, i, n, false);

		if (unlikely(c->slow & SLOW_AC)) { /* elements need no alignment */
			guest_read(c, lin, g->data + n * len, len);
		} else {
			uint64_t v = guest_ld(c, lin, len);

			memcpy(g->data + n * len, &v, len);
		}
		g->left &= g->left - 1;
	}
}

/* The mask register after an access of all but the elements in `left`; complete ones clear it. */
static void mask_commit(struct engine_cpu *c, const struct insn *i, uint64_t left)
{
	uint64_t *k = &c->fpu->k[G_MASK(i)];

	*k = left ? (*k & ~(BIT(G_COUNT(i)) - 1)) | left : 0;
}

static void gather_commit(struct engine_cpu *c, const struct insn *i, const struct gather *g)
{
	struct engine_fpu *f = c->fpu;
	unsigned len = G_DATALEN(i);

	if (!g->left)
		memset(f->zmm[G_DATA(i)], 0, 64);
	memcpy(f->zmm[G_DATA(i)], g->data, G_COUNT(i) * len);
	if (G_FLAGS(i) & G_EVEX) {
		mask_commit(c, i, g->left);
		return;
	}
	memset(f->zmm[G_MASK(i)], 0, g->left ? G_COUNT(i) * len : 64);
	for (unsigned n = 0; n < G_COUNT(i); n++)
		if (g->left >> n & 1)
			memset(f->zmm[G_MASK(i)] + n * len, 0xff, len);
}

/* g is the caller's: what changes after sigsetjmp must not live in the frame that called it. */
static __attribute__((noinline)) void gather_guarded(struct engine_cpu *c, const struct insn *i,
						     struct gather *g)
{
	sigjmp_buf *outer = c->jump, here;

	c->jump = &here;
	if (!sigsetjmp(here, 0)) {
		gather_all(c, i, g);
		c->jump = outer;
		gather_commit(c, i, g);
		return;
	}
	c->jump = outer;
	if (c->leave == LEAVE_FAULT)
		gather_commit(c, i, g);
	siglongjmp(*outer, 1);
}

static void op_gather(struct engine_cpu *c, const struct insn *i)
{
	struct gather g;

	vector_check(c, G_FLAGS(i) & G_EVEX ? NEED_AVX512 : NEED_AVX);
	memcpy(g.data, c->fpu->zmm[G_DATA(i)], 64);
	g.left = wanted(c, i);
	gather_guarded(c, i, &g);
}

/* -- Scatter -- */

static __attribute__((noinline)) void scatter_all(struct engine_cpu *c, const struct insn *i, uint64_t *left)
{
	unsigned len = G_DATALEN(i);

	while (*left) {
		unsigned n = __builtin_ctzll(*left);
		uint64_t v = 0;

		memcpy(&v, c->fpu->zmm[G_DATA(i)] + n * len, len);
		guest_write(c, element_linear(c, i, n, true), &v, len);
		*left &= *left - 1;
	}
}

/* As gather_guarded. */
static __attribute__((noinline)) void scatter_guarded(struct engine_cpu *c, const struct insn *i,
						      uint64_t *left)
{
	sigjmp_buf *outer = c->jump, here;

	c->jump = &here;
	if (!sigsetjmp(here, 0)) {
		scatter_all(c, i, left);
		c->jump = outer;
		mask_commit(c, i, 0);
		return;
	}
	c->jump = outer;
	if (c->leave == LEAVE_FAULT)
		mask_commit(c, i, *left);
	siglongjmp(*outer, 1);
}

static void op_scatter(struct engine_cpu *c, const struct insn *i)
{
	uint64_t left;

	vector_check(c, NEED_AVX512);
	left = wanted(c, i);
	scatter_guarded(c, i, &left);
}

/* -- MASKMOVDQU, VMASKMOVDQU, MASKMOVQ: bytes of one register where another's bytes have their sign set -- */

#define MM_LEN(i)  ((i)->op)
#define MM_NEED(i) ((i)->cc)

/*
 * As on the host: 8 bytes together, the upper ones first, each with an address of its own, so that they may lie at both
 * ends of a segment. Whether bytes that are not written may fault is the CPU's choice; the host's makes them.
 */
static void mask_move(struct engine_cpu *c, const struct insn *i, const uint8_t *data, const uint8_t *mask)
{
	for (int n = MM_LEN(i) - 8; n >= 0; n -= 8) {
		uint64_t lin = insn_part(c, i, (unsigned)n, 8, true);

		if (c->slow & SLOW_AC && lin & 7)
			engine_raise_err(c, EXC_AC, 0);
		guest_probe(c, lin, 8, true);
	}
	for (unsigned from = 0, to; from < MM_LEN(i); from = to) {
		unsigned end = (from | 7) + 1;

		for (to = from; to < end && mask[to] & 0x80;)
			to++;
		if (to > from)
			guest_write(c, insn_part(c, i, from, to - from, true), data + from, to - from);
		else
			to++;
	}
}

static void op_maskmovdqu(struct engine_cpu *c, const struct insn *i)
{
	vector_check(c, MM_NEED(i));
	mask_move(c, i, c->fpu->zmm[i->reg], c->fpu->zmm[i->rm]);
}

static void op_maskmovq(struct engine_cpu *c, const struct insn *i)
{
	vector_check(c, NEED_MMX);
	mmx_enter(c->fpu);
	mask_move(c, i, c->fpu->x87.st[i->reg], c->fpu->x87.st[i->rm]);
}

/* -- Selection -- */

/* 0: neither; bit 7: scatter; else G_INDEX64 and G_DATA64 of the mnemonic, bit 6 set. */
static unsigned gather_kind(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VGATHERDPS:
	case ZYDIS_MNEMONIC_VPGATHERDD: return 64;
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPGATHERDQ: return 64 | G_DATA64;
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPGATHERQD: return 64 | G_INDEX64;
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQQ: return 64 | G_INDEX64 | G_DATA64;
	case ZYDIS_MNEMONIC_VSCATTERDPS:
	case ZYDIS_MNEMONIC_VPSCATTERDD: return 128;
	case ZYDIS_MNEMONIC_VSCATTERDPD:
	case ZYDIS_MNEMONIC_VPSCATTERDQ: return 128 | G_DATA64;
	case ZYDIS_MNEMONIC_VSCATTERQPS:
	case ZYDIS_MNEMONIC_VPSCATTERQD: return 128 | G_INDEX64;
	case ZYDIS_MNEMONIC_VSCATTERQPD:
	case ZYDIS_MNEMONIC_VPSCATTERQQ: return 128 | G_INDEX64 | G_DATA64;
	default: return 0;
	}
}

static insn_fn select_gather(struct insn *i, const struct insn_decoded *d, unsigned kind)
{
	bool evex = d->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	unsigned widest = kind & (G_INDEX64 | G_DATA64) ? 8 : 4;

	G_FLAGS(i) = (kind & (G_INDEX64 | G_DATA64)) | (evex ? G_EVEX : 0);
	G_COUNT(i) = d->in.avx.vector_length / 8 / widest;
	for (unsigned n = 0; n < d->in.operand_count_visible; n++) {
		const ZydisDecodedOperand *o = &d->op[n];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			G_INDEX(i) = ZydisRegisterGetId(o->mem.index);
		else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			G_DATA(i) = ZydisRegisterGetId(o->reg.value);
		else
			G_MASK(i) = ZydisRegisterGetId(o->reg.value);
	}
	return kind & 128 ? op_scatter : op_gather;
}

insn_fn gather_select(struct insn *i, const struct insn_decoded *d)
{
	unsigned kind = gather_kind(d->in.mnemonic);

	if (kind)
		return select_gather(i, d, kind);
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ: break;
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU: break;
	default: return NULL;
	}
	i->reg = ZydisRegisterGetId(d->op[0].reg.value);
	i->rm = ZydisRegisterGetId(d->op[1].reg.value);
	MM_NEED(i) = d->in.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ? NEED_AVX : NEED_SSE;
	MM_LEN(i) = d->in.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? 8 : 16;
	return MM_LEN(i) == 8 ? op_maskmovq : op_maskmovdqu;
}
