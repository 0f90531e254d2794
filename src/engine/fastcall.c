/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT: fixed segments, no descriptor is read. Intel's behaviour, but where the
 * guest's CPUID names AMD: SYSCALL works in compatibility mode, and SYSENTER does not exist in long mode.
 */
#include "engine/system.h"

#define CODE32 (SEG_G | SEG_DB | SEG_P | SEG_S | 11)

static bool guest_is_amd(struct engine_cpu *c)
{
	uint32_t regs[4] = {0};

	if (c->port->cpuid(c->ctx, regs) != ENGINE_OK)
		return false;
	return regs[1] == 0x68747541 || regs[1] == 0x6f677948; /* "Auth", "Hygo" */
}

static void enter(struct engine_cpu *c, struct engine_seg cs, struct engine_seg ss, uint64_t rip)
{
	c->seg[SS] = ss;
	c->seg[CS] = cs;
	c->next_rip = rip;
	mode_update(c);
}

void far_syscall(struct engine_cpu *c)
{
	uint16_t sel = (c->star >> 32) & 0xfffc;
	uint64_t flags = c->rflags;

	if (!(c->efer & EFER_SCE) || !c->long_mode || (!c->code64 && !guest_is_amd(c)))
		engine_raise(c, EXC_UD);
	c->gpr[RCX] = c->next_rip;
	c->gpr[R11] = flags & ~FLAG_RF;
	enter(c, seg_fixed(sel, FAST_CODE64), seg_fixed(sel + 8, FAST_DATA), c->code64 ? c->lstar : c->cstar);
	rflags_set(c, flags & ~(c->sfmask | FLAG_RF));
	c->before.tf = c->rflags & FLAG_TF; /* a masked TF does not trap behind it */
}

void far_sysret(struct engine_cpu *c, unsigned opsize)
{
	uint16_t sel = c->star >> 48;
	uint64_t flags = c->gpr[R11] & SYSRET_FLAGS;
	struct engine_seg ss = seg_fixed((sel + 8) | 3, FAST_DATA | FAST_DPL3);

	if (!(c->efer & EFER_SCE) || !c->code64)
		engine_raise(c, EXC_UD);
	if (c->cpl || (opsize == 8 && !control_is_canonical(c, c->gpr[RCX])))
		engine_raise_err(c, EXC_GP, 0);
	if (opsize == 8)
		enter(c, seg_fixed((sel + 16) | 3, FAST_CODE64 | FAST_DPL3), ss, c->gpr[RCX]);
	else
		enter(c, seg_fixed(sel | 3, CODE32 | FAST_DPL3), ss, (uint32_t)c->gpr[RCX]);
	rflags_set(c, flags);
}

void far_sysenter(struct engine_cpu *c)
{
	uint16_t sel = c->sysenter_cs & 0xfffc;
	uint64_t flags = c->rflags & ~(FLAG_VM | FLAG_IF | FLAG_RF);

	if (c->long_mode && guest_is_amd(c))
		engine_raise(c, EXC_UD);
	if (c->real || !sel)
		engine_raise_err(c, EXC_GP, 0);
	c->rflags = flags;
	c->gpr[RSP] = c->long_mode ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
	enter(c, seg_fixed(sel, c->long_mode ? FAST_CODE64 : CODE32), seg_fixed(sel + 8, FAST_DATA),
	      c->long_mode ? c->sysenter_eip : (uint32_t)c->sysenter_eip);
	rflags_set(c, flags);
}

void far_sysexit(struct engine_cpu *c, unsigned opsize)
{
	uint16_t sel = c->sysenter_cs & 0xfffc;
	uint64_t rip = c->gpr[RDX], rsp = c->gpr[RCX];

	if (c->real || c->cpl || !sel)
		engine_raise_err(c, EXC_GP, 0);
	if (opsize == 8) {
		if (!control_is_canonical(c, rip) || !control_is_canonical(c, rsp))
			engine_raise_err(c, EXC_GP, 0);
		sel += 32;
	} else {
		rip = (uint32_t)rip;
		rsp = (uint32_t)rsp;
		sel += 16;
	}
	c->gpr[RSP] = rsp;
	enter(c, seg_fixed(sel | 3, (opsize == 8 ? FAST_CODE64 : CODE32) | FAST_DPL3),
	      seg_fixed((sel + 8) | 3, FAST_DATA | FAST_DPL3), rip);
}
