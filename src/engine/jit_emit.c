/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Host code as bytes: see jit_emit.h and SDM 2A, chapter 2. */
#include "engine/jit_emit.h"

static void rex(struct emit *e, bool w, unsigned reg, unsigned index, unsigned base)
{
	e8(e, 0x40 | (unsigned)w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3);
}

static void opcode(struct emit *e, unsigned op)
{
	if (op > 0xff)
		e8(e, op >> 8);
	e8(e, op & 0xff);
}

void e_gs(struct emit *e, unsigned op, bool w, unsigned reg, uint32_t off)
{
	e8(e, 0x65);
	rex(e, w, reg, 0, 0);
	opcode(e, op);
	e8(e, (reg & 7) << 3 | 4);
	e8(e, 0x25);
	e32(e, off);
}

void e_gs_index(struct emit *e, unsigned reg, unsigned index, uint32_t off)
{
	e8(e, 0x65);
	rex(e, true, reg, index, 0);
	e8(e, OP_MOV_LOAD);
	e8(e, (reg & 7) << 3 | 4);
	e8(e, 3 << 6 | (index & 7) << 3 | 5);
	e32(e, off);
}

void e_rr(struct emit *e, unsigned op, bool w, unsigned reg, unsigned rm)
{
	rex(e, w, reg, 0, rm);
	opcode(e, op);
	e8(e, 3 << 6 | (reg & 7) << 3 | (rm & 7));
}

void e_lea_full(struct emit *e, bool w, bool size16, unsigned reg, int base, int index, unsigned scale,
		int32_t disp)
{
	unsigned mod = base < 0 || (!disp && (base & 7) != 5) ? 0 : disp == (int8_t)disp ? 1 : 2;

	if (size16)
		e8(e, 0x66);
	rex(e, w, reg, index < 0 ? 0 : (unsigned)index, base < 0 ? 0 : (unsigned)base);
	e8(e, OP_LEA);
	if (index < 0 && base >= 0 && (base & 7) != 4) {
		e8(e, mod << 6 | (reg & 7) << 3 | (unsigned)(base & 7));
	} else {
		e8(e, mod << 6 | (reg & 7) << 3 | 4);
		e8(e, scale << 6 | (index < 0 ? 4 : (unsigned)(index & 7)) << 3 |
			  (base < 0 ? 5 : (unsigned)(base & 7)));
	}
	if (mod == 1)
		e8(e, (uint8_t)disp);
	else if (mod == 2 || base < 0)
		e32(e, (uint32_t)disp);
}

void e_not(struct emit *e, unsigned reg)
{
	rex(e, true, 0, 0, reg);
	e8(e, 0xf7);
	e8(e, 0xd0 | (reg & 7));
}

void e_mov8(struct emit *e, unsigned reg, unsigned rm)
{
	e_rr(e, 0x8a, false, reg, rm);
}

/* VEX.LZ.F2.0F3A.W1 F0 /r ib */
void e_rorx(struct emit *e, unsigned reg, unsigned src, unsigned by)
{
	e8(e, 0xc4);
	e8(e, (reg >> 3 ? 0 : 0x80) | 0x40 | (src >> 3 ? 0 : 0x20) | 3);
	e8(e, 0x80 | 15 << 3 | 3);
	e8(e, 0xf0);
	e8(e, 0xc0 | (reg & 7) << 3 | (src & 7));
	e8(e, by);
}

void e_lea(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
	e_lea_full(e, true, false, reg, (int)base, -1, 0, disp);
}

void e_mov_imm(struct emit *e, unsigned reg, uint64_t imm)
{
	if (imm == (uint32_t)imm) {
		if (reg >> 3)
			e8(e, 0x41);
		e8(e, 0xb8 | (reg & 7));
		e32(e, (uint32_t)imm);
	} else if (imm == (uint64_t)(int64_t)(int32_t)imm) {
		rex(e, true, 0, 0, reg);
		e8(e, 0xc7);
		e8(e, 0xc0 | (reg & 7));
		e32(e, (uint32_t)imm);
	} else {
		rex(e, true, 0, 0, reg);
		e8(e, 0xb8 | (reg & 7));
		e64(e, imm);
	}
}

