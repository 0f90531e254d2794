/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to engine/: the translator. A block is a path through guest code of a few pages, in any mode (jit_trace.h),
 * copied to host code with its registers renamed: the same instruction on the same operands, so the same flags.
 * What it does not copy it hands, instruction by instruction, to the interpreter's handler.
 *
 *	host	rax rdx rbx rbp rsi rdi r8..r11	the guest's registers of that name
 *		r13, r12			guest RCX, RSP
 *		rcx r14 r15			scratch; guest R12..R15 stay in struct engine_cpu
 *		rsp				the host's stack
 *		gs				struct engine_cpu, and struct jit behind it
 *		EFLAGS				the guest's arithmetic flags
 *
 * One cpu owns its translations: no lock, nobody else looks.
 *
 *	jit_code.c	code memory, blocks, look-up, what a PC in generated code belongs to
 *	jit_emit.h/.c	bytes
 *	jit_trace.h/.c	the path, and which of its accesses lie beside each other
 *	jit_access.c	memory operands
 *	jit_op.c	one guest instruction
 *	jit_branch.c	branches
 *	jit_vector.c	vector instructions
 *	jit_bits.c	bit strings in memory
 *	jit_string.c	repeated string instructions
 *	jit_system.c	instructions of a kernel's everyday work
 *	jit_mode.c	what is different in 32-bit and 16-bit code
 *	jit_block.c	a block: what belongs to it, its head and its exits
 *	jit_thunk.c	between generated code and C
 *	jit_run.c	the run loop, and what generated code calls
 *	jit_tlb.c	the table that generated code looks up
 *	jit_lean.c	SYSCALL and SYSRET
 *	jit_page.c	pages with translated code: stores to them, epochs
 *	jit_near.c	which accesses are worth a look at the page before
 */
#ifndef USERKVM_ENGINE_JIT_H
#define USERKVM_ENGINE_JIT_H

#include "engine/access.h"
#include "engine/decode.h"

#define JIT_CODE_SIZE	(128u << 20)
#define JIT_BLOCKS	(1u << 17)
#define JIT_SITES	(1u << 21)
#define JIT_EXITS	(1u << 20)
#define JIT_BUCKETS	(1u << 17)
#define JIT_CLASSES	3 /* privilege classes of the MMU */
#define JIT_TLB		1024
#define JIT_CROSSINGS	256
#define JIT_TABLES	16	   /* of indirect targets: one per key */
#define JIT_INSNS	(1u << 18) /* decoded instructions for the interpreter */
#define JIT_JUMPS	(1u << 16)
#define JIT_LOCAL	96
#define JIT_HEAT	(1u << 18)
#define JIT_LED		8192  /* a power of two */
#define JIT_PAGES	16384 /* buckets of blocks by page */
#define JIT_THRESHOLD	16    /* branches to cold code before it is translated: USERKVM_ENGINE=jit:N */
#define JIT_BLOCK_MAX	64    /* instructions */
#define JIT_PARTED_MAX	256   /* instructions that stand in it once more, for want of a group */
#define JIT_BLOCK_PAGES 4     /* pages that its code may lie on */
#define JIT_RANGES	16    /* places in them */
#define JIT_GROUPS	16
#define JIT_STEPS	(1u << 22)
#define JIT_IN_VAIN	64 /* times that a block's groups may not be looked up, before it is made otherwise */
#define JIT_CODE_PAGES	(1u << 22) /* bits of the filter of host pages with translated code */

/*
 * c->slow's upper bits, which a block's stamp must match: the coherence epoch, and the MMU's generation, so that a
 * change of address space and back finds the blocks of either still compared. Blocks on global pages do not look at
 * the generation: what those addresses mean survives a CR3 load.
 */
