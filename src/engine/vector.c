/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MMX, SSE, AVX and AVX-512: which handler an instruction gets, and the handlers that execute it through its
 * stub (fpu.h). Order of events as on a CPU: enabling (#UD, #NM, pending #MF), memory, the operation with its
 * SIMD floating-point faults, then the change of state.
 */
#include "engine/fpu.h"
#include "engine/vaccess.h"

/* -- Enabling -- */

void vector_refuse(struct engine_cpu *c, enum vneed need)
{
	bool em = c->cr0 & CR0_EM;

	switch (need) {
	case NEED_X87: break;
	case NEED_MMX:
		if (em)
			engine_raise(c, EXC_UD);
		break;
	case NEED_SSE:
	case NEED_SSE_MMX:
		if (em || !(c->cr4 & CR4_OSFXSR))
			engine_raise(c, EXC_UD);
		break;
	case NEED_AVX:
	case NEED_AVX512:
		if (c->real || c->v86 || !(c->cr4 & CR4_OSXSAVE) ||
		    (c->xcr0 & (need == NEED_AVX ? 6 : 0xe6)) != (need == NEED_AVX ? 6 : 0xe6))
			engine_raise(c, EXC_UD);
		break;
	}
	if (c->cr0 & CR0_TS || em)
		engine_raise(c, EXC_NM);
	engine_raise(c, EXC_MF);
}

/* -- Memory, the slow half -- */

void vaccess_ld(struct engine_cpu *c, const struct insn *i, uint64_t lin, void *dst, unsigned len)
{
	uint8_t buf[64];

	if (c->code64 && (!is_canonical(lin) || !is_canonical(lin + len - 1)))
		raise_seg(c, i->seg);
	guest_read(c, lin, buf, len);
	memcpy(dst, buf, len);
}

void vaccess_st(struct engine_cpu *c, const struct insn *i, uint64_t lin, const void *src, unsigned len)
{
	if (c->code64 && (!is_canonical(lin) || !is_canonical(lin + len - 1)))
		raise_seg(c, i->seg);
	guest_write(c, lin, src, len);
}

/* Operands of up to 8 bytes are checked as one, parts under a mask and all; larger ones never are. */
void vector_ac(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	if (likely(!(c->slow & SLOW_AC)) || st->mem_len > 8 || st->no_ac)
		return;
	if (insn_ea(c, i, st->need == NEED_AVX512 ? st->mem_len : 1, stub_stores(st)) & (st->mem_len - 1))
		engine_raise_err(c, EXC_AC, 0);
}

/* -- Executing -- */

static _Noreturn void raise_simd(struct engine_cpu *c, unsigned vector)
{
	if (vector == EXC_XM && !(c->cr4 & CR4_OSXMMEXCPT))
		vector = EXC_UD;
	engine_raise(c, vector);
}

static inline void stage_gprs(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	struct engine_fpu *f = c->fpu;

	if (st->gpr_in_a)
		f->a = c->gpr[st->explicit_len ? RAX : i->reg];
	if (st->gpr_in_b)
		f->b = c->gpr[st->explicit_len ? RDX : i->rm];
}

static inline void commit_gprs(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	struct engine_fpu *f = c->fpu;

	if (st->gpr_out_a)
		c->gpr[i->reg] = f->a;
	if (st->gpr_out_b)
		c->gpr[i->rm] = f->b;
	if (st->out_c)
		c->gpr[RCX] = f->c;
	if (st->flags_out)
		c->rflags = (c->rflags & ~FLAGS_ARITH) | (f->flags & FLAGS_ARITH);
}

void vector_run(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	struct engine_fpu *f = c->fpu;
	unsigned vector;

	stage_gprs(c, i, st);
	if (st->mmx)
		x87_set_top(&f->x87, 0); /* a store that faults has come this far */
	if (st->mmx && st->vmem != VMEM_STORE)
		mmx_enter(f);
	if (st->mxcsr)
		fpu_live(f);
	vector = st->run(f);
	if (unlikely(vector))
		raise_simd(c, vector);
	commit_gprs(c, i, st);
}

void op_vector(struct engine_cpu *c, const struct insn *i)
{
	const struct vstub *st = i->extra;

	vector_check(c, st->need);
	vector_run(c, i, st);
}

void op_vector_load(struct engine_cpu *c, const struct insn *i)
{
	const struct vstub *st = i->extra;
	uint64_t lin;

	vector_check(c, st->need);
	lin = vmem_ea(c, i, st->mem_len, st->align, false);
	if (unlikely(c->slow & SLOW_AC)) {
		vector_ac(c, i, st);
		vaccess_ld(c, i, lin, c->fpu->mem, st->mem_len);
	} else {
		vmem_ld(c, i, lin, c->fpu->mem, st->mem_len);
	}
	vector_run(c, i, st);
}

void op_vector_store(struct engine_cpu *c, const struct insn *i)
{
	const struct vstub *st = i->extra;
	uint64_t lin;

	vector_check(c, st->need);
	vector_run(c, i, st);
	lin = vmem_ea(c, i, st->mem_len, st->align, true);
	if (unlikely(c->slow & SLOW_AC)) {
		vector_ac(c, i, st);
		vaccess_st(c, i, lin, c->fpu->mem, st->mem_len);
	} else {
		vmem_st(c, i, lin, c->fpu->mem, st->mem_len);
	}
	if (st->mmx)
		mmx_enter(c->fpu);
}

/* -- VZEROUPPER, VZEROALL -- */

static void op_vzeroupper(struct engine_cpu *c, const struct insn *i)
{
	vector_check(c, NEED_AVX);
	for (unsigned r = 0; r < (c->code64 ? 16 : 8); r++)
		memset(c->fpu->zmm[r] + 16, 0, 48);
}

static void op_vzeroall(struct engine_cpu *c, const struct insn *i)
{
	vector_check(c, NEED_AVX);
	for (unsigned r = 0; r < (c->code64 ? 16 : 8); r++)
		memset(c->fpu->zmm[r], 0, 64);
}

static void op_emms(struct engine_cpu *c, const struct insn *i)
{
	vector_check(c, NEED_MMX);
	x87_set_top(&c->fpu->x87, 0);
	c->fpu->x87.ftw = 0;
}

/* -- Selection -- */

static insn_fn plain_select(const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_VZEROUPPER: return op_vzeroupper;
	case ZYDIS_MNEMONIC_VZEROALL: return op_vzeroall;
	case ZYDIS_MNEMONIC_EMMS: return op_emms;
	default: return NULL;
	}
}

static insn_fn stub_select(struct insn *i, const struct insn_decoded *d)
{
	struct canon canon;
	struct vstub *st;

	if (!canon_make(&canon, d, i->bytes))
		return NULL;
	st = stub_get(canon.bytes, canon.len);
	if (!st)
		return NULL;
	i->extra = st;
	if (canon.reg >= 0)
		i->reg = canon.reg;
	if (canon.rm >= 0)
		i->rm = canon.rm;
	return st->exec;
}

insn_fn vector_select(struct engine_cpu *c, struct insn *i, const struct insn_decoded *d)
{
	static insn_fn (*const family[])(struct insn *, const struct insn_decoded *) = {
	    move_select, x87_select, xsave_select, gather_select};
	insn_fn fn;

	if (!host_has(d->in.meta.isa_set) || i->lock)
		return NULL;
	fn = plain_select(d);
	for (unsigned n = 0; !fn && n < ARRAY_SIZE(family); n++)
		fn = family[n](i, d);
	return fn ? fn : stub_select(i, d);
}
