/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine's side: a guest in long mode whose user half looks like the native side's areas. Every IDT entry
 * leads to a HLT of its own, so the vector is where the guest halts, and the frame on the ring-0 stack is the
 * user state. GDT as Linux has it, for selectors that tests load by chance.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "diff.h"
#include "diff_side.h"

struct side under_test = {.name = "engine"}, reference = {.name = "interp"};

#define PTE_P  1ULL
#define PTE_W  2ULL
#define PTE_U  4ULL
#define PTE_AD 0x60ULL
#define PTE_NX BIT(63)

/* -- The port -- */

/*
 * Real mode has no page tables: the areas lie at their addresses in physical memory, and once more below 1 MiB, where a
 * segment register that is loaded points to. A page that others cannot read is a device, which ends the run.
 */
static enum engine_fill fill_real(struct side *s, uint64_t gpa, bool write, struct engine_page *page)
{
	uint64_t at = gpa;
	bool read_only = false;

	if (gpa >= REAL_DATA && gpa < REAL_DATA + DATA_SIZE)
		at += DATA - REAL_DATA;
	else if (gpa >= REAL_CODE && gpa < REAL_CODE + 2 * PAGE_SIZE)
		at += CODE - REAL_CODE;
	if (at >= DATA && at < DATA + DATA_SIZE) {
		enum page_kind kind = data_page_kind[(at - DATA) / PAGE_SIZE];

		if (kind == ABSENT)
			return FILL_MMIO;
		read_only = kind == READ_ONLY;
		page->host = side_data(s, (at - DATA) / PAGE_SIZE) + (at & PAGE_OFFSET_MASK);
	} else if (at >= CODE && at < CODE + 2 * PAGE_SIZE) {
		page->host = side_code(s, (at - CODE) / PAGE_SIZE) + (at & PAGE_OFFSET_MASK);
	} else if (gpa >= KPAGE(K_HANDLERS) && gpa <= KPAGE(K_COUNT) + PAGE_OFFSET_MASK) {
		read_only = gpa < KPAGE(K_COUNT);
		page->host = s->ram + gpa;
	} else {
		return FILL_MMIO;
	}
	page->writable = !read_only;
	page->tracked = false;
	page->id = gpa;
	return read_only && write ? FILL_READONLY : FILL_FIXED;
}

static enum engine_fill fill(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	struct side *s = ctx;

	if (s->real)
		return fill_real(s, gpa, write, page);
	if (gpa >= RAM_PAGES * PAGE_SIZE)
		return FILL_BADHOST;
	*page = (struct engine_page){.host = s->ram + gpa, .writable = true, .id = gpa};
	return FILL_FIXED;
}

static enum engine_status refuse_mmio(void *ctx, uint64_t gpa, void *data, unsigned len, bool write)
{
	return ENGINE_STOP;
}

static enum engine_status refuse_msr(void *ctx, uint32_t index, uint64_t *value)
{
	return ENGINE_GP;
}

static enum engine_status refuse_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
	return ENGINE_GP;
}

static enum engine_status refuse_pio(void *ctx, uint16_t port, void *data, unsigned size, unsigned count,
				     bool write)
{
	return ENGINE_STOP;
}

static enum engine_status cpuid(void *ctx, uint32_t regs[4])
{
	memset(regs, 0, 16);
	return ENGINE_OK;
}

static enum engine_status cr8(void *ctx, uint64_t *value, bool write)
{
	if (!write)
		*value = 0;
	return ENGINE_OK;
}

static enum engine_status refuse_hypercall(void *ctx, bool vmmcall)
{
	return ENGINE_UD;
}

static enum engine_status mwait(void *ctx, bool monitor)
{
	return ENGINE_OK;
}

static enum engine_status refuse_rsm(void *ctx)
{
	return ENGINE_UD;
}

static void iret(void *ctx)
{
}

/* Both sides see the same time, and none passes. */
static uint64_t tsc(void *ctx)
{
	return 0x123456789a;
}

static bool poll_side(void *ctx)
{
	return side_poll(ctx);
}

