/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A CPU in a box: decodes, interprets, faults precisely; has never heard of a VM. It walks the guest's
 * page tables itself, keeps all architectural state in struct engine_cpu, and asks the outside through
 * engine_port for pages, devices and whatever the surroundings own (CPUID, foreign MSRs, APIC, TSC).
 * <linux/kvm.h> is used for the layout of exchanged state only.
 *
 * Every function on a cpu is called by the thread that owns it (vcpu->mutex), except those marked "any
 * thread". State read between runs is precise: RIP and registers stand at an instruction boundary, or at
 * the instruction that a port call stopped (it will be executed again from its start).
 */
#ifndef USERKVM_ENGINE_ENGINE_H
#define USERKVM_ENGINE_ENGINE_H

#include <linux/kvm.h>

#include "base/base.h"

struct engine_code; /* what the vCPUs of a VM share: caches, stop-the-world */
struct engine_cpu;

enum engine_fill { FILL_FIXED, FILL_MMIO, FILL_READONLY, FILL_RETRY, FILL_BADHOST };

struct engine_page {
	uint8_t *host; /* start of the 4 KiB page */
	bool writable; /* until the next engine_revoke */
	bool tracked;  /* writable for this one write, which port->tracked is told of */
	uint64_t id;
};

/* What a port call tells the engine to do with the current instruction. */
enum engine_status {
	ENGINE_OK,   /* done, go on */
	ENGINE_STOP, /* leave engine_run with ENGINE_EXIT_STOP, RIP at this instruction, nothing committed */
	ENGINE_GP,   /* raise #GP(0) */
	ENGINE_UD,   /* raise #UD */
	ENGINE_FIX,  /* hypercall only: write the other instruction over this one and execute that */
};

/* All calls come from engine_run on the cpu's thread, outside any window; they may sleep. */
struct engine_port {
	enum engine_fill (*fill)(void *ctx, uint64_t gpa, bool write, struct engine_page *page);
	/* These bytes were written to a page that fill called tracked, and are in memory: each write once, in
	 * pieces that lie in one page. A locked operation is a write whatever it stored. May be NULL if fill
	 * never says so. */
	void (*tracked)(void *ctx, uint64_t gpa, const void *data, unsigned len);
	/* len 1..8, not crossing a page. A re-executed instruction asks again, in the same order. */
	enum engine_status (*mmio)(void *ctx, uint64_t gpa, void *data, unsigned len, bool write);
	enum engine_status (*pio)(void *ctx, uint16_t port, void *data, unsigned size, unsigned count,
				  bool write);
	enum engine_status (*cpuid)(void *ctx,
				    uint32_t regs[4]); /* in: eax, -, ecx, -; out: eax ebx ecx edx */
	/* True: rdmsr and wrmsr below are asked about this MSR even if the engine owns it (filters). May be NULL. */
	bool (*msr_watched)(void *ctx, uint32_t index);
	/* MSRs that the engine does not own, and watched ones. */
	enum engine_status (*rdmsr)(void *ctx, uint32_t index, uint64_t *value);
	enum engine_status (*wrmsr)(void *ctx, uint32_t index, uint64_t value);
	enum engine_status (*rdpmc)(void *ctx, uint32_t index, uint64_t *value);
	enum engine_status (*cr8)(void *ctx, uint64_t *value, bool write);
	uint64_t (*tsc)(void *ctx); /* without engine_set_tsc */
	/* VMCALL or (vmmcall) VMMCALL: registers by engine_get/set_regs */
	enum engine_status (*hypercall)(void *ctx, bool vmmcall);
	enum engine_status (*mwait)(void *ctx, bool monitor); /* OK: a NOP */
	enum engine_status (*rsm)(void *ctx);		      /* the port restores all state, then OK */
	void (*iret)(void *ctx);			      /* an IRET completed: NMIs open again */
	/* The exit word is set: true = leave with ENGINE_EXIT_POLL, at an instruction boundary. */
	bool (*poll)(void *ctx);
};

enum engine_exit {
	ENGINE_EXIT_POLL,     /* port->poll said so */
	ENGINE_EXIT_STOP,     /* a port call said ENGINE_STOP */
	ENGINE_EXIT_HLT,      /* HLT retired; RIP behind it */
	ENGINE_EXIT_SHUTDOWN, /* triple fault */
	ENGINE_EXIT_DEBUG,    /* engine_set_debug asked; see engine_debug_info */
	ENGINE_EXIT_WINDOW,   /* engine_want_window, and an interrupt could be delivered now */
	ENGINE_EXIT_BADHOST,  /* guest RAM whose host mapping is gone: -EFAULT at this RIP */
	ENGINE_EXIT_NOEMU,    /* code fetched from MMIO, or an operation that we cannot perform */
	ENGINE_EXIT_STEPPED,  /* engine_step: one instruction, or one REP iteration, retired */
};

