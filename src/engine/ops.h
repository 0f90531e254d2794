/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to engine/: what the integer handlers are made of. The host executes each operation itself and its
 * flags are taken by LAHF and SETO, so that results and flags, the undefined ones too, are a CPU's.
 *
 * Handlers are specialised by operation, size and form; a form is the operands' kinds in Intel order:
 *   rr register, register   ri register, immediate   rm register, memory
 *   mr memory, register     mi memory, immediate     lmr, lmi the same with LOCK
 */
#ifndef USERKVM_ENGINE_OPS_H
#define USERKVM_ENGINE_OPS_H

#include "engine/access.h"
#include "engine/decode.h"

#define REG8(c, off)  (*(uint8_t *)((char *)(c) + (off)))
#define REG16(c, off) (*(uint16_t *)((char *)(c) + (off)))
#define REG32(c, off) (*(uint32_t *)((char *)(c) + (off)))
#define REG64(c, off) (*(uint64_t *)((char *)(c) + (off)))

static inline uint64_t reg_get(const struct engine_cpu *c, unsigned off, unsigned size)
{
	switch (size) {
	case 1: return REG8(c, off);
	case 2: return REG16(c, off);
	case 4: return REG32(c, off);
	default: return REG64(c, off);
	}
}

/* A 32-bit write clears the upper half, smaller ones keep the rest. */
static inline void reg_set(struct engine_cpu *c, unsigned off, uint64_t val, unsigned size)
{
	switch (size) {
	case 1: REG8(c, off) = val; break;
	case 2: REG16(c, off) = val; break;
	case 4: REG64(c, off) = (uint32_t)val; break;
	default: REG64(c, off) = val; break;
	}
}

/* AX as LAHF and SETO %al leave it, as flag bits (bit 1 set). */
static inline uint64_t flags_of(unsigned ax)
{
	return (ax >> 8 & 0xff) | (ax & 1) << 11;
}

static inline void flags_put(uint64_t *rflags, unsigned ax, uint64_t mask)
{
	*rflags = (*rflags & ~mask) | (flags_of(ax) & mask);
}

/* ORDER cc: the condition codes of the opcode map (SDM vol. 1 appendix B). */
extern const uint16_t cond_table[256];
static inline bool cond(uint64_t f, unsigned cc)
{
	return cond_table[(f & 0xf7) | (f >> 8 & 8)] >> cc & 1;
}

static inline bool is_gpr(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && decode_gpr_number(o->reg.value) >= 0;
}
static inline bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}
static inline bool is_imm(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}
/* 8 16 32 64 bits -> 0..3 */
static inline unsigned size_index(unsigned bits)
{
	return __builtin_ctz(bits) - 3;
}

#define LAHF_SETO "lahf\n\tseto %%al"
#define CARRY_IN  "btl $0, %k[fl]\n\t"

/*
 * Body of a handler that modifies memory by one host instruction TEXT with the operand address in rax. `b` is
 * the second operand (register %b, %w, %k or %q [b] in TEXT), LOCKED 0 or 1, FN the pure function for what
 * the TLB does not know. Leaves the flags in ax and falls out; the miss path returns from the handler.
 */
#define RMW_BODY(SIZE, TEXT, LOCKED, FN, CONSTRAINT)                                            \
	uint64_t lin = ea_linear(c, i, SIZE, true);                                             \
	struct tlb_entry *e = TLB_AT(c, lin);                                                   \
	uint64_t tag = TLB_TAG(c, lin, SIZE);                                                   \
	unsigned ax;                                                                            \
                                                                                                \
	ASM_GOTO("771: cmpq %[tag], %c[wt](%[e])\n\t"                                           \
		 "jne %l[miss]\n\t"                                                             \
		 "movq %c[ad](%[e]), %%rax\n\taddq %[lin], %%rax\n\t" TEXT "\n772: " LAHF_SETO  \
		 "\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")                               \
		 : "=&a"(ax)                                                                    \
		 : TLB_OPERANDS(e, tag), [lin] "r"(lin), [b] CONSTRAINT(b), [fl] "r"(c->rflags) \
		 : "cc", "memory"                                                               \
		 : miss, bad);                                                                  \
	goto done;                                                                              \
	miss:                                                                                   \
	access_rmw(c, i, lin, SIZE, FN, b, LOCKED);                                             \
	return;                                                                                 \
	bad:                                                                                    \
	access_bad(c);                                                                          \
	done:

/* For stack accesses: names SS for a non-canonical address. */
extern const struct insn insn_ss;

#endif
