/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The canonical form of a vector or x87 instruction: what a stub executes and the stub cache is keyed by.
 *
 * Vector, mask, MMX and x87 registers keep their numbers. The memory operand becomes [rsi], a general
 * register in ModRM.reg becomes rax, one in ModRM.rm rdx. Prefixes that only chose mode, segment or address
 * size go; what is left is valid 64-bit code that means the same.
 */
#include "engine/fpu.h"

/* Register numbers by the encoding field that named them. */
struct fields {
	uint8_t reg, rm, nds, is4;
	bool has_reg, has_rm, has_nds, has_is4, mem;
};

static bool is_gpr(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: return true;
	default: return false;
	}
}

/* Notes one register operand; general registers are replaced. False: a form that stubs do not have. */
static bool take_register(struct fields *f, struct canon *out, const ZydisDecodedOperand *o)
{
	int id = ZydisRegisterGetId(o->reg.value);
	bool gpr = is_gpr(o->reg.value);

	if (id < 0 && o->encoding != ZYDIS_OPERAND_ENCODING_NONE)
		return false;
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		f->has_reg = true;
		f->reg = gpr ? 0 : id;
		if (gpr)
			out->reg = id;
		return true;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		f->has_rm = true;
		f->rm = gpr ? 2 : id;
		if (gpr)
			out->rm = id;
		return true;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		f->has_nds = true;
		f->nds = id;
		return !gpr;
	case ZYDIS_OPERAND_ENCODING_IS4:
		f->has_is4 = true;
		f->is4 = id;
		return true;
	default: return true;
	}
}

static bool take_operands(struct fields *f, struct canon *out, const struct insn_decoded *d)
{
	f->reg = d->in.raw.modrm.reg;
	f->rm = d->in.raw.modrm.rm;
	for (unsigned n = 0; n < d->in.operand_count_visible; n++) {
		const ZydisDecodedOperand *o = &d->op[n];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !take_register(f, out, o))
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
				return false;
			f->mem = true;
			f->rm = 6;
		}
	}
	return true;
}

static void put(struct canon *out, uint8_t byte)
{
	if (out->len < sizeof(out->bytes))
		out->bytes[out->len++] = byte;
}

