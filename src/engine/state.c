/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The registers as the room above sees them: kvm_regs, kvm_sregs, debug registers, reset. */
#include "engine/jit.h"
#include "engine/system.h"

/* -- General registers -- */

void engine_get_regs(const struct engine_cpu *c, struct kvm_regs *r)
{
	const uint64_t *g = c->gpr;

	*r = (struct kvm_regs){
	    .rax = g[RAX],
	    .rbx = g[RBX],
	    .rcx = g[RCX],
	    .rdx = g[RDX],
	    .rsi = g[RSI],
	    .rdi = g[RDI],
	    .rsp = g[RSP],
	    .rbp = g[RBP],
	    .r8 = g[R8],
	    .r9 = g[R9],
	    .r10 = g[R10],
	    .r11 = g[R11],
	    .r12 = g[R12],
	    .r13 = g[R13],
	    .r14 = g[R14],
	    .r15 = g[R15],
	    .rip = c->rip,
	    .rflags = c->rflags,
	};
}

/* An exception under delivery belongs to the state that is replaced, and is dropped with it. */
void engine_set_regs(struct engine_cpu *c, const struct kvm_regs *r)
{
	const uint64_t g[GPRS] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
				  r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};

	memcpy(c->gpr, g, sizeof(g));
	c->rip = c->next_rip = r->rip;
	c->is_delivering = false;
	rflags_set(c, r->rflags);
}

unsigned engine_cpl(const struct engine_cpu *c)
{
	return c->cpl;
}

uint64_t engine_get_cr0(const struct engine_cpu *c)
{
	return c->cr0;
}

uint64_t engine_get_cr4(const struct engine_cpu *c)
{
	return c->cr4;
}

uint64_t engine_get_rflags(const struct engine_cpu *c)
{
	return c->rflags;
}

/* -- Segments and system registers -- */

static void seg_out(const struct engine_seg *s, struct kvm_segment *k)
{
	*k = (struct kvm_segment){
	    .base = s->base,
	    .limit = s->limit,
	    .selector = s->sel,
	    .type = SEG_TYPE(s->attr),
	    .present = !s->unusable,
	    .dpl = SEG_DPL(s->attr),
	    .db = !!(s->attr & SEG_DB),
	    .s = !!(s->attr & SEG_S),
	    .l = !!(s->attr & SEG_L),
	    .g = !!(s->attr & SEG_G),
	    .avl = !!(s->attr & SEG_AVL),
	    .unusable = s->unusable,
	};
}

static void seg_in(const struct kvm_segment *k, struct engine_seg *s)
{
	bool usable = k->present && !k->unusable;

	*s = (struct engine_seg){
	    .base = k->base,
	    .limit = k->limit,
	    .sel = k->selector,
	    .attr = (k->type & 15) | (k->s & 1) << 4 | (k->dpl & 3) << 5 | usable << 7 | (k->avl & 1) << 12 |
		    (k->l & 1) << 13 | (k->db & 1) << 14 | (k->g & 1) << 15,
	    .unusable = !usable,
	};
}

void engine_get_sregs(const struct engine_cpu *c, struct kvm_sregs *s)
{
	seg_out(&c->seg[CS], &s->cs);
	seg_out(&c->seg[DS], &s->ds);
	seg_out(&c->seg[ES], &s->es);
	seg_out(&c->seg[FS], &s->fs);
	seg_out(&c->seg[GS], &s->gs);
	seg_out(&c->seg[SS], &s->ss);
	seg_out(&c->seg[TR], &s->tr);
	seg_out(&c->seg[LDTR], &s->ldt);
	s->gdt = (struct kvm_dtable){.base = c->gdt.base, .limit = c->gdt.limit};
	s->idt = (struct kvm_dtable){.base = c->idt.base, .limit = c->idt.limit};
	s->cr0 = c->cr0;
	s->cr2 = c->cr2;
	s->cr3 = c->cr3;
	s->cr4 = c->cr4;
	s->efer = c->efer;
}

/* As kvm_is_valid_sregs; and CR0 must not have paging without protection, nor bits above 31. */
static bool sregs_valid(const struct engine_cpu *c, const struct kvm_sregs *s)
{
	unsigned phys = c->feat.maxphyaddr ? c->feat.maxphyaddr : 36;

	if (s->cr0 >> 32 || ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)))
		return false;
	if ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD))
		return false;
	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) {
		if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA) || s->cr3 >> phys)
			return false;
	} else if ((s->efer & EFER_LMA) || s->cs.l) {
		return false;
	}
	return control_cr4_valid(c, s->cr4);
}

