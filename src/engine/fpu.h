/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to engine/'s vector side: the x87, MMX, SSE, AVX and AVX-512 state of one cpu, and the stubs that
 * execute such instructions on the host.
 *
 * A stub is generated once per canonical encoding: the instruction's 64-bit form with a memory operand
 * rewritten to [rsi] and general registers rewritten to rax (ModRM.reg) and rdx (ModRM.rm). It loads the
 * vector registers that the instruction names from struct engine_fpu, executes it, and stores them back.
 * Guest memory is staged in fpu->mem by the handler, so a stub touches nothing that may vanish.
 */
#ifndef USERKVM_ENGINE_FPU_H
#define USERKVM_ENGINE_FPU_H

#include "engine/decode.h"

/* An XSAVE area that holds the x87 component only; st[] is in stack order, as FXSAVE has it. */
struct x87_image {
	uint16_t fcw, fsw;
	uint8_t ftw; /* abridged: bit n set = physical register n is not empty */
	uint8_t reserved;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask; /* not used here */
	uint8_t st[8][16];
	uint8_t rest[352];
	uint64_t header[8];
};

struct engine_fpu {
	/* -- Guest state -- */
	uint8_t zmm[32][64];
	uint64_t k[8];
	struct x87_image x87;
	/* -- What stubs use -- */
	struct x87_image x87_out; /* result of an x87 store, committed after the guest's memory was written */
	uint8_t mem[64];	  /* staged memory operand */
	uint64_t a, b, c, flags;  /* rax (ModRM.reg), rdx (ModRM.rm; or EDX), rcx, EFLAGS */
	uint32_t host_mxcsr;
	bool live; /* the CPU's MXCSR is the guest's now; host_mxcsr keeps ours */
	uint16_t host_fcw;
	/* -- Guest state -- */
	uint16_t fcs, fds; /* 0 where the host's CPU does not keep them */
	uint32_t mxcsr;
	uint32_t pkru;
	struct vstub *slot; /* private stub for when the cache is full */
};

#define FSW_ES	   BIT(7)
#define FSW_B	   BIT(15)
#define FSW_TOP(w) (((w) >> 11) & 7)
#define MXCSR_INIT 0x1f80
#define FCW_INIT   0x037f

#define XF_X87	  BIT(0)
#define XF_SSE	  BIT(1)
#define XF_AVX	  BIT(2)
#define XF_OPMASK BIT(5)
#define XF_ZMM_HI BIT(6)
#define XF_HI16	  BIT(7)
#define XF_AVX512 (XF_OPMASK | XF_ZMM_HI | XF_HI16)
#define XF_ALL	  (XF_X87 | XF_SSE | XF_AVX | XF_AVX512)

/*
 * Floating-point stubs run under the guest's MXCSR, which stays loaded until something asks for it or the cpu
 * leaves guest mode (run_leave): changing it twice per instruction costs eight times the instruction. The
 * engine itself has no floating-point code.
 */
static inline void fpu_live(struct engine_fpu *f)
{
	if (likely(f->live))
		return;
	__asm__ volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(f->host_mxcsr) : "m"(f->mxcsr));
	f->live = true;
}
static inline void fpu_sync(struct engine_fpu *f)
{
	if (likely(!f->live))
		return;
	__asm__ volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(f->mxcsr) : "m"(f->host_mxcsr));
	f->live = false;
}

/* What must be enabled for an instruction; decides between #UD and #NM. */
enum vneed { NEED_X87, NEED_MMX, NEED_SSE, NEED_SSE_MMX, NEED_AVX, NEED_AVX512 };

