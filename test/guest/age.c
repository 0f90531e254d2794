/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * userkvm_age: which pages a running guest used. The function is looked up, so this speaks only the ABI elsewhere and
 * is skipped there.	make check T=guest/age
 * WORKS: working set (userkvm_age) | accessed and perhaps-written bits per guest page, cleared as they are read
 */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/wait.h>

#include "guest_util.h"
#include "run_util.h"

#define A     0x10000000ULL
#define PAGE  4096UL
#define PAGES 64UL
#define SIZE  (PAGES * PAGE)

static int (*age)(int vm_fd, uint64_t gpa, uint64_t len, unsigned char *young);

struct env {
	struct gu g;
	uint8_t *mem;
	struct ru run;
};

static int setup(void **state)
{
	static struct env e;

	*(void **)&age = dlsym(RTLD_DEFAULT, "userkvm_age");
	gu_start(&e.g, GU_LONG);
	e.mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	KU_CHECK(e.mem != MAP_FAILED);
	for (unsigned i = 0; i < PAGES; i++)
		gu_window(&e.g, i, A + i * PAGE);
	KU_CHECK(ku_set_slot(&e.g.vm, 1, 0, A, e.mem, SIZE) == 0);
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

static struct env *begin(void **state)
{
	if (!age)
		skip(); /* only userkvm has it */
	return *state;
}

static void start(struct env *e, const uint8_t *code, const uint8_t *end)
{
	struct kvm_regs r;

	gu_code(&e->g, code, (size_t)(end - code), 0);
	ku_get_regs(&e->g.cpu, &r);
	r.rbx = GU_WINDOW;
	ku_set_regs(&e->g.cpu, &r);
}

static int age_errno(int fd, uint64_t gpa, uint64_t len, unsigned char *young)
{
	return age(fd, gpa, len, young) ? errno : 0;
}

/* Seen to fail with the test of gpa | len removed from api_age. */
static void impossible_requests_are_refused(void **state)
{
	struct env *e = begin(state);
	int vm = e->g.vm.fd, status;
	unsigned char y[PAGES];

	assert_int_equal(age_errno(-1, A, PAGE, y), EBADF);
	assert_int_equal(age_errno(0, A, PAGE, y), EBADF);
	assert_int_equal(age_errno(e->g.cpu.fd, A, PAGE, y), EBADF);
	assert_int_equal(age_errno(vm, A + 1, PAGE, y), EINVAL);
	assert_int_equal(age_errno(vm, A, 100, y), EINVAL);
	assert_int_equal(age_errno(vm, -PAGE, 2 * PAGE, y), EINVAL);
	assert_int_equal(age_errno(vm, A, SIZE, (unsigned char *)8), EFAULT);
	assert_int_equal(age_errno(vm, A, 0, NULL), 0);
	if (!fork())
		_exit(age_errno(vm, A, PAGE, y) == EIO ? 0 : 1);
	assert_true(wait(&status) > 0);
	assert_int_equal(status, 0);
}

KU_ASM(some, 64,
       "mov 0x3000(%rbx), %rax\n movb %al, 0x5000(%rbx)\n lock incl 0x6ffe(%rbx)\n"
       "lea 0xa800(%rbx), %rdi\n mov $0x1000, %ecx\n rep stosb\n out %al, $0xe1\n jmp some");

/* Seen to fail without SPTE_ACCESSED in slot_grant. */
static void exactly_what_was_used_is_young(void **state)
{
	static const unsigned used[] = {3, 5, 6, 7, 10, 11};
	struct env *e = begin(state);
	unsigned char y[PAGES];

	assert_int_equal(age(e->g.vm.fd, A, SIZE, y), 0);
	for (unsigned round = 0; round < 4; round++) {
		unsigned n = 0;

		start(e, some, some_end);
		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
		assert_int_equal(age(e->g.vm.fd, A, SIZE, y), 0);
		for (unsigned i = 0; i < sizeof(used) / sizeof(used[0]); i++) {
			assert_true(y[used[i]] & 1);
			assert_true(used[i] == 3 || y[used[i]] & 2);
		}
		for (unsigned i = 0; i < PAGES; i++)
			n += y[i] & 1;
		assert_int_equal(n, sizeof(used) / sizeof(used[0]));
		assert_int_equal(age(e->g.vm.fd, A, SIZE, y), 0);
		for (unsigned i = 0; i < PAGES; i++)
			assert_int_equal(y[i], 0);
	}
}

KU_ASM(walk_pages, 64, "1: lock incl (%rbx)\n lock incl 0x2000(%rbx)\n jmp 1b");

/* A vCPU that never stops: what it uses is young at every call, for each one takes its pointers.
 * Seen to fail without the revocation in mem_age. */
static void a_running_vcpu_keeps_its_pages_young(void **state)
{
	struct env *e = begin(state);
	volatile uint32_t *p = (volatile uint32_t *)e->mem;
	unsigned char y[PAGES];

	start(e, walk_pages, walk_pages_end);
	e->run.on_exit = NULL;
	ru_start(&e->run);
	RU_UNTIL(p[0x800]);
	assert_int_equal(age(e->g.vm.fd, A, SIZE, y), 0);
	for (unsigned round = 0; round < 20; round++) {
		uint32_t v = *p;

		RU_UNTIL(*p > v + 10);
		assert_int_equal(age(e->g.vm.fd, A, SIZE, y), 0);
		assert_int_equal(y[0], 3);
		assert_int_equal(y[2], 3);
		for (unsigned i = 3; i < PAGES; i++)
			assert_int_equal(y[i], 0);
	}
	assert_int_equal(ru_stop(&e->run), EINTR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(impossible_requests_are_refused),
	    cmocka_unit_test(exactly_what_was_used_is_young),
	    cmocka_unit_test(a_running_vcpu_keeps_its_pages_young),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
