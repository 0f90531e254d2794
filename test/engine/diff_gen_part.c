/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instructions by enumeration: every prefix, map, opcode, W, L and ModRM group that Zydis decodes becomes a
 * template; templates are grouped by mnemonic, size and form, and a random instruction is a random group's
 * template with random registers, addressing, prefixes and immediates.
 */
#include <stdio.h>
#include <stdlib.h>

#include "diff.h"

enum kind { LEGACY, VEX, EVEX };

struct tmpl {
	uint8_t kind, map, op, pp; /* pp: 0 none, 1 66, 2 F3, 3 F2 */
	uint8_t w, l, b, z, aaa;
	uint8_t lead;  /* F0, or 0 */
	bool p67, p66; /* legacy: 66 beside F2/F3 */
	uint8_t modrm; /* what it was found with */
	bool fix_reg, fix_rm, has_nds, mem, no_modrm, vsib;
};

#define PER_GROUP 10
struct group {
	uint16_t mnemonic;
	uint8_t size, mem;
	uint8_t kind; /* enum gen_kind: general or vector */
	unsigned seen;
	struct tmpl t[PER_GROUP];
};

struct todo {
	uint16_t group;
	uint8_t form;
};

static struct modegen {
	struct group *g;
	unsigned n;
	uint16_t *of_kind[GEN_KINDS]; /* group numbers, common instructions several times */
	unsigned kinds[GEN_KINDS];
	struct todo *todo; /* cells that may lack tests */
	unsigned todos;
	uint16_t index[ZYDIS_MNEMONIC_MAX_VALUE + 1][8][2];
} gens[4];

static struct modegen *gen_of(int mode)
{
	return &gens[mode_index(mode) % 4];
}

/* -- Decoding -- */

/* Zydis 4.0 sees a base R13D where SIB base 5 with mod 0 means a displacement alone. */
static void repair(struct tinsn *i)
{
	if (!(i->in.attributes & ZYDIS_ATTRIB_HAS_SIB) || i->in.raw.modrm.mod || i->in.raw.sib.base != 5)
		return;
	for (unsigned n = 0; n < i->in.operand_count; n++)
		if (i->op[n].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM &&
		    i->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			i->op[n].mem.base = ZYDIS_REGISTER_NONE;
			i->op[n].mem.disp.has_displacement = true;
			i->op[n].mem.disp.value = i->in.raw.disp.value;
		}
}

