/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A cpu on flat memory for the tests of engine/'s system side, which call its functions directly. */
#ifndef TEST_ENGINE_RIG_H
#define TEST_ENGINE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/system.h"

#define RAM_SIZE (16UL << 20)
#define RO_START 0x800000UL /* READONLY slot: [RO_START, RO_END) */
#define RO_END	 0x900000UL

struct rig {
	struct engine_code *code;
	struct engine_cpu *c;
	uint8_t *ram;
	void (*on_fill)(struct rig *r, uint64_t gpa, bool write); /* called before each answer */
	_Atomic unsigned fills, mmios, irets, hypercalls;	  /* two cpus may share a rig */
	bool stop_mmio;
	uint64_t mmio_gpa;
	struct {
		uint16_t port;
		uint32_t data;
		unsigned size;
		bool write;
	} pio;
	uint64_t cr8;
};

static enum engine_fill rig_fill(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	struct rig *r = ctx;

	r->fills++;
	if (r->on_fill)
		r->on_fill(r, gpa, write);
	if (gpa >= RAM_SIZE)
		return FILL_MMIO;
	*page = (struct engine_page){.host = r->ram + gpa, .writable = true, .id = gpa};
	if (gpa >= RO_START && gpa < RO_END) {
		page->writable = false;
		return write ? FILL_READONLY : FILL_FIXED;
	}
	return FILL_FIXED;
}

static enum engine_status rig_mmio(void *ctx, uint64_t gpa, void *data, unsigned len, bool write)
{
	struct rig *r = ctx;

	r->mmios++;
	r->mmio_gpa = gpa;
	if (!write)
		memset(data, 0xab, len);
	return r->stop_mmio ? ENGINE_STOP : ENGINE_OK;
}

static enum engine_status rig_pio(void *ctx, uint16_t port, void *data, unsigned size, unsigned count,
				  bool write)
{
	struct rig *r = ctx;

	r->pio.port = port;
	r->pio.size = size;
	r->pio.write = write;
	if (write) {
		r->pio.data = 0;
		memcpy(&r->pio.data, data, size);
	} else {
		uint32_t other = ~r->pio.data;

		memcpy(data, &other, size);
	}
	return ENGINE_OK;
}

static enum engine_status rig_cpuid(void *ctx, uint32_t regs[4])
{
	uint32_t leaf = regs[0];

	memset(regs, 0, 16);
	if (leaf == 1) {
		regs[0] = 0x806f8;
		regs[2] = 1 << 26;
	}
	return ENGINE_OK;
}

static enum engine_status rig_msr_get(void *ctx, uint32_t index, uint64_t *value)
{
	*value = 0x1234;
	return index == 0x10 ? ENGINE_OK : ENGINE_GP;
}

static enum engine_status rig_msr_set(void *ctx, uint32_t index, uint64_t value)
{
	return index == 0x10 ? ENGINE_OK : ENGINE_GP;
}

static enum engine_status rig_cr8(void *ctx, uint64_t *value, bool write)
{
	struct rig *r = ctx;

	if (write)
		r->cr8 = *value;
	else
		*value = r->cr8;
	return ENGINE_OK;
}

static uint64_t rig_tsc(void *ctx)
{
	return 1000;
}

static enum engine_status rig_hypercall(void *ctx, bool vmmcall)
{
	((struct rig *)ctx)->hypercalls++;
	return ENGINE_OK;
}

static enum engine_status rig_mwait(void *ctx, bool monitor)
{
	return ENGINE_OK;
}

static enum engine_status rig_rsm(void *ctx)
{
	return ENGINE_OK;
}

static void rig_iret(void *ctx)
{
	((struct rig *)ctx)->irets++;
}

static bool rig_poll(void *ctx)
{
	return true;
}

static const struct engine_port rig_port = {
    .fill = rig_fill,
    .mmio = rig_mmio,
    .pio = rig_pio,
    .cpuid = rig_cpuid,
    .rdmsr = rig_msr_get,
    .wrmsr = rig_msr_set,
    .rdpmc = rig_msr_get,
    .cr8 = rig_cr8,
    .tsc = rig_tsc,
    .hypercall = rig_hypercall,
    .mwait = rig_mwait,
    .rsm = rig_rsm,
    .iret = rig_iret,
    .poll = rig_poll,
};

