/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thunks by which generated code is entered from C, leaves to C, and calls it.
 *
 * The guest's vector state is in the host's registers from the first vector instruction that finds it in c->fpu
 * (jit_vector_live) until C code runs that may use such registers: all of it but jit_fill and jit_again, and what they call.
 */
#include "engine/fpu.h"
#include "engine/jit_emit.h"

/* Guest registers in host registers: in the order of their stores and loads. */
static const uint8_t mapped[][2] = {{RDX, H_RDX}, {RBX, H_RBX},	      {RBP, H_RBP},	 {RSI, H_RSI},
				    {RDI, H_RDI}, {R8, H_R8},	      {R9, H_R9},	 {R10, H_R10},
				    {R11, H_R11}, {RCX, H_GUEST_RCX}, {RSP, H_GUEST_RSP}};

#define GPR_OFF(n) ((uint32_t)(offsetof(struct engine_cpu, gpr) + 8 * (n)))

static void emit_save(struct emit *e)
{
	e_gs(e, OP_MOV_STORE, true, H_RAX, GPR_OFF(RAX));
	for (unsigned k = 0; k < ARRAY_SIZE(mapped); k++)
		e_gs(e, OP_MOV_STORE, true, mapped[k][1], GPR_OFF(mapped[k][0]));
	e8(e, 0x9f); /* lahf */
	e8(e, 0x0f);
	e8(e, 0x90);
	e8(e, 0xc0); /* seto al */
	e_gs(e, OP_MOV_STORE, true, H_RAX, JIT_OFF(flags));
}

static void emit_restore(struct emit *e)
{
	e_gs(e, OP_MOV_LOAD, true, H_RAX, JIT_OFF(flags));
	e8(e, 0x04);
	e8(e, 0x7f); /* add al, 127: OF */
	e8(e, 0x9e); /* sahf: the others */
	e_gs(e, OP_MOV_LOAD, true, H_RAX, GPR_OFF(RAX));
	for (unsigned k = 0; k < ARRAY_SIZE(mapped); k++)
		e_gs(e, OP_MOV_LOAD, true, mapped[k][1], GPR_OFF(mapped[k][0]));
}

/* -- Vector state; r14 = struct engine_fpu -- */

#define ZMM(n)		((uint32_t)(offsetof(struct engine_fpu, zmm) + 64 * (n)))
#define OP_VMOVUPS	0x10
#define OP_VMOVUPS_ST	0x11
#define OP_VORPS	0x56
#define OP_VMOVHLPS	0x12
#define OP_VEXTRACTF128 0x19

/* ModRM of [r14 + off]. */
static void at_r14(struct emit *e, unsigned reg, size_t off)
{
	e8(e, 0x80 | (reg & 7) << 3 | (H_R14 & 7));
	e32(e, (uint32_t)off);
}

static void legacy_r14(struct emit *e, unsigned op, unsigned reg, size_t off)
{
	e8(e, 0x41 | (reg >> 3) << 2);
	e8(e, 0x0f);
	e8(e, op);
	at_r14(e, reg, off);
}

/* VEX in map 0F without prefix; `vvvv` 0: none or xmm0 as the instruction has it. */
static void vex(struct emit *e, bool wide, unsigned op, unsigned reg, unsigned vvvv, bool b)
{
	e8(e, 0xc4);
	e8(e, (~reg >> 3 & 1) << 7 | 0x40 | (unsigned)!b << 5 | 1);
	e8(e, (~vvvv & 15) << 3 | (unsigned)wide << 2);
	e8(e, op);
}

/* Between one whole register and its place, `width` bytes of it. */
static void move_vector(struct emit *e, unsigned op, unsigned width, unsigned n)
{
	if (width == 16) {
		legacy_r14(e, op, n, ZMM(n));
		return;
	}
	if (width == 32) {
		vex(e, true, op, n, 0, true);
	} else {
		e8(e, 0x62);
		e8(e, (~n >> 3 & 1) << 7 | 0x40 | (~n >> 4 & 1) << 4 | 1);
		e8(e, 0x7c);
		e8(e, 0x48);
		e8(e, op);
	}
	at_r14(e, n, ZMM(n)); /* EVEX scales short displacements only */
}

