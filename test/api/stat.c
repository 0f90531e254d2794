/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * USERKVM_STATS: one line per vCPU when it ends or the process does.
 *	make check T=api/stat
 * WORKS: Counters | USERKVM_STATS and `userkvm stat`: instructions, translations, what was left to the interpreter, exits
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/wait.h>

#include "kvm_util.h"

static char file[] = "/tmp/userkvm-stat.XXXXXX";

/* mov cx, 50; 1: loop 1b; out 0x80, al; out 0x80, al; hlt */
static const uint8_t code[] = {0xb9, 50, 0, 0xe2, 0xfe, 0xe6, 0x80, 0xe6, 0x80, 0xf4};
#define INSNS (1 + 50 + 3)

static void run_some(struct ku_vm *vm, struct ku_vcpu *cpu, unsigned id)
{
	ku_vm_create(vm, 1 << 20);
	ku_vcpu_create(vm, id, cpu);
	ku_load(vm, 0x1000, code, sizeof(code));
	ku_real_mode(cpu, 0x1000);
	for (unsigned k = 0; k < 3; k++)
		KU_CHECK(ioctl(cpu->fd, KVM_RUN, 0) == 0);
	KU_CHECK(cpu->run->exit_reason == KVM_EXIT_HLT);
}

/* Empties the file and says what stood in it. */
static const char *take(void)
{
	static char text[16384];
	FILE *f = fopen(file, "r+");
	size_t n;

	KU_CHECK(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	KU_CHECK(ftruncate(fileno(f), 0) == 0);
	fclose(f);
	return text;
}

static uint64_t value(const char *text, const char *name)
{
	char key[64];
	const char *p;

	snprintf(key, sizeof(key), " %s ", name);
	p = strstr(text, key);
	KU_CHECK(p);
	return strtoul(p + strlen(key), NULL, 10);
}

static void check_line(const char *text, int pid, unsigned id)
{
	char head[64];

	snprintf(head, sizeof(head), "userkvm[%d]: vcpu %u: ", pid, id);
	assert_memory_equal(text, head, strlen(head));
	assert_ptr_equal(strchr(text, '\n') + 1, text + strlen(text));
	assert_int_equal(value(text, "instructions"), INSNS);
	assert_true(value(text, "interpreted") <= INSNS);
	assert_int_equal(value(text, "exits"), 3);
	assert_int_equal(value(text, "io_exits"), 2);
	assert_int_equal(value(text, "halt_exits"), 1);
}

/* Seen to fail without report_vcpu in vcpu_handle_destroy. */
static void at_the_vcpu_s_end(void **state)
{
	struct ku_vcpu cpu;
	struct ku_vm vm;

	run_some(&vm, &cpu, 3);
	assert_string_equal(take(), "");
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	check_line(take(), getpid(), 3);
	setenv("USERKVM_STATS", "0", 1);
	run_some(&vm, &cpu, 3);
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	setenv("USERKVM_STATS", file, 1);
	assert_string_equal(take(), "");
}

/* The VM is still open. Seen to fail without shim_end. */
static void at_the_process_s_end(void **state)
{
	pid_t pid = fork();
	int status;

	KU_CHECK(pid >= 0);
	if (!pid) {
		struct ku_vcpu cpu;
		struct ku_vm vm;

		run_some(&vm, &cpu, 0);
		exit(0);
	}
	KU_CHECK(waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	check_line(take(), pid, 0);
}

/* A child that has none of its own says nothing of its parent's. */
static void not_a_child_s(void **state)
{
	struct ku_vcpu cpu;
	struct ku_vm vm;
	pid_t pid;

	run_some(&vm, &cpu, 0);
	pid = fork();
	KU_CHECK(pid >= 0);
	if (!pid)
		exit(0);
	KU_CHECK(waitpid(pid, NULL, 0) == pid);
	assert_string_equal(take(), "");
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	check_line(take(), getpid(), 0);
}

static void no_file(void)
{
	unlink(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(at_the_vcpu_s_end),
	    cmocka_unit_test(at_the_process_s_end),
	    cmocka_unit_test(not_a_child_s),
	};
	int fd = mkstemp(file), r;

	if (ku_oracle()) {
		puts("the library's own; nothing to ask the machine's KVM");
		return 0;
	}
	KU_CHECK(fd >= 0 && close(fd) == 0);
	setenv("USERKVM_STATS", file, 1);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	no_file();
	return r;
}
