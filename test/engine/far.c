/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Far jumps, calls, returns, interrupt returns, SYSCALL and friends.
 *	make check T=engine/far */
#include "rig.h"

static uint64_t gate(uint16_t sel, uint32_t off, unsigned attr, unsigned params)
{
	return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)attr << 40 |
	       (uint64_t)(off >> 16) << 48;
}

static void real_mode(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	assert_ok(c, far_jump(c, 0x1234, 0x5678, 2));
	assert_int_equal(c->seg[CS].base, 0x12340);
	assert_int_equal(c->next_rip, 0x5678);
	assert_fault(c, far_jump(c, 0x1234, 0x12345, 4), EXC_GP, 0);
	seg_set_real(c, SS, 0x900);
	c->gpr[RSP] = 0x100;
	assert_ok(c, far_call(c, 0x100, 0x20, 2));
	assert_int_equal(get(r, 0x9000 + 0xfe, 2), 0x1234);
	assert_int_equal(get(r, 0x9000 + 0xfc, 2), 0x5678);
	assert_ok(c, far_ret(c, 2, 4));
	assert_int_equal(c->seg[CS].sel, 0x1234);
	assert_int_equal(c->gpr[RSP], 0x104);
	put(r, 0x9000 + 0x104, 0x42, 2);
	put(r, 0x9000 + 0x106, 0x300, 2);
	put(r, 0x9000 + 0x108, 0xffff, 2);
	assert_ok(c, far_iret(c, 2));
	assert_int_equal(c->rflags, 0x7fd7); /* bits 1, 3, 5, 15 are fixed; the upper half was 0 */
	assert_int_equal(c->seg[CS].sel, 0x300);
	assert_int_equal(c->next_rip, 0x42);
	assert_int_equal(r->irets, 1);
}

