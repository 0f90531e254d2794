/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running a test on both sides, comparing, shrinking and printing. */
#include <stdio.h>
#include <stdlib.h>

#include "diff_side.h"

static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					 "r8",	"r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const seg_name[6] = {"es", "cs", "ss", "ds", "fs", "gs"};

static struct outcome third; /* of the interpreter in a test of three sides */

/* -- Running -- */

/* Page n of the side that is right: the host's or the interpreter's. */
static uint8_t *right_code(const struct test *t, unsigned n)
{
	return t->against ? side_code(&reference, n) : native_code + n * PAGE_SIZE;
}

static uint8_t *right_data(const struct test *t, unsigned n)
{
	return t->against ? side_data(&reference, n) : native_data + n * PAGE_SIZE;
}

/* Do all sides have what the test's `data` has, but for the pieces in `dirty`? */
static bool in_sync;

void test_out_of_sync(void)
{
	in_sync = false;
}

static void load_data(const struct test *t, unsigned at, unsigned len)
{
	unsigned n = at / PAGE_SIZE, off = at & PAGE_OFFSET_MASK;

	if (data_page_kind[n] == ABSENT)
		return;
	memcpy(right_data(t, n) + off, t->data + at, len);
	memcpy(side_data(&under_test, n) + off, t->data + at, len);
	if (t->third)
		memcpy(side_data(&reference, n) + off, t->data + at, len);
}

static void load_pieces(const struct test *t)
{
	for (unsigned n = 0; n < ARRAY_SIZE(t->dirty); n++)
		for (uint64_t w = t->dirty[n]; w; w &= w - 1)
			load_data(t, (n * 64 + (unsigned)__builtin_ctzll(w)) * DATA_PIECE, DATA_PIECE);
}

static void load_memory(const struct test *t)
{
	for (unsigned n = 0; n < 2; n++) {
		memcpy(right_code(t, n), t->code + n * PAGE_SIZE, PAGE_SIZE);
		memcpy(side_code(&under_test, n), t->code + n * PAGE_SIZE, PAGE_SIZE);
		if (t->third)
			memcpy(side_code(&reference, n), t->code + n * PAGE_SIZE, PAGE_SIZE);
	}
	if (in_sync)
		load_pieces(t);
	else
		for (unsigned n = 0; n < DATA_PAGES; n++)
			load_data(t, n * PAGE_SIZE, PAGE_SIZE);
	in_sync = false;
}

/* An address that may be mapped in this process, where the native run would do harm or read our memory. */
static bool unsafe(const struct outcome *e)
{
#ifdef __SANITIZE_ADDRESS__
	const uint64_t limit = 0x7fff0000; /* its shadow memory begins there */
#else
	const uint64_t limit = 1UL << 32;
#endif

	return e->vector < 0 || (e->vector == 14 && e->cr2 >= limit);
}

static enum verdict run_against_interp(const struct test *t, struct outcome *ref, struct outcome *eng)
{
	/* The clock of a busy machine may stop one side only. */
	for (unsigned tries = 0; tries < 5; tries++) {
		load_memory(t);
		engine_side_run(&reference, t, ref);
		if (ref->vector == END_TIMEOUT)
			return SKIPPED;
		engine_side_run(&under_test, t, eng);
		if (eng->vector != END_TIMEOUT)
			break;
	}
	if (eng->vector == END_TIMEOUT && (t->disturb || t->step)) /* slow enough that luck decides */
		return SKIPPED;
	return test_compare(t, ref, eng, false) ? DIFFERS : SAME;
}

enum verdict test_run(const struct test *t, struct outcome *nat, struct outcome *eng)
{
	if (t->against)
		return run_against_interp(t, nat, eng);
	load_memory(t);
	engine_side_run(&under_test, t, eng);
	if (unsafe(eng))
		return SKIPPED;
	if (t->third)
		engine_side_run(&reference, t, &third);
	if (t->third && unsafe(&third))
		return SKIPPED;
	native_run(&t->in, nat);
	if (unsafe(nat))
		return SKIPPED;
	return test_compare(t, nat, eng, false) ? DIFFERS : SAME;
}

static bool memory_compared;

/* What a test that was the same left on every side is the next one's input. */
void test_keep_memory(struct test *t)
{
	for (unsigned n = 0; n < DATA_PAGES; n++)
		if (data_page_kind[n] != ABSENT &&
		    memcmp(t->data + n * PAGE_SIZE, right_data(t, n), PAGE_SIZE))
			memcpy(t->data + n * PAGE_SIZE, right_data(t, n), PAGE_SIZE);
	memset(t->dirty, 0, sizeof(t->dirty));
	in_sync = memory_compared;
}

/* -- Comparing -- */

static bool show;
static unsigned differences;
static const char *right_name; /* of the side that is right */

