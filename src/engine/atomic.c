/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* XCHG with memory (always locked), XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B. */
#include "engine/ops.h"

/* -- XCHG memory, register -- */

static uint64_t second(uint64_t old, uint64_t src, uint64_t *rflags)
{
	return src;
}

#define XCHG_MEM(SZ, SFX, MOD)                                                                 \
	static void op_xchg##SZ(struct engine_cpu *c, const struct insn *i)                    \
	{                                                                                      \
		uint64_t lin = ea_linear(c, i, SZ / 8, true), v = REG##SZ(c, i->src), t;       \
		struct tlb_entry *e = TLB_AT(c, lin);                                          \
		uint64_t tag = TLB_TAG(c, lin, SZ / 8);                                        \
                                                                                               \
		ASM_GOTO("771: cmpq %[tag], %c[wt](%[e])\n\t"                                  \
			 "jne %l[miss]\n\t"                                                    \
			 "movq %c[ad](%[e]), %[t]\n\txchg" SFX " %" MOD "[v], (%[t],%[lin])\n" \
			 "772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")                  \
			 : [t] "=&r"(t), [v] "+&r"(v)                                          \
			 : TLB_OPERANDS(e, tag), [lin] "r"(lin)                                \
			 : "cc", "memory"                                                      \
			 : miss, bad);                                                         \
		reg_set(c, i->src, v, SZ / 8);                                                 \
		return;                                                                        \
	miss:                                                                                  \
		v = access_rmw(c, i, lin, SZ / 8, second, REG##SZ(c, i->src), true);           \
		reg_set(c, i->src, v, SZ / 8);                                                 \
		return;                                                                        \
	bad:                                                                                   \
		access_bad(c);                                                                 \
	}
XCHG_MEM(8, "b", "b")
XCHG_MEM(16, "w", "w")
XCHG_MEM(32, "l", "k")
XCHG_MEM(64, "q", "q")

/* -- XADD: the sum goes to the destination, its old value to the source -- */

#define XADD_OP(SZ, SFX, MOD)                                                                       \
	static uint64_t xadd##SZ(uint64_t a, uint64_t b, uint64_t *fl)                              \
	{                                                                                           \
		unsigned ax;                                                                        \
                                                                                                    \
		__asm__("add" SFX " %" MOD "[b], %" MOD "[a]\n\t" LAHF_SETO                         \
			: "=&a"(ax), [a] "+r"(a)                                                    \
			: [b] "r"(b)                                                                \
			: "cc");                                                                    \
		flags_put(fl, ax, FLAGS_ARITH);                                                     \
		return a;                                                                           \
	}                                                                                           \
	static void op_xadd##SZ##_r(struct engine_cpu *c, const struct insn *i)                     \
	{                                                                                           \
		uint64_t a = REG##SZ(c, i->dst), sum = xadd##SZ(a, REG##SZ(c, i->src), &c->rflags); \
                                                                                                    \
		reg_set(c, i->src, a, SZ / 8);                                                      \
		reg_set(c, i->dst, sum, SZ / 8);                                                    \
	}                                                                                           \
	static inline void xadd##SZ##_mem(struct engine_cpu *c, const struct insn *i, uint64_t lin) \
	{                                                                                           \
		uint64_t v = access_rmw(c, i, lin, SZ / 8, xadd##SZ, REG##SZ(c, i->src), i->lock);  \
                                                                                                    \
		reg_set(c, i->src, v, SZ / 8);                                                      \
	}                                                                                           \
	XADD_MEM(SZ, SFX, MOD, m, "")                                                               \
	XADD_MEM(SZ, SFX, MOD, lm, "lock ")
#define XADD_MEM(SZ, SFX, MOD, FORM, LOCK)                                            \
	static void op_xadd##SZ##_##FORM(struct engine_cpu *c, const struct insn *i)  \
	{                                                                             \
		uint64_t lin = ea_linear(c, i, SZ / 8, true), v = REG##SZ(c, i->src); \
		struct tlb_entry *e = TLB_AT(c, lin);                                 \
		uint64_t tag = TLB_TAG(c, lin, SZ / 8);                               \
		unsigned ax;                                                          \
                                                                                      \
		ASM_GOTO("771: cmpq %[tag], %c[wt](%[e])\n\t"                         \
			 "jne %l[miss]\n\t"                                           \
			 "movq %c[ad](%[e]), %%rax\n\t" LOCK "xadd" SFX " %" MOD      \
			 "[v], (%%rax,%[lin])\n772: " LAHF_SETO                       \
			 "\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")             \
			 : "=&a"(ax), [v] "+&r"(v)                                    \
			 : TLB_OPERANDS(e, tag), [lin] "r"(lin)                       \
			 : "cc", "memory"                                             \
			 : miss, bad);                                                \
		reg_set(c, i->src, v, SZ / 8);                                        \
		flags_put(&c->rflags, ax, FLAGS_ARITH);                               \
		return;                                                               \
	miss:                                                                         \
		xadd##SZ##_mem(c, i, lin);                                            \
		return;                                                               \
	bad:                                                                          \
		access_bad(c);                                                        \
	}
