/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The differential test: random ring-3 instruction sequences on the host's CPU and on the engine.
 *
 * Both sides see the same linear memory: code pages at CODE and a 64 KiB data area at DATA, whose pages are
 * present, read-only or absent as page_kind says. In 64-bit and 32-bit code addresses are linear; in 16-bit
 * code CS and the data segments have CODE and DATA as their bases. Everything around is unmapped.
 *
 * Between two engines (the translator and the interpreter) there is no host, and more modes: diff_side.h.
 */
#ifndef DIFF_H
#define DIFF_H

#include <Zydis/Zydis.h>

#include "base/base.h"

#define CODE	   0x10000000UL
#define CODE_PAGES 3 /* two with code, one absent */
#define DATA	   0x20000000UL
#define DATA_PAGES 16
#define DATA_SIZE  (DATA_PAGES * PAGE_SIZE)
#define DATA_PIECE 64	     /* what is copied together */
#define STACK_AT   0x4800    /* where the stack pointer starts, in the data area */
#define REAL_DATA  0x80000UL /* real mode: the areas once more, where a loaded segment register leads to */
#define REAL_CODE  0x90000UL
#define XS_SIZE	   2816
#define MAX_INSNS  8   /* of a test of single instructions, helpers not counted */
#define MAX_SEQ	   128 /* of a sequence, with everything */

enum page_kind { ABSENT, READ_ONLY, READ_WRITE };
extern const uint8_t data_page_kind[DATA_PAGES];

enum { GP_AX, GP_CX, GP_DX, GP_BX, GP_SP, GP_BP, GP_SI, GP_DI };
enum { S_ES, S_CS, S_SS, S_DS, S_FS, S_GS };

/* Segments of the LDT; the selector of entry n is n * 8 + 7. */
enum { L_CODE32, L_FLAT32, L_CODE16, L_DATA16, L_BASED32, L_DOWN32, L_CONST32, L_ABSENT, L_ENTRIES };
#define LDT_SEL(n) ((n)*8 + 7)
struct ldt_desc {
	uint32_t base, limit; /* limit in pages if `pages` */
	bool big, pages, read_only, absent;
	uint8_t contents; /* 0 data, 1 expand-down, 2 code */
};
extern const struct ldt_desc ldt[L_ENTRIES];

/*
 * Modes are numbers: 64, 32 and 16 bits in ring 3, which the host executes too; and those that only an engine can be
 * compared in: real mode, and 64-bit code at level 0.
 */
enum mode { MODE_REAL = 8, MODE_16 = 16, MODE_32 = 32, MODE_64 = 64, MODE_KERNEL = 65, MODES = 5 };
static inline bool is64(int mode)
{
	return mode >= MODE_64;
}
static inline bool is16(int mode)
{
	return mode <= MODE_16;
}
static inline bool is_real(int mode)
{
	return mode == MODE_REAL;
}
/* At level 0. */
static inline bool is_system(int mode)
{
	return mode == MODE_REAL || mode == MODE_KERNEL;
}
static inline int mode_at(unsigned index)
{
	static const int modes[MODES] = {MODE_64, MODE_32, MODE_16, MODE_REAL, MODE_KERNEL};

	return modes[index];
}
static inline unsigned mode_index(int mode)
{
	unsigned n = 0;

	while (n < MODES - 1 && mode_at(n) != mode)
		n++;
	return n;
}
static inline const char *mode_name(int mode)
{
	static const char *const names[MODES] = {"64", "32", "16", "real", "kernel"};

	return names[mode_index(mode)];
}

struct tstate {
	uint64_t gpr[16], rip, rflags;
	uint16_t sel[6];
	uint64_t fsbase, gsbase;
	uint8_t xs[XS_SIZE] __attribute__((aligned(64))); /* standard XSAVE area */
};

#define X_U16(s, off) (*(uint16_t *)((s)->xs + (off)))
#define X_U32(s, off) (*(uint32_t *)((s)->xs + (off)))
#define X_U64(s, off) (*(uint64_t *)((s)->xs + (off)))
#define X_MXCSR(s)    X_U32(s, 24)

