/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Code generation of stubs: what a canonical instruction reads and writes (from its decoded operands), and
 * the code around it. A stub is called as unsigned (struct engine_fpu *f): rdi = f throughout, rsi = f->mem.
 * r11 holds the address where the fault hook continues when the instruction itself traps.
 */
#include "engine/fpu.h"

/* Registers by number, as bit masks. */
struct uses {
	uint32_t ld, st;   /* vector */
	uint8_t width[32]; /* bytes to load */
	uint8_t kld, kst;  /* mask */
	uint8_t mld, mst;  /* MMX */
	bool vex;	   /* leaves upper halves dirty */
	bool evex;
};

struct buf {
	uint8_t *p;
	unsigned n;
};

/* -- Bytes -- */

static void b1(struct buf *b, unsigned byte)
{
	if (b->n < STUB_MAX)
		b->p[b->n] = byte;
	b->n++;
}

static void bytes(struct buf *b, unsigned n, uint64_t big_endian)
{
	while (n--)
		b1(b, big_endian >> (8 * n) & 0xff);
}

static void d32(struct buf *b, uint32_t v)
{
	for (unsigned n = 0; n < 4; n++)
		b1(b, v >> (8 * n) & 0xff);
}

/* An opcode of `n` bytes with ModRM [rdi + disp32], `reg` in ModRM.reg. */
static void op_field(struct buf *b, unsigned n, uint64_t opcode, unsigned reg, size_t off)
{
	bytes(b, n, opcode);
	b1(b, 0x87 | (reg & 7) << 3);
	d32(b, off);
}

/* -- Moves between registers and struct engine_fpu -- */

#define F(field) offsetof(struct engine_fpu, field)

static void move_vector(struct buf *b, const struct uses *u, unsigned r, unsigned width, bool store)
{
	size_t off = F(zmm) + 64 * r;
	unsigned op = store ? 0x11 : 0x10;

	if (u->evex || width == 64) {
		b1(b, 0x62);
		b1(b, (~r >> 3 & 1) << 7 | 3 << 5 | (~r >> 4 & 1) << 4 | 1);
		b1(b, 0x7c);
		b1(b, (width == 64 ? 2 : width == 32) << 5 | 8);
	} else if (u->vex) {
		b1(b, 0xc5);
		b1(b, (~r >> 3 & 1) << 7 | 0x78 | (width == 32) << 2);
	} else {
		if (r > 7)
			b1(b, 0x44);
		b1(b, 0x0f);
	}
	op_field(b, 1, op, r, off);
}

static void move_mask(struct buf *b, unsigned k, bool store)
{
	if (host_cpu.avx512bw)
		bytes(b, 3, 0xc4e1f8);
	else
		bytes(b, 2, 0xc5f8);
	op_field(b, 1, store ? 0x91 : 0x90, k, F(k) + 8 * k);
}

static void move_mmx(struct buf *b, unsigned r, bool store)
{
	op_field(b, 2, store ? 0x0f7f : 0x0f6f, r, F(x87.st) + 16 * r);
}

/* -- Operands -- */

static void use_vector(struct uses *u, const struct vstub *st, const ZydisDecodedOperand *o, unsigned width)
{
	unsigned r = ZydisRegisterGetId(o->reg.value);
	bool writes = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

	/* Legacy instructions may leave part of their destination alone without Zydis saying so. */
	if (o->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE) ||
	    st->need < NEED_AVX) {
		u->ld |= BIT(r);
		u->width[r] = MAX(u->width[r], width);
	}
	if (writes)
		u->st |= BIT(r);
}

static void use_mask(struct uses *u, const ZydisDecodedOperand *o, const ZydisDecodedInstruction *in)
{
	unsigned k = ZydisRegisterGetId(o->reg.value);
	bool pair =
	    in->mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTD || in->mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTQ;

	if (o->encoding == ZYDIS_OPERAND_ENCODING_MASK && k == 0)
		return;
	if (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		u->kld |= 1 << k;
	if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		u->kst |= pair ? 3 << (k & 6) : 1 << k;
}

/* Visible general registers are rax and rdx by their field; hidden ones (PCMPxSTRx) are themselves. */
static void use_gpr(struct vstub *st, const ZydisDecodedOperand *o)
{
	unsigned r = ZydisRegisterGetId(o->reg.value);
	bool reads = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	bool writes = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

	if (r == RAX) {
		st->gpr_in_a |= reads;
		st->gpr_out_a |= writes;
	} else if (r == RDX) {
		st->gpr_in_b |= reads;
		st->gpr_out_b |= writes;
	} else if (r == RCX && writes) {
		st->out_c = true;
	}
	if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && r == RAX)
		st->explicit_len = true;
}

