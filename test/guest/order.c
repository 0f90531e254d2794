/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * x86-TSO between vCPUs: litmus tests whose bodies are guest code. Each vCPU walks along an array of cells, in step with
 * its neighbour as far as the machine's CPUs allow (so much waiting per run and no more), and executes its body once in every cell; the outcomes that TSO
 * forbids may never be found, and the reordering that it allows (store buffering) must be, or the test would see nothing.
 *	make check T=guest/order
 *	make torture T=guest/order TIME=60
 * Each seen to fail with its reader's loads exchanged (mp, mp_vector_string, corr), with stores before the loads (lb),
 * and without MFENCE or LOCK (sb_mfence, sb_locked, sb_xchg); iriw only with its condition inverted, for four vCPUs on
 * two CPUs hardly ever meet.
 * WORKS: Memory order between vCPUs | SB, MP, LB, CoRR, IRIW as guest code: nothing that x86-TSO forbids
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run_util.h"
#include "torture.h"

#define RAM	 (4UL << 20)
#define CODE	 0x1000 /* a page a vCPU */
#define PROGRESS 0x8000 /* a line a vCPU */
#define TABLES	 0x90000
#define CELLS	 0x100000
#define CELL	 512
#define N_CELLS	 4096
#define THREADS	 4

/* Of a cell: x and y in lines of their own, 16 bytes of results for each vCPU, zero until written. */
#define X "(%rdi)"
#define Y "64(%rdi)"
#define R "128(%rdi,%r9)"
#define Q "132(%rdi,%r9)"

/* rbx: my progress, rbp: the neighbour's, r9: where in a cell my results go, rsi: cells. */
#define BODY(name, text)                                                                   \
	KU_ASM(name, 64,                                                                   \
	       "mov $1, %r8d\n mov $3000000, %r10d\n"                                      \
	       "1: mov %r8, (%rbx)\n"                                                      \
	       "2: cmp %r8, (%rbp)\n jae 3f\n sub $1, %r10d\n jnc 2b\n xor %r10d, %r10d\n" \
	       "3:" text "\n"                                                              \
	       "add $" KU_STR(CELL) ", %rdi\n inc %r8\n cmp %rsi, %r8\n jbe 1b\n hlt\n")
#define KU_STR_(x) #x
#define KU_STR(x)  KU_STR_(x)

BODY(set_x, "movl $1, " X);
BODY(set_y, "movl $1, " Y);
BODY(x_then_read_y, "movl $1, " X "\n mov " Y ", %eax\n mov %eax, " R);
BODY(y_then_read_x, "movl $1, " Y "\n mov " X ", %eax\n mov %eax, " R);
BODY(x_fence_y, "movl $1, " X "\n mfence\n mov " Y ", %eax\n mov %eax, " R);
BODY(y_fence_x, "movl $1, " Y "\n mfence\n mov " X ", %eax\n mov %eax, " R);
BODY(x_lock_y, "movl $1, " X "\n lock addl $0, 192(%rdi,%r9)\n mov " Y ", %eax\n mov %eax, " R);
BODY(y_lock_x, "movl $1, " Y "\n lock addl $0, 192(%rdi,%r9)\n mov " X ", %eax\n mov %eax, " R);
BODY(x_xchg_y, "mov $1, %eax\n xchg %eax, " X "\n mov " Y ", %eax\n mov %eax, " R);
BODY(y_xchg_x, "mov $1, %eax\n xchg %eax, " Y "\n mov " X ", %eax\n mov %eax, " R);
BODY(set_x_set_y, "movl $1, " X "\n movl $1, " Y);
BODY(read_y_read_x, "mov " Y ", %eax\n mov " X ", %edx\n mov %eax, " R "\n mov %edx, " Q);
BODY(read_x_read_y, "mov " X ", %eax\n mov " Y ", %edx\n mov %eax, " R "\n mov %edx, " Q);
BODY(read_x_set_y, "mov " X ", %eax\n movl $1, " Y "\n mov %eax, " R);
BODY(read_y_set_x, "mov " Y ", %eax\n movl $1, " X "\n mov %eax, " R);
BODY(set_x_twice, "movl $1, " X "\n movl $2, " X);
BODY(read_x_twice, "mov " X ", %eax\n mov " X ", %edx\n mov %eax, " R "\n mov %edx, " Q);
/* Message passing with a vector for the message and a string instruction for its reader. */
BODY(vector_then_y,
     "movl $1, %eax\n movd %eax, %xmm0\n pshufd $0, %xmm0, %xmm0\n movaps %xmm0, " X "\n movl $1, " Y);
BODY(read_y_string_x, "mov " Y ", %eax\n mov %eax, " R "\n push %rdi\n push %rsi\n mov %rdi, %rsi\n"
		      "lea 132(%rdi,%r9), %rdi\n movsl\n pop %rsi\n pop %rdi");

struct cell {
	uint32_t r[THREADS][2]; /* what each vCPU read, first and second */
};

struct litmus {
	const char *name;
	const uint8_t *body[THREADS];
	const uint8_t *end[THREADS];
	bool (*forbidden)(const struct cell *c);
	bool (*allowed)(const struct cell *c); /* must come up now and then */
};

static bool both_zero(const struct cell *c)
{
	return !c->r[0][0] && !c->r[1][0];
}

static bool both_one(const struct cell *c)
{
	return c->r[0][0] == 1 && c->r[1][0] == 1;
}

/* The second vCPU saw the later store and not the earlier one. */
static bool later_only(const struct cell *c)
{
	return c->r[1][0] && !c->r[1][1];
}

static bool backwards(const struct cell *c)
{
	return c->r[1][0] > c->r[1][1];
}

