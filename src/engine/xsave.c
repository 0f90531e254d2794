/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FXSAVE, FXRSTOR, LDMXCSR, STMXCSR and the XSAVE family (SDM 1, chapter 13), in C from struct engine_fpu.
 * Only bytes that the manual says are written are written; restores read everything before they change
 * anything.
 */
#include "engine/fpu.h"
#include "engine/vaccess.h"

#define LEGACY_SIZE 512
#define HEADER_SIZE 64
#define AREA_MAX    4096 /* more than any layout of the components that we run */
#define COMPACTED   BIT(63)

struct header {
	uint64_t bv, comp_bv;
	uint64_t rest[6];
};

static unsigned xmms(const struct engine_cpu *c)
{
	return c->code64 ? 16 : 8;
}

/* Registers of a component that the mode can reach. */
static unsigned regs_of(const struct engine_cpu *c, unsigned n)
{
	return n == 7 ? (c->code64 ? 16 : 0) : xmms(c);
}

static unsigned reg_size(unsigned n)
{
	return n == 7 ? 64 : n == 6 ? 32 : 16;
}

/* Bytes of component n that are saved in this mode. */
static unsigned bytes_of(const struct engine_cpu *c, unsigned n)
{
	return n == 5 ? 64 : regs_of(c, n) * reg_size(n);
}

/* -- The legacy region -- */

/* Bytes 0..159 in the 64-bit (REX.W) or the selector form of the pointers. */
static void legacy_out(const struct engine_cpu *c, uint8_t *a, bool wide)
{
	fpu_legacy_out(c->fpu, a);
	if (!wide) {
		memset(a + 12, 0, 4);
		memset(a + 20, 0, 4);
		memcpy(a + 12, &c->fpu->fcs, 2);
		memcpy(a + 20, &c->fpu->fds, 2);
	}
}

static void legacy_in(struct engine_cpu *c, const uint8_t *a, bool wide)
{
	uint8_t image[160];

	memcpy(image, a, sizeof(image));
	if (!wide) {
		memset(image + 12, 0, 4);
		memset(image + 20, 0, 4);
	}
	fpu_legacy_in(c->fpu, image);
	if (!wide && !host_cpu.fcs_gone) {
		memcpy(&c->fpu->fcs, a + 12, 2);
		memcpy(&c->fpu->fds, a + 20, 2);
	}
}

static void check_mxcsr(struct engine_cpu *c, const uint8_t *area)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, area + 24, 4);
	if (mxcsr & ~host_cpu.mxcsr_mask)
		engine_raise_err(c, EXC_GP, 0);
}

static bool is_wide(const struct insn *i)
{
	return i->op;
}

/* -- FXSAVE, FXRSTOR -- */

static void check_fx(struct engine_cpu *c)
{
	fpu_sync(c->fpu);
	if (c->cr0 & (CR0_EM | CR0_TS))
		engine_raise(c, EXC_NM);
}

/* Canonicality is judged before the alignment, the segment behind it. */
static uint64_t area_ea(struct engine_cpu *c, const struct insn *i, unsigned len, unsigned align, bool write)
{
	uint64_t lin = c->code64 ? insn_ea(c, i, 1, write) : insn_offset(c, i) + c->seg[i->seg].base;

	if (lin & (align - 1))
		engine_raise_err(c, lin & 3 && c->slow & SLOW_AC ? EXC_AC : EXC_GP, 0);
	return insn_ea(c, i, len, write);
}

/* Moves an FXSAVE image whose offset wraps, 16 bytes at a time. False: it does not, or is not aligned, and nothing is done. */
static bool move_wrapped(struct engine_cpu *c, const struct insn *i, uint8_t *area, unsigned len, bool write)
{
	uint64_t lin = insn_offset(c, i) + c->seg[i->seg].base;

	if (likely(!insn_wraps(c, i, LEGACY_SIZE)) || lin & 15)
		return false;
	for (unsigned at = 0; write && at < LEGACY_SIZE; at += 16)
		guest_probe(c, insn_part(c, i, at, 16, true), 16, true);
	for (unsigned at = 0; at < len; at += 16)
		if (write)
			guest_write(c, insn_part(c, i, at, 16, true), area + at, 16);
		else
			guest_read(c, insn_part(c, i, at, 16, false), area + at, 16);
	return true;
}

