/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Delivery of interrupts and exceptions: frames, error codes, double and triple faults.
 *	make check T=engine/event */
#include "rig.h"

static uint64_t gate(uint16_t sel, uint32_t off, unsigned attr)
{
	return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)attr << 40 | (uint64_t)(off >> 16) << 48;
}

static void idt_put(struct rig *r, unsigned vec, uint64_t desc)
{
	if (r->c->long_mode) {
		put(r, IDT + vec * 16, desc, 8);
		put(r, IDT + vec * 16 + 8, 0, 8);
	} else {
		put(r, IDT + vec * 8, desc, 8);
	}
}

static enum engine_exit intr(struct rig *r, unsigned vec)
{
	struct engine_event ev = {.kind = ENGINE_EV_INTR, .vector = vec};

	return engine_deliver(r->c, &ev);
}

static enum engine_exit exception(struct rig *r, unsigned vec, uint32_t err)
{
	struct engine_event ev = {
	    .kind = ENGINE_EV_EXCEPTION, .vector = vec, .has_error = true, .error = err};

	return engine_deliver(r->c, &ev);
}

static void real_mode(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	seg_set_real(c, SS, 0x100);
	seg_set_real(c, CS, 0x200);
	c->gpr[RSP] = 0xabcd0000;
	c->rip = 0x42;
	rflags_set(c, FLAG_IF | FLAG_TF | FLAG_CF);
	c->idt.limit = 0x3ff;
	put(r, 0x20 * 4, 0x12345678, 4);
	engine_set_shadow(c, ENGINE_SHADOW_STI);
	assert_int_equal(intr(r, 0x20), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->gpr[RSP], 0xabcdfffa); /* SP wraps, the upper half stays */
	assert_int_equal(get(r, 0x1000 + 0xfffe, 2), FLAG_IF | FLAG_TF | FLAG_CF | 2);
	assert_int_equal(get(r, 0x1000 + 0xfffc, 2), 0x200);
	assert_int_equal(get(r, 0x1000 + 0xfffa, 2), 0x42);
	assert_int_equal(c->seg[CS].base, 0x12340);
	assert_int_equal(c->rip, 0x5678);
	assert_int_equal(c->rflags, FLAG_CF | 2);
	assert_int_equal(c->shadow, 0);
	/* No error code in real mode; a vector behind the limit is #GP, then #DF, then shutdown. */
	assert_int_equal(exception(r, EXC_GP, 0x10), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->gpr[RSP] & 0xffff, 0xfff4);
	c->idt.limit = 0x1f;
	assert_int_equal(intr(r, 0x20), ENGINE_EXIT_SHUTDOWN);
	c->idt.limit = 8 * 4 + 3;
	put(r, 8 * 4, 0x00000999, 4);
	assert_int_equal(intr(r, 0x20), ENGINE_EXIT_STEPPED); /* #GP has no vector, #DF has */
	assert_int_equal(c->rip, 0x999);
}

static void same_level(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	rflags_set(c, FLAG_IF | FLAG_NT | FLAG_AC | 2);
	idt_put(r, 0x30, gate(S_CODE0, 0x123456, 0x8e));
	idt_put(r, 13, gate(S_CODE0, 0x777, 0x8f));
	idt_put(r, 0x31, gate(S_CODE16, 0xff0888, 0x86));
	assert_int_equal(intr(r, 0x30), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->rip, 0x123456);
	assert_int_equal(c->gpr[RSP], 0x9000 - 12);
	assert_int_equal(get(r, 0x9000 - 4, 4), FLAG_IF | FLAG_NT | FLAG_AC | 2);
	assert_int_equal(get(r, 0x9000 - 8, 4), S_CODE0);
	assert_int_equal(get(r, 0x9000 - 12, 4), 0x7000);
	assert_int_equal(c->rflags, FLAG_AC | 2);
	/* An error code; RF is set in a fault's image; a trap gate leaves IF alone. */
	rflags_set(c, FLAG_IF | 2);
	assert_int_equal(exception(r, EXC_GP, 0x1234), ENGINE_EXIT_STEPPED);
	assert_int_equal(get(r, 0x9000 - 28, 4), 0x1234);
	assert_int_equal(get(r, 0x9000 - 16, 4), FLAG_IF | FLAG_RF | 2);
	assert_int_equal(c->rflags, FLAG_IF | 2);
	/* A 16-bit gate pushes words and has a 16-bit offset. */
	c->gpr[RSP] = 0x9000;
	assert_int_equal(intr(r, 0x31), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->gpr[RSP], 0x9000 - 6);
	assert_int_equal(c->rip, 0x888);
	assert_false(c->code32);
}

