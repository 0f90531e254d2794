/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Vector instructions, and general ones with a VEX prefix. Vector and mask registers keep their names, and the guest's
 * state stays in them from one instruction to the next, block after block. The first vector instruction of a block
 * looks whether it is there, and fetches all of it if not; whatever leaves to C code puts it back first (jit_thunk.c).
 *
 * An instruction that may raise is a window, with or without a memory operand: unmasked exceptions (SIGFPE) and
 * misaligned operands go to the site's slow side, where the interpreter raises what is due.
 */
#include "engine/fpu.h"
#include "engine/jit_emit.h"

struct voperands {
	const ZydisDecodedOperand *reg, *rm, *vvvv, *mem; /* the explicit ones by place */
	bool any_vector;				  /* or mask register, or MXCSR */
	bool wide;					  /* a mask, a register of 512 bits or from 16 on */
};

/* -- Which instructions -- */

static bool excluded(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MASKMOVDQU: /* memory by RDI */
	case ZYDIS_MNEMONIC_VMASKMOVDQU: return true;
	default: return false;
	}
}

static bool moves_mxcsr(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_LDMXCSR || m == ZYDIS_MNEMONIC_STMXCSR || m == ZYDIS_MNEMONIC_VLDMXCSR ||
	       m == ZYDIS_MNEMONIC_VSTMXCSR;
}

/* True if the guest has enabled what the encoding needs, by the block's key; the interpreter decides otherwise. */
static bool enabled(const struct making *m, bool vector)
{
	uint64_t attr = m->d.in.attributes;

	if (!host_has(m->d.in.meta.isa_set))
		return false;
	if (attr & ZYDIS_ATTRIB_HAS_EVEX ||
	    (attr & ZYDIS_ATTRIB_HAS_VEX && m->d.in.meta.isa_ext != ZYDIS_ISA_EXT_AVX &&
	     !strncmp(ZydisISAExtGetString(m->d.in.meta.isa_ext), "AVX512", 6)))
		return m->b->key & JIT_KEY_AVX512;
	if (attr & ZYDIS_ATTRIB_HAS_VEX)
		return !vector || m->b->key & JIT_KEY_AVX;
	return m->b->key & JIT_KEY_SSE;
}

/* Number of a vector register, or -1. */
static int vector_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_XMM0 && r <= ZYDIS_REGISTER_XMM31)
		return r - ZYDIS_REGISTER_XMM0;
	if (r >= ZYDIS_REGISTER_YMM0 && r <= ZYDIS_REGISTER_YMM31)
		return r - ZYDIS_REGISTER_YMM0;
	if (r >= ZYDIS_REGISTER_ZMM0 && r <= ZYDIS_REGISTER_ZMM31)
		return r - ZYDIS_REGISTER_ZMM0;
	return -1;
}

static bool place(struct voperands *v, const ZydisDecodedOperand *o, bool gpr)
{
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: v->reg = o; return true;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: v->rm = o; return true;
	case ZYDIS_OPERAND_ENCODING_NDSNDD: v->vvvv = o; return true;
	default: return !gpr; /* implicit XMM0, IS4 and opmask: their numbers stay */
	}
}

static bool sort_register(struct voperands *v, const ZydisDecodedOperand *o)
{
	ZydisRegister r = o->reg.value;
	int n = vector_number(r);

	if (r == ZYDIS_REGISTER_RFLAGS || r == ZYDIS_REGISTER_EFLAGS || r == ZYDIS_REGISTER_FLAGS ||
	    r == ZYDIS_REGISTER_MXCSR)
		return true;
	if (n >= 0 || (r >= ZYDIS_REGISTER_K0 && r <= ZYDIS_REGISTER_K7)) {
		v->any_vector = true;
		v->wide |= n < 0 || n >= 16 || r >= ZYDIS_REGISTER_ZMM0;
		return place(v, o, false);
	}
	n = decode_gpr_number(r);
	return n >= 0 && n < 16 && place(v, o, true);
}

static bool sort_operands(const struct making *m, struct voperands *v)
{
	*v = (struct voperands){0};
	for (unsigned k = 0; k < m->d.in.operand_count; k++) {
		const ZydisDecodedOperand *o = &m->d.op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !sort_register(v, o))
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			v->mem = o;
		if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
			return false;
	}
	return true;
}

/* -- The instruction -- */

/* ModRM.reg, ModRM.rm or vvvv of a register operand; general ones are renamed. */
static unsigned number_in(struct making *m, const ZydisDecodedOperand *o, unsigned temp)
{
	ZydisRegister r = o->reg.value;
	int n = vector_number(r);

	if (n >= 0)
		return (unsigned)n;
	if (r >= ZYDIS_REGISTER_K0 && r <= ZYDIS_REGISTER_K7)
		return r - ZYDIS_REGISTER_K0;
	return jit_reg_in(m, decode_gpr_number(r), temp);
}

