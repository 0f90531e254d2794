/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hardware task switches: JMP, CALL and IRET back, gates, 16-bit tasks, errors.
 *	make check T=engine/task */
#include "rig.h"

#define TSS2 0x5000UL

static void other_task(struct rig *r)
{
	gdt_put(r, S_TSS2, desc_make(TSS2, 0x67, 0x89));
	gdt_put(r, S_TSS, desc_make(TSS, 0x1067, 0x8b));
	put(r, TSS2 + 32, 0x6000, 4);
	put(r, TSS2 + 36, FLAG_CF | 2, 4);
	for (unsigned k = 0; k < 8; k++)
		put(r, TSS2 + 40 + k * 4, 0x1000 + k, 4);
	put(r, TSS2 + 56, 0xb000, 4);
	put(r, TSS2 + 72, S_DATA0, 4);
	put(r, TSS2 + 76, S_CODE0, 4);
	put(r, TSS2 + 80, S_DATA0, 4);
	put(r, TSS2 + 84, S_DATA0, 4);
	put(r, TSS2 + 88, 0, 4);
	put(r, TSS2 + 92, S_RO0, 4);
	put(r, TSS2 + 96, S_LDT, 4);
	put(r, TSS2 + 100, 0, 4);
}

static void jump(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	other_task(r);
	c->gpr[RBX] = 0xabcd;
	c->dr7 |= 0x155;
	assert_ok(c, far_jump(c, S_TSS2, 0, 4));
	assert_int_equal(c->next_rip, 0x6000);
	assert_int_equal(c->rflags, FLAG_CF | 2);
	assert_int_equal(c->gpr[RAX], 0x1000);
	assert_int_equal(c->gpr[RDI], 0x1007);
	assert_int_equal(c->gpr[RSP], 0xb000);
	assert_int_equal(c->seg[GS].sel, S_RO0);
	assert_true(c->seg[FS].unusable);
	assert_int_equal(c->seg[TR].sel, S_TSS2);
	assert_int_equal(c->seg[TR].attr, 0x8b);
	assert_true(c->cr0 & CR0_TS);
	assert_int_equal(c->dr7, DR7_FIXED);
	/* The old task is saved and no longer busy; the new one is. */
	assert_int_equal(get(r, TSS + 32, 4), 0x7002);
	assert_int_equal(get(r, TSS + 52, 4), 0xabcd);
	assert_int_equal(get(r, TSS + 56, 4), 0x9000);
	assert_int_equal(get(r, TSS + 76, 2), S_CODE0);
	assert_int_equal(get(r, GDT + S_TSS + 5, 1), 0x89);
	assert_int_equal(get(r, GDT + S_TSS2 + 5, 1), 0x8b);
	assert_fault(c, far_jump(c, S_TSS2, 0, 4), EXC_GP, S_TSS2); /* busy */
}

static void call_and_return(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	other_task(r);
	gdt_put(r, S_GATE, desc_make(0, 0, 0x85) | (uint64_t)S_TSS2 << 16);
	assert_ok(c, far_call(c, S_GATE, 0, 4));
	assert_int_equal(c->next_rip, 0x6000);
	assert_true(c->rflags & FLAG_NT);
	assert_int_equal(get(r, TSS2, 2), S_TSS);
	assert_int_equal(get(r, GDT + S_TSS + 5, 1), 0x8b);
	c->next_rip = 0x6001;
	assert_ok(c, far_iret(c, 4));
	assert_int_equal(c->next_rip, 0x7002);
	assert_int_equal(c->seg[TR].sel, S_TSS);
	assert_false(c->rflags & FLAG_NT);
	assert_false(get(r, TSS2 + 36, 4) & FLAG_NT);
	assert_int_equal(get(r, TSS2 + 32, 4), 0x6001);
	assert_int_equal(get(r, GDT + S_TSS2 + 5, 1), 0x89);
	/* The link must name a busy TSS. */
	rflags_set(c, FLAG_NT | 2);
	put(r, TSS, S_TSS2, 2);
	assert_fault(c, far_iret(c, 4), EXC_TS, S_TSS2);
}