static void use_register(struct uses *u, struct vstub *st, const struct insn_decoded *d,
			 const ZydisDecodedOperand *o)
{
	unsigned m;

	switch (ZydisRegisterGetClass(o->reg.value)) {
	case ZYDIS_REGCLASS_XMM: use_vector(u, st, o, 16); break;
	case ZYDIS_REGCLASS_YMM: use_vector(u, st, o, 32); break;
	case ZYDIS_REGCLASS_ZMM: use_vector(u, st, o, 64); break;
	case ZYDIS_REGCLASS_MASK: use_mask(u, o, &d->in); break;
	case ZYDIS_REGCLASS_MMX:
		m = 1 << ZydisRegisterGetId(o->reg.value);
		u->mld |= m;
		if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			u->mst |= m;
		break;
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: use_gpr(st, o); break;
	default: break;
	}
}

static bool is_x87(const ZydisDecodedInstruction *in)
{
	return in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && in->opcode >= 0xd8 && in->opcode <= 0xdf;
}

static bool has_class(const struct insn_decoded *d, ZydisRegisterClass cls)
{
	for (unsigned n = 0; n < d->in.operand_count; n++)
		if (d->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(d->op[n].reg.value) == cls)
			return true;
	return false;
}

static enum vneed need_of(const struct insn_decoded *d)
{
	bool mmx = has_class(d, ZYDIS_REGCLASS_MMX);

	if (is_x87(&d->in))
		return NEED_X87;
	if (d->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || has_class(d, ZYDIS_REGCLASS_MASK))
		return NEED_AVX512;
	if (d->in.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return NEED_AVX;
	if (mmx)
		return has_class(d, ZYDIS_REGCLASS_XMM) ? NEED_SSE_MMX : NEED_MMX;
	return NEED_SSE;
}

/* -- MXCSR -- */

/* Moves, shuffles and logic on floating-point elements: MXCSR plays no part. */
static bool ignores_mxcsr(const ZydisDecodedInstruction *in)
{
	switch (in->meta.category) {
	case ZYDIS_CATEGORY_DATAXFER:
	case ZYDIS_CATEGORY_LOGICAL_FP:
	case ZYDIS_CATEGORY_BLEND:
	case ZYDIS_CATEGORY_BROADCAST:
	case ZYDIS_CATEGORY_EXPAND:
	case ZYDIS_CATEGORY_COMPRESS: return true;
	default: break;
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_SHUFPS:
	case ZYDIS_MNEMONIC_SHUFPD:
	case ZYDIS_MNEMONIC_VSHUFPS:
	case ZYDIS_MNEMONIC_VSHUFPD:
	case ZYDIS_MNEMONIC_UNPCKLPS:
	case ZYDIS_MNEMONIC_UNPCKLPD:
	case ZYDIS_MNEMONIC_UNPCKHPS:
	case ZYDIS_MNEMONIC_UNPCKHPD:
	case ZYDIS_MNEMONIC_VUNPCKLPS:
	case ZYDIS_MNEMONIC_VUNPCKLPD:
	case ZYDIS_MNEMONIC_VUNPCKHPS:
	case ZYDIS_MNEMONIC_VUNPCKHPD:
	case ZYDIS_MNEMONIC_INSERTPS:
	case ZYDIS_MNEMONIC_VINSERTPS:
	case ZYDIS_MNEMONIC_EXTRACTPS:
	case ZYDIS_MNEMONIC_VEXTRACTPS:
	case ZYDIS_MNEMONIC_VINSERTF128:
	case ZYDIS_MNEMONIC_VEXTRACTF128:
	case ZYDIS_MNEMONIC_VPERM2F128:
	case ZYDIS_MNEMONIC_VPERMILPS:
	case ZYDIS_MNEMONIC_VPERMILPD: return true;
	default: return false;
	}
}

/* Exception types of SIMD floating-point instructions. */
static bool raises_simd(ZydisExceptionClass cls)
{
	switch (cls) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11:
	case ZYDIS_EXCEPTION_CLASS_E2:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E11:
	case ZYDIS_EXCEPTION_CLASS_E11NF: return true;
	default: return false;
	}
}

