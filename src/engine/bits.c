/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* BT BTS BTR BTC, BSF BSR LZCNT TZCNT POPCNT, CRC32, BMI1 and BMI2 without the shifts, ADCX ADOX. */
#include "engine/ops.h"

/* -- Bit tests: only CF is defined to change -- */

#define BIT_FN(NAME, SZ, SFX, MOD)                                            \
	static inline uint64_t NAME##SZ(uint64_t a, uint64_t b, uint64_t *fl) \
	{                                                                     \
		unsigned ax;                                                  \
                                                                              \
		__asm__(#NAME SFX " %" MOD "[b], %" MOD "[a]\n\t" LAHF_SETO   \
			: "=&a"(ax), [a] "+r"(a)                              \
			: [b] "r"(b)                                          \
			: "cc");                                              \
		flags_put(fl, ax, FLAG_CF);                                   \
		return a;                                                     \
	}
/* The memory form: bit_linear has reduced the index, so the host's operand has no bit string either. */
#define BIT_RMW(NAME, SZ, SFX, MOD, FORM, LOCK, LOCKED)                                    \
	static void op_##NAME##SZ##_##FORM(struct engine_cpu *c, const struct insn *i)     \
	{                                                                                  \
		uint64_t b, at = bit_linear(c, i, SZ, &b);                                 \
		BIT_BODY(SZ / 8, LOCK #NAME SFX " %" MOD "[b], (%%rax)", LOCKED, NAME##SZ) \
		flags_put(&c->rflags, ax, FLAG_CF);                                        \
	}
#define BIT_BODY(SIZE, TEXT, LOCKED, FN)                                                       \
	struct tlb_entry *e = TLB_AT(c, at);                                                   \
	uint64_t tag = TLB_TAG(c, at, SIZE);                                                   \
	unsigned ax;                                                                           \
                                                                                               \
	ASM_GOTO("771: cmpq %[tag], %c[wt](%[e])\n\t"                                          \
		 "jne %l[miss]\n\t"                                                            \
		 "movq %c[ad](%[e]), %%rax\n\taddq %[lin], %%rax\n\t" TEXT "\n772: " LAHF_SETO \
		 "\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")                              \
		 : "=&a"(ax)                                                                   \
		 : TLB_OPERANDS(e, tag), [lin] "r"(at), [b] "r"(b)                             \
		 : "cc", "memory"                                                              \
		 : miss, bad);                                                                 \
	goto done;                                                                             \
	miss:                                                                                  \
	access_rmw(c, i, at, SIZE, FN, b, LOCKED);                                             \
	return;                                                                                \
	bad:                                                                                   \
	access_bad(c);                                                                         \
	done:

/* The word that holds the bit, and the bit's number in it: a register index reaches outside the operand. */
static inline uint64_t bit_linear(struct engine_cpu *c, const struct insn *i, unsigned bits, uint64_t *bit)
{
	bool write = i->op != 0;
	int64_t index;
	uint64_t off;

	if (i->cc) { /* immediate */
		*bit = i->imm & (bits - 1);
		return ea_linear(c, i, bits / 8, write);
	}
	index = bits == 64   ? (int64_t)REG64(c, i->src)
		: bits == 32 ? (int32_t)REG32(c, i->src)
			     : (int16_t)REG16(c, i->src);
	*bit = index & (bits - 1);
	off = insn_offset(c, i) + (index >> __builtin_ctz(bits)) * (int64_t)(bits / 8);
	off &= i->adsize == 8 ? ~0ULL : BIT(i->adsize * 8) - 1;
	return seg_linear(c, i->seg, off, bits / 8, write);
}

#define BIT_OP(NAME, SZ, SFX, MOD)            \
	BIT_FN(NAME, SZ, SFX, MOD)            \
	BIT_RMW(NAME, SZ, SFX, MOD, m, "", 0) \
	BIT_RMW(NAME, SZ, SFX, MOD, lm, "lock ", 1)
#define BIT_READ(SZ, SFX, MOD)                                                \
	BIT_FN(bt, SZ, SFX, MOD)                                              \
	static void op_bt##SZ##_m(struct engine_cpu *c, const struct insn *i) \
	{                                                                     \
		uint64_t b, at = bit_linear(c, i, SZ, &b);                    \
		bt##SZ(mem_ld##SZ(c, i, at), b, &c->rflags);                  \
	}
#define BIT_SIZES(M, NAME) M(NAME, 16, "w", "w") M(NAME, 32, "l", "k") M(NAME, 64, "q", "q")
BIT_SIZES(BIT_OP, bts)
BIT_SIZES(BIT_OP, btr)
BIT_SIZES(BIT_OP, btc)
BIT_READ(16, "w", "w")
BIT_READ(32, "l", "k")
BIT_READ(64, "q", "q")

