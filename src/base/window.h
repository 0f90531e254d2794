/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Windows: the only instructions that touch memory which the VMM may unmap or revoke at any moment.
 *
 * A window is a short piece of inline assembly [start, end) with two ways out besides falling through:
 *   fault  where execution continues when the host says SIGSEGV or SIGBUS inside the window;
 *   again  where it continues when a revocation (base_sig_kick) finds the PC inside the window. A plain
 *	    access names its own start, which re-reads the revocation sequence and leaves if it moved; a bulk
 *	    copy names a label behind its end, its registers recording the progress.
 * The table of windows is the ELF section "ukvm_windows", sorted once at start-up. Entries are relative,
 * so the section needs no relocation.
 */
#ifndef USERKVM_BASE_WINDOW_H
#define USERKVM_BASE_WINDOW_H

#include "base/util.h"

struct base_window {
	int32_t start, end, fault, again; /* each relative to its own address */
};

/* Assembly that may leave by a label. cppcheck cannot parse it and is shown an empty statement. */
#ifdef __cppcheck__
#define ASM_GOTO(...) __asm__ volatile("")
#else
#define ASM_GOTO __asm__ goto volatile
#endif

/* Inside an asm statement: labels are assembler labels or %l[] names. */
#define WINDOW(start, end, fault, again)                                                    \
	".pushsection ukvm_windows,\"a\"\n\t.balign 4\n\t.long " start " - .\n\t.long " end \
	" - .\n\t.long " fault " - .\n\t.long " again " - .\n\t.popsection\n\t"

/*
 * Looks pc up. On a hit returns true and stores where to continue. Async-signal-safe.
 */
bool base_window_find(uint64_t pc, uint64_t *fault, uint64_t *again);
/* One more place to look: windows in generated code. fn is async-signal-safe. */
void base_window_also(bool (*fn)(uint64_t pc, uint64_t *fault, uint64_t *again));

/*
 * Copies between our memory and memory that may vanish. Return 0, or -EFAULT after a partial copy.
 * For code that runs outside a vCPU's run (ioctls, device models); they do not look at revocation.
 */
int base_copy_in(void *dst, const void *unsafe_src, size_t len);
int base_copy_out(void *unsafe_dst, const void *src, size_t len);
/* Locked or/and/compare-exchange of a 32-bit word there; -EFAULT, or 0. cmpxchg: *old is updated. */
int base_cmpxchg32_unsafe(uint32_t *unsafe, uint32_t *old, uint32_t val);
int base_cmpxchg64_unsafe(uint64_t *unsafe, uint64_t *old, uint64_t val);

/*
 * The same for memory that may be revoked, too: nothing is touched once *seq differs from `expected`. Who
 * revokes changes *seq, sends the thread SIG_KICK and makes a membarrier; the handler sends the thread back to
 * the comparison. The thread listens (base_sig_listen).
 */
struct base_guard {
	const _Atomic uint64_t *seq;
	uint64_t expected;
};

/* Copies; either side may vanish. 2, 4 and 8 bytes are one access. The number of bytes left: 0 done, more:
 * revoked after that much; or -EFAULT. */
long base_guarded_copy(void *dst, const void *src, size_t len, const struct base_guard *g);
/* Locked compare-and-exchange of 4 or 8 bytes: 0, with *old updated on a mismatch; 1 revoked; or -EFAULT. */
int base_guarded_cmpxchg(void *p, unsigned size, uint64_t *old, uint64_t val, const struct base_guard *g);

#endif
