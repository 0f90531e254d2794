/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The run loop: RIP -> instruction (cached, its bytes compared at every use) -> handler -> RIP.
 *
 * The comparison is the code coherence rule: whoever wrote the code (this guest CPU, another, the VMM by
 * memcpy or by pread), the next use sees it. Everything rare leaves the inner loop: a non-zero exit word or
 * slow bit, a page that is not the current code page, bytes that are not those decoded.
 */
#include <emmintrin.h>

#include "engine/access.h"
#include "engine/code.h"
#include "engine/decode.h"
#include "engine/jit.h"

_Static_assert(offsetof(struct engine_cpu, slow) == offsetof(struct engine_cpu, exit_word) + 4,
	       "read as one word");
_Static_assert(offsetof(struct engine_cpu, exit_word) % 8 == 0, "read as one word");

/* -- Leaving -- */

static _Noreturn void leave(struct engine_cpu *c, enum leave how)
{
	c->leave = how;
	siglongjmp(*c->jump, 1);
}

_Noreturn void engine_raise(struct engine_cpu *c, enum exc vector)
{
	c->fault = (struct engine_event){.kind = ENGINE_EV_EXCEPTION, .vector = vector};
	c->fault_payload = 0;
	leave(c, LEAVE_FAULT);
}

_Noreturn void engine_raise_err(struct engine_cpu *c, enum exc vector, uint32_t error)
{
	c->fault = (struct engine_event){
	    .kind = ENGINE_EV_EXCEPTION, .vector = vector, .has_error = true, .error = error};
	c->fault_payload = 0;
	leave(c, LEAVE_FAULT);
}

_Noreturn void engine_raise_pf(struct engine_cpu *c, uint64_t cr2, uint32_t error)
{
	c->fault = (struct engine_event){
	    .kind = ENGINE_EV_EXCEPTION, .vector = EXC_PF, .has_error = true, .error = error};
	c->fault_payload = cr2;
	leave(c, LEAVE_FAULT);
}

_Noreturn void engine_raise_db(struct engine_cpu *c, uint64_t dr6)
{
	c->fault = (struct engine_event){.kind = ENGINE_EV_EXCEPTION, .vector = EXC_DB};
	c->fault_payload = dr6;
	leave(c, LEAVE_FAULT);
}

_Noreturn void engine_leave(struct engine_cpu *c, enum engine_exit exit)
{
	c->exit = exit;
	leave(c, LEAVE_EXIT);
}

void engine_leave_soon(struct engine_cpu *c, enum engine_exit exit)
{
	c->exit = exit;
	c->slow |= SLOW_LEAVE;
	c->next_rip = c->rip;
	c->retired--; /* the loop counts it */
}

void engine_obey(struct engine_cpu *c, enum engine_status st)
{
	switch (st) {
	case ENGINE_OK: return;
	case ENGINE_STOP: engine_leave(c, ENGINE_EXIT_STOP);
	case ENGINE_GP: engine_raise_err(c, EXC_GP, 0);
	case ENGINE_UD: engine_raise(c, EXC_UD);
	case ENGINE_FIX: base_bug("only a hypercall is fixed"); return;
	}
}

/* -- Finding the instruction -- */

static inline struct insn *icache_slot(struct engine_cpu *c, uint64_t rip)
{
	return &c->icache[(rip ^ (rip >> ICACHE_BITS)) & ((1UL << ICACHE_BITS) - 1)];
}

/* What makes insn.key differ between modes, and never 0: canonical addresses end in 0 or f. */
static uint64_t mode_bits(const struct engine_cpu *c)
{
	switch (c->mode_key) {
	case 64: return 4ULL << 60;
	case 32: return 1ULL << 60;
	case 16: return 2ULL << 60;
	default: return 3ULL << 60;
	}
}

/* Decodes n bytes into the slot; false: more bytes are needed. Raises #GP for an instruction above 15 bytes.
 */
static bool decode_into(struct engine_cpu *c, struct insn *i, const uint8_t *bytes, unsigned n)
{
	enum decode r;

	i->key = ICACHE_EMPTY;
	r = decode_bytes(c, i, bytes, n);
	if (r == DECODE_LONG)
		engine_raise_err(c, EXC_GP, 0);
	if (r == DECODE_SHORT)
		return false;
	i->key = c->rip ^ c->fetch_mode;
	c->decodings++;
	return true;
}

