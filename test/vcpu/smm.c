/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The SMRAM images: fields where the manuals put them, everything back after RSM, SMBASE relocated,
 * impossible images refused.	make check T=vcpu/smm
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "vcpu/internal.h"

static struct kvm_regs regs;
static struct kvm_sregs sregs;
static struct kvm_debugregs dregs;
static uint8_t smram[512];
static uint64_t smram_at;
static unsigned smram_as, revoked;
static bool long_mode, engine_smm, refuse;

void engine_get_regs(const struct engine_cpu *c, struct kvm_regs *r)
{
	*r = regs;
}

void engine_set_regs(struct engine_cpu *c, const struct kvm_regs *r)
{
	regs = *r;
}

void engine_get_sregs(const struct engine_cpu *c, struct kvm_sregs *s)
{
	*s = sregs;
}

int engine_set_sregs(struct engine_cpu *c, const struct kvm_sregs *s)
{
	if (refuse)
		return -EINVAL;
	sregs = *s;
	return 0;
}

void engine_get_debugregs(const struct engine_cpu *c, struct kvm_debugregs *d)
{
	*d = dregs;
}

int engine_set_debugregs(struct engine_cpu *c, const struct kvm_debugregs *d)
{
	dregs = *d;
	return 0;
}

void engine_set_shadow(struct engine_cpu *c, unsigned shadow)
{
}

void engine_set_smm(struct engine_cpu *c, bool smm)
{
	engine_smm = smm;
}

void engine_revoke(struct engine_cpu *c)
{
	revoked++;
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct vcpu *v, uint32_t function, uint32_t index)
{
	static const struct kvm_cpuid_entry2 lm = {.edx = 1 << 29};

	return long_mode ? &lm : NULL;
}

int mem_write(struct mem *m, unsigned as, uint64_t gpa, const void *buf, size_t len)
{
	assert_int_equal(len, sizeof(smram));
	memcpy(smram, buf, len);
	smram_at = gpa;
	smram_as = as;
	return 0;
}

int mem_read(struct mem *m, unsigned as, uint64_t gpa, void *buf, size_t len)
{
	assert_int_equal(as, 1);
	assert_int_equal(gpa, smram_at);
	memcpy(buf, smram, len);
	return 0;
}

void vcpu_request(struct vcpu *v, uint64_t bits)
{
	atomic_fetch_or(&v->requests, bits);
}

enum engine_status vcpu_stop_result(struct vcpu *v, int result)
{
	v->run_result = result;
	return ENGINE_STOP;
}

static struct kvm_segment segment(unsigned n)
{
	return (struct kvm_segment){.base = 0x10000 * n,
				    .limit = 0xffff + n,
				    .selector = 8 * n,
				    .type = 3,
				    .s = 1,
				    .present = 1,
				    .dpl = n & 3,
				    .db = 1,
				    .g = n & 1};
}

static int setup(void **state)
{
	static struct vcpu_vm vm;
	static struct kvm_run run;
	struct vcpu *v = base_zalloc(sizeof(*v));

	if (!v)
		return -1;
	v->vm = &vm;
	v->run = &run;
	v->smbase = 0x30000;
	*state = v;
	long_mode = true;
	refuse = engine_smm = false;
	revoked = 0;
	regs = (struct kvm_regs){.rax = 1,
				 .rbx = 2,
				 .rcx = 3,
				 .rdx = 4,
				 .rsi = 5,
				 .rdi = 6,
				 .rsp = 7,
				 .rbp = 8,
				 .r8 = 9,
				 .r15 = 16,
				 .rip = 0x123456,
				 .rflags = 0x246};
	sregs = (struct kvm_sregs){.cs = segment(1),
				   .ds = segment(2),
				   .es = segment(3),
				   .fs = segment(4),
				   .gs = segment(5),
				   .ss = segment(6),
				   .tr = segment(7),
				   .ldt = segment(8),
				   .gdt = {.base = 0x5000, .limit = 0x7f},
				   .idt = {.base = 0x6000, .limit = 0xfff},
				   .cr0 = 0x80000011,
				   .cr3 = 0x7000,
				   .cr4 = 0x20,
				   .efer = 0x500};
	dregs = (struct kvm_debugregs){.dr6 = 0xfffe0ff0, .dr7 = 0x400};
	return 0;
}

static int teardown(void **state)
{
	base_free(*state);
	return 0;
}

static uint64_t field(unsigned offset, unsigned size)
{
	uint64_t val = 0;

	memcpy(&val, smram + offset - 0x7e00, size);
	return val;
}

static void assert_segment(const struct kvm_segment *a, const struct kvm_segment *b)
{
	assert_int_equal(a->base, b->base);
	assert_int_equal(a->limit, b->limit);
	assert_int_equal(a->selector, b->selector);
	assert_int_equal(a->type, b->type);
	assert_int_equal(a->dpl, b->dpl);
	assert_int_equal(a->g, b->g);
	assert_int_equal(a->db, b->db);
	assert_int_equal(a->unusable, b->unusable);
}