static void jumps(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	assert_ok(c, far_jump(c, S_CODE0, 0x123456, 4));
	assert_int_equal(c->next_rip, 0x123456);
	assert_int_equal(get(r, GDT + S_CODE0 + 5, 1), A_CODE | 1);
	assert_ok(c, far_jump(c, S_CODE16, 0x1234, 4));
	assert_false(c->code32);
	assert_fault(c, far_jump(c, S_CODE16, 0x10000, 4), EXC_GP, 0);
	assert_fault(c, far_jump(c, 3, 0, 4), EXC_GP, 0);
	assert_fault(c, far_jump(c, GDT_LIMIT + 1, 0, 4), EXC_GP, GDT_LIMIT + 1);
	assert_fault(c, far_jump(c, S_DATA0, 0, 4), EXC_GP, S_DATA0);
	assert_fault(c, far_jump(c, S_CODE3, 0, 4), EXC_GP, S_CODE3 & ~3);
	assert_fault(c, far_jump(c, S_NOCODE, 0, 4), EXC_NP, S_NOCODE);
	assert_fault(c, far_jump(c, S_CODE0 | 1, 0, 4), EXC_GP, S_CODE0); /* RPL above CPL */
	assert_fault(c, far_jump(c, S_LDT, 0, 4), EXC_GP, S_LDT);
	/* A call gate */
	gdt_put(r, S_GATE, gate(S_CODE0, 0xabcdef, 0x8c, 0));
	assert_ok(c, far_jump(c, S_GATE, 0, 4));
	assert_int_equal(c->next_rip, 0xabcdef);
	gdt_put(r, S_GATE, gate(S_CODE0, 0xabcdef, 0x0c, 0));
	assert_fault(c, far_jump(c, S_GATE, 0, 4), EXC_NP, S_GATE);
	gdt_put(r, S_GATE, gate(S_DATA0, 0, 0x8c, 0));
	assert_fault(c, far_jump(c, S_GATE, 0, 4), EXC_GP, S_DATA0);
	gdt_put(r, S_GATE, gate(0, 0, 0x8c, 0));
	assert_fault(c, far_jump(c, S_GATE, 0, 4), EXC_GP, 0);
	/* Level 3: conforming code keeps the level; a gate to inner code is no way for a jump. */
	rig_protected(r, 3);
	assert_ok(c, far_jump(c, S_CONF0, 0x10, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[CS].sel, S_CONF0 | 3);
	gdt_put(r, S_GATE, gate(S_CODE0, 0, 0x8c, 0));
	assert_fault(c, far_jump(c, S_GATE, 0, 4), EXC_GP, S_GATE);
	gdt_put(r, S_GATE, gate(S_CODE0, 0, 0xec, 0));
	assert_fault(c, far_jump(c, S_GATE, 0, 4), EXC_GP, S_CODE0);
}

static void calls(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 3);
	assert_ok(c, far_call(c, S_CODE3, 0x6000, 4));
	assert_int_equal(c->gpr[RSP], 0x9000 - 8);
	assert_int_equal(get(r, 0x9000 - 4, 4), S_CODE3);
	assert_int_equal(get(r, 0x9000 - 8, 4), 0x7002);
	/* Through a gate to level 0 with two parameters. */
	rig_protected(r, 3);
	gdt_put(r, S_GATE, gate(S_CODE0, 0x5000, 0xec, 2));
	put(r, TSS + 4, 0xa000, 4);
	put(r, TSS + 8, S_DATA0, 4);
	put(r, 0x9000, 0x1111, 4);
	put(r, 0x9004, 0x2222, 4);
	assert_ok(c, far_call(c, S_GATE | 3, 0, 4));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[CS].sel, S_CODE0);
	assert_int_equal(c->gpr[RSP], 0xa000 - 24);
	assert_int_equal(get(r, 0xa000 - 4, 4), S_DATA3);
	assert_int_equal(get(r, 0xa000 - 8, 4), 0x9000);
	assert_int_equal(get(r, 0xa000 - 12, 4), 0x2222);
	assert_int_equal(get(r, 0xa000 - 16, 4), 0x1111);
	assert_int_equal(get(r, 0xa000 - 20, 4), S_CODE3);
	assert_int_equal(get(r, 0xa000 - 24, 4), 0x7002);
	/* And back, dropping the parameters on both stacks; level-0 segments are lost. */
	assert_ok(c, seg_load(c, DS, S_DATA0));
	assert_ok(c, far_ret(c, 4, 8));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], 0x9008);
	assert_int_equal(c->seg[SS].sel, S_DATA3);
	assert_true(c->seg[DS].unusable);
	assert_false(c->seg[ES].unusable);
	/* Errors of the inner stack */
	put(r, TSS + 8, S_DATA1, 4);
	assert_fault(c, far_call(c, S_GATE, 0, 4), EXC_TS, S_DATA1 & ~3);
	put(r, TSS + 8, 0, 4);
	assert_fault(c, far_call(c, S_GATE, 0, 4), EXC_TS, 0);
	put(r, TSS + 8, S_ABSENT, 4);
	assert_fault(c, far_call(c, S_GATE, 0, 4), EXC_SS, S_ABSENT);
	assert_int_equal(c->gpr[RSP], 0x9008);
}

static void returns(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	put(r, 0x9000, 0x6000, 4);
	put(r, 0x9004, S_CODE0, 4);
	assert_ok(c, far_ret(c, 4, 0));
	assert_int_equal(c->next_rip, 0x6000);
	assert_int_equal(c->gpr[RSP], 0x9008);
	c->gpr[RSP] = 0x9000;
	put(r, 0x9004, 0, 4);
	assert_fault(c, far_ret(c, 4, 0), EXC_GP, 0);
	put(r, 0x9004, S_DATA0, 4);
	assert_fault(c, far_ret(c, 4, 0), EXC_GP, S_DATA0);
	put(r, 0x9004, S_CODE0 | 3, 4); /* DPL is not RPL */
	assert_fault(c, far_ret(c, 4, 0), EXC_GP, S_CODE0);
	put(r, 0x9004, S_NOCODE, 4);
	assert_fault(c, far_ret(c, 4, 0), EXC_NP, S_NOCODE);
	put(r, 0x9004, S_CODE3, 4);
	put(r, 0x9008, 0x8000, 4);
	put(r, 0x900c, 0, 4);
	assert_fault(c, far_ret(c, 4, 0), EXC_GP, 0); /* null SS */
	put(r, 0x900c, S_DATA0, 4);
	assert_fault(c, far_ret(c, 4, 0), EXC_GP, S_DATA0);
	put(r, 0x900c, S_DATA3, 4);
	assert_ok(c, far_ret(c, 4, 0));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], 0x8000);
	put(r, 0x8000, 0x6000, 4);
	put(r, 0x8004, S_CODE0, 4);
	assert_fault(c, far_ret(c, 4, 0), EXC_GP, S_CODE0); /* inwards */
}

