/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory slots under a running guest: a move, a migration by dirty log, tables that are logged, a vCPU that
 * waits for a userfault while other slots come and go. Deletion is in revoke.c.
 *	make check T=guest/slots
 *	USERKVM_ORACLE=1 build/checked/test/guest/slots
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#include "guest_util.h"
#include "run_util.h"

#define A     0x10000000ULL
#define B     0x20000000ULL
#define PAGE  4096UL
#define PAGES 256UL
#define SIZE  (PAGES * PAGE)

struct env {
	struct gu g;
	uint8_t *mem;
	struct ru run;
};

static int setup(void **state)
{
	static struct env e;

	gu_start(&e.g, GU_LONG);
	e.mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	KU_CHECK(e.mem != MAP_FAILED);
	for (unsigned i = 0; i < PAGES; i++) {
		gu_window(&e.g, i, A + i * PAGE);
		gu_window(&e.g, PAGES + i, B + i * PAGE);
	}
	e.run = (struct ru){.cpu = &e.g.cpu};
	*state = &e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	gu_end(&e->g);
	munmap(e->mem, SIZE);
	return 0;
}

static void begin(struct env *e, const uint8_t *code, const uint8_t *end)
{
	struct kvm_regs r;

	gu_code(&e->g, code, (size_t)(end - code), 0);
	ku_get_regs(&e->g.cpu, &r);
	r.rbx = GU_WINDOW;
	r.rbp = GU_WINDOW + SIZE;
	ku_set_regs(&e->g.cpu, &r);
}
#define BEGIN(e, name) begin(e, name, name##_end)

/* -- Moves -- */

KU_ASM(store_both, 64, "1: inc %eax\n movl %eax, (%rbx)\n movl %eax, (%rbp)\n jmp 1b");

static _Atomic unsigned at_a, at_b, elsewhere;

static bool count_exit(struct ru *r)
{
	const struct kvm_run *run = r->cpu->run;

	if (run->exit_reason != KVM_EXIT_MMIO || !run->mmio.is_write)
		atomic_fetch_add(&elsewhere, 1);
	else
		atomic_fetch_add(run->mmio.phys_addr == A   ? &at_a
				 : run->mmio.phys_addr == B ? &at_b
							    : &elsewhere,
				 1);
	return true;
}

/* From the moment the ioctl returns the old place is a device and the new one memory. */
static void moved(void **state)
{
	struct env *e = *state;
	volatile uint32_t *p = (volatile uint32_t *)e->mem;

	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, SIZE), 0);
	e->run.on_exit = count_exit;
	BEGIN(e, store_both);
	ru_start(&e->run);
	for (unsigned round = 0; round < 40; round++) {
		bool to_b = !(round & 1);
		_Atomic unsigned *old = to_b ? &at_a : &at_b, *new = to_b ? &at_b : &at_a;
		unsigned was_old, was_new;
		uint32_t v;

		was_old = atomic_load(old);
		assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, to_b ? B : A, e->mem, SIZE), 0);
		was_new = atomic_load(new);
		v = *p;
		RU_UNTIL(atomic_load(old) > was_old + 3 && *p != v);
		/* One exit may have been on its way. */
		assert_in_range(atomic_load(new), was_new, was_new + 1);
	}
	assert_int_equal(ru_stop(&e->run), EINTR);
	assert_int_equal(atomic_load(&elsewhere), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, 0), 0);
}

/* -- Migration -- */

/* Writes a number to a random place of an even page and reads the odd page behind it, for ever. */
KU_ASM(scribble, 64,
       "1: imul $1664525, %eax, %eax\n"
       "add $1013904223, %eax\n"
       "mov %eax, %edx\n shr $12, %edx\n and $0xfe000, %edx\n"
       "mov %eax, %esi\n shr $4, %esi\n and $0xff8, %esi\n add %rsi, %rdx\n"
       "inc %rcx\n mov %rcx, (%rbx,%rdx)\n"
       "mov 0x1000(%rbx,%rdx), %rdi\n"
       "test $7, %cl\n jnz 1b\n"
       "lock incl (%rbx,%rdx)\n"
       "movups %xmm0, (%rbx)\n"
       "jmp 1b");

