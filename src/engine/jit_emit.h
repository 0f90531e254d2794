/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to the translator: host code as bytes. Registers are host numbers 0..15. */
#ifndef USERKVM_ENGINE_JIT_EMIT_H
#define USERKVM_ENGINE_JIT_EMIT_H

#include "engine/jit_trace.h"

enum {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15
};
#define H_GUEST_RCX H_R13
#define H_GUEST_RSP H_R12

struct emit {
	struct jit *j;
	uint8_t *p, *end; /* in the writable mapping */
	bool full;
};

static inline void e8(struct emit *e, unsigned b)
{
	if (e->p < e->end)
		*e->p++ = (uint8_t)b;
	else
		e->full = true;
}

static inline void e32(struct emit *e, uint32_t v)
{
	for (int k = 0; k < 4; k++)
		e8(e, v >> (8 * k) & 0xff);
}

static inline void e64(struct emit *e, uint64_t v)
{
	e32(e, (uint32_t)v);
	e32(e, (uint32_t)(v >> 32));
}

static inline void e_bytes(struct emit *e, const void *bytes, size_t n)
{
	for (size_t k = 0; k < n; k++)
		e8(e, ((const uint8_t *)bytes)[k]);
}

/* Offset of the next byte in the code memory. */
static inline uint32_t e_here(const struct emit *e)
{
	return (uint32_t)(e->p - e->j->rw);
}

/* op reg, gs:[off]; w: 64 bits. `op` is one byte, or 0x0fXX. */
void e_gs(struct emit *e, unsigned op, bool w, unsigned reg, uint32_t off);
/* mov reg, gs:[off + index * 8] */
void e_gs_index(struct emit *e, unsigned reg, unsigned index, uint32_t off);
/* op reg, rm between registers */
void e_rr(struct emit *e, unsigned op, bool w, unsigned reg, unsigned rm);
/* lea reg, [base + disp]; base any register */
void e_lea(struct emit *e, unsigned reg, unsigned base, int32_t disp);
/* lea reg, [base + index << scale + disp]; base -1: none. w false: 32-bit result, size16: 16-bit */
void e_lea_full(struct emit *e, bool w, bool size16, unsigned reg, int base, int index, unsigned scale,
		int32_t disp);
/* mov reg, imm (shortest form; no flags) */
void e_mov_imm(struct emit *e, unsigned reg, uint64_t imm);
/* pext, pdep reg, src, gs:[off] */
void e_pext(struct emit *e, unsigned reg, unsigned src, uint32_t off);
void e_pdep(struct emit *e, unsigned reg, unsigned src, uint32_t off);
/* sarx, shlx reg, rm, count: 64 bits */
void e_sarx(struct emit *e, unsigned reg, unsigned rm, unsigned count);
void e_shlx(struct emit *e, unsigned reg, unsigned rm, unsigned count);
/* mov ecx, n; jmp gs:[off]: to a thunk, 13 bytes */
void e_leave(struct emit *e, uint32_t n, uint32_t off);
/* jmp gs:[off] */
void e_jmp_gs(struct emit *e, uint32_t off);
/* jmp rel32 to a code offset; returns the offset of the rel32 */
uint32_t e_jmp(struct emit *e, uint32_t to);
/* The same, taken if rcx is 0: no flags. Where to is patched later */
uint32_t e_jmp_if_zero(struct emit *e);
/* jcc rel32 */
uint32_t e_jcc(struct emit *e, unsigned cc, uint32_t to);
/* jrcxz over the next n bytes; a jmp has 5 */
static inline void e_jrcxz(struct emit *e, unsigned n)
{
	e8(e, 0xe3);
	e8(e, n);
}
/* ModRM, SIB and displacement of [base + index + disp], or of gs:[disp]. */
struct place_of {
	int base, index; /* host registers; base -1: none, gs:[disp] */
	int32_t disp;
};
void e_operand(struct emit *e, unsigned reg, const struct place_of *at, bool disp8);
/* not reg: no flags */
void e_not(struct emit *e, unsigned reg);
/* mov reg, rm of 8 bits; registers in their low form */
void e_mov8(struct emit *e, unsigned reg, unsigned rm);
/* rorx reg, reg, by of 64 bits: no flags */
void e_rorx(struct emit *e, unsigned reg, unsigned src, unsigned by);
/* mov between a place and a register of 2, 4 or 8 bytes; loads are zero-extended */
void e_load_size(struct emit *e, unsigned reg, const struct place_of *at, unsigned size);
void e_store_size(struct emit *e, unsigned reg, const struct place_of *at, unsigned size);
/* mov between a place and a 64-bit register */
void e_load(struct emit *e, unsigned reg, const struct place_of *at);
void e_store(struct emit *e, unsigned reg, const struct place_of *at);

