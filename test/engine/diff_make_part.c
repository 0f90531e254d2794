/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests: a random machine state, and instructions whose memory operands are steered to interesting places of
 * the data area. The first instruction's address registers are part of the state; those of later ones are set
 * by MOVs in front of them.
 */
#include "diff.h"

/* -- Where a memory operand goes: offsets in the data area -- */

struct target {
	uint64_t lin;
	enum form form;
};

static struct target pick_target(unsigned len, unsigned align, int mode, enum form aim)
{
	static const uint16_t seam[] = {0x2000, 0x2000, 0x5000};
	static const uint16_t edge[] = {0x3000, 0x4000, 0x6000, 0x7000, 0x8000};
	unsigned what = below(100), span = MIN(MAX(len, 1u), 2000u);
	struct target t = {.form = FORM_MEM};

	if (chance(90))
		what = aim == FORM_MEM	      ? below(62)
		       : aim == FORM_STRADDLE ? 62
		       : aim == FORM_FAULT    ? 77 + below(23)
					      : what;

	if (what < 62) {
		t.lin = (chance(60) ? 0x1000 : chance(50) ? 0x4000 : 0x7000) + below(0x1000 - span);
		if (len > 2000)
			t.lin = 0x1000 + below(0x400);
		if (chance(aim == FORM_MEM && align > 8 ? 95 : 70))
			t.lin &= ~(uint64_t)(align - 1);
	} else if (what < 77) {
		t.lin = seam[below(3)] - 1 - below(span > 1 ? span - 1 : 1);
		t.form = FORM_STRADDLE;
		if (len > 2000)
			t.lin = 0x1800;
		if (align > 1 && align < len)
			t.lin &= ~(uint64_t)(align - 1);
	} else if (what < 96) {
		t.lin = edge[below(ARRAY_SIZE(edge))] - below(span + 1);
		if (chance(30))
			t.lin = (chance(50) ? 0x8000 : 0x6000) + below(0x1000 - span);
		else if (chance(30))
			t.lin = 0x3000 + below(0x1000 - span);
		if (chance(70))
			t.lin &= ~(uint64_t)(align - 1);
		t.form = FORM_FAULT;
	} else {
		/* Not across the edge of the canonical addresses: the order of #AC, #GP and #SS there is
		 * moody. */
		if (is64(mode))
			t.lin = (chance(50) ? 0x8000000000000000u : 0x0000800000000000u) + below(64) - DATA;
		else
			t.lin = below(0x100000) - 0x80000;
		t.form = FORM_FAULT;
	}
	/* Where 16-bit offsets end; an XSAVE area that wraps there is a known difference (doc/engine.md). */
	if (is16(mode) && len <= 512 && aim != FORM_STRADDLE && chance(2))
		t.lin = DATA_SIZE - 64 + below(80);
	t.lin += DATA;
	return t;
}

/* -- Emitting -- */

int gpr_number(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8: /* al cl dl bl, ah ch dh bh, spl ... r15b */
		return r >= ZYDIS_REGISTER_AH ? (int)(r - ZYDIS_REGISTER_AH) : (int)(r - ZYDIS_REGISTER_AL);
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: return ZydisRegisterGetId(r);
	default: return -1;
	}
}

void append(struct test *t, const struct tinsn *i)
{
	if (t->n == ARRAY_SIZE(t->insn))
		return;
	t->insn[t->n] = *i;
	t->insn[t->n].at = t->code_at + t->code_len;
	memcpy(t->code + t->insn[t->n].at, i->bytes, i->len);
	t->code_len += i->len;
	t->n++;
}

struct plan {
	struct test *t;
	struct tinsn *i;
	bool first, last;
	uint16_t set; /* registers that have their value */
	struct {
		uint8_t reg;
		uint64_t val;
	} want[8];
	unsigned wants;
};

static void want(struct plan *p, int reg, uint64_t val)
{
	if (reg < 0 || p->set >> reg & 1 || p->wants == ARRAY_SIZE(p->want))
		return;
	p->set |= 1 << reg;
	p->want[p->wants].reg = reg;
	p->want[p->wants++].val = val;
}