bool insn_uses_mxcsr(const struct insn_decoded *d)
{
	if (is_x87(&d->in) || ignores_mxcsr(&d->in))
		return false;
	if (d->in.meta.category == ZYDIS_CATEGORY_CONVERT || raises_simd(d->in.meta.exception_class))
		return true;
	for (unsigned n = 0; n < d->in.operand_count; n++) {
		ZydisElementType t = d->op[n].element_type;

		if (t == ZYDIS_ELEMENT_TYPE_FLOAT16 || t == ZYDIS_ELEMENT_TYPE_FLOAT32 ||
		    t == ZYDIS_ELEMENT_TYPE_FLOAT64)
			return true;
	}
	return false;
}

/* -- Memory operand -- */

static bool no_suppression(ZydisExceptionClass cls)
{
	switch (cls) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E7NM:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
	case ZYDIS_EXCEPTION_CLASS_E11NF: return true;
	default: return false;
	}
}

/* Number of mask bits behind a memory operand: its elements, or what they are broadcast to. */
static unsigned lanes_of(const struct insn_decoded *d, unsigned elems)
{
	static const uint8_t to[] = {
	    [ZYDIS_BROADCAST_MODE_1_TO_2] = 2,	 [ZYDIS_BROADCAST_MODE_1_TO_4] = 4,
	    [ZYDIS_BROADCAST_MODE_1_TO_8] = 8,	 [ZYDIS_BROADCAST_MODE_1_TO_16] = 16,
	    [ZYDIS_BROADCAST_MODE_1_TO_32] = 32, [ZYDIS_BROADCAST_MODE_1_TO_64] = 64,
	    [ZYDIS_BROADCAST_MODE_2_TO_4] = 4,	 [ZYDIS_BROADCAST_MODE_2_TO_8] = 8,
	    [ZYDIS_BROADCAST_MODE_2_TO_16] = 16, [ZYDIS_BROADCAST_MODE_4_TO_8] = 8,
	    [ZYDIS_BROADCAST_MODE_4_TO_16] = 16, [ZYDIS_BROADCAST_MODE_8_TO_16] = 16,
	};

	if ((unsigned)d->in.avx.broadcast.mode < ARRAY_SIZE(to) && to[d->in.avx.broadcast.mode])
		return to[d->in.avx.broadcast.mode];
	return elems;
}

static enum vmem masked_kind(const struct insn_decoded *d, bool store, bool *nf)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_VEXPANDPS:
	case ZYDIS_MNEMONIC_VEXPANDPD:
	case ZYDIS_MNEMONIC_VPEXPANDB:
	case ZYDIS_MNEMONIC_VPEXPANDW:
	case ZYDIS_MNEMONIC_VPEXPANDD:
	case ZYDIS_MNEMONIC_VPEXPANDQ: return VMEM_EXPAND;
	case ZYDIS_MNEMONIC_VCOMPRESSPS:
	case ZYDIS_MNEMONIC_VCOMPRESSPD:
	case ZYDIS_MNEMONIC_VPCOMPRESSB:
	case ZYDIS_MNEMONIC_VPCOMPRESSW:
	case ZYDIS_MNEMONIC_VPCOMPRESSD:
	case ZYDIS_MNEMONIC_VPCOMPRESSQ: return VMEM_COMPRESS;
	default: break;
	}
	*nf = no_suppression(d->in.meta.exception_class);
	if (d->in.mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEQB ||
	    d->in.mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB ||
	    d->in.mnemonic == ZYDIS_MNEMONIC_VDBPSADBW || d->in.mnemonic == ZYDIS_MNEMONIC_VCVTNE2PS2BF16)
		*nf = true; /* an element of the result depends on several in memory */
	if (store)
		return VMEM_STORE_MASKED;
	return *nf ? VMEM_LOAD : VMEM_LOAD_MASKED;
}

