/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Retired instructions and branches by privilege, while somebody wants them: every boundary is then a careful one. */
#include <Zydis/Zydis.h>

#include "engine/cpu.h"

/* Near and far, taken or not: what the CPU's "branch instructions retired" counts. */
static bool is_branch(uint16_t mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_JB:
	case ZYDIS_MNEMONIC_JBE:
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JL:
	case ZYDIS_MNEMONIC_JLE:
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_JNB:
	case ZYDIS_MNEMONIC_JNBE:
	case ZYDIS_MNEMONIC_JNL:
	case ZYDIS_MNEMONIC_JNLE:
	case ZYDIS_MNEMONIC_JNO:
	case ZYDIS_MNEMONIC_JNP:
	case ZYDIS_MNEMONIC_JNS:
	case ZYDIS_MNEMONIC_JNZ:
	case ZYDIS_MNEMONIC_JO:
	case ZYDIS_MNEMONIC_JP:
	case ZYDIS_MNEMONIC_JRCXZ:
	case ZYDIS_MNEMONIC_JS:
	case ZYDIS_MNEMONIC_JZ:
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT: return true;
	default: return false;
	}
}

void count_retired(struct engine_cpu *c, const struct insn *i, bool user)
{
	c->counts.insns[user]++;
	c->counts.branches[user] += is_branch(i->mnemonic);
	if (c->counts.left && !--c->counts.left)
		atomic_store(&c->exit_word, 1);
}

void engine_count(struct engine_cpu *c, bool on, uint64_t left)
{
	c->counts.left = on ? left : 0;
	if (on)
		c->slow |= SLOW_COUNT;
	else
		c->slow &= ~(uint32_t)SLOW_COUNT;
}

const struct engine_counts *engine_counts(const struct engine_cpu *c)
{
	return &c->counts;
}