static void begin(struct rig *r, enum engine_event_kind kind, unsigned vec)
{
	r->c->delivering = (struct engine_event){.kind = kind, .vector = vec, .insn_len = 2};
	r->c->is_delivering = true;
}

#define assert_delivery(r, kind, vec, fault, err)                        \
	do {                                                             \
		begin(r, kind, vec);                                     \
		assert_fault((r)->c, event_deliver((r)->c), fault, err); \
	} while (0)

static void gate_errors(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	c->idt.limit = 0x30 * 8 + 6;
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_GP, 0x30 * 8 + 3);
	assert_delivery(r, ENGINE_EV_SOFT, 0x30, EXC_GP, 0x30 * 8 + 2);
	c->idt.limit = 0x7ff;
	idt_put(r, 0x30, gate(S_CODE0, 0, 0x8c)); /* a call gate */
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_GP, 0x30 * 8 + 3);
	idt_put(r, 0x30, gate(S_CODE0, 0, 0x0e));
	assert_delivery(r, ENGINE_EV_SOFT, 0x30, EXC_NP, 0x30 * 8 + 2);
	idt_put(r, 0x30, gate(0, 0, 0x8e));
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_GP, 1);
	assert_delivery(r, ENGINE_EV_SOFT, 0x30, EXC_GP, 0);
	idt_put(r, 0x30, gate(S_DATA0, 0, 0x8e));
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_GP, S_DATA0 + 1);
	idt_put(r, 0x30, gate(S_NOCODE, 0, 0x8e));
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_NP, S_NOCODE + 1);
	idt_put(r, 0x30, gate(S_CODE3, 0, 0x8e)); /* an outer level */
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_GP, (S_CODE3 & ~3) + 1);
	idt_put(r, 0x30, gate(S_CODE16, 0x10000, 0x8e)); /* behind the segment's limit */
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_GP, 1);
	idt_put(r, 0x30, gate(S_CODE0, 0, 0x8e));
	c->seg[SS].limit = 0x8ff0;
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_SS, 1);
	/* INT n of level 3 through a level-0 gate. */
	rig_protected(r, 3);
	idt_put(r, 0x30, gate(S_CODE0, 0, 0x8e));
	assert_delivery(r, ENGINE_EV_SOFT, 0x30, EXC_GP, 0x30 * 8 + 2);
}

static void inner_level(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 3);
	idt_put(r, 0x30, gate(S_CODE0, 0x5000, 0xee));
	put(r, TSS + 4, 0xa000, 4);
	put(r, TSS + 8, S_DATA0, 4);
	event_soft_int(c, 0x30, false);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[CS].sel, S_CODE0);
	assert_int_equal(c->seg[SS].sel, S_DATA0);
	assert_int_equal(c->gpr[RSP], 0xa000 - 20);
	assert_int_equal(get(r, 0xa000 - 4, 4), S_DATA3);
	assert_int_equal(get(r, 0xa000 - 8, 4), 0x9000);
	assert_int_equal(get(r, 0xa000 - 16, 4), S_CODE3);
	assert_int_equal(get(r, 0xa000 - 20, 4), 0x7002); /* behind the INT */
	/* The TSS's stack segment is bad: #TS, #SS. */
	rig_protected(r, 3);
	idt_put(r, 0x30, gate(S_CODE0, 0x5000, 0xee));
	put(r, TSS + 8, 0, 4);
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_TS, 1);
	put(r, TSS + 8, S_DATA3, 4);
	assert_delivery(r, ENGINE_EV_SOFT, 0x30, EXC_TS, S_DATA3 & ~3);
	put(r, TSS + 8, S_RO0, 4);
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_TS, S_RO0 + 1);
	put(r, TSS + 8, S_ABSENT, 4);
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_SS, S_ABSENT + 1);
	c->seg[TR].limit = 10;
	assert_delivery(r, ENGINE_EV_INTR, 0x30, EXC_TS, S_TSS + 1);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[RSP], 0x9000);
}