static bool sign_masked(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_VMASKMOVPS || m == ZYDIS_MNEMONIC_VMASKMOVPD ||
	       m == ZYDIS_MNEMONIC_VPMASKMOVD || m == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

unsigned insn_alignment(const struct insn_decoded *d, unsigned len)
{
	switch (d->in.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF: return len;
	default: break;
	}
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM: return 0;
	default: return need_of(d) < NEED_AVX && len == 16 ? 16 : 0;
	}
}

static void take_memory(struct vstub *st, const struct insn_decoded *d, const ZydisDecodedOperand *o)
{
	bool store = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	unsigned aaa = d->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? d->in.raw.evex.aaa : 0;

	st->vmem = store ? VMEM_STORE : VMEM_LOAD;
	st->mem_len = o->size / 8;
	st->elem_len = o->element_size / 8;
	if (!st->elem_len || st->elem_len > st->mem_len)
		st->elem_len = st->mem_len;
	st->elems = st->mem_len / st->elem_len;
	st->lanes = lanes_of(d, st->elems);
	st->align = insn_alignment(d, st->mem_len);
	st->no_ac = d->in.mnemonic == ZYDIS_MNEMONIC_VCVTPH2PS || d->in.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH;
	if (aaa) {
		st->mask = aaa;
		st->vmem = masked_kind(d, store, &st->nf);
	} else if (sign_masked(d->in.mnemonic)) {
		st->vmem = store ? VMEM_STORE_SIGN : VMEM_LOAD_SIGN;
		for (unsigned n = 0; n < d->in.operand_count_visible; n++)
			if (d->op[n].encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
				st->mask = ZydisRegisterGetId(d->op[n].reg.value);
	}
}

static insn_fn exec_of(const struct vstub *st)
{
	if (st->need == NEED_X87)
		return op_x87;
	switch (st->vmem) {
	case VMEM_NONE: return op_vector;
	case VMEM_LOAD: return op_vector_load;
	case VMEM_STORE: return op_vector_store;
	case VMEM_LOAD_MASKED:
	case VMEM_EXPAND:
	case VMEM_LOAD_SIGN: return op_masked_load;
	default: return op_masked_store;
	}
}

/* -- The stub -- */

static void describe(struct vstub *st, struct uses *u, const struct insn_decoded *d)
{
	const ZydisAccessedFlags *fl = d->in.cpu_flags;

	st->need = need_of(d);
	st->mxcsr = insn_uses_mxcsr(d);
	u->evex = st->need == NEED_AVX512;
	u->vex = st->need >= NEED_AVX;
	for (unsigned n = 0; n < d->in.operand_count; n++) {
		const ZydisDecodedOperand *o = &d->op[n];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
			use_register(u, st, d, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
			 o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			take_memory(st, d, o);
	}
	st->mmx = u->mld;
	st->flags_in = fl && fl->tested;
	st->flags_out = fl && (fl->modified | fl->set_0 | fl->set_1 | fl->undefined);
	st->x87_store = st->need == NEED_X87 && st->vmem == VMEM_STORE;
	st->exec = exec_of(st);
}

static void moves(struct buf *b, const struct uses *u, bool store)
{
	for (unsigned r = 0; r < 32; r++)
		if ((store ? u->st : u->ld) >> r & 1)
			move_vector(b, u, r, store ? (u->vex ? host_cpu.width : 16) : u->width[r], store);
	for (unsigned k = 0; k < 8; k++)
		if ((store ? u->kst : u->kld) >> k & 1)
			move_mask(b, k, store);
	for (unsigned m = 0; m < 8; m++)
		if ((store ? u->mst : u->mld) >> m & 1)
			move_mmx(b, m, store);
	for (unsigned m = 0; store && m < 8; m++)
		if (u->mst >> m & 1) { /* sign and exponent of a written register: all ones */
			op_field(b, 2, 0x66c7, 0, F(x87.st) + 16 * m + 8);
			bytes(b, 2, 0xffff);
		}
}

static void prologue(struct buf *b, const struct vstub *st, const struct uses *u)
{
	moves(b, u, false);
	if (st->gpr_in_a)
		op_field(b, 2, 0x488b, RAX, F(a));
	if (st->gpr_in_b)
		op_field(b, 2, 0x488b, RDX, F(b));
	if (st->vmem)
		op_field(b, 2, 0x488d, RSI, F(mem));
	if (st->flags_in) {
		op_field(b, 1, 0xff, 6, F(flags));
		b1(b, 0x9d);
	}
}

static void leave(struct buf *b, const struct uses *u)
{
	if (u->mld)
		bytes(b, 2, 0x0f77);
	if (u->vex)
		bytes(b, 3, 0xc5f877);
}

static void epilogue(struct buf *b, const struct vstub *st, const struct uses *u)
{
	if (st->flags_out) {
		b1(b, 0x9c);
		op_field(b, 1, 0x8f, 0, F(flags));
	}
	if (st->gpr_out_a)
		op_field(b, 2, 0x4889, RAX, F(a));
	if (st->gpr_out_b)
		op_field(b, 2, 0x4889, RDX, F(b));
	if (st->out_c)
		op_field(b, 2, 0x4889, RCX, F(c));
	moves(b, u, true);
	leave(b, u);
	bytes(b, 3, 0x31c0c3); /* xor eax, eax; ret */
}

/* lea r11, [rip + fault]; the distance is filled in by fault_end. */
static unsigned fault_begin(struct buf *b)
{
	bytes(b, 3, 0x4c8d1d);
	d32(b, 0);
	return b->n;
}

static void fault_end(struct buf *b, unsigned lea)
{
	unsigned here = b->n;

	if (here > STUB_MAX)
		return;
	b->n = lea - 4;
	d32(b, here - lea);
	b->n = here;
}

/* Vector stubs: eax comes from the hook, which knows why we came here. */
static void emit_vector(struct buf *b, const struct vstub *st, const struct uses *u)
{
	unsigned lea = fault_begin(b);

	prologue(b, st, u);
	for (unsigned n = 0; n < st->key_len; n++)
		b1(b, st->key[n]);
	epilogue(b, st, u);
	fault_end(b, lea);
	leave(b, u);
	b1(b, 0xc3);
}

/* x87 stubs load the guest's whole x87 component, and leave the host's control word and an empty stack. */
static void emit_x87(struct buf *b, const struct vstub *st)
{
	size_t out = st->x87_store ? F(x87_out) : F(x87);

	unsigned lea = fault_begin(b);

	op_field(b, 1, 0xd9, 7, F(host_fcw));
	bytes(b, 5, 0xb801000000);
	bytes(b, 2, 0x31d2);
	op_field(b, 2, 0x48c7, 0, F(x87.header));
	d32(b, 1);
	op_field(b, 3, 0x480fae, 5, F(x87)); /* xrstor64 */
	op_field(b, 2, 0x488d, RSI, F(mem));
	if (st->flags_in) {
		op_field(b, 1, 0xff, 6, F(flags));
		b1(b, 0x9d);
	}
	for (unsigned n = 0; n < st->key_len; n++)
		b1(b, st->key[n]);
	if (st->flags_out) {
		b1(b, 0x9c);
		op_field(b, 1, 0x8f, 0, F(flags));
	}
	bytes(b, 5, 0xb801000000);
	bytes(b, 2, 0x31d2);
	op_field(b, 3, 0x480fae, 4, out); /* xsave64 */
	bytes(b, 2, 0x31c0);
	fault_end(b, lea);
	bytes(b, 2, 0xdbe3); /* fninit */
	op_field(b, 1, 0xd9, 5, F(host_fcw));
	b1(b, 0xc3);
}

unsigned emit_stub(struct vstub *st, uint8_t *code)
{
	struct buf b = {.p = code};
	struct insn_decoded d;
	struct uses u = {0};
	ZydisDecoder dec;

	ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, st->key, st->key_len, &d.in, d.op)) ||
	    d.in.length != st->key_len)
		return 0;
	describe(st, &u, &d);
	if (st->mem_len > 64 || (st->vmem && !st->mem_len))
		return 0;
	if (st->need != NEED_X87 && !st->mxcsr && !(u.ld | u.st | u.kld | u.kst | u.mld | u.mst))
		return 0; /* no vector instruction at all */
	if (st->need == NEED_X87)
		emit_x87(&b, st);
	else
		emit_vector(&b, st, &u);
	return b.n <= STUB_MAX ? b.n : 0;
}
