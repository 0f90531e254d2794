/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RAM that the VMM takes away under the guest: unmapped, protected, replaced, emptied, cut off. KVM_RUN fails
 * with EFAULT at the exact instruction with nothing of it done, and repaired the guest goes on as if nothing
 * had been.
 *	make check T=guest/memory
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guest_util.h"
#include "run_util.h"

#define GPA   0x10000000ULL
#define PAGE  4096UL
#define PAGES 4
#define DONE  0x40 /* offset of the code that ends a row: out %al, $0xe1 */

/* How a page goes. */
enum loss { UNMAP, NONE, RDONLY, TRUNCATE, REPLACE, MOVE, LOSSES };

struct env {
	struct gu g;
	int fd;	      /* memfd of PAGES pages */
	uint8_t *ram; /* the slot at GPA, window pages 0.. */
	uint8_t *too; /* the same pages, for us: never taken away */
};

static int setup(void **state)
{
	static struct env e;

	if (ku_oracle())
		return 0;
	gu_start(&e.g, GU_LONG);
	e.fd = memfd_create("ram", MFD_CLOEXEC);
	KU_CHECK(e.fd >= 0 && ftruncate(e.fd, PAGES * PAGE) == 0);
	e.ram = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, e.fd, 0);
	e.too = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, e.fd, 0);
	KU_CHECK(e.ram != MAP_FAILED && e.too != MAP_FAILED);
	KU_CHECK(ku_set_slot(&e.g.vm, 1, 0, GPA, e.ram, PAGES * PAGE) == 0);
	for (unsigned i = 0; i < PAGES; i++)
		gu_window(&e.g, i, GPA + i * PAGE);
	*state = &e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	if (ku_oracle())
		return 0;
	gu_end(&e->g);
	munmap(e->ram, PAGES * PAGE);
	munmap(e->too, PAGES * PAGE);
	close(e->fd);
	return 0;
}

/* A KVM that emulates what a page lacks (as one without nesting does) says MMIO where others say EFAULT. */
#define ONLY_HERE()              \
	do {                     \
		if (ku_oracle()) \
			skip();  \
	} while (0)

/* -- Taking away and giving back -- */

static void *moved;

