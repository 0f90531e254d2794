/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors and segment registers (SDM 3A chapter 3, 5.2 to 5.7). */
#include "engine/system.h"

/* -- Descriptors -- */

uint64_t desc_base(const struct desc *d)
{
	uint64_t base = ((d->raw >> 16) & 0xffffff) | ((d->raw >> 32) & 0xff000000);

	return desc_is_seg(d) ? base : base | d->high << 32;
}

uint32_t desc_limit(const struct desc *d)
{
	uint32_t limit = (d->raw & 0xffff) | ((d->raw >> 32) & 0xf0000);

	return d->raw & BIT(55) ? limit << 12 | 0xfff : limit;
}

/* Linear address of byte `off` of the table that sel names; false if [off, off + len) is outside of it. */
static bool table_address(const struct engine_cpu *c, uint16_t sel, unsigned skip, uint64_t *addr)
{
	uint32_t off = (sel & 0xfff8) + skip;
	uint64_t base = c->gdt.base;
	uint32_t limit = c->gdt.limit;

	if (sel & 4) {
		if (c->seg[LDTR].unusable)
			return false;
		base = c->seg[LDTR].base;
		limit = c->seg[LDTR].limit;
	}
	if (off + 7 > limit)
		return false;
	*addr = c->long_mode ? base + off : (uint32_t)(base + off);
	return true;
}

bool desc_read(struct engine_cpu *c, uint16_t sel, struct desc *d)
{
	if (!table_address(c, sel, 0, &d->addr))
		return false;
	d->raw = guest_ld_sys(c, d->addr, 8);
	d->high = 0;
	return true;
}

bool desc_read_high(struct engine_cpu *c, uint16_t sel, struct desc *d)
{
	uint64_t addr, high;

	if (!table_address(c, sel, 8, &addr))
		return false;
	high = guest_ld_sys(c, addr, 8);
	if (high >> 40 & 0x1f)
		return false;
	d->high = (uint32_t)high;
	return true;
}

void desc_set_accessed(struct engine_cpu *c, struct desc *d)
{
	if (d->raw & BIT(40))
		return;
	sys_rmw8(c, d->addr + 5, 0xff, 1);
	d->raw |= BIT(40);
}

void desc_to_seg(const struct desc *d, uint16_t sel, struct engine_seg *out)
{
	*out = (struct engine_seg){
	    .base = desc_base(d),
	    .limit = desc_limit(d),
	    .sel = sel,
	    .attr = desc_attr(d),
	};
}

void seg_make_null(struct engine_seg *s, uint16_t sel)
{
	*s = (struct engine_seg){.sel = sel, .unusable = true};
}

struct engine_seg seg_fixed(uint16_t sel, uint16_t attr)
{
	return (struct engine_seg){.limit = 0xffffffff, .sel = sel, .attr = attr};
}

