/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SMI and RSM. The state is saved as KVM 6.1 does: 512 bytes at SMBASE + 0xfe00, in the AMD64 layout for a
 * guest with long mode in its CPUID, else in the 32-bit layout. Offsets below are those of the
 * architecture manuals, relative to SMBASE + 0x8000; the image begins at 0x7e00.
 */
#include "vcpu/internal.h"

#define IMAGE_SIZE   512
#define IMAGE_OFFSET 0x7e00
#define IMAGE_ADDR   0xfe00
#define REVISION_64  0x00020064
#define REVISION_32  0x00020000
#define RFLAGS_FIXED 2
#define CR0_CLEARED  (BIT(0) | BIT(2) | BIT(3) | BIT(31)) /* PE, EM, TS, PG */
#define EFER_LMA     BIT(10)
#define DR7_FIXED    0x400
#define DR6_VOLATILE 0x1e00fULL
#define DR6_FIXED    0xfffe0ff0ULL
#define CPUID_LM     BIT(29)

#define SEG_COUNT 6

struct image {
	uint8_t b[IMAGE_SIZE];
};

static void put(struct image *m, unsigned offset, unsigned size, uint64_t val)
{
	memcpy(&m->b[offset - IMAGE_OFFSET], &val, size);
}

static uint64_t get(const struct image *m, unsigned offset, unsigned size)
{
	uint64_t val = 0;

	memcpy(&val, &m->b[offset - IMAGE_OFFSET], size);
	return val;
}

/* All register state that the image holds. */
struct state {
	struct kvm_regs r;
	struct kvm_sregs s;
	struct kvm_debugregs d;
};

static void state_load(const struct vcpu *v, struct state *st)
{
	engine_get_regs(v->cpu, &st->r);
	engine_get_sregs(v->cpu, &st->s);
	engine_get_debugregs(v->cpu, &st->d);
}

/* Commits; -EINVAL if no CPU could be in this state, nothing changed then. */
static int state_store(struct vcpu *v, const struct state *st)
{
	int r = engine_set_sregs(v->cpu, &st->s);

	if (r)
		return r;
	engine_set_regs(v->cpu, &st->r);
	return engine_set_debugregs(v->cpu, &st->d);
}

/* -- Fields in the order of the images -- */

/* RAX RCX RDX RBX RSP RBP RSI RDI R8..R15: the order of register numbers. */
static __u64 *gpr(struct kvm_regs *r, unsigned i)
{
	__u64 *const low[] = {&r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi};

	return i < 8 ? low[i] : &r->r8 + (i - 8);
}

/* ES CS SS DS FS GS. */
static struct kvm_segment *segment(struct kvm_sregs *s, unsigned i)
{
	struct kvm_segment *const seg[] = {&s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs};

	return seg[i];
}

/* Descriptor bits 40..55. */
static uint16_t seg_attr(const struct kvm_segment *g)
{
	return g->type | g->s << 4 | g->dpl << 5 | g->present << 7 | g->avl << 12 | g->l << 13 | g->db << 14 |
	       g->g << 15;
}

static void seg_set_attr(struct kvm_segment *g, uint32_t a)
{
	g->type = a & 15;
	g->s = a >> 4 & 1;
	g->dpl = a >> 5 & 3;
	g->present = a >> 7 & 1;
	g->avl = a >> 12 & 1;
	g->l = a >> 13 & 1;
	g->db = a >> 14 & 1;
	g->g = a >> 15 & 1;
	g->unusable = !g->present;
	g->padding = 0;
}

/* -- The 64-bit image -- */

static void save_seg64(struct image *m, unsigned at, const struct kvm_segment *g)
{
	put(m, at, 2, g->selector);
	put(m, at + 2, 2, seg_attr(g));
	put(m, at + 4, 4, g->limit);
	put(m, at + 8, 8, g->base);
}

static void load_seg64(const struct image *m, unsigned at, struct kvm_segment *g)
{
	g->selector = get(m, at, 2);
	seg_set_attr(g, get(m, at + 2, 2));
	g->limit = get(m, at + 4, 4);
	g->base = get(m, at + 8, 8);
}

