/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to engine/'s vector side: guest memory operands of 1 to 64 bytes, to and from our memory. The fast
 * half is one window, as in access.h; an operand that lies in one page and fits one host access is one.
 */
#ifndef USERKVM_ENGINE_VACCESS_H
#define USERKVM_ENGINE_VACCESS_H

#include "engine/access.h"

void vaccess_ld(struct engine_cpu *c, const struct insn *i, uint64_t lin, void *dst, unsigned len);
void vaccess_st(struct engine_cpu *c, const struct insn *i, uint64_t lin, const void *src, unsigned len);

#define V_OUT(o) "movups " #o "(%[t],%[lin]), %%xmm0\n\tmovups %%xmm0, " #o "(%[b])\n\t"
#define V_IN(o)	 "movups " #o "(%[b]), %%xmm0\n\tmovups %%xmm0, " #o "(%[t],%[lin])\n\t"

/* text copies between (t + lin) and (b); the field that must match is rt or wt. */
#define DEFINE_VMEM(name, size, field, text, slow, qual)                                                  \
	static inline void name(struct engine_cpu *c, const struct insn *i, uint64_t lin, qual void *buf) \
	{                                                                                                 \
		struct tlb_entry *e = TLB_AT(c, lin);                                                     \
		uint64_t tag = TLB_TAG(c, lin, size), t;                                                  \
                                                                                                          \
		ASM_GOTO("771: cmpq %[tag], %c[" #field "](%[e])\n\t"                                     \
			 "jne %l[miss]\n\t"                                                               \
			 "movq %c[ad](%[e]), %[t]\n\t" text                                               \
			 "772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")                             \
			 : [t] "=&r"(t)                                                                   \
			 : TLB_OPERANDS(e, tag), [lin] "r"(lin), [b] "r"(buf)                             \
			 : "cc", "memory", "xmm0"                                                         \
			 : miss, bad);                                                                    \
		return;                                                                                   \
	miss:                                                                                             \
		slow(c, i, lin, buf, size);                                                               \
		return;                                                                                   \
	bad:                                                                                              \
		access_bad(c);                                                                            \
	}

DEFINE_VMEM(vmem_ld16, 16, rt, V_OUT(0), vaccess_ld, )
DEFINE_VMEM(vmem_ld32, 32, rt, V_OUT(0) V_OUT(16), vaccess_ld, )
DEFINE_VMEM(vmem_ld64, 64, rt, V_OUT(0) V_OUT(16) V_OUT(32) V_OUT(48), vaccess_ld, )
DEFINE_VMEM(vmem_st16, 16, wt, V_IN(0), vaccess_st, const)
DEFINE_VMEM(vmem_st32, 32, wt, V_IN(0) V_IN(16), vaccess_st, const)
DEFINE_VMEM(vmem_st64, 64, wt, V_IN(0) V_IN(16) V_IN(32) V_IN(48), vaccess_st, const)

/* Reads `len` bytes; *dst is unchanged if this raises. */
static inline void vmem_ld(struct engine_cpu *c, const struct insn *i, uint64_t lin, void *dst, unsigned len)
{
	switch (len) {
	case 16: vmem_ld16(c, i, lin, dst); break;
	case 8: *(uint64_t *)dst = mem_ld64(c, i, lin); break;
	case 4: *(uint32_t *)dst = mem_ld32(c, i, lin); break;
	case 32: vmem_ld32(c, i, lin, dst); break;
	case 64: vmem_ld64(c, i, lin, dst); break;
	case 2: *(uint16_t *)dst = mem_ld16(c, i, lin); break;
	default: vaccess_ld(c, i, lin, dst, len); break;
	}
}

/* Writes `len` bytes, all or none. */
static inline void vmem_st(struct engine_cpu *c, const struct insn *i, uint64_t lin, const void *src,
			   unsigned len)
{
	switch (len) {
	case 16: vmem_st16(c, i, lin, src); break;
	case 8: mem_st64(c, i, lin, *(const uint64_t *)src); break;
	case 4: mem_st32(c, i, lin, *(const uint32_t *)src); break;
	case 32: vmem_st32(c, i, lin, src); break;
	case 64: vmem_st64(c, i, lin, src); break;
	case 2: mem_st16(c, i, lin, *(const uint16_t *)src); break;
	default: vaccess_st(c, i, lin, src, len); break;
	}
}

/* Linear address of an operand that must be aligned (0: any); #GP(0) if it is not, before all other checks.
 */
static inline uint64_t vmem_ea(struct engine_cpu *c, const struct insn *i, unsigned len, unsigned align,
			       bool write)
{
	if (align && unlikely((insn_offset(c, i) + c->seg[i->seg].base) & (align - 1)))
		engine_raise_err(c, EXC_GP, 0);
	return ea_linear(c, i, len, write);
}

#endif