#define OP_MOV_LOAD  0x8b
#define OP_MOV_STORE 0x89
#define OP_LEA	     0x8d
#define OP_MOVZX16   0x0fb7

/* Sites, and stubs, that one instruction may need: three accesses of which each is checked, a branch, and what a branch to
 * an unexpected place needs once more. */
#define JIT_INSN_SITES 11
#define JIT_STUBS      ((JIT_BLOCK_MAX + JIT_PARTED_MAX) * JIT_INSN_SITES + 1)

/* What is to be placed behind the block: a site's slow side, its look-up in the table, a branch's unexpected side. */
struct jit_stub {
	uint32_t site, patch;
	bool computes; /* the linear address, for jit_slow */
	bool looks;    /* in the table: jit_access_far, which goes on at `back` */
	bool astray;   /* jit_astray: the rest of instruction `index`, with the state that was then */
	bool apart;    /* the part that counts on the site's look-up, if there is room; else as others */
	uint8_t until; /* astray: jit_site.apart */
	uint8_t index;
	bool vector;
	int uncounted;
	uint32_t back;
	struct address a;
	int64_t delta;
};

/* What a block's making remembers. */
struct making {
	struct emit e;
	struct engine_cpu *c;
	struct jit *j;
	struct jit_block *b;
	uint32_t block_id;
	struct trace *t;
	unsigned index; /* of the instruction in the trace */
	const struct trace_insn *i;
	struct insn_decoded d;	  /* its own */
	uint64_t next;		  /* behind it */
	unsigned accesses;	  /* of it that were emitted */
	struct place_of at;	  /* the operand of the last one */
	struct jit_site *led;	  /* the look-up for a group that it made */
	struct jit_site *outside; /* where an access that its segment does not allow goes */
	int uncounted;		  /* instructions that c->retired has not heard of yet (statistics) */
	struct jit_stub *stub;	  /* JIT_STUBS */
	unsigned nstubs;
	enum jit_grouping grouping;
	unsigned apart;	     /* the last instruction of the part that is emitted now; 0: the block itself */
	unsigned nparted;    /* instructions in such parts */
	uint32_t first_exit; /* their stubs follow */
	bool ends;	     /* the instruction ended the block */
	unsigned aligned;    /* the access faults unless its address is a multiple of this */
	bool vector;	     /* the guest's vector state is in the host's registers here */
};

/* -- jit_op.c -- */
/* Emits the instruction m->d; true. False: not copied (nothing was emitted). */
bool jit_op(struct making *m);
/* The instruction's bytes with other register fields. reg: ModRM.reg; rm: a register, or -1 for the place m->at; opc: the
 * register in the opcode byte, or -1; vvvv: VEX's. */
void jit_emit_copy(struct making *m, unsigned reg, int rm, int opc, unsigned vvvv);
/* Nothing among its prefixes or in its encoding hinders a copy. */
bool jit_plain_form(const ZydisDecodedInstruction *in);
/* Prefixes of an instruction that is copied: with more, a copy with its longer operand might be too long. */
#define JIT_MAX_PREFIXES 3
/* Begins an access of 8 bytes at guest RSP + disp; ends it, and moves RSP. */
struct jit_site *jit_stack_access(struct making *m, enum jit_site_kind kind, int32_t disp);
void jit_stack_done(struct making *m, struct jit_site *s, int32_t change);
/* Pushes what waits in jit->tmp. */
void jit_push_tmp(struct making *m);
/* An instruction for the interpreter. */
void jit_op_call(struct making *m);
/* The host register of guest register n: its own, or `temp` after a load; and temp's way back. */
unsigned jit_reg_in(struct making *m, int n, unsigned temp);
void jit_reg_out(struct making *m, int n, unsigned temp);
bool jit_in_memory(int n);
/* -1: in memory. */
int jit_host_of(int n);

