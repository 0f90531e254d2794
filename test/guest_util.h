/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest with descriptor tables: GDT, IDT, TSS and page tables in a 4 MiB VM, so that a test can run a few
 * instructions at any privilege and see the exact exception. Every vector's handler pushes its number and
 * leaves by `out 0xe0`; the host reads the frame from the guest's stack. ABI only; see kvm_util.h.
 *
 *	struct gu g;
 *	gu_start(&g, GU_LONG);
 *	gu_code(&g, bytes, sizeof(bytes), cpl);
 *	gu_trap(&g, &trap);		-> trap.vector, .error, .rip ...
 */
#ifndef TEST_GUEST_UTIL_H
#define TEST_GUEST_UTIL_H

#include "kvm_util.h"

enum gu_mode { GU_LONG, GU_PROT32 };

#define GU_GDT	  0x1000
#define GU_IDT	  0x2000
#define GU_TSS	  0x3000
#define GU_STUBS  0x4000
#define GU_STACK0 0x9000 /* top, CPL 0 */
#define GU_STACK3 0xb000 /* top, CPL 3 */
#define GU_CODE	  0x10000
#define GU_DATA	  0x20000
#define GU_PML4	  0x100000 /* then PDPT, PD (first GiB, 2 MiB pages), PD2 and PT of the window */
#define GU_PT	  0x104000
#define GU_WINDOW 0x40000000ULL /* linear: 512 pages through GU_PT, all absent at first */
#define GU_FRAMES 0x200000	/* physical: frames that the window's pages may use */
#define GU_RAM	  0x400000

#define GU_CS0 0x08
#define GU_DS0 0x10
#define GU_CS3 0x1b
#define GU_DS3 0x23
#define GU_TR  0x30

struct gu {
	struct ku_vm vm;
	struct ku_vcpu cpu;
	enum gu_mode mode;
};

struct gu_trap {
	unsigned vector;
	uint64_t error, rip, cs, rflags, rsp, cr2;
};

static inline uint64_t gu_desc(uint32_t base, uint32_t limit, uint16_t attr)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xf0ff) << 40 |
	       (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(base >> 24) << 56;
}

static inline void gu_tables(struct gu *g)
{
	uint64_t *gdt = (uint64_t *)(g->vm.ram + GU_GDT);
	uint16_t code = g->mode == GU_LONG ? 0xa09b : 0xc09b, tss = g->mode == GU_LONG ? 0x008b : 0x008b;
	uint8_t *stub = g->vm.ram + GU_STUBS;

	gdt[1] = gu_desc(0, 0xfffff, code);
	gdt[2] = gu_desc(0, 0xfffff, 0xc093);
	gdt[3] = gu_desc(0, 0xfffff, code | 0x60);
	gdt[4] = gu_desc(0, 0xfffff, 0xc0f3);
	gdt[6] = gu_desc(GU_TSS, 0x67, tss);
	gdt[7] = 0;
	if (g->mode == GU_LONG) {
		*(uint64_t *)(g->vm.ram + GU_TSS + 4) = GU_STACK0;
	} else {
		*(uint32_t *)(g->vm.ram + GU_TSS + 4) = GU_STACK0;
		*(uint32_t *)(g->vm.ram + GU_TSS + 8) = GU_DS0;
	}
	*(uint16_t *)(g->vm.ram + GU_TSS + 0x66) = 0x68;
	for (unsigned v = 0; v < 64; v++) {
		static const uint64_t has_error = 0x60227d00; /* 8 10-14 17 21 29 30 */
		uint32_t at = GU_STUBS + v * 16;
		uint8_t *p = stub + v * 16;

		if (v >= 32 || !(has_error >> v & 1)) {
			*p++ = 0x6a; /* push 0 */
			*p++ = 0;
		}
		*p++ = 0x6a; /* push v */
		*p++ = (uint8_t)v;
		*p++ = 0xe6; /* out 0xe0, al */
		*p++ = 0xe0;
		*p++ = 0xf4;
		if (g->mode == GU_LONG) {
			uint64_t *e = (uint64_t *)(g->vm.ram + GU_IDT + v * 16);

			e[0] = (at & 0xffff) | (uint64_t)GU_CS0 << 16 | 0xee00ULL << 32;
			e[1] = 0;
		} else {
			*(uint64_t *)(g->vm.ram + GU_IDT + v * 8) =
			    (at & 0xffff) | (uint64_t)GU_CS0 << 16 | 0xee00ULL << 32;
		}
	}
}

/* Identity map of the first 4 MiB for everybody, and the window's empty page table. */
static inline void gu_paging(struct gu *g)
{
	uint64_t *pml4 = (uint64_t *)(g->vm.ram + GU_PML4);

	pml4[0] = (GU_PML4 + 0x1000) | 7;
	pml4[512] = (GU_PML4 + 0x2000) | 7;
	pml4[513] = (GU_PML4 + 0x3000) | 7;
	pml4[1024] = 0x000087;
	pml4[1025] = 0x200087;
	pml4[1536] = GU_PT | 7;
}