static void from_v86(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 3);
	idt_put(r, 0x30, gate(S_CODE0, 0x5000, 0xee));
	put(r, TSS + 4, 0xa000, 4);
	put(r, TSS + 8, S_DATA0, 4);
	rflags_set(c, FLAG_VM | FLAG_IOPL | FLAG_IF | 2);
	seg_set_real(c, CS, 0x700);
	seg_set_real(c, SS, 0x900);
	seg_set_real(c, DS, 0x111);
	seg_set_real(c, GS, 0x222);
	c->gpr[RSP] = 0x100;
	c->rip = 0x10;
	assert_int_equal(intr(r, 0x30), ENGINE_EXIT_STEPPED);
	assert_false(c->v86);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->gpr[RSP], 0xa000 - 36);
	assert_int_equal(get(r, 0xa000 - 4, 4), 0x222);
	assert_int_equal(get(r, 0xa000 - 12, 4), 0x111);
	assert_int_equal(get(r, 0xa000 - 20, 4), 0x900);
	assert_int_equal(get(r, 0xa000 - 24, 4), 0x100);
	assert_true(get(r, 0xa000 - 28, 4) & FLAG_VM);
	assert_int_equal(get(r, 0xa000 - 36, 4), 0x10);
	assert_true(c->seg[DS].unusable && c->seg[GS].unusable);
	/* INT n below IOPL 3 */
	rig_protected(r, 3);
	rflags_set(c, FLAG_VM | 2);
	assert_fault(c, event_soft_int(c, 0x30, false), EXC_GP, 0);
	/* The handler must be at level 0. */
	idt_put(r, 3, gate(S_CODE1, 0x5000, 0xee));
	assert_fault(c, event_soft_int(c, 3, true), EXC_GP, S_CODE1 & ~3);
}

static void vme(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 3);
	c->cr4 |= CR4_VME;
	rflags_set(c, FLAG_VM | FLAG_VIF | 2);
	seg_set_real(c, CS, 0x700);
	seg_set_real(c, SS, 0x900);
	c->gpr[RSP] = 0x100;
	c->rip = 0x10;
	c->next_rip = 0x12;
	put(r, TSS + 102, 0x88, 2); /* the redirection bitmap starts at 0x68, all clear */
	put(r, 0x21 * 4, 0x01230456, 4);
	assert_ok(c, event_soft_int(c, 0x21, false));
	assert_true(c->v86);
	assert_int_equal(c->seg[CS].base, 0x1230);
	assert_int_equal(c->rip, 0x456);
	assert_int_equal(get(r, 0x9000 + 0xfa, 2), 0x12);
	assert_int_equal(get(r, 0x9000 + 0xfe, 2), FLAG_IF | FLAG_IOPL | 2); /* VIF as IF, IOPL 3 */
	assert_false(c->rflags & FLAG_VIF);
	put(r, TSS + 0x68 + 0x21 / 8, 1 << (0x21 & 7), 1);
	assert_fault(c, event_soft_int(c, 0x21, false), EXC_GP, 0);
}