struct migration {
	struct env *e;
	uint64_t bits[PAGES / 64], ever[PAGES / 64];
	uint8_t *copy;
	bool manual;
};

/* One round: what is dirty is copied. The number of pages. */
static unsigned copy_dirty(struct migration *m)
{
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = m->bits};
	struct kvm_clear_dirty_log clear = {.slot = 1, .num_pages = PAGES, .dirty_bitmap = m->bits};
	unsigned n = 0;

	memset(m->bits, 0xff, sizeof(m->bits));
	assert_int_equal(ku_errno(m->e->g.vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
	if (m->manual)
		assert_int_equal(ku_errno(m->e->g.vm.fd, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	for (unsigned i = 0; i < PAGES; i++) {
		if (!(m->bits[i / 64] >> (i % 64) & 1))
			continue;
		m->ever[i / 64] |= 1ULL << (i % 64);
		memcpy(m->copy + i * PAGE, m->e->mem + i * PAGE, PAGE);
		n++;
	}
	return n;
}

/* Copies the memory of a running guest; the copy is exact, and no page was called dirty that was not written.
 */
static void migrate(struct env *e, bool manual)
{
	struct migration m = {.e = e, .manual = manual, .copy = malloc(SIZE)};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {manual}};

	assert_int_equal(ku_errno(e->g.vm.fd, KVM_ENABLE_CAP, &cap), 0);
	memset(e->mem, 0, SIZE);
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, SIZE), 0);
	e->run.on_exit = NULL;
	BEGIN(e, scribble);
	for (unsigned again = 0; again < 3; again++) {
		memset(m.ever, 0, sizeof(m.ever));
		ru_start(&e->run);
		usleep(3000);
		assert_int_equal(ku_set_slot(&e->g.vm, 1, KVM_MEM_LOG_DIRTY_PAGES, A, e->mem, SIZE), 0);
		memcpy(m.copy, e->mem, SIZE);
		for (unsigned n = 0; n < 5000;)
			n += copy_dirty(&m);
		assert_int_equal(ru_stop(&e->run), EINTR);
		copy_dirty(&m);
		assert_memory_equal(m.copy, e->mem, SIZE);
		assert_int_equal(copy_dirty(&m), 0);
		for (unsigned i = 0; i < PAGES / 64; i++)
			assert_int_equal(m.ever[i] & 0xaaaaaaaaaaaaaaaa, 0);
		assert_int_not_equal(m.ever[0], 0);
		assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, SIZE), 0);
	}
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, 0), 0);
	free(m.copy);
}

static void migrated(void **state)
{
	migrate(*state, false);
}

static void migrated_with_clear(void **state)
{
	migrate(*state, true);
}

/* -- Exactly which pages -- */

KU_ASM(touch_some, 64,
       "movb %al, 0x3000(%rbx)\n"				  /* page 3 */
       "movq %rax, 0x5ffc(%rbx)\n"				  /* 5 and 6 */
       "lea 0x8800(%rbx), %rdi\n mov $0x1000, %ecx\n rep stosb\n" /* 8 and 9 */
       "movq 0xb000(%rbx), %rax\n"				  /* 11 is read */
       "lock btrl $0, 0xd000(%rbx)\n"				  /* 13 */
       "lea 0xf010(%rbx), %rsp\n push %rax\n"			  /* 15 */
       "movq %xmm0, 0x11000(%rbx)\n"				  /* 17 */
       "mov $1, %eax\n lock cmpxchg %ecx, 0x13000(%rbx)\n" /* 19: compared, not equal: a write all the same */
       "out %al, $0xe1");

