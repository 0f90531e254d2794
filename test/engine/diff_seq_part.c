/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sequences: straight-line code, forward branches, counted loops, calls and computed jumps, with memory accesses off a
 * few shared base registers that point to the middle of pages, to their ends and before pages that fault. What a
 * translator gets wrong between instructions (an access checked once for several, a register kept where it was, a
 * branch into the middle of what it made) is seen here and nowhere else.
 */
#include "diff.h"
#include "engine/jit.h"

enum role { FREE, BASE, INDEX, COUNTER, STACK };

struct seq {
	struct test *t;
	uint8_t base[4], counter[2];
	unsigned bases, counters, loops; /* loops: depth now */
	int index;
	uint16_t keep; /* registers that random instructions leave alone */
	struct {
		unsigned insn; /* that calls a function, or has its address */
		bool wide;     /* 16-bit code: the return address has 32 bits */
		bool by_register;
	} call[8];
	unsigned calls;
	unsigned budget;
};

/* -- Emitting -- */

static unsigned emit(struct seq *s, const uint8_t *bytes, unsigned n)
{
	struct tinsn i = {.len = 0};

	if (s->t->n + 1 < MAX_SEQ && decode(s->t->mode, bytes, n, &i)) {
		i.helper = true;
		i.form = FORM_REG;
		append(s->t, &i);
	}
	return s->t->n - 1;
}
#define EMIT(s, ...) emit(s, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* An instruction with a register in opcode or ModRM, of the mode's own operand size. */
static unsigned emit_reg(struct seq *s, bool wide, unsigned reg, const uint8_t *bytes, unsigned n,
			 unsigned at)
{
	uint8_t b[16];
	unsigned k = 0;

	if (is64(s->t->mode) && (wide || reg >= 8))
		b[k++] = 0x40 | wide << 3 | reg >> 3;
	memcpy(b + k, bytes, n);
	b[k + at] |= reg & 7;
	return emit(s, b, k + n);
}

static unsigned here(const struct seq *s)
{
	return s->t->code_at + s->t->code_len;
}

/* The relative branch goes to offset `to`. */
static void aim(struct test *t, unsigned insn, unsigned to)
{
	struct tinsn *i = &t->insn[insn];
	int32_t v = (int32_t)(to - i->at - i->len);
	unsigned size = i->in.raw.imm[0].size / 8;
	uint32_t at = i->at;

	if (insn >= t->n || !i->in.raw.imm[0].is_relative || (size == 1 && v != (int8_t)v))
		return;
	memcpy(i->bytes + i->in.raw.imm[0].offset, &v, size);
	decode(t->mode, i->bytes, i->len, i);
	i->at = at;
	memcpy(t->code + at, i->bytes, i->len);
}

static unsigned emit_jump(struct seq *s, uint8_t near, bool is_short)
{
	if (is_short)
		return EMIT(s, near == 0xe9 ? 0xeb : near - 0x10, 0);
	if (near == 0xe9 || near == 0xe8)
		return is16(s->t->mode) ? EMIT(s, near, 0, 0) : EMIT(s, near, 0, 0, 0, 0);
	return is16(s->t->mode) ? EMIT(s, 0x0f, near, 0, 0) : EMIT(s, 0x0f, near, 0, 0, 0, 0);
}

/* -- One instruction -- */

