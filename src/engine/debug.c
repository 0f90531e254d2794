/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Breakpoints and single steps: the guest's own (SDM 3B chapter 17) and the VMM's (KVM_SET_GUEST_DEBUG).
 * With KVM_GUESTDBG_USE_HW_BP the VMM's debug registers stand in for the guest's, as under KVM.
 */
#include "engine/system.h"

static bool debug_asks(const struct engine_cpu *c, uint32_t what)
{
	return (c->debug_control & KVM_GUESTDBG_ENABLE) && (c->debug_control & what);
}

static uint64_t active_dr7(const struct engine_cpu *c)
{
	return debug_asks(c, KVM_GUESTDBG_USE_HW_BP) ? c->debug_dr[7] : c->dr7;
}

/* -- One breakpoint -- */

enum break_kind { BREAK_EXEC, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

struct breakpoint {
	bool enabled;
	enum break_kind kind;
	uint64_t addr;
	unsigned len;
};

static struct breakpoint breakpoint_get(const struct engine_cpu *c, unsigned n)
{
	static const uint8_t lens[] = {1, 2, 8, 4};
	uint64_t dr7 = active_dr7(c);
	struct breakpoint b;

	b.enabled = dr7 >> (n * 2) & 3;
	b.kind = dr7 >> (16 + n * 4) & 3;
	b.len = lens[dr7 >> (18 + n * 4) & 3];
	b.addr = debug_asks(c, KVM_GUESTDBG_USE_HW_BP) ? c->debug_dr[n] : c->dr[n];
	if (!c->long_mode)
		b.addr = (uint32_t)b.addr;
	if (b.kind != BREAK_EXEC)
		b.addr &= ~(uint64_t)(b.len - 1);
	return b;
}

static bool is_data(const struct breakpoint *b)
{
	return b->enabled && (b->kind == BREAK_WRITE || b->kind == BREAK_ACCESS);
}

static bool overlaps(const struct breakpoint *b, uint64_t addr, unsigned len)
{
	return addr < b->addr + b->len && b->addr < addr + len;
}

/* -- Leaving to the VMM -- */

bool debug_intercepts_db(const struct engine_cpu *c)
{
	return debug_asks(c, KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
}

_Noreturn void debug_leave(struct engine_cpu *c, uint8_t exception, uint64_t dr6)
{
	c->debug_info = (struct kvm_debug_exit_arch){
	    .exception = exception,
	    .pc = engine_linear_rip(c),
	    .dr6 = dr6 | DR6_FIXED,
	    .dr7 = active_dr7(c),
	};
	engine_leave(c, ENGINE_EXIT_DEBUG);
}

/* #DB with these DR6 bits: the VMM's if it asked for any, else the guest's. */
static _Noreturn void debug_report(struct engine_cpu *c, uint64_t dr6)
{
	if (debug_intercepts_db(c))
		debug_leave(c, EXC_DB, dr6);
	engine_raise_db(c, dr6);
}

/* -- Checks -- */

void debug_check_gd(struct engine_cpu *c)
{
	if (!(active_dr7(c) & DR7_GD))
		return;
	if (debug_asks(c, KVM_GUESTDBG_USE_HW_BP))
		debug_leave(c, EXC_DB, DR6_BD);
	engine_raise_db(c, DR6_BD);
}

void debug_check_exec(struct engine_cpu *c)
{
	uint64_t lin = engine_linear_rip(c), hits = 0;

	for (unsigned n = 0; n < 4; n++) {
		struct breakpoint b = breakpoint_get(c, n);

		if (b.enabled && b.kind == BREAK_EXEC && b.addr == lin)
			hits |= BIT(n);
	}
	if (hits)
		debug_report(c, hits);
}

void debug_check_data(struct engine_cpu *c, uint64_t lin, unsigned len, bool write)
{
	for (unsigned n = 0; n < 4; n++) {
		struct breakpoint b = breakpoint_get(c, n);

		if (is_data(&b) && (write || b.kind == BREAK_ACCESS) && overlaps(&b, lin, len))
			c->db_hits |= BIT(n);
	}
	if (c->db_hits)
		c->slow |= SLOW_BREAK;
}

void debug_check_io(struct engine_cpu *c, uint16_t port, unsigned size)
{
	if (!(c->cr4 & CR4_DE) || !(active_dr7(c) & 0xff))
		return;
	for (unsigned n = 0; n < 4; n++) {
		struct breakpoint b = breakpoint_get(c, n);

		if (b.enabled && b.kind == BREAK_IO && overlaps(&b, port, size))
			c->db_hits |= BIT(n);
	}
	if (c->db_hits)
		c->slow |= SLOW_BREAK;
}

bool debug_page_watched(const struct engine_cpu *c, uint64_t page)
{
	for (unsigned n = 0; n < 4; n++) {
		struct breakpoint b = breakpoint_get(c, n);

		if (is_data(&b) && overlaps(&b, page, PAGE_SIZE))
			return true;
	}
	return false;
}

void debug_after(struct engine_cpu *c, bool tf)
{
	uint64_t dr6 = c->db_hits;
	bool step = debug_asks(c, KVM_GUESTDBG_SINGLESTEP);

	c->db_hits = 0;
	if (!dr6 && !tf && !step)
		return;
	if (dr6)
		debug_update(c);
	if (tf || step)
		dr6 |= DR6_BS;
	debug_report(c, dr6);
}

/* -- Arming -- */

void debug_update(struct engine_cpu *c)
{
	uint32_t slow = c->slow & ~(SLOW_TF | SLOW_RF | SLOW_BREAK);
	bool data = false;

	for (unsigned n = 0; n < 4; n++) {
		struct breakpoint b = breakpoint_get(c, n);

		data |= is_data(&b);
		/* Data and I/O hits are traps of the instruction: the boundary behind it must look. */
		if (b.enabled)
			slow |= SLOW_BREAK;
	}
	if ((c->rflags & FLAG_TF) || debug_asks(c, KVM_GUESTDBG_SINGLESTEP))
		slow |= SLOW_TF;
	if (c->rflags & FLAG_RF)
		slow |= SLOW_RF;
	c->slow = slow;
	if (data || c->break_data)
		mmu_flush_all(c);
	c->break_data = data;
}

void engine_set_debug(struct engine_cpu *c, uint32_t control, const uint64_t debugreg[8])
{
	c->debug_control = control & KVM_GUESTDBG_ENABLE ? control : 0;
	if (control & KVM_GUESTDBG_USE_HW_BP)
		memcpy(c->debug_dr, debugreg, sizeof(c->debug_dr));
	debug_update(c);
}

void engine_debug_info(const struct engine_cpu *c, struct kvm_debug_exit_arch *out)
{
	*out = c->debug_info;
}
