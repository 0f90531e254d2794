/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plain moves between vector registers and memory: the vector instructions that matter most for speed, done
 * without a stub. A load writes `len` bytes at offset `at` of the register and clears up to byte `clear`.
 */
#include "engine/fpu.h"
#include "engine/vaccess.h"

/* How struct insn's free bytes are used here. */
#define MOVE_REG(i)   ((i)->reg)
#define MOVE_LEN(i)   ((i)->op)
#define MOVE_CLEAR(i) ((i)->rm)
#define MOVE_AT(i)    ((i)->dst)
#define MOVE_ALIGN(i) ((i)->src)
#define MOVE_NEED(i)  ((i)->cc)

static void op_load(struct engine_cpu *c, const struct insn *i)
{
	uint8_t *reg = c->fpu->zmm[MOVE_REG(i)];
	unsigned end = MOVE_AT(i) + MOVE_LEN(i);
	uint64_t lin;

	vector_check(c, MOVE_NEED(i));
	lin = vmem_ea(c, i, MOVE_LEN(i), MOVE_ALIGN(i), false);
	vmem_ld(c, i, lin, reg + MOVE_AT(i), MOVE_LEN(i));
	if (MOVE_CLEAR(i) > end)
		memset(reg + end, 0, MOVE_CLEAR(i) - end);
}

static void op_store(struct engine_cpu *c, const struct insn *i)
{
	uint64_t lin;

	vector_check(c, MOVE_NEED(i));
	lin = vmem_ea(c, i, MOVE_LEN(i), MOVE_ALIGN(i), true);
	vmem_st(c, i, lin, c->fpu->zmm[MOVE_REG(i)] + MOVE_AT(i), MOVE_LEN(i));
}

/* 16 bytes, any alignment, legacy or VEX.128: the commonest of all. */
static void op_load16(struct engine_cpu *c, const struct insn *i)
{
	uint8_t *reg = c->fpu->zmm[MOVE_REG(i)];

	vector_check(c, NEED_SSE);
	vmem_ld16(c, i, vmem_ea(c, i, 16, MOVE_ALIGN(i), false), reg);
}

static void op_store16(struct engine_cpu *c, const struct insn *i)
{
	vector_check(c, NEED_SSE);
	vmem_st16(c, i, vmem_ea(c, i, 16, MOVE_ALIGN(i), true), c->fpu->zmm[MOVE_REG(i)]);
}

/* MOVUPS and its relatives: 1 unaligned, 2 aligned. */
static int whole_register(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_VMOVUPS:
	case ZYDIS_MNEMONIC_VMOVUPD:
	case ZYDIS_MNEMONIC_VMOVDQU:
	case ZYDIS_MNEMONIC_VLDDQU:
	case ZYDIS_MNEMONIC_VMOVDQU8:
	case ZYDIS_MNEMONIC_VMOVDQU16:
	case ZYDIS_MNEMONIC_VMOVDQU32:
	case ZYDIS_MNEMONIC_VMOVDQU64: return 1;
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVDQA32:
	case ZYDIS_MNEMONIC_VMOVDQA64:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA: return 2;
	default: return 0;
	}
}

/* Moves of a part: at which byte, and whether a load clears the rest. */
static bool part_of_register(ZydisMnemonic m, unsigned *at, bool *clears)
{
	*at = 0;
	*clears = true;
	switch (m) {
	case ZYDIS_MNEMONIC_MOVSS:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVD:
	case ZYDIS_MNEMONIC_MOVQ:
	case ZYDIS_MNEMONIC_VMOVSS:
	case ZYDIS_MNEMONIC_VMOVSD:
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VMOVQ: return true;
	case ZYDIS_MNEMONIC_MOVLPS:
	case ZYDIS_MNEMONIC_MOVLPD:
	case ZYDIS_MNEMONIC_VMOVLPS:
	case ZYDIS_MNEMONIC_VMOVLPD: *clears = false; return true;
	case ZYDIS_MNEMONIC_MOVHPS:
	case ZYDIS_MNEMONIC_MOVHPD:
	case ZYDIS_MNEMONIC_VMOVHPS:
	case ZYDIS_MNEMONIC_VMOVHPD:
		*at = 8;
		*clears = false;
		return true;
	default: return false;
	}
}

/* The memory and the register operand of a move without mask and second source; false if it has another
 * shape. */
static bool two_operands(const struct insn_decoded *d, const ZydisDecodedOperand **mem, unsigned *reg)
{
	*mem = NULL;
	*reg = ~0u;
	if (d->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && d->in.raw.evex.aaa)
		return false;
	for (unsigned n = 0; n < d->in.operand_count_visible; n++) {
		const ZydisDecodedOperand *o = &d->op[n];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			*mem = o;
		} else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
			ZydisRegisterClass cls = ZydisRegisterGetClass(o->reg.value);

			if (cls != ZYDIS_REGCLASS_XMM && cls != ZYDIS_REGCLASS_YMM &&
			    cls != ZYDIS_REGCLASS_ZMM)
				return false;
			*reg = ZydisRegisterGetId(o->reg.value);
		} else if (o->encoding != ZYDIS_OPERAND_ENCODING_MASK) {
			return false;
		}
	}
	return *mem && *reg != ~0u;
}

static enum vneed need_of(const struct insn_decoded *d)
{
	switch (d->in.encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY: return NEED_SSE;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX: return NEED_AVX512;
	default: return NEED_AVX;
	}
}

insn_fn move_select(struct insn *i, const struct insn_decoded *d)
{
	int whole = whole_register(d->in.mnemonic);
	const ZydisDecodedOperand *mem;
	bool clears = true, store;
	unsigned at = 0, reg;

	if (!whole && !part_of_register(d->in.mnemonic, &at, &clears))
		return NULL;
	if (!two_operands(d, &mem, &reg))
		return NULL;
	store = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	MOVE_NEED(i) = need_of(d);
	MOVE_REG(i) = reg;
	MOVE_LEN(i) = mem->size / 8;
	MOVE_AT(i) = at;
	MOVE_ALIGN(i) = whole == 2 ? mem->size / 8 : 0;
	MOVE_CLEAR(i) = !clears ? 0 : MOVE_NEED(i) == NEED_SSE ? 16 : 64;
	if (MOVE_NEED(i) == NEED_SSE && MOVE_LEN(i) == 16)
		return store ? op_store16 : op_load16;
	return store ? op_store : op_load;
}
