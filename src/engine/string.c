/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MOVS STOS LODS CMPS SCAS INS OUTS, with and without REP.
 *
 * A repeated instruction works in batches and commits RSI, RDI and RCX with each: what faults, stops at a
 * device or is interrupted begins again at the element that was not done. REP MOVS and REP STOS forwards in
 * plain memory go by whole page pieces. Between batches the handler returns with next_rip = rip, so the run
 * loop looks at its exit word; c->retired counts every step that touched a device's replay log.
 */
#include "engine/ops.h"

#define BATCH	  256  /* elements of CMPS, SCAS, LODS between two looks at the exit word */
#define PIO_BYTES 1024 /* of INS and OUTS at a time */

/* -- Registers -- */

static inline int64_t step(const struct engine_cpu *c, const struct insn *i)
{
	return c->rflags & FLAG_DF ? -(int64_t)i->opsize : i->opsize;
}

static inline uint64_t counter(const struct engine_cpu *c, const struct insn *i)
{
	return reg_get(c, RCX * 8, i->adsize);
}

static inline void advance(struct engine_cpu *c, const struct insn *i, enum gpr r, int64_t by)
{
	reg_set(c, r * 8, c->gpr[r] + by, i->adsize);
}

static inline uint64_t source(struct engine_cpu *c, const struct insn *i)
{
	return seg_linear(c, i->seg, reg_get(c, RSI * 8, i->adsize), i->opsize, false);
}

static inline uint64_t target(struct engine_cpu *c, const struct insn *i, bool write)
{
	return seg_linear(c, ES, reg_get(c, RDI * 8, i->adsize), i->opsize, write);
}

/*
 * REP with a zero counter does nothing; but with 32-bit addresses in 64-bit code Intel's CPUs clear the upper
 * halves of the counter and of what MOVS and STOS would have advanced.
 */
static bool rep_idle(struct engine_cpu *c, const struct insn *i)
{
	if (i->rep == REP_NONE)
		return false;
	if (counter(c, i)) { /* even a fault of the first element leaves the counter cut */
		if (c->code64 && i->adsize == 4)
			c->gpr[RCX] = (uint32_t)c->gpr[RCX];
		return false;
	}
	if (c->code64 && i->adsize == 4) {
		c->gpr[RCX] = 0;
		if (i->op & 1)
			c->gpr[RSI] = (uint32_t)c->gpr[RSI];
		if (i->op & 2)
			c->gpr[RDI] = (uint32_t)c->gpr[RDI];
	}
	return true;
}

/* n elements are done (their pointers advanced): counts, and stays at this instruction if more remain. */
static inline void rep_done(struct engine_cpu *c, const struct insn *i, uint64_t n)
{
	if (i->rep == REP_NONE)
		return;
	reg_set(c, RCX * 8, c->gpr[RCX] - n, i->adsize);
	if (counter(c, i))
		c->next_rip = c->rip;
}

/* May several elements go at once? Not while each one may trap. */
static inline bool batching(const struct engine_cpu *c, const struct insn *i)
{
	return i->rep != REP_NONE && !(c->slow & (SLOW_TF | SLOW_BREAK | SLOW_AC));
}

/* -- Page pieces -- */

/* Elements from offset `off` of segment s that lie in one page, below the limit and below the address wrap.
 */
static uint64_t piece_room(struct engine_cpu *c, const struct insn *i, enum seg s, uint64_t off, uint64_t lin)
{
	uint64_t room = PAGE_SIZE - (lin & PAGE_OFFSET_MASK);
	const struct engine_seg *d = &c->seg[s];

	if (i->adsize < 8)
		room = MIN(room, BIT(i->adsize * 8) - off);
	if (!c->code64) {
		if ((SEG_TYPE(d->attr) & 12) == 4 && !c->real && !c->v86)
			return 0;				/* expand-down: element by element */
		room = MIN(room, (uint64_t)d->limit - off + 1); /* the first element was within it */
	}
	return room / i->opsize;
}

/* The host address of lin and the sequence it is good for; NULL for a device, and for tracked memory, to
 * which elements are written one by one. Raises #PF. */
