/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to engine/: the vCPU's state, one decoded instruction, and the vocabulary that every
 * instruction handler is written in.
 *
 * A handler has the form
 *	static void op_xyz(struct engine_cpu *c, const struct insn *i)
 * and obeys one rule: everything that can fault happens before the first change of register state
 * (compute, then commit). Faults never return: engine_raise and the guest_* accessors leave through
 * c->jump to the run loop, which delivers the exception with RIP at the instruction's start. On success
 * the loop sets rip = next_rip; branches write next_rip.
 */
#ifndef USERKVM_ENGINE_CPU_H
#define USERKVM_ENGINE_CPU_H

#include <setjmp.h>

#include "engine/engine.h"

enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, GPRS };
enum seg { ES, CS, SS, DS, FS, GS, SEGS, TR = SEGS, LDTR, ALL_SEGS };
enum exc {
	EXC_DE,
	EXC_DB,
	EXC_NMI,
	EXC_BP,
	EXC_OF,
	EXC_BR,
	EXC_UD,
	EXC_NM,
	EXC_DF,
	EXC_TS = 10,
	EXC_NP,
	EXC_SS,
	EXC_GP,
	EXC_PF,
	EXC_MF = 16,
	EXC_AC,
	EXC_MC,
	EXC_XM
};

#define FLAG_CF	    BIT(0)
#define FLAG_PF	    BIT(2)
#define FLAG_AF	    BIT(4)
#define FLAG_ZF	    BIT(6)
#define FLAG_SF	    BIT(7)
#define FLAG_TF	    BIT(8)
#define FLAG_IF	    BIT(9)
#define FLAG_DF	    BIT(10)
#define FLAG_OF	    BIT(11)
#define FLAG_IOPL   (3UL << 12)
#define FLAG_NT	    BIT(14)
#define FLAG_RF	    BIT(16)
#define FLAG_VM	    BIT(17)
#define FLAG_AC	    BIT(18)
#define FLAG_VIF    BIT(19)
#define FLAG_VIP    BIT(20)
#define FLAG_ID	    BIT(21)
#define FLAGS_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE	       BIT(0)
#define CR0_MP	       BIT(1)
#define CR0_EM	       BIT(2)
#define CR0_TS	       BIT(3)
#define CR0_ET	       BIT(4)
#define CR0_NE	       BIT(5)
#define CR0_WP	       BIT(16)
#define CR0_AM	       BIT(18)
#define CR0_NW	       BIT(29)
#define CR0_CD	       BIT(30)
#define CR0_PG	       BIT(31)
#define CR4_VME	       BIT(0)
#define CR4_PVI	       BIT(1)
#define CR4_TSD	       BIT(2)
#define CR4_DE	       BIT(3)
#define CR4_PSE	       BIT(4)
#define CR4_PAE	       BIT(5)
#define CR4_MCE	       BIT(6)
#define CR4_PGE	       BIT(7)
#define CR4_PCE	       BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_LA57       BIT(12)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)
#define EFER_SCE       BIT(0)
#define EFER_LME       BIT(8)
#define EFER_LMA       BIT(10)
#define EFER_NX	       BIT(11)

/* Segment register with its hidden part. `attr` has the layout of the descriptor's bits 40..55. */
struct engine_seg {
	uint64_t base;
	uint32_t limit; /* in bytes, after granularity */
	uint16_t sel;
	uint16_t attr;
	bool unusable;
};
#define SEG_TYPE(a) ((a)&15)
#define SEG_S	    BIT(4)
#define SEG_DPL(a)  (((a) >> 5) & 3)
#define SEG_P	    BIT(7)
#define SEG_AVL	    BIT(12)
#define SEG_L	    BIT(13)
#define SEG_DB	    BIT(14)
#define SEG_G	    BIT(15)

struct engine_cpu;
struct insn;
typedef void (*insn_fn)(struct engine_cpu *c, const struct insn *i);

enum rep { REP_NONE, REP_E, REP_NE };

/*
 * One decoded instruction: a pure function of its bytes, the mode (c->mode_key) and RIP. The run loop looks
 * at the first 64 bytes only.
 */