bool decode(int mode, const uint8_t *bytes, unsigned len, struct tinsn *out)
{
	static ZydisDecoder dec[4];
	static bool ready;

	if (!ready) {
		ZydisDecoderInit(&dec[0], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
		ZydisDecoderInit(&dec[1], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
		ZydisDecoderInit(&dec[2], ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
		ZydisDecoderInit(&dec[3], ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
		ready = true;
	}
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec[mode_index(mode) % 4], bytes, len, &out->in, out->op)))
		return false;
	out->len = out->in.length;
	memcpy(out->bytes, bytes, out->len);
	repair(out);
	return true;
}

/* -- Bytes of a template -- */

struct pick {
	uint8_t modrm, ext; /* ext: random bits for R X B R2 V2 */
	uint8_t vvvv;
	uint8_t aaa;
};

static unsigned put_vex(int mode, const struct tmpl *t, const struct pick *p, uint8_t *o)
{
	uint8_t rxb = is64(mode) ? p->ext << 5 : 0xe0;
	uint8_t vvvv = t->has_nds ? (is64(mode) || p->vvvv < 8 ? p->vvvv : p->vvvv | 8) : 15;

	if (!is64(mode) && t->has_nds)
		vvvv |= 8;
	if (t->map == 1 && !t->w && (p->ext & 8) && !is64(mode)) {
		o[0] = 0xc5;
		o[1] = 0x80 | vvvv << 3 | (t->l & 1) << 2 | t->pp;
		return 2;
	}
	o[0] = 0xc4;
	o[1] = rxb | t->map;
	o[2] = t->w << 7 | vvvv << 3 | (t->l & 1) << 2 | t->pp;
	return 3;
}

static unsigned put_evex(int mode, const struct tmpl *t, const struct pick *p, uint8_t *o)
{
	uint8_t rxb = is64(mode) ? (p->ext & 15) << 4 : 0xf0;
	uint8_t vvvv = t->has_nds ? p->vvvv & 15 : 15;
	uint8_t v2 = t->has_nds ? p->ext >> 4 & 1 : 1;

	if (!is64(mode)) {
		vvvv |= 8;
		v2 = 1;
	}
	o[0] = 0x62;
	o[1] = rxb | t->map;
	o[2] = t->w << 7 | vvvv << 3 | 4 | t->pp;
	o[3] = t->z << 7 | t->l << 5 | t->b << 4 | v2 << 3 | (t->aaa ? p->aaa : 0);
	return 4;
}

static unsigned put_legacy(int mode, const struct tmpl *t, const struct pick *p, uint8_t *o)
{
	static const uint8_t mandatory[4] = {0, 0x66, 0xf3, 0xf2};
	unsigned n = 0;

	if (t->lead)
		o[n++] = t->lead;
	if (t->p67)
		o[n++] = 0x67;
	if (t->p66)
		o[n++] = 0x66;
	if (t->pp)
		o[n++] = mandatory[t->pp];
	if (is64(mode) && (t->w || p->ext & 15))
		o[n++] = 0x40 | t->w << 3 | (p->ext & 7);
	if (t->map)
		o[n++] = 0x0f;
	if (t->map == 2)
		o[n++] = 0x38;
	if (t->map == 3)
		o[n++] = 0x3a;
	return n;
}

static unsigned put_bytes(int mode, const struct tmpl *t, const struct pick *p, uint8_t *o)
{
	unsigned n;

	switch (t->kind) {
	case LEGACY: n = put_legacy(mode, t, p, o); break;
	case VEX: n = put_vex(mode, t, p, o); break;
	default: n = put_evex(mode, t, p, o); break;
	}
	o[n++] = t->op;
	o[n++] = p->modrm;
	return n;
}

/* -- Building the table -- */

static void classify(struct tmpl *t, const struct tinsn *i)
{
	t->fix_reg = t->fix_rm = true;
	t->has_nds = t->mem = t->vsib = false;
	t->no_modrm = !i->in.raw.modrm.offset;
	for (unsigned n = 0; n < i->in.operand_count; n++) {
		const ZydisDecodedOperand *o = &i->op[n];

		if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			t->fix_reg = false;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			t->fix_rm = false;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
			t->has_nds = true;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			t->mem = true;
			t->vsib |= o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
		}
	}
}

static bool in_vector_unit(const struct tinsn *i)
{
	if (i->in.avx.vector_length)
		return true;
	for (unsigned n = 0; n < i->in.operand_count; n++)
		if (i->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER)
			switch (ZydisRegisterGetClass(i->op[n].reg.value)) {
			case ZYDIS_REGCLASS_XMM:
			case ZYDIS_REGCLASS_YMM:
			case ZYDIS_REGCLASS_ZMM: return true;
			default: break;
			}
	return false;
}

/* What programs are made of, and what a translator therefore has ideas about. */
static bool is_common(const struct tinsn *i)
{
	static const char *const names[] = {
	    "mov",    "add",	 "sub",	   "cmp",    "test",	    "and",     "or",	    "xor",
	    "lea",    "inc",	 "dec",	   "movzx",  "movsx",	    "movsxd",  "adc",	    "sbb",
	    "shl",    "shr",	 "sar",	   "push",   "pop",	    "imul",    "xchg",	    "neg",
	    "not",    "movaps",	 "movups", "movdqa", "movdqu",	    "paddd",   "pxor",	    "addsd",
	    "mulsd",  "addps",	 "movsd",  "movss",  "movq",	    "movd",    "pshufd",    "vaddpd",
	    "vmulpd", "vmovups", "vpaddd", "vpxor",  "vfmadd231pd", "vmovdqu", "vzeroupper"};
	const char *name = ZydisMnemonicGetString(i->in.mnemonic);

	for (unsigned n = 0; n < ARRAY_SIZE(names); n++)
		if (!strcmp(name, names[n]))
			return true;
	return false;
}