static void op_fxsave(struct engine_cpu *c, const struct insn *i)
{
	uint8_t area[416];
	unsigned len = 160 + 16 * xmms(c);
	uint64_t lin;

	check_fx(c);
	legacy_out(c, area, is_wide(i));
	fpu_component_out(c->fpu, 1, area + 160, xmms(c));
	if (move_wrapped(c, i, area, len, true))
		return;
	lin = area_ea(c, i, LEGACY_SIZE, 16, true);
	guest_probe(c, lin, LEGACY_SIZE, true);
	guest_write(c, lin, area, len);
}

static void op_fxrstor(struct engine_cpu *c, const struct insn *i)
{
	uint8_t area[LEGACY_SIZE];

	check_fx(c);
	if (!move_wrapped(c, i, area, LEGACY_SIZE, false))
		guest_read(c, area_ea(c, i, LEGACY_SIZE, 16, false), area, LEGACY_SIZE);
	check_mxcsr(c, area);
	legacy_in(c, area, is_wide(i));
	memcpy(&c->fpu->mxcsr, area + 24, 4);
	fpu_component_in(c->fpu, 1, area + 160, xmms(c));
}

/* -- MXCSR -- */

static void op_ldmxcsr(struct engine_cpu *c, const struct insn *i)
{
	uint32_t v;

	vector_check(c, i->cc);
	v = mem_ld32(c, i, ea_linear(c, i, 4, false));
	if (v & ~host_cpu.mxcsr_mask)
		engine_raise_err(c, EXC_GP, 0);
	fpu_sync(c->fpu);
	c->fpu->mxcsr = v;
}

static void op_stmxcsr(struct engine_cpu *c, const struct insn *i)
{
	vector_check(c, i->cc);
	fpu_sync(c->fpu);
	mem_st32(c, i, ea_linear(c, i, 4, true), c->fpu->mxcsr);
}

/* -- XSAVE -- */

static void check_xsave(struct engine_cpu *c)
{
	fpu_sync(c->fpu);
	if (!(c->cr4 & CR4_OSXSAVE))
		engine_raise(c, EXC_UD);
	if (c->cr0 & CR0_TS)
		engine_raise(c, EXC_NM);
}

static uint64_t requested(const struct engine_cpu *c)
{
	return (c->gpr[RDX] << 32 | (uint32_t)c->gpr[RAX]) & c->xcr0;
}

/* Where component n lies in an area whose format `layout` tells (0: standard; else XCOMP_BV). */
static unsigned offset_of(unsigned n, uint64_t layout)
{
	unsigned at = LEGACY_SIZE + HEADER_SIZE;

	if (n < 2 || !(layout & COMPACTED))
		return host_cpu.off[n];
	for (unsigned m = 2; m <= n; m++) {
		if (!(layout & BIT(m)))
			continue;
		if (host_cpu.align64[m])
			at = (at + 63) & ~63u;
		if (m == n)
			return at;
		at += host_cpu.size[m];
	}
	return at;
}

/* XINUSE of the requested components; MXCSR counts as SSE state here (SDM 1, 13.6). */
static uint64_t in_use(const struct engine_cpu *c, uint64_t rfbm)
{
	uint64_t used = fpu_in_use(c->fpu);

	if (c->fpu->mxcsr != MXCSR_INIT)
		used |= XF_SSE;
	if (!c->code64)
		used &= ~(uint64_t)XF_HI16;
	return used & rfbm;
}

/* Bytes of an area in which the requested components have their places, needed now or not. */
static unsigned extent(uint64_t rfbm, uint64_t layout)
{
	unsigned end = LEGACY_SIZE + HEADER_SIZE;

	for (unsigned n = 2; n < 8; n++)
		if (rfbm & BIT(n) && (!(layout & COMPACTED) || layout & BIT(n)))
			end = MAX(end, offset_of(n, layout) + host_cpu.size[n]);
	return end;
}

/* What a save writes, as ranges of a local copy of the area. */
struct writes {
	uint8_t area[AREA_MAX];
	struct {
		uint16_t at, len;
	} range[12];
	unsigned n;
};

