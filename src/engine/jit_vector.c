/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Vector instructions, and general ones with a VEX prefix. Vector and mask registers keep their names, but live in
 * struct engine_fpu: what an instruction names is loaded before it and stored behind it. So the helpers written in C
 * may use the host's as they like, and a fault finds the guest's where the interpreter keeps them.
 *
 * The instruction itself is a window, with or without a memory operand: unmasked exceptions (SIGFPE) and misaligned
 * operands go to the site's slow side, where the interpreter raises what is due.
 */
#include "engine/fpu.h"
#include "engine/jit_emit.h"

#define OP_VMOVUPS_LOAD	 0x10
#define OP_VMOVUPS_STORE 0x11

struct voperands {
	const ZydisDecodedOperand *reg, *rm, *vvvv, *mem; /* the explicit ones by place */
	uint32_t vec_in, vec_out;			  /* bit n: vector register n */
	uint8_t mask_in, mask_out;
	bool wide; /* some register is more than 16 bytes */
	bool any_vector;
};

/* -- Which instructions -- */

static bool excluded(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_VZEROALL:
	case ZYDIS_MNEMONIC_VZEROUPPER:
	case ZYDIS_MNEMONIC_VPCOMPRESSB:
	case ZYDIS_MNEMONIC_VPCOMPRESSW:
	case ZYDIS_MNEMONIC_VPCOMPRESSD:
	case ZYDIS_MNEMONIC_VPCOMPRESSQ:
	case ZYDIS_MNEMONIC_VCOMPRESSPS:
	case ZYDIS_MNEMONIC_VCOMPRESSPD:
	case ZYDIS_MNEMONIC_VPEXPANDB:
	case ZYDIS_MNEMONIC_VPEXPANDW:
	case ZYDIS_MNEMONIC_VPEXPANDD:
	case ZYDIS_MNEMONIC_VPEXPANDQ:
	case ZYDIS_MNEMONIC_VEXPANDPS:
	case ZYDIS_MNEMONIC_VEXPANDPD: return true;
	default: return false;
	}
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
	if (n >= 0) {
		v->any_vector = true;
		v->wide |= r >= ZYDIS_REGISTER_YMM0;
		v->vec_in |= 1U << n; /* also of a register that is only written: parts of it may stay */
		if (jit_writes(o))
			v->vec_out |= 1U << n;
		return place(v, o, false);
	}
	if (r >= ZYDIS_REGISTER_K0 && r <= ZYDIS_REGISTER_K7) {
		v->any_vector = true;
		v->mask_in |= (uint8_t)(1 << (r - ZYDIS_REGISTER_K0));
		if (jit_writes(o))
			v->mask_out |= (uint8_t)(1 << (r - ZYDIS_REGISTER_K0));
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

/* -- State in and out; rcx = struct engine_fpu -- */

/* op between a vector register and [rcx + off], 16 bytes, legacy encoding: the rest of a register stays. */
static void move_xmm(struct making *m, unsigned op, unsigned n)
{
	struct emit *e = &m->e;

	e8(e, 0x40 | (n >> 3) << 2);
	e8(e, 0x0f);
	e8(e, op);
	e8(e, 0x80 | (n & 7) << 3 | H_RCX);
	e32(e, (uint32_t)offsetof(struct engine_fpu, zmm) + 64 * n);
}

/* The whole register, as wide as the host has it. */
static void move_whole(struct making *m, unsigned op, unsigned n)
{
	struct emit *e = &m->e;

	if (host_cpu.width == 64) {
		e8(e, 0x62);
		e8(e, (~n >> 3 & 1) << 7 | 1 << 6 | 1 << 5 | (~n >> 4 & 1) << 4 | 1);
		e8(e, 0x7c);
		e8(e, 0x48);
	} else {
		e8(e, 0xc4);
		e8(e, (~n >> 3 & 1) << 7 | 1 << 6 | 1 << 5 | 1);
		e8(e, 0x7c);
	}
	e8(e, op);
	e8(e, 0x80 | (n & 7) << 3 | H_RCX);
	/* EVEX's short displacements are scaled, the long ones are not. */
	e32(e, (uint32_t)offsetof(struct engine_fpu, zmm) + 64 * n);
}

/* KMOVQ between a mask register and [rcx + off]. */
static void move_mask(struct making *m, unsigned op, unsigned n)
{
	struct emit *e = &m->e;

	e8(e, 0xc4);
	e8(e, 0xe1);
	e8(e, 0xf8);
	e8(e, op);
	e8(e, 0x80 | n << 3 | H_RCX);
	e32(e, (uint32_t)(offsetof(struct engine_fpu, k) + 8 * n));
}

static void move_state(struct making *m, uint32_t vec, uint8_t mask, bool whole, bool store)
{
	unsigned op = store ? OP_VMOVUPS_STORE : OP_VMOVUPS_LOAD;

	for (; vec; vec &= vec - 1) {
		unsigned n = (unsigned)__builtin_ctz(vec);

		if (whole || n >= 16)
			move_whole(m, op, n);
		else
			move_xmm(m, op, n);
	}
	for (; mask; mask &= (uint8_t)(mask - 1))
		move_mask(m, store ? 0x91 : 0x90, (unsigned)__builtin_ctz(mask));
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

bool jit_vector_op(struct making *m)
{
	const ZydisDecodedInstruction *in = &m->d.in;
	bool vex = in->attributes & (ZYDIS_ATTRIB_HAS_VEX | ZYDIS_ATTRIB_HAS_EVEX);
	unsigned reg = in->raw.modrm.reg, vvvv = 0, size = 0;
	int rm = -1;
	struct voperands v;
	struct address a;
	struct jit_site *s;

	if (in->raw.prefix_count > 3 || !(in->attributes & ZYDIS_ATTRIB_HAS_MODRM) ||
	    excluded(in->mnemonic) || !sort_operands(m, &v) || (!v.any_vector && !vex) ||
	    !enabled(m, v.any_vector) || (in->attributes & ZYDIS_ATTRIB_HAS_LOCK))
		return false;
	if (v.mem) {
		size = memory_size(m, &v);
		if (!size || is_slot(v.reg) || is_slot(v.vvvv) || !trace_address(m->i, v.mem, &a))
			return false;
	} else if (is_slot(v.vvvv)) {
		return false;
	}
	if (v.mem) {
		s = jit_access(m, &a, jit_writes(v.mem) ? SITE_WRITE : SITE_READ, size);
	} else {
		s = jit_site_new(m, SITE_CALL, 0);
		jit_only_slow(m, s, NULL);
	}
	if (v.any_vector)
		e_gs(&m->e, OP_MOV_LOAD, true, H_RCX, CPU_OFF(fpu));
	move_state(m, v.vec_in, v.mask_in, vex && v.wide, false);
	if (v.reg)
		reg = number_in(m, v.reg, H_R15);
	if (v.rm)
		rm = (int)number_in(m, v.rm, H_R14);
	if (v.vvvv)
		vvvv = number_in(m, v.vvvv, H_R14);
	jit_emit_copy(m, reg, rm, -1, vvvv);
	s->end = e_here(&m->e);
	move_state(m, v.vec_out, v.mask_out, vex, true);
	number_out(m, v.reg, H_R15);
	number_out(m, v.rm, H_R14);
	return true;
}