static bool writes(const struct tinsn *i, uint16_t regs)
{
	for (unsigned n = 0; n < i->in.operand_count; n++) {
		const ZydisDecodedOperand *o = &i->op[n];
		int r = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_number(o->reg.value) : -1;

		if (r >= 0 && regs >> r & 1 && o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			return true;
	}
	return false;
}

/* Mostly a fault whatever its operands are: a sequence has better to do than to end. */
static bool likely_ends(const struct tinsn *i)
{
	static const uint16_t faults[] = {
	    ZYDIS_MNEMONIC_UD0,	    ZYDIS_MNEMONIC_UD1,	     ZYDIS_MNEMONIC_UD2,     ZYDIS_MNEMONIC_MCOMMIT,
	    ZYDIS_MNEMONIC_RSM,	    ZYDIS_MNEMONIC_CLZERO,   ZYDIS_MNEMONIC_MWAIT,   ZYDIS_MNEMONIC_MWAITX,
	    ZYDIS_MNEMONIC_STI,	    ZYDIS_MNEMONIC_MONITORX, ZYDIS_MNEMONIC_RDPRU,   ZYDIS_MNEMONIC_CLI,
	    ZYDIS_MNEMONIC_LDMXCSR, ZYDIS_MNEMONIC_MONITOR,  ZYDIS_MNEMONIC_VLDMXCSR};

	for (unsigned n = 0; n < ARRAY_SIZE(faults); n++)
		if (i->in.mnemonic == faults[n])
			return true;
	if (strstr(ZydisMnemonicGetString(i->in.mnemonic), "xsave") ||
	    strstr(ZydisMnemonicGetString(i->in.mnemonic), "xrstor"))
		return true;
	switch (i->in.meta.category) {
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSTEM: return true;
	default: break;
	}
	if (i->in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED || i->in.mnemonic == ZYDIS_MNEMONIC_LEAVE ||
	    i->in.mnemonic == ZYDIS_MNEMONIC_XLAT)
		return true;
	for (unsigned n = 0; n < i->in.operand_count_visible; n++)
		if (i->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(i->op[n].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return true;
		else if (i->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			 i->op[n].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			return true;
		else if (i->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			 i->op[n].mem.base == ZYDIS_REGISTER_NONE)
			return true;
	return false;
}

/* Moves the stack pointer, which pairs and calls rely on. */
static bool moves_stack(const struct tinsn *i)
{
	return writes(i, 1 << GP_SP);
}

static bool fits(const struct seq *s, const struct tinsn *i)
{
	const char *name = ZydisMnemonicGetString(i->in.mnemonic);

	if (branches(i) || (writes(i, s->keep) && (!chance(2) || s->counters)) ||
	    (moves_stack(i) && !chance(5)))
		return false;
	if (likely_ends(i) && !chance(3))
		return false;
	for (unsigned n = 0; n < s->counters; n++)
		if (writes(i, 1 << s->counter[n]))
			return false;
	if (!s->t->against && (!strncmp(name, "xsave", 5) || !strncmp(name, "xrstor", 6)))
		return false; /* XINUSE is the CPU's to choose */
	return true;
}

static int32_t displacement(void)
{
	switch (below(24)) {
	default: return (int32_t)below(16) * 16;
	case 3:
	case 4:
	case 5:
	case 6: return (int32_t)below(4) * 64 - 64;
	case 7:
	case 8:
	case 9: return (int32_t)below(16) * 8 - (chance(30) ? 64 : 0);
	case 0: return 0;
	case 1: return (int32_t)below(256) - 128;
	case 2: return (int32_t)below(0x1000) - 0x800;
	}
}

static struct gen_place place(const struct seq *s)
{
	struct gen_place p = {.base = s->base[below(s->bases)], .index = -1, .disp = displacement()};

	if (s->index >= 0 && chance(25)) {
		p.index = (int8_t)s->index;
		p.scale = (uint8_t)below(4);
	}
	if (!is16(s->t->mode) && chance(12)) {
		p.base = GP_SP;
		p.disp = (int32_t)below(8) * 8;
	}
	return p;
}

/* CMP defines every flag that the last one left undefined, which a CPU need not do the same way each time. */
static void settle_flags(struct seq *s)
{
	if (s->t->n && undefined_flags(&s->t->insn[s->t->n - 1]))
		EMIT(s, 0x3c, 0x11);
}

static void random_insn(struct seq *s, enum gen_kind kind, struct gen_place at)
{
	struct tinsn i = {.len = 0};

	for (unsigned tries = 0; tries < 12; tries++)
		if (gen_insn_at(s->t->mode, &i, kind, &at) && fits(s, &i) && s->t->n + 2 < MAX_SEQ) {
			i.helper = false;
			i.form = FORM_REG;
			i.dead = false;
			append(s->t, &i);
			settle_flags(s);
			return;
		}
}

static enum gen_kind random_kind(void)
{
	unsigned what = below(100);

	return what < 55 ? GEN_GENERAL : what < 90 ? GEN_VECTOR : GEN_ANY;
}

/* -- What sequences are made of -- */

static void make_some(struct seq *s, unsigned n);

/* Several accesses off one base, near each other; now and then the base moves in between. */
static void accesses(struct seq *s)
{
	struct gen_place at = place(s);
	enum gen_kind kind = chance(60) ? GEN_GENERAL : GEN_VECTOR;
	int32_t first = at.disp;

	for (unsigned n = 2 + below(5); n; n--) {
		at.disp = first + (int32_t)(chance(70) ? below(5) * 16 : below(16) * 4);
		random_insn(s, chance(80) ? kind : random_kind(), at);
	}
}

static void move_base(struct seq *s)
{
	unsigned r = s->base[below(s->bases)];
	uint8_t by = (uint8_t)(chance(70) ? below(4) * 16 - 16 : below(8) * 8 - 24);

	switch (below(16)) {
	default: emit_reg(s, true, r, (const uint8_t[]){0x83, 0xc0, by}, 3, 1); break; /* add */
	case 2: emit_reg(s, true, r, (const uint8_t[]){0xff, 0xc0}, 2, 1); break;      /* inc */
	case 3: emit_reg(s, true, r, (const uint8_t[]){0xff, 0xc8}, 2, 1); break;
	case 1:
	case 4:
	case 5:
	case 6: emit_reg(s, true, r, (const uint8_t[]){0x83, 0xe8, by}, 3, 1); break; /* sub */
	}
}

static void forward_branch(struct seq *s)
{
	unsigned n = 1 + below(4), j;
	bool is_short = n <= 2;

	if (chance(10) && is_short)
		j = EMIT(s, 0xe3, 0);
	else
		j = emit_jump(s, chance(10) ? 0xe9 : 0x80 | (uint8_t)below(16), is_short);
	if (is_short)
		for (unsigned k = 0; k < n; k++)
			random_insn(s, random_kind(), place(s));
	else
		make_some(s, n);
	aim(s->t, j, here(s));
}

static void counted_loop(struct seq *s)
{
	unsigned depth = s->loops, r = s->counter[depth], top, j;
	uint8_t times = (uint8_t)(s->loops || s->budget < 4 ? 2 + below(5)
				  : chance(50)		    ? 2 + below(12)
							    : 20 + below(50));

	if (depth >= s->counters)
		return;
	if (is16(s->t->mode))
		emit_reg(s, false, r, (const uint8_t[]){0xb8, times, 0}, 3, 0);
	else
		emit_reg(s, false, r, (const uint8_t[]){0xb8, times, 0, 0, 0}, 5, 0);
	top = here(s);
	s->loops++;
	make_some(s, 1 + below(6));
	s->loops--;
	if (r == GP_CX && here(s) - top < 120) {
		j = EMIT(s, 0xe2, 0);
	} else {
		if (chance(50))
			emit_reg(s, false, r, (const uint8_t[]){0xff, 0xc8}, 2, 1);
		else
			emit_reg(s, chance(50), r, (const uint8_t[]){0x83, 0xe8, 1}, 3, 1);
		j = emit_jump(s, 0x85, here(s) - top < 120);
	}
	aim(s->t, j, top);
}

static int free_register(const struct seq *s)
{
	for (unsigned tries = 0; tries < 20; tries++) {
		unsigned r = (unsigned)below(is64(s->t->mode) ? 16 : 8);

		if (!(s->keep >> r & 1) && r != GP_SP)
			return (int)r;
	}
	return -1;
}

/* Loads the address of code behind what follows; returns the instruction. */
static unsigned load_address(struct seq *s, unsigned r)
{
	if (is64(s->t->mode))
		return EMIT(s, 0x48 | (r >> 3) << 2, 0x8d, 0x05 | (r & 7) << 3, 0, 0, 0, 0);
	if (is16(s->t->mode))
		return EMIT(s, 0xb8 | (r & 7), 0, 0);
	return EMIT(s, 0xb8 | (r & 7), 0, 0, 0, 0);
}

static void aim_address(struct test *t, unsigned insn, unsigned to)
{
	struct tinsn *i = &t->insn[insn];
	uint32_t at = i->at, v = is64(t->mode) ? to - at - i->len : is16(t->mode) ? to : (uint32_t)CODE + to;
	unsigned size = is16(t->mode) ? 2 : 4;

	memcpy(i->bytes + i->len - size, &v, size);
	decode(t->mode, i->bytes, i->len, i);
	i->at = at;
	memcpy(t->code + at, i->bytes, i->len);
}

/* In a loop, of two targets by turns perhaps: BT of the counter, JC over the other address. */
static void computed_jump(struct seq *s)
{
	int r = free_register(s);
	unsigned a, b = 0, over;

	if (r < 0 || s->t->n + 16 >= MAX_SEQ)
		return;
	a = load_address(s, (unsigned)r);
	if (s->loops && chance(60)) {
		emit_reg(s, false, s->counter[s->loops - 1],
			 (const uint8_t[]){0x0f, 0xba, 0xe0, (uint8_t)below(3)}, 4, 2);
		over = emit_jump(s, 0x82, true);
		b = load_address(s, (unsigned)r);
		aim(s->t, over, here(s));
	} else if (chance(50)) {
		random_insn(s, GEN_VECTOR, place(s));
	}
	emit_reg(s, false, (unsigned)r, (const uint8_t[]){0xff, 0xe0}, 2, 1);
	random_insn(s, random_kind(), place(s));
	if (b) {
		aim_address(s->t, b, here(s));
		random_insn(s, random_kind(), place(s));
	}
	aim_address(s->t, a, here(s));
}

/* Memory by an absolute address, as programs outside 64-bit mode have it: the accumulator's form, and ModRM's. */
static void absolute(struct seq *s)
{
	uint32_t at = 0x1400 + (uint32_t)below(0xc0) * 16 + (uint32_t)(chance(80) ? 0 : below(16));
	uint8_t op = (uint8_t)(s->keep >> GP_AX & 1 ? 0xa2 + below(2) : 0xa0 + below(4));

	if (is64(s->t->mode))
		return;
	at += (uint32_t)(DATA - segment_base(s->t, s->t->mode, S_DS));
	for (unsigned n = 1 + below(3); n; n--, at += 4)
		if (is16(s->t->mode) && chance(50))
			EMIT(s, op, (uint8_t)at, (uint8_t)(at >> 8));
		else if (is16(s->t->mode))
			EMIT(s, 0x01, 0x06, (uint8_t)at, (uint8_t)(at >> 8)); /* add */
		else if (chance(50))
			EMIT(s, op, (uint8_t)at, (uint8_t)(at >> 8), (uint8_t)(at >> 16),
			     (uint8_t)(at >> 24));
		else
			EMIT(s, 0x01, 0x05, (uint8_t)at, (uint8_t)(at >> 8), (uint8_t)(at >> 16),
			     (uint8_t)(at >> 24));
}

/* Operands of the other size; a segment register that takes the value of another and gets its own back. */
static void legacy_stack(struct seq *s)
{
	int from = (int)below(8), to = free_register(s);

	if (is64(s->t->mode))
		return;
	switch (below(4)) {
	case 0:
		EMIT(s, 0x66, 0x50 | (uint8_t)from);
		random_insn(s, random_kind(), place(s));
		if (to >= 0)
			EMIT(s, 0x66, 0x58 | (uint8_t)to);
		break;
	case 1:
		EMIT(s, 0x6a, (uint8_t)below(256));
		if (to >= 0)
			EMIT(s, 0x58 | (uint8_t)to);
		break;
	case 2: /* push ds; push es; pop ds; an access; pop ds */
		EMIT(s, 0x1e);
		EMIT(s, 0x06);
		EMIT(s, 0x1f);
		random_insn(s, GEN_GENERAL, place(s));
		EMIT(s, 0x1f);
		break;
	default:
		EMIT(s, 0x60);
		random_insn(s, GEN_GENERAL, place(s));
		EMIT(s, 0x61);
		break;
	}
}

static void push_pop(struct seq *s)
{
	int from = (int)below(is64(s->t->mode) ? 16 : 8), to = free_register(s);

	emit_reg(s, false, (unsigned)from, (const uint8_t[]){0x50}, 1, 0);
	random_insn(s, random_kind(), place(s));
	if (to >= 0)
		emit_reg(s, false, (unsigned)to, (const uint8_t[]){0x58}, 1, 0);
}

static void call(struct seq *s)
{
	int r = free_register(s);

	if (s->calls == ARRAY_SIZE(s->call) || s->t->n + 3 >= MAX_SEQ)
		return;
	s->call[s->calls].wide = is16(s->t->mode) && chance(40);
	s->call[s->calls].by_register = r >= 0 && chance(30);
	if (s->call[s->calls].by_register) {
		s->call[s->calls].wide = false;
		s->call[s->calls].insn = load_address(s, (unsigned)r);
		emit_reg(s, false, (unsigned)r, (const uint8_t[]){0xff, 0xd0}, 2, 1);
	} else if (s->call[s->calls].wide) {
		s->call[s->calls].insn = EMIT(s, 0x66, 0xe8, 0, 0, 0, 0);
	} else {
		s->call[s->calls].insn = emit_jump(s, 0xe8, false);
	}
	s->calls++;
}

/* From here on every instruction traps. */
static void begin_stepping(struct seq *s)
{
	EMIT(s, 0x9c);
	if (is16(s->t->mode))
		EMIT(s, 0x67, 0x80, 0x4c, 0x24, 1, 1);
	else
		EMIT(s, 0x80, 0x4c, 0x24, 1, 1);
	EMIT(s, 0x9d);
}

/* What kernels do all the time, and a translator therefore may not leave to others. */
static void kernel_business(struct seq *s)
{
	switch (below(6)) {
	case 0: EMIT(s, 0xfa); break;		  /* cli */
	case 1: EMIT(s, 0xfb); break;		  /* sti */
	case 2: EMIT(s, 0x0f, 0x01, 0xf8); break; /* swapgs */
	case 3:
		EMIT(s, 0x9c);
		EMIT(s, 0x9d);
		break;
	case 4:
		EMIT(s, 0x54);
		EMIT(s, 0x5c);
		break; /* push, pop rsp */
	default:
		EMIT(s, 0x9c);
		random_insn(s, random_kind(), place(s));
		EMIT(s, 0x9d);
		break;
	}
}

/* And what BIOSes do; nothing here faults at level 3 either, or only where it stands. */
static void bios_business(struct seq *s)
{
	static const uint8_t segs[] = {0xc0, 0xd0, 0xd8, 0xe0, 0xe8}; /* not CS: a sequence may be anywhere */
	int to = free_register(s);

	switch (below(is_real(s->t->mode) ? 8 : 5)) {
	case 0:
		EMIT(s, 0x9c);
		random_insn(s, random_kind(), place(s));
		EMIT(s, 0x9d);
		break;
	case 1:
		EMIT(s, 0x66, 0x9c);
		EMIT(s, 0x66, 0x9d);
		break;
	case 2: EMIT(s, 0xfc); break; /* cld */
	case 3:
	case 4:
		if (to >= 0 && chance(50))
			EMIT(s, 0x66, 0x8c, segs[below(ARRAY_SIZE(segs))] | (uint8_t)to);
		else if (to >= 0)
			EMIT(s, 0x8c, segs[below(ARRAY_SIZE(segs))] | (uint8_t)to);
		break;
	case 5: EMIT(s, 0xfa); break; /* cli */
	case 6: EMIT(s, 0xfb); break; /* sti */
	default:
		if (to >= 0)
			EMIT(s, 0x0f, 0x20, 0xc0 | (uint8_t)to); /* mov from CR0 */
		break;
	}
}

static void make_some(struct seq *s, unsigned n)
{
	while (n-- && s->budget) {
		unsigned what = below(100);

		s->budget--;
		if (s->t->mode == MODE_KERNEL && chance(12))
			kernel_business(s);
		else if (!is64(s->t->mode) && chance(8))
			chance(50) ? absolute(s) : legacy_stack(s);
		else if (!is64(s->t->mode) && chance(6))
			bios_business(s);
		else if (what < 52)
			random_insn(s, random_kind(), place(s));
		else if (what < 66)
			accesses(s);
		else if (what < 71)
			move_base(s);
		else if (what < 80)
			forward_branch(s);
		else if (what < 88 && s->loops < 2)
			counted_loop(s);
		else if (what < 93)
			push_pop(s);
		else if (what < 97)
			computed_jump(s);
		else
			call(s);
	}
}

/* Two functions behind the end; each call goes to one of them. */
static void functions(struct seq *s)
{
	struct gen_place frame = {.index = -1};
	unsigned at[2];
	bool framed;

	for (unsigned f = 0; f < 2 && s->calls; f++) {
		at[f] = here(s);
		s->budget = 0; /* no branches */
		framed = !(s->keep >> GP_BP & 1) && chance(40);
		if (framed) { /* push bp; mov bp, sp; sub sp, 32 */
			EMIT(s, 0x55);
			emit_reg(s, true, 0, (const uint8_t[]){0x89, 0xe5}, 2, 0);
			emit_reg(s, true, 0, (const uint8_t[]){0x83, 0xec, 32}, 3, 0);
			s->keep |= 1 << GP_BP;
			frame =
			    (struct gen_place){.base = GP_BP, .index = -1, .disp = -8 - (int32_t)below(24)};
		}
		for (unsigned n = 1 + below(4); n; n--)
			if (framed && chance(50))
				random_insn(s, GEN_GENERAL, frame);
			else
				random_insn(s, random_kind(), place(s));
		if (framed)
			EMIT(s, 0xc9);
		if (framed)
			s->keep &= (uint16_t) ~(1 << GP_BP);
		if (f && is16(s->t->mode))
			EMIT(s, 0x66, 0xc3);
		else if (chance(85))
			EMIT(s, 0xc3);
		else
			EMIT(s, 0xc2, 8, 0);
	}
	for (unsigned n = 0; n < s->calls; n++) {
		unsigned to = at[is16(s->t->mode) ? s->call[n].wide : below(2)];

		if (s->call[n].by_register)
			aim_address(s->t, s->call[n].insn, to);
		else
			aim(s->t, s->call[n].insn, to);
	}
}

/* -- Registers -- */

static void give_role(struct seq *s, enum role role)
{
	static const uint8_t for16[] = {GP_BX, GP_BP, GP_SI, GP_DI};
	unsigned r;

	for (unsigned tries = 0; tries < 100; tries++) {
		r = (unsigned)(role == BASE && is16(s->t->mode) ? for16[below(4)]
								: below(is64(s->t->mode) ? 16 : 8));
		if (r == GP_SP || s->keep >> r & 1)
			continue;
		s->keep |= (uint16_t)(1 << r);
		s->t->role[r] = (uint8_t)role;
		if (role == BASE)
			s->base[s->bases++] = (uint8_t)r;
		else if (role == COUNTER)
			s->counter[s->counters++] = (uint8_t)r;
		else
			s->index = (int)r;
		return;
	}
}

static void give_roles(struct seq *s)
{
	memset(s->t->role, FREE, sizeof(s->t->role));
	s->t->role[GP_SP] = STACK;
	s->keep = 0;
	s->index = -1;
	for (unsigned n = is64(s->t->mode) ? 2 + below(3) : 2; n; n--)
		give_role(s, BASE);
	give_role(s, COUNTER);
	if (chance(60))
		give_role(s, COUNTER);
	if (is64(s->t->mode) || (!is16(s->t->mode) && chance(50)))
		give_role(s, INDEX);
	if (chance(20) && !(s->keep >> GP_CX & 1) && s->counters) { /* so that LOOP comes up */
		s->keep &= (uint16_t) ~(1 << s->counter[0]);
		s->t->role[s->counter[0]] = FREE;
		s->counter[0] = GP_CX;
		s->keep |= 1 << GP_CX;
		s->t->role[GP_CX] = COUNTER;
	}
}

/* Mostly the middle of a page, else the end of one before a page of any kind. */
static uint64_t base_value(void)
{
	static const uint16_t end[] = {0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000, 0x8000};

	if (chance(65))
		return (chance(50) ? 0x1400 : chance(70) ? 0x4800 : 0x7400) + below(0x20) * 64;
	if (chance(50))
		return (chance(50) ? 0x1400 : chance(70) ? 0x4800 : 0x7400) + below(0x800);
	if (chance(60))
		return (chance(50) ? 0x2000 : 0x5000) - 32 + below(64);
	if (chance(50)) /* so that accesses end at the page's last bytes, or just behind them */
		return end[below(ARRAY_SIZE(end))] - below(10) - below(8) * 16;
	return end[below(ARRAY_SIZE(end))] - below(160);
}

void seq_state(struct test *t)
{
	random_state(&t->in, t->mode);
	if (chance(90))
		t->in.rflags &= ~BIT(18); /* AC */
	for (unsigned r = 0; r < (is64(t->mode) ? 16 : 8); r++) {
		unsigned seg = r == GP_BP || r == GP_SP ? S_SS : S_DS;
		uint64_t at = DATA - segment_base(t, t->mode, seg);

		if (t->role[r] == BASE || ((r == GP_SI || r == GP_DI) && t->role[r] == FREE && chance(70)))
			t->in.gpr[r] = at + base_value();
		else if (t->role[r] == INDEX)
			t->in.gpr[r] = below(16);
		else if (t->role[r] == STACK)
			t->in.gpr[r] =
			    at + (chance(90) ? STACK_AT + below(0x100) * 16 : 0x5000 - 64 + below(128));
		else if (r == GP_CX && t->role[r] == FREE && chance(80))
			t->in.gpr[r] = below(100);
		if (!is64(t->mode))
			t->in.gpr[r] = (uint32_t)t->in.gpr[r];
		if (is16(t->mode) && (t->role[r] == BASE || t->role[r] == STACK))
			t->in.gpr[r] = (uint16_t)t->in.gpr[r];
	}
	t->in.rip = (is16(t->mode) ? 0 : CODE) + t->code_at;
}

void seq_make(struct test *t, int mode, bool against)
{
	struct seq s = {.t = t, .budget = 40};
	unsigned where = below(100);

	t->mode = mode;
	t->sequence = true;
	t->against = against;
	t->step = against && chance(10);
	t->disturb = false;
	t->cold = chance(40) ? 1 + (unsigned)below(3) : 0;
	t->grouping = (uint8_t)(chance(40) ? GROUPS : chance(80) ? GROUPS_APART : NO_GROUPS);
	test_clear_code(t);
	t->alone = false;
	t->code_at = (uint32_t)(where < 55   ? below(0xc00)
				: where < 95 ? 0x1000 - below(300)
					     : 0x1c00 + below(0x380));
	give_roles(&s);
	make_some(&s, 2 + (unsigned)below(14));
	if (t->step) {
		begin_stepping(&s);
		make_some(&s, 2 + (unsigned)below(8));
	}
	EMIT(&s, 0xcc);
	functions(&s);
	seq_state(t);
}