static uint64_t wanted_or_state(const struct plan *p, int reg)
{
	for (unsigned n = 0; n < p->wants; n++)
		if (p->want[n].reg == reg)
			return p->want[n].val;
	return p->t->in.gpr[reg];
}

static void move_immediate(struct test *t, unsigned reg, uint64_t val)
{
	struct tinsn m = {.len = 0};
	uint8_t b[16] = {0};
	unsigned n = 0, size = is64(t->mode) ? 8 : 4;

	if (is16(t->mode))
		b[n++] = 0x66;
	if (is64(t->mode))
		b[n++] = 0x48 | reg >> 3;
	b[n++] = 0xb8 | (reg & 7);
	memcpy(b + n, &val, size);
	if (!decode(t->mode, b, n + size, &m))
		return;
	m.helper = true;
	m.form = FORM_REG;
	append(t, &m);
}

static void settle(struct plan *p)
{
	for (unsigned n = 0; n < p->wants; n++) {
		uint64_t v = p->want[n].val;

		if (!is64(p->t->mode))
			v = (uint32_t)v;
		if (p->first)
			p->t->in.gpr[p->want[n].reg] = v;
		else
			move_immediate(p->t, p->want[n].reg, v);
	}
}

/* -- Contents -- */

static uint64_t code_address(const struct test *t)
{
	uint64_t off = below(2 * PAGE_SIZE - 1);

	return is16(t->mode) ? off : CODE + off;
}

static uint16_t random_selector(const struct test *t)
{
	static const uint16_t sels[] = {0x33, 0x23, 0x2b, 0,	3,	0x10,  0x18,
					0x40, 0x50, 0x28, 0x20, 0x1003, 0xfff8};

	if (is_real(t->mode) && chance(90))
		return (chance(80) ? REAL_DATA : REAL_CODE) >> 4;
	if (chance(50))
		return LDT_SEL(below(L_ENTRIES + 1));
	return sels[below(ARRAY_SIZE(sels))];
}

static void poke(struct test *t, uint64_t lin, const void *src, unsigned len)
{
	for (unsigned n = 0; n < len; n++) {
		uint64_t at = lin + n - DATA;

		if (at >= DATA_SIZE)
			continue;
		t->data[at] = ((const uint8_t *)src)[n];
		t->dirty[at / DATA_PIECE / 64] |= BIT(at / DATA_PIECE % 64);
	}
}

/* Components that the host's XCR0 has and the engine's has not (AMX): a test may not ask for them. */
static uint64_t foreign_components(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (lo | (uint64_t)hi << 32) & ~0xe7UL;
}

/*
 * An image for XRSTOR and FXRSTOR, right or wrong. Where it is to fault, a standard one: which parts of a compacted
 * area are touched beside those that are needed is the CPU's choice.
 */
static void poke_xsave(struct test *t, uint64_t lin, bool standard)
{
	struct tstate s;
	uint64_t bv = chance(70) ? rnd() & 0xe7 : 0xe7;

	random_state(&s, t->mode);
	if (chance(10))
		X_MXCSR(&s) = rnd();
	memset(s.xs + 512, 0, 64);
	X_U64(&s, 512) = bv;
	if (!standard && chance(30))
		X_U64(&s, 520) = BIT(63) | bv | (chance(80) ? 0 : rnd() & 0xff);
	if (chance(10))
		s.xs[512 + below(64)] = rnd();
	X_U64(&s, 512) &= ~foreign_components();
	X_U64(&s, 520) &= ~foreign_components();
	poke(t, lin, s.xs, XS_SIZE);
}

static bool is_restore(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_XRSTOR || m == ZYDIS_MNEMONIC_XRSTOR64 || m == ZYDIS_MNEMONIC_FXRSTOR ||
	       m == ZYDIS_MNEMONIC_FXRSTOR64;
}

/* What a far pointer, a return frame or a branch target in memory may be. */
static void poke_frame(struct test *t, uint64_t lin, unsigned word)
{
	uint64_t sp = is64(t->mode) ? DATA + STACK_AT + below(256) : STACK_AT;
	uint64_t w[5] = {code_address(t), chance(70) ? t->in.sel[S_CS] : random_selector(t),
			 0x202 | (rnd() & 0x8d5) | (chance(10) ? 0x100 : 0) |
			     (chance(5) ? rnd() & 0x3fffff : 0),
			 sp, chance(70) ? t->in.sel[S_SS] : random_selector(t)};

	if (chance(10))
		w[0] = random_value();
	for (unsigned n = 0; n < 5; n++)
		poke(t, lin + n * word, &w[n], word);
}

