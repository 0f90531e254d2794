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
#include "engine/engine.h"

uint8_t *engine_code_ram, *engine_data;

#define KBASE	   0xffff800000000000UL
#define RAM_PAGES  48
#define K_GDT	   8
#define K_IDT	   9
#define K_TSS	   10
#define K_STACK	   11
#define K_HANDLERS 12
#define CODE_PAGE  16
#define DATA_PAGE  20
#define KLIN(page) (KBASE + (page)*PAGE_SIZE)
#define LDT_OFFSET 0x800
#define PTE_P	   1ULL
#define PTE_W	   2ULL
#define PTE_U	   4ULL
#define PTE_AD	   0x60ULL
#define PTE_NX	   BIT(63)

static uint8_t *ram;
static struct engine_code *code;
static struct engine_cpu *cpu;
static unsigned started_tick;

/* -- The port -- */

static enum engine_fill fill(void *ctx, uint64_t gpa, bool write, struct engine_page *page)
{
	if (gpa >= RAM_PAGES * PAGE_SIZE)
		return FILL_BADHOST;
	*page = (struct engine_page){.host = ram + gpa, .writable = true, .id = gpa};
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

static uint64_t tsc(void *ctx)
{
	return base_rdtsc();
}

static bool poll_watchdog(void *ctx)
{
	return watchdog_ticks - started_tick > 4;
}

static const struct engine_port port = {
    .fill = fill,
    .mmio = refuse_mmio,
    .rdmsr = refuse_msr,
    .rdpmc = refuse_msr,
    .tsc = tsc,
    .poll = poll_watchdog,
};

/* -- Tables -- */

static uint64_t *table(unsigned page)
{
	return (uint64_t *)(ram + page * PAGE_SIZE);
}

static void map_tables(void)
{
	uint64_t down = PTE_P | PTE_W | PTE_U | PTE_AD;

	table(0)[0] = 1 * PAGE_SIZE | down;
	table(0)[KBASE >> 39 & 511] = 5 * PAGE_SIZE | down;
	table(1)[0] = 2 * PAGE_SIZE | down;
	table(2)[CODE >> 21 & 511] = 3 * PAGE_SIZE | down;
	table(2)[DATA >> 21 & 511] = 4 * PAGE_SIZE | down;
	table(5)[0] = 6 * PAGE_SIZE | down;
	table(6)[0] = 7 * PAGE_SIZE | down;
	for (unsigned n = 0; n < 2; n++)
		table(3)[n] = (CODE_PAGE + n) * PAGE_SIZE | PTE_P | PTE_U | PTE_AD;
	for (unsigned n = 0; n < DATA_PAGES; n++)
		if (data_page_kind[n] != ABSENT)
			table(4)[n] = (DATA_PAGE + n) * PAGE_SIZE | PTE_P | PTE_U | PTE_AD | PTE_NX |
				      (data_page_kind[n] == READ_WRITE ? PTE_W : 0);
	for (unsigned n = K_GDT; n <= K_HANDLERS; n++)
		table(7)[n] = n * PAGE_SIZE | PTE_P | PTE_W | PTE_AD;
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

static void fill_gdt(void)
{
	uint64_t *g = table(K_GDT), *l = g + LDT_OFFSET / 8;
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

static void fill_idt(void)
{
	uint64_t *idt = table(K_IDT), stack = KLIN(K_STACK) + PAGE_SIZE;

	memset(ram + K_HANDLERS * PAGE_SIZE, 0xf4, PAGE_SIZE);
	for (unsigned n = 0; n < 256; n++) {
		uint64_t at = KLIN(K_HANDLERS) + n * 16, dpl = n == 3 || n == 4 ? 3 : 0;

		idt[2 * n] =
		    (at & 0xffff) | 0x10 << 16 | (0x8e00 | dpl << 13) << 32 | (at >> 16 & 0xffff) << 48;
		idt[2 * n + 1] = at >> 32;
	}
	memcpy(ram + K_TSS * PAGE_SIZE + 4, &stack, 8);
	*(uint16_t *)(ram + K_TSS * PAGE_SIZE + 0x66) = 0x68; /* no I/O bitmap */
}

/* -- State -- */

static struct kvm_segment from_ldt(uint16_t sel)
{
	const struct ldt_desc *d = &ldt[(sel >> 3) % L_ENTRIES];

	return (struct kvm_segment){
	    .base = d->base,
	    .limit = d->pages ? d->limit << 12 | 0xfff : d->limit,
	    .selector = sel,
	    .type = (!d->read_only) << 1 | d->contents << 2 | 1,
	    .present = !d->absent,
	    .dpl = 3,
	    .db = d->big,
	    .s = 1,
	    .g = d->pages,
	    .avl = 1,
	};
}

static struct kvm_segment segment(uint16_t sel, uint64_t base)
{
	struct kvm_segment s = {.base = base,
				.limit = 0xffffffff,
				.selector = sel,
				.type = 3,
				.present = 1,
				.dpl = 3,
				.db = 1,
				.s = 1,
				.g = 1};

	if (sel & 4)
		return from_ldt(sel);
	if (sel == 0x33) {
		s.type = 11;
		s.db = 0;
		s.l = 1;
	}
	if (!(sel & ~3))
		s = (struct kvm_segment){.base = base, .selector = sel, .unusable = 1};
	return s;
}

static void set_segments(const struct tstate *in)
{
	struct kvm_sregs s;

	engine_get_sregs(cpu, &s);
	s.cs = segment(in->sel[S_CS], 0);
	s.ss = segment(in->sel[S_SS], 0);
	s.ds = segment(in->sel[S_DS], 0);
	s.es = segment(in->sel[S_ES], 0);
	s.fs = segment(in->sel[S_FS], in->fsbase);
	s.gs = segment(in->sel[S_GS], in->gsbase);
	s.tr = (struct kvm_segment){
	    .base = KLIN(K_TSS), .limit = 0x67, .selector = 0x40, .type = 11, .present = 1};
	s.ldt = (struct kvm_segment){.base = KLIN(K_GDT) + LDT_OFFSET,
				     .limit = L_ENTRIES * 8 - 1,
				     .selector = 0x50,
				     .type = 2,
				     .present = 1};
	s.gdt = (struct kvm_dtable){.base = KLIN(K_GDT), .limit = 16 * 8 - 1};
	s.idt = (struct kvm_dtable){.base = KLIN(K_IDT), .limit = 4095};
	s.cr0 = 0x80050033;
	s.cr3 = 0;
	s.cr4 = 0x620 | BIT(16) | BIT(18);
	s.efer = 0xd01;
	if (engine_set_sregs(cpu, &s)) {
		fprintf(stderr, "engine_set_sregs refused\n");
		exit(2);
	}
}

static void set_state(const struct tstate *in)
{
	const uint64_t *g = in->gpr;
	struct kvm_regs r = {
	    .rax = g[0],
	    .rcx = g[1],
	    .rdx = g[2],
	    .rbx = g[3],
	    .rsp = g[4],
	    .rbp = g[5],
	    .rsi = g[6],
	    .rdi = g[7],
	    .r8 = g[8],
	    .r9 = g[9],
	    .r10 = g[10],
	    .r11 = g[11],
	    .r12 = g[12],
	    .r13 = g[13],
	    .r14 = g[14],
	    .r15 = g[15],
	    .rip = in->rip,
	    .rflags = in->rflags,
	};
	uint8_t xs[XS_SIZE] __attribute__((aligned(64)));
	uint64_t all = engine_xcr0_host();

	set_segments(in);
	engine_set_regs(cpu, &r);
	memcpy(xs, in->xs, XS_SIZE);
	memcpy(xs + 512, &all, 8);
	memset(xs + 520, 0, 56);
	if (engine_set_xsave(cpu, xs, XS_SIZE)) {
		fprintf(stderr, "engine_set_xsave refused\n");
		exit(2);
	}
}

/* Does this vector push an error code? */
static bool has_error(unsigned v)
{
	return v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21;
}

static void get_state(struct outcome *o)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	uint64_t frame[6] = {0}, *f = frame;

	engine_get_regs(cpu, &r);
	engine_get_sregs(cpu, &s);
	o->vector = (r.rip - 1 - KLIN(K_HANDLERS)) / 16;
	memcpy(frame, ram + K_STACK * PAGE_SIZE + (r.rsp & 0xfff), MIN(48, PAGE_SIZE - (r.rsp & 0xfff)));
	o->error = has_error(o->vector) ? *f++ : 0;
	o->cr2 = s.cr2;
	o->st = (struct tstate){
	    .gpr = {r.rax, r.rcx, r.rdx, r.rbx, f[3], r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
		    r.r13, r.r14, r.r15},
	    .rip = f[0],
	    .rflags = f[2],
	    .sel = {s.es.selector, f[1], f[4], s.ds.selector, s.fs.selector, s.gs.selector},
	    .fsbase = s.fs.base,
	    .gsbase = s.gs.base,
	};
	engine_get_xsave(cpu, o->st.xs, XS_SIZE);
}

void engine_side_run(const struct tstate *in, int mode, struct outcome *out)
{
	enum engine_exit e;

	set_state(in);
	started_tick = watchdog_ticks;
	do {
		atomic_store(engine_exit_word(cpu), 0);
		e = engine_run(cpu);
	} while (e == ENGINE_EXIT_POLL && watchdog_ticks - started_tick <= 4);
	if (e == ENGINE_EXIT_HLT) {
		get_state(out);
		return;
	}
	*out = (struct outcome){.vector = e == ENGINE_EXIT_POLL ? END_TIMEOUT : 1000 + (int)e};
}

/* The watchdog's signal makes the engine look at the clock. */
void engine_side_kick(void)
{
	if (cpu)
		atomic_store(engine_exit_word(cpu), 1);
}

void engine_side_init(void)
{
	cpu_set_t one;
	struct engine_features feat = {
	    .cr4_allowed = 0x3f7fff,
	    .efer_allowed = 0xd01,
	    .maxphyaddr = 46,
	    .rdtscp = true,
	    .pcid = true,
	    .gbpages = true,
	    .umip = true,
	};

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	ram = mmap(NULL, RAM_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	engine_code_ram = ram + CODE_PAGE * PAGE_SIZE;
	engine_data = ram + DATA_PAGE * PAGE_SIZE;
	map_tables();
	fill_gdt();
	fill_idt();
	if (base_sig_enable() || engine_init() || engine_code_create(&code) ||
	    engine_cpu_create(&cpu, code, &port, NULL)) {
		fprintf(stderr, "the engine does not start\n");
		exit(2);
	}
	feat.xcr0_allowed = engine_xcr0_host();
	engine_set_features(cpu, &feat);
	if (engine_set_xcr0(cpu, engine_xcr0_host())) {
		fprintf(stderr, "engine_set_xcr0 refused\n");
		exit(2);
	}
}
