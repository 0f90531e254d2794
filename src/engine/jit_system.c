/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instructions of a kernel's everyday work. What they change lives in struct engine_cpu; the guest's arithmetic flags
 * stay in EFLAGS, so a bit is set by LEA, where it is known to be clear, and cleared by PEXT and PDEP.
 *
 * What IOPL and others have a say about is translated for CPL 0 only, by the block's key: elsewhere the handlers know.
 */
#include "engine/jit_emit.h"

#define RFLAGS CPU_OFF(rflags)

static void load(struct making *m, unsigned reg, uint32_t off)
{
	e_gs(&m->e, OP_MOV_LOAD, true, reg, off);
}

static void store(struct making *m, unsigned reg, uint32_t off)
{
	e_gs(&m->e, OP_MOV_STORE, true, reg, off);
}

/* reg &= the constant at `mask` */
static void keep(struct making *m, unsigned reg, uint32_t mask)
{
	e_pext(&m->e, reg, reg, mask);
	e_pdep(&m->e, reg, reg, mask);
}

/* The host register that guest register n is made in, for jit_reg_out with r15. */
static unsigned reg_to(int n)
{
	return jit_in_memory(n) ? H_R15 : (unsigned)jit_host_of(n);
}

/* Adds to a word of the cpu; uses rcx. */
static void add_to(struct making *m, uint32_t off, int32_t by)
{
	load(m, H_RCX, off);
	e_lea(&m->e, H_RCX, H_RCX, by);
	store(m, H_RCX, off);
}

/* On if CR4 has the bit (or has not), else to the interpreter. */
static void need_cr4(struct making *m, uint32_t mask, bool set)
{
	struct jit_site *s = jit_site_new(m, SITE_CALL, 0);

	load(m, H_RCX, CPU_OFF(cr4));
	e_pext(&m->e, H_RCX, H_RCX, mask);
	if (set)
		e_lea(&m->e, H_RCX, H_RCX, -1);
	jit_need_zero(m, s);
}

static bool clear_flag(struct making *m, uint32_t mask_not)
{
	load(m, H_RCX, RFLAGS);
	keep(m, H_RCX, mask_not);
	store(m, H_RCX, RFLAGS);
	return true;
}

static bool op_cli(struct making *m)
{
	return clear_flag(m, JIT_OFF(mask_not_if));
}

static bool op_cld(struct making *m)
{
	return clear_flag(m, JIT_OFF(mask_not_df));
}

/*
 * Between STI and the instruction behind it there is no head, so nobody comes in; should that one need C, jit_slow looks
 * whether the shadow was opened. If somebody waits for IF, the handler tells.
 */
static bool op_sti(struct making *m)
{
	struct jit_site *s;
	uint8_t *over;

	if (m->index + 1 >= m->t->n)
		return false;
	s = jit_site_new(m, SITE_CALL, 0);
	e_gs(&m->e, 0x0fb6, false, H_RCX, CPU_OFF(want_window)); /* movzx */
	jit_need_zero(m, s);
	load(m, H_RCX, RFLAGS);
	e_pext(&m->e, H_R14, H_RCX, JIT_OFF(mask_not_if));
	e_pdep(&m->e, H_R14, H_R14, JIT_OFF(mask_not_if));
	e_lea(&m->e, H_R14, H_R14, FLAG_IF);
	store(m, H_R14, RFLAGS);
	e_pext(&m->e, H_RCX, H_RCX, JIT_OFF(mask_if));
	e_mov_imm(&m->e, H_R14, 1);
	e_jrcxz(&m->e, 0);
	over = m->e.p - 1;
	e_mov_imm(&m->e, H_R14, 0);
	if (!m->e.full)
		*over = (uint8_t)(m->e.p - over - 1);
	store(m, H_R14, JIT_OFF(sti_opened));
	return true;
}

static bool op_swapgs(struct making *m)
{
	load(m, H_RCX, CPU_OFF(seg[GS].base));
	load(m, H_R14, CPU_OFF(kernel_gs_base));
	store(m, H_RCX, CPU_OFF(kernel_gs_base));
	store(m, H_R14, CPU_OFF(seg[GS].base));
	return true;
}

/* The class changes: on to a block with another key. */
static void change_class(struct making *m, int32_t ac, int by)
{
	add_to(m, RFLAGS, ac);
	add_to(m, CPU_OFF(tlb_key), by);
	jit_count(m);
	jit_exit_to_key(m, m->next, (unsigned)((int)m->b->key + by));
	m->ends = true;
}

/* SMAP works while this class is current, hence AC is clear. */
static bool op_stac(struct making *m)
{
	if (!(m->c->feat.cr4_allowed & CR4_SMAP) || (m->b->key & JIT_KEY_CLASS) != JIT_CLASS_SMAP)
		return false;
	change_class(m, FLAG_AC, JIT_CLASS_SUPER - JIT_CLASS_SMAP);
	return true;
}

