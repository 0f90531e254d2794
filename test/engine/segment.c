/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Segment register loads and descriptor look-ups: error codes, accessed bits, null selectors.
 *	make check T=engine/segment */
#include "rig.h"

static void data_loads(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	assert_ok(c, seg_load(c, DS, S_DATA0));
	assert_int_equal(c->seg[DS].limit, 0xffffffff);
	assert_int_equal(get(r, GDT + S_DATA0 + 5, 1), 0x93); /* accessed */
	assert_true(c->seg_flat[DS]);
	/* By way of 64-bit code, where nobody asks. Seen to fail: with mode_update's loop for real mode only. */
	memset(c->seg_flat, 0, sizeof(c->seg_flat));
	mode_update(c);
	assert_true(c->seg_flat[DS]);
	assert_ok(c, seg_load(c, ES, S_RO0));
	assert_false(c->seg_flat[ES]);
	assert_ok(c, seg_load(c, FS, S_CODE0));	    /* readable code */
	assert_ok(c, seg_load(c, FS, S_CONF0 | 3)); /* conforming: levels do not matter */
	assert_fault(c, seg_load(c, DS, S_XO0), EXC_GP, S_XO0);
	assert_fault(c, seg_load(c, DS, S_TSS), EXC_GP, S_TSS);
	assert_fault(c, seg_load(c, DS, S_DATA0 | 3), EXC_GP, S_DATA0);
	assert_fault(c, seg_load(c, DS, S_ABSENT), EXC_NP, S_ABSENT);
	assert_fault(c, seg_load(c, DS, GDT_LIMIT + 1), EXC_GP, GDT_LIMIT + 1);
	assert_fault(c, seg_load(c, DS, 0x100 | 4), EXC_GP, 0x104); /* behind the LDT's limit */
	put(r, LDT + 8, desc_make(0x1234, 0xf, A_DATA), 8);
	assert_ok(c, seg_load(c, DS, 0xc));
	assert_int_equal(c->seg[DS].base, 0x1234);
	assert_int_equal(c->seg[DS].limit, 0xf);
	assert_int_equal(get(r, LDT + 8 + 5, 1), 0x93);
	assert_ok(c, seg_load(c, DS, 3));
	assert_true(c->seg[DS].unusable);
	assert_int_equal(c->seg[DS].sel, 3);
	c->seg[LDTR].unusable = true;
	assert_fault(c, seg_load(c, DS, 0xc), EXC_GP, 0xc);
}

static void stack_loads(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	assert_ok(c, seg_load(c, SS, S_DATA16));
	assert_false(c->stack32);
	assert_ok(c, seg_load(c, SS, S_DATA0));
	assert_true(c->stack32);
	assert_fault(c, seg_load(c, SS, 0), EXC_GP, 0);
	assert_fault(c, seg_load(c, SS, S_RO0), EXC_GP, S_RO0);
	assert_fault(c, seg_load(c, SS, S_CODE0), EXC_GP, S_CODE0);
	assert_fault(c, seg_load(c, SS, S_DATA0 | 1), EXC_GP, S_DATA0);
	assert_fault(c, seg_load(c, SS, S_DATA3), EXC_GP, S_DATA3 & ~3);
	assert_fault(c, seg_load(c, SS, S_ABSENT), EXC_SS, S_ABSENT);
	assert_int_equal(c->seg[SS].sel, S_DATA0);
	rig_protected(r, 3);
	assert_ok(c, seg_load(c, SS, S_DATA3));
	assert_fault(c, seg_load(c, DS, S_DATA0), EXC_GP, S_DATA0);
	rig_long(r, 0);
	assert_ok(c, seg_load(c, SS, 0)); /* 64-bit code may */
	assert_int_equal(c->cpl, 0);
	rig_long(r, 3);
	assert_fault(c, seg_load(c, SS, 3), EXC_GP, 0);
}

static void real_loads(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	seg_load(c, DS, 0x1234);
	assert_int_equal(c->seg[DS].base, 0x12340);
	assert_int_equal(c->seg[DS].limit, 0xffff);
	/* Unreal mode: the limit of protected mode survives. */
	rig_protected(r, 0);
	assert_ok(c, seg_load(c, DS, S_DATA0));
	control_set_cr0(c, c->cr0 & ~CR0_PE);
	assert_true(c->real);
	seg_load(c, DS, 0x10);
	assert_int_equal(c->seg[DS].base, 0x100);
	assert_int_equal(c->seg[DS].limit, 0xffffffff);
	/* Virtual-8086 mode fixes it. */
	rig_protected(r, 3);
	rflags_set(c, 2 | FLAG_VM);
	assert_true(c->v86);
	assert_int_equal(c->mode_key, MODE_REAL);
	seg_load(c, DS, 0x20);
	assert_int_equal(c->seg[DS].limit, 0xffff);
	assert_int_equal(c->seg[DS].attr, 0xf3);
	assert_int_equal(c->cpl, 3);
}

