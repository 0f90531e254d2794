/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Accesses that are looked up together and lie on two pages again and again: the same result as the interpreter's, and no
 * handler for each of them.
 *	make check T=engine/jit_group
 */
#include "engine/jit.h"
#include "rig_code.h"

#define CODE_AT	      0x6000UL
#define DATA_AT	      0x40000UL
#define ROUNDS	      1000
#define CODE_OF(name) name, (size_t)(name##_end - name)

/* A frame at the end of a page (rsp), fields at rdi, a call and two ways through; rcx rounds. */
CODE(
    p_frames,
    "mov $1000, %ecx\n"
    "1: push %rcx\n push %rbx\n push %rbp\n mov %rsp, %rbp\n sub $40, %rsp\n mov %rcx, -8(%rbp)\n"
    "mov %rdi, -24(%rbp)\n add %ecx, (%rdi)\n mov 8(%rdi), %rax\n xor %rax, 24(%rdi)\n test $3, %cl\n jz 2f\n"
    "incw 12(%rdi)\n call 3f\n"
    "2: mov -24(%rbp), %rdx\n add -8(%rbp), %rdx\n adc %rdx, 16(%rdi)\n leave\n pop %rbx\n pop %rcx\n dec "
    "%ecx\n"
    "jnz 1b\n hlt\n ud2\n"
    "3: push %rax\n rolq $3, 8(%rdi)\n pop %rbx\n ret");

/* Four groups that each take all of a path of 43 instructions, at rsi, r8, r9 and rdi. */
#define STEP(k)                                                                                    \
	"add 8*" #k "(%rsi), %rax\n xor %rax, 8*" #k "(%r8)\n add %rax, 8*" #k "(%r9)\n adc 8*" #k \
	"(%rdi), %rdx\n"
CODE(p_woven, "mov $1000, %ecx\n"
	      "1: " STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8)
		  STEP(9) "add %rdx, %rax\n dec %ecx\n jnz 1b\n hlt\n");

static struct engine_stats run(void **state, const uint8_t *code, size_t size, bool translate, unsigned rsp,
			       unsigned data)
{
	struct rig *r = rig_fresh(state, 0, translate);
	struct engine_stats s = {0};

	memcpy(r->ram + CODE_AT, code, size);
	for (unsigned k = 0; k < 4 * PAGE_SIZE; k++)
		r->ram[DATA_AT + k] = (uint8_t)(k * 37);
	r->c->gpr[RSP] = rsp;
	for (unsigned k = 0; k < 4; k++)
		r->c->gpr[(const uint8_t[]){RDI, RSI, 8, 9}[k]] = DATA_AT + k * PAGE_SIZE + (k ? 0 : data);
	r->c->rip = CODE_AT;
	assert_int_equal(engine_run(r->c), ENGINE_EXIT_HLT);
	engine_stats(r->c, &s);
	return s;
}

/*
 * Seen to fail with jit_jump_apart as jit_jump_slow (a handler each round), in look_in_vain with NO_GROUPS in place of
 * GROUPS_APART (no part), with accesses of a part in groups (m->accesses 0), and with e_jmp to the part's last instruction.
 */
static void on_two_pages(void **state)
{
	static const unsigned rsp[] = {0x9800, 0x9008, 0x9018, 0x9030, 0x9010},
			      data[] = {0, 0xff0, 0xfe8, 0x7f8};

	for (unsigned k = 0; k < ARRAY_SIZE(rsp); k++)
		for (unsigned n = 0; n < ARRAY_SIZE(data); n++) {
			uint64_t gpr[16], sum, flags;
			struct engine_stats s;
			struct rig *r;
			bool parts = false;

			run(state, CODE_OF(p_frames), false, rsp[k], data[n]);
			r = *state;
			memcpy(gpr, r->c->gpr, sizeof(gpr));
			flags = r->c->rflags;
			sum = rig_sum(r->ram + 0x8f00, 0x1000) ^ rig_sum(r->ram + DATA_AT, 8192);
			s = run(state, CODE_OF(p_frames), true, rsp[k], data[n]);
			r = *state;
			assert_memory_equal(gpr, r->c->gpr, sizeof(gpr));
			assert_int_equal(flags, r->c->rflags);
			assert_int_equal(sum,
					 rig_sum(r->ram + 0x8f00, 0x1000) ^ rig_sum(r->ram + DATA_AT, 8192));
			for (uint32_t x = 0; x < r->c->jit->nsites; x++)
				parts |= r->c->jit->site[x].apart;
			print_message("rsp %x, data %x: %lu by handlers\n", rsp[k], data[n], s.left);
			assert_int_equal(parts, rsp[k] < 0x9100 || data[n] > 0xf00);
			assert_true(s.left < 10 * ROUNDS); /* the first JIT_IN_VAIN rounds, of two blocks */
		}
}

/* Seen to fail with JIT_PARTED_MAX as it was, 64: the last group, which needs it, found no room, and then there were no groups. */
static void many_on_two_pages(void **state)
{
	uint64_t gpr[16], sum;
	struct engine_stats s;
	bool apart = false;
	struct rig *r;

	run(state, CODE_OF(p_woven), false, 0x9800, 0xfc8);
	r = *state;
	memcpy(gpr, r->c->gpr, sizeof(gpr));
	sum = rig_sum(r->ram + DATA_AT, 5 * PAGE_SIZE);
	s = run(state, CODE_OF(p_woven), true, 0x9800, 0xfc8);
	r = *state;
	assert_memory_equal(gpr, r->c->gpr, sizeof(gpr));
	assert_int_equal(sum, rig_sum(r->ram + DATA_AT, 5 * PAGE_SIZE));
	for (uint32_t k = 0; k < r->c->jit->nblocks; k++) {
		assert_int_not_equal(*jit_grouping(r->c->jit, r->c->jit->block[k].rip), NO_GROUPS);
		apart |= *jit_grouping(r->c->jit, r->c->jit->block[k].rip) == GROUPS_APART;
	}
	assert_true(apart);
	assert_true(s.left < 10 * ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(on_two_pages),
	    RIG_TEST(many_on_two_pages),
	};

	if (base_sig_enable())
		return 1;
	setenv("USERKVM_ENGINE", "jit:0", 1);
	setenv("USERKVM_STATS", "1", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