#define JIT_EPOCH_SHIFT 8
#define JIT_GEN_SHIFT	22
#define JIT_EPOCHS	(1u << (JIT_GEN_SHIFT - JIT_EPOCH_SHIFT))
_Static_assert(SLOW_REASONS == BIT(JIT_EPOCH_SHIFT) - 1, "what the epoch leaves");
#define JIT_MASK_GLOBAL (BIT(32 + JIT_GEN_SHIFT) - 1)

/*
 * What a translation depends on beside the bytes: the privilege class, and which vector state is enabled. The class is
 * the part that the tables go by.
 */
#define JIT_KEY_CLASS	3
#define JIT_CLASS_USER	0
#define JIT_CLASS_SUPER 1
#define JIT_CLASS_SMAP	2
#define JIT_KEY_SSE	4
#define JIT_KEY_AVX	8
#define JIT_KEY_AVX512	16
#define JIT_KEY_RING0	32
/* Of code that is not 64-bit: its kind, and what else it counts on. */
#define JIT_KEY_MODE	(3 << 6)
#define JIT_MODE_32	(1 << 6)
#define JIT_MODE_16	(2 << 6)
#define JIT_MODE_REAL	(3 << 6) /* 16-bit code of real or virtual-8086 mode: decoded otherwise */
#define JIT_KEY_FLAT	0x100	 /* 32-bit code whose DS, ES and SS are all of the linear addresses */
#define JIT_KEY_STACK32 0x200	 /* SS.B */
#define JIT_KEYS	0x400

/* Per privilege class: linear page -> host, for reads and for writes. `neg` is minus the page's address, so that a sum below
 * 4,096 is a hit (the look-up may not touch flags); JIT_NO_PAGE belongs to an address that is not canonical. */
struct jit_tlb {
	uint64_t rneg[JIT_TLB], radd[JIT_TLB];
	uint64_t wneg[JIT_TLB], wadd[JIT_TLB];
	uint8_t rglobal[JIT_TLB], wglobal[JIT_TLB]; /* entries that a CR3 load leaves */
};
#define JIT_NO_PAGE 0x0101010101010101ULL
/*
 * Pages that a few instructions share, tried before the table: minus the page's address (JIT_NO_PAGE: none) and what to
 * add. Both are known before the guest's address is, so the access does not wait for them.
 */
#define JIT_NEAR	1024
#define JIT_HOLDS_LOCAL 1 /* pages that are not global, found since the address space was entered */
#define JIT_HOLDS_LOW	2
#define JIT_HOLDS_HIGH	4
#define JIT_NEAR_PART	64
struct jit_near {
	uint64_t neg[JIT_NEAR], add[JIT_NEAR];
	uint64_t used[JIT_NEAR / JIT_NEAR_PART]; /* 0: none of these has a page */
	/* Look-ups that went on to the table, and the site of the last one: jit_near.c. */
	struct {
		uint32_t times, site;
	} far[JIT_NEAR];
};
/* How a look-up begins: with the page before, with the table (which is counted, for a while), or it is made without that. */
enum jit_nearness { NEAR_FIRST, NEAR_TRIED, NEAR_NOT };
#define JIT_TRIALS 512 /* sites at a time */

/* No canonical address plus this is one. */
#define JIT_NO_ADDEND BIT(62)

/* A block's accesses in groups; the same, with what counts on a group's look-up once more behind the block, each access on its
 * own, for when there is none; no groups at all. */
enum jit_grouping { GROUPS, GROUPS_APART, NO_GROUPS };

/* Targets of indirect branches between blocks of one key, by jit_jump_index: the complement of jit_place, and the block's
 * entry. Fresh zeros match ~0 only, whose place is not left zero. */
struct jit_jump {
	struct {
		uint64_t not_rip, entry;
	} at[JIT_JUMPS];
};
/* By IP, and a base of CS: neither one IP in two segments nor one address by two IPs shall share an entry. */
#define JIT_JUMP_BASE(base) ((uint16_t)(5 * (base)))
static inline unsigned jit_jump_index(uint64_t ip, uint32_t base)
{
	_Static_assert(JIT_JUMPS == 1U << 16, "what MOVZX leaves is an index");
	return (uint16_t)(ip + JIT_JUMP_BASE(base));
}