static void add_to_kinds(struct modegen *m, unsigned group, const struct tinsn *i)
{
	unsigned times = is_common(i) ? 8 : 1;
	enum gen_kind kind = in_vector_unit(i) ? GEN_VECTOR : GEN_GENERAL;

	if (i->in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED || i->in.meta.category == ZYDIS_CATEGORY_IO ||
	    i->in.meta.category == ZYDIS_CATEGORY_INTERRUPT || i->in.meta.category == ZYDIS_CATEGORY_X87_ALU)
		kind = GEN_ANY;
	m->g[group].kind = kind;
	for (unsigned k = 0; k < times; k++) {
		m->of_kind[GEN_ANY][m->kinds[GEN_ANY]++] = (uint16_t)group;
		if (kind != GEN_ANY)
			m->of_kind[kind][m->kinds[kind]++] = (uint16_t)group;
	}
}

static void add(int mode, struct tmpl *t, const struct tinsn *i)
{
	struct modegen *m = gen_of(mode);
	uint16_t *slot;
	struct group *g;

	bool mem = accesses_memory(i);

	classify(t, i);
	slot = &m->index[i->in.mnemonic][cover_size(i)][mem];
	if (!*slot) {
		*slot = ++m->n;
		g = &m->g[*slot - 1];
		*g = (struct group){.mnemonic = i->in.mnemonic, .size = cover_size(i), .mem = mem};
		add_to_kinds(m, *slot - 1, i);
		cover_known(mode, i);
	}
	g = &m->g[*slot - 1];
	if (g->seen < PER_GROUP)
		g->t[g->seen] = *t;
	else if (below(g->seen + 1) < PER_GROUP)
		g->t[below(PER_GROUP)] = *t;
	g->seen++;
}

/* Memory operands are probed as [register] without displacement; the bytes behind are an immediate. */
static void probe(int mode, struct tmpl *t, uint8_t modrm)
{
	struct pick p = {.modrm = modrm, .ext = t->kind == LEGACY ? 0 : 0xff, .vvvv = 15, .aaa = 1};
	uint8_t bytes[32] = {0};
	struct tinsn i;

	t->modrm = modrm;
	put_bytes(mode, t, &p, bytes);
	for (unsigned nds = 0; nds < 2; nds++) {
		t->has_nds = nds;
		p.vvvv = nds ? 13 : 15;
		put_bytes(mode, t, &p, bytes);
		if (decode(mode, bytes, 15, &i)) {
			if (!excluded(&i))
				add(mode, t, &i);
			return;
		}
	}
}

static void probe_all(int mode, struct tmpl *t, bool every_rm)
{
	for (unsigned reg = 0; reg < 8; reg++) {
		probe(mode, t, reg << 3 | (is16(mode) ? 7 : 1));
		if (t->kind == EVEX && reg == 0) /* VSIB */
			probe(mode, t, reg << 3 | 4);
		else if (t->kind == VEX && reg == 1)
			probe(mode, t, reg << 3 | 4);
		for (unsigned rm = 0; rm < (every_rm ? 8 : 1); rm++)
			probe(mode, t, 0xc0 | reg << 3 | (every_rm ? rm : 2));
	}
}

static void enumerate_legacy(int mode)
{
	for (unsigned map = 0; map < 4; map++)
		for (unsigned op = 0; op < 256; op++)
			for (unsigned v = 0; v < 32; v++) {
				struct tmpl t = {.kind = LEGACY,
						 .map = map,
						 .op = op,
						 .pp = v & 3,
						 .w = v >> 2 & 1,
						 .lead = v & 8 ? 0xf0 : 0,
						 .p67 = 0,
						 .p66 = v >> 4 & 1};

				if ((t.w && !is64(mode)) || (t.p66 && t.pp < 2) || (t.lead && map > 1))
					continue;
				probe_all(mode, &t, map < 2);
			}
}

static void enumerate_vex(int mode)
{
	for (unsigned v = 0; v < 256 * 3 * 4 * 2 * 2; v++) {
		struct tmpl t = {.kind = VEX,
				 .op = v & 255,
				 .pp = v >> 8 & 3,
				 .w = v >> 10 & 1,
				 .l = v >> 11 & 1,
				 .map = 1 + v / 4096};

		probe_all(mode, &t, false);
	}
}

