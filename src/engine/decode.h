/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to engine/: what the selection functions see of a freshly decoded instruction. */
#ifndef USERKVM_ENGINE_DECODE_H
#define USERKVM_ENGINE_DECODE_H

#include <Zydis/Zydis.h>

#include "engine/cpu.h"

struct insn_decoded {
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

enum decode {
	DECODE_OK,    /* *i is filled; an undefined opcode gets a handler that raises #UD */
	DECODE_SHORT, /* the instruction goes on behind the n bytes */
	DECODE_LONG,  /* more than 15 bytes: #GP */
};

/* Decodes the n (1..15) bytes found at c->rip in the current mode into *i, whose key the caller sets. */
enum decode decode_bytes(struct engine_cpu *c, struct insn *i, const uint8_t *bytes, unsigned n);

/* Zydis as the current mode wants it. */
const ZydisDecoder *decode_machine(const struct engine_cpu *c);

/* And as the host's code is. */
const ZydisDecoder *decode_host(void);

/* Byte offset from c->gpr of a general-purpose register of any width. */
unsigned decode_gpr_offset(ZydisRegister reg);
/* 0..15 for a general-purpose register; AH..BH give 16 + 0..3. -1 for other registers. */
int decode_gpr_number(ZydisRegister reg);

/* Sub-families of integer_select; NULL if the mnemonic is not theirs. */
insn_fn alu_select(struct insn *i, const struct insn_decoded *d);
insn_fn mov_select(struct insn *i, const struct insn_decoded *d);
insn_fn shift_select(struct insn *i, const struct insn_decoded *d);
insn_fn bits_select(struct insn *i, const struct insn_decoded *d);
insn_fn muldiv_select(struct insn *i, const struct insn_decoded *d);
insn_fn atomic_select(struct insn *i, const struct insn_decoded *d);
insn_fn stack_select(struct insn *i, const struct insn_decoded *d);
insn_fn branch_select(struct insn *i, const struct insn_decoded *d);
insn_fn string_select(struct insn *i, const struct insn_decoded *d);
insn_fn misc_select(struct insn *i, const struct insn_decoded *d);

#endif