struct jit_range {
	uint16_t off, len; /* in the page */
	uint8_t page;	   /* of the block's */
};

/* A page with code of a block. */
struct jit_code_page {
	uint64_t lin;
	const uint8_t *host;	     /* where it led when the bytes were compared; NULL: stored to since */
	uint32_t next_lin, next_bit; /* jit_page.c: lists of these */
	uint32_t bit;
	bool linked;
};

struct jit_block {
	uint64_t rip;	/* linear, as all places of code here: CS has a base outside 64-bit mode */
	uint32_t base;	/* of CS: jit_place */
	uint32_t next;	/* hash chain: index + 1 */
	uint32_t entry; /* code offsets */
	uint32_t body;
	uint32_t bytes; /* offset of the copy of its guest bytes in jit->bytes, range by range */
	uint32_t step;	/* index of its first instruction in jit->step; one more follows the last */
	uint16_t key;
	uint8_t insns, npages, nranges, table;
	bool global;		   /* its pages are */
	bool dead;		   /* its bytes changed: another block has its place */
	uint8_t in_vain;	   /* times that a group could not be looked up */
	uint8_t misses;		   /* times that one of its pages could not be fetched from */
	uint64_t contents, spaces; /* jit's when the bytes were compared */
	struct jit_code_page page[JIT_BLOCK_PAGES]; /* the first is RIP's */
	struct jit_range range[JIT_RANGES];
};

/* RIP and, outside 64-bit mode, the base of CS: what an indirect branch finds a block by. */
static inline uint64_t jit_place(const struct jit_block *b)
{
	return b->key & JIT_KEY_MODE ? (uint64_t)b->base << 32 | (uint32_t)(b->rip - b->base) : b->rip;
}

/* An instruction of a block. */
struct jit_step {
	uint32_t code; /* offset of its code */
	int32_t at;    /* of the guest's code, from the block's RIP; JIT_NOWHERE: unknown, or far away */
	uint8_t
	    until; /* up to which one the interpreter goes on if it executes this, for groups that begin here */
	uint8_t uncounted; /* instructions before it that c->retired has not heard of */
	bool vector;	   /* the guest's vector state is in the host's registers here */
	uint32_t insn;	   /* of jit->insn: index + 1, 0 = not decoded yet */
};
#define JIT_NOWHERE INT32_MIN

enum jit_lean { LEAN_NONE, LEAN_SYSCALL, LEAN_SYSRET };
enum jit_site_kind { SITE_READ, SITE_WRITE, SITE_CALL };

/* A place where generated code may leave: a memory access (its window is [start, end), restarted at start), an
 * instruction for the interpreter, or a block's head. */
struct jit_site {
	uint32_t start, end; /* code offsets; sorted by start */
	uint32_t again;	     /* where a revocation, or a filled table, begins it again */
	uint32_t slow;	     /* where a host fault goes on */
	uint32_t look;	     /* code offset of a look-up that begins near; 0: it does not */
	uint32_t far;	     /* and where it goes on to the table */
	uint32_t block;
	uint8_t index; /* of the instruction */
	uint8_t size, kind;
	uint16_t near;	  /* of JIT_NEAR */
	uint8_t tried;	  /* times */
	int8_t leads;	  /* the group whose look-up this is, or -1 */
	uint8_t apart;	  /* in such a part: its last instruction's number; 0: it is in the block itself */
	int8_t uncounted; /* as in its step; -1: it was counted itself */
	bool sole;	  /* the only look-up for a group in its instruction */
	bool plain;	  /* the access faults before anything else of the instruction does, and as a whole */
	uint8_t own, own_size; /* its own bytes among those that are looked up for a group */
	bool own_write;
	bool member; /* of a group, behind its look-up */
	bool vector; /* the guest's vector state is in the host's registers here */
	bool behind_sti;
	uint8_t lean; /* SITE_CALL: enum jit_lean */
	uint16_t mnemonic;
};

