/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Registers from outside, control registers and MSRs from inside, reset, debug registers.
 *	make check T=engine/state */
#include "rig.h"

static void reset(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	struct kvm_sregs s;
	struct kvm_regs g;
	uint64_t v;

	engine_get_regs(c, &g);
	engine_get_sregs(c, &s);
	assert_int_equal(g.rip, 0xfff0);
	assert_int_equal(g.rflags, 2);
	assert_int_equal(g.rdx, 0x600);
	assert_int_equal(s.cs.base, 0xffff0000);
	assert_int_equal(s.cs.selector, 0xf000);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.tr.type, 11);
	assert_int_equal(s.ldt.type, 2);
	assert_int_equal(engine_linear_rip(c), 0xfffffff0);
	assert_int_equal(engine_get_xcr0(c), 1);
	rig_long(r, 0);
	c->cr0 &= ~(CR0_CD | CR0_NW);
	c->star = 5;
	engine_reset(c, true);
	engine_get_regs(c, &g);
	engine_get_sregs(c, &s);
	assert_int_equal(s.cr0, 0x10); /* INIT keeps CD and NW as they are, and MSRs */
	assert_int_equal(g.rdx, 0x806f8);
	assert_int_equal(engine_get_msr(c, 0xc0000081, &v), 0);
	assert_int_equal(v, 5);
	assert_true(c->real);
	assert_int_equal(s.efer, 0);
	engine_reset(c, false);
	assert_int_equal(c->star, 0);
	assert_int_equal(engine_get_msr(c, 0x277, &v), 0);
	assert_int_equal(v, 0x0007040600070406);
}

static void sregs(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	struct kvm_sregs good, s, back;

	rig_long(r, 3);
	engine_get_sregs(c, &good);
	engine_reset(c, false);
	assert_int_equal(engine_set_sregs(c, &good), 0);
	assert_true(c->code64);
	assert_int_equal(c->cpl, 3);
	engine_get_sregs(c, &back);
	assert_memory_equal(&good.cs, &back.cs, sizeof(good.cs));
	assert_memory_equal(&good.tr, &back.tr, sizeof(good.tr));
	assert_int_equal(back.cr3, PML4);
#define BAD(change)                                                 \
	do {                                                        \
		s = good;                                           \
		change;                                             \
		s.cr2 = 0x5555;                                     \
		assert_int_equal(engine_set_sregs(c, &s), -EINVAL); \
		assert_int_not_equal(c->cr2, 0x5555);               \
	} while (0)
	BAD(s.cr4 |= CR4_LA57);
	BAD(s.cr4 |= 1ULL << 40);
	BAD(s.cr4 |= CR4_PKE);
	BAD(s.cr4 &= ~CR4_PAE);
	BAD(s.efer &= ~EFER_LMA);
	BAD(s.cr3 |= 1ULL << 40);
	BAD(s.efer &= ~(EFER_LMA | EFER_LME)); /* CS.L without long mode */
	BAD(s.cr0 &= ~CR0_PG);
	BAD(s.cr0 |= 1ULL << 32);
	BAD(s.cr0 &= ~CR0_PE);
	/* Not present means unusable. */
	s = good;
	s.ds.present = 0;
	assert_int_equal(engine_set_sregs(c, &s), 0);
	assert_true(c->seg[DS].unusable);
	/* PAE paging loads the PDPTEs. */
	put(r, 0x20000, 0x21001, 8);
	put(r, 0x20018, 0x22001, 8);
	s = good;
	s.efer = 0;
	s.cs.l = 0;
	s.cs.db = 1;
	s.cr3 = 0x20000;
	assert_int_equal(engine_set_sregs(c, &s), 0);
	assert_true(engine_pae_paging(c));
	assert_int_equal(c->pdptr[0], 0x21001);
	assert_int_equal(c->pdptr[3], 0x22001);
}

