/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* userkvm doctor: what of the host is usable, and what a VMM would get. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "cli/cli.h"
#include "userkvm.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static int failures;

/* One line: what, its state, a remark. `needed` counts as a failure when it is missing. */
static void line(const char *what, bool ok, bool needed, const char *remark)
{
	printf("  %-28s %-4s %s\n", what, ok ? "ok" : needed ? "FAIL" : "no", remark);
	failures += needed && !ok;
}

static long read_number(const char *path)
{
	FILE *f = fopen(path, "r");
	long n = -1;

	if (f) {
		if (fscanf(f, "%ld", &n) != 1)
			n = -1;
		fclose(f);
	}
	return n;
}

/* -- The host -- */

static void cpu(void)
{
	static const struct {
		const char *name;
		int leaf, reg, bit; /* reg: 0 eax .. 3 edx */
	} features[] = {{"sse4.2", 1, 2, 20},	{"popcnt", 1, 2, 23}, {"aes", 1, 2, 25},
			{"xsave", 1, 2, 26},	{"avx", 1, 2, 28},    {"fma", 1, 2, 12},
			{"bmi1", 7, 1, 3},	{"avx2", 7, 1, 5},    {"bmi2", 7, 1, 8},
			{"adx", 7, 1, 19},	{"sha", 7, 1, 29},    {"avx512f", 7, 1, 16},
			{"avx512bw", 7, 1, 30}, {"vaes", 7, 2, 9},    {"avx512fp16", 7, 3, 23}};
	unsigned r[4] = {0}, brand[13] = {0};
	char list[256] = "";

	for (unsigned i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2],
			    &brand[4 * i + 3]);
	printf("  %-28s %s\n", "CPU", brand[0] ? (char *)brand : "unknown");
	for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		if (!__get_cpuid_count(features[i].leaf, 0, &r[0], &r[1], &r[2], &r[3]))
			continue;
		if (r[features[i].reg] >> features[i].bit & 1) {
			strcat(list, " ");
			strcat(list, features[i].name);
		}
	}
	printf("  %-28s%s\n", "instruction sets", list);
}

static void kernel(void)
{
	struct stat st;
	char text[128];
	long fd, r;

	r = sys_call(SYS_newfstatat, AT_FDCWD, "/dev/kvm", &st, 0);
	printf("  %-28s %s\n", "the machine's /dev/kvm", r ? "absent" : "present (not used, not opened)");
	r = sys_call(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
	line("membarrier", r > 0 && r & MEMBARRIER_CMD_PRIVATE_EXPEDITED, true,
	     "revocation of vCPU pointers");
	fd = sys_call(SYS_memfd_create, "doctor", MFD_CLOEXEC);
	line("memfd", fd >= 0, true, "VM and vCPU files");
	sys_call(SYS_close, fd);
	fd = sys_call(SYS_inotify_init1, IN_CLOEXEC);
	snprintf(text, sizeof(text), "last closes; %ld instances and %ld watches per user",
		 read_number("/proc/sys/fs/inotify/max_user_instances"),
		 read_number("/proc/sys/fs/inotify/max_user_watches"));
	line("inotify", fd >= 0, true, text);
	sys_call(SYS_close, fd);
	line("/proc", !access("/proc/self/fd", X_OK), true, "second opens of our own files");
	fd = sys_call(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	line("userfaultfd", fd >= 0, false, fd >= 0 ? "" : strerror((int)-fd));
	sys_call(SYS_close, fd);
}

static void limits(void)
{
	struct rlimit files = {0};

	getrlimit(RLIMIT_NOFILE, &files);
	printf("  %-28s %ld\n", "CPUs", sysconf(_SC_NPROCESSORS_ONLN));
	printf("  %-28s %lu (a VM and a vCPU take one each)\n", "open files", (unsigned long)files.rlim_cur);
	printf("  %-28s %ld\n", "vm.max_map_count", read_number("/proc/sys/vm/max_map_count"));
}

/* -- What a VMM gets -- */

static int count_caps(int vm)
{
	int n = 0;

	for (int cap = 0; cap < 256; cap++)
		n += userkvm_ioctl(vm, KVM_CHECK_EXTENSION, (void *)(long)cap) > 0;
	return n;
}

static int count_cpuid(int kvm)
{
	unsigned room = 256;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + room * sizeof(c->entries[0]));
	int n = -1;

	if (!c)
		return -1;
	c->nent = room;
	if (!userkvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c))
		n = (int)c->nent;
	free(c);
	return n;
}

static int count_msrs(int kvm)
{
	struct kvm_msr_list list = {.nmsrs = 0};

	/* Too small on purpose: the count is told all the same. */
	userkvm_ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &list);
	return (int)list.nmsrs;
}

static void vmm(void)
{
	int kvm = userkvm_open(O_RDWR | O_CLOEXEC), vm = -1, vcpu = -1;
	char text[160];

	line("open(\"/dev/kvm\")", kvm >= 0, true, kvm >= 0 ? "" : strerror(errno));
	if (kvm < 0)
		return;
	snprintf(text, sizeof(text), "version %d", userkvm_ioctl(kvm, KVM_GET_API_VERSION, NULL));
	line("KVM_GET_API_VERSION", true, true, text);
	vm = userkvm_ioctl(kvm, KVM_CREATE_VM, NULL);
	line("KVM_CREATE_VM", vm >= 0, true, vm >= 0 ? "" : strerror(errno));
	if (vm >= 0) {
		vcpu = userkvm_ioctl(vm, KVM_CREATE_VCPU, NULL);
		line("KVM_CREATE_VCPU", vcpu >= 0, true, vcpu >= 0 ? "" : strerror(errno));
		printf("  %-28s %d\n", "capabilities", count_caps(vm));
		printf("  %-28s %d\n", "vCPUs at most",
		       userkvm_ioctl(vm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MAX_VCPUS));
		printf("  %-28s %d\n", "memory slots",
		       userkvm_ioctl(vm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NR_MEMSLOTS));
	}
	printf("  %-28s %d\n", "CPUID entries", count_cpuid(kvm));
	printf("  %-28s %d\n", "MSRs saved and restored", count_msrs(kvm));
	if (vcpu >= 0)
		close(vcpu);
	if (vm >= 0)
		close(vm);
	close(kvm);
}

int cmd_doctor(int argc, char **argv)
{
	if (argc > 1)
		return cli_fail(EXIT_USAGE, "doctor takes no argument: '%s'", argv[1]);
	printf("userkvm %s\n\nHost\n", userkvm_version());
	cpu();
	kernel();
	limits();
	printf("\nWhat a VMM gets\n");
	vmm();
	printf("\n%s\n", failures ? "userkvm cannot work here: see FAIL above." : "userkvm works here.");
	return failures ? 1 : 0;
}