/* A direct branch out of a block, to be patched when its target has a block. */
struct jit_exit {
	uint64_t target;
	uint32_t patch; /* code offset of the rel32 */
	uint32_t key;
};

struct jit {
	/* -- What generated code reads: by gs -- */
	uint64_t mask_index, mask_page, mask_global; /* for pext */
	uint64_t self, helper, head_helper, again, fill, slow_thunk, head_thunk, exit_thunk, enter_target;
	uint64_t vector_out;  /* 0: the host's registers hold the guest's vector state; else c->fpu does */
	uint64_t vector_wide; /* some block names masks, registers 16..31 or 512 bits */
	uint32_t vector_want; /* jit_slow: to be loaded before its site goes on */
	uint32_t slow_site;
	uint64_t mask_sign, mask_if, mask_not_if, mask_df, mask_not_df, mask_smap, mask_arith, mask_not_arith;
	uint64_t mask_tsd, mask_fsgsbase;
	uint64_t mask_bit[3]; /* number of a bit in an operand of 2, 4, 8 bytes */
	uint64_t sti_opened;  /* not 0: the last STI of generated code did open the shadow */
	uint64_t tmp, lin;
	/* For pext: bits that an aligned access of 1, 2, 4 ... 64 bytes in a page does not have. */
	uint64_t mask_near[7];
	struct jit_near near[JIT_CLASSES][2]; /* by read and write */
	/* What to add to linear addresses of a group; JIT_NO_ADDEND: look it up again. */
	uint64_t group[JIT_GROUPS];
	uint64_t flags;		    /* ah, al of lahf; seto al */
	uint64_t stamp[JIT_BLOCKS]; /* minus the word (exit word, slow bits, epoch) under which it is valid */
	struct jit_tlb tlb[JIT_CLASSES];
	struct jit_jump jump[JIT_TABLES];
	uint8_t table_of[JIT_KEYS]; /* of a key: number + 1 */
	unsigned ntables;
	struct {
		uint8_t class;
		uint16_t index;
		bool write;
	} local[JIT_LOCAL];	    /* entries of tlb that are not global */
	unsigned nlocal;	    /* JIT_LOCAL + 1: more than these */
	uint8_t holds[JIT_CLASSES]; /* what may be in a class' tables: JIT_HOLDS_ */
	/* -- The rest -- */
	uint8_t *rw, *rx;
	void (*enter)(struct engine_cpu *c, uint64_t code);
	uint32_t used, thunks_end, bytes_used;
	uint32_t load_vectors; /* thunk: called with vector_out not 0; keeps flags, and all but rcx and r14 */
	uint32_t nblocks, nsites, nexits, nsteps;
	uint32_t exit_id; /* of the exit that was taken, JIT_NO_EXIT */
	bool inside;	  /* jit_run is on the stack */
	/* The last site that the table was filled for, and the address: a second time in a row means that the host
	 * faults there, which the interpreter deals with. */
	uint32_t filled_site;
	uint64_t filled_lin;
	uint32_t dropped;		  /* times that groups were forgotten */
	uint64_t no_block[JIT_CROSSINGS]; /* RIPs at the end of a page that is followed by none */
	uint64_t gs_outside;
	uint8_t tlb_global[TLB_ENTRIES]; /* beside c->tlb: the page is global */
	uint64_t contents;		 /* goes up when somebody may have written any code */
	uint64_t spaces;		 /* and when an address space is entered for the first time */
	uint32_t by_lin[JIT_PAGES], by_bit[JIT_PAGES]; /* lists of blocks: index + 1 */
	uint64_t seen_seq; /* of revocations, at the last epoch that began for one */
	uint32_t *bucket;  /* JIT_BUCKETS: index + 1 */
	struct jit_block *block;
	struct jit_site *site;
	struct jit_exit *exit;
	struct jit_step *step;
	struct insn *insn;
	uint32_t ninsns;
	struct trace *trace;   /* the one that is being made */
	struct jit_stub *stub; /* and what will stand behind its block */
	uint8_t *bytes;	       /* JIT_CODE_SIZE / 4 */
	uint8_t heat[JIT_HEAT];
	struct jit_led {
		uint64_t from, to;
		unsigned times;	    /* in a row */
	} led[JIT_LED];		    /* where cold branches led, by their addresses */
	uint8_t grouping[JIT_HEAT]; /* of blocks there: enum jit_grouping */
	bool alone[JIT_HEAT];	    /* and those on one page: others were not there often enough */
	bool missed;	      /* a block was not entered because of that: the interpreter has to go on */
	bool table[JIT_HEAT]; /* instructions there are made with the table at once: they were not near */
	struct {
		uint32_t site, misses; /* in the period before */
	} trial[JIT_TRIALS];
	uint32_t ntrials;
	uint64_t near_since;	      /* CPU time at the last end of a period of jit_near_judge */
	double near_before, near_now; /* how long the last two were */
	uint64_t code_pages[JIT_CODE_PAGES / 64];
	struct {
		uint64_t translated, translated32, translated16, flushes, code_most, fallbacks, exits,
		    validations, retranslated, bumps, fills, cold;
	} stats;
	uint64_t *by_mnemonic; /* jit_stats.c; NULL: not wanted */
};
#define JIT_NO_STAMP  1 /* no word's: reasons to be careful are never entered */
#define JIT_NO_EXIT   UINT32_MAX
#define JIT_NO_TARGET BIT(56) /* no complement of an address */
#define JIT_BYTES     (JIT_CODE_SIZE / 4)
#define JIT_OFF(f)    ((uint32_t)(sizeof(struct engine_cpu) + offsetof(struct jit, f)))
#define CPU_OFF(f)    ((uint32_t)offsetof(struct engine_cpu, f))
#define CPU_WORD      CPU_OFF(exit_word)

