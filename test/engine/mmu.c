/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page walks: every form of paging, rights, error codes, A/D bits, flushes, revocation.
 *	make check T=engine/mmu */
#include <stdint.h>
#include <ucontext.h>

#include "rig.h"

#define P    1
#define W    2
#define U    4
#define I    16
#define RSVD 8
#define NX   (1ULL << 63)

static uint64_t walk(struct rig *r, uint64_t lin, unsigned acc)
{
	struct place p = {.gpa = ~0ULL};

	mmu_translate(r->c, lin, acc, &p);
	return p.gpa;
}

#define assert_maps(r, lin, acc, gpa)                        \
	do {                                                 \
		volatile uint64_t got_ = 0;                  \
		assert_ok((r)->c, got_ = walk(r, lin, acc)); \
		assert_int_equal(got_, gpa);                 \
	} while (0)
#define assert_pf(r, lin, acc, err)                                   \
	do {                                                          \
		assert_fault((r)->c, walk(r, lin, acc), EXC_PF, err); \
		assert_int_equal((r)->c->fault_payload, lin);         \
	} while (0)

static void set_cpl(struct engine_cpu *c, unsigned cpl)
{
	c->seg[SS].attr = (c->seg[SS].attr & ~0x60) | cpl << 5;
	mode_update(c);
}

static struct tlb_entry *entry(struct engine_cpu *c, uint64_t lin)
{
	return &c->tlb[(lin >> 12) & (TLB_ENTRIES - 1)];
}

static bool cached(struct engine_cpu *c, uint64_t tag, uint64_t lin)
{
	return tag == ((lin & ~0xfffULL) | c->tlb_key);
}

static void no_paging(void **state)
{
	struct rig *r = *state;

	assert_maps(r, 0x12345, ACC_READ, 0x12345);
	assert_maps(r, 0xffffff0012345ULL, ACC_WRITE, 0xf0012345);
	assert_true(cached(r->c, entry(r->c, 0x12345)->rtag, 0x12345));
	assert_true(cached(r->c, entry(r->c, 0x12345)->wtag, 0x12345));
	assert_ptr_equal((uint8_t *)(0x12000 + entry(r->c, 0x12345)->addend), r->ram + 0x12000);
}

static void legacy(struct rig *r)
{
	rig_protected(r, 0);
	r->c->cr3 = PML4;
	r->c->cr0 |= CR0_PG;
	mode_update(r->c);
	mmu_flush_all(r->c);
}

static void paging_32(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	legacy(r);
	put(r, PML4 + 4 * 1, PDPT | 7, 4);
	put(r, PDPT + 4 * 2, 0x5000 | P | U, 4); /* lin 0x402000: read-only user */
	assert_pf(r, 0x800000ULL, ACC_READ, 0);
	assert_pf(r, 0x401000ULL, ACC_WRITE, W);
	assert_maps(r, 0x402010, ACC_READ, 0x5010);
	assert_int_equal(get(r, PML4 + 4, 4), PDPT | 7 | 0x20);
	assert_int_equal(get(r, PDPT + 8, 4), 0x5000 | P | U | 0x20);
	/* Without WP level 0 writes anywhere; D is set then. */
	assert_maps(r, 0x402010, ACC_WRITE, 0x5010);
	assert_int_equal(get(r, PDPT + 8, 4), 0x5000 | P | U | 0x60);
	c->cr0 |= CR0_WP;
	assert_pf(r, 0x402010ULL, ACC_WRITE, P | W);
	set_cpl(c, 3);
	assert_maps(r, 0x402010, ACC_READ, 0x5010);
	assert_pf(r, 0x402010ULL, ACC_WRITE, P | W | U);
	put(r, PDPT + 8, 0x5000 | P | W, 4);
	assert_pf(r, 0x402010ULL, ACC_READ, P | U);
	assert_pf(r, 0x402010ULL, ACC_EXEC, P | U); /* no I bit without NX and SMEP */
	assert_maps(r, 0x402010, ACC_READ | ACC_SYS, 0x5010);
}