static void move_mask(struct emit *e, unsigned op, unsigned n)
{
	e8(e, 0xc4);
	e8(e, 0xc1);
	e8(e, host_cpu.avx512bw ? 0xf8 : 0x78); /* KMOVQ, KMOVW */
	e8(e, op);
	at_r14(e, n, offsetof(struct engine_fpu, k) + 8 * n);
}

/* jrcxz over a jump that is patched later: goes there if rcx is not 0. */
static uint32_t jump_unless_zero(struct emit *e)
{
	e_jrcxz(e, 5);
	return e_jmp(e, 0);
}

/* Registers 16..31 and the masks, if any block names them. */
static void emit_wide(struct emit *e, bool store)
{
	uint32_t over;

	if (host_cpu.width < 64)
		return;
	e_gs(e, OP_MOV_LOAD, true, H_RCX, JIT_OFF(vector_wide));
	over = e_jmp_if_zero(e);
	for (unsigned n = 16; n < 32; n++)
		move_vector(e, store ? OP_VMOVUPS_ST : OP_VMOVUPS, 64, n);
	for (unsigned n = 0; n < 8; n++)
		move_mask(e, store ? 0x91 : 0x90, n);
	jit_patch(e->j, over, e_here(e));
}

static void vzeroupper(struct emit *e)
{
	e8(e, 0xc5);
	e8(e, 0xf8);
	e8(e, 0x77);
}

/* xmm `acc` = some bit of bytes [from, from + len) of registers 0..15, then rcx of its halves. */
static void emit_upper_or(struct emit *e, unsigned acc, unsigned from, bool wide)
{
	for (unsigned n = 0; n < 16; n++) {
		vex(e, wide, n ? OP_VORPS : OP_VMOVUPS, acc, n ? acc : 0, true);
		at_r14(e, acc, ZMM(n) + from);
	}
	if (wide) { /* vextractf128 xmm2, acc, 1; vorps acc, acc, xmm2 */
		e8(e, 0xc4);
		e8(e, 0xe3);
		e8(e, 0x7d);
		e8(e, OP_VEXTRACTF128);
		e8(e, 0xc0 | acc << 3 | 2);
		e8(e, 1);
		vex(e, false, OP_VORPS, acc, acc, false);
		e8(e, 0xc0 | acc << 3 | 2);
	}
	vex(e, false, OP_VMOVHLPS, 2, acc, false); /* xmm2 = high half of acc */
	e8(e, 0xc0 | 2 << 3 | acc);
	vex(e, false, OP_VORPS, acc, acc, false);
	e8(e, 0xc0 | acc << 3 | 2);
}

/* vmovq rcx, xmm */
static void emit_to_rcx(struct emit *e, unsigned n)
{
	e8(e, 0xc4);
	e8(e, 0xe1);
	e8(e, 0xf9);
	e8(e, 0x7e);
	e8(e, 0xc0 | n << 3 | H_RCX);
}

static void move_first(struct emit *e, unsigned op, unsigned width)
{
	for (unsigned n = 0; n < 16; n++)
		move_vector(e, op, width, n);
}

/*
 * Registers 0..15, no wider than they are in use: upper parts that are zero are left in their initial state, for else
 * every legacy instruction would have to merge into its destination.
 */