/* Raises #UD or #NM (or #MF for MMX with a pending x87 exception) unless `need` is enabled. */
void vector_refuse(struct engine_cpu *c, enum vneed need);
static inline bool vector_allowed(const struct engine_cpu *c, enum vneed need)
{
	if (unlikely(c->cr0 & CR0_TS))
		return false;
	switch (need) {
	case NEED_X87: return !(c->cr0 & CR0_EM);
	case NEED_MMX: return !(c->cr0 & CR0_EM) && !(c->fpu->x87.fsw & FSW_ES);
	case NEED_SSE: return !(c->cr0 & CR0_EM) && c->cr4 & CR4_OSFXSR;
	case NEED_SSE_MMX: return !(c->cr0 & CR0_EM) && c->cr4 & CR4_OSFXSR && !(c->fpu->x87.fsw & FSW_ES);
	case NEED_AVX: return c->cr4 & CR4_OSXSAVE && (c->xcr0 & 6) == 6 && !c->real && !c->v86;
	case NEED_AVX512: return c->cr4 & CR4_OSXSAVE && (c->xcr0 & 0xe6) == 0xe6 && !c->real && !c->v86;
	}
	return false;
}
static inline void vector_check(struct engine_cpu *c, enum vneed need)
{
	if (unlikely(!vector_allowed(c, need)))
		vector_refuse(c, need);
}

/* How the memory operand behaves. */
enum vmem {
	VMEM_NONE,
	VMEM_LOAD,
	VMEM_STORE,
	VMEM_LOAD_MASKED, /* elements by f->k[mask], faults suppressed where the bit is clear */
	VMEM_STORE_MASKED,
	VMEM_EXPAND, /* as many leading elements as the mask has bits */
	VMEM_COMPRESS,
	VMEM_LOAD_SIGN, /* VMASKMOV: elements by the sign bits of vector register `mask` */
	VMEM_STORE_SIGN,
};

struct vstub {
	unsigned (*run)(struct engine_fpu *f); /* 0, or the vector of the exception it ended with */
	insn_fn exec;
	struct vstub *_Atomic next; /* of the hash chain */
	uint8_t key[16];	    /* canonical bytes */
	uint8_t key_len;
	uint8_t need;	  /* enum vneed */
	uint8_t vmem;	  /* enum vmem */
	uint8_t mem_len;  /* bytes of the memory operand */
	uint8_t elem_len; /* masked forms: bytes and number of its elements, */
	uint8_t elems;	  /* */
	uint8_t lanes;	  /* number of mask bits, a multiple of elems if broadcast */
	uint8_t mask;	  /* register that holds the mask */
	bool nf;	  /* masked store without fault suppression */
	uint8_t align;	  /* #GP(0) unless the linear address is aligned so; 0 or 1: any */
	bool no_ac;	  /* never checked by RFLAGS.AC */
	bool mxcsr;	  /* runs with the guest's MXCSR */
	bool mmx;	  /* enters MMX mode */
	bool gpr_in_a, gpr_in_b, gpr_out_a, gpr_out_b;
	bool explicit_len; /* PCMPESTRx: rax and rdx are the guest's own */
	bool out_c;	   /* PCMPxSTRI: rcx */
	bool flags_in, flags_out;
	bool x87_store;	 /* x87 result in x87_out */
	bool x87_nowait; /* does not look at pending exceptions */
	uint32_t code;	 /* offset of the code */
};

static inline bool stub_stores(const struct vstub *st)
{
	return st->vmem == VMEM_STORE || st->vmem == VMEM_STORE_MASKED || st->vmem == VMEM_COMPRESS ||
	       st->vmem == VMEM_STORE_SIGN;
}

/* -- stub.c: code memory and cache -- */
/* Reserves the code memory; -errno. Called by engine_init; again in a forked child, which starts afresh. */
int stub_init(void);
/*
 * The stub for the instruction d (canonical form computed by canon_make), from the cache or new; NULL if it
 * has no canonical form. When the cache is full, a shared stub whose exec generates code anew each time.
 */
struct vstub *stub_get(const uint8_t *canon, unsigned len);
/* Generates into f's private slot; for the handler of a full cache. */
struct vstub *stub_get_private(struct engine_fpu *f, const uint8_t *canon, unsigned len);
void stub_put_private(struct engine_fpu *f);
/* For the fault hook: is pc inside generated code? */
bool stub_owns(uint64_t pc);

/* -- canon.c -- */
struct canon {
	uint8_t bytes[16];
	uint8_t len;
	int8_t reg, rm; /* guest general registers that rax and rdx stand for, -1 none */
};
/* Rewrites d (whose bytes are `raw`) into its canonical 64-bit form; false if there is none. */
bool canon_make(struct canon *out, const struct insn_decoded *d, const uint8_t *raw);

