/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random numbers with a liking for the corners, and machine states made of them. */
#include "diff.h"

/* -- Values -- */

uint64_t random_value(void)
{
	switch (below(12)) {
	case 0: return 0;
	case 1: return ~0ULL;
	case 2: return below(64);
	case 3: return -below(64);
	case 4: return (uint32_t)rnd();
	case 5: return 1ULL << below(64);
	case 6: return (1ULL << below(64)) - 1;
	case 7: return (int64_t)(int32_t)rnd();
	case 8: return below(65536);
	case 9: return 0x8000000080008080u >> below(8);
	default: return rnd();
	}
}

/* A floating-point number of `bits` bits with a liking for the corners. */
static uint64_t random_float(unsigned bits)
{
	unsigned man = bits == 64 ? 52 : bits == 32 ? 23 : 10, ew = bits - 1 - man;
	uint64_t sign = rnd() & 1, m = rnd() & ((1ULL << man) - 1), bias = (1ULL << (ew - 1)) - 1, e;

	switch (below(12)) {
	case 0: e = 0, m = 0; break;
	case 1: e = 0; break;
	case 2: e = (1ULL << ew) - 1, m = 0; break;
	case 3: e = (1ULL << ew) - 1; break;
	case 4: e = bias, m = 0; break;
	case 5: e = (1ULL << ew) - 2; break;
	case 6: e = 1; break;
	case 7: e = bias + below(man + 2); break;
	case 8: e = bias + below(8), m &= 7ULL << (man - 3); break;
	case 9: e = bias + below(20) - 10; break;
	default: e = rnd() & ((1ULL << ew) - 1); break;
	}
	return sign << (bits - 1) | e << man | m;
}

void random_bytes(uint8_t *p, unsigned len)
{
	unsigned style = below(7);

	for (unsigned n = 0; n + 8 <= len; n += 8) {
		uint64_t v = rnd();

		if (style == 1)
			v = random_value();
		else if (style == 2)
			v = random_float(64);
		else if (style == 3)
			v = random_float(32) | random_float(32) << 32;
		else if (style == 4)
			v = random_float(16) | random_float(16) << 16 | random_float(16) << 32 |
			    random_float(16) << 48;
		else if (style == 5)
			v = chance(50) ? 0 : ~0ULL;
		else if (style == 6 && chance(80))
			v = 0;
		memcpy(p + n, &v, 8);
	}
}

/* -- State -- */

static void random_st(uint8_t *st)
{
	uint64_t m = rnd() | BIT(63);
	uint16_t e = 16383 + below(40) - 20;

	switch (below(12)) {
	case 0: e = 0, m = 0; break;
	case 1: e = 0x7fff, m = BIT(63); break;
	case 2: e = 0x7fff; break;
	case 3: e = 0, m &= ~BIT(63); break;
	case 4: m &= ~BIT(63); break;
	case 5: e = rnd() & 0x7fff; break;
	case 6: e = 0xffff, m = rnd(); break;
	case 7: m = BIT(63); break;
	case 8: e = 16383 + below(64), m &= ~0ULL << below(63); break;
	default: break;
	}
	e ^= chance(50) ? 0x8000 : 0;
	memcpy(st, &m, 8);
	memcpy(st + 8, &e, 2);
	memset(st + 10, 0, 6);
}

static void random_x87(struct tstate *s)
{
	uint16_t fcw = 0x37f, fsw = below(8) << 11;
	uint8_t ftw = rnd();

	if (chance(30))
		fcw = 0x40 | (rnd() & 0xf3f);
	else if (chance(30))
		fcw = 0x7f | (rnd() & 0xf00);
	if (chance(25))
		fsw |= rnd() & 0x477f;
	if (chance(60))
		fsw &= ~(uint16_t)(~fcw & 0x3f); /* nothing pending */
	if (chance(30))
		ftw = 0xff;
	else if (chance(10))
		ftw = 0;
	X_U16(s, 0) = fcw;
	X_U16(s, 2) = fsw;
	s->xs[4] = ftw;
	X_U16(s, 6) = rnd() & 0x7ff;
	X_U64(s, 8) = rnd() & 0x7fffffff;
	X_U64(s, 16) = rnd() & 0x7fffffff;
	for (unsigned n = 0; n < 8; n++)
		random_st(s->xs + 32 + 16 * n);
}