XADD_OP(8, "b", "b")
XADD_OP(16, "w", "w")
XADD_OP(32, "l", "k")
XADD_OP(64, "q", "q")

/* -- CMPXCHG: compares the accumulator -- */

struct cas {
	uint64_t expect, val;
};

/* The pure form: flags of the comparison, and the value that memory gets. */
#define CAS_FN(SZ, SFX, MOD)                                                \
	static uint64_t cas##SZ(uint64_t old, uint64_t src, uint64_t *fl)   \
	{                                                                   \
		const struct cas *a = (const struct cas *)(uintptr_t)src;   \
		unsigned ax;                                                \
                                                                            \
		__asm__("cmp" SFX " %" MOD "[b], %" MOD "[a]\n\t" LAHF_SETO \
			: "=&a"(ax)                                         \
			: [a] "r"(a->expect), [b] "r"(old)                  \
			: "cc");                                            \
		flags_put(fl, ax, FLAGS_ARITH);                             \
		return *fl & FLAG_ZF ? a->val : old;                        \
	}
/* Behind the host's own CMPXCHG: its accumulator and flags are the guest's. */
#define CAS_MEM(SZ, SFX, MOD, FORM, LOCK)                                                              \
	static void op_cmpxchg##SZ##_##FORM(struct engine_cpu *c, const struct insn *i)                \
	{                                                                                              \
		uint64_t lin = ea_linear(c, i, SZ / 8, true), a = c->gpr[RAX], t;                      \
		struct tlb_entry *e = TLB_AT(c, lin);                                                  \
		uint64_t tag = TLB_TAG(c, lin, SZ / 8);                                                \
                                                                                                       \
		ASM_GOTO("771: cmpq %[tag], %c[wt](%[e])\n\t"                                          \
			 "jne %l[miss]\n\t"                                                            \
			 "movq %c[ad](%[e]), %[t]\n\t" LOCK "cmpxchg" SFX " %" MOD                     \
			 "[v], (%[t],%[lin])\n772: movq %%rax, %[t]\n\t" LAHF_SETO                     \
			 "\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")                              \
			 : [t] "=&r"(t), "+&a"(a)                                                      \
			 : TLB_OPERANDS(e, tag), [lin] "r"(lin), [v] "r"((uint64_t)REG##SZ(c, i->src)) \
			 : "cc", "memory"                                                              \
			 : miss, bad);                                                                 \
		c->gpr[RAX] = t;                                                                       \
		flags_put(&c->rflags, a, FLAGS_ARITH);                                                 \
		return;                                                                                \
	miss:                                                                                          \
		cas##SZ##_miss(c, i, lin);                                                             \
		return;                                                                                \
	bad:                                                                                           \
		access_bad(c);                                                                         \
	}