static void range(struct writes *w, unsigned at, unsigned len)
{
	if (!len)
		return;
	if (w->n && w->range[w->n - 1].at + w->range[w->n - 1].len == at) {
		w->range[w->n - 1].len += len;
		return;
	}
	w->range[w->n].at = at;
	w->range[w->n++].len = len;
}

/* Components in `save` go to the area; MXCSR too if `mxcsr`. */
static void fill_area(const struct engine_cpu *c, struct writes *w, uint64_t save, bool mxcsr,
		      uint64_t layout, bool wide)
{
	w->n = 0;
	legacy_out(c, w->area, wide);
	if (save & XF_X87)
		range(w, 0, 24);
	if (mxcsr)
		range(w, 24, 8);
	if (save & XF_X87)
		range(w, 32, 128);
	for (unsigned n = 1; n < 8; n++) {
		unsigned at;

		if (!(save & BIT(n)))
			continue;
		at = offset_of(n, layout);
		fpu_component_out(c->fpu, n, w->area + at, regs_of(c, n));
		range(w, at, bytes_of(c, n));
	}
}

static void flush(struct engine_cpu *c, const struct writes *w, uint64_t lin)
{
	for (unsigned n = 0; n < w->n; n++)
		guest_probe(c, lin + w->range[n].at, w->range[n].len, true);
	for (unsigned n = 0; n < w->n; n++)
		guest_write(c, lin + w->range[n].at, w->area + w->range[n].at, w->range[n].len);
}

static uint64_t area_linear(struct engine_cpu *c, const struct insn *i, bool write)
{
	check_xsave(c);
	return area_ea(c, i, write ? extent(requested(c), 0) : LEGACY_SIZE + HEADER_SIZE, 64, write);
}

/* XSAVE and XSAVEOPT: the old XSTATE_BV is kept for components that are not requested. */
static void save_standard(struct engine_cpu *c, const struct insn *i, bool optimise)
{
	uint64_t lin = area_linear(c, i, true), rfbm = requested(c), used = in_use(c, rfbm), bv;
	struct writes w;

	guest_probe(c, lin + extent(rfbm, 0) - 1, 1, true);
	guest_probe(c, lin + LEGACY_SIZE, 8, true);
	guest_read(c, lin + LEGACY_SIZE, &bv, 8);
	bv = (bv & ~rfbm) | used;
	fill_area(c, &w, optimise ? used : rfbm, rfbm & (XF_SSE | XF_AVX), 0, is_wide(i));
	memcpy(w.area + LEGACY_SIZE, &bv, 8);
	range(&w, LEGACY_SIZE, 8);
	flush(c, &w, lin);
}

static void op_xsave(struct engine_cpu *c, const struct insn *i)
{
	save_standard(c, i, false);
}

static void op_xsaveopt(struct engine_cpu *c, const struct insn *i)
{
	save_standard(c, i, true);
}

static void op_xsavec(struct engine_cpu *c, const struct insn *i)
{
	uint64_t lin = area_linear(c, i, true), rfbm = requested(c), used = in_use(c, rfbm);
	uint64_t layout = rfbm | COMPACTED;
	struct writes w;

	guest_probe(c, lin + extent(rfbm, layout) - 1, 1, true);
	fill_area(c, &w, used, used & XF_SSE, layout, is_wide(i));
	memcpy(w.area + LEGACY_SIZE, &used, 8);
	memcpy(w.area + LEGACY_SIZE + 8, &layout, 8);
	range(&w, LEGACY_SIZE, 16);
	flush(c, &w, lin);
}

/* No supervisor component is supported, so XSAVES saves what XSAVEC does. */
static void op_xsaves(struct engine_cpu *c, const struct insn *i)
{
	check_xsave(c);
	if (c->cpl)
		engine_raise_err(c, EXC_GP, 0);
	op_xsavec(c, i);
}

/* -- XRSTOR -- */

static bool rest_zero(const struct header *h)
{
	for (unsigned n = 0; n < ARRAY_SIZE(h->rest); n++)
		if (h->rest[n])
			return false;
	return true;
}

static bool header_valid(const struct engine_cpu *c, const struct header *h)
{
	if (h->comp_bv & COMPACTED)
		return host_has(ZYDIS_ISA_SET_XSAVEC) && !(h->comp_bv & ~COMPACTED & ~c->xcr0) &&
		       !(h->bv & ~h->comp_bv) && rest_zero(h);
	return !(h->bv & ~c->xcr0) && !h->comp_bv && !h->rest[0];
}

