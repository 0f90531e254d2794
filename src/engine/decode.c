/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes and mode to struct insn, by Zydis. Where Zydis and CPUs differ is settled here:
 *   - MPX and CET are off: BND* and ENDBR are the NOPs that they are on a CPU without them;
 *   - a SIB byte with base 101 and mod 00 has no base, whatever REX.B says;
 *   - the machine mode says real mode, where protected-mode instructions and VEX do not exist.
 */
#include "engine/access.h"
#include "engine/decode.h"

static void op_undefined(struct engine_cpu *c, const struct insn *i)
{
	engine_raise(c, EXC_UD);
}

static ZydisDecoder decoders[4]; /* 64, 32, 16, real */

static void decoders_init(void)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
	} modes[4] = {
	    {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
	    {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
	    {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
	    {ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
	};

	for (unsigned k = 0; k < 4; k++) {
		ZydisDecoderInit(&decoders[k], modes[k].mode, modes[k].stack);
		ZydisDecoderEnableMode(&decoders[k], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[k], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	}
}

static const ZydisDecoder *decoder_for(uint16_t mode_key)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, decoders_init);
	switch (mode_key) {
	case 64: return &decoders[0];
	case 32: return &decoders[1];
	case 16: return &decoders[2];
	default: return &decoders[3];
	}
}

const ZydisDecoder *decode_machine(const struct engine_cpu *c)
{
	return decoder_for(c->mode_key);
}

const ZydisDecoder *decode_host(void)
{
	return decoder_for(64);
}

int decode_gpr_number(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
		return reg - ZYDIS_REGISTER_AL;
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
		return 16 + reg - ZYDIS_REGISTER_AH;
	if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
		return 4 + reg - ZYDIS_REGISTER_SPL;
	if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
		return reg - ZYDIS_REGISTER_AX;
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return reg - ZYDIS_REGISTER_EAX;
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return reg - ZYDIS_REGISTER_RAX;
	return -1;
}

unsigned decode_gpr_offset(ZydisRegister reg)
{
	int n = decode_gpr_number(reg);

	if (n < 0)
		return 0;
	return n >= 16 ? (n - 16) * 8 + 1 : n * 8;
}

static bool is_ip(ZydisRegister reg)
{
	return reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP;
}

/* Their destination is ES:rDI, which no prefix overrides. */
static bool is_string(const struct insn_decoded *d)
{
	return d->in.meta.category == ZYDIS_CATEGORY_STRINGOP ||
	       d->in.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

/* The operand that i->seg, base, index, disp describe: ModRM's or moffs, else the overridable implicit one.
 */
static const ZydisDecodedOperand *memory_operand(const struct insn_decoded *d)
{
	const ZydisDecodedOperand *found = NULL;
	int base;

	for (unsigned k = 0; k < d->in.operand_count; k++) {
		const ZydisDecodedOperand *o = &d->op[k];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (o->encoding != ZYDIS_OPERAND_ENCODING_NONE)
			return o;
		base = decode_gpr_number(o->mem.base);
		if (base != RSP && !(base == RDI && is_string(d)))
			found = o;
	}
	return found;
}

/* SIB base 5 with mod 0 is a displacement alone; Zydis 4.0 overlooks it for R13D under an address-size
 * prefix. */
static bool no_base(const struct insn_decoded *d)
{
	return d->in.attributes & ZYDIS_ATTRIB_HAS_SIB && d->in.raw.modrm.mod == 0 && d->in.raw.sib.base == 5;
}

static void fill_memory(struct engine_cpu *c, struct insn *i, const struct insn_decoded *d)
{
	const ZydisDecodedOperand *o = memory_operand(d);
	int base, index;

	i->base = i->index = -1;
	i->seg = DS;
	i->ea_base = i->ea_index = i->ea_seg = EA_IDX(zero);
	i->ea_kind = EA_OTHER;
	if (!o)
		return;
	base = decode_gpr_number(o->mem.base);
	index = decode_gpr_number(o->mem.index);
	if (o->mem.segment >= ZYDIS_REGISTER_ES && o->mem.segment <= ZYDIS_REGISTER_GS)
		i->seg = o->mem.segment - ZYDIS_REGISTER_ES;
	i->disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
	if (no_base(d)) {
		base = -1;
		i->disp = d->in.raw.disp.value;
	}
	i->base = base;
	i->index = index;
	if (base >= 0)
		i->ea_base = base;
	if (index >= 0)
		i->ea_index = index;
	i->scale = o->mem.scale ? __builtin_ctz(o->mem.scale) : 0;
	if (is_ip(o->mem.base)) {
		i->base = -2;
		i->disp += c->rip + i->len;
	}
	i->mem = o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
	if (c->mode_key == 64 && i->adsize == 8) {
		i->ea_kind = EA_64;
		if (i->seg >= FS)
			i->ea_seg = i->seg == FS ? EA_IDX(seg[FS].base) : EA_IDX(seg[GS].base);
	}
}

static void fill_operands(struct engine_cpu *c, struct insn *i, const struct insn_decoded *d)
{
	bool have_imm = false;

	for (unsigned k = 0; k < d->in.operand_count; k++) {
		const ZydisDecodedOperand *o = &d->op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			int n = decode_gpr_number(o->reg.value);

			if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG && n >= 0)
				i->reg = n;
			if ((o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			     o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE) &&
			    n >= 0)
				i->rm = n;
		} else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
			if (have_imm) { /* ENTER's level */
				i->op = o->imm.value.u;
				continue;
			}
			have_imm = true;
			i->imm = o->imm.value.u;
			if (o->imm.is_relative)
				i->imm += c->rip + i->len;
		} else if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
			i->far_sel = o->ptr.segment;
			i->disp = o->ptr.offset;
		}
	}
	if (d->in.operand_count > 0 && d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
		i->dst = decode_gpr_offset(d->op[0].reg.value);
	if (d->in.operand_count > 1 && d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		i->src = decode_gpr_offset(d->op[1].reg.value);
}

/* ModRM's register fields with their extension bits, for operands that are not general-purpose registers. */
static void fill_modrm(struct insn *i, const struct insn_decoded *d)
{
	bool vex = d->in.attributes & (ZYDIS_ATTRIB_HAS_VEX | ZYDIS_ATTRIB_HAS_EVEX | ZYDIS_ATTRIB_HAS_XOP);

	if (!(d->in.attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return;
	i->reg = d->in.raw.modrm.reg;
	i->rm = d->in.raw.modrm.rm;
	if (!vex && (d->in.attributes & ZYDIS_ATTRIB_HAS_REX)) {
		i->reg |= d->in.raw.rex.R << 3;
		i->rm |= d->in.raw.rex.B << 3;
	}
}

static void fill(struct engine_cpu *c, struct insn *i, const struct insn_decoded *d)
{
	uint64_t attr = d->in.attributes;

	i->mnemonic = d->in.mnemonic;
	i->opsize = d->in.operand_width / 8;
	i->adsize = d->in.address_width / 8;
	i->lock = attr & ZYDIS_ATTRIB_HAS_LOCK;
	if (attr & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		i->rep = REP_E;
	else if (attr & ZYDIS_ATTRIB_HAS_REPNE)
		i->rep = REP_NE;
	fill_modrm(i, d);
	fill_operands(c, i, d);
	fill_memory(c, i, d);
}

static insn_fn select_handler(struct engine_cpu *c, struct insn *i, const struct insn_decoded *d)
{
	insn_fn fn = integer_select(i, d);

	if (!fn)
		fn = system_select(i, d);
	if (!fn)
		fn = vector_select(c, i, d);
	return fn ? fn : op_undefined;
}

insn_fn integer_select(struct insn *i, const struct insn_decoded *d)
{
	static insn_fn (*const family[])(struct insn *, const struct insn_decoded *) = {
	    mov_select,	   alu_select,	branch_select, stack_select,  shift_select,
	    muldiv_select, bits_select, string_select, atomic_select, misc_select,
	};
	insn_fn fn = NULL;

	for (unsigned k = 0; !fn && k < ARRAY_SIZE(family); k++)
		fn = family[k](i, d);
	return fn;
}

static void set_bytes(struct insn *i, const uint8_t *bytes, unsigned len)
{
	memset(i->bytes, 0, sizeof(i->bytes));
	memcpy(i->bytes, bytes, len);
	i->len = len;
}

enum decode decode_bytes(struct engine_cpu *c, struct insn *i, const uint8_t *bytes, unsigned n)
{
	struct insn_decoded d;
	uint64_t key = i->key;
	ZyanStatus st = ZydisDecoderDecodeFull(decoder_for(c->mode_key), bytes, n, &d.in, d.op);

	*i = (struct insn){.key = key, .mode_key = c->mode_key};
	if (!ZYAN_SUCCESS(st)) {
		if (st == ZYDIS_STATUS_NO_MORE_DATA)
			return n < 15 ? DECODE_SHORT : DECODE_LONG;
		if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
			return DECODE_LONG;
		set_bytes(i, bytes, n); /* all that was looked at */
		i->exec = op_undefined;
		return DECODE_OK;
	}
	set_bytes(i, bytes, d.in.length);
	fill(c, i, &d);
	i->exec = select_handler(c, i, &d);
	return DECODE_OK;
}