#define CAS_OP(SZ, SFX, MOD)                                                                          \
	CAS_FN(SZ, SFX, MOD)                                                                          \
	static void cas##SZ##_miss(struct engine_cpu *c, const struct insn *i, uint64_t lin)          \
	{                                                                                             \
		struct cas a = {REG##SZ(c, RAX * 8), REG##SZ(c, i->src)};                             \
		uint64_t old = access_rmw(c, i, lin, SZ / 8, cas##SZ, (uintptr_t)&a, i->lock);        \
                                                                                                      \
		if (!(c->rflags & FLAG_ZF))                                                           \
			reg_set(c, RAX * 8, old, SZ / 8);                                             \
	}                                                                                             \
	/* By the host on whole registers: what a 32-bit one does to upper halves is the host's. */   \
	static void op_cmpxchg##SZ##_r(struct engine_cpu *c, const struct insn *i)                    \
	{                                                                                             \
		uint64_t acc = c->gpr[RAX], d = SZ == 32 ? REG64(c, i->dst) : REG##SZ(c, i->dst), ax; \
                                                                                                      \
		__asm__("cmpxchg" SFX " %" MOD "[v], %" MOD "[d]\n\tmovq %%rax, %[acc]\n\t" LAHF_SETO \
			: "=&a"(ax), [d] "+&r"(d), [acc] "=&r"(acc)                                   \
			: [v] "r"((uint64_t)REG##SZ(c, i->src)), "0"(acc)                             \
			: "cc");                                                                      \
		flags_put(&c->rflags, ax, FLAGS_ARITH);                                               \
		c->gpr[RAX] = acc;                                                                    \
		reg_set(c, i->dst, d, SZ == 32 ? 8 : SZ / 8);                                         \
	}                                                                                             \
	CAS_MEM(SZ, SFX, MOD, m, "")                                                                  \
	CAS_MEM(SZ, SFX, MOD, lm, "lock ")
CAS_OP(8, "b", "b")
CAS_OP(16, "w", "w")
CAS_OP(32, "l", "k")
CAS_OP(64, "q", "q")

/* -- Pairs -- */

static void op_cmpxchg8b(struct engine_cpu *c, const struct insn *i)
{
	uint64_t lin = ea_linear(c, i, 8, true);
	uint64_t old = (uint64_t)REG32(c, RDX * 8) << 32 | REG32(c, RAX * 8);
	uint64_t val = (uint64_t)REG32(c, RCX * 8) << 32 | REG32(c, RBX * 8);

	if (c->code64 && !is_canonical(lin))
		raise_seg(c, i->seg);
	if (guest_cmpxchg(c, lin, &old, val, 8)) {
		c->rflags |= FLAG_ZF;
		return;
	}
	c->rflags &= ~FLAG_ZF;
	c->gpr[RAX] = (uint32_t)old;
	c->gpr[RDX] = old >> 32;
}

static void cmpxchg16b_slow(struct engine_cpu *c, const struct insn *i, uint64_t lin)
{
	uint64_t old[2] = {c->gpr[RAX], c->gpr[RDX]}, val[2] = {c->gpr[RBX], c->gpr[RCX]};

	if (lin & 15)
		engine_raise_err(c, EXC_GP, 0);
	if (!is_canonical(lin))
		raise_seg(c, i->seg);
	if (guest_cmpxchg16(c, lin, old, val)) {
		c->rflags |= FLAG_ZF;
		return;
	}
	c->rflags &= ~FLAG_ZF;
	c->gpr[RAX] = old[0];
	c->gpr[RDX] = old[1];
}

/* Locked or not: as one host operation. An unaligned address makes the tag differ (low bit 0 set). */
static void op_cmpxchg16b(struct engine_cpu *c, const struct insn *i)
{
	uint64_t lin = ea_linear(c, i, 16, true), lo = c->gpr[RAX], hi = c->gpr[RDX];
	struct tlb_entry *e = TLB_AT(c, lin);
	uint64_t tag = TLB_TAG(c, lin, 1);
	bool equal;

	if (unlikely(lin & 15))
		goto miss;
	ASM_GOTO("771: cmpq %[tag], %c[wt](%[e])\n\t"
		 "jne %l[miss]\n\t"
		 "movq %c[ad](%[e]), %[e2]\n\t"
		 "lock cmpxchg16b (%[e2],%[lin])\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")
		 : "+&a"(lo), "+&d"(hi), [e2] "=&r"(tag), "=@ccz"(equal)
		 : [e] "r"(e), [tag] "r"(tag), [wt] "i"(offsetof(struct tlb_entry, wtag)),
		   [ad] "i"(offsetof(struct tlb_entry, addend)), [lin] "r"(lin), "b"(c->gpr[RBX]),
		   "c"(c->gpr[RCX])
		 : "memory"
		 : miss, bad);
	c->rflags = equal ? c->rflags | FLAG_ZF : c->rflags & ~FLAG_ZF;
	if (!equal) {
		c->gpr[RAX] = lo;
		c->gpr[RDX] = hi;
	}
	return;
miss:
	cmpxchg16b_slow(c, i, lin);
	return;
bad:
	access_bad(c);
}

/* -- Selection -- */

#define ROW3(NAME, SZ)                                                   \
	{                                                                \
		op_##NAME##SZ##_r, op_##NAME##SZ##_m, op_##NAME##SZ##_lm \
	}
#define TABLE3(NAME)                                                          \
	{                                                                     \
		ROW3(NAME, 8), ROW3(NAME, 16), ROW3(NAME, 32), ROW3(NAME, 64) \
	}

/* XCHG r, m is encoded as XCHG m, r: the memory operand may come second. */
static insn_fn pick_xchg(struct insn *i, const struct insn_decoded *d)
{
	static const insn_fn t[4] = {op_xchg8, op_xchg16, op_xchg32, op_xchg64};

	if (is_gpr(&d->op[0]))
		i->src = i->dst;
	return t[size_index(d->op[0].size)];
}

insn_fn atomic_select(struct insn *i, const struct insn_decoded *d)
{
	static const insn_fn xadd[4][3] = TABLE3(xadd), cmpxchg[4][3] = TABLE3(cmpxchg);
	unsigned form = is_gpr(&d->op[0]) ? 0 : i->lock ? 2 : 1;

	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_XCHG: return pick_xchg(i, d);
	case ZYDIS_MNEMONIC_XADD: return xadd[size_index(d->op[0].size)][form];
	case ZYDIS_MNEMONIC_CMPXCHG: return cmpxchg[size_index(d->op[0].size)][form];
	case ZYDIS_MNEMONIC_CMPXCHG8B: return op_cmpxchg8b;
	case ZYDIS_MNEMONIC_CMPXCHG16B: return op_cmpxchg16b;
	default: return NULL;
	}
}