int engine_set_sregs(struct engine_cpu *c, const struct kvm_sregs *s)
{
	if (!sregs_valid(c, s))
		return -EINVAL;
	seg_in(&s->cs, &c->seg[CS]);
	seg_in(&s->ds, &c->seg[DS]);
	seg_in(&s->es, &c->seg[ES]);
	seg_in(&s->fs, &c->seg[FS]);
	seg_in(&s->gs, &c->seg[GS]);
	seg_in(&s->ss, &c->seg[SS]);
	seg_in(&s->tr, &c->seg[TR]);
	seg_in(&s->ldt, &c->seg[LDTR]);
	c->gdt.base = s->gdt.base;
	c->gdt.limit = s->gdt.limit;
	c->idt.base = s->idt.base;
	c->idt.limit = s->idt.limit;
	c->cr0 = s->cr0 | CR0_ET;
	c->cr2 = s->cr2;
	c->cr3 = s->cr3;
	c->cr4 = s->cr4;
	c->efer = s->efer;
	c->is_delivering = false;
	mode_update(c);
	mmu_flush_all(c);
	if (engine_pae_paging(c))
		mmu_load_pdptrs(c, c->cr3, c->pdptr);
	debug_update(c);
	return 0;
}

void engine_get_pdptrs(const struct engine_cpu *c, uint64_t pdptrs[4])
{
	memcpy(pdptrs, c->pdptr, sizeof(c->pdptr));
}

void engine_set_pdptrs(struct engine_cpu *c, const uint64_t pdptrs[4])
{
	memcpy(c->pdptr, pdptrs, sizeof(c->pdptr));
	mmu_flush_all(c);
}

/* -- Debug registers -- */

void engine_get_debugregs(const struct engine_cpu *c, struct kvm_debugregs *d)
{
	memset(d, 0, sizeof(*d));
	memcpy(d->db, c->dr, sizeof(d->db));
	d->dr6 = c->dr6;
	d->dr7 = c->dr7;
}

int engine_set_debugregs(struct engine_cpu *c, const struct kvm_debugregs *d)
{
	if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
		return -EINVAL;
	memcpy(c->dr, d->db, sizeof(c->dr));
	c->dr6 = d->dr6;
	c->dr7 = d->dr7;
	debug_update(c);
	return 0;
}

/* -- Events -- */

unsigned engine_get_shadow(const struct engine_cpu *c)
{
	return c->shadow;
}

void engine_set_shadow(struct engine_cpu *c, unsigned shadow)
{
	c->shadow = shadow;
	if (shadow)
		c->slow |= SLOW_SHADOW;
	else
		c->slow &= ~SLOW_SHADOW;
}

bool engine_interruptible(const struct engine_cpu *c)
{
	return (c->rflags & FLAG_IF) && !c->shadow;
}

void engine_want_window(struct engine_cpu *c, bool want)
{
	c->want_window = want;
	if (want)
		c->slow |= SLOW_WINDOW;
	else
		c->slow &= ~SLOW_WINDOW;
}

/* -- Features and reset -- */

void engine_set_features(struct engine_cpu *c, const struct engine_features *f)
{
	c->feat = *f;
	if (c->jit && c->jit->rw)
		jit_flush(c); /* code was made for what there was */
	mmu_flush_all(c);
}

void engine_set_tsc(struct engine_cpu *c, const _Atomic uint64_t *offset)
{
	if (c->tsc_offset == offset)
		return;
	c->tsc_offset = offset;
	if (c->jit && c->jit->rw)
		jit_flush(c);
}

static struct engine_seg reset_seg(uint16_t attr)
{
	return (struct engine_seg){.limit = 0xffff, .attr = attr};
}

static void reset_segments(struct engine_cpu *c)
{
	for (unsigned s = ES; s < SEGS; s++)
		c->seg[s] = reset_seg(SEG_P | SEG_S | 3);
	c->seg[CS] = reset_seg(SEG_P | SEG_S | 11);
	c->seg[CS].sel = 0xf000;
	c->seg[CS].base = 0xffff0000;
	c->seg[TR] = reset_seg(SEG_P | SYS_TSS32_BUSY);
	c->seg[LDTR] = reset_seg(SEG_P | SYS_LDT);
	c->gdt.base = c->idt.base = 0;
	c->gdt.limit = c->idt.limit = 0xffff;
}

/* What INIT leaves alone. */
static void reset_msrs(struct engine_cpu *c)
{
	c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = 0;
	c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
	c->tsc_aux = c->xss = 0;
	c->pat = 0x0007040600070406;
	c->debug_control = 0;
}

/* RDX holds the processor's signature: CPUID's where the guest has one. */
static uint64_t signature(struct engine_cpu *c, bool init)
{
	uint32_t regs[4] = {1, 0, 0, 0};

	if (!init || !c->port || !c->port->cpuid || c->port->cpuid(c->ctx, regs) != ENGINE_OK || !regs[0])
		return 0x600;
	return regs[0];
}

void engine_reset(struct engine_cpu *c, bool init)
{
	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[RDX] = signature(c, init);
	c->rip = c->next_rip = 0xfff0;
	c->rflags = BIT(1);
	reset_segments(c);
	c->cr0 = CR0_ET | (init ? c->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW);
	c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
	memset(c->pdptr, 0, sizeof(c->pdptr));
	memset(c->dr, 0, sizeof(c->dr));
	c->dr6 = DR6_FIXED;
	c->dr7 = DR7_FIXED;
	if (!init)
		reset_msrs(c);
	c->is_delivering = false;
	c->db_hits = 0;
	engine_set_shadow(c, 0);
	fpu_reset(c, init);
	mode_update(c);
	mmu_flush_all(c);
	debug_update(c);
	rflags_set(c, c->rflags);
}