static void lose(struct env *e, enum loss how, unsigned page)
{
	uint8_t *p = e->ram + page * PAGE;

	switch (how) {
	case UNMAP: KU_CHECK(munmap(p, PAGE) == 0); break;
	case NONE: KU_CHECK(mprotect(p, PAGE, PROT_NONE) == 0); break;
	case RDONLY: KU_CHECK(mprotect(p, PAGE, PROT_READ) == 0); break;
	case TRUNCATE: KU_CHECK(ftruncate(e->fd, page * PAGE) == 0); break;
	case REPLACE:
		KU_CHECK(mmap(p, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
		break;
	case MOVE:
		moved = mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			       mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		KU_CHECK(moved != MAP_FAILED);
		break;
	case LOSSES: break;
	}
}

/* Whatever was lost is as it was; cut-off pages are given their bytes again. */
static void repair(struct env *e, enum loss how, unsigned page, const uint8_t *bytes)
{
	uint8_t *p = e->ram + page * PAGE;

	if (how == TRUNCATE) {
		KU_CHECK(ftruncate(e->fd, PAGES * PAGE) == 0);
		memcpy(e->too + page * PAGE, bytes, (PAGES - page) * PAGE);
		return;
	}
	if (how == MOVE)
		munmap(moved, PAGE);
	KU_CHECK(mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, e->fd, (off_t)(page * PAGE)) ==
		 p);
}

/* -- Every kind of access -- */

#define W  1   /* writes */
#define RO 2   /* works where there is no right to write */
#define SP 4   /* through RSP */
#define BP 8   /* through RBP */
#define SI 16  /* through RSI */
#define DI 32  /* through RDI */
#define PU 64  /* pushes: RSP above */
#define AL 128 /* aligned only, or a byte: cannot straddle */
#define XS 256 /* needs AVX */

#define ROWS(X)                                           \
	X(load_byte, RO | AL, "movb (%rbx), %al")         \
	X(load_quad, RO, "movq (%rbx), %rax")             \
	X(load_zero_extended, RO, "movzwl (%rbx), %eax")  \
	X(store_byte, W | AL, "movb %al, (%rbx)")         \
	X(store_word, W, "movw %ax, (%rbx)")              \
	X(store_quad, W, "movq %rax, (%rbx)")             \
	X(store_immediate, W, "movl $0x12345678, (%rbx)") \
	X(add_to_memory, W, "addl %eax, (%rbx)")          \
	X(add_from_memory, RO, "addq (%rbx), %rax")       \
	X(rotate_memory, W, "rclq $3, (%rbx)")            \
	X(compare, RO, "cmpq %rax, (%rbx)")               \
	X(locked_increment, W, "lock incl (%rbx)")        \
	X(locked_xadd, W, "lock xaddq %rax, (%rbx)")      \
	X(exchange, W, "xchgq %rax, (%rbx)")              \
	X(cmpxchg, W, "lock cmpxchgq %rcx, (%rbx)")       \
	X(cmpxchg16b, W | AL, "lock cmpxchg16b (%rbx)")   \
	X(bit_test_and_set, W, "lock btsl $5, (%rbx)")    \
	X(set_on_condition, W | AL, "setz (%rbx)")        \
	X(multiply, RO, "mulq (%rbx)")                    \
	X(push, W | SP | PU, "pushq %rax")                \
	X(push_memory, RO, "pushq (%rbx)")                \
	X(pop, RO | SP, "popq %rax")                      \
	X(pop_memory, W, "popq (%rbx)")                   \
	X(pushf, W | SP | PU, "pushfq")                   \
	X(enter, W | SP | PU, "enter $16, $0")            \
	X(leave, RO | BP, "leave")                        \
	X(call, W | SP | PU, "call 1f\n1:")               \
	X(call_memory, RO, "call *(%rbx)")                \
	X(jump_memory, RO, "jmp *(%rbx)")                 \
	X(near_return, RO | SP, "ret")                    \
	X(far_return, RO | SP, "lretq")                   \
	X(interrupt_return, RO | SP, "iretq")             \
	X(string_load, RO | SI, "lodsq")                  \
	X(string_store, W | DI, "stosq")                  \
	X(string_from, RO | SI, "movsq")                  \
	X(string_to, W | DI, "movsq")                     \
	X(string_compare, RO | SI, "cmpsq")               \
	X(string_scan, RO | DI, "scasq")                  \
	X(store_dtr, W, "sgdt (%rbx)")                    \
	X(x87_load, RO, "fldt (%rbx)")                    \
	X(x87_store, W, "fnstcw (%rbx)")                  \
	X(sse_load, RO, "movups (%rbx), %xmm0")           \
	X(sse_store, W, "movups %xmm1, (%rbx)")           \
	X(sse_aligned, W | AL, "movaps %xmm1, (%rbx)")    \
	X(sse_add, RO | AL, "addps (%rbx), %xmm0")        \
	X(fxsave, W | AL, "fxsave (%rbx)")                \
	X(ldmxcsr_stmxcsr, W, "stmxcsr (%rbx)")           \
	X(avx_load, RO | XS, "vmovdqu (%rbx), %ymm0")     \
	X(avx_store, W | XS, "vmovdqu %ymm1, (%rbx)")     \
	X(non_temporal, W, "movntiq %rax, (%rbx)")

#define CODE_OF(name, flags, text) KU_ASM(row_##name, 64, text "\n out %al, $0xe1\n hlt");
ROWS(CODE_OF)
#define ROW_OF(name, flags, text) {#name, row_##name, row_##name##_end, flags},
static const struct row {
	const char *what;
	const uint8_t *code, *end;
	unsigned flags;
} rows[] = {ROWS(ROW_OF)};

static void allow_avx(struct env *e)
{
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0].value = 7};
	struct kvm_sregs s;

	ku_get_sregs(&e->g.cpu, &s);
	s.cr4 |= 1 << 18;
	ku_set_sregs(&e->g.cpu, &s);
	KU_CHECK(ioctl(e->g.cpu.fd, KVM_SET_XCRS, &x) == 0);
}