static void emit_load_first(struct emit *e)
{
	uint32_t zmm = 0, ymm, end = 0;

	if (host_cpu.width == 16) {
		move_first(e, OP_VMOVUPS, 16);
		return;
	}
	emit_upper_or(e, 0, 16, false);
	if (host_cpu.width == 64)
		emit_upper_or(e, 1, 32, true);
	vzeroupper(e);
	if (host_cpu.width == 64) {
		emit_to_rcx(e, 1);
		zmm = jump_unless_zero(e);
	}
	emit_to_rcx(e, 0);
	ymm = jump_unless_zero(e);
	move_first(e, OP_VMOVUPS, 16);
	end = e_jmp(e, 0);
	jit_patch(e->j, ymm, e_here(e));
	move_first(e, OP_VMOVUPS, 32);
	if (host_cpu.width == 64) {
		uint32_t ymm_end = e_jmp(e, 0);

		jit_patch(e->j, zmm, e_here(e));
		move_first(e, OP_VMOVUPS, 64);
		jit_patch(e->j, ymm_end, e_here(e));
	}
	jit_patch(e->j, end, e_here(e));
}

static void set_vector_out(struct emit *e, uint32_t v)
{
	e8(e, 0x65);
	e8(e, 0x48);
	e8(e, 0xc7);
	e8(e, 0x04);
	e8(e, 0x25);
	e32(e, JIT_OFF(vector_out));
	e32(e, v);
}

/* MXCSR too, if it is not the guest's already: fpu_live. */
static void emit_load_vectors(struct emit *e)
{
	e_gs(e, OP_MOV_LOAD, true, H_R14, CPU_OFF(fpu));
	emit_load_first(e);
	emit_wide(e, false);
	e8(e, 0x41); /* movzx ecx, byte [r14 + live] */
	e8(e, 0x0f);
	e8(e, 0xb6);
	at_r14(e, H_RCX, offsetof(struct engine_fpu, live));
	e_jrcxz(e, 2);
	e8(e, 0xeb); /* jmp short over all that loads MXCSR */
	e8(e, 8 + 8 + 8);
	legacy_r14(e, 0xae, 3, offsetof(struct engine_fpu, host_mxcsr)); /* stmxcsr */
	legacy_r14(e, 0xae, 2, offsetof(struct engine_fpu, mxcsr));	 /* ldmxcsr */
	e8(e, 0x41);							 /* mov byte, 1 */
	e8(e, 0xc6);
	at_r14(e, 0, offsetof(struct engine_fpu, live));
	e8(e, 1);
	set_vector_out(e, 0);
	e8(e, 0xc3);
}

/* Where flags and registers are saved already. All that the host has of registers 0..15 counts: legacy instructions
 * leave the upper parts alone. Then C code may run, which pays if they are in use: VZEROUPPER. */
static void emit_save_vectors(struct emit *e)
{
	uint32_t out;

	e_gs(e, OP_MOV_LOAD, true, H_RCX, JIT_OFF(vector_out));
	out = jump_unless_zero(e);
	e_gs(e, OP_MOV_LOAD, true, H_R14, CPU_OFF(fpu));
	move_first(e, OP_VMOVUPS_ST, host_cpu.width);
	emit_wide(e, true);
	if (host_cpu.width > 16)
		vzeroupper(e);
	set_vector_out(e, 1);
	jit_patch(e->j, out, e_here(e));
}

/* -- Ways between the two -- */

static const uint8_t enter_push[] = {0x53, 0x55, 0x41, 0x54, 0x41,
				     0x55, 0x41, 0x56, 0x41, 0x57, /* rbx rbp r12..15 */
				     0x48, 0x83, 0xec, 0x08};
static const uint8_t leave_pop[] = {0x48, 0x83, 0xc4, 0x08, 0x41, 0x5f, 0x41, 0x5e,
				    0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3};

/* call gs:[fn](self, site or block) */
static void emit_call(struct emit *e, uint32_t fn)
{
	e_gs(e, OP_MOV_LOAD, true, H_RDI, JIT_OFF(self));
	e_gs(e, OP_MOV_LOAD, false, H_RSI, JIT_OFF(slow_site));
	e8(e, 0x65);
	e8(e, 0xff);
	e8(e, 2 << 3 | 4);
	e8(e, 0x25);
	e32(e, fn);
	e_rr(e, 0x85, true, H_RAX, H_RAX);
}