static void exact_pages(void **state)
{
	struct env *e = *state;
	uint64_t bits[PAGES / 64];
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};

	if (ku_oracle())
		skip(); /* one that emulates stores knows not all of these */
	memset(e->mem, 0, SIZE);
	assert_int_equal(ku_set_slot(&e->g.vm, 1, KVM_MEM_LOG_DIRTY_PAGES, A, e->mem, SIZE), 0);
	for (unsigned i = 0; i < 3; i++) {
		BEGIN(e, touch_some);
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
		assert_int_equal(bits[0] & ~(1ULL << 19), 0x2a368);
		assert_int_equal(bits[1] | bits[2] | bits[3], 0);
	}
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, 0), 0);
}

/* Accessed and dirty bits, pushed frames and descriptor bits are writes, too. */
KU_ASM(walk, 64, "movb %al, (%rbx)\n int3");

static void tables_are_logged(void **state)
{
	struct env *e = *state;
	uint64_t bits[GU_RAM / PAGE / 64], pt = GU_PT / PAGE, stack = GU_STACK0 / PAGE - 1;
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bits};
	struct gu_trap t;

	if (ku_oracle())
		skip(); /* shadow paging may set the bits when it likes */
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, SIZE), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, e->g.vm.ram, GU_RAM), 0);
	((uint64_t *)(e->g.vm.ram + GU_PT))[0] = A | 7; /* neither accessed nor dirty */
	BEGIN(e, walk);
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
	assert_true(gu_trap(&e->g, &t));
	assert_int_equal(t.vector, 3);
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
	assert_true(bits[pt / 64] >> (pt % 64) & 1);
	assert_true(bits[stack / 64] >> (stack % 64) & 1);
	assert_false(bits[0] >> (GU_DATA / PAGE) & 1);
	assert_int_equal(((uint64_t *)(e->g.vm.ram + GU_PT))[0], A | 0x67);
	assert_int_equal(ku_set_slot(&e->g.vm, 0, 0, 0, e->g.vm.ram, GU_RAM), 0);
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, 0), 0);
}

/* -- Userfaults -- */

KU_ASM(load, 64, "mov 0x1000(%rbx), %rax\n out %al, $0xe1");

static int open_userfault(void *mem)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {(uint64_t)mem, SIZE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return -1;
	KU_CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
	KU_CHECK(ioctl(fd, UFFDIO_REGISTER, &reg) == 0);
	return fd;
}

/* The vCPU waits for its page. Slots come and go meanwhile, its own log is read; nobody waits for it. */
static void userfault(void **state)
{
	static uint8_t page[PAGE] = {0x5a, 0x5b, 0x5c};
	struct env *e = *state;
	uint64_t bits[PAGES / 64], start = ru_ms();
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};
	uint8_t *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_copy copy = {.src = (uint64_t)page, .len = PAGE};
	struct uffd_msg msg;
	struct kvm_regs r;
	int fd;

	if (ku_oracle())
		skip(); /* there the deletion of a slot waits for the page */
	assert_int_equal(madvise(e->mem, SIZE, MADV_DONTNEED), 0);
	fd = open_userfault(e->mem);
	if (fd < 0)
		skip();
	assert_int_equal(ku_set_slot(&e->g.vm, 1, KVM_MEM_LOG_DIRTY_PAGES, A, e->mem, SIZE), 0);
	e->run.on_exit = NULL;
	BEGIN(e, load);
	ru_start(&e->run);
	assert_int_equal(read(fd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
	assert_int_equal(msg.arg.pagefault.address & ~(PAGE - 1), (uint64_t)e->mem + PAGE);
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(ku_set_slot(&e->g.vm, 2, 0, 0x30000000, other, PAGE), 0);
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
		assert_int_equal(ku_set_slot(&e->g.vm, 2, 0, 0x30000000, other, 0), 0);
	}
	assert_true(ru_ms() - start < 10000);
	copy.dst = (uint64_t)e->mem + PAGE;
	assert_int_equal(ioctl(fd, UFFDIO_COPY, &copy), 0);
	assert_int_equal(ru_join(&e->run), 0);
	assert_int_equal(e->g.cpu.run->exit_reason, KVM_EXIT_IO);
	ku_get_regs(&e->g.cpu, &r);
	assert_int_equal(r.rax, 0x5c5b5a);
	assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, 0), 0);
	close(fd);
	munmap(other, PAGE);
}

