/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Flag bits, LAHF, NOPs and hints, fences, cache lines, time stamps, random numbers, BOUND. */
#include <cpuid.h>
#include <sched.h>

#include "engine/ops.h"

/* -- Flags -- */

static void op_clc(struct engine_cpu *c, const struct insn *i)
{
	c->rflags &= ~FLAG_CF;
}

static void op_stc(struct engine_cpu *c, const struct insn *i)
{
	c->rflags |= FLAG_CF;
}

static void op_cmc(struct engine_cpu *c, const struct insn *i)
{
	c->rflags ^= FLAG_CF;
}

static void op_cld(struct engine_cpu *c, const struct insn *i)
{
	c->rflags &= ~FLAG_DF;
}

static void op_std(struct engine_cpu *c, const struct insn *i)
{
	c->rflags |= FLAG_DF;
}

static void op_lahf(struct engine_cpu *c, const struct insn *i)
{
	REG8(c, RAX * 8 + 1) = c->rflags;
}

static void op_sahf(struct engine_cpu *c, const struct insn *i)
{
	const uint64_t mask = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF;

	c->rflags = (c->rflags & ~mask) | (REG8(c, RAX * 8 + 1) & mask);
}

/* -- Hints and fences -- */

static void op_nop(struct engine_cpu *c, const struct insn *i)
{
}

/* A spinning guest CPU gives its host thread away now and then: the lock's holder may need it. */
static void op_pause(struct engine_cpu *c, const struct insn *i)
{
	if (++c->pauses % 256 == 0)
		sched_yield();
	__asm__ volatile("pause");
}

static void op_mfence(struct engine_cpu *c, const struct insn *i)
{
	__asm__ volatile("mfence" ::: "memory");
}

/* Guest stores and loads are ordered as the host's are; what weaker fences add is added by the host's. */
static void op_weak_fence(struct engine_cpu *c, const struct insn *i)
{
	__asm__ volatile("sfence\n\tlfence" ::: "memory");
}

/* Host caches need no flushing for the guest's sake; the address is checked as a byte load's. */
static void op_clflush(struct engine_cpu *c, const struct insn *i)
{
	guest_probe(c, insn_ea(c, i, 1, false), 1, false);
}

/* -- Time and chance -- */

static uint64_t read_tsc(struct engine_cpu *c)
{
	if ((c->cr4 & CR4_TSD) && c->cpl != 0)
		engine_raise_err(c, EXC_GP, 0);
	if (!c->tsc_offset)
		return c->port->tsc(c->ctx);
	return base_rdtsc() + atomic_load_explicit(c->tsc_offset, memory_order_relaxed);
}

static void op_rdtsc(struct engine_cpu *c, const struct insn *i)
{
	uint64_t t = read_tsc(c);

	c->gpr[RAX] = (uint32_t)t;
	c->gpr[RDX] = t >> 32;
}

static void op_rdtscp(struct engine_cpu *c, const struct insn *i)
{
	if (!c->feat.rdtscp)
		engine_raise(c, EXC_UD);
	op_rdtsc(c, i);
	c->gpr[RCX] = (uint32_t)c->tsc_aux;
}

static void op_rdpid(struct engine_cpu *c, const struct insn *i)
{
	reg_set(c, i->dst, (uint32_t)c->tsc_aux, c->code64 ? 8 : 4);
}

/* op: 1 RDSEED. On failure the destination is 0. */
static void op_rdrand(struct engine_cpu *c, const struct insn *i)
{
	uint64_t v = 0;
	bool ok;

	if (i->op)
		__asm__ volatile("rdseed %[v]" : [v] "=r"(v), "=@ccc"(ok));
	else
		__asm__ volatile("rdrand %[v]" : [v] "=r"(v), "=@ccc"(ok));
	reg_set(c, i->dst, ok ? v : 0, i->opsize);
	c->rflags = (c->rflags & ~FLAGS_ARITH) | (ok ? FLAG_CF : 0);
}

/* -- BOUND: a signed index against two bounds in memory -- */

static void op_bound(struct engine_cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, shift = 64 - size * 8;
	int64_t index = (int64_t)(reg_get(c, i->dst, size) << shift);

	if (index < (int64_t)(guest_ld(c, insn_part(c, i, 0, size, false), size) << shift))
		engine_raise(c, EXC_BR);
	if (index > (int64_t)(guest_ld(c, insn_part(c, i, size, size, false), size) << shift))
		engine_raise(c, EXC_BR);
}

/* -- Selection -- */

static insn_fn pick_random(struct insn *i, bool seed)
{
	unsigned a, b = 0, c = 0, d;

	i->op = seed;
	if (seed)
		return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_RDSEED) ? op_rdrand : NULL;
	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_RDRND) ? op_rdrand : NULL;
}

static insn_fn select_hint(const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_CLDEMOTE:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHWT1: return op_nop;
	case ZYDIS_MNEMONIC_PAUSE: return op_pause;
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SERIALIZE: return op_mfence;
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE: return op_weak_fence;
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB: return op_clflush;
	default: return NULL;
	}
}

insn_fn misc_select(struct insn *i, const struct insn_decoded *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_CLC: return op_clc;
	case ZYDIS_MNEMONIC_STC: return op_stc;
	case ZYDIS_MNEMONIC_CMC: return op_cmc;
	case ZYDIS_MNEMONIC_CLD: return op_cld;
	case ZYDIS_MNEMONIC_STD: return op_std;
	case ZYDIS_MNEMONIC_LAHF: return op_lahf;
	case ZYDIS_MNEMONIC_SAHF: return op_sahf;
	case ZYDIS_MNEMONIC_RDTSC: return op_rdtsc;
	case ZYDIS_MNEMONIC_RDTSCP: return op_rdtscp;
	case ZYDIS_MNEMONIC_RDPID: return op_rdpid;
	case ZYDIS_MNEMONIC_RDRAND: return pick_random(i, false);
	case ZYDIS_MNEMONIC_RDSEED: return pick_random(i, true);
	case ZYDIS_MNEMONIC_BOUND: return op_bound;
	default: return select_hint(d);
	}
}
