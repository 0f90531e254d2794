/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to engine/: the inline half of guest memory accesses. An access is one window (base/window.h): it
 * compares the TLB tag, takes the addend and touches the byte, all restartable, so that engine_kick, which
 * clears the TLB, cannot leave a stale host pointer in a register. What the TLB does not know (a miss, a page
 * crossing, a device, a non-canonical address) goes to access.c.
 *
 * TSO: an access that lies in one page is one host instruction of the same size.
 */
#ifndef USERKVM_ENGINE_ACCESS_H
#define USERKVM_ENGINE_ACCESS_H

#include "engine/cpu.h"

/* insn.ea_kind */
enum { EA_64, EA_OTHER };

/* uint64_t indices from the start of struct engine_cpu (the registers come first). */
#define EA_IDX(field) (offsetof(struct engine_cpu, field) / 8)
_Static_assert(offsetof(struct engine_cpu, gpr) == 0, "ea and dst/src offsets start at gpr");
_Static_assert(offsetof(struct engine_cpu, seg[GS].base) / 8 < 256, "fits insn.ea_seg");
_Static_assert(sizeof(struct insn) == 128, "one cache line for the run loop, one for the rest");

#define TLB_AT(c, lin)	      (&(c)->tlb[((lin) >> PAGE_SHIFT) & (TLB_ENTRIES - 1)])
#define TLB_TAG(c, lin, size) ((((lin) + (size)-1) & ~PAGE_OFFSET_MASK) | (c)->tlb_key)
#define TLB_OPERANDS(e, tagv)                                                    \
	[e] "r"(e), [tag] "r"(tagv), [rt] "i"(offsetof(struct tlb_entry, rtag)), \
	    [wt] "i"(offsetof(struct tlb_entry, wtag)), [ad] "i"(offsetof(struct tlb_entry, addend))

/* -- What access.c does for the inlines. `i` names the segment for a non-canonical address (#SS or #GP). --
 */
uint64_t access_ld(struct engine_cpu *c, const struct insn *i, uint64_t lin, unsigned size);
void access_st(struct engine_cpu *c, const struct insn *i, uint64_t lin, uint64_t val, unsigned size);
/* The new value of a read-modify-write; *rflags is updated. Pure: may be called several times. */
typedef uint64_t (*rmw_fn)(uint64_t old, uint64_t src, uint64_t *rflags);
/* Read, compute, write; then commits c->rflags. Returns the old value. Locked: as one locked operation. */
uint64_t access_rmw(struct engine_cpu *c, const struct insn *i, uint64_t lin, unsigned size, rmw_fn fn,
		    uint64_t src, bool locked);
/* #AC for an access that is not made by the functions above (guest_probe does not look). */
void access_align(struct engine_cpu *c, uint64_t lin, unsigned size);
/* The window's fault exit: the host mapping is gone. */
_Noreturn void access_bad(struct engine_cpu *c);
uint64_t ea_other(struct engine_cpu *c, const struct insn *i, uint64_t off, unsigned len, bool write);
bool is_canonical(uint64_t lin);
_Noreturn void raise_seg(struct engine_cpu *c, unsigned seg); /* #SS(0) for SS, else #GP(0) */

/* RAW_MOVED: host pointers were revoked; RAW_BAD: the host's mapping is gone; RAW_OTHER: see raw_compare. */
enum raw { RAW_OK, RAW_MOVED, RAW_BAD, RAW_OTHER };

/*
 * Bulk copies between guest pages and our memory, or guest and guest, inside one page each; at most 4 KiB.
 * Return the bytes not done (a revocation came between: translate again), or -1 for a host fault.
 */
long raw_copy(struct engine_cpu *c, uint8_t *dst, const uint8_t *src, size_t len, uint64_t seq);
long raw_fill(struct engine_cpu *c, uint8_t *dst, uint64_t val, unsigned size, size_t count, uint64_t seq);

/* Compares len > 0 bytes of a guest page with `with`: RAW_OTHER if they differ. No vector registers. */
enum raw raw_compare(struct engine_cpu *c, const uint8_t *host, const uint8_t *with, size_t len,
		     uint64_t seq);

static inline uint64_t ea_offset(const struct engine_cpu *c, const struct insn *i)
{
	const uint64_t *r = (const uint64_t *)c;

	return r[i->ea_base] + (r[i->ea_index] << i->scale) + (uint64_t)i->disp;
}

/* Linear address of the memory operand for the mem_* accessors below, which check canonicality on a miss. */
static inline uint64_t ea_linear(struct engine_cpu *c, const struct insn *i, unsigned len, bool write)
{
	uint64_t off = ea_offset(c, i);

	if (likely(i->ea_kind == EA_64))
		return off + ((const uint64_t *)c)[i->ea_seg];
	return ea_other(c, i, off, len, write);
}

