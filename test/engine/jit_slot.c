/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest registers that live in memory (R12 to R15), as each operand of what the translator copies and in each pair: the
 * same registers and flags as the interpreter's.
 *	make check T=engine/jit_slot
 */
#include "engine/jit.h"
#include "rig_code.h"

#define CODE_AT 0x6000UL

/* An opcode with ModRM: its registers are tried in pairs, or, with an extension, those of ModRM.rm alone. */
struct form {
	const char *name;
	uint8_t map; /* 0x0f, or 0 */
	uint8_t op;
	int8_t ext;  /* ModRM.reg; -1: a register */
	uint8_t imm; /* bytes; 4 are 2 with prefix 66 */
	bool byte;   /* its form of 8 bits is one less */
};
static const struct form forms[] = {
    {"add rm", 0, 0x01, -1, 0, true},	    {"add reg", 0, 0x03, -1, 0, true},
    {"or", 0, 0x0b, -1, 0, true},	    {"adc rm", 0, 0x11, -1, 0, true},
    {"adc reg", 0, 0x13, -1, 0, true},	    {"sbb rm", 0, 0x19, -1, 0, true},
    {"sbb reg", 0, 0x1b, -1, 0, true},	    {"and", 0, 0x21, -1, 0, true},
    {"sub rm", 0, 0x29, -1, 0, true},	    {"sub reg", 0, 0x2b, -1, 0, true},
    {"xor", 0, 0x31, -1, 0, true},	    {"cmp rm", 0, 0x39, -1, 0, true},
    {"cmp reg", 0, 0x3b, -1, 0, true},	    {"test", 0, 0x85, -1, 0, true},
    {"xchg", 0, 0x87, -1, 0, true},	    {"mov rm", 0, 0x89, -1, 0, true},
    {"mov reg", 0, 0x8b, -1, 0, true},	    {"movsxd", 0, 0x63, -1, 0, false},
    {"imul", 0x0f, 0xaf, -1, 0, false},	    {"imul 8", 0, 0x6b, -1, 1, false},
    {"imul 32", 0, 0x69, -1, 4, false},	    {"movzx", 0x0f, 0xb6, -1, 0, false},
    {"movzx 16", 0x0f, 0xb7, -1, 0, false}, {"movsx", 0x0f, 0xbe, -1, 0, false},
    {"cmovz", 0x0f, 0x44, -1, 0, false},    {"cmovs", 0x0f, 0x48, -1, 0, false},
    {"cmpxchg", 0x0f, 0xb1, -1, 0, true},   {"xadd", 0x0f, 0xc1, -1, 0, true},
    {"bt", 0x0f, 0xa3, -1, 0, false},	    {"shld", 0x0f, 0xa4, -1, 1, false},
    {"shrd cl", 0x0f, 0xad, -1, 0, false},  {"popcnt", 0x0f, 0xb8, -1, 0, false},
    {"add 8", 0, 0x83, 0, 1, false},	    {"sub 32", 0, 0x81, 5, 4, false},
    {"cmp 8", 0, 0x83, 7, 1, false},	    {"mov imm", 0, 0xc7, 0, 4, false},
    {"test imm", 0, 0xf7, 0, 4, false},	    {"not", 0, 0xf7, 2, 0, true},
    {"neg", 0, 0xf7, 3, 0, true},	    {"mul", 0, 0xf7, 4, 0, false},
    {"inc", 0, 0xff, 0, 0, true},	    {"dec", 0, 0xff, 1, 0, true},
    {"shl 1", 0, 0xd1, 4, 0, true},	    {"shr cl", 0, 0xd3, 5, 0, true},
    {"sar imm", 0, 0xc1, 7, 1, true},	    {"rol", 0, 0xc1, 0, 1, true},
    {"setz", 0x0f, 0x94, 0, 0, false},
};
static const uint8_t regs[] = {RAX, RSI, 11, 12, 13, 15};

#define LONG 0x4866 /* two idle prefixes 66 and REX.W: the copy, with a displacement, may have 15 bytes */