/* -- The local APIC's page -- */

#define XAPIC_1 0xfee00000ULL
#define XAPIC_2 0xf1000000ULL

static int setup_chips(void **state)
{
	static struct env e;

	gu_start_chips(&e.g, GU_LONG, true);
	e.mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	KU_CHECK(e.mem != MAP_FAILED);
	gu_window(&e.g, 0, XAPIC_1);
	gu_window(&e.g, 1, XAPIC_2);
	for (unsigned i = 2; i < PAGES; i++)
		gu_window(&e.g, i, A + i * PAGE);
	e.run = (struct ru){.cpu = &e.g.cpu};
	*state = &e;
	return 0;
}

/* Moves the xAPIC to and fro and reads its version at each place; writes to memory, too. A wrong version ends it. */
KU_ASM(relocate, 64,
       "mov 0x30(%rbx), %edi\n mov $0x1b, %ecx\n xor %edx, %edx\n"
       "1: mov $0xf1000900, %eax\n wrmsr\n cmp %edi, 0x1030(%rbx)\n jne 2f\n"
       "mov $0xfee00900, %eax\n wrmsr\n cmp %edi, 0x30(%rbx)\n jne 2f\n"
       "lock incl 0x20000\n movb %al, 0x2000(%rbx)\n jmp 1b\n"
       "2: out %al, $0xe1");

static bool mmio_only(struct ru *r)
{
	if (r->cpu->run->exit_reason == KVM_EXIT_MMIO && r->cpu->run->mmio.phys_addr == A + 2 * PAGE)
		return true; /* the slot is away */
	atomic_fetch_add(&elsewhere, 1);
	return false;
}

/* No memslot is behind the APIC's page (systems.md D3): a vCPU moves it while slots come, go and move, and neither
 * waits for the other. Seen to fail with lapic_mmio_match made to know one base only. */
static void xapic_moves_while_slots_change(void **state)
{
	struct env *e = *state;
	volatile uint32_t *loops = (volatile uint32_t *)(e->g.vm.ram + GU_DATA);

	atomic_store(&elsewhere, 0);
	*loops = 0;
	e->run.on_exit = mmio_only;
	BEGIN(e, relocate);
	ru_start(&e->run);
	for (unsigned round = 0; round < (ku_oracle() ? 20 : 200); round++) {
		uint32_t v = *loops;

		assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, A, e->mem, SIZE), 0);
		assert_int_equal(ku_set_slot(&e->g.vm, 1, KVM_MEM_LOG_DIRTY_PAGES, A, e->mem, SIZE), 0);
		if (round % 20 == 0)
			RU_UNTIL(*loops > v + 2);
		assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, B, e->mem, SIZE), 0);
		assert_int_equal(ku_set_slot(&e->g.vm, 1, 0, B, e->mem, 0), 0);
		assert_int_equal(atomic_load(&elsewhere), 0);
	}
	assert_int_equal(ru_stop(&e->run), EINTR);
	assert_int_equal(atomic_load(&elsewhere), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(moved),
	    cmocka_unit_test(migrated),
	    cmocka_unit_test(migrated_with_clear),
	    cmocka_unit_test(exact_pages),
	    cmocka_unit_test(tables_are_logged),
	    cmocka_unit_test(userfault),
	    cmocka_unit_test_setup_teardown(xapic_moves_while_slots_change, setup_chips, teardown),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