struct insn {
	uint8_t bytes[16]; /* zero behind len */
	insn_fn exec;
	uint64_t key; /* rip it was decoded for, mixed with the mode (interp.c) */
	uint64_t imm; /* sign-extended as the instruction says; of a relative branch the target RIP */
	int64_t
	    disp; /* of the memory operand (RIP-relative in 64-bit mode: made absolute), or the far offset */
	uint32_t next; /* byte offset in the cache of what was executed behind this one last time */
	uint8_t len;
	uint8_t ea_base, ea_index, ea_seg; /* ea.c's own: what to add, as uint64_t indices from c->gpr */
	uint8_t scale;			   /* shift: 0..3 */
	uint8_t ea_kind;		   /* ea.c's own: EA_* */
	uint8_t dst, src; /* integer handlers' own: byte offsets of register operands from c->gpr */
	uint8_t opsize;	  /* 1 2 4 8: effective operand size */
	uint8_t adsize;	  /* 2 4 8 */
	uint8_t cc;	  /* condition of Jcc, SETcc, CMOVcc */
	uint8_t op;	  /* for the handler's own use */
	/* -- behind the first cache line -- */
	void *extra; /* the handler's: a generated stub (vector); owned by engine_code */
	uint16_t mode_key;
	uint16_t mnemonic; /* ZydisMnemonic */
	uint16_t far_sel;
	int8_t base, index; /* enum gpr, -1 none, -2 RIP (base; disp is then absolute in 64-bit mode) */
	uint8_t reg, rm;    /* ModRM.reg and .rm with REX, as gpr numbers; AH..BH are 16 + 0..3 */
	bool mem;	    /* rm operand is memory */
	bool lock;
	uint8_t seg; /* enum seg of the memory operand, overrides applied */
	uint8_t rep; /* enum rep */
	uint8_t pad[42];
} __attribute__((aligned(128)));

/* Translation cache: one entry per linear page (direct-mapped). Tags that cannot match: ~0, and the 0 of a new cpu,
 * for generations begin at 1. */
struct tlb_entry {
	uint64_t rtag, wtag, xtag; /* linear page | c->tlb_key; wtag only while a write needs no slow path */
	uint64_t addend;	   /* host address = linear + addend */
};
#define TLB_ENTRIES  2048
#define STLB_SETS    2048
#define PTLB_ENTRIES 4096
#define NOTHING_HELD (~0ULL) /* held_seq */

/* The second level (tlb.c), by page and generation. Tag 0: empty, for generations begin at 1. */
struct stlb_entry {
	uint64_t tag;
	uint64_t host; /* page, and flags below it */
};

/* Guest-physical pages: tables, and what the TLB forgot by a flush. */
struct ptlb_entry {
	uint64_t tag; /* page address | 1; nothing that is even or ~0 matches */
	uint8_t *host;
	bool writable;
};

/* Why the run loop was re-entered through c->jump. */
enum leave { LEAVE_NONE, LEAVE_FAULT, LEAVE_EXIT, LEAVE_REDO };

struct engine_cpu {
	/* -- Registers -- */
	uint64_t gpr[GPRS];
	uint64_t rip, next_rip;
	uint64_t zero; /* always 0: what an absent base or index adds (the order of these words is ea.c's) */
	uint64_t rflags; /* all of it, bit 1 set */
	struct engine_seg seg[ALL_SEGS];
	struct {
		uint64_t base;
		uint16_t limit;
	} gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0, xss;
	uint64_t pdptr[4];
	uint64_t dr[4], dr6, dr7;
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, tsc_aux,
	    pat;
	struct engine_fpu *fpu; /* vector and x87 state: fpu.h */