/* The part that says in which mode code is. */
static inline unsigned jit_mode_key(const struct engine_cpu *c)
{
	unsigned key = c->stack32 ? JIT_KEY_STACK32 : 0;

	if (c->mode_key == 16)
		return key | JIT_MODE_16;
	if (c->mode_key == MODE_REAL)
		return key | JIT_MODE_REAL;
	return key | JIT_MODE_32 | (c->seg_flat[DS] & c->seg_flat[ES] & c->seg_flat[SS] ? JIT_KEY_FLAT : 0);
}

static inline unsigned jit_key(const struct engine_cpu *c)
{
	unsigned key = (c->tlb_key & JIT_KEY_CLASS) | (c->cpl ? 0 : JIT_KEY_RING0);

	if (!c->code64)
		key |= jit_mode_key(c);
	if ((c->cr0 & (CR0_TS | CR0_EM)) || !(c->cr4 & CR4_OSFXSR))
		return key;
	key |= JIT_KEY_SSE;
	if ((c->cr4 & CR4_OSXSAVE) && (c->xcr0 & 6) == 6)
		key |= JIT_KEY_AVX | ((c->xcr0 & 0xe6) == 0xe6 ? JIT_KEY_AVX512 : 0);
	return key;
}

/* Base of the code segment. */
static inline uint32_t jit_base(const struct engine_cpu *c)
{
	return c->code64 ? 0 : (uint32_t)c->seg[CS].base;
}

/* The linear address of RIP, and back. */
static inline uint64_t jit_lin(const struct engine_cpu *c)
{
	return c->code64 ? c->rip : (uint32_t)(c->seg[CS].base + c->rip);
}
static inline void jit_go(struct engine_cpu *c, uint64_t lin)
{
	c->rip = c->code64 ? lin : (uint32_t)(lin - c->seg[CS].base);
}