/* Fills RAM and registers so that the row's first instruction accesses `at` and, if it jumps, goes to DONE.
 */
static void begin_row(struct env *e, const struct row *row, uint64_t at)
{
	static const uint8_t done[] = {0xe6, 0xe1, 0xf4};
	uint64_t frame[5] = {GU_CODE + DONE, GU_CS0, 2, GU_STACK0, GU_DS0};
	struct kvm_regs r;

	for (unsigned i = 0; i < PAGES * PAGE; i++)
		e->too[i] = (uint8_t)(i * 7 + i / 256);
	memset(e->g.vm.ram + GU_DATA, 0x5a, PAGE);
	memset(e->g.vm.ram + GU_STACK0 - 64, 0x11, 128);
	memcpy(e->too + (at - GU_WINDOW), frame, sizeof(frame));
	if (row->flags & PU)
		at += 8;
	gu_code(&e->g, row->code, (size_t)(row->end - row->code), 0);
	memcpy(e->g.vm.ram + GU_CODE + DONE, done, sizeof(done));
	if (row->flags & XS)
		allow_avx(e);
	ku_get_regs(&e->g.cpu, &r);
	r.rax = 0x1122334455667788;
	r.rcx = 3;
	r.rdx = 5;
	r.rbx = at;
	r.rsi = row->flags & SI ? at : GU_DATA;
	r.rdi = row->flags & DI ? at : GU_DATA + 0x100;
	r.rbp = row->flags & BP ? at : GU_DATA + 0x200;
	if (row->flags & SP)
		r.rsp = at;
	ku_set_regs(&e->g.cpu, &r);
}

/* What a finished row left behind. */
struct result {
	struct kvm_regs regs;
	struct kvm_fpu fpu;
	uint8_t ram[PAGES * PAGE], data[PAGE];
};

static bool finish_row(struct env *e, struct result *x)
{
	if (ku_run(&e->g.cpu) != KVM_EXIT_IO || e->g.cpu.run->io.port != 0xe1)
		return false;
	ku_get_regs(&e->g.cpu, &x->regs);
	KU_CHECK(ioctl(e->g.cpu.fd, KVM_GET_FPU, &x->fpu) == 0);
	memcpy(x->ram, e->too, sizeof(x->ram));
	memcpy(x->data, e->g.vm.ram + GU_DATA, sizeof(x->data));
	return true;
}

/* One row, one loss: NULL, or what was wrong. */
static const char *one_row(struct env *e, const struct row *row, uint64_t at, enum loss how, unsigned page,
			   const struct result *want)
{
	static struct result got;
	static uint8_t before[PAGES * PAGE];
	struct kvm_regs r0, r1;
	int error;

	begin_row(e, row, at);
	KU_CHECK(ioctl(e->g.cpu.fd, KVM_SET_FPU, &(struct kvm_fpu){.fcw = 0x37f, .mxcsr = 0x1f80}) == 0);
	memcpy(before, e->too, sizeof(before));
	ku_get_regs(&e->g.cpu, &r0);
	lose(e, how, page);
	error = ku_errno(e->g.cpu.fd, KVM_RUN, 0);
	if (how == RDONLY && !(row->flags & W)) {
		repair(e, how, page, before + page * PAGE);
		return error || e->g.cpu.run->exit_reason != KVM_EXIT_IO ? "reads from read-only memory"
									 : NULL;
	}
	ku_get_regs(&e->g.cpu, &r1);
	if (how != TRUNCATE && memcmp(before, e->too, sizeof(before))) {
		repair(e, how, page, before + page * PAGE);
		return "something was written";
	}
	repair(e, how, page, before + page * PAGE);
	if (error != EFAULT)
		return "no EFAULT";
	if (memcmp(&r0, &r1, sizeof(r0)))
		return "registers changed";
	if (!finish_row(e, &got))
		return "did not go on";
	return memcmp(&got, want, sizeof(got)) ? "another result than without the loss" : NULL;
}