static void paging_pse(void **state)
{
	struct rig *r = *state;

	legacy(r);
	/* PS means nothing without CR4.PSE. */
	put(r, PML4 + 4 * 1, PDPT | 0x87, 4);
	put(r, PDPT, 0x6000 | 7, 4);
	assert_maps(r, 0x400123, ACC_READ, 0x6123);
	r->c->cr4 |= CR4_PSE;
	put(r, PML4 + 4 * 1, 0xc00000 | 0x83, 4);
	assert_maps(r, 0x412345, ACC_WRITE, 0xc12345);
	assert_int_equal(get(r, PML4 + 4, 4), 0xc00000 | 0xe3);
	put(r, PML4 + 4 * 1, 0xc00000 | 3 << 13 | 0x83, 4); /* PSE-36 */
	assert_maps(r, 0x412345, ACC_READ, 0x300c12345);
	put(r, PML4 + 4 * 1, 0xc00000 | 1 << 21 | 0x83, 4);
	assert_pf(r, 0x412345ULL, ACC_READ, RSVD | P);
	r->c->feat.maxphyaddr = 36;
	put(r, PML4 + 4 * 1, 0xc00000 | 1 << 17 | 0x83, 4);
	assert_pf(r, 0x412345ULL, ACC_WRITE, RSVD | P | W);
}

static void paging_pae(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	uint64_t pdptr[4];

	legacy(r);
	c->cr4 |= CR4_PAE;
	put(r, PDPT, PD | P, 8);
	put(r, PDPT + 8, 0, 8);
	put(r, PDPT + 16, 0, 8);
	put(r, PDPT + 24, PT | P, 8);
	assert_true(mmu_load_pdptrs(c, PDPT, pdptr));
	memcpy(c->pdptr, pdptr, sizeof(pdptr));
	put(r, PDPT + 8, PD | P | W, 8);
	assert_false(mmu_load_pdptrs(c, PDPT, pdptr));
	put(r, PDPT + 8, PD | P | 1ULL << 40, 8);
	assert_false(mmu_load_pdptrs(c, PDPT, pdptr));
	assert_false(mmu_load_pdptrs(c, RAM_SIZE, pdptr));
	put(r, PD + 8, 0x600000 | 0x83, 8);
	assert_maps(r, 0x212345, ACC_WRITE, 0x612345);
	assert_pf(r, 0x40000000ULL, ACC_READ, 0);
	put(r, PD + 8, 0x600000 | 0x83 | NX, 8);
	assert_pf(r, 0x212345ULL, ACC_READ, RSVD | P);
	c->efer |= EFER_NX;
	assert_maps(r, 0x212345, ACC_READ, 0x612345);
	assert_pf(r, 0x212345ULL, ACC_EXEC, P | I);
	put(r, PD + 8, 0x600000 | 0x83 | 1ULL << 52, 8);
	assert_pf(r, 0x212345ULL, ACC_READ, RSVD | P);
	put(r, PD + 8, 0x600000 | 0x83 | 1 << 13, 8);
	assert_pf(r, 0x212345ULL, ACC_READ, RSVD | P);
}

static void paging_4level(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 0);
	assert_maps(r, 0x5123, ACC_WRITE, 0x5123);
	assert_int_equal(get(r, PT + 5 * 8, 8), 0x5067);
	assert_int_equal(get(r, PML4, 8), PDPT | 0x27);
	put(r, PD + 8, 0x400000 | 0x83, 8);
	put(r, PDPT + 8, 0x83, 8); /* 1 GiB page */
	assert_maps(r, 0x212345, ACC_READ, 0x412345);
	assert_maps(r, 0x40123456, ACC_READ, 0x123456);
	put(r, PDPT + 8, 0x83 | 1 << 20, 8);
	assert_pf(r, 0x40123456ULL, ACC_READ, RSVD | P);
	put(r, PDPT + 8, 0x83, 8);
	c->feat.gbpages = false;
	assert_pf(r, 0x40123456ULL, ACC_READ, RSVD | P);
	put(r, PT + 8 * 8, 0x8000 | 7 | 1ULL << 40, 8);
	assert_pf(r, 0x8000ULL, ACC_READ, RSVD | P);
	put(r, PT + 8 * 8, 0x8000 | 7 | 1ULL << 52, 8); /* ignored bits */
	assert_maps(r, 0x8000, ACC_READ, 0x8000);
	put(r, PT + 9 * 8, 0x9000 | 7 | NX, 8);
	assert_pf(r, 0x9000ULL, ACC_EXEC, P | I);
	put(r, PD, PT | 7 | NX, 8); /* NX of a level above */
	assert_pf(r, 0x5000ULL, ACC_EXEC, P | I);
	put(r, PD, PT | 7, 8);
	assert_maps(r, 0x5000, ACC_EXEC, 0x5000);
	set_cpl(c, 3);
	assert_pf(r, 0x9000ULL, ACC_EXEC, P | I | U);
	put(r, PML4, PDPT | 3, 8); /* rights combine from above */
	assert_pf(r, 0x5000ULL, ACC_READ, P | U);
	assert_pf(r, 0x7fff00000000ULL, ACC_WRITE, W | U);
}