static uint64_t code_linear(const struct engine_cpu *c, uint64_t rip)
{
	return c->code64 ? rip : (uint32_t)(c->seg[CS].base + rip);
}

/* The TLB's answer for a fetch, else the walk's. */
static uint8_t *code_host(struct engine_cpu *c, uint64_t lin, uint64_t *seq)
{
	struct tlb_entry *e = TLB_AT(c, lin);
	struct place p;

	*seq = atomic_load_explicit(&c->revoke_seq, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	if (likely(e->xtag == TLB_TAG(c, lin, 1)))
		return (uint8_t *)(lin + e->addend);
	mmu_find(c, lin, ACC_EXEC, &p);
	if (!p.host)
		engine_leave(c, ENGINE_EXIT_NOEMU);
	*seq = p.seq;
	return p.host;
}

/* #GP for an instruction pointer outside the code segment; the bytes left in it at rip, at most 15. */
static unsigned code_room(struct engine_cpu *c, uint64_t rip)
{
	if (c->code64) {
		if (!is_canonical(rip))
			engine_raise_err(c, EXC_GP, 0);
		return 15;
	}
	if (rip > c->seg[CS].limit)
		engine_raise_err(c, EXC_GP, 0);
	return MIN(c->seg[CS].limit - rip + 1, 15ULL);
}

/*
 * Makes the page of RIP the current code page. False if RIP lies so close to its end, or to the limit of CS,
 * that 16 bytes cannot be read there (or a revocation came between: then the slow way serves as well).
 */
static bool fetch_refill(struct engine_cpu *c)
{
	uint64_t rip = c->rip, lin, seq, back, ahead;
	uint8_t *host;

	code_room(c, rip);
	lin = code_linear(c, rip);
	host = code_host(c, lin, &seq);
	back = lin & PAGE_OFFSET_MASK;
	ahead = PAGE_SIZE - back;
	if (!c->code64) {
		back = MIN(back, rip);
		ahead = MIN(ahead, (uint64_t)c->seg[CS].limit - rip + 1);
	}
	if (ahead < 16)
		return false;
	c->fetch_mode = mode_bits(c);
	c->fetch_start = rip - back;
	c->fetch_host = host - back;
	c->fetch_len = back + ahead - 15;
	atomic_signal_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&c->revoke_seq, memory_order_relaxed) != seq) {
		fetch_forget(c);
		return false;
	}
	return true;
}

/* Reads n bytes of code at rip, all in one page. */
static void fetch_bytes(struct engine_cpu *c, uint64_t rip, uint8_t *buf, unsigned n)
{
	for (;;) {
		uint64_t seq;
		uint8_t *host = code_host(c, code_linear(c, rip), &seq);
		long left = raw_copy(c, buf, host, n, seq);

		if (left == 0)
			return;
		if (left < 0)
			access_bad(c);
	}
}

/* The instruction at RIP near the end of a page or of the code segment. */
static struct insn *insn_at_edge(struct engine_cpu *c)
{
	struct insn *i = icache_slot(c, c->rip);
	unsigned room = code_room(c, c->rip);
	unsigned here = MIN(room, (unsigned)(PAGE_SIZE - (code_linear(c, c->rip) & PAGE_OFFSET_MASK)));
	uint8_t buf[16] = {0};

	c->fetch_mode = mode_bits(c);
	fetch_bytes(c, c->rip, buf, here);
	if (i->key == (c->rip ^ c->fetch_mode) && !memcmp(buf, i->bytes, MIN(here, i->len))) {
		if (i->len <= here)
			return i;
	} else if (decode_into(c, i, buf, here)) {
		return i;
	}
	if (here == room) /* the next byte lies behind the limit, or would be the 16th */
		engine_raise_err(c, EXC_GP, 0);
	fetch_bytes(c, c->rip + here, buf + here, room - here);
	if (i->key == (c->rip ^ c->fetch_mode) && !memcmp(buf, i->bytes, i->len) && i->len <= room)
		return i;
	if (!decode_into(c, i, buf, room))
		engine_raise_err(c, EXC_GP, 0);
	return i;
}