static void random_mxcsr(struct tstate *s)
{
	uint32_t v = 0x1f80;

	if (chance(40))
		v = 0x1f80 | (rnd() & 0xe07f);
	else if (chance(15))
		v = rnd() & 0xffff;
	X_MXCSR(s) = v;
}

/* Vectors are drawn from a pool, some of which is new with every test. */
static void random_vectors(struct tstate *s)
{
	static const struct {
		uint16_t at, len;
	} parts[] = {{160, 256}, {576, 256}, {1152, 512}, {1664, 1024}};
	static uint8_t pool[512][16];
	static bool filled;

	for (unsigned n = 0; n < (filled ? 24 : ARRAY_SIZE(pool)); n++)
		random_bytes(pool[filled ? below(ARRAY_SIZE(pool)) : n], 16);
	filled = true;
	for (unsigned n = 0; n < ARRAY_SIZE(parts); n++)
		for (unsigned k = 0; k < parts[n].len; k += 16)
			memcpy(s->xs + parts[n].at + k, pool[rnd() % ARRAY_SIZE(pool)], 16);
	for (unsigned n = 0; n < 8; n++)
		X_U64(s, 1088 + 8 * n) = chance(20) ? 0 : chance(25) ? ~0ULL : rnd();
}

static void random_segments(struct tstate *s, int mode)
{
	static const uint8_t data32[] = {L_FLAT32,  L_FLAT32, L_FLAT32,	 L_FLAT32,
					 L_BASED32, L_DOWN32, L_CONST32, L_DATA16};

	if (is_real(mode)) {
		for (unsigned n = 0; n < 6; n++)
			s->sel[n] = (n == S_CS ? REAL_CODE : REAL_DATA) >> 4;
		s->fsbase = s->gsbase = DATA;
		return;
	}
	if (is64(mode)) {
		s->sel[S_CS] = mode == MODE_KERNEL ? 0x10 : 0x33;
		s->sel[S_SS] = mode == MODE_KERNEL ? 0x18 : 0x2b;
		s->sel[S_DS] = s->sel[S_ES] = chance(50) ? 0x2b : 0;
		s->fsbase = DATA + below(0x3000);
		s->gsbase = DATA + below(0x3000);
		return;
	}
	s->sel[S_CS] = LDT_SEL(mode == 32 ? L_CODE32 : L_CODE16);
	s->sel[S_SS] = LDT_SEL(mode == 32 ? L_FLAT32 : L_DATA16);
	if (chance(12))
		s->sel[S_SS] = LDT_SEL(mode == 32 ? (chance(50) ? L_DATA16 : L_BASED32) : L_FLAT32);
	s->sel[S_DS] = s->sel[S_ES] = LDT_SEL(mode == 32 ? L_FLAT32 : L_DATA16);
	for (unsigned k = 0; k < 4; k++) {
		static const uint8_t seg[] = {S_DS, S_ES, S_FS, S_GS};

		if (k >= 2 || chance(25))
			s->sel[seg[k]] = LDT_SEL(data32[below(ARRAY_SIZE(data32))]);
	}
	if (is16(mode) && chance(90))
		s->sel[S_DS] = LDT_SEL(L_DATA16);
}

void random_state(struct tstate *s, int mode)
{
	memset(s, 0, sizeof(*s));
	for (unsigned n = 0; n < 16; n++) {
		s->gpr[n] = random_value();
		if (!is64(mode))
			s->gpr[n] = n < 8 ? (uint32_t)s->gpr[n] : 0;
	}
	s->rflags = 0x202 | (rnd() & 0x8d5) | (chance(15) ? 0x400 : 0) | (chance(8) ? 0x40000 : 0);
	random_segments(s, mode);
	random_x87(s);
	random_mxcsr(s);
	random_vectors(s);
}

uint64_t segment_base(const struct test *t, int mode, unsigned seg)
{
	if (is64(mode))
		return seg == S_FS ? t->in.fsbase : seg == S_GS ? t->in.gsbase : 0;
	if (is_real(mode))
		return seg == S_CS ? CODE : DATA;
	return t->in.sel[seg] & 4 ? ldt[t->in.sel[seg] >> 3].base : 0;
}