/* The highest IP of a mode. */
static inline uint32_t jit_last_ip(unsigned key)
{
	return (key & JIT_KEY_MODE) == JIT_MODE_32 ? UINT32_MAX : UINT16_MAX;
}

/* True if blocks may be made of the code at RIP: it has all the IPs of its mode, so nobody need look at CS's limit. */
static inline bool jit_may(const struct engine_cpu *c)
{
	uint32_t last = c->mode_key == 32 ? UINT32_MAX : UINT16_MAX;

	return likely(c->code64) || (c->seg[CS].limit >= last && c->rip <= last);
}

/* EFLAGS, with the arithmetic flags that generated code left behind; and what it will find. */
static inline uint64_t jit_flags(const struct engine_cpu *c)
{
	uint64_t f = c->jit->flags;

	return (c->rflags & ~FLAGS_ARITH) | (f >> 8 & (FLAGS_ARITH & 0xff)) | (f & 1) << 11;
}
static inline void jit_flags_out(struct engine_cpu *c)
{
	c->jit->flags = (c->rflags & 0xff) << 8 | (c->rflags >> 11 & 1);
}

/* Privilege class of explicit accesses now. */
static inline unsigned jit_class(const struct engine_cpu *c)
{
	return c->tlb_key & 3;
}

/* The 8 bytes that a block's stamp is compared with. */
static inline uint64_t jit_word(const struct engine_cpu *c)
{
	return __atomic_load_n((const uint64_t *)&c->exit_word, __ATOMIC_RELAXED);
}

/* True if nothing but the epoch stands in it. */
static inline bool jit_calm(const struct engine_cpu *c)
{
	return likely(jit_word(c) << (32 - JIT_EPOCH_SHIFT) == 0);
}

/* What the block's stamp was, or will be, made of: the part of the word that it looks at. */
static inline uint64_t jit_block_word(const struct engine_cpu *c, const struct jit_block *b)
{
	return b->global ? jit_word(c) & JIT_MASK_GLOBAL : jit_word(c);
}

/* Its stamp: of the word with everything but the epoch 0, so that a request that comes now is seen at the next head. */
static inline uint64_t jit_stamp(const struct engine_cpu *c, const struct jit_block *b)
{
	return -((uint64_t)(c->slow & ~SLOW_REASONS) << 32 & (b->global ? JIT_MASK_GLOBAL : ~0ULL));
}

/* -- jit_code.c -- */
/* Maps the code memory at the first use; false: this cpu interprets. */
bool jit_start(struct engine_cpu *c);
extern unsigned jit_threshold;
/* Bytes behind struct engine_cpu that a translating cpu needs; 0: this process interprets (USERKVM_ENGINE=interp, or the
 * host's CPU lacks what generated code is made of). */
size_t jit_size(void);
void jit_destroy(struct engine_cpu *c);
/* Changes while generated code runs, sooner or later. */
__attribute__((no_sanitize("thread"))) static inline uint64_t jit_progress(const struct jit *j)
{
	return *(const volatile uint64_t *)&j->stats.exits + *(const volatile uint64_t *)&j->stats.fills +
	       *(const volatile uint64_t *)&j->stats.validations;
}
/* Forgets all translations. Not while generated code is on the stack. */
void jit_flush(struct engine_cpu *c);
/* Number of the table of indirect targets for blocks of this key; -1: all are taken, and a flush is what helps. */
int jit_table(struct jit *j, unsigned key);
/* The block at c->rip; NULL. */
struct jit_block *jit_find(struct engine_cpu *c);
void jit_insert(struct engine_cpu *c, struct jit_block *b);
/* Makes generated code's windows known to base_window_find on this thread; NULL ends that. */
void jit_watch(struct jit *j);
/* How often a branch went to rip while there was no block; saturated. */
uint8_t *jit_heat(struct jit *j, uint64_t rip);
/* Where the branch at rip has led each time of late; if that is no one place, no canonical address. */
uint64_t jit_led_to(struct jit *j, uint64_t rip);
/* The enum jit_grouping of blocks at rip. */
uint8_t *jit_grouping(struct jit *j, uint64_t rip);
/* The instruction at rip looks at the table at once. */
bool *jit_by_table(struct jit *j, uint64_t rip);
/* Blocks at rip lie on one page. */
bool *jit_alone(struct jit *j, uint64_t rip);
/* Points the rel32 at `patch` to code offset `to`. */
void jit_patch(struct jit *j, uint32_t patch, uint32_t to);

