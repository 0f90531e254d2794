/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to engine/: the vocabulary of the system side (descriptors, far transfers, control registers). */
#ifndef USERKVM_ENGINE_SYSTEM_H
#define USERKVM_ENGINE_SYSTEM_H

#include "engine/cpu.h"
#include "engine/decode.h"

#define CR4_PKE	     BIT(22)
#define EFER_KNOWN   (EFER_SCE | EFER_LME | EFER_LMA | EFER_NX)
#define DR6_FIXED    0xffff0ff0UL
#define DR6_BD	     BIT(13)
#define DR6_BS	     BIT(14)
#define DR6_BT	     BIT(15)
#define DR7_FIXED    0x400UL
#define DR7_WRITABLE 0xffff2bffUL
#define DR7_GD	     BIT(13)

/* -- Descriptors (segment.c) -- */
enum sys_type {
	SYS_TSS16 = 1,
	SYS_LDT,
	SYS_TSS16_BUSY,
	SYS_CALL16,
	SYS_TASK,
	SYS_INT16,
	SYS_TRAP16,
	SYS_TSS32 = 9,
	SYS_TSS32_BUSY = 11,
	SYS_CALL32,
	SYS_INT32 = 14,
	SYS_TRAP32
};

struct desc {
	uint64_t raw;  /* the eight bytes */
	uint64_t high; /* the next eight of a 16-byte system descriptor, or 0 */
	uint64_t addr; /* linear address of the descriptor */
};
static inline uint16_t desc_attr(const struct desc *d)
{
	return (d->raw >> 40) & 0xf0ff;
}
static inline unsigned desc_type(const struct desc *d)
{
	return (d->raw >> 40) & 15;
}
static inline unsigned desc_dpl(const struct desc *d)
{
	return (d->raw >> 45) & 3;
}
static inline bool desc_present(const struct desc *d)
{
	return d->raw & BIT(47);
}
static inline bool desc_is_seg(const struct desc *d)
{
	return d->raw & BIT(44);
}
static inline bool desc_is_code(const struct desc *d)
{
	return desc_is_seg(d) && (desc_type(d) & 8);
}
static inline bool desc_is_conforming(const struct desc *d)
{
	return (desc_type(d) & 12) == 12;
}
static inline bool desc_is_writable_data(const struct desc *d)
{
	return desc_is_seg(d) && (desc_type(d) & 10) == 2;
}
uint64_t desc_base(const struct desc *d);
uint32_t desc_limit(const struct desc *d);
/* Reads the descriptor of a non-null selector; false if it lies outside its table. Raises #PF only. */
bool desc_read(struct engine_cpu *c, uint16_t sel, struct desc *d);
/* Reads the second half of a 16-byte descriptor; false if that lies outside the table or is malformed. */
bool desc_read_high(struct engine_cpu *c, uint16_t sel, struct desc *d);
/* Sets the accessed bit in memory (locked) if it is clear, and in *d. */
void desc_set_accessed(struct engine_cpu *c, struct desc *d);
void desc_to_seg(const struct desc *d, uint16_t sel, struct engine_seg *out);
/* Null selector loaded: unusable. */
void seg_make_null(struct engine_seg *s, uint16_t sel);
/* Commits a segment register and what is derived from it. */
void seg_commit(struct engine_cpu *c, enum seg s, const struct engine_seg *val);
/* Flat 64-bit or 32-bit segments as SYSCALL and friends load them. */
struct engine_seg seg_fixed(uint16_t sel, uint16_t attr);
/* Data segment registers that a more outer level may not keep become null. */
void seg_drop_privileged(struct engine_cpu *c);
/* Checks an offset range against a segment for a stack write: false = fault. In 64-bit code: canonical. */
bool seg_stack_ok(const struct engine_cpu *c, const struct engine_seg *ss, bool wide, uint64_t off,
		  unsigned len);
void seg_load_ldt(struct engine_cpu *c, uint16_t sel);
void seg_load_tr(struct engine_cpu *c, uint16_t sel);
bool seg_lar(struct engine_cpu *c, uint16_t sel, uint32_t *out);
bool seg_lsl(struct engine_cpu *c, uint16_t sel, uint32_t *out);
bool seg_verify(struct engine_cpu *c, uint16_t sel, bool write);
/* What SYSCALL and its like load; and the flags that SYSRET does. */
#define FAST_CODE64 (SEG_G | SEG_L | SEG_P | SEG_S | 11)
#define FAST_DATA   (SEG_G | SEG_DB | SEG_P | SEG_S | 3)
#define FAST_DPL3   (3 << 5)
#define SYSRET_FLAGS                                                                                       \
	(FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_VIF | FLAG_VIP | \
	 FLAG_ID)
/* Recomputes what c->seg_flat and c->seg_room say of the segment. */
void seg_flat_update(struct engine_cpu *c, enum seg s);

/* 1 while an event other than a software interrupt is being delivered: the EXT bit of error codes. */
static inline uint32_t event_ext(const struct engine_cpu *c)
{
	return c->is_delivering && c->delivering.kind != ENGINE_EV_SOFT;
}
/* Error code for a selector. */
static inline uint32_t sel_error(const struct engine_cpu *c, uint16_t sel)
{
	return (sel & 0xfffc) | event_ext(c);
}