static void event(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	struct engine_event ev = {.kind = ENGINE_EV_EXCEPTION, .vector = EXC_DF, .has_error = true};

	rig_protected(r, 0);
	other_task(r);
	put(r, 0xb000 - 4, ~0U, 4);
	put(r, IDT + EXC_DF * 8, desc_make(0, 0, 0x85) | (uint64_t)S_TSS2 << 16, 8);
	assert_int_equal(engine_deliver(c, &ev), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->rip, 0x6000);
	assert_int_equal(c->gpr[RSP], 0xb000 - 4);
	assert_int_equal(get(r, 0xb000 - 4, 4), 0);
	assert_int_equal(get(r, TSS + 32, 4), 0x7000);
	assert_true(c->rflags & FLAG_NT);
}

static void task16(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	gdt_put(r, S_TSS2, desc_make(TSS2, 0x2b, 0x81));
	put(r, TSS2 + 14, 0x600, 2);
	put(r, TSS2 + 16, 2, 2);
	for (unsigned k = 0; k < 8; k++)
		put(r, TSS2 + 18 + k * 2, 0x100 + k, 2);
	put(r, TSS2 + 34, S_DATA0, 2);
	put(r, TSS2 + 36, S_CODE16, 2);
	put(r, TSS2 + 38, S_DATA16, 2);
	put(r, TSS2 + 40, S_DATA0, 2);
	put(r, TSS2 + 42, 0, 2);
	assert_ok(c, far_jump(c, S_TSS2, 0, 4));
	assert_int_equal(c->next_rip, 0x600);
	assert_int_equal(c->gpr[RDI] & 0xffff, 0x107);
	assert_true(c->seg[FS].unusable);
	assert_true(c->seg[LDTR].unusable);
	assert_false(c->code32);
}

static void errors(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	other_task(r);
	gdt_put(r, S_TSS2, desc_make(TSS2, 0x66, 0x89));
	assert_fault(c, far_jump(c, S_TSS2, 0, 4), EXC_TS, S_TSS2);
	gdt_put(r, S_TSS2, desc_make(TSS2, 0x67, 0x09));
	assert_fault(c, far_jump(c, S_TSS2, 0, 4), EXC_NP, S_TSS2);
	assert_int_equal(c->seg[TR].sel, S_TSS);
	/* Behind the commit point: in the new task. */
	other_task(r);
	put(r, TSS2 + 84, S_XO0, 4);
	assert_fault(c, far_jump(c, S_TSS2, 0, 4), EXC_TS, S_XO0);
	assert_int_equal(c->seg[TR].sel, S_TSS2);
	assert_int_equal(c->rip, 0x6000);
	rig_protected(r, 0);
	other_task(r);
	put(r, TSS2 + 80, S_ABSENT, 4);
	gdt_put(r, S_ABSENT, desc_make(0, 0xfffff, (A_DATA | A_32) & ~0x80));
	assert_fault(c, far_jump(c, S_TSS2, 0, 4), EXC_SS, S_ABSENT);
	rig_protected(r, 0);
	other_task(r);
	put(r, TSS2 + 76, S_CODE3, 4); /* level 3 code, level 0 stack */
	assert_fault(c, far_jump(c, S_TSS2, 0, 4), EXC_TS, S_DATA0);
	rig_protected(r, 0);
	other_task(r);
	put(r, TSS2 + 100, 1, 4); /* T: debug trap */
	assert_int_equal(TRY(c, far_jump(c, S_TSS2, 0, 4)), LEAVE_FAULT);
	assert_int_equal(c->fault.vector, EXC_DB);
	assert_int_equal(c->fault_payload, DR6_BT);
	assert_int_equal(c->rip, 0x6000);
	/* No tasks in long mode */
	rig_long(r, 0);
	assert_fault(c, far_jump(c, S_TSS2, 0, 4), EXC_GP, S_TSS2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(jump), RIG_TEST(call_and_return), RIG_TEST(event), RIG_TEST(task16), RIG_TEST(errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