/* The two readers saw the two stores in different orders. */
static bool disagree(const struct cell *c)
{
	return c->r[2][0] && !c->r[2][1] && c->r[3][0] && !c->r[3][1];
}

static bool never(const struct cell *c)
{
	return false;
}

/* -- Running -- */

struct env {
	struct ku_vm vm;
	struct ku_vcpu cpu[THREADS];
	struct ru run[THREADS];
	unsigned n;
};

static void begin(struct env *e, const struct litmus *l)
{
	ku_vm_create(&e->vm, RAM);
	for (e->n = 0; e->n < THREADS && l->body[e->n]; e->n++) {
		ku_vcpu_create(&e->vm, e->n, &e->cpu[e->n]);
		ku_load(&e->vm, CODE + 4096 * e->n, l->body[e->n], (size_t)(l->end[e->n] - l->body[e->n]));
		e->run[e->n] = (struct ru){.cpu = &e->cpu[e->n]};
	}
}

static void start(struct env *e, unsigned k)
{
	struct kvm_sregs s;
	struct kvm_regs r;

	ku_long_mode(&e->vm, &e->cpu[k], TABLES, CODE + 4096 * k, 0xa000 + 0x1000 * k);
	ku_get_sregs(&e->cpu[k], &s);
	s.cr4 |= 0x600; /* SSE */
	ku_set_sregs(&e->cpu[k], &s);
	ku_get_regs(&e->cpu[k], &r);
	r.rbx = PROGRESS + 64 * k;
	r.rbp = PROGRESS + 64 * ((k + 1) % e->n);
	r.rsi = N_CELLS;
	r.rdi = CELLS;
	r.r9 = 16 * k;
	ku_set_regs(&e->cpu[k], &r);
}

static void all_cells(struct env *e)
{
	memset(e->vm.ram + CELLS, 0, CELL * N_CELLS);
	memset(e->vm.ram + PROGRESS, 0, 64 * THREADS);
	for (unsigned k = 0; k < e->n; k++)
		start(e, k);
	for (unsigned k = 0; k < e->n; k++)
		ru_start(&e->run[k]);
	for (unsigned k = 0; k < e->n; k++) {
		assert_int_equal(ru_join(&e->run[k]), 0);
		assert_int_equal(e->cpu[k].run->exit_reason, KVM_EXIT_HLT);
	}
}

static struct cell result(const struct env *e, unsigned n)
{
	struct cell c;

	for (unsigned k = 0; k < THREADS; k++)
		memcpy(c.r[k], e->vm.ram + CELLS + CELL * n + 128 + 16 * k, 8);
	return c;
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS 3
#else
#define ROUNDS 400
#endif

static void run(void **state)
{
	const struct litmus *l = *state;
	struct torture t = torture_begin(ROUNDS, 10000000);
	uint64_t seen = 0, cells = 0, start = ru_ms();
	struct env e;

	if (ku_oracle())
		skip(); /* several vCPUs */
	begin(&e, l);
	/* The short form: as many rounds as 400 ms allow, for the allowed reordering a little longer. */
	while (t.limit_ns || ru_ms() - start < (l->allowed != never && !seen ? 8000 : 400)) {
		if (!torture_more(&t))
			break;
		all_cells(&e);
		cells += N_CELLS;
		for (unsigned n = 0; n < N_CELLS; n++) {
			struct cell c = result(&e, n);

			seen += l->allowed(&c);
			if (l->forbidden(&c))
				print_error("%s: %u %u, %u %u, %u %u, %u %u\n", l->name, c.r[0][0], c.r[0][1],
					    c.r[1][0], c.r[1][1], c.r[2][0], c.r[2][1], c.r[3][0], c.r[3][1]);
			assert_false(l->forbidden(&c));
		}
	}
	if (l->allowed != never) {
		print_message("%s: the allowed reordering in %lu of %lu cells\n", l->name, seen, cells);
#ifndef __SANITIZE_THREAD__
		assert_true(seen || sysconf(_SC_NPROCESSORS_ONLN) <
					2); /* TSan's own work lies between two accesses */
#endif
	}
	torture_end(&t, l->name);
	for (unsigned k = 0; k < e.n; k++)
		ku_vcpu_destroy(&e.cpu[k]);
	ku_vm_destroy(&e.vm);
}

/* torture: litmus inside guests */
#define TWO(a, b)	 .body = {a, b}, .end = {a##_end, b##_end}
#define FOUR(a, b, c, d) .body = {a, b, c, d}, .end = {a##_end, b##_end, c##_end, d##_end}

static struct litmus tests_[9];

int main(void)
{
	const struct litmus all[] = {
	    {"sb", TWO(x_then_read_y, y_then_read_x), never, both_zero},
	    {"sb_mfence", TWO(x_fence_y, y_fence_x), both_zero, never},
	    {"sb_locked", TWO(x_lock_y, y_lock_x), both_zero, never},
	    {"sb_xchg", TWO(x_xchg_y, y_xchg_x), both_zero, never},
	    {"mp", TWO(set_x_set_y, read_y_read_x), later_only, never},
	    {"mp_vector_string", TWO(vector_then_y, read_y_string_x), later_only, never},
	    {"lb", TWO(read_x_set_y, read_y_set_x), both_one, never},
	    {"corr", TWO(set_x_twice, read_x_twice), backwards, never},
	    {"iriw", FOUR(set_x, set_y, read_x_read_y, read_y_read_x), disagree, never},
	};
	struct CMUnitTest tests[9];

	memcpy(tests_, all, sizeof(all));
	for (unsigned n = 0; n < 9; n++)
		tests[n] =
		    (struct CMUnitTest){.name = all[n].name, .test_func = run, .initial_state = &tests_[n]};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