static void save64(const struct vcpu *v, struct state *st, struct image *m)
{
	unsigned i;

	for (i = 0; i < 16; i++)
		put(m, 0x7ff8 - 8 * i, 8, *gpr(&st->r, i));
	put(m, 0x7f78, 8, st->r.rip);
	put(m, 0x7f70, 4, st->r.rflags);
	put(m, 0x7f68, 8, st->d.dr6);
	put(m, 0x7f60, 8, st->d.dr7);
	put(m, 0x7f58, 8, st->s.cr0);
	put(m, 0x7f50, 8, st->s.cr3);
	put(m, 0x7f48, 8, st->s.cr4);
	put(m, 0x7f00, 4, v->smbase);
	put(m, 0x7efc, 4, REVISION_64);
	put(m, 0x7ed0, 8, st->s.efer);
	save_seg64(m, 0x7e90, &st->s.tr);
	put(m, 0x7e84, 4, st->s.idt.limit);
	put(m, 0x7e88, 8, st->s.idt.base);
	save_seg64(m, 0x7e70, &st->s.ldt);
	put(m, 0x7e64, 4, st->s.gdt.limit);
	put(m, 0x7e68, 8, st->s.gdt.base);
	for (i = 0; i < SEG_COUNT; i++)
		save_seg64(m, 0x7e00 + 16 * i, segment(&st->s, i));
}

static uint32_t load64(const struct image *m, struct state *st)
{
	unsigned i;

	for (i = 0; i < 16; i++)
		*gpr(&st->r, i) = get(m, 0x7ff8 - 8 * i, 8);
	st->r.rip = get(m, 0x7f78, 8);
	st->r.rflags = get(m, 0x7f70, 4) | RFLAGS_FIXED;
	st->d.dr6 = (get(m, 0x7f68, 4) & DR6_VOLATILE) | DR6_FIXED;
	st->d.dr7 = get(m, 0x7f60, 4) | DR7_FIXED;
	st->s.cr0 = get(m, 0x7f58, 8);
	st->s.cr3 = get(m, 0x7f50, 8);
	st->s.cr4 = get(m, 0x7f48, 8);
	/* LMA follows from LME and PG, whatever the handler left in the image. */
	st->s.efer = get(m, 0x7ed0, 8) & ~EFER_LMA;
	if ((st->s.efer & BIT(8)) && (st->s.cr0 & BIT(31)))
		st->s.efer |= EFER_LMA;
	load_seg64(m, 0x7e90, &st->s.tr);
	st->s.idt.limit = get(m, 0x7e84, 4);
	st->s.idt.base = get(m, 0x7e88, 8);
	load_seg64(m, 0x7e70, &st->s.ldt);
	st->s.gdt.limit = get(m, 0x7e64, 4);
	st->s.gdt.base = get(m, 0x7e68, 8);
	for (i = 0; i < SEG_COUNT; i++)
		load_seg64(m, 0x7e00 + 16 * i, segment(&st->s, i));
	return get(m, 0x7f00, 4);
}

/* -- The 32-bit image -- */

static void save_seg32(struct image *m, unsigned at, const struct kvm_segment *g)
{
	put(m, at, 4, (uint32_t)seg_attr(g) << 8);
	put(m, at + 4, 4, g->limit);
	put(m, at + 8, 4, g->base);
}

static void load_seg32(const struct image *m, unsigned at, struct kvm_segment *g)
{
	seg_set_attr(g, get(m, at, 4) >> 8);
	g->limit = get(m, at + 4, 4);
	g->base = get(m, at + 8, 4);
}

/* Where the 32-bit image keeps the hidden part of segment i. */
static unsigned seg32_at(unsigned i)
{
	return i < 3 ? 0x7f84 + 12 * i : 0x7f2c + 12 * (i - 3);
}

static void save32(const struct vcpu *v, struct state *st, struct image *m)
{
	unsigned i;

	put(m, 0x7ffc, 4, st->s.cr0);
	put(m, 0x7ff8, 4, st->s.cr3);
	put(m, 0x7ff4, 4, st->r.rflags);
	put(m, 0x7ff0, 4, st->r.rip);
	for (i = 0; i < 8; i++)
		put(m, 0x7fd0 + 4 * i, 4, *gpr(&st->r, i));
	put(m, 0x7fcc, 4, st->d.dr6);
	put(m, 0x7fc8, 4, st->d.dr7);
	put(m, 0x7fc4, 4, st->s.tr.selector);
	save_seg32(m, 0x7f5c, &st->s.tr);
	put(m, 0x7fc0, 4, st->s.ldt.selector);
	save_seg32(m, 0x7f78, &st->s.ldt);
	put(m, 0x7f74, 4, st->s.gdt.base);
	put(m, 0x7f70, 4, st->s.gdt.limit);
	put(m, 0x7f58, 4, st->s.idt.base);
	put(m, 0x7f54, 4, st->s.idt.limit);
	for (i = 0; i < SEG_COUNT; i++) {
		put(m, 0x7fa8 + 4 * i, 4, segment(&st->s, i)->selector);
		save_seg32(m, seg32_at(i), segment(&st->s, i));
	}
	put(m, 0x7f14, 4, st->s.cr4);
	put(m, 0x7efc, 4, REVISION_32);
	put(m, 0x7ef8, 4, v->smbase);
}