/* -- emit.c: fills st->* and the code for the canonical instruction; number of bytes, 0 if impossible -- */
#define STUB_MAX 512
unsigned emit_stub(struct vstub *st, uint8_t *code);
/* Its result depends on MXCSR, or it may raise #XM. */
bool insn_uses_mxcsr(const struct insn_decoded *d);
/* What the address of its memory operand of `len` bytes must be a multiple of; 0: any. */
unsigned insn_alignment(const struct insn_decoded *d, unsigned len);

/* -- host.c: what the host's CPU can do -- */
struct host_cpu {
	uint64_t xcr0;		  /* components that host and engine run */
	unsigned width;		  /* 16, 32 or 64: widest vector register */
	bool avx512bw;		  /* KMOVQ */
	bool fcs_gone;		  /* FCS and FDS read as zero */
	uint32_t mxcsr_mask;	  /* bits that MXCSR may have set */
	uint32_t off[8], size[8]; /* standard XSAVE offsets and sizes by component */
	bool align64[8];
};
extern struct host_cpu host_cpu;
void host_detect(void);
/* Does the host's CPU have this instruction set? Sets that are not the vector side's own: true. */
bool host_has(ZydisISASet set);

/* -- fpu.c -- */
/* Makes the x87 image what a CPU would hold after loading it (ES and B follow from flags and masks). */
void x87_canonical(struct engine_fpu *f);
/* Sets TOP; rotates st[] so that every physical register keeps its value. */
void x87_set_top(struct x87_image *x, unsigned top);
void x87_fninit(struct engine_fpu *f);
uint64_t fpu_in_use(const struct engine_fpu *f);
/* Copies a component (1..7) to or from its XSAVE layout; `xmms` registers of it (8 outside 64-bit mode). */
void fpu_component_out(const struct engine_fpu *f, unsigned n, void *to, unsigned xmms);
void fpu_component_in(struct engine_fpu *f, unsigned n, const void *from, unsigned xmms);
void fpu_component_init(struct engine_fpu *f, unsigned n, unsigned xmms);
/* The first 160 bytes of an FXSAVE64 or XSAVE64 area; coming in, MXCSR is the caller's. */
void fpu_legacy_out(const struct engine_fpu *f, uint8_t *area);
void fpu_legacy_in(struct engine_fpu *f, const uint8_t *area);

/* -- Families (each returns NULL if the instruction is not its own) -- */
insn_fn xsave_select(struct insn *i, const struct insn_decoded *d);  /* xsave.c, LDMXCSR too */
insn_fn x87_select(struct insn *i, const struct insn_decoded *d);    /* x87.c */
insn_fn move_select(struct insn *i, const struct insn_decoded *d);   /* vmove.c: plain loads and stores */
insn_fn gather_select(struct insn *i, const struct insn_decoded *d); /* gather.c: gather, scatter, MASKMOV */

/* -- vector.c: handlers that emit_stub chooses -- */
void op_vector(struct engine_cpu *c, const struct insn *i);
void op_vector_load(struct engine_cpu *c, const struct insn *i);
void op_vector_store(struct engine_cpu *c, const struct insn *i);
/* #AC, where it is on. */
void vector_ac(struct engine_cpu *c, const struct insn *i, const struct vstub *st);
/* Runs the stub on staged memory and commits its results; raises #XM and #UD. */
void vector_run(struct engine_cpu *c, const struct insn *i, const struct vstub *st);
/* MMX mode: TOP 0, all tags valid, so st[] in physical order. */
static inline void mmx_enter(struct engine_fpu *f)
{
	x87_set_top(&f->x87, 0);
	f->x87.ftw = 0xff;
}
void op_x87(struct engine_cpu *c, const struct insn *i); /* x87.c */

/* -- masked.c: memory with fault suppression -- */
void op_masked_load(struct engine_cpu *c, const struct insn *i);
void op_masked_store(struct engine_cpu *c, const struct insn *i);

#endif