static const struct engine_features rig_features = {
    .cr4_allowed = 0x3f07ff & ~CR4_LA57,
    .efer_allowed = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX,
    .xcr0_allowed = 7,
    .maxphyaddr = 40,
    .rdtscp = true,
    .pcid = true,
    .gbpages = true,
    .umip = true,
};

/* cmocka setup and teardown: a fresh cpu per test. */
static int rig_setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_int_equal(engine_init(), 0);
	r->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(r->ram, MAP_FAILED);
	assert_int_equal(engine_code_create(&r->code), 0);
	assert_int_equal(engine_cpu_create(&r->c, r->code, &rig_port, r), 0);
	engine_set_features(r->c, &rig_features);
	*state = r;
	return 0;
}

static int rig_teardown(void **state)
{
	struct rig *r = *state;

	engine_cpu_destroy(r->c);
	engine_code_destroy(r->code);
	munmap(r->ram, RAM_SIZE);
	free(r);
	return 0;
}

#define RIG_TEST(fn) cmocka_unit_test_setup_teardown(fn, rig_setup, rig_teardown)

/* Runs a statement that may leave through c->jump; the value is how it left. */
#define TRY(c, stmt)                       \
	({                                 \
		sigjmp_buf try_;           \
		(c)->jump = &try_;         \
		(c)->leave = LEAVE_NONE;   \
		if (!sigsetjmp(try_, 0)) { \
			stmt;              \
		}                          \
		(c)->jump = NULL;          \
		(c)->leave;                \
	})

#define assert_ok(c, stmt) assert_int_equal(TRY(c, stmt), LEAVE_NONE)

/* The statement must raise this exception with this error code. */
#define assert_fault(c, stmt, vec, err)                      \
	do {                                                 \
		assert_int_equal(TRY(c, stmt), LEAVE_FAULT); \
		assert_int_equal((c)->fault.vector, vec);    \
		assert_true((c)->fault.has_error);           \
		assert_int_equal((c)->fault.error, err);     \
	} while (0)

#define assert_ud(c, stmt)                                   \
	do {                                                 \
		assert_int_equal(TRY(c, stmt), LEAVE_FAULT); \
		assert_int_equal((c)->fault.vector, EXC_UD); \
	} while (0)

/* -- Guest memory -- */

static inline void put(struct rig *r, uint64_t gpa, uint64_t val, unsigned size)
{
	memcpy(r->ram + gpa, &val, size);
}

static inline uint64_t get(struct rig *r, uint64_t gpa, unsigned size)
{
	uint64_t val = 0;

	memcpy(&val, r->ram + gpa, size);
	return val;
}

/* -- Descriptors -- */

#define GDT 0x1000UL
#define IDT 0x2000UL
#define LDT 0x3000UL
#define TSS 0x4000UL

static inline uint64_t desc_make(uint64_t base, uint32_t limit, uint16_t attr)
{
	return (limit & 0xffff) | (base & 0xffffff) << 16 | (uint64_t)attr << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
}

#define A_CODE	 0x9a /* present, readable code, level 0 */
#define A_DATA	 0x92
#define A_RO	 0x90
#define A_CONF	 0x9e
#define A_XO	 0x98
#define A_DPL(n) ((n) << 5)
#define A_32	 0xc000 /* 32-bit, limit in pages */
#define A_64	 0xa000

/* Selectors of the rig's GDT. */
enum {
	S_CODE0 = 0x08,
	S_DATA0 = 0x10,
	S_CODE3 = 0x18 | 3,
	S_DATA3 = 0x20 | 3,
	S_CONF0 = 0x28,
	S_RO0 = 0x30,
	S_ABSENT = 0x38,
	S_TSS = 0x40,
	S_LDT = 0x50,
	S_CODE64 = 0x60,
	S_CODE64_3 = 0x68 | 3,
	S_XO0 = 0x70,
	S_CODE1 = 0x78 | 1,
	S_DATA1 = 0x80 | 1,
	S_TSS2 = 0x88,
	S_GATE = 0x98,
	S_NOCODE = 0xa8,
	S_CODE16 = 0xb0,
	S_DATA16 = 0xb8,
	S_FREE = 0xc0,
	GDT_LIMIT = 0xff,
};

static inline void gdt_put(struct rig *r, uint16_t sel, uint64_t desc)
{
	put(r, GDT + (sel & ~7), desc, 8);
}