/* Reads the 16 bytes at RIP from the current code page; false if RIP is not in it. */
static inline bool fetch_fast(struct engine_cpu *c, __m128i *bytes)
{
	uint64_t t;
	__m128i v;

	ASM_GOTO("771: movq %[rip], %[t]\n\t"
		 "subq %[start], %[t]\n\t"
		 "cmpq %[len], %[t]\n\t"
		 "jae %l[miss]\n\t"
		 "addq %[host], %[t]\n\t"
		 "movdqu (%[t]), %[v]\n772:\n\t" WINDOW("771b", "772b", "%l[bad]", "771b")
		 : [t] "=&r"(t), [v] "=&x"(v)
		 : [rip] "r"(c->rip), [start] "m"(c->fetch_start), [len] "m"(c->fetch_len),
		   [host] "m"(c->fetch_host)
		 : "cc"
		 : miss, bad);
	*bytes = v;
	return true;
miss:
	return false;
bad:
	access_bad(c);
}

/* Do the bytes that were read begin with the instruction's? */
static inline bool same_bytes(const struct insn *i, __m128i bytes)
{
	unsigned differ = ~_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, *(const __m128i *)i->bytes));

	return likely(__builtin_ctz(differ) >= i->len);
}

/* Everything but a hit in the current page; may raise. */
static __attribute__((noinline)) struct insn *insn_slow(struct engine_cpu *c)
{
	struct insn *i = icache_slot(c, c->rip);
	uint8_t buf[16];
	__m128i v;

	if (!fetch_fast(c, &v) && (!fetch_refill(c) || !fetch_fast(c, &v)))
		return insn_at_edge(c);
	if (i->key == (c->rip ^ c->fetch_mode) && same_bytes(i, v))
		return i;
	memcpy(buf, &v, 16);
	if (!decode_into(c, i, buf, 15))
		engine_raise_err(c, EXC_GP, 0);
	return i;
}

/* What the check costs is measured with a library that trusts its cache (make bench); no other does. */
#ifdef USERKVM_BENCH_NO_COHERENCE
#define UNCHECKED(c, i) ((c)->fetch_len && (i)->key == ((c)->rip ^ (c)->fetch_mode))
#else
#define UNCHECKED(c, i) false
#endif

static inline struct insn *insn_find(struct engine_cpu *c)
{
	struct insn *i = icache_slot(c, c->rip);
	__m128i v;

	if (UNCHECKED(c, i))
		return i;
	if (unlikely(!fetch_fast(c, &v)) || i->key != (c->rip ^ c->fetch_mode) || !same_bytes(i, v))
		return insn_slow(c);
	return i;
}

/*
 * The same, but looks first at what followed `prev` last time: that load does not wait for RIP to be known
 * and hashed, which is the longest chain of the loop.
 */
static inline struct insn *insn_after(struct engine_cpu *c, struct insn *prev)
{
	struct insn *i = (struct insn *)((char *)c->icache + prev->next);
	__m128i v;

	if (UNCHECKED(c, i))
		return i;
	if (unlikely(!fetch_fast(c, &v)))
		return insn_slow(c);
	if (unlikely(i->key != (c->rip ^ c->fetch_mode))) {
		i = icache_slot(c, c->rip);
		prev->next = (char *)i - (char *)c->icache;
		if (unlikely(i->key != (c->rip ^ c->fetch_mode)))
			return insn_slow(c);
	}
	return same_bytes(i, v) ? i : insn_slow(c);
}

/* -- For the translator -- */

uint8_t *interp_code_host(struct engine_cpu *c, uint64_t *seq)
{
	code_room(c, c->rip);
	return code_host(c, code_linear(c, c->rip), seq);
}

bool interp_one(struct engine_cpu *c)
{
	const struct insn *i = insn_find(c);
	uint64_t next = (c->rip + i->len) & c->ip_mask;

	c->next_rip = next;
	i->exec(c, i);
	c->rip = c->next_rip;
	c->retired++;
	return c->rip == next;
}

/* -- The loops -- */

static inline bool boundary_calm(const struct engine_cpu *c)
{
	return likely(__atomic_load_n((const uint64_t *)&c->exit_word, __ATOMIC_RELAXED) == 0);
}

