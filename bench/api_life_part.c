/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* VMs come and go: one at a time, the first of a process, a thousand at once. */
#include <sys/resource.h>
#include <sys/wait.h>

#include "bench.h"

#define RAM (1UL << 20)

static struct ku_vm vm;
static struct ku_vcpu cpu;
static struct kvm_cpuid2 *cpuid; /* as a VMM: asked for once */

void lend_ram(struct world *w)
{
	unsigned n = 256;

	w->mem = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	KU_CHECK(w->mem != MAP_FAILED);
	cpuid = calloc(1, sizeof(*cpuid) + n * sizeof(cpuid->entries[0]));
	KU_CHECK(cpuid);
	cpuid->nent = n;
	vm.sys = w->vm.sys;
	vm.vcpu_size = w->vm.vcpu_size;
	KU_CHECK(ioctl(vm.sys, KVM_GET_SUPPORTED_CPUID, cpuid) == 0);
}

void take_ram(struct world *w)
{
	free(cpuid);
	munmap(w->mem, RAM);
}

static void make_vm(void)
{
	vm.fd = ioctl(vm.sys, KVM_CREATE_VM, 0);
	KU_CHECK(vm.fd >= 0);
}

static void make_vcpu(void)
{
	cpu.fd = ioctl(vm.fd, KVM_CREATE_VCPU, 0);
	cpu.size = vm.vcpu_size;
	KU_CHECK(cpu.fd >= 0);
	cpu.run = mmap(NULL, cpu.size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu.fd, 0);
	KU_CHECK(cpu.run != MAP_FAILED);
}

void make_bare(struct world *w)
{
	(void)w;
	make_vm();
	make_vcpu();
}

void unmake_bare(struct world *w)
{
	(void)w;
	ku_vcpu_destroy(&cpu);
	KU_CHECK(close(vm.fd) == 0);
}

/* What a VMM does until it may call KVM_RUN. */
void make_full(struct world *w)
{
	struct kvm_pit_config pit = {0};

	make_vm();
	KU_CHECK(ioctl(vm.fd, KVM_SET_TSS_ADDR, 0xfffbd000UL) == 0);
	KU_CHECK(ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0) == 0);
	KU_CHECK(ioctl(vm.fd, KVM_CREATE_PIT2, &pit) == 0);
	KU_CHECK(ku_set_slot(&vm, 0, 0, 0, w->mem, RAM) == 0);
	make_vcpu();
	KU_CHECK(ioctl(cpu.fd, KVM_SET_CPUID2, cpuid) == 0);
	ku_real_mode(&cpu, 0x1000);
}

void unmake_full(struct world *w)
{
	unmake_bare(w);
}

/* -- The first VM of a process -- */