static inline void rig_gdt(struct rig *r)
{
	gdt_put(r, S_CODE0, desc_make(0, 0xfffff, A_CODE | A_32));
	gdt_put(r, S_DATA0, desc_make(0, 0xfffff, A_DATA | A_32));
	gdt_put(r, S_CODE3, desc_make(0, 0xfffff, A_CODE | A_32 | A_DPL(3)));
	gdt_put(r, S_DATA3, desc_make(0, 0xfffff, A_DATA | A_32 | A_DPL(3)));
	gdt_put(r, S_CONF0, desc_make(0, 0xfffff, A_CONF | A_32));
	gdt_put(r, S_RO0, desc_make(0, 0xfffff, A_RO | A_32));
	gdt_put(r, S_ABSENT, desc_make(0, 0xfffff, (A_DATA | A_32) & ~0x80));
	gdt_put(r, S_TSS, desc_make(TSS, 0x1067, 0x89));
	gdt_put(r, S_LDT, desc_make(LDT, 0xff, 0x82));
	gdt_put(r, S_CODE64, desc_make(0, 0xfffff, A_CODE | A_64));
	gdt_put(r, S_CODE64_3, desc_make(0, 0xfffff, A_CODE | A_64 | A_DPL(3)));
	gdt_put(r, S_XO0, desc_make(0, 0xfffff, A_XO | A_32));
	gdt_put(r, S_CODE1, desc_make(0, 0xfffff, A_CODE | A_32 | A_DPL(1)));
	gdt_put(r, S_DATA1, desc_make(0, 0xfffff, A_DATA | A_32 | A_DPL(1)));
	gdt_put(r, S_NOCODE, desc_make(0, 0xfffff, (A_CODE | A_32) & ~0x80));
	gdt_put(r, S_CODE16, desc_make(0, 0xffff, A_CODE));
	gdt_put(r, S_DATA16, desc_make(0, 0xffff, A_DATA));
	r->c->gdt.base = GDT;
	r->c->gdt.limit = GDT_LIMIT;
	r->c->idt.base = IDT;
	r->c->idt.limit = 0x7ff;
}

/* Protected mode at a privilege level, flat segments, stack at 0x9000. */
static inline void rig_protected(struct rig *r, unsigned cpl)
{
	struct engine_cpu *c = r->c;
	uint16_t dpl = A_DPL(cpl);

	rig_gdt(r);
	c->cr0 |= CR0_PE;
	for (unsigned s = ES; s < SEGS; s++)
		c->seg[s] = seg_fixed(cpl == 3 ? S_DATA3 : cpl == 1 ? S_DATA1 : S_DATA0, 0xc093 | dpl);
	c->seg[CS] = seg_fixed(cpl == 3 ? S_CODE3 : cpl == 1 ? S_CODE1 : S_CODE0, 0xc09b | dpl);
	c->seg[TR] = (struct engine_seg){.base = TSS, .limit = 0x1067, .sel = S_TSS, .attr = 0x8b};
	c->seg[LDTR] = (struct engine_seg){.base = LDT, .limit = 0xff, .sel = S_LDT, .attr = 0x82};
	c->gpr[RSP] = 0x9000;
	c->rip = 0x7000;
	c->next_rip = 0x7002;
	rflags_set(c, 2);
	mode_update(c);
	mmu_flush_all(c);
}

#define PML4 0x10000UL
#define PDPT 0x11000UL
#define PD   0x12000UL
#define PT   0x13000UL /* maps [0, 2 MiB) one to one, supervisor, writable */

/* 4-level tables: the first 2 MiB one to one through PT, all rights above. */
static inline void rig_tables(struct rig *r)
{
	put(r, PML4, PDPT | 7, 8);
	put(r, PDPT, PD | 7, 8);
	put(r, PD, PT | 7, 8);
	for (unsigned k = 0; k < 512; k++)
		put(r, PT + k * 8, (uint64_t)k << 12 | 7, 8);
}

/* 64-bit mode at a privilege level. */
static inline void rig_long(struct rig *r, unsigned cpl)
{
	struct engine_cpu *c = r->c;

	rig_protected(r, cpl);
	rig_tables(r);
	put(r, GDT + S_TSS + 8, 0, 8);
	c->cr3 = PML4;
	c->cr4 |= CR4_PAE;
	c->efer |= EFER_LME | EFER_LMA | EFER_NX;
	c->cr0 |= CR0_PG | CR0_WP;
	c->seg[CS] = seg_fixed(cpl ? S_CODE64_3 : S_CODE64, 0xa09b | A_DPL(cpl));
	c->idt.limit = 0xfff;
	mode_update(c);
	mmu_flush_all(c);
}

#endif