/* To rax. */
static void emit_go(struct emit *e)
{
	e_rr(e, OP_MOV_STORE, true, H_RAX, H_R15);
	emit_restore(e);
	e8(e, 0x41); /* jmp r15 */
	e8(e, 0xff);
	e8(e, 0xe0 | (H_R15 & 7));
}

/*
 * Asks `first`, which leaves the guest's vector registers where they are; the jump that is taken if it finds the way. Else
 * `then`, and on if that does.
 */
static uint32_t emit_ask(struct emit *e, uint32_t first, uint32_t then, uint32_t leave)
{
	uint32_t found;

	emit_call(e, first);
	found = e_jcc(e, 5, 0);
	emit_save_vectors(e);
	emit_call(e, then);
	e_jcc(e, 4, leave);
	return found;
}

/*
 * ecx = block: as emit_slow, but no site is looked at, for there is one of these for each block in each epoch; and it counts
 * on no vector state.
 */
static void emit_head(struct emit *e, uint32_t leave)
{
	uint32_t again;

	emit_save(e);
	e_gs(e, OP_MOV_STORE, false, H_RCX, JIT_OFF(slow_site));
	again = emit_ask(e, JIT_OFF(again), JIT_OFF(head_helper), leave);
	jit_patch(e->j, again, e_here(e));
	emit_go(e);
}

/* ecx = site, r14 = linear address; goes on where C says, or leaves. */
static void emit_slow(struct emit *e, uint32_t leave)
{
	uint32_t filled, load, go;

	emit_save(e);
	e_gs(e, OP_MOV_STORE, false, H_RCX, JIT_OFF(slow_site));
	e_gs(e, OP_MOV_STORE, true, H_R14, JIT_OFF(lin));
	filled = emit_ask(e, JIT_OFF(fill), JIT_OFF(helper), leave);
	e_gs(e, OP_MOV_LOAD, false, H_RCX, JIT_OFF(vector_want));
	load = jump_unless_zero(e);
	go = e_here(e);
	jit_patch(e->j, filled, go);
	emit_go(e);
	jit_patch(e->j, load, e_here(e));
	e8(e, 0xe8);
	e32(e, e->j->load_vectors - (e_here(e) + 4));
	e_jmp(e, go);
}

void jit_make_thunks(struct engine_cpu *c)
{
	struct jit *j = c->jit;
	struct emit e = {.j = j, .p = j->rw, .end = j->rw + 4096};
	uint32_t leave;

	/* void enter(c, code): the stack is aligned for calls from here on */
	e_bytes(&e, enter_push, sizeof(enter_push));
	e_gs(&e, OP_MOV_STORE, true, H_RSI, JIT_OFF(enter_target));
	emit_restore(&e);
	e_jmp_gs(&e, JIT_OFF(enter_target));
	/* exit: ecx = number of the exit */
	j->exit_thunk = (uint64_t)j->rx + e_here(&e);
	emit_save(&e);
	e_gs(&e, OP_MOV_STORE, false, H_RCX, JIT_OFF(exit_id));
	emit_save_vectors(&e);
	leave = e_here(&e);
	e_bytes(&e, leave_pop, sizeof(leave_pop));
	j->load_vectors = e_here(&e);
	emit_load_vectors(&e);
	j->slow_thunk = (uint64_t)j->rx + e_here(&e);
	emit_slow(&e, leave);
	j->head_thunk = (uint64_t)j->rx + e_here(&e);
	emit_head(&e, leave);
	base_bug_on(e.full);
	j->enter = (void (*)(struct engine_cpu *, uint64_t))(uint64_t)j->rx;
	j->used = j->thunks_end = (e_here(&e) + 63) & ~63U;
}