static unsigned all_losses(struct env *e, const struct row *row, uint64_t at, unsigned first, unsigned last)
{
	static struct result want;
	unsigned wrong = 0;

	begin_row(e, row, at);
	KU_CHECK(ioctl(e->g.cpu.fd, KVM_SET_FPU, &(struct kvm_fpu){.fcw = 0x37f, .mxcsr = 0x1f80}) == 0);
	if (!finish_row(e, &want)) {
		print_error("%s at %#lx: exit %u\n", row->what, at, e->g.cpu.run->exit_reason);
		return 1;
	}
	for (unsigned page = first; page <= last; page++) {
		for (enum loss how = 0; how < LOSSES; how++) {
			const char *what = one_row(e, row, at, how, page, &want);

			if (what)
				print_error("%s at %#lx, page %u, loss %d: %s\n", row->what, at, page, how,
					    what);
			wrong += !!what;
		}
	}
	return wrong;
}

/* Seen to fail (a time-out) with KVM_RUN going on where run_exit says EFAULT. */
static void every_access(void **state)
{
	struct env *e = *state;
	unsigned wrong = 0;

	ONLY_HERE();
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if ((rows[i].flags & XS) && !__builtin_cpu_supports("avx2"))
			continue;
		wrong += all_losses(e, &rows[i], GU_WINDOW + PAGE + 0x140, 1, 1);
		if (!(rows[i].flags & AL))
			wrong += all_losses(e, &rows[i], GU_WINDOW + 2 * PAGE - 1, 1, 2);
	}
	assert_int_equal(wrong, 0);
}

/* -- Tables, stacks and code -- */

KU_ASM(load_segment, 64, "mov %eax, %ds\n out %al, $0xe1");
KU_ASM(breakpoint, 64, "int3");
KU_ASM(undefined, 64, "ud2");
KU_ASM(walk, 64, "movb (%rbx), %al\n out %al, $0xe1");
KU_ASM(three_nops, 64, "nop; nop; nop\n out %al, $0xe1");
KU_ASM(load_tr, 64, "ltr %dx\n out %al, $0xe1");

static const struct table_row {
	const char *what;
	const uint8_t *code, *end;
	unsigned cpl;
	uint64_t page;
	int prot;
	unsigned vector; /* 0: port 0xe1 ends it */
} tables[] = {
    {"GDT", load_segment, load_segment_end, 0, GU_GDT, PROT_NONE, 0},
    {"GDT, busy bit", load_tr, load_tr_end, 0, GU_GDT, PROT_READ, 0},
    {"IDT", breakpoint, breakpoint_end, 0, GU_IDT, PROT_NONE, 3},
    {"IDT of a fault", undefined, undefined_end, 0, GU_IDT, PROT_NONE, 6},
    {"stack of a fault", undefined, undefined_end, 0, GU_STACK0 - PAGE, PROT_READ, 6},
    {"stack of a trap", breakpoint, breakpoint_end, 3, GU_STACK0 - PAGE, PROT_NONE, 3},
    {"TSS", breakpoint, breakpoint_end, 3, GU_TSS, PROT_NONE, 3},
    {"GDT of a trap", breakpoint, breakpoint_end, 3, GU_GDT, PROT_NONE, 3},
    {"page table", walk, walk_end, 0, GU_PT, PROT_NONE, 0},
    {"page table, accessed bit", walk, walk_end, 0, GU_PT, PROT_READ, 0},
    {"code", three_nops, three_nops_end, 0, GU_CODE, PROT_NONE, 0},
};