static const struct engine_port port = {
    .fill = fill,
    .mmio = refuse_mmio,
    .pio = refuse_pio,
    .cpuid = cpuid,
    .rdmsr = refuse_msr,
    .wrmsr = refuse_wrmsr,
    .rdpmc = refuse_msr,
    .cr8 = cr8,
    .tsc = tsc,
    .hypercall = refuse_hypercall,
    .mwait = mwait,
    .rsm = refuse_rsm,
    .iret = iret,
    .poll = poll_side,
};

/* -- Tables -- */

static uint64_t *table(const struct side *s, unsigned page)
{
	return (uint64_t *)(s->ram + page * PAGE_SIZE);
}

static void map_tables(const struct side *s)
{
	uint64_t down = PTE_P | PTE_W | PTE_U | PTE_AD;

	table(s, 0)[0] = 1 * PAGE_SIZE | down;
	table(s, 0)[KBASE >> 39 & 511] = 5 * PAGE_SIZE | down;
	table(s, 1)[0] = 2 * PAGE_SIZE | down;
	table(s, 2)[CODE >> 21 & 511] = 3 * PAGE_SIZE | down;
	table(s, 2)[DATA >> 21 & 511] = 4 * PAGE_SIZE | down;
	table(s, 5)[0] = 6 * PAGE_SIZE | down;
	table(s, 6)[0] = 7 * PAGE_SIZE | down;
	for (unsigned n = 0; n < 2; n++)
		table(s, 3)[n] = KPAGE(code_frame(n)) | PTE_P | PTE_U | PTE_AD;
	for (unsigned n = 0; n < DATA_PAGES; n++)
		if (data_page_kind[n] != ABSENT)
			table(s, 4)[n] = KPAGE(data_frame(n)) | PTE_P | PTE_U | PTE_AD | PTE_NX |
					 (data_page_kind[n] == READ_WRITE ? PTE_W : 0);
	for (unsigned n = K_GDT; n <= K_COUNT; n++)
		table(s, 7)[n] = n * PAGE_SIZE | PTE_P | PTE_W | PTE_AD;
}

static uint64_t descriptor(const struct ldt_desc *d)
{
	uint64_t type = (!d->read_only) << 1 | d->contents << 2 | 1;
	uint64_t attr = type | 1 << 4 | 3 << 5 | !d->absent << 7 | 1 << 12 | d->big << 14 | d->pages << 15;

	return (d->limit & 0xffff) | (uint64_t)(d->base & 0xffffff) << 16 | (attr & 0xff) << 40 |
	       (uint64_t)(d->limit >> 16 & 15) << 48 | (attr >> 12 & 15) << 52 |
	       (uint64_t)(d->base >> 24) << 56;
}

/* The GDT entry whose limit is the CPU's number (the test stays on one CPU). */
static uint64_t cpu_number_segment(void)
{
	uint32_t access = 0, limit = 0;

	__asm__("lar %1, %0" : "=r"(access) : "r"(0x7b));
	__asm__("lsl %1, %0" : "=r"(limit) : "r"(0x7b));
	return (limit & 0xffff) | (uint64_t)(access & 0xf0ff00) << 32 | (uint64_t)(limit >> 16 & 15) << 48;
}

static void fill_gdt(const struct side *s)
{
	uint64_t *g = table(s, K_GDT), *l = g + LDT_OFFSET / 8;
	uint64_t tss = KLIN(K_TSS), lb = KLIN(K_GDT) + LDT_OFFSET;

	g[1] = 0x00cf9b000000ffff;
	g[2] = 0x00af9b000000ffff;
	g[3] = 0x00cf93000000ffff;
	g[4] = 0x00cffb000000ffff;
	g[5] = 0x00cff3000000ffff;
	g[6] = 0x00affb000000ffff;
	g[8] = 0x00008b0000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56;
	g[9] = tss >> 32;
	g[15] = cpu_number_segment();
	g[10] = 0x0000820000000000 | (L_ENTRIES * 8 - 1) | (lb & 0xffffff) << 16 | (lb >> 24 & 0xff) << 56;
	g[11] = lb >> 32;
	for (unsigned n = 0; n < L_ENTRIES; n++)
		l[n] = descriptor(&ldt[n]);
}