	/* -- Derived from the registers; mode_update() after any change of CR0/4, EFER, CS, RFLAGS.VM/AC, CPL
	 * -- */
	uint8_t cpl;
	bool long_mode; /* EFER.LMA */
	bool code64;	/* 64-bit code segment */
	bool code32;	/* CS.D */
	bool stack32;	/* SS.B (64-bit mode: ignored) */
	bool real;	/* !CR0.PE */
	bool v86;
	uint8_t seg_flat[6]; /* outside 64-bit mode: base 0, limit 4 GiB - 1, usable, present, writable data:
			      * so linear = 32-bit offset, without checks */
	/* Minus the bytes of a segment whose offsets begin at 0 that may be read, [1]: written; 0: none, or look closer. In
	 * 64-bit code nobody asks. */
	uint64_t seg_room[2][6];
	uint16_t mode_key; /* what decoding depends on: MODE_REAL (16-bit code in real or virtual-8086 mode),
			      16, 32, 64 */
	uint64_t ip_mask;  /* ~0 in 64-bit code, else 0xffffffff */
	uint64_t tlb_key;  /* low 12 bits of tags: generation and privilege for explicit data accesses and
			      fetches */
	uint64_t tlb_gen;

	/* -- Control -- */
	_Atomic uint32_t exit_word __attribute__((aligned(8))); /* read together with slow */
	uint32_t slow;		      /* SLOW_* bits: reasons to take the careful path at the next boundary */
	_Atomic uint64_t revoke_seq;  /* bumped by engine_kick and engine_revoke */
	_Atomic uint32_t in_run;      /* code.c: guest state may change now; 0 = counts as stopped */
	struct engine_cpu *code_next; /* code.c: list of the VM's cpus, under code's lock */
	unsigned shadow;	      /* ENGINE_SHADOW_* in force for the next instruction */
	bool want_window;
	bool smm;
	uint64_t retired;
	uint64_t run_began,
	    last_run; /* interp.c: `retired` at the start of the run; what the last one retired */
	struct engine_counts counts;
	uint32_t pauses; /* PAUSE instructions executed */
	struct {
		unsigned shadow;
		bool rf, tf;
	} before; /* interp.c: what the careful path took away and gives back if the instruction stops */
	sigjmp_buf *jump;
	enum leave leave;
	enum engine_exit exit;
	struct engine_event fault;	/* LEAVE_FAULT */
	uint64_t fault_payload;		/* CR2 or DR6 */
	struct engine_event delivering; /* event under delivery, for #DF and for GET_VCPU_EVENTS */
	bool is_delivering;
	uint32_t debug_control; /* KVM_GUESTDBG_* */
	uint64_t debug_dr[8];
	struct kvm_debug_exit_arch debug_info;
	struct engine_features feat;
	struct engine_code *code;
	struct jit *jit;   /* behind this struct; NULL: this cpu interprets */
	_Atomic bool look; /* jit_run: somebody may have written code */
	const struct engine_port *port;
	void *ctx;
	const _Atomic uint64_t *tsc_offset; /* engine_set_tsc */
	struct {
		uint64_t rip, retired; /* of the instruction */
		uint8_t len, size;
		bool in;
	} io;		 /* the last IN or OUT that called its port: engine_finish_io */
	uint8_t db_hits; /* DR6 bits 0..3: data and I/O breakpoints hit since the last boundary */
	bool break_data; /* a data breakpoint is armed: every slow-path access calls debug_check_data */

	/* -- Caches -- */
	/* The current code page: valid for RIP in [fetch_start, fetch_start + fetch_len), host = fetch_host +
	 * distance. 16 bytes may be read at each such RIP. fetch_forget() after anything that changes what a
	 * fetch means: mode_update, a load of CS, every TLB flush. */
	uint64_t fetch_start, fetch_len;
	uint8_t *fetch_host;
	uint64_t fetch_mode; /* mixed into insn.key */
	struct tlb_entry tlb[TLB_ENTRIES];
	struct stlb_entry stlb[STLB_SETS][2];
	struct ptlb_entry ptlb[PTLB_ENTRIES];
	uint64_t held_seq;	 /* revoke_seq that stlb and ptlb belong to (tlb_hold) */
	uint64_t pcid_gen[64];	 /* PCID -> tlb generation */
	uint64_t tlb_global_gen; /* generation of global pages in stlb */
	bool tlb_large;		 /* some entry stems from a large page: INVLPG flushes all */
	struct insn *icache;	 /* direct-mapped by RIP */
	uint32_t decodings;	 /* into it, until it is settled on huge pages (code.h) */
	bool icache_settled;
	uint64_t tlb_large_map; /* hashed 1 GiB regions that large pages were cached from: INVLPG there
				   flushes all */
};