/* Runs until a boundary needs attention. */
static __attribute__((noinline)) void run_fast(struct engine_cpu *c)
{
	struct insn *i = c->icache; /* any: the first guess is checked as all are */

	while (boundary_calm(c)) {
		i = insn_after(c, i);
		c->next_rip = (c->rip + i->len) & c->ip_mask;
		i->exec(c, i);
		c->rip = c->next_rip;
		c->retired++;
	}
}

/*
 * Where the last run was short this one probably is, too: a guest talks to a device. Then generated code, whose blocks
 * must be compared anew at each entry, costs more than it saves.
 */
#define SHORT_RUN 32

/* Not where everything is to be translated at once (USERKVM_ENGINE=jit:0). */
static inline bool short_run_likely(const struct engine_cpu *c)
{
	return c->last_run < SHORT_RUN && c->retired - c->run_began < SHORT_RUN && jit_threshold;
}

static void run_short(struct engine_cpu *c)
{
	struct insn *i = c->icache;

	for (unsigned n = 0; n < SHORT_RUN && jit_calm(c); n++) {
		c->jit->stats.cold++;
		i = insn_after(c, i);
		c->next_rip = (c->rip + i->len) & c->ip_mask;
		i->exec(c, i);
		c->rip = c->next_rip;
		c->retired++;
	}
}

/* After an instruction retired: the traps that it owes. MOV SS puts them off by one instruction. */
static void careful_after(struct engine_cpu *c)
{
	bool tf = c->before.tf;

	memset(&c->before, 0, sizeof(c->before));
	if (!(c->shadow & ENGINE_SHADOW_MOVSS))
		debug_after(c, tf);
}

/* One instruction with everything that the fast loop leaves out. */
static __attribute__((noinline)) void run_careful(struct engine_cpu *c)
{
	const struct insn *i;
	bool user = c->cpl;

	c->before.shadow = c->shadow;
	c->before.rf = c->rflags & FLAG_RF;
	c->before.tf = c->rflags & FLAG_TF;
	if ((c->slow & SLOW_BREAK) && !c->before.rf && !(c->shadow & ENGINE_SHADOW_MOVSS))
		debug_check_exec(c);
	i = insn_find(c);
	c->shadow = 0;
	c->slow &= ~SLOW_SHADOW;
	if (c->before.rf)
		rflags_set(c, c->rflags & ~FLAG_RF);
	c->next_rip = (c->rip + i->len) & c->ip_mask;
	i->exec(c, i);
	if (unlikely(c->slow & SLOW_LEAVE)) { /* with `before` to be given back */
		c->slow &= ~SLOW_LEAVE;
		c->retired++;
		leave(c, LEAVE_EXIT);
	}
	if ((c->before.rf || c->before.tf) && c->next_rip == c->rip && i->rep != REP_NONE)
		rflags_set(c, c->rflags | FLAG_RF); /* a repeated instruction that goes on */
	if (unlikely(c->slow & SLOW_COUNT) && (i->rep == REP_NONE || c->next_rip != c->rip))
		count_retired(c, i, user);
	c->rip = c->next_rip;
	c->retired++;
	if (c->jit)
		c->jit->stats.cold++;
	if (c->shadow)
		c->slow |= SLOW_SHADOW;
	careful_after(c);
}

/* The exit word and the window. True: leave with c->exit. A step obeys neither, but stands still if asked. */
static bool boundary_asks(struct engine_cpu *c, bool step)
{
	if (step) {
		run_park(c);
		return false;
	}
	if (unlikely(atomic_load_explicit(&c->exit_word, memory_order_relaxed))) {
		bool stop = false;

		if (atomic_exchange(&c->exit_word, 0) != EXIT_LOOK) {
			port_enter(c);
			stop = c->port->poll(c->ctx);
			port_leave(c);
		}
		if (stop) {
			c->exit = ENGINE_EXIT_POLL;
			return true;
		}
	}
	if (unlikely(c->slow & SLOW_WINDOW) && engine_interruptible(c)) {
		c->want_window = false;
		c->slow &= ~SLOW_WINDOW;
		c->exit = ENGINE_EXIT_WINDOW;
		return true;
	}
	if (!(c->rflags & FLAG_IF)) /* whoever sets it asks for another look */
		c->slow &= ~SLOW_WINDOW;
	return false;
}

