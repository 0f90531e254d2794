/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An interrupt that waits for IF (engine_want_window): the run goes on at full speed as long as IF is clear, and leaves
 * at the first boundary where the interrupt can be delivered, whichever instruction has set IF. Both tiers.
 *	make check T=engine/window
 */
#include <stdint.h>

#include "engine/jit.h"
#include "rig_code.h"

#define CODE_AT 0x6000UL
#define USER_AT 0x7000UL
#define ROUNDS	"2000"

/* A loop with IF clear; `text` sets IF, and RBX counts what is executed behind it. */
#define OPENING(name, text)                                                                           \
	extern const uint8_t name[], name##_end[];                                                    \
	__asm__(".pushsection .rodata\n" #name ":\ncli\n mov $" ROUNDS ", %ecx\n 1: add %rcx, %rax\n" \
		"dec %ecx\n jnz 1b\n xor %ebx, %ebx\n" text "\n inc %rbx\n inc %rbx\n hlt\n" #name    \
		"_end:\n.popsection\n")

OPENING(by_sti, "sti");
OPENING(by_popf, "push $0x202\n popfq");
OPENING(
    by_iret,
    "mov %rsp, %rdx\n push $0x10\n push %rdx\n push $0x202\n push $0x60\n lea 2f(%rip), %rdx\n push %rdx\n"
    "iretq\n 2:");
OPENING(by_sysret, "mov $0x7000, %ecx\n mov $0x202, %r11d\n sysretq");
/* STI where IF is set already opens nothing, and CLI behind it closes again. */
OPENING(by_second_sti, "sti\n cli\n inc %rdx\n sti");

static const struct opening {
	const uint8_t *code, *end;
	unsigned behind; /* instructions that the shadow lets pass */
	bool to_user;
} openings[] = {
    {by_sti, by_sti_end, 1, false},
    {by_popf, by_popf_end, 0, false},
    {by_iret, by_iret_end, 0, false},
    {by_sysret, by_sysret_end, 0, true},
    {by_second_sti, by_second_sti_end, 1, false},
};

static struct rig *fresh(void **state, const struct opening *o, bool translate)
{
	static const uint8_t user[] = {0x48, 0xff, 0xc3, 0xf4}; /* inc rbx; hlt, which is a #GP there */
	struct rig *r = rig_fresh(state, 0, translate);

	r->c->efer |= EFER_SCE;
	r->c->star = (uint64_t)((S_CODE64_3 & ~3) - 16) << 48;
	mode_update(r->c);
	memcpy(r->ram + CODE_AT, o->code, (size_t)(o->end - o->code));
	memcpy(r->ram + USER_AT, user, sizeof(user));
	return r;
}

static enum engine_exit run(struct rig *r, bool want)
{
	struct engine_cpu *c = r->c;

	c->seg[CS] = seg_fixed(S_CODE64, 0xa09b);
	c->seg[SS] = seg_fixed(S_DATA0, 0xc093);
	rflags_set(c, 2);
	mode_update(c);
	c->rip = CODE_AT;
	c->gpr[RSP] = 0x9000;
	engine_want_window(c, want);
	return engine_run(c);
}

static void look(void **state, const struct opening *o, bool translate)
{
	struct rig *r = fresh(state, o, translate);
	struct engine_stats s;

	for (unsigned k = 0; k < 20; k++) /* until nothing is cold */
		assert_int_equal(run(r, false), ENGINE_EXIT_HLT);
	for (unsigned k = 0; k < 20; k++) {
		assert_int_equal(run(r, true), ENGINE_EXIT_WINDOW);
		assert_int_equal(r->c->gpr[RBX], o->behind);
		assert_true(r->c->rflags & FLAG_IF);
		assert_true(engine_interruptible(r->c));
		if (o->to_user)
			assert_int_equal(r->c->rip, USER_AT);
		else
			assert_int_equal(r->c->rip,
					 CODE_AT + (uint64_t)(o->end - o->code) - 7 + o->behind * 3);
	}
	engine_stats(r->c, &s);
	if (translate) /* the interpreter counts; all that is executed is 40 times 6,000 instructions */
		assert_true(s.instructions < 5000);
}

/* Seen to fail without SLOW_WINDOW in rflags_set, in op_sti, without the look at want_window in the translator's op_sti
 * and in lean_sysret; and, in its count, with boundary_asks that leaves SLOW_WINDOW alone. */
static void the_window_opens_with_if(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(openings); k++) {
		look(state, &openings[k], false);
		look(state, &openings[k], true);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {RIG_TEST(the_window_opens_with_if)};

	setenv("USERKVM_ENGINE", "jit", 1);
	unsetenv("USERKVM_STATS");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