static void frame(struct rig *r, uint64_t at, unsigned size, uint64_t ip, uint64_t cs, uint64_t flags,
		  uint64_t sp, uint64_t ss)
{
	uint64_t v[5] = {ip, cs, flags, sp, ss};

	for (unsigned k = 0; k < 5; k++)
		put(r, at + k * size, v[k], size);
}

static void irets(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	frame(r, 0x9000, 4, 0x6000, S_CODE0, FLAG_IF | FLAG_IOPL | FLAG_ID | FLAG_AC, 0, 0);
	assert_ok(c, far_iret(c, 4));
	assert_int_equal(c->gpr[RSP], 0x900c);
	assert_int_equal(c->rflags, FLAG_IF | FLAG_IOPL | FLAG_ID | FLAG_AC | 2);
	/* To level 3, then from there: IOPL stays, IF too below IOPL. */
	c->gpr[RSP] = 0x9000;
	frame(r, 0x9000, 4, 0x6000, S_CODE3, 2, 0x8000, S_DATA3);
	assert_ok(c, far_iret(c, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], 0x8000);
	frame(r, 0x8000, 4, 0x6001, S_CODE3, FLAG_IF | FLAG_IOPL | FLAG_CF, 0, 0);
	assert_ok(c, far_iret(c, 4));
	assert_int_equal(c->rflags, FLAG_CF | 2);
	/* To virtual-8086 mode and, by a 16-bit IRET there, on. */
	rig_protected(r, 0);
	frame(r, 0x9000, 4, 0x10, 0x700, FLAG_VM | FLAG_IOPL | 2, 0x100, 0x900);
	put(r, 0x9014, 0x111, 4);
	put(r, 0x9018, 0x222, 4);
	put(r, 0x901c, 0x333, 4);
	put(r, 0x9020, 0x444, 4);
	assert_ok(c, far_iret(c, 4));
	assert_true(c->v86);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[ES].base, 0x1110);
	assert_int_equal(c->seg[DS].base, 0x2220);
	assert_int_equal(c->seg[GS].base, 0x4440);
	assert_int_equal(c->seg[CS].limit, 0xffff);
	assert_int_equal(c->gpr[RSP], 0x100);
	assert_int_equal(c->next_rip, 0x10);
	put(r, 0x9100, 0x20, 2);
	put(r, 0x9102, 0x701, 2);
	put(r, 0x9104, FLAG_IF, 2);
	assert_ok(c, far_iret(c, 2));
	assert_int_equal(c->rflags, FLAG_VM | FLAG_IOPL | FLAG_IF | 2);
	rflags_set(c, FLAG_VM | 2);
	assert_fault(c, far_iret(c, 2), EXC_GP, 0);
}