#define SLOW_TF	    1 /* RFLAGS.TF or guest debug single step */
#define SLOW_SHADOW 2
#define SLOW_BREAK  4 /* DR7 or guest-debug breakpoints armed */
#define SLOW_RF	    8
#define SLOW_COUNT  16 /* engine_count is on */
#define SLOW_WINDOW 32 /* want_window, and IF may be set: from the instruction that sets it */
#define SLOW_AC \
	64 /* alignment is checked: CR0.AM, RFLAGS.AC, CPL 3 (set where RFLAGS, CR0 or CPL change) \
		     */
#define SLOW_LEAVE   128 /* engine_leave_soon; never outside the run loop */
#define SLOW_REASONS 255 /* all of them; the bits above are the translator's (jit.h) */
#define EXIT_LOOK    2	 /* exit_word: nobody wants us out, the run loop looks about and goes on */
#define MODE_REAL    8	 /* mode_key */

static inline void fetch_forget(struct engine_cpu *c)
{
	c->fetch_len = 0;
}

/* -- The VM's cpus (code.c). engine_cpu_create there makes fpu and caches, then calls engine_reset(c, false)
 * -- */
/* Returns when no other cpu of the VM can change guest state until resume_world; may sleep. Outside windows.
 */
void stop_world(struct engine_cpu *c);
void resume_world(struct engine_cpu *c);
/* A port call that may sleep stands between these two: the cpu counts as stopped meanwhile. */
void port_enter(struct engine_cpu *c);
void port_leave(struct engine_cpu *c);

/* -- Leaving (interp.c) -- */
_Noreturn void engine_raise(struct engine_cpu *c, enum exc vector); /* no error code */
_Noreturn void engine_raise_err(struct engine_cpu *c, enum exc vector, uint32_t error);
_Noreturn void engine_raise_pf(struct engine_cpu *c, uint64_t cr2, uint32_t error);
_Noreturn void engine_raise_db(struct engine_cpu *c, uint64_t dr6);
/* RIP stays at the instruction, nothing committed; but ENGINE_EXIT_HLT retires it (RIP behind it) first. */
_Noreturn void engine_leave(struct engine_cpu *c, enum engine_exit exit);
/* The same for a handler that has changed nothing, calls this last and returns: no jump, after which the host's CPU would
 * mispredict every return on the way out. Whoever calls handlers looks at c->slow before it takes next_rip for a success. */
void engine_leave_soon(struct engine_cpu *c, enum engine_exit exit);
/* Acts on a port's answer: OK returns, the others do not. */
void engine_obey(struct engine_cpu *c, enum engine_status st);

/* -- Guest memory (access.c, access.h for the inlines). `lin` is linear. Faults, MMIO and revocation are
 * inside; size 1 2 4 8. Accesses may straddle pages. The default is an explicit access at c->cpl. -- */
uint64_t guest_ld(struct engine_cpu *c, uint64_t lin, unsigned size);
void guest_st(struct engine_cpu *c, uint64_t lin, uint64_t val, unsigned size);
/* Implicit supervisor access: descriptor tables, TSS, and stack pushes of an event delivery to CPL 0..2. */
uint64_t guest_ld_sys(struct engine_cpu *c, uint64_t lin, unsigned size);
void guest_st_sys(struct engine_cpu *c, uint64_t lin, uint64_t val, unsigned size);
/* Any length up to a few KiB. */
void guest_read(struct engine_cpu *c, uint64_t lin, void *buf, unsigned len);
void guest_write(struct engine_cpu *c, uint64_t lin, const void *buf, unsigned len);
/* Raises the #PF that a write (or read) of len bytes would raise; changes nothing but A/D bits. */
void guest_probe(struct engine_cpu *c, uint64_t lin, unsigned len, bool write);
/* Locked compare-exchange, also across pages and on MMIO; size 1 2 4 8. True if *old matched, else *old =
 * seen. */