static bool op_clac(struct making *m)
{
	if (!(m->c->feat.cr4_allowed & CR4_SMAP))
		return false;
	if ((m->b->key & JIT_KEY_CLASS) == JIT_CLASS_SMAP)
		return true;
	/* Without SMAP the class says nothing about AC. */
	need_cr4(m, JIT_OFF(mask_smap), true);
	change_class(m, -(int32_t)FLAG_AC, JIT_CLASS_SMAP - JIT_CLASS_SUPER);
	return true;
}

/* PUSHFQ, at any CPL: the arithmetic flags are the host's. */
static bool op_pushf(struct making *m)
{
	/* In virtual-8086 mode, which is of level 3, IOPL has a say. */
	if (m->b->key & JIT_KEY_MODE ? (m->b->key & (JIT_KEY_MODE | JIT_KEY_RING0)) == JIT_MODE_REAL
				     : m->d.in.operand_width != 64)
		return false;
	e8(&m->e, 0x9c); /* pushfq */
	e8(&m->e, 0x59); /* pop rcx */
	keep(m, H_RCX, JIT_OFF(mask_arith));
	load(m, H_R14, RFLAGS);
	keep(m, H_R14, JIT_OFF(mask_not_arith));
	e_lea_full(&m->e, true, false, H_RCX, H_RCX, H_R14, 0, 0);
	store(m, H_RCX, JIT_OFF(tmp));
	jit_push_tmp(m);
	return true;
}

/* -- Time -- */

/* The host's, which waits for what stands before it where RDTSCP does, plus the guest's offset. */
static bool op_rdtsc(struct making *m, bool p)
{
	struct emit *e = &m->e;

	if (!m->c->tsc_offset || (p && !m->c->feat.rdtscp))
		return false;
	if (!(m->b->key & JIT_KEY_RING0))
		need_cr4(m, JIT_OFF(mask_tsd), false);
	load(m, H_R14, CPU_OFF(tsc_offset));
	if (p)
		e_bytes(e, "\x0f\xae\xe8", 3); /* lfence */
	e_bytes(e, "\x0f\x31", 2);	       /* rdtsc */
	e_bytes(e, "\x4d\x8b\x36", 3);	       /* mov r14, [r14] */
	e_rorx(e, H_RDX, H_RDX, 32);
	e_lea_full(e, true, false, H_RAX, H_RAX, H_RDX, 0, 0);
	e_lea_full(e, true, false, H_RAX, H_RAX, H_R14, 0, 0);
	e_rorx(e, H_RDX, H_RAX, 32);
	e_rr(e, OP_MOV_STORE, false, H_RDX, H_RDX);
	e_rr(e, OP_MOV_STORE, false, H_RAX, H_RAX);
	if (p)
		e_gs(e, OP_MOV_LOAD, false, H_GUEST_RCX, CPU_OFF(tsc_aux));
	return true;
}

/* -- Segments: their selectors and bases may be read, and two bases written -- */

#define SEG_OFF(n, field) \
	(CPU_OFF(seg) + (uint32_t)((n) * sizeof(struct engine_seg) + offsetof(struct engine_seg, field)))