static void long_mode(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 3);
	idt_put(r, 0x30, gate(S_CODE64, 0x5000, 0x8e));
	idt_put(r, 0x31, gate(S_CODE64, 0x6000, 0x8f) | 2ULL << 32); /* IST 2 */
	put(r, TSS + 4, 0xa008, 8);
	put(r, TSS + 36 + 8, 0xb000, 8);
	assert_int_equal(intr(r, 0x30), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->cpl, 0);
	assert_true(c->code64);
	assert_int_equal(c->gpr[RSP], 0xa000 - 40); /* aligned first */
	assert_int_equal(get(r, 0xa000 - 8, 8), S_DATA3);
	assert_int_equal(get(r, 0xa000 - 16, 8), 0x9000);
	assert_int_equal(get(r, 0xa000 - 32, 8), S_CODE64_3);
	assert_int_equal(get(r, 0xa000 - 40, 8), 0x7000);
	assert_true(c->seg[SS].unusable);
	assert_int_equal(c->seg[SS].sel, 0);
	/* Same level, IST: SS stays, SS:RSP is pushed. */
	c->rip = 0x7100;
	assert_int_equal(exception(r, 0x31, 7), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->gpr[RSP], 0xb000 - 48);
	assert_int_equal(get(r, 0xb000 - 48, 8), 7);
	assert_int_equal(get(r, 0xb000 - 16, 8), 0xa000 - 40);
	/* Errors */
	idt_put(r, 0x32, gate(S_CODE0, 0, 0x8e)); /* not 64-bit code */
	assert_delivery(r, ENGINE_EV_INTR, 0x32, EXC_GP, S_CODE0 + 1);
	idt_put(r, 0x32, gate(S_CODE64, 0, 0x86)); /* 16-bit gate */
	assert_delivery(r, ENGINE_EV_INTR, 0x32, EXC_GP, 0x32 * 8 + 3);
	idt_put(r, 0x32, gate(S_CODE64, 0, 0x8e));
	put(r, IDT + 0x32 * 16 + 8, 0x8000, 8); /* not canonical */
	assert_delivery(r, ENGINE_EV_INTR, 0x32, EXC_GP, 1);
	put(r, TSS + 36 + 8, 1ULL << 47, 8);
	assert_delivery(r, ENGINE_EV_INTR, 0x31, EXC_SS, 1);
	c->idt.limit = 0x32 * 16 + 14;
	assert_delivery(r, ENGINE_EV_INTR, 0x32, EXC_GP, 0x32 * 8 + 3);
}

static void double_faults(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	struct engine_event fault = {.kind = ENGINE_EV_EXCEPTION, .has_error = true, .error = 5};

	/* Table 6-5: first event, second, what is delivered (0: shutdown). */
	static const struct {
		enum engine_event_kind kind;
		uint8_t first, second, result;
	} rows[] = {
	    {ENGINE_EV_INTR, 0x30, EXC_GP, EXC_GP},	   {ENGINE_EV_SOFT, 0x30, EXC_PF, EXC_PF},
	    {ENGINE_EV_EXCEPTION, EXC_DB, EXC_GP, EXC_GP}, {ENGINE_EV_EXCEPTION, EXC_GP, EXC_NP, EXC_DF},
	    {ENGINE_EV_EXCEPTION, EXC_GP, EXC_PF, EXC_PF}, {ENGINE_EV_EXCEPTION, EXC_PF, EXC_PF, EXC_DF},
	    {ENGINE_EV_EXCEPTION, EXC_PF, EXC_TS, EXC_DF}, {ENGINE_EV_EXCEPTION, EXC_PF, EXC_DB, EXC_DB},
	    {ENGINE_EV_EXCEPTION, EXC_UD, EXC_SS, EXC_SS}, {ENGINE_EV_EXCEPTION, EXC_DF, EXC_GP, 0},
	    {ENGINE_EV_EXCEPTION, EXC_DF, EXC_PF, 0},	   {ENGINE_EV_EXCEPTION, EXC_DE, EXC_GP, EXC_DF},
	};

	for (unsigned k = 0; k < ARRAY_SIZE(rows); k++) {
		begin(r, rows[k].kind, rows[k].first);
		fault.vector = rows[k].second;
		c->fault = fault;
		c->fault_payload = 0x1000 + k;
		assert_int_equal(event_begin(c), rows[k].result != 0);
		if (rows[k].result)
			assert_int_equal(c->delivering.vector, rows[k].result);
		if (rows[k].result == EXC_DF) {
			assert_true(c->delivering.has_error);
			assert_int_equal(c->delivering.error, 0);
		}
		if (rows[k].second == EXC_PF)
			assert_int_equal(c->cr2, 0x1000 + k);
	}
	/* A page fault while one is delivered, with a good double fault handler. */
	rig_long(r, 0);
	idt_put(r, EXC_DF, gate(S_CODE64, 0x5000, 0x8e));
	idt_put(r, EXC_PF, gate(S_CODE64, 0x6000, 0x8e) | 1ULL << 32);
	put(r, TSS + 36, 0x500000, 8); /* not mapped */
	assert_int_equal(exception(r, EXC_PF, 2), ENGINE_EXIT_STEPPED);
	assert_int_equal(c->rip, 0x5000);
	assert_int_equal(c->cr2, 0x500000 - 8);
	idt_put(r, EXC_DF, 0);
	assert_int_equal(exception(r, EXC_PF, 2), ENGINE_EXIT_SHUTDOWN);
	assert_false(c->is_delivering);
}