static void enumerate_evex(int mode)
{
	static const uint8_t maps[] = {1, 2, 3, 5, 6};

	for (unsigned k = 0; k < ARRAY_SIZE(maps); k++)
		for (unsigned v = 0; v < 256 * 4 * 2 * 3 * 2 * 3; v++) {
			unsigned r = v >> 11;
			struct tmpl t = {
			    .kind = EVEX, .map = maps[k], .op = v & 255, .pp = v >> 8 & 3, .w = v >> 10 & 1};

			t.l = r % 3;
			t.b = r / 3 % 2;
			t.aaa = r / 6 > 0;
			t.z = r / 6 == 2;
			if (t.op >= 0x70 && t.op <= 0x73)
				probe_all(mode, &t, false);
			else if (t.op == 0xc6 || t.op == 0xc7)
				probe_all(mode, &t, false);
			else {
				probe(mode, &t, is16(mode) ? 7 : 1);
				probe(mode, &t, 4);
				probe(mode, &t, 0xc2);
			}
		}
}

static void all_to_do(struct modegen *m)
{
	m->todo = calloc(m->n * 3UL, sizeof(*m->todo));
	for (unsigned n = 0; n < m->n; n++)
		for (enum form f = m->g[n].mem ? FORM_MEM : FORM_REG; f < (m->g[n].mem ? FORMS : FORM_MEM);
		     f++)
			m->todo[m->todos++] = (struct todo){.group = (uint16_t)n, .form = (uint8_t)f};
}

void gen_init(int mode)
{
	struct modegen *m = gen_of(mode);

	if (m->g)
		return;
	m->g = calloc(16384, sizeof(*m->g));
	for (unsigned k = 0; k < GEN_KINDS; k++)
		m->of_kind[k] = calloc(65536, sizeof(*m->of_kind[k]));
	enumerate_legacy(mode);
	enumerate_vex(mode);
	enumerate_evex(mode);
	all_to_do(m);
}

/* -- Drawing -- */

