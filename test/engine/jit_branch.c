/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Branches through registers and memory that are followed, because they led to one place each time so far, and then lead
 * elsewhere: the translator beside the interpreter.
 *	make check T=engine/jit_branch
 */
#include "engine/jit.h"
#include "rig_code.h"

#define CODE_AT 0x6000UL
#define DATA_AT 0x40000UL
#define NOWHERE 0x300000UL /* no page */

/* rbx counts down; `turn` may put another target into r9, or break off. The functions 8 (r11) and 9 (r10) leave traces. */
#define PROGRAM(turn)                                                                                  \
	"mov $60, %ebx\n lea 8f(%rip), %r11\n lea 9f(%rip), %r10\n mov %r11, %r9\n mov %r11, (%rdi)\n" \
	"1: call *%r9\n call *(%rdi)\n lea 2f(%rip), %r8\n stc\n jmp *%r8\n ud2\n"                     \
	"2: adc $0, %rax\n lea 3f(%rip), %rcx\n mov %rcx, 8(%rdi)\n jmp *8(%rdi)\n ud2\n"              \
	"3: " turn "\n mov %r9, (%rdi)\n dec %ebx\n jnz 1b\n hlt\n ud2\n"                              \
	"8: lea 1(%rax,%rax,2), %rax\n ret\n"                                                          \
	"9: push %rax\n lea 5(%rax,%rax,4), %rax\n pop %rdx\n ret\n"

CODE(p_always, PROGRAM(""));
CODE(p_later, PROGRAM("cmp $20, %ebx\n cmove %r10, %r9"));
CODE(p_by_turns, PROGRAM("test $1, %bl\n mov %r11, %r9\n cmovz %r10, %r9"));
CODE(p_gp, PROGRAM("mov $1, %ecx\n ror $1, %rcx\n cmp $20, %ebx\n cmove %rcx, %r9"));
CODE(p_pf, PROGRAM("mov $0x300000, %ecx\n cmp $20, %ebx\n cmove %rcx, %r9"));
CODE(p_no_stack, PROGRAM("mov $0x300000, %ecx\n cmp $20, %ebx\n cmove %r10, %r9\n cmove %rcx, %rsp"));

static const struct program {
	const char *name;
	const uint8_t *code, *end;
} programs[] = {
    {"always", p_always, p_always_end},
    {"later", p_later, p_later_end},
    {"by turns", p_by_turns, p_by_turns_end},
    {"#GP", p_gp, p_gp_end},
    {"#PF", p_pf, p_pf_end},
    {"no stack", p_no_stack, p_no_stack_end},
};

/* Long mode with rig_gates, and a page that is absent. */
static void prepare(struct rig *r, const struct program *p)
{
	rig_long(r, 0);
	rig_gates(r);
	put(r, PD + (NOWHERE >> 21) * 8, 0, 8);
	memcpy(r->ram + CODE_AT, p->code, (size_t)(p->end - p->code));
	for (unsigned k = 0; k < 16; k++)
		r->c->gpr[k] = 0x1111111111111111ULL * k;
	r->c->gpr[RSP] = 0x9000;
	r->c->gpr[RDI] = DATA_AT;
	r->c->rip = CODE_AT;
}

/* A block has bytes of the function, and begins elsewhere. */
static bool follows(const struct jit *j, uint64_t function)
{
	for (const struct jit_block *b = j->block; b < j->block + j->nblocks; b++)
		for (unsigned k = 0; k < b->nranges; k++)
			if (b->rip != function &&
			    function - (b->page[b->range[k].page].lin + b->range[k].off) < b->range[k].len)
				return true;
	return false;
}

/* True if a call was followed. */
static bool agree(const struct program *p, unsigned threshold)
{
	void *state[2];
	bool followed;
	struct rig *i, *t;

	print_message("%s, threshold %u\n", p->name, threshold);
	jit_threshold = threshold;
	rig_setup(&state[0]);
	rig_setup(&state[1]);
	i = state[0];
	t = state[1];
	i->c->jit = NULL;
	prepare(i, p);
	prepare(t, p);
	assert_int_equal(engine_run(i->c), engine_run(t->c));
	assert_memory_equal(i->c->gpr, t->c->gpr, 16 * 8);
	assert_int_equal(i->c->rip, t->c->rip);
	assert_int_equal(i->c->rflags, t->c->rflags);
	assert_int_equal(i->c->cr2, t->c->cr2);
	assert_int_equal(engine_retired(i->c), engine_retired(t->c));
	assert_memory_equal(i->ram + RIG_HLT, t->ram + RIG_HLT, 0x2000);
	assert_memory_equal(i->ram + DATA_AT, t->ram + DATA_AT, 4096);
	followed = follows(t->c->jit, t->c->gpr[R11]);
	rig_teardown(&state[0]);
	rig_teardown(&state[1]);
	return followed;
}

/*
 * What has not been seen to lead anywhere is not followed. Seen to fail with each of these broken in jit_op.c: the guard (the
 * path goes on wherever the branch leads), jit_astray's push (a JMP in its place), its RET's step; and with is_indirect false.
 */
static void followed_and_not(void **unused)
{
	for (unsigned k = 0; k < ARRAY_SIZE(programs); k++) {
		bool one_place = programs[k].code != p_by_turns;

		assert_false(agree(&programs[k], 0));
		agree(&programs[k], 1);
		assert_int_equal(agree(&programs[k], 4), one_place);
		assert_int_equal(agree(&programs[k], 16), one_place);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(followed_and_not),
	};

	if (base_sig_enable())
		return 1;
	setenv("USERKVM_STATS", "1", 1); /* all instructions are counted */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