bool control_is_canonical(const struct engine_cpu *c, uint64_t lin)
{
	return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

bool seg_stack_ok(const struct engine_cpu *c, const struct engine_seg *ss, bool wide, uint64_t off,
		  unsigned len)
{
	uint64_t last = off + len - 1;

	if (wide)
		return control_is_canonical(c, off) && control_is_canonical(c, last);
	if (!c->real && !c->v86 && ss->unusable)
		return false;
	if (!c->real && !(c->rflags & FLAG_VM) && (SEG_TYPE(ss->attr) & 12) == 4)
		return off > ss->limit && last <= (ss->attr & SEG_DB ? 0xffffffff : 0xffff);
	return last <= ss->limit;
}

/* -- Loads -- */

void seg_commit(struct engine_cpu *c, enum seg s, const struct engine_seg *val)
{
	c->seg[s] = *val;
	if (s == CS || s == SS)
		mode_update(c);
	else
		seg_flat_update(c, s);
}

/* Real mode keeps limit and attributes ("unreal" mode); virtual-8086 mode fixes them. */
void seg_set_real(struct engine_cpu *c, enum seg s, uint16_t sel)
{
	struct engine_seg val = c->seg[s];

	val.sel = sel;
	val.base = (uint64_t)sel << 4;
	if (c->rflags & FLAG_VM) {
		val.limit = 0xffff;
		val.attr = SEG_P | SEG_S | 3 | 3 << 5;
	} else if (val.unusable) {
		val.limit = 0xffff;
		val.attr = SEG_P | SEG_S | 3;
	}
	val.unusable = false;
	seg_commit(c, s, &val);
}

static void load_null(struct engine_cpu *c, enum seg s, uint16_t sel)
{
	struct engine_seg val;

	if (s == SS && (!c->code64 || c->cpl == 3 || (sel & 3) != c->cpl))
		engine_raise_err(c, EXC_GP, 0);
	seg_make_null(&val, sel);
	if (s == SS)
		val.attr = c->cpl << 5;
	seg_commit(c, s, &val);
}

/* Rights of a data segment register other than SS: data or readable code of a level that may be used. */
static bool data_allowed(const struct engine_cpu *c, const struct desc *d, uint16_t sel)
{
	if (!desc_is_seg(d) || (desc_type(d) & 10) == 8)
		return false;
	return desc_is_conforming(d) || ((sel & 3) <= desc_dpl(d) && c->cpl <= desc_dpl(d));
}

void seg_load(struct engine_cpu *c, enum seg s, uint16_t sel)
{
	struct engine_seg val;
	struct desc d;
	bool ok;

	if (c->real || c->v86) {
		seg_set_real(c, s, sel);
		return;
	}
	if (!(sel & 0xfffc)) {
		load_null(c, s, sel);
		return;
	}
	if (!desc_read(c, sel, &d))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (s == SS)
		ok = desc_is_writable_data(&d) && (sel & 3) == c->cpl && desc_dpl(&d) == c->cpl;
	else
		ok = data_allowed(c, &d, sel);
	if (!ok)
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (!desc_present(&d))
		engine_raise_err(c, s == SS ? EXC_SS : EXC_NP, sel_error(c, sel));
	desc_set_accessed(c, &d);
	desc_to_seg(&d, sel, &val);
	seg_commit(c, s, &val);
}

void seg_drop_privileged(struct engine_cpu *c)
{
	static const uint8_t regs[] = {ES, DS, FS, GS};

	for (unsigned k = 0; k < ARRAY_SIZE(regs); k++) {
		struct engine_seg *s = &c->seg[regs[k]];
		bool conforming = (SEG_TYPE(s->attr) & 12) == 12;

		if (s->unusable ? (s->sel & 0xfffc) != 0 : !conforming && SEG_DPL(s->attr) < c->cpl) {
			seg_make_null(s, 0);
			seg_flat_update(c, regs[k]);
		}
	}
}

/* -- LLDT, LTR -- */

/* A system descriptor in the GDT for LLDT and LTR: type and presence. 64-bit code sees 16-byte ones. */
static void read_system(struct engine_cpu *c, uint16_t sel, struct desc *d, unsigned type, unsigned type16)
{
	if ((sel & 4) || !desc_read(c, sel, d))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (desc_is_seg(d) || (desc_type(d) != type && desc_type(d) != type16))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
	if (!desc_present(d))
		engine_raise_err(c, EXC_NP, sel_error(c, sel));
	if (c->code64 && (!desc_read_high(c, sel, d) || !control_is_canonical(c, desc_base(d))))
		engine_raise_err(c, EXC_GP, sel_error(c, sel));
}

void seg_load_ldt(struct engine_cpu *c, uint16_t sel)
{
	struct engine_seg val;
	struct desc d;

	if (!(sel & 0xfffc)) {
		seg_make_null(&val, sel);
		val.attr = SYS_LDT;
	} else {
		read_system(c, sel, &d, SYS_LDT, SYS_LDT);
		desc_to_seg(&d, sel, &val);
	}
	seg_commit(c, LDTR, &val);
}

void seg_load_tr(struct engine_cpu *c, uint16_t sel)
{
	struct engine_seg val;
	struct desc d;

	if (!(sel & 0xfffc))
		engine_raise_err(c, EXC_GP, 0);
	read_system(c, sel, &d, SYS_TSS32, c->long_mode ? SYS_TSS32 : SYS_TSS16);
	sys_rmw8(c, d.addr + 5, 0xff, 2);
	desc_to_seg(&d, sel, &val);
	val.attr |= 2;
	seg_commit(c, TR, &val);
}

/* -- LAR, LSL, VERR, VERW -- */

/* Finds the descriptor if its level may be seen through sel. */
static bool visible(struct engine_cpu *c, uint16_t sel, struct desc *d)
{
	if (!(sel & 0xfffc) || !desc_read(c, sel, d))
		return false;
	if (desc_is_code(d) && desc_is_conforming(d))
		return true;
	return c->cpl <= desc_dpl(d) && (sel & 3) <= desc_dpl(d);
}

bool seg_lar(struct engine_cpu *c, uint16_t sel, uint32_t *out)
{
	const unsigned legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
	const unsigned wide = 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12;
	struct desc d;

	if (!visible(c, sel, &d))
		return false;
	if (!desc_is_seg(&d) && !((c->long_mode ? wide : legacy) >> desc_type(&d) & 1))
		return false;
	*out = (d.raw >> 32) & 0xffff00;
	return true;
}

bool seg_lsl(struct engine_cpu *c, uint16_t sel, uint32_t *out)
{
	const unsigned legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
	const unsigned wide = 1 << 2 | 1 << 9 | 1 << 11;
	struct desc d;

	if (!visible(c, sel, &d))
		return false;
	if (!desc_is_seg(&d) && !((c->long_mode ? wide : legacy) >> desc_type(&d) & 1))
		return false;
	*out = desc_limit(&d);
	return true;
}

bool seg_verify(struct engine_cpu *c, uint16_t sel, bool write)
{
	struct desc d;

	if (!visible(c, sel, &d) || !desc_is_seg(&d))
		return false;
	if (write)
		return desc_is_writable_data(&d);
	return (desc_type(&d) & 10) != 8;
}