static void fill_idt(const struct side *s)
{
	uint64_t *idt = table(s, K_IDT), stack = KLIN(K_STACK) + PAGE_SIZE;

	memset(s->ram + K_HANDLERS * PAGE_SIZE, 0xf4, PAGE_SIZE);
	for (unsigned n = 0; n < 256; n++) {
		uint64_t at = KLIN(K_HANDLERS) + n * 16, dpl = n == 3 || n == 4 ? 3 : 0;

		idt[2 * n] =
		    (at & 0xffff) | 0x10 << 16 | (0x8e01 | dpl << 13) << 32 | (at >> 16 & 0xffff) << 48;
		idt[2 * n + 1] = at >> 32;
	}
	memcpy(s->ram + K_TSS * PAGE_SIZE + 4, &stack, 8);
	memcpy(s->ram + K_TSS * PAGE_SIZE + 0x24, &stack,
	       8); /* IST 1: kernel mode's faults get a good stack too */
	*(uint16_t *)(s->ram + K_TSS * PAGE_SIZE + 0x66) = 0x68; /* no I/O bitmap */
}

static void real_vectors(const struct side *s)
{
	uint32_t *ivt = (uint32_t *)table(s, K_IVT);

	for (unsigned n = 0; n < 256; n++)
		ivt[n] = (uint32_t)(KPAGE(K_HANDLERS) << 12) | n * 16;
}

/*
 * Handlers that count and go back: of the trap flag if `step`, of the interrupt that disturbs. All others halt.
 */
void side_handlers(const struct side *s, bool step)
{
	static const uint8_t real[] = {0x2e, 0xff, 0x06, 0x00, 0x20, 0xcf}; /* incw %cs:0x2000; iret */
	uint8_t *page = s->ram + KPAGE(K_HANDLERS);

	for (unsigned n = 1; n <= DISTURB_VECTOR; n += DISTURB_VECTOR - 1) {
		uint8_t lng[] = {0x48, 0xff, 0x05, 0, 0, 0, 0, 0x48, 0xcf}; /* incq count(%rip); iretq */
		int32_t rel = (int32_t)(KPAGE(K_COUNT) - KPAGE(K_HANDLERS) + (n == 1 ? 0 : 8) - n * 16 - 7);

		memcpy(lng + 3, &rel, 4);
		memset(page + n * 16, 0xf4, 16);
		if (n == 1 && !step)
			continue;
		if (s->real)
			memcpy(page + n * 16, real, sizeof(real));
		else
			memcpy(page + n * 16, lng, sizeof(lng));
	}
}

void side_tables(const struct side *s)
{
	fill_gdt(s);
	fill_idt(s);
	real_vectors(s);
}

/* One guest; `translate` false: the interpreter, whatever USERKVM_ENGINE says. */
void side_create(struct side *s, bool translate)
{
	struct engine_features feat = {
	    .cr4_allowed = 0x3f7fff,
	    .efer_allowed = 0xd01,
	    .maxphyaddr = 46,
	    .rdtscp = true,
	    .pcid = true,
	    .gbpages = true,
	    .umip = true,
	};

	s->ram =
	    mmap(NULL, RAM_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map_tables(s);
	side_tables(s);
	if (engine_code_create(&s->code) || engine_cpu_create(&s->cpu, s->code, &port, s)) {
		fprintf(stderr, "the engine does not start\n");
		exit(2);
	}
	if (!translate)
		s->cpu->jit = NULL;
	feat.xcr0_allowed = engine_xcr0_host();
	engine_set_features(s->cpu, &feat);
}

void engine_side_init(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	if (base_sig_enable() || engine_init()) {
		fprintf(stderr, "the engine does not start\n");
		exit(2);
	}
	side_create(&under_test, true);
	side_create(&reference, false);
}

bool engine_translates(void)
{
	return jit_size() > 0;
}