/* -- Memory helpers of this side (mmu.c) -- */
/* Locked (*byte & and) | or at a linear address, as an implicit supervisor access. */
void sys_rmw8(struct engine_cpu *c, uint64_t lin, uint8_t and, uint8_t or);
/* Puts the privilege class into c->tlb_key again, after a change of CPL, RFLAGS.AC or CR4.SMAP. */
void mmu_update_key(struct engine_cpu *c);
/* INVPCID of one address in one context. */
void mmu_flush_page_of(struct engine_cpu *c, uint64_t lin, unsigned pcid);
/* INVPCID of one context, global pages aside. */
void mmu_flush_pcid(struct engine_cpu *c, unsigned pcid);
/* True if a data breakpoint watches the page. debug.c */
bool debug_page_watched(const struct engine_cpu *c, uint64_t page);
/* Notes I/O breakpoints. debug.c */
void debug_check_io(struct engine_cpu *c, uint16_t port, unsigned size);
/* General detection: DR7.GD and a MOV of a debug register. debug.c */
void debug_check_gd(struct engine_cpu *c);
/* True if #DB belongs to the VMM; then *info is what it is told. debug.c */
bool debug_intercepts_db(const struct engine_cpu *c);
_Noreturn void debug_leave(struct engine_cpu *c, uint8_t exception, uint64_t dr6);

/* -- A stack that is not committed yet (far.c) -- */
struct far_stack {
	struct engine_seg ss;
	uint64_t sp;
	uint8_t cpl;	/* level of the accesses */
	bool wide;	/* 64-bit: no segment */
	uint32_t error; /* of the #SS that a limit violation raises */
};
void far_push(struct engine_cpu *c, struct far_stack *st, uint64_t val, unsigned size);
uint64_t far_pop(struct engine_cpu *c, struct far_stack *st, unsigned size);
void far_skip(struct far_stack *st, unsigned size);
/* A selector in a slot of `size` bytes: only its two bytes are read. */
uint16_t far_pop_sel(struct engine_cpu *c, struct far_stack *st, unsigned size);
/* The current stack, as a far_stack whose limit violations raise #SS(error). */
void far_stack_current(struct engine_cpu *c, struct far_stack *st, uint32_t error);
/* The stack of privilege level dpl from the TSS; raises #TS, #SS, #PF. */
void far_stack_inner(struct engine_cpu *c, struct far_stack *st, unsigned dpl, unsigned ist);
/* Commits SS:RSP of *st; load_ss: the segment too. */
void far_stack_commit(struct engine_cpu *c, const struct far_stack *st, bool load_ss);
/* Commits CS with CPL and the instruction pointer. */
void far_commit_cs(struct engine_cpu *c, const struct engine_seg *cs, unsigned cpl, uint64_t rip);
/* Raises #GP(ext) unless off may be executed in the code segment. */
void far_check_rip(struct engine_cpu *c, const struct engine_seg *cs, uint64_t off, uint32_t error);
void far_syscall(struct engine_cpu *c);
void far_sysret(struct engine_cpu *c, unsigned opsize);
void far_sysenter(struct engine_cpu *c);
void far_sysexit(struct engine_cpu *c, unsigned opsize);

/* -- Task switches (task.c) -- */
enum task_source { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
/* tss is the descriptor of sel, checked for type and presence by the caller. Commits everything, rip and
 * next_rip included, or raises. An error code is pushed on the new stack if has_error. */
void task_switch(struct engine_cpu *c, uint16_t sel, struct desc *tss, enum task_source src, bool has_error,
		 uint32_t error);
/* Through a task gate or a TSS selector found by a far JMP, CALL or event: checks the selector first. */
void task_switch_to(struct engine_cpu *c, uint16_t sel, enum task_source src, bool has_error, uint32_t error);
/* IRET with NT. */
void task_return(struct engine_cpu *c);

/* -- Control registers and MSRs (control.c, msr.c) -- */
bool control_cr4_valid(const struct engine_cpu *c, uint64_t val);
void op_mov_from_cr(struct engine_cpu *c, const struct insn *i);
void op_mov_to_cr(struct engine_cpu *c, const struct insn *i);
void op_mov_from_dr(struct engine_cpu *c, const struct insn *i);
void op_mov_to_dr(struct engine_cpu *c, const struct insn *i);
void op_clts(struct engine_cpu *c, const struct insn *i);
void op_lmsw(struct engine_cpu *c, const struct insn *i);
void op_smsw(struct engine_cpu *c, const struct insn *i);
void op_xgetbv(struct engine_cpu *c, const struct insn *i);
void op_xsetbv(struct engine_cpu *c, const struct insn *i);
void op_rdmsr(struct engine_cpu *c, const struct insn *i);
void op_wrmsr(struct engine_cpu *c, const struct insn *i);

/* Segment-register and descriptor-table instructions: sysseg.c; NULL if the mnemonic is not one. */
insn_fn sysseg_select(struct insn *i, const struct insn_decoded *d);

/* A port call that may sleep, and what its answer asks for. */
#define PORT_CALL(c, call)              \
	do {                            \
		enum engine_status st_; \
		port_enter(c);          \
		st_ = (call);           \
		port_leave(c);          \
		engine_obey(c, st_);    \
	} while (0)

/* -- Small operand helpers -- */
static inline uint64_t gpr_read(const struct engine_cpu *c, unsigned r, unsigned size)
{
	return size == 8 ? c->gpr[r] : c->gpr[r] & ((1ULL << (size * 8)) - 1);
}
/* 32-bit writes clear the upper half, 16-bit ones keep the rest. */
static inline void gpr_write(struct engine_cpu *c, unsigned r, uint64_t val, unsigned size)
{
	if (size == 8)
		c->gpr[r] = val;
	else if (size == 4)
		c->gpr[r] = (uint32_t)val;
	else
		c->gpr[r] = (c->gpr[r] & ~0xffffULL) | (val & 0xffff);
}
static inline void require_cpl0(struct engine_cpu *c)
{
	if (c->cpl)
		engine_raise_err(c, EXC_GP, 0);
}

#endif