/* How a run ended. */
enum { END_TIMEOUT = -1, END_ODD = -2 };  /* instead of a vector: no result to compare */
enum { END_HALT = 900, END_EXIT = 1000 }; /* a HLT of the test; an exit of engine_run */
struct outcome {
	struct tstate st;
	int vector;
	uint64_t error, cr2;
	uint64_t counts[2]; /* single-step traps, interrupts */
};

/* -- Native side -- */
void native_init(void);
/* Again at the start of each mode: cmocka puts its own handlers around every test. */
void native_take_signals(void);
void native_run(const struct tstate *in, struct outcome *out);
extern void (*native_on_crash)(void);	   /* called before the program ends on a signal of its own */
extern uint8_t *native_code, *native_data; /* writable aliases */
/* Bumped about 20 times a second of CPU time; the engine's poll looks too. */
extern _Atomic unsigned watchdog_ticks;

/* -- Engine sides -- */
struct side;
struct test;
extern struct side under_test, reference; /* of the tier that USERKVM_ENGINE names; of the interpreter */
void engine_side_init(void);
bool engine_translates(void);
void engine_side_run(struct side *s, const struct test *t, struct outcome *out);
/* Instructions executed: the interpreter counts all, a translator those that it left. */
extern uint64_t engine_insns;
/* The watchdog's signal: makes the engine look at the clock. */
void engine_side_kick(void);
/* Signals at random times while tests run that want to be disturbed. */
void disturb_init(void);
void disturb_on(bool on);
struct disturb_counts {
	uint64_t signals, interrupts;
};
extern struct disturb_counts *disturb_counts;

/* -- Random numbers (splitmix) -- */
extern uint64_t rng_state;
static inline uint64_t rnd(void)
{
	uint64_t z = rng_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}
static inline uint64_t below(uint64_t n)
{
	return n ? (unsigned __int128)rnd() * n >> 64 : 0;
}
static inline bool chance(unsigned percent)
{
	return below(100) < percent;
}

/* -- Values (diff_values_part.c) -- */
uint64_t random_value(void);
void random_bytes(uint8_t *p, unsigned len);
/* Zeroed memory that children share: what is counted. Ends the program if there is none. */
void *shared_memory(size_t size);

/* -- Instructions -- */
enum form { FORM_REG, FORM_MEM, FORM_STRADDLE, FORM_FAULT, FORMS };
struct tinsn {
	uint8_t bytes[15];
	uint8_t len;
	uint32_t at; /* offset in the code area */
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t form; /* enum form, filled when generated */
	uint8_t aim;  /* the form that the coverage table wants, FORMS: any */
	bool helper;  /* a MOV that sets an address register */
	bool dead;    /* shrinking: NOPs stand in its place */
};

/* One test: where it starts, its instructions, its input. */
struct test {
	int mode; /* enum mode */
	bool sequence;
	bool step;	  /* the trap flag's handler counts and goes back */
	bool disturb;	  /* of the engine under test */
	bool against;	  /* the interpreter, not the host */
	bool third;	  /* the host, and the interpreter too */
	unsigned cold;	  /* times that a translator first sees where a branch leads */
	uint8_t grouping; /* its enum jit_grouping */
	struct tinsn insn[MAX_SEQ];
	unsigned n;
	struct tinsn drawn; /* the first one, before its operands were steered */
	bool alone;	    /* ... and it is the only one */
	uint32_t code_at, code_len;
	uint8_t role[16]; /* of a sequence's registers (diff_seq_part.c) */
	struct tstate in;
	uint8_t code[CODE_PAGES * PAGE_SIZE];
	uint8_t data[DATA_SIZE];
	uint64_t dirty[DATA_SIZE / DATA_PIECE / 64]; /* pieces of `data` that no side has yet */
};