#define DEFINE_MEM_LD(name, size, text)                                                              \
	static inline uint64_t name(struct engine_cpu *c, const struct insn *i, uint64_t lin)        \
	{                                                                                            \
		struct tlb_entry *e = TLB_AT(c, lin);                                                \
		uint64_t tag = TLB_TAG(c, lin, size), v;                                             \
                                                                                                     \
		ASM_GOTO("771: cmpq %[tag], %c[rt](%[e])\n\t"                                        \
			 "jne %l[miss]\n\t"                                                          \
			 "movq %c[ad](%[e]), %q[v]\n\t" text                                         \
			 " (%q[v],%[lin]), %[v]\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b") \
			 : [v] "=&r"(v)                                                              \
			 : TLB_OPERANDS(e, tag), [lin] "r"(lin)                                      \
			 : "cc"                                                                      \
			 : miss, bad);                                                               \
		return v;                                                                            \
	miss:                                                                                        \
		return access_ld(c, i, lin, size);                                                   \
	bad:                                                                                         \
		access_bad(c);                                                                       \
	}
#define K_V "%k[v]"
#define DEFINE_MEM_LDZ(name, size, text)                                                      \
	static inline uint64_t name(struct engine_cpu *c, const struct insn *i, uint64_t lin) \
	{                                                                                     \
		struct tlb_entry *e = TLB_AT(c, lin);                                         \
		uint64_t tag = TLB_TAG(c, lin, size), v;                                      \
                                                                                              \
		ASM_GOTO("771: cmpq %[tag], %c[rt](%[e])\n\t"                                 \
			 "jne %l[miss]\n\t"                                                   \
			 "movq %c[ad](%[e]), %q[v]\n\t" text " (%q[v],%[lin]), " K_V          \
			 "\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")               \
			 : [v] "=&r"(v)                                                       \
			 : TLB_OPERANDS(e, tag), [lin] "r"(lin)                               \
			 : "cc"                                                               \
			 : miss, bad);                                                        \
		return v;                                                                     \
	miss:                                                                                 \
		return access_ld(c, i, lin, size);                                            \
	bad:                                                                                  \
		access_bad(c);                                                                \
	}
#define DEFINE_MEM_ST(name, size, text, mod)                                                            \
	static inline void name(struct engine_cpu *c, const struct insn *i, uint64_t lin, uint64_t val) \
	{                                                                                               \
		struct tlb_entry *e = TLB_AT(c, lin);                                                   \
		uint64_t tag = TLB_TAG(c, lin, size), t;                                                \
                                                                                                        \
		ASM_GOTO("771: cmpq %[tag], %c[wt](%[e])\n\t"                                           \
			 "jne %l[miss]\n\t"                                                             \
			 "movq %c[ad](%[e]), %[t]\n\t" text " %" mod "[v], (%[t],%[lin])\n"             \
			 "772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")                           \
			 : [t] "=&r"(t)                                                                 \
			 : TLB_OPERANDS(e, tag), [lin] "r"(lin), [v] "r"(val)                           \
			 : "cc"                                                                         \
			 : miss, bad);                                                                  \
		return;                                                                                 \
	miss:                                                                                           \
		access_st(c, i, lin, val, size);                                                        \
		return;                                                                                 \
	bad:                                                                                            \
		access_bad(c);                                                                          \
	}

/* Zero-extended loads and stores of 8, 16, 32, 64 bits. */
DEFINE_MEM_LDZ(mem_ld8, 1, "movzbl")
DEFINE_MEM_LDZ(mem_ld16, 2, "movzwl")
DEFINE_MEM_LDZ(mem_ld32, 4, "movl")
DEFINE_MEM_LD(mem_ld64, 8, "movq")
DEFINE_MEM_ST(mem_st8, 1, "movb", "b")
DEFINE_MEM_ST(mem_st16, 2, "movw", "w")
DEFINE_MEM_ST(mem_st32, 4, "movl", "k")
DEFINE_MEM_ST(mem_st64, 8, "movq", "q")

static inline uint64_t mem_ld(struct engine_cpu *c, const struct insn *i, uint64_t lin, unsigned size)
{
	switch (size) {
	case 1: return mem_ld8(c, i, lin);
	case 2: return mem_ld16(c, i, lin);
	case 4: return mem_ld32(c, i, lin);
	default: return mem_ld64(c, i, lin);
	}
}

static inline void mem_st(struct engine_cpu *c, const struct insn *i, uint64_t lin, uint64_t val,
			  unsigned size)
{
	switch (size) {
	case 1: mem_st8(c, i, lin, val); break;
	case 2: mem_st16(c, i, lin, val); break;
	case 4: mem_st32(c, i, lin, val); break;
	default: mem_st64(c, i, lin, val); break;
	}
}

#endif
