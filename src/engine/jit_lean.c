/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Instructions that generated code leaves to C but not to a handler: the way between programs and the kernel. Like jit_fill
 * this runs with the guest's vector registers in the host's, so the file is built without them, and without sanitizers. An
 * instruction that is not of the plain kind is left alone: the handler comes next. What it must leave behind is exactly what
 * the handler would (fastcall.c, mode_update).
 */
#include "engine/jit.h"
#include "engine/system.h"

static void set_flags(struct engine_cpu *c, uint64_t flags)
{
	c->rflags = flags | BIT(1);
	jit_flags_out(c);
}

/* The block at rip, of the table that generated code looks up; 0: there is none. Its head does the rest. */
static uint64_t entry_of(struct jit *j, unsigned key, uint64_t rip)
{
	unsigned n = j->table_of[key], i = jit_jump_index(rip, 0);

	return n && j->jump[n - 1].at[i].not_rip == ~rip ? j->jump[n - 1].at[i].entry : 0;
}

static void set_segment(struct engine_cpu *c, enum seg s, uint16_t sel, uint16_t attr)
{
	struct engine_seg *d = &c->seg[s];

	d->base = 0;
	d->limit = 0xffffffff;
	d->sel = sel;
	d->attr = attr;
	d->unusable = false;
}

/* Between 64-bit code and 64-bit code: what mode_update would find. */
static void set_level(struct engine_cpu *c, unsigned cpl, unsigned class)
{
	c->cpl = (uint8_t)cpl;
	c->stack32 = true;
	c->seg_flat[CS] = false;
	c->seg_flat[SS] = true;
	c->tlb_key = (c->tlb_key & ~(uint64_t)JIT_KEY_CLASS) | class;
	fetch_forget(c);
}

/* jit->lin: the RIP behind it. */
static uint64_t lean_syscall(struct engine_cpu *c, unsigned key)
{
	uint64_t flags = jit_flags(c), now = flags & ~(c->sfmask | FLAG_RF), entry;
	bool smap = (c->cr4 & CR4_SMAP) && !(now & FLAG_AC);
	unsigned class = smap ? JIT_CLASS_SMAP : JIT_CLASS_SUPER;
	uint16_t sel = (c->star >> 32) & 0xfffc;

	if (!(c->efer & EFER_SCE) || !c->code64)
		return 0;
	entry = entry_of(c->jit, (key & ~(unsigned)JIT_KEY_CLASS) | JIT_KEY_RING0 | class, c->lstar);
	if (!entry)
		return 0;
	c->gpr[RCX] = c->jit->lin;
	c->gpr[R11] = flags & ~FLAG_RF;
	set_segment(c, CS, sel, FAST_CODE64);
	set_segment(c, SS, sel + 8, FAST_DATA);
	set_level(c, 0, class);
	set_flags(c, now);
	return entry;
}

static uint64_t lean_sysret(struct engine_cpu *c, unsigned key)
{
	uint64_t flags = c->gpr[R11] & SYSRET_FLAGS, rip = c->gpr[RCX], entry;
	uint16_t sel = c->star >> 48;

	/* With an interrupt that waits for IF the handler has to tell. */
	if (!(c->efer & EFER_SCE) || !c->code64 || c->cpl || !is_canonical(rip) || c->want_window ||
	    flags & (FLAG_TF | FLAG_AC))
		return 0;
	entry = entry_of(c->jit, key & ~(unsigned)(JIT_KEY_CLASS | JIT_KEY_RING0), rip);
	if (!entry)
		return 0;
	set_segment(c, CS, (uint16_t)((sel + 16) | 3), FAST_CODE64 | FAST_DPL3);
	set_segment(c, SS, (uint16_t)((sel + 8) | 3), FAST_DATA | FAST_DPL3);
	set_level(c, 3, JIT_CLASS_USER);
	set_flags(c, flags);
	return entry;
}

uint64_t jit_lean(struct engine_cpu *c, const struct jit_site *s)
{
	unsigned key = c->jit->block[s->block].key;

	return s->lean == LEAN_SYSCALL ? lean_syscall(c, key) : lean_sysret(c, key);
}