static inline void gu_sregs(struct gu *g)
{
	struct kvm_sregs s;

	ku_get_sregs(&g->cpu, &s);
	s.gdt = (struct kvm_dtable){.base = GU_GDT, .limit = 0x3f};
	s.idt = (struct kvm_dtable){.base = GU_IDT, .limit = g->mode == GU_LONG ? 64 * 16 - 1 : 64 * 8 - 1};
	s.cr0 = 0x80050033;
	s.cr3 = GU_PML4;
	s.cr4 = 0x620; /* PAE OSFXSR OSXMMEXCPT */
	s.efer = g->mode == GU_LONG ? 0xd01 : 0x800;
	s.cs = ku_flat(GU_CS0, 11, g->mode == GU_LONG);
	s.ds = s.es = s.fs = s.gs = s.ss = ku_flat(GU_DS0, 3, false);
	s.tr =
	    (struct kvm_segment){.base = GU_TSS, .limit = 0x67, .selector = GU_TR, .type = 11, .present = 1};
	s.ldt = (struct kvm_segment){.unusable = 1};
	if (g->mode == GU_PROT32) {
		s.cr0 = 0x50033;
		s.cr4 = 0x600;
		s.efer = 0;
	}
	ku_set_sregs(&g->cpu, &s);
}

/* As gu_start, with our interrupt controllers. */
static inline void gu_start_chips(struct gu *g, enum gu_mode mode, bool chips)
{
	*g = (struct gu){.mode = mode};
	ku_vm_create(&g->vm, GU_RAM);
	KU_CHECK(!chips || ioctl(g->vm.fd, KVM_CREATE_IRQCHIP, 0) == 0);
	ku_vcpu_create(&g->vm, 0, &g->cpu);
	gu_tables(g);
	gu_paging(g);
	gu_sregs(g);
}

static inline void gu_start(struct gu *g, enum gu_mode mode)
{
	gu_start_chips(g, mode, false);
}

static inline void gu_end(struct gu *g)
{
	ku_vcpu_destroy(&g->cpu);
	ku_vm_destroy(&g->vm);
}

/* Points the CPU at GU_CODE with the given bytes there, at CPL 0 or 3, flags clear, stack empty. */
static inline void gu_code(struct gu *g, const void *code, size_t len, unsigned cpl)
{
	struct kvm_sregs s;

	gu_sregs(g);
	if (cpl == 3) {
		ku_get_sregs(&g->cpu, &s);
		s.cs.selector = GU_CS3;
		s.cs.dpl = s.ss.dpl = s.ds.dpl = s.es.dpl = 3;
		s.ss.selector = s.ds.selector = s.es.selector = GU_DS3;
		ku_set_sregs(&g->cpu, &s);
	}
	memset(g->vm.ram + GU_CODE, 0xf4, 256);
	memcpy(g->vm.ram + GU_CODE, code, len);
	ku_reset_regs(&g->cpu, GU_CODE, cpl == 3 ? GU_STACK3 : GU_STACK0);
}

/* gu_code of a KU_ASM program, at CPL 0. */
#define GU_ASM(g, name) gu_code(g, name, (size_t)(name##_end - (name)), 0)

/* Runs to the next trap and reads its frame; false if something else ended the run. */
static inline bool gu_trap(struct gu *g, struct gu_trap *t)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	uint64_t f[7];

	if (ku_run(&g->cpu) != KVM_EXIT_IO || g->cpu.run->io.port != 0xe0)
		return false;
	ku_get_regs(&g->cpu, &r);
	ku_get_sregs(&g->cpu, &s);
	for (unsigned i = 0; i < 7; i++)
		f[i] = g->mode == GU_LONG ? *(uint64_t *)(g->vm.ram + r.rsp + i * 8)
					  : *(uint32_t *)(g->vm.ram + r.rsp + i * 4);
	*t = (struct gu_trap){.vector = (unsigned)f[0],
			      .error = f[1],
			      .rip = f[2],
			      .cs = f[3],
			      .rflags = f[4],
			      .rsp = f[5],
			      .cr2 = s.cr2};
	return true;
}

/* Sets the window's page n: frame n of GU_FRAMES with the given low bits; the TLB is flushed. */
static inline void gu_map(struct gu *g, unsigned n, uint64_t bits)
{
	((uint64_t *)(g->vm.ram + GU_PT))[n] = bits ? (GU_FRAMES + n * 4096) | bits : 0;
	gu_sregs(g);
}

/* Makes the window's page n show the guest-physical page, writable to all. No vCPU is running. */
static inline void gu_window(struct gu *g, unsigned n, uint64_t gpa)
{
	((uint64_t *)(g->vm.ram + GU_PT))[n] = gpa | 0x67;
}

/* The vCPU's local APIC on, spurious vector 255. */
static inline void gu_enable_lapic(struct ku_vcpu *cpu)
{
	struct kvm_lapic_state l;

	KU_CHECK(ioctl(cpu->fd, KVM_GET_LAPIC, &l) == 0);
	memcpy(l.regs + 0xf0, &(uint32_t){0x1ff}, 4);
	KU_CHECK(ioctl(cpu->fd, KVM_SET_LAPIC, &l) == 0);
}

/* Lets the guest wait, halted, until it takes an interrupt; its vector. */
static inline unsigned gu_wait_irq(struct gu *g)
{
	static const uint8_t code[] = {0xfb, 0xf4, 0xeb, 0xfd}; /* sti; 1: hlt; jmp 1b */
	struct kvm_regs r;

	gu_code(g, code, sizeof(code), 0);
	assert_int_equal(ku_run(&g->cpu), KVM_EXIT_IO);
	assert_int_equal(g->cpu.run->io.port, 0xe0);
	ku_get_regs(&g->cpu, &r);
	return (unsigned)*(uint64_t *)(g->vm.ram + r.rsp);
}

#endif
