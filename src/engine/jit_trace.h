/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to the translator: the guest code that becomes one block. A trace is a path through a few pages, entered at its
 * start only: it follows the branches that are expected and has an exit for each that is not. What is known of its
 * registers tells which accesses lie beside each other; such a group is looked up once.
 */
#ifndef USERKVM_ENGINE_JIT_TRACE_H
#define USERKVM_ENGINE_JIT_TRACE_H

#include "engine/jit.h"

#define TRACE_GROUPS   16
#define TRACE_SPAN     128 /* bytes that a group may lie apart: its page ends inside 1 in 32 */
#define TRACE_CALLS    4   /* calls that are followed into each other */
#define TRACE_UNROLLED 32  /* instructions of a loop that are not followed into it once more */

/* A memory operand; guest register numbers, -1 = none. */
struct address {
	int base, index;
	unsigned scale; /* a shift */
	int64_t disp;
	bool absolute; /* disp is all of it */
	uint32_t seg;  /* offset from GS of a word to be added, a segment's base mostly; 0 = none */
	uint8_t width; /* outside 64-bit mode: bits of an offset, 16 or 32 */
	uint8_t
	    check; /* a segment's number + 1: its limit and type are looked at; 0 = there is nothing to check */
};

#define NO_GROUP (-1)

/* The target of a branch that leaves the code segment: no canonical address. */
#define TRACE_ASTRAY BIT(62)

struct trace_access {
	struct address a;
	unsigned size;
	bool write;
	int group;
	int64_t off; /* from the group's origin */
};

/* Accesses whose addresses differ by constants. */
struct trace_group {
	uint32_t base, index; /* values of registers; UINT32_MAX = none */
	unsigned scale;
	uint32_t seg;
	int64_t lo, hi; /* bytes that are touched, from the origin; hi behind the last */
	bool write;	/* some of them are written */
	unsigned members;
	/* -- The block's making -- */
	bool led; /* its look-up was emitted, for instruction `lead` */
	unsigned lead, last;
};

enum trace_way {
	WAY_ON,	   /* to the instruction behind it */
	WAY_TAKEN, /* to the branch's target, or where an indirect one led so far */
	WAY_BACK,  /* a return, to where its call in this trace came from */
	WAY_END,   /* unknown: the trace ends */
};

struct trace_insn {
	uint64_t rip, next;   /* next: behind it */
	uint64_t target;      /* WAY_TAKEN, WAY_BACK */
	const uint8_t *bytes; /* in its page, or joined */
	uint8_t joined[16];   /* of two pages */
	enum trace_way way;
	uint16_t key; /* the trace's */
	unsigned naccess;
	struct trace_access access[2]; /* in the order in which they are emitted */
	struct insn_decoded d;
};

struct trace {
	unsigned n, ngroups, nranges, npages;
	uint16_t key;  /* of the block that it will be */
	uint32_t base; /* of CS */
	bool alone;    /* no other page than the first */
	bool unrolled; /* it is a loop that came to its start */
	uint64_t end;  /* where the guest goes on behind the last instruction, unless that is WAY_END */
	struct trace_group group[TRACE_GROUPS];
	struct jit_range range[JIT_RANGES];
	struct trace_insn insn[JIT_BLOCK_MAX];
	struct trace_page {
		uint64_t lin;
		const uint8_t *host; /* when the bytes were read */
		bool global;
		uint8_t bytes[PAGE_SIZE];
	} page[JIT_BLOCK_PAGES];
};

/* Collects the trace at c->rip, whose page is read already, and finds its groups, none if `plain`. Reads other pages that
 * it leads to, if they can be fetched from. 0 instructions: none is whole there. */
void trace_make(struct engine_cpu *c, struct trace *t, bool plain);
/* A conditional branch that jit_op makes an exit of. */
bool trace_is_jcc(const struct trace_insn *i);
/* RET, not far. */
bool trace_is_near_ret(const struct trace_insn *i);
static inline bool jit_writes(const ZydisDecodedOperand *o)
{
	return o->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE);
}
/* The address of a memory operand; false if the form is left to the interpreter. */
bool trace_address(const struct trace_insn *i, const ZydisDecodedOperand *o, struct address *a);
/* Bytes by which PUSH, POP, CALL, RET and LEAVE move a stack pointer whose place is linear; 0: another one. */
unsigned trace_stack_step(const struct trace_insn *i);

/* -- jit_mode.c, for code that is not 64-bit -- */
/* Writes the instruction as 64-bit mode would spell it, where it can. */
void jit_mode_respell(struct insn_decoded *d);
/* The instruction ends where IP and linear address still go on behind it. */
bool jit_mode_fits(const struct trace *t, const struct trace_insn *i);
/* Where its relative branch goes; TRACE_ASTRAY. */
uint64_t jit_mode_target(const struct trace *t, const struct trace_insn *i);
/* The address's segment, and what is to be checked. */
void jit_mode_segment(unsigned key, unsigned seg, struct address *a);
/* Of the stack. */
struct address jit_mode_stack(unsigned key, int base, int32_t disp);
/* Its handler writes registers that no operand names. */
bool jit_mode_unknown(const struct trace_insn *i);

#endif