static bool op_mov_from_segment(struct making *m)
{
	const ZydisDecodedOperand *o = &m->d.op[0], *seg = &m->d.op[1];
	int n = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? decode_gpr_number(o->reg.value) : -1;
	struct jit_site *s;
	struct address a;
	uint32_t sel;

	if (m->d.in.opcode != 0x8c || m->d.in.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return false;
	sel = SEG_OFF(seg->reg.value - ZYDIS_REGISTER_ES, sel);
	if (n >= 0 && o->size == 16) {
		unsigned r = jit_reg_in(m, n, H_R15);

		e_gs(&m->e, OP_MOVZX16, false, H_RCX, sel);
		e8(&m->e, 0x66);
		e_rr(&m->e, OP_MOV_STORE, false, H_RCX, r);
		jit_reg_out(m, n, H_R15);
		return true;
	}
	if (n >= 0) {
		e_gs(&m->e, OP_MOVZX16, false, reg_to(n), sel);
		jit_reg_out(m, n, H_R15);
		return true;
	}
	if (!trace_address(m->i, o, &a))
		return false;
	s = jit_access(m, &a, SITE_WRITE, 2);
	e_gs(&m->e, OP_MOVZX16, false, H_RCX, sel);
	e_store_size(&m->e, H_RCX, &m->at, 2);
	s->end = e_here(&m->e);
	return true;
}

static bool op_read_base(struct making *m, enum seg seg)
{
	int n = decode_gpr_number(m->d.op[0].reg.value);

	if (m->d.in.operand_width == 16)
		return false;
	need_cr4(m, JIT_OFF(mask_fsgsbase), true);
	e_gs(&m->e, OP_MOV_LOAD, m->d.in.operand_width == 64, reg_to(n), SEG_OFF(seg, base));
	jit_reg_out(m, n, H_R15);
	return true;
}

/* rcx = 0 if r is canonical; changes r14. */
static void emit_canonical(struct making *m, unsigned r)
{
	struct emit *e = &m->e;

	e_mov_imm(e, H_RCX, 16);
	e_shlx(e, H_R14, r, H_RCX);
	e_sarx(e, H_R14, H_R14, H_RCX);
	e_not(e, H_R14);
	e_lea_full(e, true, false, H_RCX, (int)r, H_R14, 0, 1);
}

static bool op_write_base(struct making *m, enum seg seg)
{
	int n = decode_gpr_number(m->d.op[0].reg.value);
	struct jit_site *s;
	unsigned r;

	if (m->d.in.operand_width == 16)
		return false;
	need_cr4(m, JIT_OFF(mask_fsgsbase), true);
	r = jit_reg_in(m, n, H_R15);
	if (m->d.in.operand_width == 64) {
		s = jit_site_new(m, SITE_CALL, 0);
		emit_canonical(m, r);
		jit_need_zero(m, s);
	} else {
		e_rr(&m->e, OP_MOV_STORE, false, r, H_R15);
		r = H_R15;
	}
	store(m, r, SEG_OFF(seg, base));
	return true;
}

/* -- Control registers that are kept as the guest sees them -- */

static bool op_mov_from_control(struct making *m)
{
	int n = decode_gpr_number(m->d.op[0].reg.value);
	uint32_t off;

	switch (m->d.op[1].reg.value) {
	case ZYDIS_REGISTER_CR0: off = CPU_OFF(cr0); break;
	case ZYDIS_REGISTER_CR2: off = CPU_OFF(cr2); break;
	case ZYDIS_REGISTER_CR3: off = CPU_OFF(cr3); break;
	case ZYDIS_REGISTER_CR4: off = CPU_OFF(cr4); break;
	default: return false;
	}
	e_gs(&m->e, OP_MOV_LOAD, !(m->b->key & JIT_KEY_MODE), reg_to(n), off);
	jit_reg_out(m, n, H_R15);
	return true;
}

static bool op_mov(struct making *m)
{
	ZydisRegister from =
	    m->d.op[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? m->d.op[1].reg.value : ZYDIS_REGISTER_NONE;

	if (from >= ZYDIS_REGISTER_ES && from <= ZYDIS_REGISTER_GS)
		return op_mov_from_segment(m);
	return from >= ZYDIS_REGISTER_CR0 && from <= ZYDIS_REGISTER_CR15 && (m->b->key & JIT_KEY_RING0) &&
	       op_mov_from_control(m);
}

/* -- To the kernel and back -- */

/* A call of jit_lean, which finds the way on, or of the handler. */
static bool op_lean(struct making *m, enum jit_lean which)
{
	jit_count(m);
	e_mov_imm(&m->e, H_R14, m->next);
	jit_op_call(m);
	m->j->site[m->j->nsites - 1].lean = which;
	m->ends = true;
	return true;
}

/* Instructions of every CPL: a guest's flags and segments are not the host's. */
static bool op_any_ring(struct making *m)
{
	switch (m->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ: return op_pushf(m);
	case ZYDIS_MNEMONIC_RDTSC: return op_rdtsc(m, false);
	case ZYDIS_MNEMONIC_RDTSCP: return op_rdtsc(m, true);
	case ZYDIS_MNEMONIC_RDFSBASE: return op_read_base(m, FS);
	case ZYDIS_MNEMONIC_RDGSBASE: return op_read_base(m, GS);
	case ZYDIS_MNEMONIC_WRFSBASE: return op_write_base(m, FS);
	case ZYDIS_MNEMONIC_WRGSBASE: return op_write_base(m, GS);
	case ZYDIS_MNEMONIC_CLD: return op_cld(m);
	case ZYDIS_MNEMONIC_SYSCALL: return op_lean(m, LEAN_SYSCALL);
	case ZYDIS_MNEMONIC_SYSRET: return m->d.in.raw.rex.W && op_lean(m, LEAN_SYSRET);
	case ZYDIS_MNEMONIC_MOV: return op_mov(m);
	default: return false;
	}
}

/* Is the same outside 64-bit mode. */
static bool in_all_modes(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_MOV: return true;
	default: return false;
	}
}

bool jit_system_op(struct making *m)
{
	if (m->d.in.attributes & (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPNE))
		return false;
	if (m->b->key & JIT_KEY_MODE && !in_all_modes(m->d.in.mnemonic))
		return false;
	if (op_any_ring(m))
		return true;
	if (!(m->b->key & JIT_KEY_RING0))
		return false;
	switch (m->d.in.mnemonic) {
	case ZYDIS_MNEMONIC_CLI: return op_cli(m);
	case ZYDIS_MNEMONIC_STI: return op_sti(m);
	case ZYDIS_MNEMONIC_SWAPGS: return op_swapgs(m);
	case ZYDIS_MNEMONIC_STAC: return op_stac(m);
	case ZYDIS_MNEMONIC_CLAC: return op_clac(m);
	default: return false;
	}
}