static void tables_and_code(void **state)
{
	struct env *e = *state;
	uint8_t *ram = e ? e->g.vm.ram : NULL;

	ONLY_HERE();
	for (unsigned i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		const struct table_row *t = &tables[i];
		struct kvm_regs r;
		struct gu_trap trap;
		int error;

		print_message("%s\n", t->what);
		((uint64_t *)(ram + GU_PT))[100 + i] = GPA | 7; /* a page not yet walked */
		((uint64_t *)(ram + GU_GDT))[6] = gu_desc(GU_TSS, 0x67, 0x89);
		gu_code(&e->g, t->code, (size_t)(t->end - t->code), t->cpl);
		ku_get_regs(&e->g.cpu, &r);
		r.rax = GU_DS0;
		r.rdx = GU_TR;
		r.rbx = GU_WINDOW + (100 + i) * PAGE;
		ku_set_regs(&e->g.cpu, &r);
		KU_CHECK(mprotect(ram + t->page, PAGE, t->prot) == 0);
		error = ku_errno(e->g.cpu.fd, KVM_RUN, 0);
		KU_CHECK(mprotect(ram + t->page, PAGE, PROT_READ | PROT_WRITE) == 0);
		assert_int_equal(error, EFAULT);
		ku_get_regs(&e->g.cpu, &r);
		assert_int_equal(r.rip, GU_CODE);
		if (!t->vector) {
			assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
			assert_int_equal(e->g.cpu.run->io.port, 0xe1);
			continue;
		}
		assert_true(gu_trap(&e->g, &trap));
		assert_int_equal(trap.vector, t->vector);
		assert_int_equal(trap.rip, GU_CODE + (t->vector == 3));
		assert_int_equal(trap.cs & 3, t->cpl);
	}
}

/* An instruction whose end is on a page that is gone. */
static void code_straddles(void **state)
{
	static const uint8_t mov[] = {0xb8, 0x78, 0x56, 0x34, 0x12, 0xe6, 0xe1}; /* mov $0x12345678, %eax */
	struct env *e = *state;
	struct kvm_regs r;

	ONLY_HERE();
	for (unsigned cut = 1; cut < 5; cut++) {
		uint64_t at = GU_WINDOW + PAGE - cut;

		memcpy(e->too + PAGE - cut, mov, sizeof(mov));
		gu_sregs(&e->g);
		ku_reset_regs(&e->g.cpu, at, GU_STACK0);
		lose(e, NONE, 1);
		assert_int_equal(ku_errno(e->g.cpu.fd, KVM_RUN, 0), EFAULT);
		ku_get_regs(&e->g.cpu, &r);
		assert_int_equal(r.rip, at);
		repair(e, NONE, 1, NULL);
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
		ku_get_regs(&e->g.cpu, &r);
		assert_int_equal(r.rax, 0x12345678);
	}
}

/* REP stops at the first byte it cannot have; what came before is done. */
KU_ASM(copy, 64, "rep movsb\n out %al, $0xe1");

static void string_progress(void **state)
{
	struct env *e = *state;
	struct kvm_regs r;

	ONLY_HERE();
	for (unsigned down = 0; down < 2; down++) {
		for (unsigned i = 0; i < 2 * PAGE; i++)
			e->g.vm.ram[GU_DATA + i] = (uint8_t)(i * 13 + i / 256);
		memset(e->too, 0, PAGES * PAGE);
		GU_ASM(&e->g, copy);
		ku_get_regs(&e->g.cpu, &r);
		r.rcx = 0x1000;
		r.rsi = down ? GU_DATA + 0xfff : GU_DATA;
		r.rdi = down ? GU_WINDOW + 0x17ff : GU_WINDOW + 0x800;
		r.rflags |= down ? 0x400 : 0;
		ku_set_regs(&e->g.cpu, &r);
		lose(e, RDONLY, !down);
		assert_int_equal(ku_errno(e->g.cpu.fd, KVM_RUN, 0), EFAULT);
		ku_get_regs(&e->g.cpu, &r);
		assert_int_equal(r.rip, GU_CODE);
		assert_int_equal(r.rcx, 0x800);
		assert_int_equal(r.rdi, down ? GU_WINDOW + 0xfff : GU_WINDOW + 0x1000);
		assert_int_equal(r.rsi, down ? GU_DATA + 0x7ff : GU_DATA + 0x800);
		repair(e, RDONLY, !down, NULL);
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
		assert_memory_equal(e->too + 0x800, e->g.vm.ram + GU_DATA, 0x1000);
		assert_int_equal(e->too[0x7ff] | e->too[0x1800], 0);
	}
}

/* -- Devices in the same instruction -- */