static void differ(const char *what, unsigned index, uint64_t nat, uint64_t eng)
{
	differences++;
	if (show && differences < 24)
		printf("    %s[%u]: %s %lx, engine %lx\n", what, index, right_name, nat, eng);
}

static void compare_area(const char *what, const uint8_t *a, const uint8_t *b, unsigned len)
{
	if (!memcmp(a, b, len))
		return;
	for (unsigned n = 0; n < len; n += 8) {
		uint64_t x, y;

		memcpy(&x, a + n, 8);
		memcpy(&y, b + n, 8);
		if (x != y)
			differ(what, n, x, y);
	}
}

/* The instruction that faulted, else the last one. */
static const struct tinsn *last_run(const struct test *t, const struct outcome *o)
{
	for (unsigned n = 0; n < t->n; n++)
		if (t->insn[n].at == (uint32_t)(o->st.rip & 0xffff) && o->vector != 3)
			return &t->insn[n];
	return t->n ? &t->insn[t->n - 1] : NULL;
}

/* Flags that the manuals define behind the last instruction and, if it did not get to it, the one before. */
static uint64_t defined_flags(const struct test *t, const struct outcome *o)
{
	const struct tinsn *last = last_run(t, o);

	if (!last)
		return ~0ULL;
	return ~undefined_flags(last) & ~(last != t->insn ? undefined_flags(last - 1) : 0);
}

static void compare_general(const struct test *t, const struct outcome *nat, const struct outcome *eng)
{
	/* Outside 64-bit code the upper halves of registers are undefined (SDM 1, 3.4.1.1). */
	uint64_t mask = nat->st.sel[S_CS] == 0x33 ? ~0ULL : 0xffffffff;

	for (unsigned n = 0; n < (is64(t->mode) ? 16u : 8u); n++)
		if ((nat->st.gpr[n] ^ eng->st.gpr[n]) & mask)
			differ(gpr_name[n], n, nat->st.gpr[n] & mask, eng->st.gpr[n] & mask);
	if (nat->st.rip != eng->st.rip)
		differ("rip", 0, nat->st.rip, eng->st.rip);
	if ((nat->st.rflags ^ eng->st.rflags) & defined_flags(t, nat))
		differ("rflags", 0, nat->st.rflags, eng->st.rflags);
	for (unsigned n = 0; n < 6; n++)
		if (nat->st.sel[n] != eng->st.sel[n] && (nat->st.sel[n] | eng->st.sel[n]) > 3)
			differ(seg_name[n], n, nat->st.sel[n], eng->st.sel[n]);
	if (is64(t->mode) && nat->st.fsbase != eng->st.fsbase)
		differ("fsbase", 0, nat->st.fsbase, eng->st.fsbase);
	if (is64(t->mode) && nat->st.gsbase != eng->st.gsbase)
		differ("gsbase", 0, nat->st.gsbase, eng->st.gsbase);
}

static void compare_end(const struct test *t, const struct outcome *nat, const struct outcome *eng)
{
	if (nat->vector != eng->vector && same_fault(last_run(t, nat), nat->vector, eng->vector))
		return;
	if (nat->vector != eng->vector)
		differ("vector", 0, nat->vector, eng->vector);
	else if (nat->vector != 1 && nat->vector != 3 && nat->error != eng->error)
		differ("error code", 0, nat->error, eng->error);
	if (nat->vector == 14 && eng->vector == 14 && (nat->cr2 ^ eng->cr2) & ~cr2_slack(last_run(t, nat)))
		differ("cr2", 0, nat->cr2, eng->cr2);
}

static void compare_vector(const struct test *t, const struct outcome *nat, const struct outcome *eng)
{
	const uint8_t *a = nat->st.xs, *b = eng->st.xs;

	if (last_run(t, nat) && vector_undefined(last_run(t, nat), nat))
		return;
	compare_area("x87 control", a, b, 24);
	if (X_MXCSR(&nat->st) != X_MXCSR(&eng->st))
		differ("mxcsr", 0, X_MXCSR(&nat->st), X_MXCSR(&eng->st));
	for (unsigned n = 0; n < 8; n++)
		if (memcmp(a + 32 + 16 * n, b + 32 + 16 * n, 10))
			compare_area(n ? "st" : "st0", a + 32 + 16 * n, b + 32 + 16 * n, 16);
	compare_area("xmm", a + 160, b + 160, 256);
	compare_area("ymm high", a + 576, b + 576, 256);
	compare_area("k", a + 1088, b + 1088, 64);
	compare_area("zmm high", a + 1152, b + 1152, 512);
	compare_area("zmm16", a + 1664, b + 1664, 1024);
}