/* One instruction; prefix 0x66, 0x48 (REX.W), LONG, or 0. */
static uint8_t *emit(uint8_t *p, const struct form *f, unsigned prefix, unsigned reg, unsigned rm, bool byte)
{
	unsigned imm = f->imm == 4 && prefix == 0x66 ? 2 : f->imm;

	for (unsigned k = 0; k < (prefix == LONG ? 2 : prefix == 0x66); k++)
		*p++ = 0x66;
	if (f->op == 0xb8)
		*p++ = 0xf3;
	*p++ = (uint8_t)(0x40 | (prefix == 0x48 || prefix == LONG ? 8 : 0) |
			 (f->ext < 0 ? reg >> 3 << 2 : 0) | rm >> 3);
	if (f->map)
		*p++ = f->map;
	*p++ = (uint8_t)(f->op - byte);
	*p++ = (uint8_t)(0xc0 | (f->ext < 0 ? reg & 7 : (unsigned)f->ext) << 3 | (rm & 7));
	for (unsigned k = 0; k < imm; k++)
		*p++ = (uint8_t)(0x85 + 3 * k);
	return p;
}

/* All operands and sizes of a form, one behind the other; what went before is hashed into RBX. */
static uint8_t *emit_all(uint8_t *p, const struct form *f)
{
	static const uint8_t mix[] = {0x48, 0xc1, 0xc3, 7,	  /* rol rbx, 7 */
				      0x4c, 0x31, 0xe3,		  /* xor rbx, r12 */
				      0x4c, 0x01, 0xeb,		  /* add rbx, r13 */
				      0x4c, 0x31, 0xfb,		  /* xor rbx, r15 */
				      0x48, 0x01, 0xc3,		  /* add rbx, rax */
				      0x49, 0xff, 0xc7,		  /* inc r15 */
				      0x49, 0x01, 0xdc,		  /* add r12, rbx */
				      0x4d, 0x8d, 0x6c, 0x1d, 5}; /* lea r13, [r13 + rbx + 5] */
	static const uint16_t prefixes[] = {0, 0x66, 0x48, LONG};

	for (unsigned a = 0; a < ARRAY_SIZE(regs); a++)
		for (unsigned b = 0; b < (f->ext < 0 ? ARRAY_SIZE(regs) : 1); b++)
			for (unsigned k = 0; k < ARRAY_SIZE(prefixes) + f->byte; k++) {
				bool byte = k == ARRAY_SIZE(prefixes);

				p = emit(p, f, byte ? 0 : prefixes[k], regs[b], regs[a], byte);
				memcpy(p, mix, sizeof(mix));
				p += sizeof(mix);
			}
	*p++ = 0xf4;
	return p;
}

static void run(void **state, const struct form *f, bool translate, uint64_t *gpr, uint64_t *flags)
{
	struct rig *r = rig_fresh(state, 0, translate);

	assert_true(emit_all(r->ram + CODE_AT, f) < r->ram + RIG_HLT);
	for (unsigned k = 0; k < 16; k++)
		if (k != RSP)
			r->c->gpr[k] = 0x9e3779b97f4a7c15ULL * (k + 3);
	r->c->rip = CODE_AT;
	assert_int_equal(engine_run(r->c), ENGINE_EXIT_HLT);
	assert_true(!translate || r->c->jit->stats.translated > 1);
	memcpy(gpr, r->c->gpr, sizeof(r->c->gpr));
	*flags = r->c->rflags;
}

/* Seen to fail with the same temp for a register that is moved onto itself and not loaded (`mov r12d, r12d`), without turn's
 * other opcode, with 32-bit results left in memory as they are, and with rename_operand for CMOV. */
static void every_operand(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(forms); k++) {
		uint64_t want[GPRS], got[GPRS], want_flags, got_flags;

		run(state, &forms[k], false, want, &want_flags);
		run(state, &forms[k], true, got, &got_flags);
		if (memcmp(want, got, sizeof(want)) || want_flags != got_flags)
			fail_msg("%s: not as interpreted", forms[k].name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(every_operand),
	};

	if (base_sig_enable())
		return 1;
	setenv("USERKVM_ENGINE", "jit:0", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