KU_ASM(device_to_ram, 64, "movsl\n out %al, $0xe1");
KU_ASM(port_to_ram, 64, "mov $0xe4, %dx\n rep insb\n out %al, $0xe1");

/* What a device has said is kept until memory is there to take it: it is asked once. */
static void device_asked_once(void **state)
{
	struct env *e = *state;
	struct ku_vcpu *cpu = e ? &e->g.cpu : NULL;
	struct kvm_regs r;

	ONLY_HERE();
	gu_window(&e->g, 8, 0xd0000000);
	memset(e->too, 0, PAGES * PAGE);
	GU_ASM(&e->g, device_to_ram);
	ku_get_regs(cpu, &r);
	r.rsi = GU_WINDOW + 8 * PAGE;
	r.rdi = GU_WINDOW + 0x10;
	ku_set_regs(cpu, &r);
	lose(e, NONE, 0);
	assert_int_equal(ku_run(cpu), KVM_EXIT_MMIO);
	memcpy(cpu->run->mmio.data, &(uint32_t){0x12345678}, 4);
	assert_int_equal(ku_errno(cpu->fd, KVM_RUN, 0), EFAULT);
	ku_get_regs(cpu, &r);
	assert_int_equal(r.rip, GU_CODE);
	assert_int_equal(r.rdi, GU_WINDOW + 0x10);
	assert_int_equal(ku_errno(cpu->fd, KVM_RUN, 0), EFAULT);
	repair(e, NONE, 0, NULL);
	assert_int_equal(ku_run(cpu), KVM_EXIT_IO);
	assert_int_equal(cpu->run->io.port, 0xe1);
	assert_int_equal(*(uint32_t *)(e->too + 0x10), 0x12345678);
}

static void port_asked_once(void **state)
{
	struct env *e = *state;
	struct ku_vcpu *cpu = e ? &e->g.cpu : NULL;
	struct kvm_regs r;
	uint8_t next = 1;
	bool lost = true;
	int error;

	ONLY_HERE();
	memset(e->too, 0, PAGES * PAGE);
	GU_ASM(&e->g, port_to_ram);
	ku_get_regs(cpu, &r);
	r.rdi = GU_WINDOW + PAGE - 3;
	r.rcx = 6;
	ku_set_regs(cpu, &r);
	lose(e, NONE, 1);
	for (;;) {
		error = ku_errno(cpu->fd, KVM_RUN, 0);
		if (error) {
			assert_int_equal(error, EFAULT);
			assert_true(lost);
			lost = false;
			repair(e, NONE, 1, NULL);
			continue;
		}
		assert_int_equal(cpu->run->exit_reason, KVM_EXIT_IO);
		if (cpu->run->io.port == 0xe1)
			break;
		for (unsigned i = 0; i < cpu->run->io.count; i++)
			((uint8_t *)ku_io_data(cpu))[i] = next++;
	}
	assert_false(lost);
	assert_int_equal(next, 7);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(e->too[PAGE - 3 + i], i + 1);
}

/* -- While the guest runs -- */

KU_ASM(count, 64, "1: lock incl (%rbx)\n inc %ecx\n jmp 1b");

static volatile uint32_t *counter(struct env *e)
{
	return (volatile uint32_t *)(e->too + 0x800);
}

static void start_counting(struct env *e)
{
	struct kvm_regs r;

	GU_ASM(&e->g, count);
	ku_get_regs(&e->g.cpu, &r);
	r.rbx = GU_WINDOW + 0x800;
	ku_set_regs(&e->g.cpu, &r);
	*counter(e) = 0;
}

/* Each increment was made once, whenever the page went. */
static void under_a_running_guest(void **state)
{
	struct env *e = *state;
	struct ru run = {.cpu = &e->g.cpu};
	struct kvm_regs r;

	ONLY_HERE();
	start_counting(e);
	for (unsigned round = 0; round < 120; round++) {
		enum loss how = round % LOSSES;
		uint32_t seen = *counter(e);
		uint8_t bytes[PAGES * PAGE];

		if (how == TRUNCATE)
			continue; /* it takes the counter, too: below */
		ru_start(&run);
		RU_UNTIL(*counter(e) > seen + round);
		lose(e, how, 0);
		assert_int_equal(ru_join(&run), EFAULT);
		ku_get_regs(&e->g.cpu, &r);
		assert_int_equal(r.rip, GU_CODE);
		assert_int_equal((uint32_t)r.rcx, *counter(e));
		repair(e, how, 0, bytes);
	}
}