/* The guest CPU's shape, from the CPUID that the VMM set. */
struct engine_features {
	uint64_t cr4_allowed; /* CR4 bits that the guest may set */
	uint64_t efer_allowed;
	uint64_t xcr0_allowed;
	uint64_t xss_allowed;
	uint8_t maxphyaddr; /* 36..52 */
	bool rdtscp, pcid, gbpages, umip;
};

/* Process-wide set-up: the CPU's abilities, the fault hook. Once per enable; -errno. */
int engine_init(void);
/* XCR0 bits that host and engine can run; the size of a standard XSAVE area for a mask of components. */
uint64_t engine_xcr0_host(void);
uint32_t engine_xsave_size(uint64_t components, bool compacted);

int engine_code_create(struct engine_code **out);
void engine_code_destroy(struct engine_code *code);
int engine_cpu_create(struct engine_cpu **out, struct engine_code *code, const struct engine_port *port,
		      void *ctx);
void engine_cpu_destroy(struct engine_cpu *c);
/* Power-on or INIT state (SDM 3A table 9-1). */
void engine_reset(struct engine_cpu *c, bool init);
void engine_set_features(struct engine_cpu *c, const struct engine_features *f);

/*
 * The guest's TSC is from now on the host's plus what the cell holds, which anybody may change at any time: a RDTSC reads
 * it once, together with the host's. The caller keeps the cell as long as the cpu. NULL, as at first: port->tsc is asked.
 */
void engine_set_tsc(struct engine_cpu *c, const _Atomic uint64_t *offset);

/* Runs until an exit. The caller is inside base_sig_run_begin/end with engine_kick as its kick. */
enum engine_exit engine_run(struct engine_cpu *c);
/* The same for a caller who knows of nobody who wrote code since the last run ended. What was written all the same is seen
 * a little later (50 ms). */
enum engine_exit engine_go_on(struct engine_cpu *c);
/* Executes exactly one instruction (finishing one that stopped), then ENGINE_EXIT_STEPPED; or another exit.
 */
enum engine_exit engine_step(struct engine_cpu *c);

/*
 * Retires an IN or OUT (no string) whose port call stopped it, if c stands at it and nothing but the data is left to do:
 * `data` is what was read (IN; else not looked at). False: engine_step does it. Instead of engine_step.
 */
bool engine_finish_io(struct engine_cpu *c, const void *data);

/* True while c executes nothing: outside engine_run, or inside a port call. Any thread. For "it does not run, so it will
 * see what I stored" there is a base_membarrier between the store and this look. */
bool engine_stands(const struct engine_cpu *c);
/* The word that makes engine_run call port->poll at the next boundary: set to 1 by anybody. Any thread. */
_Atomic uint32_t *engine_exit_word(struct engine_cpu *c);
/* For sig_run.kick: in the handler on c's thread. Drops every host pointer and rewinds an open window. */
void engine_kick(void *c, void *ucontext);
/* Same, for a cpu that is not running, by whoever excludes engine_run. */
void engine_revoke(struct engine_cpu *c);
/* Linear RIP of the next instruction: what a pending completion is keyed by. */
uint64_t engine_linear_rip(const struct engine_cpu *c);

/* State. Setters: -EINVAL for an impossible state, nothing changed then. */
void engine_get_regs(const struct engine_cpu *c, struct kvm_regs *r);
void engine_set_regs(struct engine_cpu *c, const struct kvm_regs *r);
/* cr8, apic_base and interrupt_bitmap are the caller's; these leave them alone. */
void engine_get_sregs(const struct engine_cpu *c, struct kvm_sregs *s);
int engine_set_sregs(struct engine_cpu *c, const struct kvm_sregs *s);
void engine_get_pdptrs(const struct engine_cpu *c, uint64_t pdptrs[4]);
void engine_set_pdptrs(struct engine_cpu *c, const uint64_t pdptrs[4]);
bool engine_pae_paging(const struct engine_cpu *c);
void engine_get_debugregs(const struct engine_cpu *c, struct kvm_debugregs *d);
int engine_set_debugregs(struct engine_cpu *c, const struct kvm_debugregs *d);
void engine_get_fpu(const struct engine_cpu *c, struct kvm_fpu *f);
void engine_set_fpu(struct engine_cpu *c, const struct kvm_fpu *f);
/* Standard (non-compacted) XSAVE image of `size` bytes. */
void engine_get_xsave(const struct engine_cpu *c, void *area, uint32_t size);
int engine_set_xsave(struct engine_cpu *c, const void *area, uint32_t size);
uint64_t engine_get_xcr0(const struct engine_cpu *c);
int engine_set_xcr0(struct engine_cpu *c, uint64_t value);
/* MSRs that the engine owns: EFER STAR LSTAR CSTAR SFMASK FS/GS/KERNEL_GS_BASE SYSENTER_* TSC_AUX XSS PAT.
 * -ENOENT: not one of them. set: -EINVAL = #GP; host = the VMM's KVM_SET_MSRS, which may do more. */
int engine_get_msr(const struct engine_cpu *c, uint32_t index, uint64_t *value);
int engine_set_msr(struct engine_cpu *c, uint32_t index, uint64_t value, bool host);