bool guest_cmpxchg(struct engine_cpu *c, uint64_t lin, uint64_t *old, uint64_t val, unsigned size);
/* *lin = (*lin & and) | or, locked, as an implicit supervisor access. */
void access_rmw8_sys(struct engine_cpu *c, uint64_t lin, uint8_t and, uint8_t or);
bool guest_cmpxchg16(struct engine_cpu *c, uint64_t lin, uint64_t old[2], const uint64_t val[2]);
/* Linear address of the memory operand of `len` bytes: segment checks (#GP, #SS), canonicality. */
uint64_t insn_ea(struct engine_cpu *c, const struct insn *i, unsigned len, bool write);
/*
 * The same of `len` bytes of it from byte `at`, whose offset wraps on its own at the end of what the address size reaches:
 * instructions that access their operand in pieces (far pointers, BOUND, x87 numbers and images) do so on the host's CPU.
 */
uint64_t insn_part(struct engine_cpu *c, const struct insn *i, unsigned at, unsigned len, bool write);
/* Does an operand of `len` bytes reach beyond that end? */
bool insn_wraps(struct engine_cpu *c, const struct insn *i, unsigned len);
/* Segment check of an offset without ModRM (strings, stack, XLAT, moffs). */
uint64_t seg_linear(struct engine_cpu *c, enum seg s, uint64_t off, unsigned len, bool write);
/* The offset part alone (LEA). */
uint64_t insn_offset(struct engine_cpu *c, const struct insn *i);

/* -- Paging (mmu.c) -- */
#define ACC_READ  0
#define ACC_WRITE 1
#define ACC_EXEC  2
#define ACC_SYS	  4 /* implicit supervisor */
/* Where a linear address lies. */
struct place {
	uint8_t *host; /* NULL: a device access */
	uint64_t gpa;
	uint64_t seq; /* the revocation sequence of host */
	bool tracked; /* for writes: who makes one calls access_told when it is in memory */
};
/* Walks, sets A/D, fills c->tlb where it may be cached. Raises #PF; leaves for BADHOST. */
void mmu_translate(struct engine_cpu *c, uint64_t lin, unsigned acc, struct place *p);
/* The same for a fetch that may come, if nothing stands in its way; false: a fetch would fault or leave, or may come
 * later. Sets the accessed bit, as a CPU that fetches ahead may. */
bool mmu_try_fetch(struct engine_cpu *c, uint64_t lin, struct place *p);
/* From the translation cache: then only host and seq are set, and a store is to be told to nobody. False: it is not
 * there. */
bool mmu_known(struct engine_cpu *c, uint64_t lin, unsigned acc, struct place *p);
/* The one or the other. */
void mmu_find(struct engine_cpu *c, uint64_t lin, unsigned acc, struct place *p);
/* Tells port->tracked of a write (access.c). */
void access_told(struct engine_cpu *c, uint64_t gpa, const void *data, unsigned len);
void mmu_flush_all(struct engine_cpu *c);
void mmu_flush_page(struct engine_cpu *c, uint64_t lin);
/* After a change of CR3 (noflush = bit 63 of a MOV CR3 under PCIDE) or of paging-related bits. */
void mmu_new_cr3(struct engine_cpu *c, bool noflush);
/* Loads PDPTEs for PAE paging from cr3; false if a reserved bit is set. */
bool mmu_load_pdptrs(struct engine_cpu *c, uint64_t cr3, uint64_t out[4]);

/* -- Mode and segments (segment.c), events (event.c), control registers (control.c) -- */
void mode_update(struct engine_cpu *c);
void rflags_set(struct engine_cpu *c,
		uint64_t val); /* writes rflags, keeps bit 1, updates slow bits and the window */
/* Loads a data segment register with all checks of MOV Sreg/POP/LDS. */
void seg_load(struct engine_cpu *c, enum seg s, uint16_t sel);
void seg_set_real(struct engine_cpu *c, enum seg s, uint16_t sel);
/* Far jump, call, return, interrupt return, INT n, and the rest of control transfer that needs descriptors.
 */