static void put_legacy(struct canon *out, const struct insn_decoded *d, const struct fields *f, bool w)
{
	const ZydisDecodedInstruction *in = &d->in;
	uint8_t rex = 0x40 | w << 3 | (f->reg >> 3 & 1) << 2 | (f->rm >> 3 & 1);

	for (unsigned n = 0; n < in->raw.prefix_count; n++)
		if (in->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			put(out, in->raw.prefixes[n].value);
	if (rex != 0x40)
		put(out, rex);
	if (in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		put(out, 0x0f);
	if (in->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		put(out, 0x38);
	if (in->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		put(out, 0x3a);
}

/* Three-byte VEX, or XOP, which has the same fields behind another first byte. */
static void put_vex(struct canon *out, const struct insn_decoded *d, const struct fields *f, bool w)
{
	bool xop = d->in.encoding == ZYDIS_INSTRUCTION_ENCODING_XOP;
	uint8_t map = xop ? d->in.raw.xop.m_mmmm : d->in.raw.vex.m_mmmm;
	uint8_t l = xop ? d->in.raw.xop.L : d->in.raw.vex.L;
	uint8_t pp = xop ? d->in.raw.xop.pp : d->in.raw.vex.pp;

	put(out, xop ? 0x8f : 0xc4);
	put(out, (~f->reg >> 3 & 1) << 7 | 1 << 6 | (~f->rm >> 3 & 1) << 5 | map);
	put(out, w << 7 | (~f->nds & 15) << 3 | l << 2 | pp);
}

static void put_evex(struct canon *out, const struct insn_decoded *d, const struct fields *f, bool w)
{
	const struct ZydisDecodedInstructionRawEvex *e = &d->in.raw.evex;

	put(out, 0x62);
	put(out, (~f->reg >> 3 & 1) << 7 | (~f->rm >> 4 & 1) << 6 | (~f->rm >> 3 & 1) << 5 |
		     (~f->reg >> 4 & 1) << 4 | e->mmm);
	put(out, w << 7 | (~f->nds & 15) << 3 | 1 << 2 | e->pp);
	put(out, e->z << 7 | e->L2 << 6 | e->L << 5 | e->b << 4 | (~f->nds >> 4 & 1) << 3 | e->aaa);
}

static void put_tail(struct canon *out, const struct insn_decoded *d, const struct fields *f,
		     const uint8_t *raw)
{
	const ZydisDecodedInstruction *in = &d->in;

	put(out, in->opcode);
	if (in->raw.modrm.offset)
		put(out, (f->mem ? 0 : in->raw.modrm.mod) << 6 | (f->reg & 7) << 3 | (f->rm & 7));
	for (unsigned n = 0; n < 2; n++)
		for (unsigned k = 0; k < in->raw.imm[n].size / 8u; k++) {
			uint8_t byte = raw[in->raw.imm[n].offset + k];

			put(out, f->has_is4 ? (byte & 15) | f->is4 << 4 : byte);
		}
}

static bool raw_w(const ZydisDecodedInstruction *in)
{
	switch (in->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY: return in->attributes & ZYDIS_ATTRIB_HAS_REX && in->raw.rex.W;
	case ZYDIS_INSTRUCTION_ENCODING_XOP: return in->raw.xop.W;
	case ZYDIS_INSTRUCTION_ENCODING_VEX: return in->raw.vex.W;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX: return in->raw.evex.W;
	default: return false;
	}
}

static bool encode(struct canon *out, const struct insn_decoded *d, const struct fields *f, bool w,
		   const uint8_t *raw)
{
	out->len = 0;
	memset(out->bytes, 0, sizeof(out->bytes));
	switch (d->in.encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY: put_legacy(out, d, f, w); break;
	case ZYDIS_INSTRUCTION_ENCODING_XOP:
	case ZYDIS_INSTRUCTION_ENCODING_VEX: put_vex(out, d, f, w); break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX: put_evex(out, d, f, w); break;
	default: return false;
	}
	put_tail(out, d, f, raw);
	return true;
}

/* Does the canonical form mean the same: mnemonic, and the sizes of the visible operands? */
static bool same_meaning(const struct canon *out, const struct insn_decoded *d)
{
	struct insn_decoded e;
	ZydisDecoder dec;

	ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, out->bytes, out->len, &e.in, e.op)))
		return false;
	if (e.in.mnemonic != d->in.mnemonic || e.in.length != out->len ||
	    e.in.operand_count_visible != d->in.operand_count_visible)
		return false;
	for (unsigned n = 0; n < e.in.operand_count_visible; n++)
		if (e.op[n].size != d->op[n].size || e.op[n].type != d->op[n].type)
			return false;
	return true;
}

/* W would widen registers that are no visible operands (EAX, EDX). */
static bool hidden_w(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_VPCMPESTRI || m == ZYDIS_MNEMONIC_VPCMPESTRM;
}

/* Outside 64-bit mode W is ignored by instructions that it would widen to a 64-bit general register. */
bool canon_make(struct canon *out, const struct insn_decoded *d, const uint8_t *raw)
{
	struct fields f = {0};
	bool w = raw_w(&d->in);

	*out = (struct canon){.reg = -1, .rm = -1};
	if (d->in.machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && hidden_w(d->in.mnemonic))
		w = false;
	if (!take_operands(&f, out, d) || !encode(out, d, &f, w, raw))
		return false;
	if (d->in.machine_mode == ZYDIS_MACHINE_MODE_LONG_64 || same_meaning(out, d))
		return true;
	return w && encode(out, d, &f, false, raw) && same_meaning(out, d);
}