/* Events. */
#define ENGINE_SHADOW_STI   1
#define ENGINE_SHADOW_MOVSS 2
unsigned engine_get_shadow(const struct engine_cpu *c);
void engine_set_shadow(struct engine_cpu *c, unsigned shadow);
bool engine_interruptible(const struct engine_cpu *c); /* IF set and no shadow */
unsigned engine_cpl(const struct engine_cpu *c);
uint64_t engine_get_cr0(const struct engine_cpu *c);
uint64_t engine_get_cr4(const struct engine_cpu *c);
uint64_t engine_get_rflags(const struct engine_cpu *c);
/* engine_run returns ENGINE_EXIT_WINDOW as soon as engine_interruptible. One shot. */
void engine_want_window(struct engine_cpu *c, bool want);

enum engine_event_kind { ENGINE_EV_INTR, ENGINE_EV_NMI, ENGINE_EV_EXCEPTION, ENGINE_EV_SOFT };
struct engine_event {
	enum engine_event_kind kind;
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint8_t insn_len; /* ENGINE_EV_SOFT */
};
/*
 * Delivers an event now, at a boundary: through IVT, IDT or task gate; a fault of the delivery becomes
 * #DF or shutdown as on a CPU. Returns ENGINE_EXIT_STEPPED when the guest stands at its handler, or the
 * exit that came between (the caller delivers the same event again after it).
 */
enum engine_exit engine_deliver(struct engine_cpu *c, const struct engine_event *ev);

/* An exception that a re-executed delivery stopped in (for KVM_GET_VCPU_EVENTS); false if none. */
bool engine_get_pending(const struct engine_cpu *c, struct engine_event *ev, uint64_t *payload);

/* KVM_SET_GUEST_DEBUG (api.rst 4.87): control bits of kvm_guest_debug; the registers for USE_HW_BP. */
void engine_set_debug(struct engine_cpu *c, uint32_t control, const uint64_t debugreg[8]);
void engine_debug_info(const struct engine_cpu *c, struct kvm_debug_exit_arch *out);
void engine_set_smm(struct engine_cpu *c, bool smm);

/* Software walk for KVM_TRANSLATE: false if not mapped. Sets no A/D bits. */
bool engine_translate(struct engine_cpu *c, uint64_t linear, uint64_t *gpa, bool *writable, bool *user);
/* Drops all cached translations (guest TLB flush by hypercall, CR changes from outside do it themselves). */
void engine_flush_tlb(struct engine_cpu *c);
/*
 * Counts of a performance monitor: retired instructions, and branches among them, at CPL 0 and above, while
 * engine_count is on. After `left` more instructions (0: never) the exit word is set. It costs speed.
 */
struct engine_counts {
	uint64_t insns[2], branches[2]; /* [0] CPL 0, [1] CPL 1 to 3 */
	uint64_t left;
};
void engine_count(struct engine_cpu *c, bool on, uint64_t left);
const struct engine_counts *engine_counts(const struct engine_cpu *c);
/* A number that changes while the cpu executes instructions, if only now and then. 0: it never did. Any thread. */
uint64_t engine_progress(const struct engine_cpu *c);
/*
 * Instructions that the interpreter retired since creation, or all with USERKVM_STATS: translated code does not count
 * for nothing. Two executions of one instruction that accesses a device never have the same number.
 */
uint64_t engine_retired(const struct engine_cpu *c);

/*
 * Counters since creation. Any thread, while the cpu lives.
 *	translations, retranslations	blocks made; because their code had changed
 *	translations32, translations16	of the blocks made those of code that is not 64-bit
 *	entries		times that generated code was entered from C
 *	comparisons	of a block's guest code with what it was made from, each once an epoch at most
 *	epochs		times that all blocks had to be compared again
 *	flushes		times that all translations were forgotten
 *	code_bytes, code_most, code_limit	bytes of generated code now, ever at once, and at most
 *	fills		of the table that translated accesses look up
 *	left		instructions that blocks left to the interpreter
 *	interpreted	those, and what was not translated at all
 */
#define ENGINE_STATS(STAT)   \
	STAT(instructions)   \
	STAT(translations)   \
	STAT(translations32) \
	STAT(translations16) \
	STAT(retranslations) \
	STAT(entries)        \
	STAT(comparisons)    \
	STAT(epochs)         \
	STAT(flushes)        \
	STAT(code_bytes)     \
	STAT(code_most)      \
	STAT(code_limit)     \
	STAT(fills)          \
	STAT(left)           \
	STAT(interpreted)
#define ENGINE_STAT_FIELD(name) uint64_t name;
struct engine_stats {
	ENGINE_STATS(ENGINE_STAT_FIELD)
};
void engine_stats(const struct engine_cpu *c, struct engine_stats *out);
/* Instructions that were left, by name, most frequent first; with USERKVM_STATS set. How many, max at most. */
struct engine_left {
	const char *name;
	bool access; /* translated, but its address was not in the table */
	uint64_t count;
};
unsigned engine_stats_left(const struct engine_cpu *c, struct engine_left *out, unsigned max);

#endif