/* -- jit_branch.c -- */
/* JMP, CALL and conditional ones of all modes, as jit_op; RET of 64-bit mode. */
bool jit_branch(struct making *m);
bool jit_return(struct making *m);
/* Goes to the IP in r14, which an indirect branch has read: to the block in the table of indirect targets, and if there is
 * none to the interpreter, which executes the branch from its start. If the path follows it, only when it leads elsewhere. */
void jit_go_to_r14(struct making *m);
/* The same from its stub. */
void jit_astray(struct making *m);

/* -- jit_vector.c: vector instructions, and general ones with VEX -- */
bool jit_vector_op(struct making *m);

/* -- jit_bits.c: BT, BTS, BTR, BTC of a bit string in memory; CMPXCHG8B and CMPXCHG16B -- */
bool jit_bit_string(struct making *m);
bool jit_cmpxchg_pair(struct making *m);

/* -- jit_mode.c, for code that is not 64-bit -- */
/* Instructions on the stack, or JMP and CALL by register or memory; false: for the interpreter. */
bool jit_mode_stack_op(struct making *m);
bool jit_mode_indirect(struct making *m);
/* The stack pointer, as wide as it is, moves. */
void jit_mode_move_stack(struct making *m, int32_t change);
/* jit_push_tmp, with the operand's size. */
void jit_mode_push_tmp(struct making *m);
/* The return address. */
void jit_mode_push_return(struct making *m);
/* A copy of m->d means the same in 64-bit mode; its prefixes are changed so that it does, if that is what it takes. */
bool jit_mode_same(struct making *m);

/* -- jit_string.c: REP MOVS and REP STOS -- */
bool jit_string_op(struct making *m);

/* -- jit_system.c: a kernel's everyday ones -- */
bool jit_system_op(struct making *m);

/* -- jit_access.c -- */
/* From here to the access: a window. m->at is the operand; rcx is free, r14 and r15 may be part of it. The caller sets the
 * site's end behind the access. */
struct jit_site *jit_access(struct making *m, const struct address *a, enum jit_site_kind kind,
			    unsigned size);
/* The table's columns for reads or for writes, as offsets from GS. */
struct look {
	uint32_t neg, add;
};
struct look jit_columns(const struct making *m, bool write);
/* rcx = 0 if the table, whose `neg` column it is, has the page of register `first`, and r14 + more lies in it; r15 = its index. */
void jit_probe(struct making *m, unsigned first, uint32_t neg, int32_t more);
/* The look-up of a page that was not near. */
void jit_access_far(struct making *m, struct jit_site *s, const struct jit_stub *stub);
/* The linear address plus delta in r14, for a slow stub. */
void jit_slow_address(struct making *m, const struct address *a, int64_t delta);

/* -- jit_block.c -- */
/* A new site that begins here; its stub will be placed at the end. */
struct jit_site *jit_site_new(struct making *m, enum jit_site_kind kind, unsigned size);
/* A jump to the site's slow stub, which is placed behind the block; a: of the address that jit_slow wants to know, or
 * NULL. */
void jit_jump_slow(struct making *m, const struct jit_site *s, const struct address *a, int64_t delta);
/* The same for a stub that looks the page up in the table, and goes on at `back`. */
void jit_jump_far(struct making *m, const struct jit_site *s, uint32_t patch, const struct address *a,
		  int64_t delta, uint32_t back);
/* As jit_jump_slow, of a group's look-up: to the same instructions, each with its own, if the block has them. */
void jit_jump_apart(struct making *m, const struct jit_site *s, const struct address *a, int64_t delta);
/* On if rcx is 0, else to the site's slow stub. */
void jit_need_zero(struct making *m, const struct jit_site *s);
/* On if rcx is 0, else to a stub with jit_astray. */
void jit_need_expected(struct making *m);
/* A slow stub that only the fault hook goes to. */
void jit_only_slow(struct making *m, const struct jit_site *s, const struct address *a);
/* Emits a patchable exit to a guest address. */
void jit_exit_to(struct making *m, uint64_t target);
/* The same, to a block of another key. */
void jit_exit_to_key(struct making *m, uint64_t target, unsigned key);
/* The conditional form: jcc to the exit. */
void jit_exit_if(struct making *m, unsigned cc, uint64_t target);
/* Statistics: c->retired hears of the instructions up to now, this one with them. */
void jit_count(struct making *m);

#endif