static void number_out(struct making *m, const ZydisDecodedOperand *o, unsigned temp)
{
	int n = o ? decode_gpr_number(o->reg.value) : -1;

	if (n >= 0 && jit_writes(o))
		jit_reg_out(m, n, temp);
}

static bool is_slot(const ZydisDecodedOperand *o)
{
	int n = o ? decode_gpr_number(o->reg.value) : -1;

	return n >= 0 && jit_in_memory(n);
}

/* Bytes of the memory operand that may be touched; 0: a form for the interpreter. */
static unsigned memory_size(const struct making *m, const struct voperands *v)
{
	unsigned size = v->mem->size / 8;

	if (m->d.in.avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID && !m->d.in.avx.broadcast.is_static)
		return size <= 8 ? size : 0;
	return size > 64 ? 0 : size;
}

/* From here on the guest's vector state is in the host's registers. */
static void need_state(struct making *m)
{
	struct emit *e = &m->e;

	if (m->vector)
		return;
	e_gs(e, OP_MOV_LOAD, true, H_RCX, JIT_OFF(vector_out));
	e8(e, 0xe3); /* jrcxz over the call */
	e8(e, 5);
	e8(e, 0xe8);
	e32(e, m->j->load_vectors - (e_here(e) + 4));
	m->vector = true;
}

/* VZEROUPPER and VZEROALL. */
static bool clear_registers(struct making *m)
{
	if (!enabled(m, true) || m->b->key & JIT_KEY_MODE) /* there only registers 0..7 */
		return false;
	need_state(m);
	e8(&m->e, 0xc5);
	e8(&m->e, 0xf8 | (unsigned)m->d.in.raw.vex.L << 2);
	e8(&m->e, 0x77);
	return true;
}

/* Where general registers that live in memory wait while the instruction runs. */
struct temps {
	unsigned reg, rm, vvvv;
};

static void copy(struct making *m, const struct voperands *v, const struct temps *t)
{
	unsigned reg = v->reg ? number_in(m, v->reg, t->reg) : m->d.in.raw.modrm.reg;
	int rm = v->rm ? (int)number_in(m, v->rm, t->rm) : v->mem ? -1 : m->d.in.raw.modrm.rm;
	unsigned vvvv = v->vvvv ? number_in(m, v->vvvv, t->vvvv) : 0;

	jit_emit_copy(m, reg, rm, -1, vvvv);
}

/* ModRM.reg last: MULX with one register for both results leaves the upper half. */
static void copy_done(struct making *m, const struct voperands *v, const struct temps *t)
{
	number_out(m, v->rm, t->rm);
	number_out(m, v->vvvv, t->vvvv);
	number_out(m, v->reg, t->reg);
}

static void with_memory(struct making *m, const struct voperands *v, const struct address *a, unsigned size)
{
	static const struct temps t = {.reg = H_RCX, .vvvv = H_RCX}; /* one of them at most */
	struct jit_site *s;

	m->aligned = insn_alignment(&m->d, size);
	s = jit_access(m, a, jit_writes(v->mem) ? SITE_WRITE : SITE_READ, size);
	m->aligned = 0;

	copy(m, v, &t);
	s->end = e_here(&m->e);
	copy_done(m, v, &t);
}

static void without_memory(struct making *m, const struct voperands *v)
{
	static const struct temps t = {.reg = H_R15, .rm = H_R14, .vvvv = H_RCX};
	struct jit_site *s = NULL;

	if (insn_uses_mxcsr(&m->d)) {
		s = jit_site_new(m, SITE_CALL, 0);
		jit_only_slow(m, s, NULL);
	}
	copy(m, v, &t);
	if (s)
		s->end = e_here(&m->e);
	copy_done(m, v, &t);
}

bool jit_vector_op(struct making *m)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	bool vex = in->attributes & (ZYDIS_ATTRIB_HAS_VEX | ZYDIS_ATTRIB_HAS_EVEX);
	struct voperands v;
	struct address a;
	unsigned size = 0;

	if (in->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || in->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
		return clear_registers(m);
	if (in->raw.prefix_count > JIT_MAX_PREFIXES || !(in->attributes & ZYDIS_ATTRIB_HAS_MODRM) ||
	    excluded(in->mnemonic) || !sort_operands(m, &v))
		return false;
	v.any_vector |= moves_mxcsr(in->mnemonic) || insn_uses_mxcsr(&m->d);
	if ((!v.any_vector && !vex) || !enabled(m, v.any_vector) ||
	    (in->attributes & ZYDIS_ATTRIB_HAS_LOCK) || (v.mem && is_slot(v.reg) && is_slot(v.vvvv)))
		return false;
	if (v.mem) {
		size = memory_size(m, &v);
		if (!size || !trace_address(m->i, v.mem, &a))
			return false;
	}
	if (m->b->key & JIT_KEY_MODE && !jit_mode_same(m))
		return false;
	if (v.any_vector)
		need_state(m);
	if (v.wide)
		m->j->vector_wide = 1;
	if (v.mem)
		with_memory(m, &v, &a, size);
	else
		without_memory(m, &v);
	return true;
}