/* Reads what the restore needs; everything that can fault happens here. */
static void read_area(struct engine_cpu *c, uint64_t lin, uint8_t *area, const struct header *h,
		      uint64_t load, bool mxcsr)
{
	if (load & XF_X87) {
		guest_read(c, lin, area, 24);
		guest_read(c, lin + 32, area + 32, 128);
	}
	if (mxcsr) {
		guest_read(c, lin + 24, area + 24, 4);
		check_mxcsr(c, area);
	}
	for (unsigned n = 1; n < 8; n++) {
		unsigned at = offset_of(n, h->comp_bv);

		if (load & BIT(n) && bytes_of(c, n))
			guest_read(c, lin + at, area + at, bytes_of(c, n));
	}
}

static void restore(struct engine_cpu *c, uint64_t lin, uint64_t rfbm, const struct header *h, bool wide)
{
	bool compacted = h->comp_bv & COMPACTED;
	uint64_t load = rfbm & h->bv;
	bool mxcsr = compacted ? load & XF_SSE : rfbm & (XF_SSE | XF_AVX);
	uint8_t area[AREA_MAX];

	guest_probe(c, lin + extent(rfbm, h->comp_bv) - 1, 1, false);
	if ((compacted ? load : rfbm) & (XF_X87 | XF_SSE))
		guest_probe(c, lin, 1, false);
	read_area(c, lin, area, h, load, mxcsr);
	if (load & XF_X87)
		legacy_in(c, area, wide);
	else if (rfbm & XF_X87)
		fpu_component_init(c->fpu, 0, 0);
	for (unsigned n = 1; n < 8; n++) {
		if (load & BIT(n))
			fpu_component_in(c->fpu, n, area + offset_of(n, h->comp_bv), regs_of(c, n));
		else if (rfbm & BIT(n))
			fpu_component_init(c->fpu, n, regs_of(c, n));
	}
	if (mxcsr)
		memcpy(&c->fpu->mxcsr, area + 24, 4);
	else if (compacted && rfbm & XF_SSE)
		c->fpu->mxcsr = MXCSR_INIT;
}

static void op_xrstor(struct engine_cpu *c, const struct insn *i)
{
	uint64_t lin = area_linear(c, i, false);
	struct header h;

	guest_read(c, lin + LEGACY_SIZE, &h, sizeof(h));
	if (!header_valid(c, &h))
		engine_raise_err(c, EXC_GP, 0);
	restore(c, lin, requested(c), &h, is_wide(i));
}

static void op_xrstors(struct engine_cpu *c, const struct insn *i)
{
	uint64_t lin;
	struct header h;

	check_xsave(c);
	if (c->cpl)
		engine_raise_err(c, EXC_GP, 0);
	lin = area_linear(c, i, false);
	guest_read(c, lin + LEGACY_SIZE, &h, sizeof(h));
	if (!(h.comp_bv & COMPACTED) || !header_valid(c, &h))
		engine_raise_err(c, EXC_GP, 0);
	restore(c, lin, requested(c), &h, is_wide(i));
}

/* -- Selection -- */

insn_fn xsave_select(struct insn *i, const struct insn_decoded *d)
{
	/* The REX.W forms, which keep 64-bit pointers, have mnemonics of their own. */
	i->op = d->in.attributes & ZYDIS_ATTRIB_HAS_REX && d->in.raw.rex.W;
	i->cc = NEED_SSE;
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64: return op_fxsave;
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64: return op_fxrstor;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64: return op_xsave;
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64: return op_xsaveopt;
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64: return op_xsavec;
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64: return op_xsaves;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64: return op_xrstor;
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64: return op_xrstors;
	case ZYDIS_MNEMONIC_LDMXCSR: return op_ldmxcsr;
	case ZYDIS_MNEMONIC_STMXCSR: return op_stmxcsr;
	case ZYDIS_MNEMONIC_VLDMXCSR: i->cc = NEED_AVX; return op_ldmxcsr;
	case ZYDIS_MNEMONIC_VSTMXCSR: i->cc = NEED_AVX; return op_stmxcsr;
	default: return NULL;
	}
}
