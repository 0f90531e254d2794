/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * x87: the environment instructions in C, everything else on the host through a stub that loads and stores
 * the whole x87 component. FIP, FDP and FOP of the guest: the stub runs with values that it cannot produce
 * itself, so a changed pointer tells that the CPU updated it, and it is replaced by the guest's.
 */
#include "engine/fpu.h"
#include "engine/vaccess.h"

#define NO_POINTER 1 /* no instruction of ours and no operand lies at 1 */
#define NO_FOP	   0 /* no opcode of ours has ModRM 0 */
#define X87_FOP(i) ((i)->far_sel)
#define UNWRITTEN  0x5a

static void x87_check(struct engine_cpu *c, bool waits)
{
	vector_check(c, NEED_X87);
	if (waits && c->fpu->x87.fsw & FSW_ES)
		engine_raise(c, EXC_MF);
}

/* ES and B from the exception flags and masks. */
static void update_es(struct x87_image *x)
{
	x->fsw &= ~(FSW_ES | FSW_B);
	if (x->fsw & ~x->fcw & 0x3f)
		x->fsw |= FSW_ES | FSW_B;
}

/* -- On the host -- */

struct pointers {
	uint64_t fip, fdp;
	uint16_t fop;
};

static struct pointers hide_pointers(struct x87_image *x)
{
	struct pointers p = {x->fip, x->fdp, x->fop};

	x->fip = x->fdp = NO_POINTER;
	x->fop = NO_FOP;
	return p;
}

static void show_pointers(struct engine_cpu *c, const struct insn *i, struct x87_image *x,
			  const struct pointers *p)
{
	bool old_style = !c->code64 && !host_cpu.fcs_gone;

	if (x->fip == NO_POINTER) {
		x->fip = p->fip;
	} else {
		x->fip = c->rip;
		c->fpu->fcs = old_style ? c->seg[CS].sel : 0;
	}
	if (x->fdp == NO_POINTER) {
		x->fdp = p->fdp;
	} else {
		x->fdp = insn_offset(c, i);
		c->fpu->fds = old_style ? c->seg[i->seg].sel : 0;
	}
	x->fop = x->fop == NO_FOP ? p->fop : X87_FOP(i);
}

/* A store does not happen if an unmasked exception before the result stopped it; nor does its pop. */
static bool store_happened(const struct x87_image *x, const uint8_t *mem, unsigned len)
{
	if (!(x->fsw & ~x->fcw & 0x1f))
		return true;
	for (unsigned n = 0; n < len; n++)
		if (mem[n] != UNWRITTEN)
			return true;
	return false;
}

/* Runs the stub; the result is in f->x87, or for a store in f->x87_out. */
static struct x87_image *x87_execute(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	struct engine_fpu *f = c->fpu;
	struct x87_image *out = st->x87_store ? &f->x87_out : &f->x87;
	struct pointers p = hide_pointers(&f->x87);

	f->flags = (c->rflags & FLAGS_ARITH) | 2;
	if (st->run(f)) {
		f->x87.fip = p.fip;
		f->x87.fdp = p.fdp;
		f->x87.fop = p.fop;
		engine_raise(c, EXC_UD);
	}
	if (st->x87_store) {
		f->x87.fip = p.fip;
		f->x87.fdp = p.fdp;
		f->x87.fop = p.fop;
	}
	show_pointers(c, i, out, &p);
	if (st->flags_out)
		c->rflags = (c->rflags & ~FLAGS_ARITH) | (f->flags & FLAGS_ARITH);
	return out;
}

/* #AC, where it is on; ten bytes are checked as eight. */
static void check_ac(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	if (likely(!(c->slow & SLOW_AC)))
		return;
	if (st->mem_len == 10 && insn_part(c, i, 0, 8, st->x87_store) & 7)
		engine_raise_err(c, EXC_AC, 0);
	vector_ac(c, i, st);
}

/* An 80-bit number is 8 bytes and 2 where its offset wraps. */
static void load(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	uint8_t *to = c->fpu->mem;

	if (st->mem_len != 10 || likely(!insn_wraps(c, i, 10))) {
		vmem_ld(c, i, vmem_ea(c, i, st->mem_len, 0, false), to, st->mem_len);
		return;
	}
	guest_read(c, insn_part(c, i, 0, 8, false), to, 8);
	guest_read(c, insn_part(c, i, 8, 2, false), to + 8, 2);
}