/* op: 0 BT, 1 BTS, 2 BTR, 3 BTC; cc: the index is an immediate. */
static void op_bit_r(struct engine_cpu *c, const struct insn *i)
{
	static const rmw_fn fn[4][3] = {
	    {bt16, bt32, bt64}, {bts16, bts32, bts64}, {btr16, btr32, btr64}, {btc16, btc32, btc64}};
	uint64_t index = (i->cc ? i->imm : reg_get(c, i->src, i->opsize)) & (i->opsize * 8 - 1);
	uint64_t v = reg_get(c, i->dst, i->opsize);

	v = fn[i->op][__builtin_ctz(i->opsize) - 1](v, index, &c->rflags);
	if (i->op)
		reg_set(c, i->dst, v, i->opsize);
}

static insn_fn pick_bit(struct insn *i, const struct insn_decoded *d, unsigned op)
{
	static const insn_fn plain[4][3] = {
	    {op_bt16_m, op_bt32_m, op_bt64_m},
	    {op_bts16_m, op_bts32_m, op_bts64_m},
	    {op_btr16_m, op_btr32_m, op_btr64_m},
	    {op_btc16_m, op_btc32_m, op_btc64_m},
	};
	static const insn_fn locked[4][3] = {
	    {NULL, NULL, NULL},
	    {op_bts16_lm, op_bts32_lm, op_bts64_lm},
	    {op_btr16_lm, op_btr32_lm, op_btr64_lm},
	    {op_btc16_lm, op_btc32_lm, op_btc64_lm},
	};

	i->op = op;
	i->cc = is_imm(&d->op[1]);
	if (is_gpr(&d->op[0]))
		return op_bit_r;
	return (i->lock ? locked : plain)[op][__builtin_ctz(i->opsize) - 1];
}

/* -- Scans and counts: dst from r/m -- */

static inline uint64_t rm_value(struct engine_cpu *c, const struct insn *i)
{
	if (i->mem)
		return mem_ld(c, i, ea_linear(c, i, i->opsize, false), i->opsize);
	return reg_get(c, i->src, i->opsize);
}

/*
 * The host's own instruction on dst and src. BSF and BSR leave the destination as it was for a zero source;
 * so it goes in, and the whole register comes back for 32 bits too.
 */
#define SCAN(NAME, TEXT, MASK)                                            \
	static void op_##NAME(struct engine_cpu *c, const struct insn *i) \
	{                                                                 \
		uint64_t v = rm_value(c, i), out = REG64(c, i->dst);      \
		unsigned ax;                                              \
                                                                          \
		switch (i->opsize) {                                      \
		case 2: SCAN_ASM(TEXT "w %w[v], %w[o]"); break;           \
		case 4: SCAN_ASM(TEXT "l %k[v], %k[o]"); break;           \
		default: SCAN_ASM(TEXT "q %q[v], %q[o]"); break;          \
		}                                                         \
		REG64(c, i->dst) = out;                                   \
		flags_put(&c->rflags, ax, MASK);                          \
	}
#define SCAN_ASM(text) __asm__(text "\n\t" LAHF_SETO : "=&a"(ax), [o] "+r"(out) : [v] "r"(v) : "cc")
SCAN(bsf, "bsf", FLAGS_ARITH)
SCAN(bsr, "bsr", FLAGS_ARITH)
SCAN(lzcnt, "lzcnt", FLAGS_ARITH)
SCAN(tzcnt, "tzcnt", FLAGS_ARITH)
SCAN(popcnt, "popcnt", FLAGS_ARITH)

/* CRC32 r32/r64, r/m: op = source size. */
static void op_crc32(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v, crc = REG64(c, i->dst);

	v = i->mem ? mem_ld(c, i, ea_linear(c, i, i->op, false), i->op) : reg_get(c, i->src, i->op);
	switch (i->op) {
	case 1: __asm__("crc32b %b[v], %k[crc]" : [crc] "+r"(crc) : [v] "r"(v)); break;
	case 2: __asm__("crc32w %w[v], %k[crc]" : [crc] "+r"(crc) : [v] "r"(v)); break;
	case 4: __asm__("crc32l %k[v], %k[crc]" : [crc] "+r"(crc) : [v] "r"(v)); break;
	default: __asm__("crc32q %q[v], %q[crc]" : [crc] "+r"(crc) : [v] "r"(v)); break;
	}
	REG64(c, i->dst) = crc;
}

/* -- BMI: op = offset of the third operand when it is a register -- */

static inline uint64_t third(struct engine_cpu *c, const struct insn *i)
{
	if (i->mem)
		return mem_ld(c, i, ea_linear(c, i, i->opsize, false), i->opsize);
	return reg_get(c, i->op, i->opsize);
}

/* dst = TEXT(a, v): AT&T order "v, a, dst" or "a, v, dst" is in the text. */
#define BMI3(NAME, A, V, TEXT, MASK)                                      \
	static void op_##NAME(struct engine_cpu *c, const struct insn *i) \
	{                                                                 \
		uint64_t v = V, a = A, out;                               \
		unsigned ax;                                              \
                                                                          \
		if (i->opsize == 8)                                       \
			BMI3_ASM(TEXT("q"));                              \
		else                                                      \
			BMI3_ASM(TEXT("k"));                              \
		REG64(c, i->dst) = i->opsize == 8 ? out : (uint32_t)out;  \
		if (MASK)                                                 \
			flags_put(&c->rflags, ax, MASK);                  \
	}