static void assert_sregs(const struct kvm_sregs *a, const struct kvm_sregs *b)
{
	assert_segment(&a->cs, &b->cs);
	assert_segment(&a->ds, &b->ds);
	assert_segment(&a->es, &b->es);
	assert_segment(&a->fs, &b->fs);
	assert_segment(&a->gs, &b->gs);
	assert_segment(&a->ss, &b->ss);
	assert_segment(&a->tr, &b->tr);
	assert_segment(&a->ldt, &b->ldt);
	assert_int_equal(a->gdt.base, b->gdt.base);
	assert_int_equal(a->gdt.limit, b->gdt.limit);
	assert_int_equal(a->idt.base, b->idt.base);
	assert_int_equal(a->idt.limit, b->idt.limit);
	assert_int_equal(a->cr0, b->cr0);
	assert_int_equal(a->cr3, b->cr3);
	assert_int_equal(a->cr4, b->cr4);
	assert_int_equal(a->efer, b->efer);
}

static void assert_handler_state(struct vcpu *v)
{
	assert_true(v->ev.smi.in_smm && engine_smm && v->ev.nmi.masked);
	assert_int_equal(revoked, 1);
	assert_int_equal(regs.rip, 0x8000);
	assert_int_equal(regs.rflags, 2);
	assert_int_equal(regs.rax, 1); /* general registers keep their values */
	assert_int_equal(sregs.cs.base, v->smbase);
	assert_int_equal(sregs.cs.selector, v->smbase >> 4);
	assert_int_equal(sregs.ss.limit, 0xffffffff);
	assert_int_equal(sregs.cr0 & 0x80000001, 0);
	assert_int_equal(sregs.cr4, 0);
	assert_int_equal(sregs.idt.limit, 0);
}

static void test_image64(void **state)
{
	struct vcpu *v = *state;
	struct kvm_regs r = regs;
	struct kvm_sregs s = sregs;

	smm_enter(v);
	assert_int_equal(smram_at, 0x3fe00);
	assert_int_equal(smram_as, 1);
	assert_int_equal(field(0x7efc, 4), 0x20064);
	assert_int_equal(field(0x7f00, 4), 0x30000);
	assert_int_equal(field(0x7ff8, 8), 1);	      /* RAX */
	assert_int_equal(field(0x7fe0, 8), 2);	      /* RBX */
	assert_int_equal(field(0x7fd8, 8), 7);	      /* RSP */
	assert_int_equal(field(0x7f80, 8), 16);	      /* R15 */
	assert_int_equal(field(0x7f78, 8), 0x123456); /* RIP */
	assert_int_equal(field(0x7f58, 8), 0x80000011);
	assert_int_equal(field(0x7ed0, 8), 0x500);
	assert_int_equal(field(0x7e10, 2), 8);	     /* CS */
	assert_int_equal(field(0x7e12, 2), 0xc0b3);  /* its attributes: G, D, present, DPL 1, data */
	assert_int_equal(field(0x7e98, 8), 0x70000); /* TR base */
	assert_handler_state(v);
	assert_int_equal(sregs.efer, 0);
	memset(&regs, 0, sizeof(regs));
	memcpy(smram + 0x7f00 - 0x7e00, &(uint32_t){0xa0000}, 4);
	assert_int_equal(smm_leave(v), ENGINE_OK);
	assert_memory_equal(&regs, &r, sizeof(r));
	assert_sregs(&sregs, &s);
	assert_int_equal(v->smbase, 0xa0000);
	assert_false(v->ev.smi.in_smm || v->ev.nmi.masked || engine_smm);
}

static void test_image32(void **state)
{
	struct vcpu *v = *state;
	struct kvm_regs r;
	struct kvm_sregs s;

	long_mode = false;
	sregs.efer = 0;
	regs.r8 = regs.r15 = 0;
	r = regs;
	s = sregs;
	smm_enter(v);
	assert_int_equal(field(0x7efc, 4), 0x20000);
	assert_int_equal(field(0x7ef8, 4), 0x30000);
	assert_int_equal(field(0x7ffc, 4), 0x80000011);
	assert_int_equal(field(0x7ff0, 4), 0x123456);
	assert_int_equal(field(0x7fd0, 4), 1); /* EAX */
	assert_int_equal(field(0x7fec, 4), 6); /* EDI */
	assert_int_equal(field(0x7fac, 4), 8); /* CS */
	assert_int_equal(field(0x7f90, 4), 0xc0b300);
	assert_int_equal(field(0x7f34, 4), 0x20000); /* DS base */
	assert_int_equal(field(0x7f14, 4), 0x20);
	assert_handler_state(v);
	assert_int_equal(smm_leave(v), ENGINE_OK);
	assert_memory_equal(&regs, &r, sizeof(r));
	assert_sregs(&sregs, &s);
}

static void test_rsm_outside(void **state)
{
	assert_int_equal(smm_leave(*state), ENGINE_UD);
}

static void test_impossible_image(void **state)
{
	struct vcpu *v = *state;

	smm_enter(v);
	refuse = true;
	v->run_result = -1;
	assert_int_equal(smm_leave(v), ENGINE_STOP);
	assert_int_equal(v->run_result, 0);
	assert_int_equal(v->run->exit_reason, KVM_EXIT_SHUTDOWN);
}

/* NMIs that were masked before the SMI stay masked behind RSM. */
static void test_smi_inside_nmi(void **state)
{
	struct vcpu *v = *state;

	v->ev.nmi.masked = true;
	smm_enter(v);
	assert_int_equal(smm_leave(v), ENGINE_OK);
	assert_true(v->ev.nmi.masked);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(test_image64),		 CASE(test_image32),	    CASE(test_rsm_outside),
	    CASE(test_impossible_image), CASE(test_smi_inside_nmi),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