static void store(struct engine_cpu *c, const struct insn *i, const struct vstub *st)
{
	const uint8_t *from = c->fpu->mem;
	uint64_t low, high;

	if (st->mem_len != 10 || likely(!insn_wraps(c, i, 10))) {
		vmem_st(c, i, vmem_ea(c, i, st->mem_len, 0, true), from, st->mem_len);
		return;
	}
	low = insn_part(c, i, 0, 8, true);
	high = insn_part(c, i, 8, 2, true);
	guest_probe(c, low, 8, true);
	guest_probe(c, high, 2, true);
	guest_write(c, low, from, 8);
	guest_write(c, high, from + 8, 2);
}

void op_x87(struct engine_cpu *c, const struct insn *i)
{
	const struct vstub *st = i->extra;
	struct engine_fpu *f = c->fpu;

	x87_check(c, true);
	if (!st->x87_store) {
		if (st->vmem) {
			check_ac(c, i, st);
			load(c, i, st);
		}
		x87_execute(c, i, st);
		return;
	}
	memset(f->mem, UNWRITTEN, st->mem_len);
	x87_execute(c, i, st);
	if (store_happened(&f->x87_out, f->mem, st->mem_len)) {
		check_ac(c, i, st);
		store(c, i, st);
	}
	memcpy(&f->x87, &f->x87_out, offsetof(struct x87_image, rest));
}

/* -- Control -- */

static void op_fninit(struct engine_cpu *c, const struct insn *i)
{
	x87_check(c, false);
	x87_fninit(c->fpu);
}

static void op_fnclex(struct engine_cpu *c, const struct insn *i)
{
	x87_check(c, false);
	c->fpu->x87.fsw &= 0x7f00;
}

static void op_fnstsw(struct engine_cpu *c, const struct insn *i)
{
	uint16_t fsw = c->fpu->x87.fsw;

	x87_check(c, false);
	if (i->mem)
		mem_st16(c, i, ea_linear(c, i, 2, true), fsw);
	else
		c->gpr[RAX] = (c->gpr[RAX] & ~0xffffULL) | fsw;
}

static void op_fnstcw(struct engine_cpu *c, const struct insn *i)
{
	x87_check(c, false);
	mem_st16(c, i, ea_linear(c, i, 2, true), c->fpu->x87.fcw);
}

static void op_fwait(struct engine_cpu *c, const struct insn *i)
{
	if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		engine_raise(c, EXC_NM);
	if (c->fpu->x87.fsw & FSW_ES)
		engine_raise(c, EXC_MF);
}

/* FENI, FDISI, FSETPM: what is left of the 8087 and the 287. */
static void op_fnop_old(struct engine_cpu *c, const struct insn *i)
{
	x87_check(c, false);
}

/* -- The environment: 14 bytes for 16-bit operands, 28 for 32-bit ones (SDM 1, 8.1.10) -- */

static unsigned tag_of(const uint8_t st[16])
{
	uint64_t mant;
	uint16_t exp;

	memcpy(&mant, st, 8);
	memcpy(&exp, st + 8, 2);
	exp &= 0x7fff;
	if (exp == 0)
		return mant ? 2 : 1;
	return exp == 0x7fff || !(mant >> 63) ? 2 : 0;
}

static uint16_t full_tags(const struct x87_image *x)
{
	unsigned top = FSW_TOP(x->fsw), tags = 0;

	for (unsigned n = 0; n < 8; n++)
		tags |= (x->ftw >> n & 1 ? tag_of(x->st[(n - top) & 7]) : 3) << (2 * n);
	return tags;
}

static bool real_format(const struct engine_cpu *c)
{
	return c->real || c->v86;
}

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, 2);
}

static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
}

static void env_out32(const struct engine_cpu *c, uint8_t *p)
{
	const struct x87_image *x = &c->fpu->x87;

	put32(p, 0xffff0000 | x->fcw);
	put32(p + 4, 0xffff0000 | x->fsw);
	put32(p + 8, 0xffff0000 | full_tags(x));
	if (real_format(c)) {
		uint32_t ip = x->fip + (c->fpu->fcs << 4), dp = x->fdp + (c->fpu->fds << 4);

		put32(p + 12, 0xffff0000 | (uint16_t)ip);
		put32(p + 16, (ip >> 16) << 12 | (x->fop & 0x7ff));
		put32(p + 20, 0xffff0000 | (uint16_t)dp);
		put32(p + 24, (dp >> 16) << 12);
		return;
	}
	put32(p + 12, x->fip);
	put32(p + 16, c->fpu->fcs | (x->fop & 0x7ff) << 16);
	put32(p + 20, x->fdp);
	put32(p + 24, 0xffff0000 | c->fpu->fds);
}