/* HLT retired. False: a single-step trap wakes the CPU before it slept (debug_after raises). */
static bool halted(struct engine_cpu *c)
{
	c->rip = c->next_rip;
	c->retired++;
	c->counts.insns[0] += c->slow & SLOW_COUNT ? 1 : 0;
	if (!c->before.tf)
		return true;
	careful_after(c);
	return false;
}

/* What to do after a jump out of a handler or a delivery: true = leave engine_run with c->exit. */
static bool run_landed(struct engine_cpu *c)
{
	enum leave how = c->leave;

	c->leave = LEAVE_NONE;
	if (how == LEAVE_EXIT) {
		if (c->exit == ENGINE_EXIT_HLT)
			return halted(c);
		/* The instruction will begin again: its shadow and RF with it. */
		c->shadow |= c->before.shadow;
		if (c->shadow)
			c->slow |= SLOW_SHADOW;
		if (c->before.rf)
			rflags_set(c, c->rflags | FLAG_RF);
		return true;
	}
	if (how == LEAVE_FAULT) {
		memset(&c->before, 0, sizeof(c->before));
		c->shadow = 0;
		c->slow &= ~SLOW_SHADOW;
		if (!event_begin(c)) {
			c->exit = ENGINE_EXIT_SHUTDOWN;
			return true;
		}
	}
	return false;
}

/* One boundary and what follows it. True: leave with c->exit. */
static __attribute__((noinline)) bool run_some(struct engine_cpu *c, bool step)
{
	memset(&c->before, 0, sizeof(c->before));
	if (c->slow & SLOW_LEAVE) {
		c->slow &= ~SLOW_LEAVE;
		return true;
	}
	if (c->is_delivering) {
		event_deliver(c);
		if (step) {
			c->exit = ENGINE_EXIT_STEPPED;
			return true;
		}
	}
	if (boundary_asks(c, step))
		return true;
	if (!step && !(c->slow & SLOW_REASONS)) {
		if (!c->jit) {
			run_fast(c);
			return false;
		}
		if (short_run_likely(c))
			run_short(c);
		if (jit_calm(c)) /* else a VM that ran a little would have its code memory for nothing */
			jit_run(c);
		return false;
	}
	run_careful(c);
	c->exit = ENGINE_EXIT_STEPPED;
	return step;
}

/* The common body. Jumps land at sigsetjmp; nothing in this frame changes after it. */
static enum engine_exit run(struct engine_cpu *c, bool step, bool same_code)
{
	sigjmp_buf *outer = c->jump;
	sigjmp_buf here;

	c->jump = &here;
	c->leave = LEAVE_NONE;
	if (unlikely(c->decodings >= ICACHE_SETTLE && !c->icache_settled))
		icache_settle(c);
	run_enter(c);
	if (!step) {
		c->last_run = c->retired - c->run_began;
		c->run_began = c->retired;
	}
#ifndef USERKVM_BENCH_NO_COHERENCE
	if (!same_code)
		jit_begin(c);
#endif
	if (!sigsetjmp(here, 0) || (jit_landed(c), !run_landed(c)))
		while (!run_some(c, step))
			;
	run_leave(c);
	c->jump = outer;
	return c->exit;
}

enum engine_exit engine_run(struct engine_cpu *c)
{
	lock_assert_none("engine_run");
	return run(c, false, false);
}

enum engine_exit engine_go_on(struct engine_cpu *c)
{
	lock_assert_none("engine_go_on");
	return run(c, false, true);
}

enum engine_exit engine_step(struct engine_cpu *c)
{
	lock_assert_none("engine_step");
	return run(c, true, false);
}

/* -- For the room above -- */

_Atomic uint32_t *engine_exit_word(struct engine_cpu *c)
{
	return &c->exit_word;
}

uint64_t engine_linear_rip(const struct engine_cpu *c)
{
	return code_linear(c, c->rip);
}

/* A look from outside at counts that their owner changes: old or new, either will do. */
__attribute__((no_sanitize("thread"))) uint64_t engine_progress(const struct engine_cpu *c)
{
	return *(const volatile uint64_t *)&c->retired + (c->jit ? jit_progress(c->jit) : 0);
}

uint64_t engine_retired(const struct engine_cpu *c)
{
	return c->retired;
}
