/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to engine/: the run loop's half of the stop-the-world, and the instruction cache's shape. */
#ifndef USERKVM_ENGINE_CODE_H
#define USERKVM_ENGINE_CODE_H

#include "engine/cpu.h"

#define ICACHE_BITS  16	  /* 3.6 million decodings in a kernel's boot; 15 bits: 10, 17 bits: 1.9 */
#define ICACHE_EMPTY 0ULL /* no RIP in any mode has this key */

/* Decodings after which the cache is worth huge pages: about as many entries as a huge page's worth of small pages
 * holds. A guest that runs little code then costs little memory. */
#define ICACHE_SETTLE 4096
void icache_settle(struct engine_cpu *c);

/*
 * While cpus run translated code, each begins a new epoch every few milliseconds: so what another vCPU or the VMM
 * writes is seen by a guest that neither leaves nor is interrupted.
 */
void code_keep_looking(struct engine_code *code);
/* c executes CPUID or SERIALIZE: what others wrote before, it executes from here on (SDM 3A 9.1.3). */
void code_serialize(struct engine_cpu *c);

/* The cpu may change guest state from here on; waits while the world is stopped. */
void run_enter(struct engine_cpu *c);
void run_leave(struct engine_cpu *c);
/* At a boundary with the exit word set: stands still while the world is stopped. */
void run_park(struct engine_cpu *c);

#endif