static void debug_payload(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	c->is_delivering = false;
	c->dr7 |= DR7_GD;
	c->dr6 = DR6_FIXED | 3;
	c->fault = (struct engine_event){.kind = ENGINE_EV_EXCEPTION, .vector = EXC_DB};
	c->fault_payload = DR6_BS | 4;
	assert_true(event_begin(c));
	assert_int_equal(c->dr6, DR6_FIXED | DR6_BS | 4);
	assert_false(c->dr7 & DR7_GD);
}

/* A device stops the delivery: nothing is committed, and the caller delivers again. */
static void stopped(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_protected(r, 0);
	idt_put(r, 0x30, gate(S_CODE0, 0x5000, 0x8e));
	c->gpr[RSP] = RAM_SIZE + 0x100;
	r->stop_mmio = true;
	assert_int_equal(intr(r, 0x30), ENGINE_EXIT_STOP);
	assert_int_equal(c->rip, 0x7000);
	assert_int_equal(c->gpr[RSP], RAM_SIZE + 0x100);
	assert_int_equal(r->mmio_gpa, RAM_SIZE + 0xfc);
	r->stop_mmio = false;
	assert_int_equal(intr(r, 0x30), ENGINE_EXIT_STEPPED);
	assert_int_equal(r->mmios, 4);
	assert_int_equal(c->rip, 0x5000);
}

static void breakpoint(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	uint64_t dr[8] = {0};
	struct kvm_debug_exit_arch info;
	struct engine_event ev = {.kind = ENGINE_EV_EXCEPTION, .vector = EXC_BP};

	rig_protected(r, 0);
	c->next_rip = 0x7001;
	idt_put(r, EXC_BP, gate(S_CODE0, 0x5000, 0x8e));
	engine_set_debug(c, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, dr);
	assert_int_equal(TRY(c, event_soft_int(c, EXC_BP, true)), LEAVE_EXIT);
	assert_int_equal(c->exit, ENGINE_EXIT_DEBUG);
	engine_debug_info(c, &info);
	assert_int_equal(info.exception, EXC_BP);
	assert_int_equal(info.pc, 0x7000);
	/* INT 3 by its two-byte form is the guest's, as is an injected #BP, which stands behind the CC. */
	assert_ok(c, event_soft_int(c, EXC_BP, false));
	assert_int_equal(c->rip, 0x5000);
	c->rip = 0x7000;
	c->gpr[RSP] = 0x9000;
	assert_int_equal(engine_deliver(c, &ev), ENGINE_EXIT_STEPPED);
	assert_int_equal(get(r, 0x9000 - 12, 4), 0x7001);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(real_mode), RIG_TEST(same_level),	  RIG_TEST(gate_errors), RIG_TEST(inner_level),
	    RIG_TEST(from_v86),	 RIG_TEST(vme),		  RIG_TEST(long_mode),	 RIG_TEST(double_faults),
	    RIG_TEST(stopped),	 RIG_TEST(debug_payload), RIG_TEST(breakpoint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