static void cr0_checks(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	assert_fault(c, control_set_cr0(c, CR0_PG), EXC_GP, 0);
	assert_fault(c, control_set_cr0(c, CR0_NW), EXC_GP, 0);
	assert_fault(c, control_set_cr0(c, 1ULL << 32), EXC_GP, 0);
	assert_ok(c, control_set_cr0(c, CR0_PE | 0x7ff00000 | 0x40));
	assert_int_equal(c->cr0, CR0_PE | CR0_ET | CR0_CD | CR0_NW);
	/* Long mode: LME needs PAE, then PG makes LMA. */
	rig_protected(r, 0);
	rig_tables(r);
	assert_int_equal(engine_set_msr(c, 0xc0000080, EFER_LME, false), 0);
	assert_fault(c, control_set_cr0(c, c->cr0 | CR0_PG), EXC_GP, 0);
	assert_ok(c, control_set_cr4(c, CR4_PAE));
	assert_ok(c, control_set_cr3(c, PML4));
	assert_ok(c, control_set_cr0(c, c->cr0 | CR0_PG));
	assert_int_equal(c->efer, EFER_LME | EFER_LMA);
	assert_true(c->long_mode && !c->code64);
	assert_fault(c, control_set_cr4(c, 0), EXC_GP, 0);
	assert_fault(c, control_set_cr3(c, 1ULL << 40), EXC_GP, 0);
	assert_fault(c, control_set_cr4(c, CR4_PAE | CR4_LA57), EXC_GP, 0);
	assert_ok(c, control_set_cr3(c, PML4 | 1));
	assert_fault(c, control_set_cr4(c, CR4_PAE | CR4_PCIDE), EXC_GP, 0);
	assert_ok(c, control_set_cr3(c, PML4));
	assert_ok(c, control_set_cr4(c, CR4_PAE | CR4_PCIDE));
	assert_fault(c, control_set_cr0(c, c->cr0 & ~CR0_PG), EXC_GP, 0);
	assert_ok(c, control_set_cr4(c, CR4_PAE));
	assert_int_equal(engine_set_msr(c, 0xc0000080, 0, false), -EINVAL); /* LME under paging */
	assert_ok(c, far_jump(c, S_CODE64, 0x6000, 4));
	assert_true(c->code64);
	assert_fault(c, control_set_cr0(c, c->cr0 & ~CR0_PG), EXC_GP, 0);
	assert_ok(c, far_jump(c, S_CODE0, 0x6000, 4));
	assert_ok(c, control_set_cr0(c, c->cr0 & ~CR0_PG));
	assert_int_equal(c->efer, EFER_LME);
	/* PAE paging: a bad PDPTE refuses the load. */
	rig_protected(r, 0);
	c->efer = 0;
	put(r, 0x20000, 0x21003, 8);
	assert_ok(c, control_set_cr4(c, CR4_PAE));
	assert_ok(c, control_set_cr3(c, 0x20000));
	assert_fault(c, control_set_cr0(c, c->cr0 | CR0_PG), EXC_GP, 0);
	put(r, 0x20000, 0x21001, 8);
	assert_ok(c, control_set_cr0(c, c->cr0 | CR0_PG));
	assert_int_equal(c->pdptr[0], 0x21001);
	assert_fault(c, control_set_cr3(c, PDPT), EXC_GP, 0); /* its entries have W and U */
}

static void msrs(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	const uint64_t odd = 1ULL << 47;
	uint64_t v;

	assert_int_equal(engine_get_msr(c, 0x10, &v), -ENOENT);
	assert_int_equal(engine_set_msr(c, 0x10, 0, true), -ENOENT);
	for (uint32_t m = 0xc0000082; m <= 0xc0000083; m++)
		assert_int_equal(engine_set_msr(c, m, odd, true), -EINVAL);
	for (uint32_t m = 0xc0000100; m <= 0xc0000102; m++) {
		assert_int_equal(engine_set_msr(c, m, odd, true), -EINVAL);
		assert_int_equal(engine_set_msr(c, m, ~0ULL, true), 0);
		assert_int_equal(engine_get_msr(c, m, &v), 0);
		assert_int_equal(v, ~0ULL);
	}
	assert_int_equal(engine_set_msr(c, 0x175, odd, false), 0);
	assert_int_equal(engine_get_msr(c, 0x175, &v), 0);
	assert_int_equal(v, 0xffff800000000000);
	assert_int_equal(engine_set_msr(c, 0x277, 0x0206, true), -EINVAL);
	assert_int_equal(engine_set_msr(c, 0x277, 0x08, true), -EINVAL);
	assert_int_equal(engine_set_msr(c, 0x277, 0x0107060504010004, true), 0);
	assert_int_equal(engine_set_msr(c, 0xc0000103, 1ULL << 32, true), -EINVAL);
	assert_int_equal(engine_set_msr(c, 0xda0, 1, true), -EINVAL);
	assert_int_equal(engine_set_msr(c, 0xc0000080, EFER_LMA | EFER_NX, false), 0);
	assert_int_equal(c->efer, EFER_NX);
	assert_int_equal(engine_set_msr(c, 0xc0000080, 1 << 12, false), -EINVAL);
	c->feat.efer_allowed = EFER_SCE;
	assert_int_equal(engine_set_msr(c, 0xc0000080, EFER_NX, false), -EINVAL);
	assert_int_equal(engine_set_msr(c, 0xc0000080, EFER_NX, true), 0);
}

