/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control, debug and extended control registers, as the guest writes them (SDM 3A 2.5, 2.6, 17.2). */
#include "engine/fpu.h"
#include "engine/system.h"

static _Noreturn void gp0(struct engine_cpu *c)
{
	engine_raise_err(c, EXC_GP, 0);
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

bool engine_pae_paging(const struct engine_cpu *c)
{
	return pae_paging(c->cr0, c->cr4, c->efer);
}

/* -- CR0 -- */

#define CR0_KNOWN \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

void control_set_cr0(struct engine_cpu *c, uint64_t val)
{
	uint64_t old = c->cr0, efer = c->efer, pdptr[4];
	bool load;

	if (val >> 32)
		gp0(c);
	val = (val & CR0_KNOWN) | CR0_ET;
	if (((val & CR0_NW) && !(val & CR0_CD)) || ((val & CR0_PG) && !(val & CR0_PE)))
		gp0(c);
	if ((val & CR0_PG) && !(old & CR0_PG) && (efer & EFER_LME)) {
		if (!(c->cr4 & CR4_PAE) || (c->seg[CS].attr & SEG_L))
			gp0(c);
		efer |= EFER_LMA;
	}
	if (!(val & CR0_PG) && (old & CR0_PG)) {
		if (c->code64 || (c->cr4 & CR4_PCIDE))
			gp0(c);
		efer &= ~EFER_LMA;
	}
	load = pae_paging(val, c->cr4, efer) && ((old ^ val) & (CR0_PG | CR0_CD | CR0_NW));
	if (load && !mmu_load_pdptrs(c, c->cr3, pdptr))
		gp0(c);
	if (load)
		memcpy(c->pdptr, pdptr, sizeof(pdptr));
	c->cr0 = val;
	c->efer = efer;
	mode_update(c);
	if ((old ^ val) & (CR0_PG | CR0_WP | CR0_PE))
		mmu_flush_all(c);
}

/* -- CR3 -- */

void control_set_cr3(struct engine_cpu *c, uint64_t val)
{
	uint64_t pdptr[4];
	bool noflush = false;

	if (c->long_mode && (c->cr4 & CR4_PCIDE)) {
		noflush = val >> 63;
		val &= ~BIT(63);
	}
	if (val >> (c->feat.maxphyaddr ? c->feat.maxphyaddr : 36))
		gp0(c);
	if (engine_pae_paging(c)) {
		if (!mmu_load_pdptrs(c, val, pdptr))
			gp0(c);
		memcpy(c->pdptr, pdptr, sizeof(pdptr));
	}
	c->cr3 = val;
	mmu_new_cr3(c, noflush);
}

/* -- CR4 -- */

bool control_cr4_valid(const struct engine_cpu *c, uint64_t val)
{
	return !(val & ~(c->feat.cr4_allowed & ~(CR4_LA57 | CR4_PKE)));
}

void control_set_cr4(struct engine_cpu *c, uint64_t val)
{
	const uint64_t pdptr_bits = CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP;
	uint64_t old = c->cr4, pdptr[4];
	bool load;

	if (!control_cr4_valid(c, val) || (c->long_mode && !(val & CR4_PAE)))
		gp0(c);
	if ((val & CR4_PCIDE) && !(old & CR4_PCIDE) && (!c->long_mode || (c->cr3 & 0xfff)))
		gp0(c);
	load = pae_paging(c->cr0, val, c->efer) && ((old ^ val) & pdptr_bits);
	if (load && !mmu_load_pdptrs(c, c->cr3, pdptr))
		gp0(c);
	if (load)
		memcpy(c->pdptr, pdptr, sizeof(pdptr));
	c->cr4 = val;
	if ((old ^ val) & (pdptr_bits | CR4_SMAP | CR4_PCIDE))
		mmu_flush_all(c);
	mode_update(c);
	if ((old ^ val) & CR4_DE)
		debug_update(c);
}

/* -- Instructions: control registers -- */

static void write_cr8(struct engine_cpu *c, uint64_t val)
{
	if (val & ~15ULL)
		gp0(c);
	PORT_CALL(c, c->port->cr8(c->ctx, &val, true));
}

void op_mov_from_cr(struct engine_cpu *c, const struct insn *i)
{
	uint64_t val = 0;

	require_cpl0(c);
	switch (i->op) {
	case 0: val = c->cr0; break;
	case 2: val = c->cr2; break;
	case 3: val = c->cr3; break;
	case 4: val = c->cr4; break;
	default: PORT_CALL(c, c->port->cr8(c->ctx, &val, false)); break;
	}
	gpr_write(c, i->rm, val, c->code64 ? 8 : 4);
}

void op_mov_to_cr(struct engine_cpu *c, const struct insn *i)
{
	uint64_t val = gpr_read(c, i->rm, c->code64 ? 8 : 4);

	require_cpl0(c);
	switch (i->op) {
	case 0: control_set_cr0(c, val); break;
	case 2: c->cr2 = val; break;
	case 3: control_set_cr3(c, val); break;
	case 4: control_set_cr4(c, val); break;
	default: write_cr8(c, val); break;
	}
}

void op_clts(struct engine_cpu *c, const struct insn *i)
{
	require_cpl0(c);
	c->cr0 &= ~CR0_TS;
}

/* LMSW cannot clear PE. */
void op_lmsw(struct engine_cpu *c, const struct insn *i)
{
	uint64_t val;

	require_cpl0(c);
	val = i->mem ? guest_ld(c, insn_ea(c, i, 2, false), 2) : c->gpr[i->rm];
	val = (c->cr0 & ~14ULL) | (val & 15) | (c->cr0 & CR0_PE);
	control_set_cr0(c, val);
}

void op_smsw(struct engine_cpu *c, const struct insn *i)
{
	if (c->cpl && (c->cr4 & CR4_UMIP))
		gp0(c);
	if (i->mem)
		guest_st(c, insn_ea(c, i, 2, true), c->cr0 & 0xffff, 2);
	else
		gpr_write(c, i->rm, c->cr0, i->opsize);
}

/* -- Instructions: debug registers -- */

/* The number of the register that is meant: DR4 and DR5 are names of DR6 and DR7 unless CR4.DE. */
static unsigned debug_number(struct engine_cpu *c, const struct insn *i)
{
	unsigned n = i->op;

	if (n == 4 || n == 5) {
		if (c->cr4 & CR4_DE)
			engine_raise(c, EXC_UD);
		n += 2;
	}
	require_cpl0(c);
	debug_check_gd(c);
	return n;
}

void op_mov_from_dr(struct engine_cpu *c, const struct insn *i)
{
	unsigned n = debug_number(c, i);
	uint64_t val = n == 6 ? c->dr6 : n == 7 ? c->dr7 : c->dr[n & 3];

	gpr_write(c, i->rm, val, c->code64 ? 8 : 4);
}

void op_mov_to_dr(struct engine_cpu *c, const struct insn *i)
{
	unsigned n = debug_number(c, i);
	uint64_t val = gpr_read(c, i->rm, c->code64 ? 8 : 4);

	if (n >= 6 && val >> 32)
		gp0(c);
	if (n == 6)
		c->dr6 = (val & (15 | DR6_BD | DR6_BS | DR6_BT)) | DR6_FIXED;
	else if (n == 7)
		c->dr7 = (val & DR7_WRITABLE) | DR7_FIXED;
	else
		c->dr[n & 3] = val;
	debug_update(c);
}

/* -- Instructions: XCR0 -- */

void op_xgetbv(struct engine_cpu *c, const struct insn *i)
{
	uint32_t n = c->gpr[RCX];
	uint64_t val;

	if (!(c->cr4 & CR4_OSXSAVE))
		engine_raise(c, EXC_UD);
	if (n > 1)
		gp0(c);
	val = n ? c->xcr0 & fpu_in_use(c->fpu) : c->xcr0;
	c->gpr[RAX] = (uint32_t)val;
	c->gpr[RDX] = val >> 32;
}

void op_xsetbv(struct engine_cpu *c, const struct insn *i)
{
	uint64_t val = (c->gpr[RDX] << 32) | (uint32_t)c->gpr[RAX];

	if (!(c->cr4 & CR4_OSXSAVE))
		engine_raise(c, EXC_UD);
	require_cpl0(c);
	if ((uint32_t)c->gpr[RCX] || engine_set_xcr0(c, val))
		gp0(c);
}