/* A file that is cut off under the guest: SIGBUS on the host, the same to the VMM. */
static void cut_off(void **state)
{
	struct env *e = *state;
	struct ru run = {.cpu = &e->g.cpu};
	static uint8_t zeros[PAGES * PAGE];
	struct kvm_regs r;

	ONLY_HERE();
	for (unsigned round = 0; round < 20; round++) {
		start_counting(e);
		ru_start(&run);
		RU_UNTIL(*counter(e) > round);
		lose(e, TRUNCATE, 0);
		assert_int_equal(ru_join(&run), EFAULT);
		ku_get_regs(&e->g.cpu, &r);
		assert_int_equal(r.rip, GU_CODE);
		repair(e, TRUNCATE, 0, zeros);
	}
}

/* Other memory in its place: the guest goes on there, and no increment is lost between the two. */
static void replaced(void **state)
{
	struct env *e = *state;
	struct ru run = {.cpu = &e->g.cpu};
	struct kvm_regs r;

	ONLY_HERE();
	start_counting(e);
	for (unsigned round = 0; round < 20; round++) {
		uint32_t seen = *counter(e), other;
		volatile uint32_t *p = (volatile uint32_t *)(e->ram + 0x800);

		ru_start(&run);
		RU_UNTIL(*counter(e) > seen + 1000);
		KU_CHECK(mmap(e->ram, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			      -1, 0) == e->ram);
		RU_UNTIL(*p > 1000);
		assert_int_equal(ru_stop(&run), EINTR);
		other = *p;
		ku_get_regs(&e->g.cpu, &r);
		assert_in_range(r.rip, GU_CODE, GU_CODE + 5);
		assert_int_equal((uint32_t)r.rcx + (r.rip == GU_CODE + 3), *counter(e) + other);
		*counter(e) += other;
		repair(e, REPLACE, 0, NULL);
	}
}

/* Emptied by the VMM (as a balloon does): zeros, no failure. */
static void emptied(void **state)
{
	struct env *e = *state;
	struct ru run = {.cpu = &e->g.cpu};
	uint8_t *m = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	volatile uint32_t *p = (volatile uint32_t *)(m + 0x800);
	struct kvm_regs r;

	ONLY_HERE();
	assert_int_equal(ku_set_slot(&e->g.vm, 2, 0, 0x20000000, m, PAGE), 0);
	gu_window(&e->g, 8, 0x20000000);
	start_counting(e);
	ku_get_regs(&e->g.cpu, &r);
	r.rbx = GU_WINDOW + 8 * PAGE + 0x800;
	ku_set_regs(&e->g.cpu, &r);
	ru_start(&run);
	for (unsigned round = 0; round < 20; round++) {
		RU_UNTIL(*p > 100);
		KU_CHECK(madvise(m, PAGE, MADV_DONTNEED) == 0);
	}
	RU_UNTIL(*p > 100);
	assert_int_equal(ru_stop(&run), EINTR);
	ku_get_regs(&e->g.cpu, &r);
	assert_true((uint32_t)r.rcx >= *p + 2000);
	assert_int_equal(ku_set_slot(&e->g.vm, 2, 0, 0x20000000, m, 0), 0);
	munmap(m, PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_access),
	    cmocka_unit_test(tables_and_code),
	    cmocka_unit_test(code_straddles),
	    cmocka_unit_test(string_progress),
	    cmocka_unit_test(device_asked_once),
	    cmocka_unit_test(port_asked_once),
	    cmocka_unit_test(under_a_running_guest),
	    cmocka_unit_test(cut_off),
	    cmocka_unit_test(replaced),
	    cmocka_unit_test(emptied),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