int gpr_number(ZydisRegister r); /* -1: none */
bool decode(int mode, const uint8_t *bytes, unsigned len, struct tinsn *out);
/* Builds the template tables of a mode. */
void gen_init(int mode);
/* A random instruction of the mode, drawn evenly over mnemonics and forms. `only`: NULL or a mnemonic. */
bool gen_insn(int mode, struct tinsn *out, const char *only);
/* The same of a kind, its memory operand (if it takes one by ModRM) at [base + index * scale + disp]. */
enum gen_kind { GEN_ANY, GEN_GENERAL, GEN_VECTOR, GEN_KINDS };
struct gen_place {
	uint8_t base;
	int8_t index;  /* -1: none */
	uint8_t scale; /* log2 */
	int32_t disp;
};
bool gen_insn_at(int mode, struct tinsn *out, enum gen_kind kind, const struct gen_place *place);
/* Do cells of the mode lack tests? */
bool gen_lacks(int mode);

/* -- Tests (diff_make_part.c) -- */
void test_make(struct test *t, int mode, unsigned insns, const char *only);
/* Of a test with one instruction: what its memory operand is in truth, where the registers say. */
enum form actual_form(const struct test *t, const struct tinsn *i);
/* The same instruction, if the test has but one, with another state and operand; false: no cell of it needs it. */
bool test_again(struct test *t);
/* No instructions, and INT3 where those of the last test were. */
void test_clear_code(struct test *t);
/* A sequence: blocks, loops, calls, accesses off shared bases. `against`: for the interpreter's comparison. */
void seq_make(struct test *t, int mode, bool against);
/* New values in the registers of a sequence. */
void seq_state(struct test *t);
void random_state(struct tstate *s, int mode);
void append(struct test *t, const struct tinsn *i);
uint64_t segment_base(const struct test *t, int mode, unsigned seg);

/* -- Running and comparing (diff_compare_part.c) -- */
enum verdict { SAME, DIFFERS, SKIPPED };
enum verdict test_run(const struct test *t, struct outcome *nat, struct outcome *eng);
/* Behind a test that was the same: takes the memory that it left as the next one's. */
void test_keep_memory(struct test *t);
/* The next test runs on other sides, or with another test's data: all of it is loaded. */
void test_out_of_sync(void);
unsigned test_compare(const struct test *t, const struct outcome *nat, const struct outcome *eng, bool print);
/* Cuts a test that differs down to its shortest form that still does. */
void test_shrink(struct test *t);
void test_print_input(const struct test *t, uint64_t seed);
void test_print(const struct test *t, uint64_t seed);

/* -- Tables (diff_table_part.c) -- */
const char *excluded(const struct tinsn *i); /* the reason, or NULL */
bool branches(const struct tinsn *i);
uint64_t undefined_flags(const struct tinsn *i);
/* Bits of CR2 that no manual defines for a fault of this instruction. */
uint64_t cr2_slack(const struct tinsn *i);
bool same_fault(const struct tinsn *i, int nat, int eng);
bool memory_undefined(const struct tinsn *i);
bool vector_undefined(const struct tinsn *i, const struct outcome *o);

/* -- Coverage (diff_cover_part.c) -- */
unsigned cover_size(const struct tinsn *i);
/* `file` keeps the table between runs; NULL: nothing does. */
void cover_init(const char *file);
void cover_known(int mode, const struct tinsn *i);
/* Not LEA. */
bool accesses_memory(const struct tinsn *i);
/* A test of the instruction that was to be of form `aimed` (FORMS: of any) and was of form `form`, and how it ended. */
void cover_count(int mode, const struct tinsn *i, enum form aimed, enum form form, int vector);
/* A test of it that was not compared. */
void cover_skipped(int mode, const struct tinsn *i);
/* Random bits do not make this one. */
void cover_not_drawn(int mode, unsigned mnemonic, unsigned size, enum form form);
/* Does the cell need tests? */
bool cover_wants(int mode, unsigned mnemonic, unsigned size, enum form form);
/* The form of this instruction that needs them most, or FORMS. */
enum form cover_pick(int mode, const struct tinsn *i);
struct cover_sums {
	unsigned cells, full, empty_why, few_why, empty, few; /* _why: with a reason */
	uint64_t tests;
};
struct cover_sums cover_sums(int mode);
/* The sums of every mode that was tested, to the end of `summary` too; the whole table to `file`. Both may be NULL. */
void cover_print(const char *file, const char *summary);

/* How tests of a kind ended; printed and forgotten. */
void outcome_init(void);
void outcome_count(const struct test *t, const struct outcome *o);
void outcome_print(void);

#endif