void far_jump(struct engine_cpu *c, uint16_t sel, uint64_t off, unsigned opsize);
void far_call(struct engine_cpu *c, uint16_t sel, uint64_t off, unsigned opsize);
void far_ret(struct engine_cpu *c, unsigned opsize, uint16_t pop);
void far_iret(struct engine_cpu *c, unsigned opsize);
/* Delivers c->delivering; used by the run loop and engine_deliver. Raises on a fault of the delivery. */
void event_deliver(struct engine_cpu *c);
void event_soft_int(struct engine_cpu *c, uint8_t vector, bool int3_or_into);
void event_int1(struct engine_cpu *c); /* INT1 (F1): #DB behind the instruction */
/*
 * The run loop's step after LEAVE_FAULT: turns c->fault into c->delivering, combined with an event already
 * under delivery (#DF), and commits CR2 or DR6. False: triple fault, ENGINE_EXIT_SHUTDOWN. True:
 * event_deliver next; a raise inside it comes here again. event_deliver ends with rip = next_rip = the
 * handler.
 */
bool event_begin(struct engine_cpu *c);
/* Raises #GP(0) unless `port` .. +size-1 may be used at this CPL and IOPL, by the TSS bitmap; notes I/O
 * breakpoints (system.c). */
void system_io_check(struct engine_cpu *c, uint16_t port, unsigned size);
/* Debug (debug.c). Before the instruction at c->rip, if slow & SLOW_BREAK and RF is clear: raises or leaves.
 */
void debug_check_exec(struct engine_cpu *c);
/* A data access of `len` bytes while c->break_data: notes hits for debug_after. Pages that hold a data
 * breakpoint are never cached in c->tlb, so that each access to them comes by the slow path. */
void debug_check_data(struct engine_cpu *c, uint64_t lin, unsigned len, bool write);
/* At the boundary behind a retired instruction (rip is committed), if TF was set when it began (`tf`),
 * guest debug single-steps, or c->db_hits: raises the trap #DB or leaves with ENGINE_EXIT_DEBUG. */
void debug_after(struct engine_cpu *c, bool tf);
/* Clears c->slow's SLOW_TF/RF/BREAK bits and sets them again from RFLAGS, DR7 and guest debug. */
void debug_update(struct engine_cpu *c);
/* Sets CR0/3/4/EFER/XCR0 with the guest's checks: raise #GP. */
void control_set_cr0(struct engine_cpu *c, uint64_t val);
void control_set_cr3(struct engine_cpu *c, uint64_t val);
void control_set_cr4(struct engine_cpu *c, uint64_t val);
bool control_is_canonical(const struct engine_cpu *c, uint64_t lin);

/* An instruction retired that began at CPL 0 or (user) above; while SLOW_COUNT (count.c). */
void count_retired(struct engine_cpu *c, const struct insn *i, bool user);

/* -- Stack: width by SS.B and mode; checks included -- */
void stack_push(struct engine_cpu *c, uint64_t val, unsigned size);	/* commits RSP after the store */
uint64_t stack_peek(struct engine_cpu *c, unsigned off, unsigned size); /* at RSP + off, no change */
void stack_set(struct engine_cpu *c, uint64_t rsp);			/* writes SP, ESP or RSP */
uint64_t stack_get(const struct engine_cpu *c);				/* as the width reads it */

/* -- Selection: each family names the handler of a decoded instruction, or NULL if it is not its own -- */
struct insn_decoded; /* decode.h: the Zydis instruction and its operands */
insn_fn integer_select(struct insn *i, const struct insn_decoded *d); /* integer*.c, string.c, branch.c */
insn_fn system_select(struct insn *i, const struct insn_decoded *d);  /* system.c */
insn_fn vector_select(struct engine_cpu *c, struct insn *i, const struct insn_decoded *d); /* vector.c */

/* -- Vector, x87 state (fpu.c) -- */
int fpu_create(struct engine_cpu *c);
void fpu_destroy(struct engine_cpu *c);
void fpu_reset(struct engine_cpu *c, bool init);

#endif