static unsigned extra_prefixes(int mode, uint8_t *o)
{
	static const uint8_t segs[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
	unsigned n = 0;

	if (chance(8))
		o[n++] = segs[below(6)];
	if (chance(8))
		o[n++] = 0x67;
	if (chance(2))
		o[n++] = chance(50) ? 0x66 : chance(50) ? 0xf3 : 0xf2;
	return n;
}

/* ModRM's mod and rm, prefix bits, and what stands behind ModRM, for an operand at `at`. Bytes written behind. */
static unsigned place_operand(int mode, const struct tmpl *t, const struct gen_place *at, struct pick *p,
			      uint8_t *behind)
{
	static const uint8_t rm16[8] = {[GP_SI] = 4, [GP_DI] = 5, [GP_BP] = 6, [GP_BX] = 7};
	bool small = at->disp == (int8_t)at->disp && t->kind != EVEX,
	     sib = at->index >= 0 || (at->base & 7) == 4;
	unsigned n = 0, size = small ? 1 : is16(mode) ? 2 : 4;
	uint8_t x = at->index >= 8, b = at->base >= 8;

	p->modrm = (p->modrm & 0x38) | (small ? 0x40 : 0x80) |
		   (is16(mode) ? rm16[at->base & 7]
		    : sib      ? 4
			       : at->base & 7);
	if (sib && !is16(mode))
		behind[n++] = at->scale << 6 | (at->index >= 0 ? at->index & 7 : 4) << 3 | (at->base & 7);
	memcpy(behind + n, &at->disp, size);
	if (t->kind == LEGACY) /* W R X B */
		p->ext = (p->ext & ~3) | (is64(mode) ? x << 1 | b : 0);
	else if (t->kind == VEX) /* R X B, inverted, from bit 2 */
		p->ext = (p->ext & ~3) | !x << 1 | !b;
	else /* R X B R2 */
		p->ext = (p->ext & ~6) | !x << 2 | !b << 1;
	return n + size;
}

/* "Opcodes" that are prefixes: what follows them is anything. */
static bool is_prefix(int mode, const struct tmpl *t)
{
	return t->kind == LEGACY && t->map == 0 &&
	       ((is64(mode) && (t->op & 0xf0) == 0x40) || (t->op & 0xe7) == 0x26 || (t->op & 0xfc) == 0x64 ||
		t->op == 0xf0 || (t->op & 0xfe) == 0xf2);
}

/* Prefixes of an instruction with a place, outside 64-bit mode: a segment, and in 16-bit code an address of 32 bits.
 * `behind`: the place's bytes. */
static unsigned place_prefixes(int mode, const struct tmpl *t, const struct gen_place *at, struct pick *p,
			       uint8_t *o, uint8_t *behind, unsigned *nbehind)
{
	static const uint8_t segs[] = {0x26, 0x26, 0x2e, 0x36, 0x3e, 0x64};
	unsigned n = 0;

	if (is64(mode))
		return 0;
	if (chance(8))
		o[n++] = segs[below(ARRAY_SIZE(segs))];
	if (is16(mode) && chance(20)) {
		o[n++] = 0x67;
		*nbehind = place_operand(MODE_32, t, at, p, behind);
	}
	return n;
}

static bool draw(int mode, const struct group *g, struct tinsn *out, const struct gen_place *at)
{
	uint8_t behind[8];
	unsigned nbehind = 0;
	const struct tmpl *t = &g->t[below(MIN(g->seen, PER_GROUP))];
	struct pick p = {.ext = rnd(), .vvvv = below(16), .aaa = 1 + below(7)};
	uint8_t bytes[64];
	unsigned n, prefixes = 0;

	for (n = 0; n < sizeof(bytes); n++)
		bytes[n] = chance(25) ? (chance(50) ? 0 : 0xff) : rnd();
	if (t->kind == LEGACY && chance(60))
		p.ext = 0;
	p.modrm = t->modrm;
	if (!t->fix_reg)
		p.modrm = (p.modrm & ~0x38) | below(8) << 3;
	if (!t->fix_rm)
		p.modrm = (p.modrm & 0x38) | (t->modrm >> 6 == 3 ? 0xc0 | below(8) : below(0xc0) & 0xc7);
	if (t->mem && !t->fix_rm && (t->modrm & 7) == 4 && chance(70))
		p.modrm = (p.modrm & ~7) | 4;
	if (t->no_modrm)
		p.modrm = rnd();
	if (at && is_prefix(mode, t))
		return false;
	if (at && t->mem && !t->fix_rm && t->modrm < 0xc0 && !t->vsib)
		nbehind = place_operand(mode, t, at, &p, behind);
	if (nbehind)
		prefixes = place_prefixes(mode, t, at, &p, bytes, behind, &nbehind);
	n = at ? prefixes : extra_prefixes(mode, bytes);
	n += put_bytes(mode, t, &p, bytes + n);
	memcpy(bytes + n, behind, nbehind);
	return decode(mode, bytes, 15, out) && out->in.mnemonic == g->mnemonic && !excluded(out);
}

/* A random one of the cells that lack tests, then any group. */
static const struct group *wanted(int mode, struct modegen *m, enum form *form)
{
	while (m->todos) {
		struct todo *w = &m->todo[below(m->todos)];
		const struct group *g = &m->g[w->group];

		*form = w->form;
		if (cover_wants(mode, g->mnemonic, g->size, *form))
			return g;
		*w = m->todo[--m->todos];
	}
	*form = FORMS;
	return &m->g[below(m->n)];
}

bool gen_lacks(int mode)
{
	enum form form;

	wanted(mode, gen_of(mode), &form);
	return form != FORMS;
}

bool gen_insn(int mode, struct tinsn *out, const char *only)
{
	struct modegen *m = gen_of(mode);

	for (unsigned tries = 0; tries < (only ? 100000 : 100); tries++) {
		enum form form = FORMS;
		const struct group *g = only ? &m->g[below(m->n)] : wanted(mode, m, &form);

		if (only && strcasecmp(only, ZydisMnemonicGetString(g->mnemonic)))
			continue;
		for (unsigned k = 0; k < 40; k++)
			if (draw(mode, g, out, NULL)) {
				out->aim = form;
				return true;
			}
		if (form != FORMS)
			cover_not_drawn(mode, g->mnemonic, g->size, form);
	}
	return false;
}

bool gen_insn_at(int mode, struct tinsn *out, enum gen_kind kind, const struct gen_place *place)
{
	struct modegen *m = gen_of(mode);
	const struct group *g = &m->g[m->of_kind[kind][below(m->kinds[kind])]];

	for (unsigned k = 0; k < 20; k++)
		if (draw(mode, g, out, place))
			return true;
	return false;
}
