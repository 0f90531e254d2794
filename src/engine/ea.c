/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Effective and linear addresses, and the stack. */
#include "engine/access.h"

bool is_canonical(uint64_t lin)
{
	return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

_Noreturn void raise_seg(struct engine_cpu *c, unsigned seg)
{
	engine_raise_err(c, seg == SS ? EXC_SS : EXC_GP, 0);
}

/* SDM 3A 3.4.5.1: may a segment of this type be read (written)? Real mode and virtual-8086 mode do not ask.
 */
static bool seg_type_allows(const struct engine_cpu *c, const struct engine_seg *s, bool write)
{
	unsigned type = SEG_TYPE(s->attr);

	if (c->real || c->v86)
		return true;
	if (s->unusable || !(s->attr & SEG_P))
		return false;
	if (type & 8)
		return !write && (type & 2);
	return !write || (type & 2);
}

/* Does [off, off + len) lie within the limit? */
static bool seg_limit_allows(const struct engine_cpu *c, const struct engine_seg *s, uint64_t off,
			     unsigned len)
{
	uint64_t last = off + len - 1;

	if ((SEG_TYPE(s->attr) & 12) == 4 && !c->real && !c->v86)
		return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffff : 0xffff);
	/* Over the end of a 4 GiB segment an access wraps (implementation-specific, SDM 3A 5.3). */
	return last <= s->limit || s->limit == 0xffffffff;
}

uint64_t seg_linear(struct engine_cpu *c, enum seg s, uint64_t off, unsigned len, bool write)
{
	const struct engine_seg *d = &c->seg[s];

	if (c->code64) {
		uint64_t lin = off + (s >= FS ? d->base : 0);

		if (!is_canonical(lin) || !is_canonical(lin + len - 1))
			raise_seg(c, s);
		return lin;
	}
	if (!seg_type_allows(c, d, write) || !seg_limit_allows(c, d, off, len))
		raise_seg(c, s);
	return (uint32_t)(d->base + off);
}

static inline uint64_t offset_mask(const struct insn *i, uint64_t off)
{
	return i->adsize == 8 ? off : i->adsize == 4 ? (uint32_t)off : (uint16_t)off;
}

uint64_t insn_offset(struct engine_cpu *c, const struct insn *i)
{
	return offset_mask(i, ea_offset(c, i));
}

uint64_t insn_ea(struct engine_cpu *c, const struct insn *i, unsigned len, bool write)
{
	return seg_linear(c, i->seg, insn_offset(c, i), len, write);
}

uint64_t insn_part(struct engine_cpu *c, const struct insn *i, unsigned at, unsigned len, bool write)
{
	return seg_linear(c, i->seg, offset_mask(i, ea_offset(c, i) + at), len, write);
}

bool insn_wraps(struct engine_cpu *c, const struct insn *i, unsigned len)
{
	return i->adsize < 8 && insn_offset(c, i) + len > (i->adsize == 2 ? 0x10000 : 1ULL << 32);
}

/* ea_linear for everything but 64-bit addresses in 64-bit mode. */
uint64_t ea_other(struct engine_cpu *c, const struct insn *i, uint64_t off, unsigned len, bool write)
{
	off = offset_mask(i, off);
	if (!c->code64 && c->seg_flat[i->seg] && off <= 0xffffffff - 15)
		return off;
	return seg_linear(c, i->seg, off, len, write);
}

/* -- Stack -- */

static inline uint64_t stack_mask(const struct engine_cpu *c)
{
	return c->code64 ? ~0ULL : c->stack32 ? 0xffffffff : 0xffff;
}

uint64_t stack_get(const struct engine_cpu *c)
{
	return c->gpr[RSP] & stack_mask(c);
}

void stack_set(struct engine_cpu *c, uint64_t rsp)
{
	uint64_t mask = stack_mask(c);

	if (mask == 0xffff)
		c->gpr[RSP] = (c->gpr[RSP] & ~mask) | (rsp & mask);
	else
		c->gpr[RSP] = rsp & mask;
}

void stack_push(struct engine_cpu *c, uint64_t val, unsigned size)
{
	uint64_t sp = (c->gpr[RSP] - size) & stack_mask(c);

	guest_st(c, seg_linear(c, SS, sp, size, true), val, size);
	stack_set(c, sp);
}

uint64_t stack_peek(struct engine_cpu *c, unsigned off, unsigned size)
{
	uint64_t sp = (c->gpr[RSP] + off) & stack_mask(c);

	return guest_ld(c, seg_linear(c, SS, sp, size, false), size);
}