static void irets_64(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 0);
	/* Same level: SS:RSP is popped all the same, and may be null. */
	frame(r, 0x9000, 8, 0x6000, S_CODE64, 2, 0x8000, 0);
	assert_ok(c, far_iret(c, 8));
	assert_int_equal(c->gpr[RSP], 0x8000);
	assert_true(c->seg[SS].unusable);
	assert_int_equal(c->cpl, 0);
	frame(r, 0x8000, 8, 1ULL << 47, S_CODE64_3, 2, 0x8000, S_DATA3);
	assert_fault(c, far_iret(c, 8), EXC_GP, 0);
	frame(r, 0x8000, 8, 0x6000, S_CODE64_3, 2, 0x8000, 3);
	assert_fault(c, far_iret(c, 8), EXC_GP, 0);
	rflags_set(c, 2 | FLAG_NT);
	assert_fault(c, far_iret(c, 8), EXC_GP, 0);
	rflags_set(c, 2);
	/* FS with a null selector keeps its base on the way out. */
	seg_make_null(&c->seg[FS], 0);
	c->seg[FS].base = 0x7fff12345000;
	frame(r, 0x8000, 8, 0x6000, S_CODE64_3, FLAG_IF, 0x7ffffff000, S_DATA3);
	assert_ok(c, far_iret(c, 8));
	assert_int_equal(c->cpl, 3);
	assert_true(c->code64);
	assert_int_equal(c->gpr[RSP], 0x7ffffff000);
	assert_int_equal(c->seg[FS].base, 0x7fff12345000);
	/* To compatibility mode */
	rig_long(r, 0);
	frame(r, 0x9000, 8, 0x6000, S_CODE3, 2, 0xffffff0000008000, S_DATA3);
	assert_ok(c, far_iret(c, 8));
	assert_false(c->code64);
	assert_true(c->code32);
	assert_int_equal(c->gpr[RSP], 0x8000);
	/* From it, through a 64-bit call gate */
	put(r, GDT + S_GATE, gate(S_CODE64, 0x5000, 0xec, 5), 8);
	put(r, GDT + S_GATE + 8, 0xffff8000, 8);
	put(r, TSS + 4, 0xa000, 8);
	assert_ok(c, far_call(c, S_GATE, 0, 4));
	assert_int_equal(c->next_rip, 0xffff800000005000);
	assert_true(c->code64);
	assert_int_equal(c->gpr[RSP], 0xa000 - 32);
	assert_int_equal(get(r, 0xa000 - 8, 8), S_DATA3);
	assert_int_equal(get(r, 0xa000 - 24, 8), S_CODE3);
	assert_ok(c, far_ret(c, 8, 0));
	assert_int_equal(c->cpl, 3);
}

static void fast_calls(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 3);
	c->star = (uint64_t)(0x50 | 3) << 48 | (uint64_t)S_CODE0 << 32;
	c->lstar = 0xffffffff81000000;
	c->sfmask = FLAG_IF | FLAG_TF;
	assert_ud(c, far_syscall(c));
	c->efer |= EFER_SCE;
	rflags_set(c, FLAG_IF | FLAG_CF | 2);
	assert_ok(c, far_syscall(c));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->gpr[RCX], 0x7002);
	assert_int_equal(c->gpr[R11], FLAG_IF | FLAG_CF | 2);
	assert_int_equal(c->rflags, FLAG_CF | 2);
	assert_int_equal(c->next_rip, c->lstar);
	assert_int_equal(c->seg[SS].sel, S_CODE0 + 8);
	c->gpr[RCX] = 1ULL << 47;
	assert_fault(c, far_sysret(c, 8), EXC_GP, 0);
	c->gpr[RCX] = 0x6000;
	assert_ok(c, far_sysret(c, 8));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[CS].sel, 0x63);
	assert_int_equal(c->seg[SS].sel, 0x5b);
	assert_int_equal(c->rflags, FLAG_IF | FLAG_CF | 2);
	assert_fault(c, far_sysret(c, 8), EXC_GP, 0);
	assert_ok(c, far_syscall(c));
	assert_ok(c, far_sysret(c, 4));
	assert_true(c->code32 && !c->code64);
	assert_int_equal(c->seg[CS].sel, 0x53);
	assert_ud(c, far_syscall(c)); /* compatibility mode, Intel */
	assert_fault(c, far_sysenter(c), EXC_GP, 0);
	c->sysenter_cs = S_CODE0;
	c->sysenter_esp = 0xffff800000001000;
	c->sysenter_eip = 0xffffffff82000000;
	assert_ok(c, far_sysenter(c));
	assert_int_equal(c->cpl, 0);
	assert_true(c->code64);
	assert_int_equal(c->gpr[RSP], c->sysenter_esp);
	assert_false(c->rflags & FLAG_IF);
	c->gpr[RDX] = 0x12345678;
	c->gpr[RCX] = 0x87654321;
	assert_ok(c, far_sysexit(c, 4));
	assert_int_equal(c->next_rip, 0x12345678);
	assert_int_equal(c->gpr[RSP], 0x87654321);
	assert_int_equal(c->seg[CS].sel, (S_CODE0 + 16) | 3);
	assert_true(c->code32 && !c->code64);
	assert_fault(c, far_sysexit(c, 4), EXC_GP, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(real_mode), RIG_TEST(jumps),    RIG_TEST(calls),	   RIG_TEST(returns),
	    RIG_TEST(irets),	 RIG_TEST(irets_64), RIG_TEST(fast_calls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