static uint32_t load32(const struct image *m, struct state *st)
{
	unsigned i;

	st->s.cr0 = get(m, 0x7ffc, 4);
	st->s.cr3 = get(m, 0x7ff8, 4);
	st->r.rflags = get(m, 0x7ff4, 4) | RFLAGS_FIXED;
	st->r.rip = get(m, 0x7ff0, 4);
	for (i = 0; i < 8; i++)
		*gpr(&st->r, i) = get(m, 0x7fd0 + 4 * i, 4);
	st->d.dr6 = (get(m, 0x7fcc, 4) & DR6_VOLATILE) | DR6_FIXED;
	st->d.dr7 = get(m, 0x7fc8, 4) | DR7_FIXED;
	st->s.tr.selector = get(m, 0x7fc4, 4);
	load_seg32(m, 0x7f5c, &st->s.tr);
	st->s.ldt.selector = get(m, 0x7fc0, 4);
	load_seg32(m, 0x7f78, &st->s.ldt);
	st->s.gdt.base = get(m, 0x7f74, 4);
	st->s.gdt.limit = get(m, 0x7f70, 4);
	st->s.idt.base = get(m, 0x7f58, 4);
	st->s.idt.limit = get(m, 0x7f54, 4);
	for (i = 0; i < SEG_COUNT; i++) {
		segment(&st->s, i)->selector = get(m, 0x7fa8 + 4 * i, 4);
		load_seg32(m, seg32_at(i), segment(&st->s, i));
	}
	st->s.cr4 = get(m, 0x7f14, 4);
	return get(m, 0x7ef8, 4);
}

/* -- Entry and exit -- */

static bool has_long_mode(const struct vcpu *v)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(v, 0x80000001, 0);

	return e && (e->edx & CPUID_LM);
}

void smm_switch(struct vcpu *v, bool smm)
{
	v->ev.smi.in_smm = smm;
	engine_set_smm(v->cpu, smm);
	engine_revoke(v->cpu); /* the other address space has other pages */
	if (!smm)
		vcpu_request(v, VCPU_REQ_EVENT); /* a latched INIT, NMI or SMI */
}

/* The state in which the handler starts: flat real mode with 4 GiB limits, at SMBASE + 0x8000. */
static void handler_state(const struct vcpu *v, struct state *st, bool long_mode)
{
	struct kvm_segment data = {.limit = 0xffffffff, .type = 3, .s = 1, .g = 1, .present = 1};
	unsigned i;

	st->r.rflags = RFLAGS_FIXED;
	st->r.rip = 0x8000;
	st->s.cr0 &= ~CR0_CLEARED;
	st->s.cr4 = 0;
	st->s.idt = (struct kvm_dtable){0};
	if (long_mode)
		st->s.efer = 0;
	for (i = 0; i < SEG_COUNT; i++)
		*segment(&st->s, i) = data;
	st->s.cs.selector = v->smbase >> 4;
	st->s.cs.base = v->smbase;
	st->d.dr7 = DR7_FIXED;
}

void smm_enter(struct vcpu *v)
{
	bool long_mode = has_long_mode(v);
	struct image m = {{0}};
	struct state st;

	state_load(v, &st);
	if (long_mode)
		save64(v, &st, &m);
	else
		save32(v, &st, &m);
	if (mem_write(v->vm->mem, 1, (uint64_t)v->smbase + IMAGE_ADDR, &m, sizeof(m)))
		base_log(LOG_INFO, "SMI: no memory at SMBASE %#x", v->smbase);
	smm_switch(v, true);
	v->ev.smi.inside_nmi = v->ev.nmi.masked;
	v->ev.nmi.masked = true;
	handler_state(v, &st, long_mode);
	engine_set_shadow(v->cpu, 0);
	base_bug_on(state_store(v, &st));
}

enum engine_status smm_leave(struct vcpu *v)
{
	struct image m;
	struct state st;
	uint32_t smbase;

	if (!v->ev.smi.in_smm)
		return ENGINE_UD;
	if (mem_read(v->vm->mem, 1, (uint64_t)v->smbase + IMAGE_ADDR, &m, sizeof(m)))
		memset(&m, 0xff, sizeof(m));
	state_load(v, &st);
	smbase = has_long_mode(v) ? load64(&m, &st) : load32(&m, &st);
	if (!v->ev.smi.inside_nmi)
		v->ev.nmi.masked = false;
	smm_switch(v, false);
	if (state_store(v, &st)) {
		v->run->exit_reason = KVM_EXIT_SHUTDOWN;
		return vcpu_stop_result(v, 0);
	}
	v->smbase = smbase;
	return ENGINE_OK;
}