static void debugregs(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	struct kvm_debugregs d;
	uint64_t dr[8] = {0};
	struct kvm_debug_exit_arch info;

	rig_protected(r, 0);
	engine_get_debugregs(c, &d);
	assert_int_equal(d.dr6, 0xffff0ff0);
	assert_int_equal(d.dr7, 0x400);
	d.dr6 = 1ULL << 32;
	assert_int_equal(engine_set_debugregs(c, &d), -EINVAL);
	d.dr6 = 0xffff0ff0;
	d.dr7 = 1ULL << 32;
	assert_int_equal(engine_set_debugregs(c, &d), -EINVAL);
	d.dr7 = 0x400 | 2 | 0xd0000 << 4 | 8; /* DR0: code; DR1: 4-byte write */
	d.db[0] = 0x7000;
	d.db[1] = 0x5004;
	assert_int_equal(engine_set_debugregs(c, &d), 0);
	assert_true(c->slow & SLOW_BREAK);
	assert_true(c->break_data);
	assert_int_equal(TRY(c, debug_check_exec(c)), LEAVE_FAULT);
	assert_int_equal(c->fault.vector, EXC_DB);
	assert_int_equal(c->fault_payload, 1);
	c->rip = 0x7001;
	assert_ok(c, debug_check_exec(c));
	/* Watched pages stay out of the TLB; a hit is reported behind the instruction. */
	assert_ok(c, guest_ld(c, 0x5004, 4));
	assert_int_equal(c->db_hits, 0);
	assert_ok(c, guest_st(c, 0x5003, 0, 1));
	assert_int_equal(c->db_hits, 0);
	assert_ok(c, guest_st(c, 0x5007, 0, 2));
	assert_int_equal(c->db_hits, 2);
	assert_int_equal(TRY(c, debug_after(c, true)), LEAVE_FAULT);
	assert_int_equal(c->fault_payload, DR6_BS | 2);
	assert_ok(c, debug_after(c, false));
	/* The VMM's registers stand in for the guest's. */
	dr[0] = 0x7001;
	dr[7] = 0x402;
	engine_set_debug(c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, dr);
	assert_false(c->break_data);
	assert_int_equal(TRY(c, debug_check_exec(c)), LEAVE_EXIT);
	assert_int_equal(c->exit, ENGINE_EXIT_DEBUG);
	engine_debug_info(c, &info);
	assert_int_equal(info.exception, EXC_DB);
	assert_int_equal(info.pc, 0x7001);
	assert_int_equal(info.dr6, 0xffff0ff1);
	assert_int_equal(info.dr7, 0x402);
	engine_set_debug(c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, dr);
	assert_true(c->slow & SLOW_TF);
	assert_int_equal(TRY(c, debug_after(c, false)), LEAVE_EXIT);
	engine_debug_info(c, &info);
	assert_int_equal(info.dr6, 0xffff4ff0);
	engine_set_debug(c, 0, dr);
	assert_false(c->slow & SLOW_TF);
	assert_true(c->break_data);
}

static void shadow(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	assert_false(engine_interruptible(c));
	rflags_set(c, FLAG_IF | 2);
	assert_true(engine_interruptible(c));
	engine_set_shadow(c, ENGINE_SHADOW_MOVSS);
	assert_false(engine_interruptible(c));
	assert_int_equal(engine_get_shadow(c), ENGINE_SHADOW_MOVSS);
}

static void ports(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 3);
	put(r, TSS + 102, 0x68, 2);
	memset(r->ram + TSS + 0x68, 0xff, 0x1000);
	put(r, TSS + 0x68 + 0x3f8 / 8, 0xfff0, 2);
	assert_ok(c, system_io_check(c, 0x3f8, 4));
	assert_fault(c, system_io_check(c, 0x3f9, 4), EXC_GP, 0);
	assert_fault(c, system_io_check(c, 0x80, 1), EXC_GP, 0);
	put(r, TSS + 102, 0xfff0, 2);
	assert_fault(c, system_io_check(c, 0x3f8, 1), EXC_GP, 0); /* behind the limit */
	rflags_set(c, FLAG_IOPL | 2);
	assert_ok(c, system_io_check(c, 0x80, 1));
	rflags_set(c, FLAG_IOPL | FLAG_VM | 2);
	assert_fault(c, system_io_check(c, 0x80, 1), EXC_GP, 0); /* virtual-8086: IOPL does not count */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(reset),	 RIG_TEST(sregs), RIG_TEST(cr0_checks), RIG_TEST(msrs),
	    RIG_TEST(debugregs), RIG_TEST(ports), RIG_TEST(shadow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
