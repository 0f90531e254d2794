/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The differential test: random ring-3 instruction sequences on the host's CPU and on the engine.
 *
 * Both sides see the same linear memory: code pages at CODE and a 64 KiB data area at DATA, whose pages are
 * present, read-only or absent as page_kind says. In 64-bit and 32-bit code addresses are linear; in 16-bit
 * code CS and the data segments have CODE and DATA as their bases. Everything around is unmapped.
 *
 *	make check T=engine/diff			about 20 s, seed printed
 *	build/checked/test/engine/diff --time 600 --mode 64|32|16|all --seed N [--keep] [--only MNEMONIC]
 *[--table]
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
#define STACK_AT   0x4800 /* where the stack pointer starts, in the data area */
#define XS_SIZE	   2816
#define MAX_INSNS  8

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
enum { END_TIMEOUT = -1, END_ODD = -2 }; /* instead of a vector: no result to compare */
struct outcome {
	struct tstate st;
	int vector;
	uint64_t error, cr2;
};

/* -- Native side -- */
void native_init(void);
/* Again at the start of each mode: cmocka puts its own handlers around every test. */
void native_take_signals(void);
void native_run(const struct tstate *in, struct outcome *out);
extern void (*native_on_crash)(void);	   /* called before the program ends on a signal of its own */
extern uint8_t *native_code, *native_data; /* writable aliases */
/* Bumped about 20 times a second; the engine's poll looks too. */
extern _Atomic unsigned watchdog_ticks;

/* -- Engine side -- */
void engine_side_init(void);
void engine_side_run(const struct tstate *in, int mode, struct outcome *out);
extern uint8_t *engine_code_ram, *engine_data; /* what the guest sees at CODE and DATA */

void engine_side_kick(void);

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

/* -- Instructions -- */
struct tinsn {
	uint8_t bytes[15];
	uint8_t len;
	uint32_t at; /* offset in the code area */
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t form; /* enum form, filled when generated */
	bool helper;  /* a MOV that sets an address register */
};
enum form { FORM_REG, FORM_MEM, FORM_STRADDLE, FORM_FAULT, FORMS };

/* One test: where it starts, its instructions, its input. */
struct test {
	int mode; /* 64, 32, 16 */
	struct tinsn insn[2 * MAX_INSNS];
	unsigned n;
	uint32_t code_at, code_len;
	struct tstate in;
	uint8_t code[CODE_PAGES * PAGE_SIZE];
	uint8_t data[DATA_SIZE];
};

bool decode(int mode, const uint8_t *bytes, unsigned len, struct tinsn *out);
/* Builds the template tables of a mode. */
void gen_init(int mode);
/* A random instruction of the mode, drawn evenly over mnemonics and forms. `only`: NULL or a mnemonic. */
bool gen_insn(int mode, struct tinsn *out, const char *only);
unsigned gen_count(int mode); /* groups of templates */

/* -- Tests (diff_make_part.c) -- */
void test_make(struct test *t, int mode, unsigned insns, const char *only);
uint64_t segment_base(const struct test *t, int mode, unsigned seg);

/* -- Running and comparing (diff_compare_part.c) -- */
enum verdict { SAME, DIFFERS, SKIPPED };
enum verdict test_run(const struct test *t, struct outcome *nat, struct outcome *eng);
/* Takes the memory that the host left as the next test's. */
void test_keep_memory(struct test *t);
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

void cover_count(int mode, const struct tinsn *i, enum form form);
void cover_known(int mode, const struct tinsn *i);
void cover_print(bool full);

#endif