static void fill_operand(struct test *t, const struct tinsn *i, uint64_t lin, unsigned len)
{
	uint8_t buf[512];

	random_bytes(buf, MIN(len + 15, sizeof(buf)) & ~7u);
	poke(t, lin, buf, MIN(len, 496u));
	if (is_restore(i->in.mnemonic))
		poke_xsave(t, lin, i->form == FORM_FAULT);
	if (i->in.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || i->in.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR) {
		uint32_t v = chance(80) ? rnd() & 0xffff : rnd();

		poke(t, lin, &v, 4);
	}
	if (branches(i) && i->in.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		poke_frame(t, lin, MAX(2, i->in.operand_width / 8));
	if (i->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || i->in.meta.category == ZYDIS_CATEGORY_SEGOP) {
		uint64_t off = code_address(t);
		uint16_t sel = chance(50) ? t->in.sel[S_CS] : random_selector(t);

		poke(t, lin, &off, 8);
		poke(t, lin + len - 2, &sel, 2);
	}
	if (i->in.mnemonic == ZYDIS_MNEMONIC_MOV && i->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    ZydisRegisterGetClass(i->op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
		uint16_t sel = random_selector(t);

		poke(t, lin, &sel, 2);
	}
}

/* -- Steering -- */

static unsigned address_bits(const struct tinsn *i)
{
	return i->in.address_width;
}

static uint64_t trim(uint64_t v, unsigned bits)
{
	return bits == 64 ? v : v & ((1ULL << bits) - 1);
}

static unsigned align_of(const struct tinsn *i, unsigned len)
{
	switch (i->in.meta.isa_ext) {
	case ZYDIS_ISA_EXT_XSAVE:
	case ZYDIS_ISA_EXT_XSAVEC:
	case ZYDIS_ISA_EXT_XSAVEOPT:
	case ZYDIS_ISA_EXT_XSAVES: return 64;
	default: break;
	}
	if (is_restore(i->in.mnemonic) || i->in.mnemonic == ZYDIS_MNEMONIC_FXSAVE ||
	    i->in.mnemonic == ZYDIS_MNEMONIC_FXSAVE64)
		return 16;
	return len && !(len & (len - 1)) ? len : 1;
}

/* Displacement bytes that are the whole address: absolute, RIP-relative, moffs. False if too small. */
static bool patch_disp(struct plan *p, uint64_t lin, const ZydisDecodedOperand *o)
{
	struct tinsn *i = p->i;
	unsigned size = i->in.raw.disp.size / 8, at = i->in.raw.disp.offset;
	uint64_t v = lin;

	if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
		v = lin - (CODE + p->t->code_at + p->t->code_len + i->len);
	if (size < 2 || !at)
		return false;
	if (size < 8 && is64(p->t->mode) && (int64_t)v != (int32_t)v)
		return false;
	memcpy(i->bytes + at, &v, size);
	return decode(p->t->mode, i->bytes, i->len, i);
}

static void set_vector(struct tstate *s, unsigned r, unsigned byte, uint64_t v, unsigned len)
{
	unsigned at = r >= 16	  ? 1664 + 64 * (r - 16) + byte
		      : byte < 16 ? 160 + 16 * r + byte
		      : byte < 32 ? 576 + 16 * r + byte - 16
				  : 1152 + 32 * r + byte - 32;

	memcpy(s->xs + at, &v, len);
}

/* All elements of a gather or scatter wanted. */
static void want_all(struct plan *p)
{
	const ZydisDecodedOperand *o = p->i->op;

	if (p->i->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		X_U64(&p->t->in, 1088 + 8 * p->i->in.raw.evex.aaa) = ~0ULL;
		return;
	}
	for (unsigned n = 0; n < p->i->in.operand_count_visible; n++)
		if (o[n].encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
			for (unsigned b = 0; b < 32; b += 8)
				set_vector(&p->t->in, ZydisRegisterGetId(o[n].reg.value), b, ~0ULL, 8);
}

/* Index vectors spread over two pages of the data area, or pointing at the seam between them. */
static void steer_vsib(struct plan *p, const ZydisDecodedOperand *o, uint64_t segbase)
{
	const char *name = ZydisMnemonicGetString(p->i->in.mnemonic);
	unsigned len = strstr(name, "gatherq") || strstr(name, "scatterq") ? 8 : 4;
	unsigned scale = o->mem.scale ? o->mem.scale : 1, range = chance(70) ? 0x1ff0 : 0x4000;
	bool seam = p->first && chance(25);
	uint64_t area = DATA + (chance(70) ? 0x1000 : 0x4000) - segbase - (uint64_t)o->mem.disp.value;

	p->i->form = seam ? FORM_STRADDLE : FORM_MEM;
	if (gpr_number(o->mem.base) >= 0)
		want(p, gpr_number(o->mem.base), seam ? area + 1 + below(3) : area);
	if (!p->first)
		return;
	if (seam)
		want_all(p);
	for (unsigned b = 0; b < 64; b += len) {
		uint64_t at = seam ? 0xffc : below(range) - (chance(20) ? 64 : 0);

		set_vector(&p->t->in, ZydisRegisterGetId(o->mem.index), b, at / scale, len);
	}
}

/* Makes base + index * scale + disp equal `off` by choosing base (and index, if it must have a known value).
 */
static void steer_registers(struct plan *p, const ZydisDecodedOperand *o, uint64_t off)
{
	int base = gpr_number(o->mem.base), index = gpr_number(o->mem.index);
	unsigned bits = address_bits(p->i);
	uint64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0,
		 scale = o->mem.scale ? o->mem.scale : 1;
	uint64_t v;

	if (index >= 0 && o->mem.type == ZYDIS_MEMOP_TYPE_MIB)
		index = -1;
	if (base >= 0 && index >= 0 && base != index) {
		if (!p->first || chance(30))
			want(p, index, bits == 64 && chance(20) ? rnd() : below(0x40));
		v = trim(wanted_or_state(p, index), bits);
		want(p, base, trim(off - disp - v * scale, bits));
	} else if (base >= 0 && index >= 0) {
		want(p, base, trim(off - disp, bits) / (1 + scale));
	} else if (base >= 0) {
		want(p, base, trim(off - disp, bits));
	} else if (index >= 0) {
		want(p, index, trim(off - disp, bits) / scale);
	}
}

static uint64_t value_of(const struct test *t, ZydisRegister r)
{
	return gpr_number(r) < 0 ? 0 : t->in.gpr[gpr_number(r)];
}

enum form actual_form(const struct test *t, const struct tinsn *i)
{
	for (unsigned n = 0; n < i->in.operand_count_visible; n++) {
		const ZydisDecodedOperand *o = &i->op[n];
		unsigned seg = o->mem.segment - ZYDIS_REGISTER_ES, bits = address_bits(i);
		uint64_t ea;

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
		    o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT || !o->size || i->form == FORM_FAULT)
			continue;
		ea = value_of(t, o->mem.base) + value_of(t, o->mem.index) * o->mem.scale;
		ea += o->mem.disp.has_displacement ? (uint64_t)o->mem.disp.value : 0;
		if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
			ea += CODE + i->at + i->len;
		ea = trim(ea, bits) + segment_base(t, t->mode, seg > 5 ? S_DS : seg);
		return (ea & PAGE_OFFSET_MASK) + o->size / 8 > PAGE_SIZE ? FORM_STRADDLE : FORM_MEM;
	}
	return (enum form)i->form;
}

static bool is_stack(const ZydisDecodedOperand *o)
{
	return o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && gpr_number(o->mem.base) == GP_SP;
}

/* What an access to the stack where it stands is. */
static enum form stack_form(const struct plan *p, const ZydisDecodedOperand *o)
{
	unsigned len = o->size / 8;
	uint64_t at = segment_base(p->t, p->t->mode, S_SS) + wanted_or_state(p, GP_SP);

	if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		at -= len;
	return p->first && (at & 0xfff) + len > 0x1000 ? FORM_STRADDLE : FORM_MEM;
}

static void steer_memory(struct plan *p, const ZydisDecodedOperand *o)
{
	unsigned len = o->size / 8, seg = o->mem.segment - ZYDIS_REGISTER_ES;
	uint64_t segbase = segment_base(p->t, p->t->mode, seg > 5 ? S_DS : seg);
	struct target at = pick_target(len, align_of(p->i, len), p->t->mode, p->i->aim);

	if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
		return;
	if (is_stack(o)) {
		p->i->form = MAX(p->i->form, stack_form(p, o));
		if (!p->first || chance(75))
			return;
	}
	p->i->form = MAX(p->i->form, at.form);
	if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
		steer_vsib(p, o, segbase);
		return;
	}
	fill_operand(p->t, p->i, at.lin, len);
	if (gpr_number(o->mem.base) < 0 && gpr_number(o->mem.index) < 0) {
		struct tinsn copy = *p->i;
		enum form form = p->i->form;

		if (!patch_disp(p, at.lin - segbase, o))
			*p->i = copy;
		p->i->form = form;
		return;
	}
	steer_registers(p, o, at.lin - segbase);
}

/* -- Operands that need care beside memory -- */

static bool bit_test(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR ||
	       m == ZYDIS_MNEMONIC_BTC;
}

static void care_counts(struct plan *p)
{
	struct tinsn *i = p->i;

	if (i->in.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		want(p, GP_CX, chance(90) ? below(70) : chance(50) ? below(5000) : random_value());
	if (bit_test(i->in.mnemonic) && i->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	    i->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		want(p, gpr_number(i->op[1].reg.value), chance(80) ? below(64) : below(8192) - 4096);
}

static void care_selectors(struct plan *p)
{
	struct tinsn *i = p->i;
	bool loads = i->in.mnemonic == ZYDIS_MNEMONIC_MOV && i->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		     ZydisRegisterGetClass(i->op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT;
	bool asks = i->in.mnemonic == ZYDIS_MNEMONIC_LAR || i->in.mnemonic == ZYDIS_MNEMONIC_LSL ||
		    i->in.mnemonic == ZYDIS_MNEMONIC_VERR || i->in.mnemonic == ZYDIS_MNEMONIC_VERW ||
		    i->in.mnemonic == ZYDIS_MNEMONIC_ARPL;

	if (!loads && !asks)
		return;
	for (unsigned n = 0; n < i->in.operand_count_visible; n++)
		if (i->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER)
			want(p, gpr_number(i->op[n].reg.value), random_selector(p->t));
}

/* Relative branches go a little forward, indirect ones to the code area, far ones to a selector of ours. */
static void care_branch(struct plan *p)
{
	struct tinsn *i = p->i;
	enum form form = i->form;

	if (!branches(i))
		return;
	if (i->in.raw.imm[0].is_relative && i->in.raw.imm[0].size) {
		uint64_t v = chance(90) ? below(100) : below(0x1000);

		if (!p->last) /* not into the middle of an instruction that follows */
			v = 0;
		if (i->in.raw.imm[0].size == 8)
			v &= 0x7f;
		memcpy(i->bytes + i->in.raw.imm[0].offset, &v, i->in.raw.imm[0].size / 8);
		decode(p->t->mode, i->bytes, i->len, i);
	} else if (i->op[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
		uint64_t off = code_address(p->t);
		uint16_t sel = chance(60) ? p->t->in.sel[S_CS] : random_selector(p->t);
		unsigned at = i->in.raw.imm[0].offset;

		memcpy(i->bytes + at, &off, i->len - at - 2);
		memcpy(i->bytes + i->len - 2, &sel, 2);
		decode(p->t->mode, i->bytes, i->len, i);
	} else if (i->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		   i->op[0].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
		if (chance(90))
			want(p, gpr_number(i->op[0].reg.value), code_address(p->t)); /* mostly an INT3 */
	}
	i->form = form;
}

static bool has_vsib(const struct tinsn *i)
{
	for (unsigned n = 0; n < i->in.operand_count_visible; n++)
		if (i->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY && i->op[n].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			return true;
	return false;
}

static bool saves_state(const struct tinsn *i)
{
	return !strncmp(ZydisMnemonicGetString(i->in.mnemonic), "xsave", 5);
}

/* EAX says which components are restored, and the host looks at all of them. */
static bool asks_foreign(const struct tinsn *i)
{
	return foreign_components() && !strncmp(ZydisMnemonicGetString(i->in.mnemonic), "xrstor", 6);
}

/* The instruction with its operands where they shall be, behind what the test has. */
static void place_insn(struct test *t, struct tinsn *i, bool first, bool last)
{
	struct plan p = {.t = t, .i = i, .first = first, .last = last};

	i->form = FORM_REG;
	care_counts(&p);
	care_selectors(&p);
	for (unsigned n = 0; n < i->in.operand_count; n++)
		if (i->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			steer_memory(&p, &i->op[n]);
	care_branch(&p);
	if (saves_state(i)) /* every component in use: XINUSE is then not the CPU's to choose */
		for (unsigned n = 160; n < XS_SIZE; n += 8)
			if (n < 512 || n >= 576)
				X_U64(&t->in, n) = rnd() | 1;
	settle(&p);
	if (saves_state(i) || asks_foreign(i))
		t->in.gpr[0] &= ~foreign_components();
	append(t, i);
}

static void add_insn(struct test *t, bool first, bool last, const char *only)
{
	struct tinsn i = {.len = 0};

	if (!gen_insn(t->mode, &i, only) || (!first && (has_vsib(&i) || saves_state(&i) || asks_foreign(&i))))
		return;
	if (first)
		t->drawn = i;
	place_insn(t, &i, first, last);
}

/*
 * Undefined flags must not reach a later instruction: CMP defines them all. In real mode the INT3 at the end pushes them to
 * where the test's data is.
 */
static void define_flags(struct test *t, bool last)
{
	static const uint8_t cmp[] = {0x3c, 0x11}; /* cmp al, 0x11 */
	struct tinsn i = {.len = 0};

	if (last && !is_real(t->mode))
		return;
	if (!t->n || !undefined_flags(&t->insn[t->n - 1]) || !decode(t->mode, cmp, 2, &i))
		return;
	i.helper = true;
	append(t, &i);
}

static void initial_stack(struct test *t)
{
	uint64_t base = segment_base(t, t->mode, S_SS);

	t->in.gpr[GP_SP] = DATA + STACK_AT + below(0x600) * 2 - base;
	if (chance(15))
		t->in.gpr[GP_SP] = DATA + 0x4000 + below(3) * 0x1000 + below(64) - 32 - base;
	if (chance(30))
		t->in.gpr[GP_BP] = DATA + STACK_AT + below(0x600) * 2 - base;
	poke_frame(t, base + t->in.gpr[GP_SP],
		   is64(t->mode) && chance(80)	 ? 8
		   : is16(t->mode) && chance(80) ? 2
						 : 4);
}

void test_clear_code(struct test *t)
{
	if (t->code_len)
		memset(t->code + t->code_at, 0xcc, t->code_len);
	else
		memset(t->code, 0xcc, sizeof(t->code));
	t->n = 0;
	t->code_len = 0;
}

/* `stay`: where the last test's code was, which the translator may know. */
static void begin(struct test *t, bool stay)
{
	test_clear_code(t);
	if (!stay)
		t->code_at = chance(90)	  ? below(0xe00)
			     : chance(70) ? 0x1000 - below(40)
					  : 0x2000 - 1 - below(20);
	random_state(&t->in, t->mode);
	initial_stack(t);
	t->in.rip = (is16(t->mode) ? 0 : CODE) + t->code_at;
}

void test_make(struct test *t, int mode, unsigned insns, const char *only)
{
	t->mode = mode;
	t->sequence = t->step = t->disturb = false;
	t->cold = 0;
	t->against = is_system(mode);
	begin(t, false);
	for (unsigned n = 0; n < insns; n++) {
		add_insn(t, t->n == 0, n + 1 == insns, only);
		t->alone = insns == 1 && t->n == 1;
		define_flags(t, n + 1 == insns);
	}
}

bool test_again(struct test *t)
{
	struct tinsn i = t->drawn;

	i.aim = t->alone ? cover_pick(t->mode, &i) : FORMS;
	if (i.aim == FORMS)
		return false;
	begin(t, chance(85));
	place_insn(t, &i, true, true);
	define_flags(t, true);
	return true;
}