static void ldtr_tr(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	assert_ok(c, seg_load_ldt(c, S_LDT));
	assert_int_equal(c->seg[LDTR].base, LDT);
	assert_ok(c, seg_load_ldt(c, 0));
	assert_true(c->seg[LDTR].unusable);
	assert_fault(c, seg_load_ldt(c, S_DATA0), EXC_GP, S_DATA0);
	assert_fault(c, seg_load_ldt(c, S_LDT | 4), EXC_GP, S_LDT | 4);
	gdt_put(r, S_LDT, desc_make(LDT, 0xff, 2));
	assert_fault(c, seg_load_ldt(c, S_LDT), EXC_NP, S_LDT);
	assert_ok(c, seg_load_tr(c, S_TSS));
	assert_int_equal(get(r, GDT + S_TSS + 5, 1), 0x8b); /* busy now */
	assert_fault(c, seg_load_tr(c, S_TSS), EXC_GP, S_TSS);
	assert_fault(c, seg_load_tr(c, 0), EXC_GP, 0);
	rig_long(r, 0);
	put(r, GDT + S_TSS + 8, 0xffff8000, 8);
	assert_ok(c, seg_load_tr(c, S_TSS));
	assert_int_equal(c->seg[TR].base, 0xffff800000000000UL | TSS);
	gdt_put(r, S_TSS, desc_make(TSS, 0x67, 0x89));
	put(r, GDT + S_TSS + 8, 0x8000, 8);
	assert_fault(c, seg_load_tr(c, S_TSS), EXC_GP, S_TSS); /* not canonical */
	put(r, GDT + S_TSS + 8, 1ULL << 40, 8);
	assert_fault(c, seg_load_tr(c, S_TSS), EXC_GP, S_TSS); /* type bits in the upper half */
	gdt_put(r, S_TSS, desc_make(TSS, 0x67, 0x81));
	put(r, GDT + S_TSS + 8, 0, 8);
	assert_fault(c, seg_load_tr(c, S_TSS), EXC_GP, S_TSS); /* 16-bit TSS in long mode */
}

static void looks(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	uint32_t val = 0;

	rig_protected(r, 0);
	assert_true(seg_lar(c, S_DATA0, &val));
	assert_int_equal(val, 0xcf9200);
	assert_true(seg_lsl(c, S_DATA0, &val));
	assert_int_equal(val, 0xffffffff);
	assert_true(seg_lsl(c, S_TSS, &val));
	assert_int_equal(val, 0x1067);
	assert_false(seg_lar(c, 0, &val));
	assert_false(seg_lar(c, GDT_LIMIT + 1, &val));
	gdt_put(r, S_GATE, desc_make(0, 0, 0x8c));
	assert_true(seg_lar(c, S_GATE, &val));
	assert_false(seg_lsl(c, S_GATE, &val));
	gdt_put(r, S_GATE, desc_make(0, 0, 0x8e)); /* interrupt gate: neither */
	assert_false(seg_lar(c, S_GATE, &val));
	assert_true(seg_verify(c, S_CODE0, false));
	assert_false(seg_verify(c, S_XO0, false));
	assert_false(seg_verify(c, S_RO0, true));
	assert_true(seg_verify(c, S_DATA0, true));
	rig_protected(r, 3);
	assert_false(seg_lar(c, S_DATA0, &val));
	assert_true(seg_lar(c, S_CONF0, &val));
	assert_true(seg_lar(c, S_DATA3, &val));
	assert_false(seg_verify(c, S_DATA0, false));
	rig_long(r, 0);
	gdt_put(r, S_GATE, desc_make(0, 0, 0x84));
	assert_false(seg_lar(c, S_GATE, &val)); /* no 16-bit gates in long mode */
}

/* The #PF of a descriptor read is a supervisor's, whatever the level. */
static void table_faults(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 3);
	put(r, PT + 8 * (GDT >> 12), GDT | 3, 8);
	assert_ok(c, seg_load(c, DS, S_DATA3));
	put(r, PT + 8 * (GDT >> 12), 0, 8);
	mmu_flush_all(c);
	assert_fault(c, seg_load(c, DS, S_DATA3), EXC_PF, 0);
	assert_int_equal(c->fault_payload, GDT + (S_DATA3 & ~7));
	put(r, PT + 8 * (GDT >> 12), GDT | 1, 8);
	gdt_put(r, S_DATA3, desc_make(0, 0xfffff, A_DATA | A_32 | A_DPL(3)));
	assert_fault(c, seg_load(c, DS, S_DATA3), EXC_PF, 3); /* the accessed bit, WP set */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(data_loads), RIG_TEST(stack_loads), RIG_TEST(real_loads),
	    RIG_TEST(ldtr_tr),	  RIG_TEST(looks),	 RIG_TEST(table_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