static void env_out16(const struct engine_cpu *c, uint8_t *p)
{
	const struct x87_image *x = &c->fpu->x87;

	put16(p, x->fcw);
	put16(p + 2, x->fsw);
	put16(p + 4, full_tags(x));
	if (real_format(c)) {
		uint32_t ip = x->fip + (c->fpu->fcs << 4), dp = x->fdp + (c->fpu->fds << 4);

		put16(p + 6, ip);
		put16(p + 8, (ip >> 16) << 12 | (x->fop & 0x7ff));
		put16(p + 10, dp);
		put16(p + 12, (dp >> 16) << 12);
		return;
	}
	put16(p + 6, x->fip);
	put16(p + 8, c->fpu->fcs);
	put16(p + 10, x->fdp);
	put16(p + 12, c->fpu->fds);
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return v;
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

/* Instruction and operand pointers of an environment image. */
static void pointers_in(struct engine_cpu *c, const uint8_t *p, bool wide)
{
	struct x87_image *x = &c->fpu->x87;
	bool keep = !host_cpu.fcs_gone && !real_format(c);

	c->fpu->fcs = c->fpu->fds = 0;
	if (real_format(c) && wide) {
		x->fip = get16(p + 12) | (get32(p + 16) >> 12 & 0xffff) << 16;
		x->fdp = get16(p + 20) | (get32(p + 24) >> 12 & 0xffff) << 16;
		x->fop = get32(p + 16) & 0x7ff;
	} else if (real_format(c)) {
		x->fip = get16(p + 6) | (get16(p + 8) >> 12) << 16;
		x->fdp = get16(p + 10) | (get16(p + 12) >> 12) << 16;
		x->fop = get16(p + 8) & 0x7ff;
	} else if (wide) {
		x->fip = get32(p + 12);
		x->fdp = get32(p + 20);
		x->fop = get32(p + 16) >> 16 & 0x7ff;
		c->fpu->fcs = keep ? get16(p + 16) : 0;
		c->fpu->fds = keep ? get16(p + 24) : 0;
	} else {
		x->fip = get16(p + 6);
		x->fdp = get16(p + 10);
		x->fop = 0;
		c->fpu->fcs = keep ? get16(p + 8) : 0;
		c->fpu->fds = keep ? get16(p + 12) : 0;
	}
}

/* Control, status, tags and pointers; registers keep their physical places. */
static void env_in(struct engine_cpu *c, const uint8_t *p, bool wide)
{
	struct x87_image *x = &c->fpu->x87;
	unsigned step = wide ? 4 : 2;
	uint16_t tags = get16(p + 2 * step);

	x87_set_top(x, FSW_TOP(get16(p + step)));
	x->fcw = get16(p);
	x->fsw = get16(p + step);
	x->ftw = 0;
	for (unsigned n = 0; n < 8; n++)
		if ((tags >> (2 * n) & 3) != 3)
			x->ftw |= 1 << n;
	pointers_in(c, p, wide);
}

static unsigned env_len(const struct insn *i)
{
	return i->opsize == 2 ? 14 : 28;
}

static void env_out(const struct engine_cpu *c, const struct insn *i, uint8_t *p)
{
	if (i->opsize == 2)
		env_out16(c, p);
	else
		env_out32(c, p);
}

/* The alignment of an image, where that is checked, is that of its words. */
static void env_align(struct engine_cpu *c, const struct insn *i, uint64_t lin)
{
	if (unlikely(c->slow & SLOW_AC) && lin & (i->opsize == 2 ? 1 : 3))
		engine_raise_err(c, EXC_AC, 0);
}

/* What is accessed together of an image whose offset wraps: words, behind them 8 and 2 bytes of each register. */
static unsigned env_piece(const struct insn *i, unsigned at)
{
	if (at < env_len(i))
		return i->opsize == 2 ? 2 : 4;
	return (at - env_len(i)) % 10 ? 2 : 8;
}

static void env_load(struct engine_cpu *c, const struct insn *i, uint8_t *buf, unsigned len)
{
	uint64_t lin = insn_part(c, i, 0, 1, false);

	env_align(c, i, lin);
	if (unlikely(insn_wraps(c, i, len)))
		for (unsigned at = 0; at < len; at += env_piece(i, at))
			guest_read(c, insn_part(c, i, at, env_piece(i, at), false), buf + at,
				   env_piece(i, at));
	else if (len > env_len(i))
		guest_read(c, insn_ea(c, i, len, false), buf, len);
	else
		vaccess_ld(c, i, insn_ea(c, i, len, false), buf, len);
}

/* All of it or nothing. */
static void env_store(struct engine_cpu *c, const struct insn *i, const uint8_t *buf, unsigned len)
{
	uint64_t lin = insn_part(c, i, 0, 1, true);

	env_align(c, i, lin);
	if (likely(!insn_wraps(c, i, len))) {
		lin = insn_ea(c, i, len, true);
		if (len > env_len(i))
			guest_write(c, lin, buf, len);
		else
			vaccess_st(c, i, lin, buf, len);
		return;
	}
	for (unsigned at = 0; at < len; at += env_piece(i, at))
		guest_probe(c, insn_part(c, i, at, env_piece(i, at), true), env_piece(i, at), true);
	for (unsigned at = 0; at < len; at += env_piece(i, at))
		guest_write(c, insn_part(c, i, at, env_piece(i, at), true), buf + at, env_piece(i, at));
}

static void op_fnstenv(struct engine_cpu *c, const struct insn *i)
{
	unsigned len = env_len(i);
	uint8_t buf[28];

	x87_check(c, false);
	env_out(c, i, buf);
	env_store(c, i, buf, len);
	c->fpu->x87.fcw |= 0x3f;
	update_es(&c->fpu->x87);
}

static void op_fnsave(struct engine_cpu *c, const struct insn *i)
{
	unsigned env = env_len(i), len = env + 80;
	uint8_t buf[108];

	x87_check(c, false);
	env_out(c, i, buf);
	for (unsigned n = 0; n < 8; n++)
		memcpy(buf + env + 10 * n, c->fpu->x87.st[n], 10);
	env_store(c, i, buf, len);
	x87_fninit(c->fpu);
}

static void op_fldenv(struct engine_cpu *c, const struct insn *i)
{
	unsigned len = env_len(i);
	uint8_t buf[28];

	x87_check(c, true);
	env_load(c, i, buf, len);
	env_in(c, buf, i->opsize != 2);
	x87_canonical(c->fpu);
}

static void op_frstor(struct engine_cpu *c, const struct insn *i)
{
	unsigned env = env_len(i), len = env + 80;
	uint8_t buf[108];

	x87_check(c, true);
	env_load(c, i, buf, len);
	env_in(c, buf, i->opsize != 2);
	for (unsigned n = 0; n < 8; n++)
		memcpy(c->fpu->x87.st[n], buf + env + 10 * n, 10);
	x87_canonical(c->fpu);
}

/* -- Selection -- */

static insn_fn in_c(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNINIT: return op_fninit;
	case ZYDIS_MNEMONIC_FNCLEX: return op_fnclex;
	case ZYDIS_MNEMONIC_FNSTSW: return op_fnstsw;
	case ZYDIS_MNEMONIC_FNSTCW: return op_fnstcw;
	case ZYDIS_MNEMONIC_FWAIT: return op_fwait;
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP: return op_fnop_old;
	case ZYDIS_MNEMONIC_FNSTENV: return op_fnstenv;
	case ZYDIS_MNEMONIC_FNSAVE: return op_fnsave;
	case ZYDIS_MNEMONIC_FLDENV: return op_fldenv;
	case ZYDIS_MNEMONIC_FRSTOR: return op_frstor;
	default: return NULL;
	}
}

/* Also notes FOP for the stub's handler, which is then chosen by the caller (NULL). */
insn_fn x87_select(struct insn *i, const struct insn_decoded *d)
{
	const ZydisDecodedInstruction *in = &d->in;

	if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return NULL;
	if (in->opcode >= 0xd8 && in->opcode <= 0xdf)
		X87_FOP(i) = (in->opcode & 7) << 8 | i->bytes[in->raw.modrm.offset];
	return in_c(in->mnemonic);
}
