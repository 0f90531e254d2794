/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * REP MOVS and REP STOS, forwards, up to 4,096 elements that lie in one page each way: the host's instruction on host
 * addresses. All else is the interpreter's.
 *
 *	start	count and direction; the pages are looked up (r14, r15: what is added to RSI and RDI)
 *	turn	RSI and RDI become host addresses, guest RCX goes to rcx
 *	rep	the instruction, a window of its own
 *	back	RSI and RDI become the guest's again, and so does RCX: what a revocation left goes to start
 *
 * At each point it is known what RSI and RDI are, so a revocation, which may come at any, finds the way back: before `turn`
 * to the start, in `rep` by way of `back`.
 */
#include "engine/jit_emit.h"

struct string {
	bool movs;
	unsigned log; /* of the element's size */
};

/* -- Parts -- */

/* Returns the jump that a count of 0 takes. */
static uint32_t emit_start(struct making *m)
{
	struct jit_site *s = jit_site_new(m, SITE_CALL, 0);
	struct emit *e = &m->e;
	uint32_t idle;

	e_rr(e, OP_MOV_STORE, true, H_GUEST_RCX, H_RCX);
	idle = e_jmp_if_zero(e);
	e_lea(e, H_RCX, H_RCX, -1);
	e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_page));
	jit_need_zero(m, s);
	e_gs(e, OP_MOV_LOAD, true, H_RCX, CPU_OFF(rflags));
	e_pext(e, H_RCX, H_RCX, JIT_OFF(mask_df));
	jit_need_zero(m, s);
	return idle;
}

/* r15 = what is added to guest register `n` for all of its elements: the last byte's page is the first one's. */
static struct jit_site *emit_page(struct making *m, const struct string *t, int n, uint32_t start)
{
	struct address a = {.base = n, .index = -1};
	struct jit_site *s = jit_site_new(m, n == RDI ? SITE_WRITE : SITE_READ, 1);
	struct look l = jit_columns(m, n == RDI);
	int host = jit_host_of(n);
	struct emit *e = &m->e;

	s->again = start;
	e_lea_full(e, true, false, H_R14, host, H_GUEST_RCX, t->log, -1);
	jit_probe(m, (unsigned)host, l.neg, 0);
	e_jrcxz(e, 5);
	jit_jump_slow(m, s, &a, 0);
	e_gs_index(e, H_R15, H_R15, l.add);
	return s;
}

/* reg -= r, which it changes. */
static void emit_less(struct emit *e, unsigned reg, unsigned r)
{
	e_not(e, r);
	e_lea_full(e, true, false, reg, (int)reg, (int)r, 0, 1);
}

static void emit_back(struct making *m, const struct string *t)
{
	emit_less(&m->e, H_RDI, H_R15);
	if (t->movs)
		emit_less(&m->e, H_RSI, H_R14);
	e_rr(&m->e, OP_MOV_STORE, true, H_RCX, H_GUEST_RCX);
}

/* RSI and RDI to host addresses, which ends the window of the last look-up; the site between the two. */
static struct jit_site *emit_turn(struct making *m, const struct string *t, struct jit_site *look)
{
	struct jit_site *half = NULL;

	if (t->movs) {
		e_lea_full(&m->e, true, false, H_RSI, H_RSI, H_R14, 0, 0);
		look->end = e_here(&m->e);
		look = half = jit_site_new(m, SITE_CALL, 0);
	}
	e_lea_full(&m->e, true, false, H_RDI, H_RDI, H_R15, 0, 0);
	look->end = e_here(&m->e);
	return half;
}

static struct jit_site *emit_rep(struct making *m, const struct string *t)
{
	struct jit_site *s = jit_site_new(m, SITE_CALL, 0);

	if (t->log == 1)
		e8(&m->e, 0x66);
	e8(&m->e, 0xf3);
	if (t->log == 3)
		e8(&m->e, 0x48);
	e8(&m->e, (t->movs ? 0xa4 : 0xaa) | (t->log > 0));
	s->end = s->again = e_here(&m->e);
	return s;
}

/* The host has lost the page: with the guest's registers to the interpreter. */
static void emit_fault(struct making *m, const struct string *t, struct jit_site *rep)
{
	rep->slow = e_here(&m->e);
	emit_back(m, t);
	e_leave(&m->e, (uint32_t)(rep - m->j->site), JIT_OFF(slow_thunk));
}

/* -- The instruction -- */

static bool is_ours(const struct making *m, struct string *t)
{
	const ZydisDecodedInstruction *in = &m->d.in;

	if (in->meta.category != ZYDIS_CATEGORY_STRINGOP || in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return false;
	t->movs = in->opcode == 0xa4 || in->opcode == 0xa5;
	t->log = (unsigned)__builtin_ctz(m->d.op[0].size / 8);
	return (t->movs || in->opcode == 0xaa || in->opcode == 0xab) && in->address_width == 64 &&
	       !(m->b->key & JIT_KEY_MODE) && (in->attributes & ZYDIS_ATTRIB_HAS_REP) &&
	       !(in->attributes & (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REPNE)) &&
	       (!t->movs ||
		(m->d.op[1].mem.segment != ZYDIS_REGISTER_FS && m->d.op[1].mem.segment != ZYDIS_REGISTER_GS));
}

bool jit_string_op(struct making *m)
{
	uint32_t start = e_here(&m->e), idle;
	struct jit_site *look, *half, *rep;
	struct emit *e = &m->e;
	struct string t;
	uint8_t *over;

	if (!is_ours(m, &t))
		return false;
	idle = emit_start(m);
	if (t.movs) {
		look = emit_page(m, &t, RSI, start);
		e_gs(e, OP_MOV_STORE, true, H_R15, JIT_OFF(tmp));
		look->end = e_here(e);
	}
	look = emit_page(m, &t, RDI, start);
	if (t.movs)
		e_gs(e, OP_MOV_LOAD, true, H_R14, JIT_OFF(tmp));
	e_rr(e, OP_MOV_STORE, true, H_GUEST_RCX, H_RCX);
	half = emit_turn(m, &t, look);
	rep = emit_rep(m, &t);
	emit_back(m, &t);
	e_jrcxz(e, 0);
	over = e->p - 1;
	e_jmp(e, start);
	if (half) {
		half->again = half->slow = e_here(e);
		emit_less(e, H_RSI, H_R14);
		e_jmp(e, start);
	}
	emit_fault(m, &t, rep);
	if (m->e.full)
		return true;
	*over = (uint8_t)(e->p - over - 1);
	jit_patch(m->j, idle, e_here(e));
	return true;
}