static uint8_t *piece_host(struct engine_cpu *c, uint64_t lin, bool write, uint64_t *seq)
{
	struct tlb_entry *e = TLB_AT(c, lin);
	uint64_t tag = TLB_TAG(c, lin, 1);
	struct place p;

	*seq = atomic_load_explicit(&c->revoke_seq, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	if (likely((write ? e->wtag : e->rtag) == tag))
		return (uint8_t *)(lin + e->addend);
	mmu_find(c, lin, write ? ACC_WRITE : ACC_READ, &p);
	*seq = p.seq;
	return write && p.tracked ? NULL : p.host;
}

/* Elements done out of n after a raw operation left `left` bytes or elements undone. */
static uint64_t done_of(struct engine_cpu *c, uint64_t n, long left, unsigned unit)
{
	if (left < 0)
		access_bad(c);
	return n - (left + unit - 1) / unit;
}

/* -- MOVS -- */

static void movs_one(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = mem_ld(c, NULL, source(c, i), i->opsize);

	mem_st(c, NULL, target(c, i, true), v, i->opsize);
	advance(c, i, RSI, step(c, i));
	advance(c, i, RDI, step(c, i));
	rep_done(c, i, 1);
}

/* A forward piece in RAM; false if it must go by elements. */
static bool movs_piece(struct engine_cpu *c, const struct insn *i)
{
	uint64_t from = source(c, i), to, seq, seq2, n, done;
	uint8_t *src, *dst;

	n = MIN(piece_room(c, i, i->seg, reg_get(c, RSI * 8, i->adsize), from), counter(c, i));
	if (n < 2)
		return false;
	src = piece_host(c, from, false, &seq); /* its faults come before the destination's */
	to = target(c, i, true);
	n = MIN(n, piece_room(c, i, ES, reg_get(c, RDI * 8, i->adsize), to));
	if (n < 2)
		return false;
	dst = piece_host(c, to, true, &seq2);
	/* Overlapping closer than an element, bytes and elements differ. */
	if (!src || !dst || seq != seq2 || (uint64_t)(dst - src) - 1 < i->opsize - 1U)
		return false;
	done = done_of(c, n, raw_copy(c, dst, src, n * i->opsize, seq), i->opsize);
	advance(c, i, RSI, done * i->opsize);
	advance(c, i, RDI, done * i->opsize);
	rep_done(c, i, done);
	return true;
}

static void op_movs(struct engine_cpu *c, const struct insn *i)
{
	if (rep_idle(c, i))
		return;
	if (batching(c, i) && !(c->rflags & FLAG_DF) && movs_piece(c, i))
		return;
	movs_one(c, i);
}

/* -- STOS -- */

static void stos_one(struct engine_cpu *c, const struct insn *i)
{
	mem_st(c, NULL, target(c, i, true), c->gpr[RAX], i->opsize);
	advance(c, i, RDI, step(c, i));
	rep_done(c, i, 1);
}

static bool stos_piece(struct engine_cpu *c, const struct insn *i)
{
	uint64_t to = target(c, i, true), seq, n, done;
	uint8_t *dst;

	n = MIN(piece_room(c, i, ES, reg_get(c, RDI * 8, i->adsize), to), counter(c, i));
	if (n < 2)
		return false;
	dst = piece_host(c, to, true, &seq);
	if (!dst)
		return false;
	done = done_of(c, n, raw_fill(c, dst, c->gpr[RAX], i->opsize, n, seq), 1);
	advance(c, i, RDI, done * i->opsize);
	rep_done(c, i, done);
	return true;
}

static void op_stos(struct engine_cpu *c, const struct insn *i)
{
	if (rep_idle(c, i))
		return;
	if (batching(c, i) && !(c->rflags & FLAG_DF) && stos_piece(c, i))
		return;
	stos_one(c, i);
}

/* -- LODS, SCAS, CMPS: elements, many per visit -- */

static void lods_one(struct engine_cpu *c, const struct insn *i)
{
	reg_set(c, RAX * 8, mem_ld(c, NULL, source(c, i), i->opsize), i->opsize);
	advance(c, i, RSI, step(c, i));
	rep_done(c, i, 1);
}

/* Flags of a - b. */
static void compare(struct engine_cpu *c, uint64_t a, uint64_t b, unsigned size)
{
	unsigned ax;

#define COMPARE(text) __asm__(text "\n\t" LAHF_SETO : "=&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc")
	switch (size) {
	case 1: COMPARE("cmpb %b[b], %b[a]"); break;
	case 2: COMPARE("cmpw %w[b], %w[a]"); break;
	case 4: COMPARE("cmpl %k[b], %k[a]"); break;
	default: COMPARE("cmpq %q[b], %q[a]"); break;
	}
#undef COMPARE
	flags_put(&c->rflags, ax, FLAGS_ARITH);
}

/* As rep_done, but REPE and REPNE end by ZF as well. */
static void rep_done_zf(struct engine_cpu *c, const struct insn *i)
{
	bool zf = c->rflags & FLAG_ZF;

	if (i->rep == REP_NONE)
		return;
	rep_done(c, i, 1);
	if (zf != (i->rep == REP_E))
		c->next_rip = c->rip + i->len; /* as the run loop would: strings do not end at the wrap */
}

static void scas_one(struct engine_cpu *c, const struct insn *i)
{
	uint64_t b = mem_ld(c, NULL, target(c, i, false), i->opsize);

	compare(c, c->gpr[RAX], b, i->opsize);
	advance(c, i, RDI, step(c, i));
	rep_done_zf(c, i);
}

static void cmps_one(struct engine_cpu *c, const struct insn *i)
{
	uint64_t b = mem_ld(c, NULL, target(c, i, false), i->opsize);
	uint64_t a = mem_ld(c, NULL, source(c, i), i->opsize);

	compare(c, a, b, i->opsize);
	advance(c, i, RSI, step(c, i));
	advance(c, i, RDI, step(c, i));
	rep_done_zf(c, i);
}

/*
 * Repeats `one` while it asks for more, up to a batch; each element but the last is counted as retired here.
 * A fault, and a trap between elements, leave the flags as they were before the instruction (SDM 2B, REP), so elements
 * set them at the end.
 */
static inline void batch(struct engine_cpu *c, const struct insn *i, insn_fn one)
{
	uint64_t end = c->next_rip, before = c->rflags;
	bool many = i->rep != REP_NONE && !(c->slow & (SLOW_TF | SLOW_BREAK));
	unsigned n = many ? BATCH : 1;

	if (rep_idle(c, i))
		return;
	for (;;) {
		c->next_rip = end;
		one(c, i);
		if (c->next_rip != c->rip)
			return;
		c->rflags = before;
		if (--n == 0)
			return;
		c->retired++;
	}
}

static void op_lods(struct engine_cpu *c, const struct insn *i)
{
	batch(c, i, lods_one);
}

static void op_scas(struct engine_cpu *c, const struct insn *i)
{
	batch(c, i, scas_one);
}

static void op_cmps(struct engine_cpu *c, const struct insn *i)
{
	batch(c, i, cmps_one);
}

/* -- INS and OUTS: up to PIO_BYTES in one port call -- */

static uint64_t pio_count(struct engine_cpu *c, const struct insn *i, enum seg s, enum gpr r, uint64_t lin)
{
	uint64_t n;

	if (!batching(c, i) || (c->rflags & FLAG_DF))
		return 1;
	n = piece_room(c, i, s, reg_get(c, r * 8, i->adsize), lin);
	n = MIN(n, (uint64_t)PIO_BYTES / i->opsize);
	n = MIN(n, counter(c, i));
	return MAX(n, 1ULL);
}

static void pio(struct engine_cpu *c, const struct insn *i, void *buf, uint64_t n, bool write)
{
	enum engine_status st;

	port_enter(c);
	st = c->port->pio(c->ctx, c->gpr[RDX], buf, i->opsize, n, write);
	port_leave(c);
	engine_obey(c, st);
}

static void op_ins(struct engine_cpu *c, const struct insn *i)
{
	uint8_t buf[PIO_BYTES];
	uint64_t to, n;

	system_io_check(c, c->gpr[RDX], i->opsize);
	if (rep_idle(c, i))
		return;
	to = target(c, i, true);
	n = pio_count(c, i, ES, RDI, to);
	guest_probe(c, to, n * i->opsize, true);
	pio(c, i, buf, n, false);
	guest_write(c, to, buf, n * i->opsize);
	advance(c, i, RDI, (int64_t)n * step(c, i));
	rep_done(c, i, n);
}

static void op_outs(struct engine_cpu *c, const struct insn *i)
{
	uint8_t buf[PIO_BYTES];
	uint64_t from, n;

	system_io_check(c, c->gpr[RDX], i->opsize);
	if (rep_idle(c, i))
		return;
	from = source(c, i);
	n = pio_count(c, i, i->seg, RSI, from);
	guest_read(c, from, buf, n * i->opsize);
	pio(c, i, buf, n, true);
	advance(c, i, RSI, (int64_t)n * step(c, i));
	rep_done(c, i, n);
}

/* -- Selection: op bit 0 = uses RSI, bit 1 = uses RDI (for rep_idle) -- */

static insn_fn string_op(struct insn *i, unsigned bytes, unsigned uses, insn_fn fn)
{
	i->opsize = bytes;
	i->op = uses;
	return fn;
}

/* MOVSD and CMPSD are SSE2 instructions too. */
static bool is_string(const struct insn_decoded *d)
{
	return d->in.meta.category == ZYDIS_CATEGORY_STRINGOP ||
	       d->in.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

#define STRING(NAME, FN, USES)                                           \
	case ZYDIS_MNEMONIC_##NAME##B: return string_op(i, 1, USES, FN); \
	case ZYDIS_MNEMONIC_##NAME##W: return string_op(i, 2, USES, FN); \
	case ZYDIS_MNEMONIC_##NAME##D: return string_op(i, 4, USES, FN)

insn_fn string_select(struct insn *i, const struct insn_decoded *d)
{
	if (!is_string(d))
		return NULL;
	switch (d->in.mnemonic) {
		STRING(MOVS, op_movs, 3);
		STRING(STOS, op_stos, 2);
		STRING(LODS, op_lods, 0);
		STRING(SCAS, op_scas, 0);
		STRING(CMPS, op_cmps, 0);
		STRING(INS, op_ins, 0);
		STRING(OUTS, op_outs, 0);
	case ZYDIS_MNEMONIC_MOVSQ: return string_op(i, 8, 3, op_movs);
	case ZYDIS_MNEMONIC_STOSQ: return string_op(i, 8, 2, op_stos);
	case ZYDIS_MNEMONIC_LODSQ: return string_op(i, 8, 0, op_lods);
	case ZYDIS_MNEMONIC_SCASQ: return string_op(i, 8, 0, op_scas);
	case ZYDIS_MNEMONIC_CMPSQ: return string_op(i, 8, 0, op_cmps);
	default: return NULL;
	}
}