#define BMI3_ASM(text) \
	__asm__(text "\n\t" LAHF_SETO : "=&a"(ax), [o] "=&r"(out) : [a] "r"(a), [v] "r"(v) : "cc")
#define T_ANDN(m)   "andn %" m "[v], %" m "[a], %" m "[o]"
#define T_PDEP(m)   "pdep %" m "[v], %" m "[a], %" m "[o]"
#define T_PEXT(m)   "pext %" m "[v], %" m "[a], %" m "[o]"
#define T_BEXTR(m)  "bextr %" m "[a], %" m "[v], %" m "[o]"
#define T_BZHI(m)   "bzhi %" m "[a], %" m "[v], %" m "[o]"
#define T_BLSI(m)   "blsi %" m "[v], %" m "[o]"
#define T_BLSR(m)   "blsr %" m "[v], %" m "[o]"
#define T_BLSMSK(m) "blsmsk %" m "[v], %" m "[o]"
BMI3(andn, reg_get(c, i->src, i->opsize), third(c, i), T_ANDN, FLAGS_ARITH)
BMI3(pdep, reg_get(c, i->src, i->opsize), third(c, i), T_PDEP, 0)
BMI3(pext, reg_get(c, i->src, i->opsize), third(c, i), T_PEXT, 0)
BMI3(bextr, reg_get(c, i->op, i->opsize), rm_value(c, i), T_BEXTR, FLAGS_ARITH)
BMI3(bzhi, reg_get(c, i->op, i->opsize), rm_value(c, i), T_BZHI, FLAGS_ARITH)
BMI3(blsi, 0, rm_value(c, i), T_BLSI, FLAGS_ARITH)
BMI3(blsr, 0, rm_value(c, i), T_BLSR, FLAGS_ARITH)
BMI3(blsmsk, 0, rm_value(c, i), T_BLSMSK, FLAGS_ARITH)

/* ADCX adds with CF alone, ADOX with OF alone; op: the flag's bit. */
static void op_adcx(struct engine_cpu *c, const struct insn *i)
{
	unsigned __int128 sum = (unsigned __int128)reg_get(c, i->dst, i->opsize) + rm_value(c, i);
	uint64_t flag = BIT(i->op);
	bool carry;

	sum += !!(c->rflags & flag);
	carry = sum >> (i->opsize * 8);
	reg_set(c, i->dst, sum, i->opsize);
	c->rflags = carry ? c->rflags | flag : c->rflags & ~flag;
}

/* VEX: 32 or 64 bits by W, whatever the code segment's default is. */
static insn_fn pick_third(struct insn *i, const struct insn_decoded *d, insn_fn fn)
{
	i->opsize = d->op[0].size / 8;
	if (is_gpr(&d->op[2]))
		i->op = decode_gpr_offset(d->op[2].reg.value);
	return fn;
}

static insn_fn pick_adx(struct insn *i, const struct insn_decoded *d, unsigned bit)
{
	i->opsize = d->op[0].size / 8;
	i->op = bit;
	return op_adcx;
}

insn_fn bits_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_BT: return pick_bit(i, d, 0);
	case ZYDIS_MNEMONIC_BTS: return pick_bit(i, d, 1);
	case ZYDIS_MNEMONIC_BTR: return pick_bit(i, d, 2);
	case ZYDIS_MNEMONIC_BTC: return pick_bit(i, d, 3);
	case ZYDIS_MNEMONIC_BSF: return op_bsf;
	case ZYDIS_MNEMONIC_BSR: return op_bsr;
	case ZYDIS_MNEMONIC_LZCNT: return op_lzcnt;
	case ZYDIS_MNEMONIC_TZCNT: return op_tzcnt;
	case ZYDIS_MNEMONIC_POPCNT: return op_popcnt;
	case ZYDIS_MNEMONIC_CRC32: i->op = d->op[1].size / 8; return op_crc32;
	case ZYDIS_MNEMONIC_ANDN: return pick_third(i, d, op_andn);
	case ZYDIS_MNEMONIC_PDEP: return pick_third(i, d, op_pdep);
	case ZYDIS_MNEMONIC_PEXT: return pick_third(i, d, op_pext);
	case ZYDIS_MNEMONIC_BEXTR: return is_imm(&d->op[2]) ? NULL : pick_third(i, d, op_bextr);
	case ZYDIS_MNEMONIC_BZHI: return pick_third(i, d, op_bzhi);
	case ZYDIS_MNEMONIC_BLSI: return pick_third(i, d, op_blsi);
	case ZYDIS_MNEMONIC_BLSR: return pick_third(i, d, op_blsr);
	case ZYDIS_MNEMONIC_BLSMSK: return pick_third(i, d, op_blsmsk);
	case ZYDIS_MNEMONIC_ADCX: return pick_adx(i, d, 0);
	case ZYDIS_MNEMONIC_ADOX: return pick_adx(i, d, 11);
	default: return NULL;
	}
}