/* -- jit_block.c -- */
/* Translates the block at c->rip, whose page is `host` (read under seq). NULL: nothing to translate there, or no
 * room (then everything was flushed). */
struct jit_block *jit_translate(struct engine_cpu *c);

/* -- jit_near.c -- */
/* Now and then, with no generated code on the stack: changes how sites look pages up. */
void jit_near_judge(struct jit *j);
/* All blocks are forgotten. */
void jit_near_flush(struct jit *j);
/* A site with `look` is made. */
void jit_near_made(struct jit *j, const struct jit_site *s);
/* Tests: not 0: what is made of this and the instruction's address decides. */
extern uint64_t jit_near_forced;
/* Tests: 0: a period ends at each call, and all are taken to be equally long. */
extern uint64_t jit_near_period;
enum jit_nearness jit_near_at(uint64_t rip);

/* -- jit_thunk.c -- */
void jit_make_thunks(struct engine_cpu *c);

/* -- jit_run.c -- */
/* As run_fast, but translates. */
void jit_run(struct engine_cpu *c);
/* At the start of a run (anybody may have written code), and after a jump out of a handler. */
void jit_begin(struct engine_cpu *c);
void jit_landed(struct engine_cpu *c);
/* What generated code calls at a site, with all state in c; returns where to go on, 0 = leave. */
uint64_t jit_slow(struct engine_cpu *c, uint32_t site);
/* The linear address of a block's instruction. */
static inline uint64_t jit_step_rip(const struct jit *j, const struct jit_block *b, unsigned k)
{
	return b->rip + (uint64_t)(int64_t)j->step[b->step + k].at;
}
/* Another block is made when RIP comes there again. */
void jit_forget(struct jit *j, struct jit_block *b);
/* The same at the head of a block whose stamp is not the word. */
uint64_t jit_head(struct engine_cpu *c, uint32_t block);

/* -- jit_tlb.c -- */
/* After c->tlb forgot everything, or everything but other generations. Async-signal-safe. */
void jit_tlb_clear(struct engine_cpu *c);
/* What linear addresses mean has changed: all of them, those that are not global (another generation now), or one
 * page's. */
void jit_new_mapping(struct engine_cpu *c);
void jit_new_space(struct engine_cpu *c);
void jit_new_page(struct engine_cpu *c, uint64_t lin);
/* What generated code calls first: fills the table for a site's access and returns where it begins again, or 0. Runs
 * with the guest's vector registers in the host's: this file is built without them. */
uint64_t jit_fill(struct engine_cpu *c, uint32_t site);
/* The same at a block's head. */
uint64_t jit_again(struct engine_cpu *c, uint32_t block);
/* -- jit_lean.c -- */
/* Executes the instruction of a site that says which; where to go on, 0 = nothing is done yet. */
uint64_t jit_lean(struct engine_cpu *c, const struct jit_site *s);

