/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is derived from the registers: the mode, the privilege level, the TLB key, the reasons to be careful.
 */
#include "engine/system.h"

#define RFLAGS_VALID                                                                                     \
	(FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | \
	 FLAG_VIF | FLAG_VIP | FLAG_ID)

/* Real and virtual-8086 mode do not ask for the type. */
static uint64_t room(const struct engine_cpu *c, const struct engine_seg *d, bool write)
{
	unsigned type = SEG_TYPE(d->attr);
	bool code = type & 8, down = (type & 12) == 4;

	if (!c->real && !c->v86 &&
	    (d->unusable || !(d->attr & SEG_P) || down || (code && (write || !(type & 2))) ||
	     (write && !(type & 2))))
		return 0;
	return -((uint64_t)d->limit + 1);
}

void seg_flat_update(struct engine_cpu *c, enum seg s)
{
	const struct engine_seg *d = &c->seg[s];
	unsigned want = SEG_P | SEG_S | 2;

	if (s >= SEGS)
		return;
	c->seg_room[0][s] = room(c, d, false);
	c->seg_room[1][s] = room(c, d, true);
	c->seg_flat[s] =
	    !d->base && d->limit == 0xffffffff && !d->unusable && (d->attr & (SEG_P | SEG_S | 14)) == want;
}

/* Alignment checks of CPL 3 (SDM 3A 6.15, #AC): the TLB is emptied when they begin, see access.c. */
static void align_mode(struct engine_cpu *c)
{
	bool on = c->cpl == 3 && (c->cr0 & CR0_AM) && (c->rflags & FLAG_AC);

	if (on == !!(c->slow & SLOW_AC))
		return;
	c->slow ^= SLOW_AC;
	if (on)
		mmu_flush_all(c);
}

void mode_update(struct engine_cpu *c)
{
	const struct engine_seg *cs = &c->seg[CS], *ss = &c->seg[SS];

	c->real = !(c->cr0 & CR0_PE);
	c->long_mode = c->efer & EFER_LMA;
	c->v86 = !c->real && !c->long_mode && (c->rflags & FLAG_VM);
	c->cpl = c->real ? 0 : c->v86 ? 3 : SEG_DPL(ss->attr);
	c->code64 = c->long_mode && (cs->attr & SEG_L);
	c->code32 = !c->code64 && !c->v86 && (cs->attr & SEG_DB);
	c->stack32 = !c->v86 && (ss->attr & SEG_DB);
	if (c->code64)
		c->mode_key = 64;
	else if (c->code32)
		c->mode_key = 32;
	else
		c->mode_key = c->real || c->v86 ? MODE_REAL : 16;
	c->ip_mask = c->code64 ? ~0ULL : 0xffffffff;
	for (unsigned s = ES; s < SEGS && !c->code64; s++) /* 64-bit code asks for none of it */
		seg_flat_update(c, s);
	align_mode(c);
	mmu_update_key(c);
	fetch_forget(c);
}

void rflags_set(struct engine_cpu *c, uint64_t val)
{
	const uint32_t step = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	uint64_t changed = c->rflags ^ val;
	uint32_t slow = c->slow & ~(SLOW_TF | SLOW_RF);

	c->rflags = (val & RFLAGS_VALID) | BIT(1);
	if ((val & FLAG_TF) || (c->debug_control & step) == step)
		slow |= SLOW_TF;
	if (val & FLAG_RF)
		slow |= SLOW_RF;
	if (unlikely(c->want_window))
		slow |= SLOW_WINDOW;
	c->slow = slow;
	if (changed & FLAG_VM) {
		mode_update(c);
	} else if (changed & FLAG_AC) { /* STAC and CLAC are frequent */
		align_mode(c);
		mmu_update_key(c);
	}
}

void engine_set_smm(struct engine_cpu *c, bool smm)
{
	if (c->smm == smm)
		return;
	c->smm = smm;
	engine_revoke(c);
}
