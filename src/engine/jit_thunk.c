/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The thunks by which generated code is entered from C, leaves to C, and calls it. */
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

static const uint8_t enter_push[] = {0x53, 0x55, 0x41, 0x54, 0x41,
				     0x55, 0x41, 0x56, 0x41, 0x57, /* rbx rbp r12..15 */
				     0x48, 0x83, 0xec, 0x08};
static const uint8_t leave_pop[] = {0x48, 0x83, 0xc4, 0x08, 0x41, 0x5f, 0x41, 0x5e,
				    0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3};

static void emit_bytes(struct emit *e, const uint8_t *b, size_t n)
{
	for (size_t k = 0; k < n; k++)
		e8(e, b[k]);
}

void jit_make_thunks(struct engine_cpu *c)
{
	struct jit *j = c->jit;
	struct emit e = {.j = j, .p = j->rw, .end = j->rw + 4096};
	uint32_t leave;

	/* void enter(c, code): the stack is aligned for calls from here on */
	emit_bytes(&e, enter_push, sizeof(enter_push));
	e_gs(&e, OP_MOV_STORE, true, H_RSI, JIT_OFF(enter_target));
	emit_restore(&e);
	e_jmp_gs(&e, JIT_OFF(enter_target));
	/* exit: ecx = number of the exit */
	j->exit_thunk = (uint64_t)j->rx + e_here(&e);
	emit_save(&e);
	e_gs(&e, OP_MOV_STORE, false, H_RCX, JIT_OFF(exit_id));
	leave = e_here(&e);
	emit_bytes(&e, leave_pop, sizeof(leave_pop));
	/* slow: ecx = site, r14 = linear address; goes on where jit_slow says */
	j->slow_thunk = (uint64_t)j->rx + e_here(&e);
	emit_save(&e);
	e_gs(&e, OP_MOV_STORE, true, H_R14, JIT_OFF(lin));
	e_gs(&e, OP_MOV_LOAD, true, H_RDI, JIT_OFF(self));
	e_rr(&e, OP_MOV_STORE, false, H_RCX, H_RSI);
	e8(&e, 0x65); /* call gs:[helper] */
	e8(&e, 0xff);
	e8(&e, 2 << 3 | 4);
	e8(&e, 0x25);
	e32(&e, JIT_OFF(helper));
	e_rr(&e, 0x85, true, H_RAX, H_RAX);
	e_jcc(&e, 4, leave);
	e_rr(&e, OP_MOV_STORE, true, H_RAX, H_R15);
	emit_restore(&e);
	e8(&e, 0x41);
	e8(&e, 0xff);
	e8(&e, 0xe0 | (H_R15 & 7));
	base_bug_on(e.full);
	j->enter = (void (*)(struct engine_cpu *, uint64_t))(uint64_t)j->rx;
	j->used = j->thunks_end = (e_here(&e) + 63) & ~63U;
}