/* -- jit_tlb.c, on -- */
/* Copies what c->tlb says of the access into the table; false if it does not know. */
bool jit_tlb_fill(struct engine_cpu *c, uint64_t lin, unsigned size, bool write);
/* What the table, which was filled for it, adds to the address. */
uint64_t jit_tlb_addend(const struct engine_cpu *c, uint64_t lin, bool write);
/* c->tlb got an entry for the page. */
static inline void jit_tlb_inserted(struct engine_cpu *c, uint64_t lin, bool global)
{
	if (c->jit)
		c->jit->tlb_global[(lin >> PAGE_SHIFT) & (TLB_ENTRIES - 1)] = global;
}
/* No entry of c->tlb outlives its generation any more. */
static inline void jit_no_globals(struct engine_cpu *c)
{
	if (c->jit)
		memset(c->jit->tlb_global, 0, sizeof(c->jit->tlb_global));
}
/* True if the page's entry in c->tlb, or what it was in another generation, is global. */
static inline bool jit_is_global(const struct engine_cpu *c, uint64_t lin)
{
	return c->jit->tlb_global[(lin >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
}
/* An address space is entered for the first time, or again after its end: its code is compared, whatever its pages. */
static inline void jit_first_entered(struct engine_cpu *c)
{
	if (c->jit)
		c->jit->spaces++;
}
/* No group's addend holds any more. Async-signal-safe. */
void jit_drop_groups(struct jit *j);
/* Nor does any page of jit->near. Async-signal-safe. */
void jit_near_clear(struct jit *j);

/* -- jit_page.c -- */
/* A store to the host page is about to be made by the slow path: from now on the page may be in tables writable, until
 * a block there is compared again. */
void jit_store_to(struct engine_cpu *c, const uint8_t *host);
/* The block's bytes in its page number k are those of `host`: stores to that page must be seen from now on. */
void jit_page_compared(struct engine_cpu *c, struct jit_block *b, unsigned k, const uint8_t *host);
static inline unsigned jit_page_bit(const uint8_t *host)
{
	/* Not hashed: no two pages of a mapping of up to 16 GiB have one bit. */
	return (unsigned)((uint64_t)host >> PAGE_SHIFT) & (JIT_CODE_PAGES - 1);
}
static inline bool jit_is_code_page(const struct engine_cpu *c, const uint8_t *host)
{
	unsigned bit = jit_page_bit(host);

	return c->jit && (c->jit->code_pages[bit / 64] >> (bit % 64) & 1);
}
/* The linear page may lead elsewhere now. */
void jit_page_moved(struct engine_cpu *c, uint64_t lin);
/* Every block is looked at before it runs again: where its RIP leads, and its bytes if that has changed. */
void jit_new_epoch(struct engine_cpu *c);
/* The same, and all bytes are compared. */
void jit_new_contents(struct engine_cpu *c);

/* -- jit_stats.c -- */
/* Memory for counts by mnemonic if USERKVM_STATS wants them, else NULL; base_free. */
uint64_t *jit_stats_table(void);
/* Counts the site's instruction, which the interpreter is about to execute. */
void jit_stats_site(struct jit *j, const struct jit_site *s);

/* -- jit_perf.c -- */
/* USERKVM_PERF is set. */
bool jit_perf_on(void);
/* Code memory that perf has names for. */
bool jit_perf_memory(struct jit *j);
/* The code before the first block. */
void jit_perf_thunks(const struct jit *j);
/* A block is made, its end is j->used. */
void jit_perf_block(const struct jit *j, const struct jit_block *b);

/* -- interp.c -- */
/* Where the code at c->rip is. May raise. */
uint8_t *interp_code_host(struct engine_cpu *c, uint64_t *seq);
/* Executes one instruction by its handler; the boundary is calm. True if RIP stands behind it. */
bool interp_one(struct engine_cpu *c);

/* The host's GS base while generated code runs is c. */
static inline uint64_t jit_gs_enter(struct engine_cpu *c)
{
	uint64_t old;

	__asm__ volatile("rdgsbase %0" : "=r"(old));
	__asm__ volatile("wrgsbase %0" : : "r"(c) : "memory");
	return old;
}

static inline void jit_gs_leave(uint64_t old)
{
	__asm__ volatile("wrgsbase %0" : : "r"(old) : "memory");
}

#endif
