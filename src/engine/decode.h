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

/* Decodes the instruction at c->rip into *i, reading code bytes with fetch semantics (#PF, #GP for the limit
 * and for more than 15 bytes, NOEMU for MMIO). An undefined opcode becomes a handler that raises #UD. */
void decode_at(struct engine_cpu *c, struct insn *i);

#endif