/* Two tiers execute the same host instructions: nothing is undefined. */
static void compare_engines(const struct test *t, const struct outcome *a, const struct outcome *b)
{
	if (a->vector != b->vector)
		differ("vector", 0, (uint64_t)a->vector, (uint64_t)b->vector);
	if (a->error != b->error)
		differ("error code", 0, a->error, b->error);
	if (a->cr2 != b->cr2)
		differ("cr2", 0, a->cr2, b->cr2);
	for (unsigned n = 0; n < 16; n++)
		if (a->st.gpr[n] != b->st.gpr[n])
			differ(gpr_name[n], n, a->st.gpr[n], b->st.gpr[n]);
	if (a->st.rip != b->st.rip)
		differ("rip", 0, a->st.rip, b->st.rip);
	if (a->st.rflags != b->st.rflags)
		differ("rflags", 0, a->st.rflags, b->st.rflags);
	for (unsigned n = 0; n < 6; n++)
		if (a->st.sel[n] != b->st.sel[n])
			differ(seg_name[n], n, a->st.sel[n], b->st.sel[n]);
	if (a->st.fsbase != b->st.fsbase || a->st.gsbase != b->st.gsbase)
		differ("fsbase, gsbase", 0, a->st.fsbase ^ b->st.fsbase, a->st.gsbase ^ b->st.gsbase);
	if (a->counts[0] != b->counts[0])
		differ("single steps", 0, a->counts[0], b->counts[0]);
	compare_area("xsave", a->st.xs, b->st.xs, XS_SIZE);
	for (unsigned n = 0; n < DATA_PAGES; n++)
		if (data_page_kind[n] != ABSENT)
			compare_area("memory", side_data(&reference, n), side_data(&under_test, n),
				     PAGE_SIZE);
	for (unsigned n = 0; n < 2; n++)
		compare_area("code", side_code(&reference, n), side_code(&under_test, n), PAGE_SIZE);
}

/* Number of differences; printed if `print`. */
unsigned test_compare(const struct test *t, const struct outcome *nat, const struct outcome *eng, bool print)
{
	show = print;
	differences = 0;
	memory_compared = true;
	right_name = "interp";
	if (t->against || t->third)
		compare_engines(t, t->against ? nat : &third, eng);
	if (t->against)
		return differences;
	right_name = "host";
	compare_end(t, nat, eng);
	compare_general(t, nat, eng);
	compare_vector(t, nat, eng);
	memory_compared = nat->vector == 3 || !last_run(t, nat) || !memory_undefined(last_run(t, nat));
	for (unsigned n = 0; n < DATA_PAGES; n++)
		if (memory_compared && data_page_kind[n] != ABSENT)
			compare_area("memory", native_data + n * PAGE_SIZE, side_data(&under_test, n),
				     PAGE_SIZE);
	return differences;
}

/* -- Shrinking -- */

static void truncate_test(struct test *t, unsigned n)
{
	if (n >= t->n)
		return;
	memset(t->code + t->insn[n].at, 0xcc, 2 * PAGE_SIZE - MIN(t->insn[n].at, 2 * PAGE_SIZE));
	t->n = n;
}

/* The same end without what led to it: the state before the last instruction as the host left it. */
static bool isolate(struct test *t)
{
	static struct test before, single;
	struct outcome nat, eng;
	struct tinsn last = t->insn[t->n - 1];

	if (t->n < 2)
		return false;
	before = *t;
	truncate_test(&before, t->n - 1);
	if (test_run(&before, &nat, &eng) != SAME || nat.vector != 3)
		return false;
	single = *t;
	single.in = nat.st;
	single.in.rip = nat.st.rip - 1;
	single.in.rflags &= ~0x10000ULL;
	test_keep_memory(&single);
	single.n = 1;
	single.insn[0] = last;
	if (test_run(&single, &nat, &eng) != DIFFERS)
		return false;
	*t = single;
	return true;
}

/* What depends on when a signal comes differs now and then. */
static bool still_differs(const struct test *t, struct outcome *nat, struct outcome *eng)
{
	for (unsigned n = t->disturb ? 200 : 1; n; n--)
		if (test_run(t, nat, eng) == DIFFERS)
			return true;
	return false;
}

/* Instructions of a sequence out of the way, each replaced by NOPs, as long as it differs without them. */
static void thin_out(struct test *t)
{
	static struct test part;
	struct outcome nat, eng;

	for (unsigned again = 0; again < 2; again++)
		for (unsigned n = t->n; n-- > 0;) {
			struct tinsn *i = &t->insn[n];

			if (i->dead)
				continue;
			part = *t;
			memset(part.code + i->at, 0x90, i->len);
			if (!still_differs(&part, &nat, &eng))
				continue;
			memset(t->code + i->at, 0x90, i->len);
			i->dead = true;
		}
}