static void smep_smap(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 0);
	c->cr4 |= CR4_SMEP;
	mode_update(c);
	assert_pf(r, 0x5000ULL, ACC_EXEC, P | I);
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	c->cr4 |= CR4_SMAP;
	mode_update(c);
	assert_pf(r, 0x5000ULL, ACC_READ, P);
	assert_pf(r, 0x5000ULL, ACC_WRITE, P | W);
	rflags_set(c, c->rflags | FLAG_AC);
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	assert_true(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	assert_pf(r, 0x5000ULL, ACC_READ | ACC_SYS, P);
	rflags_set(c, c->rflags & ~FLAG_AC);
	assert_false(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	set_cpl(c, 3);
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	assert_pf(r, 0x5000ULL, ACC_READ | ACC_SYS, P);
	put(r, PT + 6 * 8, 0x6003, 8);
	assert_maps(r, 0x6000, ACC_READ | ACC_SYS, 0x6000);
	assert_pf(r, 0x6000ULL, ACC_READ, P | U);
}

/* What is cached: writes only once D is set and the fill allows them, code only if executable. */
static void tlb_tags(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	struct tlb_entry *e = entry(c, 0x5000);

	rig_long(r, 0);
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	assert_true(cached(c, e->rtag, 0x5000));
	assert_int_equal(e->wtag, ~0ULL);
	assert_true(cached(c, e->xtag, 0x5000));
	assert_maps(r, 0x5000, ACC_WRITE, 0x5000);
	assert_true(cached(c, e->wtag, 0x5000));
	put(r, PT + 5 * 8, RO_START | 0x67 | NX, 8);
	mmu_flush_page(c, 0x5678);
	assert_int_equal(e->rtag, ~0ULL);
	assert_maps(r, 0x5000, ACC_READ, RO_START);
	assert_int_equal(e->wtag, ~0ULL);
	assert_int_equal(e->xtag, ~0ULL);
	assert_maps(r, 0x5008, ACC_WRITE, RO_START + 8); /* NULL host: a device */
}

static void flushes(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 0);
	put(r, PD + 8, 0x400000 | 0x83, 8);
	assert_maps(r, 0x200000, ACC_READ, 0x400000);
	assert_maps(r, 0x3ff000, ACC_READ, 0x5ff000);
	mmu_flush_page(c, 0x200000); /* any address of a large page drops all of it */
	assert_false(cached(c, entry(c, 0x3ff000)->rtag, 0x3ff000));
	/* PCIDs keep their translations over a CR3 load that does not flush. */
	c->cr4 |= CR4_PCIDE;
	control_set_cr3(c, PML4 | 1);
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	control_set_cr3(c, PML4 | 2);
	assert_false(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	control_set_cr3(c, BIT(63) | PML4 | 1);
	assert_int_equal(c->cr3, PML4 | 1);
	assert_true(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	control_set_cr3(c, PML4 | 2);
	mmu_flush_pcid(c, 1);
	control_set_cr3(c, BIT(63) | PML4 | 1);
	assert_false(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	control_set_cr3(c, PML4 | 1);
	assert_false(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	/* The generations may run out. */
	for (volatile unsigned k = 0; k < 3000; k++) {
		assert_maps(r, 0x5000, ACC_READ, 0x5000);
		assert_true(cached(c, entry(c, 0x5000)->rtag, 0x5000));
		mmu_flush_all(c);
		assert_false(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	}
}

/* -- What the second level keeps -- */

/* The byte at lin, found without c->tlb. */
static uint64_t second(struct rig *r, uint64_t lin)
{
	struct tlb_entry *e = entry(r->c, lin);

	e->rtag = e->wtag = e->xtag = ~0ULL;
	return guest_ld(r->c, lin, 1);
}

#define assert_byte(r, lin, val)                          \
	do {                                              \
		volatile uint64_t got_ = 0;               \
		assert_ok((r)->c, got_ = second(r, lin)); \
		assert_int_equal(got_, val);              \
	} while (0)

/* Points lin 0x5000 at another page: 5 holds 0x55, 6 holds 0x66 ... */
static void point(struct rig *r, unsigned page, uint64_t flags)
{
	put(r, PT + 5 * 8, page << 12 | flags, 8);
}

static void pages(struct rig *r)
{
	rig_long(r, 0);
	for (unsigned k = 5; k < 10; k++)
		put(r, k << 12, k * 0x11, 1);
	point(r, 5, 0x67);
	assert_byte(r, 0x5000, 0x55);
	point(r, 6, 0x67);
}

/* Seen to fail: without the line in tlb_forget_page that clears a generation's entry; without held_seq in tlb_reload. */
static void second_level(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	pages(r);
	assert_byte(r, 0x5000, 0x55); /* as a CPU may */
	mmu_flush_page(c, 0x5fff);
	assert_byte(r, 0x5000, 0x66);
	point(r, 7, 0x67);
	control_set_cr3(c, PML4);
	assert_byte(r, 0x5000, 0x77);
	point(r, 8, 0x67);
	mmu_flush_all(c);
	assert_byte(r, 0x5000, 0x88);
	/* A revocation drops pointers, and with them what led to them. */
	point(r, 9, 0x67);
	engine_revoke(c);
	assert_byte(r, 0x5000, 0x99);
	/* The numbers begin again: nothing of an earlier round. */
	for (volatile unsigned k = 0; k < 3000; k++) {
		point(r, 5 + k % 5, 0x67);
		control_set_cr3(c, PML4);
		assert_byte(r, 0x5000, (5 + k % 5) * 0x11);
	}
}

/* What a PCID still sees at 0x5000: the switch to it flushes nothing. */
static void assert_kept(struct rig *r, unsigned pcid, unsigned byte)
{
	control_set_cr3(r->c, BIT(63) | PML4 | pcid);
	assert_byte(r, 0x5000, byte);
}

/* Seen to fail: with the current generation's entry cleared instead of the PCID's; with mmu_flush_pcid's slot left. */
static void second_level_pcid(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	pages(r);
	c->cr4 |= CR4_PCIDE;
	mmu_flush_all(c);
	control_set_cr3(c, PML4 | 1);
	assert_byte(r, 0x5000, 0x66);
	point(r, 7, 0x67);
	control_set_cr3(c, PML4 | 2);
	assert_byte(r, 0x5000, 0x77);
	assert_kept(r, 1, 0x66);
	control_set_cr3(c, BIT(63) | PML4 | 2);
	mmu_flush_page_of(c, 0x5000, 1);
	point(r, 8, 0x67);
	assert_byte(r, 0x5000, 0x77);
	assert_kept(r, 1, 0x88);
	mmu_flush_pcid(c, 2);
	assert_kept(r, 2, 0x88);
	/* Without bit 63 the load flushes its PCID, and no other. */
	point(r, 9, 0x67);
	control_set_cr3(c, PML4 | 1);
	assert_byte(r, 0x5000, 0x99);
	assert_kept(r, 2, 0x88);
}

/* Seen to fail: without the line in tlb_forget_page for global pages; with a flush of everything that keeps their number. */
static void second_level_global(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	pages(r);
	c->cr4 |= CR4_PGE | CR4_PCIDE;
	mmu_flush_all(c);
	point(r, 5, 0x167);
	assert_byte(r, 0x5000, 0x55);
	point(r, 6, 0x167);
	control_set_cr3(c, PML4 | 1);
	assert_byte(r, 0x5000, 0x55);
	mmu_flush_page(c, 0x5000);
	assert_byte(r, 0x5000, 0x66);
	point(r, 7, 0x167);
	control_set_cr3(c, PML4 | 2);
	mmu_flush_pcid(c, 2);
	assert_byte(r, 0x5000, 0x66);
	mmu_flush_all(c);
	assert_byte(r, 0x5000, 0x77);
	/* The numbers run out under it. */
	for (volatile unsigned k = 0; k < 3000; k++) {
		control_set_cr3(c, PML4 | 1);
		assert_byte(r, 0x5000, 0x77);
	}
}

/* Two pages that are known, and no neighbours. Seen to fail: without quick_io's look at the page's end. */
static void two_known_pages(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	uint8_t buf[16];

	pages(r);
	put(r, PT + 6 * 8, 0x8067, 8);
	for (unsigned k = 0; k < 16; k++)
		put(r, (k < 8 ? 0x5ff8 : 0x7ff8) + k, k, 1);
	point(r, 5, 0x67);
	mmu_flush_all(c);
	assert_byte(r, 0x5000, 0x55);
	assert_byte(r, 0x6000, 8);
	assert_ok(c, guest_read(c, 0x5ff8, buf, 16));
	for (unsigned k = 0; k < 16; k++)
		assert_int_equal(buf[k], k);
	assert_ok(c, assert_int_equal(guest_ld_sys(c, 0x5ffc, 8), 0x0b0a090807060504));
	assert_ok(c, guest_st_sys(c, 0x5ffc, ~0ULL, 8));
	assert_int_equal(get(r, 0x8000, 8), 0x0f0e0d0cffffffff);
	put(r, PT + 6 * 8, 0, 8);
	mmu_flush_page(c, 0x6000);
	assert_fault(c, guest_probe(c, 0x5fff, 2, true), EXC_PF, W);
}

/* Seen to fail: with HOLD_STORE always set; with class_rights asked for CLASS_SUPER always. */
static void second_level_rights(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 3);
	c->cr4 |= CR4_SMAP | CR4_SMEP;
	c->cr0 |= CR0_WP;
	mode_update(c);
	mmu_flush_all(c);
	point(r, 5, 7);
	put(r, 0x5000, 0x55, 1);
	assert_byte(r, 0x5000, 0x55);
	assert_int_equal(get(r, PT + 5 * 8, 8), 0x5027);
	assert_ok(c, guest_st(c, 0x5000, 0x56, 1));
	assert_int_equal(get(r, PT + 5 * 8, 8), 0x5067);
	set_cpl(c, 0);
	assert_fault(c, second(r, 0x5000), EXC_PF, P);
	assert_fault(c, guest_st(c, 0x5000, 0, 1), EXC_PF, P | W);
	rflags_set(c, c->rflags | FLAG_AC);
	assert_byte(r, 0x5000, 0x56);
	set_cpl(c, 3);
	point(r, 5, 0x63);
	mmu_flush_page(c, 0x5000);
	assert_fault(c, second(r, 0x5000), EXC_PF, P | U);
	point(r, 5, 0x65);
	mmu_flush_page(c, 0x5000);
	assert_byte(r, 0x5000, 0x56);
	assert_fault(c, guest_st(c, 0x5000, 0, 1), EXC_PF, P | W | U);
}

/* Tables in read-only memory keep their A/D bits; tables outside of memory are not present. */
static void odd_tables(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 0);
	put(r, RO_START, 0x5000 | 7, 8);
	put(r, PD + 8, RO_START | 7, 8);
	assert_maps(r, 0x200000, ACC_WRITE, 0x5000);
	assert_int_equal(get(r, RO_START, 8), 0x5000 | 7);
	assert_int_equal(entry(c, 0x200000)->wtag, ~0ULL);
	assert_int_equal(get(r, PD + 8, 8), RO_START | 0x27);
	put(r, PD + 16, RAM_SIZE | 7, 8);
	assert_pf(r, 0x400000ULL, ACC_WRITE, W);
}

static void change_pte(struct rig *r, uint64_t gpa, bool write)
{
	if (gpa == PT && write)
		put(r, PT + 5 * 8, 0x7000 | 7, 8);
}

/* An entry that changes between the read and the A/D update is walked again. */
static void changed_entry(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;

	rig_long(r, 0);
	c->ptlb[(PT >> 12) & (PTLB_ENTRIES - 1)] = (struct ptlb_entry){PT | 1, r->ram + PT, false};
	r->on_fill = change_pte;
	assert_maps(r, 0x5000, ACC_READ, 0x7000);
	assert_int_equal(get(r, PT + 5 * 8, 8), 0x7027);
}

static void revoke_now(struct rig *r, uint64_t gpa, bool write)
{
	r->on_fill = NULL;
	engine_revoke(r->c);
}

static void revocation(void **state)
{
	struct rig *r = *state;
	struct engine_cpu *c = r->c;
	uint64_t seq, before;
	extern const struct base_window __start_ukvm_windows[] __attribute__((weak));
	const struct base_window *w = __start_ukvm_windows;
	ucontext_t uc = {0};
	uint64_t start = (uint64_t)&w->start + w->start, again = (uint64_t)&w->again + w->again;

	rig_long(r, 0);
	r->on_fill = revoke_now;
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	assert_true(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	engine_revoke(c);
	assert_int_equal(entry(c, 0x5000)->rtag, ~0ULL);
	assert_maps(r, 0x6000, ACC_READ, 0x6000);
	/* Revoked while the last fill answers: its answer is dropped and asked for again. */
	r->on_fill = revoke_now;
	r->fills = 0;
	assert_maps(r, 0x5000, ACC_READ, 0x5000);
	assert_int_equal(r->fills, 6);
	assert_true(cached(c, entry(c, 0x5000)->rtag, 0x5000));
	assert_int_equal(c->ptlb[5].tag, 0x5001);
	/* The kick drops everything and rewinds an open window. */
	assert_maps(r, 0x6000, ACC_READ, 0x6000);
	before = atomic_load(&c->revoke_seq);
	uc.uc_mcontext.gregs[REG_RIP] = start + 1;
	engine_kick(c, &uc);
	assert_int_equal(uc.uc_mcontext.gregs[REG_RIP], again);
	seq = atomic_load(&c->revoke_seq);
	assert_int_equal(seq, before + 1);
	assert_int_equal(entry(c, 0x6000)->rtag, ~0ULL);
	uc.uc_mcontext.gregs[REG_RIP] = (uint64_t)revocation;
	engine_kick(c, &uc);
	assert_int_equal(uc.uc_mcontext.gregs[REG_RIP], (uint64_t)revocation);
}

static void translate(void **state)
{
	struct rig *r = *state;
	uint64_t gpa = 0;
	bool w, u;

	rig_long(r, 0);
	put(r, PT + 5 * 8, 0x7000 | 1, 8);
	assert_true(engine_translate(r->c, 0x5123, &gpa, &w, &u));
	assert_int_equal(gpa, 0x7123);
	assert_false(w);
	assert_false(u);
	assert_int_equal(get(r, PT + 5 * 8, 8), 0x7001);
	put(r, PT + 5 * 8, 0, 8);
	assert_false(engine_translate(r->c, 0x5123, &gpa, &w, &u));
}

static void locked_byte(void **state)
{
	struct rig *r = *state;

	rig_long(r, 3);
	put(r, PT + 5 * 8, 0x5003, 8);
	put(r, 0x5005, 0x89, 1);
	assert_ok(r->c, sys_rmw8(r->c, 0x5005, 0xff, 2));
	assert_int_equal(get(r, 0x5005, 1), 0x8b);
	assert_ok(r->c, sys_rmw8(r->c, 0x5005, 0xfd, 0));
	assert_int_equal(get(r, 0x5005, 1), 0x89);
	put(r, PT + 5 * 8, 0x5001, 8);
	mmu_flush_page(r->c, 0x5000);
	assert_fault(r->c, sys_rmw8(r->c, 0x5005, 0xfd, 0), EXC_PF, P | W);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(no_paging),	   RIG_TEST(paging_32),
	    RIG_TEST(paging_pse),	   RIG_TEST(paging_pae),
	    RIG_TEST(smep_smap),	   RIG_TEST(tlb_tags),
	    RIG_TEST(paging_4level),	   RIG_TEST(flushes),
	    RIG_TEST(revocation),	   RIG_TEST(odd_tables),
	    RIG_TEST(changed_entry),	   RIG_TEST(translate),
	    RIG_TEST(locked_byte),	   RIG_TEST(second_level),
	    RIG_TEST(second_level_pcid),   RIG_TEST(second_level_global),
	    RIG_TEST(second_level_rights), RIG_TEST(two_known_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