static uint64_t timed_make(struct world *w)
{
	uint64_t t = b_now();

	make_full(w);
	return b_now() - t;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* In a fresh process: the first VM's time, and the median of the next 40; all stay, so that each needs memory of its
 * own. */
int b_first_vm_child(void)
{
	struct world w = {.vm.sys = ku_open()};
	unsigned n = ku_oracle() ? 10 : 40;
	uint64_t first, later[40];

	w.vm.vcpu_size = ioctl(w.vm.sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	lend_ram(&w);
	first = timed_make(&w);
	for (unsigned i = 0; i < n; i++)
		later[i] = timed_make(&w);
	qsort(later, n, sizeof(later[0]), compare);
	printf("%lu %lu\n", (unsigned long)first, (unsigned long)later[n / 2]);
	return 0;
}

static void first_vm_once(unsigned long *first, unsigned long *later)
{
	FILE *f = popen("exec /proc/$PPID/exe --first-vm", "r");

	KU_CHECK(f && fscanf(f, "%lu %lu", first, later) == 2);
	KU_CHECK(pclose(f) == 0);
}

void b_first_vm(char **words)
{
	uint64_t first[9], later[9];

	if (!b_wanted("first VM of a process", words))
		return;
	for (unsigned i = 0; i < 9; i++)
		first_vm_once(&first[i], &later[i]);
	qsort(first, 9, sizeof(first[0]), compare);
	qsort(later, 9, sizeof(later[0]), compare);
	b_print("first VM of a process", IDLE, (double)first[4], 0, "ns", 2.0 * (double)later[4], 0);
	b_print("later VM of a process", IDLE, (double)later[4], 0, "ns", 0, 0);
}

/* -- A thousand VMs -- */

#define MANY 1000

struct usage {
	long pss, mapped, mappings, fds; /* KiB, KiB, number, number */
};

static long field(const char *file, const char *format)
{
	FILE *f = fopen(file, "r");
	char line[512];
	long val = -1;

	KU_CHECK(f);
	while (val < 0 && fgets(line, sizeof(line), f))
		sscanf(line, format, &val);
	fclose(f);
	return val;
}

static long lines(const char *file)
{
	FILE *f = fopen(file, "r");
	long n = 0;
	int c;

	KU_CHECK(f);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static struct usage usage(void)
{
	return (struct usage){.pss = field("/proc/self/smaps_rollup", "Pss: %ld"),
			      .mapped = field("/proc/self/statm", "%ld") * 4,
			      .mappings = lines("/proc/self/maps")};
}

static void print_usage(const char *when, const struct usage *a, const struct usage *b, double bar)
{
	char name[64];

	snprintf(name, sizeof(name), "1,000 VMs%s: memory of each", when);
	b_print(name, IDLE, (double)(b->pss - a->pss) / MANY, 0, "KiB", bar, 0);
	snprintf(name, sizeof(name), "1,000 VMs%s: address space of each", when);
	b_print(name, IDLE, (double)(b->mapped - a->mapped) / MANY, 0, "KiB", 0, 0);
	snprintf(name, sizeof(name), "1,000 VMs%s: mappings of each", when);
	b_print(name, IDLE, (double)(b->mappings - a->mappings) / MANY, 0, "", 0, 0);
}

static void raise_files(void)
{
	struct rlimit r;

	KU_CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0);
	r.rlim_cur = r.rlim_max;
	KU_CHECK(setrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_max > 2 * MANY + 100);
}

static struct ku_vm vms[MANY];
static struct ku_vcpu cpus[MANY];

/* Makes, runs to the first exit and destroys a thousand VMs; the memory they took when made and when run. */
static void thousand(struct world *w, uint64_t *make, uint64_t *unmake, struct usage u[3])
{
	u[0] = usage();
	for (unsigned i = 0; i < MANY; i++) {
		make[i] = timed_make(w);
		vms[i] = vm;
		cpus[i] = cpu;
	}
	u[1] = usage();
	for (unsigned i = 0; i < MANY; i++)
		KU_CHECK(ku_run(&cpus[i]) == KVM_EXIT_IO);
	u[2] = usage();
	for (unsigned i = 0; i < MANY; i++) {
		uint64_t t = b_now();

		vm = vms[i];
		cpu = cpus[i];
		unmake_full(w);
		unmake[i] = b_now() - t;
	}
	qsort(make, MANY, sizeof(make[0]), compare);
	qsort(unmake, MANY, sizeof(unmake[0]), compare);
}

void b_thousand_vms(char **words)
{
	static const uint8_t code[] = {0xe6, 0x80}; /* out 0x80, al */
	static uint64_t make[MANY], unmake[MANY];
	uint64_t best[4] = {-1ULL, -1ULL, -1ULL, -1ULL}; /* medians and p99s */
	struct usage u[3];
	struct world w;

	if (ku_oracle() || !b_wanted("1,000 VMs", words))
		return;
	raise_files();
	w = (struct world){.vm.sys = ku_open()};
	w.vm.vcpu_size = ioctl(w.vm.sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	lend_ram(&w);
	memset(w.mem, 0, RAM);
	memcpy((uint8_t *)w.mem + 0x1000, code, sizeof(code));
	for (unsigned run = 0; run < 3; run++) {
		struct usage now[3];

		thousand(&w, make, unmake, now);
		if (!run) /* later runs find memory that the first one left to malloc */
			memcpy(u, now, sizeof(u));
		best[0] = make[MANY / 2] < best[0] ? make[MANY / 2] : best[0];
		best[1] = make[MANY * 99 / 100] < best[1] ? make[MANY * 99 / 100] : best[1];
		best[2] = unmake[MANY / 2] < best[2] ? unmake[MANY / 2] : best[2];
		best[3] = unmake[MANY * 99 / 100] < best[3] ? unmake[MANY * 99 / 100] : best[3];
	}
	b_print("1,000 VMs: time of each", IDLE, (double)best[0], (double)best[1], "ns", 50000, 0);
	b_print("1,000 VMs: destruction of each", IDLE, (double)best[2], (double)best[3], "ns", 100000, 0);
	print_usage("", &u[0], &u[1], 256);
	print_usage(" that ran", &u[0], &u[2], 256);
	take_ram(&w);
	close(w.vm.sys);
}

/* -- Memory after a million registrations -- */

#define REGISTRATIONS 1000000

void b_registrations(char **words)
{
	struct world w;
	long before;
	uint64_t t;

	if (ku_oracle() || !b_wanted("1,000,000 registrations", words))
		return;
	w_create(&w, 1);
	open_event(&w);
	for (unsigned i = 0; i < 1000; i++) {
		add_bell(&w);
		del_bell(&w);
	}
	before = field("/proc/self/smaps_rollup", "Pss: %ld");
	t = b_now();
	for (unsigned i = 0; i < REGISTRATIONS; i++) {
		add_bell(&w);
		del_bell(&w);
	}
	b_print("1,000,000 registrations: time of each pair", ONE, (double)(b_now() - t) / REGISTRATIONS, 0,
		"ns", 0, 0);
	b_print("1,000,000 registrations: memory left", ONE,
		(double)(field("/proc/self/smaps_rollup", "Pss: %ld") - before), 0, "KiB", 256, 0);
	close_event(&w);
	w_destroy(&w);
}