void test_shrink(struct test *t)
{
	static struct test part;
	struct outcome nat, eng;

	if (t->sequence) {
		thin_out(t);
		return;
	}
	for (unsigned n = 1; n < t->n; n++) {
		part = *t;
		truncate_test(&part, n);
		if (test_run(&part, &nat, &eng) == DIFFERS) {
			*t = part;
			break;
		}
	}
	isolate(t);
}

/* -- Printing -- */

static void print_insn(const struct test *t, const struct tinsn *i)
{
	ZydisFormatter f;
	char text[160] = "";

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	ZydisFormatterFormatInstruction(&f, &i->in, i->op, i->in.operand_count_visible, text, sizeof(text),
					(is16(t->mode) ? 0 : CODE) + i->at, NULL);
	printf("  %6x:", i->at);
	for (unsigned n = 0; n < 15; n++) {
		if (n < i->len)
			printf(" %02x", i->bytes[n]);
		else
			printf("   ");
	}
	printf("  %s\n", text);
}

static void print_registers(const struct test *t, const struct tstate *s)
{
	for (unsigned n = 0; n < (is64(t->mode) ? 16u : 8u); n++)
		printf("%s%-3s %016lx%s", n % 4 ? " " : "    ", gpr_name[n], s->gpr[n],
		       n % 4 == 3 ? "\n" : "");
	printf("    rip %016lx rflags %lx fs %lx gs %lx; cs %x ss %x ds %x es %x fs %x gs %x\n", s->rip,
	       s->rflags, s->fsbase, s->gsbase, s->sel[S_CS], s->sel[S_SS], s->sel[S_DS], s->sel[S_ES],
	       s->sel[S_FS], s->sel[S_GS]);
	printf("    fcw %x fsw %x ftw %x mxcsr %x\n", X_U16(s, 0), X_U16(s, 2), s->xs[4], X_MXCSR(s));
}

static void print_vector(const struct tstate *s, unsigned r)
{
	printf("    zmm%-2u", r);
	for (int b = 56; b >= 0; b -= 8) {
		unsigned at = r >= 16  ? 1664 + 64 * (r - 16) + b
			      : b < 16 ? 160 + 16 * r + b
			      : b < 32 ? 576 + 16 * r + b - 16
				       : 1152 + 32 * r + b - 32;

		printf(" %016lx", X_U64(s, at));
	}
	printf("\n");
}

/* The vector, mask and x87 registers that the last instruction names. */
static void print_operands(const struct test *t, const struct tinsn *i)
{
	for (unsigned n = 0; n < i->in.operand_count; n++) {
		const ZydisDecodedOperand *o = &i->op[n];
		unsigned id;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		id = ZydisRegisterGetId(o->reg.value);
		switch (ZydisRegisterGetClass(o->reg.value)) {
		case ZYDIS_REGCLASS_XMM:
		case ZYDIS_REGCLASS_YMM:
		case ZYDIS_REGCLASS_ZMM: print_vector(&t->in, id); break;
		case ZYDIS_REGCLASS_MASK: printf("    k%u %lx\n", id, X_U64(&t->in, 1088 + 8 * id)); break;
		case ZYDIS_REGCLASS_X87:
		case ZYDIS_REGCLASS_MMX:
			for (unsigned k = 0; k < 8; k++)
				printf("    st%u %04x %016lx\n", k, X_U16(&t->in, 40 + 16 * k),
				       X_U64(&t->in, 32 + 16 * k));
			return;
		default: break;
		}
	}
}

void test_print_input(const struct test *t, uint64_t seed)
{
	printf("mode %s, test seed %lx\n", mode_name(t->mode), seed);
	for (unsigned n = 0; n < t->n; n++)
		if (!t->insn[n].dead)
			print_insn(t, &t->insn[n]);
	printf("  input%s%s:\n", t->step ? ", single step" : "", t->disturb ? ", disturbed" : "");
	print_registers(t, &t->in);
	for (unsigned n = t->n; n-- > 0;)
		if (!t->insn[n].dead) {
			print_operands(t, &t->insn[n]);
			if (!t->sequence)
				break;
		}
}

void test_print(const struct test *t, uint64_t seed)
{
	struct outcome nat, eng;
	enum verdict v = test_run(t, &nat, &eng);

	printf("MISMATCH, ");
	test_print_input(t, seed);
	printf("  %s: vector %d error %lx cr2 %lx\n", t->against ? "interp" : "host", nat.vector, nat.error,
	       nat.cr2);
	printf("  engine: vector %d error %lx cr2 %lx%s\n", eng.vector, eng.error, eng.cr2,
	       v == DIFFERS ? "" : " (not reproduced)");
	test_compare(t, &nat, &eng, true);
	fflush(stdout);
}