/* VEX.LZ.pp.0F38.W1 F5 /r: reg, vvvv, r/m */
static void pext_pdep(struct emit *e, unsigned pp, unsigned reg, unsigned src, uint32_t off)
{
	e8(e, 0x65);
	e8(e, 0xc4);
	e8(e, (reg >> 3 ? 0 : 0x80) | 0x40 | 0x20 | 2);
	e8(e, 0x80 | (~src & 15) << 3 | pp);
	e8(e, 0xf5);
	e8(e, (reg & 7) << 3 | 4);
	e8(e, 0x25);
	e32(e, off);
}

void e_pext(struct emit *e, unsigned reg, unsigned src, uint32_t off)
{
	pext_pdep(e, 2, reg, src, off);
}

void e_pdep(struct emit *e, unsigned reg, unsigned src, uint32_t off)
{
	pext_pdep(e, 3, reg, src, off);
}

/* VEX.LZ.pp.0F38.W1 F7 /r */
static void shift_x(struct emit *e, unsigned pp, unsigned reg, unsigned rm, unsigned count)
{
	e8(e, 0xc4);
	e8(e, (~reg >> 3 & 1) << 7 | 0x40 | (~rm >> 3 & 1) << 5 | 2);
	e8(e, 0x80 | (~count & 15) << 3 | pp);
	e8(e, 0xf7);
	e8(e, 3 << 6 | (reg & 7) << 3 | (rm & 7));
}

void e_sarx(struct emit *e, unsigned reg, unsigned rm, unsigned count)
{
	shift_x(e, 2, reg, rm, count);
}

void e_shlx(struct emit *e, unsigned reg, unsigned rm, unsigned count)
{
	shift_x(e, 1, reg, rm, count);
}

void e_jmp_gs(struct emit *e, uint32_t off)
{
	e8(e, 0x65);
	e8(e, 0xff);
	e8(e, 4 << 3 | 4);
	e8(e, 0x25);
	e32(e, off);
}

void e_leave(struct emit *e, uint32_t n, uint32_t off)
{
	e8(e, 0xb8 | H_RCX);
	e32(e, n);
	e_jmp_gs(e, off);
}

uint32_t e_jmp(struct emit *e, uint32_t to)
{
	uint32_t at;

	e8(e, 0xe9);
	at = e_here(e);
	e32(e, to - (at + 4));
	return at;
}

uint32_t e_jmp_if_zero(struct emit *e)
{
	e_jrcxz(e, 2);
	e_bytes(e, "\xeb\x05", 2); /* jmp short over the next */
	return e_jmp(e, 0);
}

uint32_t e_jcc(struct emit *e, unsigned cc, uint32_t to)
{
	uint32_t at;

	e8(e, 0x0f);
	e8(e, 0x80 | cc);
	at = e_here(e);
	e32(e, to - (at + 4));
	return at;
}

void e_operand(struct emit *e, unsigned reg, const struct place_of *at, bool disp8)
{
	unsigned mod;

	if (at->base < 0) {
		e8(e, (reg & 7) << 3 | 4);
		e8(e, 0x25);
		e32(e, (uint32_t)at->disp);
		return;
	}
	mod = !at->disp && (at->base & 7) != 5 ? 0 : disp8 && at->disp == (int8_t)at->disp ? 1 : 2;

	e8(e, mod << 6 | (reg & 7) << 3 | 4);
	e8(e, (unsigned)(at->index & 7) << 3 | (unsigned)(at->base & 7));
	if (mod == 1)
		e8(e, (uint8_t)at->disp);
	if (mod == 2)
		e32(e, (uint32_t)at->disp);
}

static void mem(struct emit *e, unsigned op, bool w, unsigned reg, const struct place_of *at)
{
	rex(e, w, reg, (unsigned)at->index, (unsigned)at->base);
	opcode(e, op);
	e_operand(e, reg, at, true);
}

void e_load_size(struct emit *e, unsigned reg, const struct place_of *at, unsigned size)
{
	mem(e, size == 2 ? OP_MOVZX16 : OP_MOV_LOAD, size == 8, reg, at);
}

void e_store_size(struct emit *e, unsigned reg, const struct place_of *at, unsigned size)
{
	if (size == 2)
		e8(e, 0x66);
	mem(e, OP_MOV_STORE, size == 8, reg, at);
}

void e_load(struct emit *e, unsigned reg, const struct place_of *at)
{
	e_load_size(e, reg, at, 8);
}

void e_store(struct emit *e, unsigned reg, const struct place_of *at)
{
	e_store_size(e, reg, at, 8);
}
