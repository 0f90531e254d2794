/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tiny helpers for programs that speak only the KVM ABI: they run under `userkvm run`, and with
 * USERKVM_ORACLE=1 on the machine's own KVM. A helper whose own step fails says where and exits with 99;
 * the ioctl under test is issued by the test itself.
 *
 *	struct ku_vm vm;
 *	struct ku_vcpu cpu;
 *	ku_vm_create(&vm, 2 << 20);			RAM at guest-physical 0
 *	ku_vcpu_create(&vm, 0, &cpu);
 *	ku_load(&vm, 0x1000, code, sizeof(code));
 *	ku_real_mode(&cpu, 0x1000);			CS:IP = 0:0x1000
 *	assert_int_equal(ku_run(&cpu), KVM_EXIT_HLT);
 *	ku_vcpu_destroy(&cpu);
 *	ku_vm_destroy(&vm);
 */
#ifndef TEST_KVM_UTIL_H
#define TEST_KVM_UTIL_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

struct ku_vm {
	int sys;      /* /dev/kvm */
	int fd;	      /* the VM */
	uint8_t *ram; /* guest-physical 0 */
	size_t ram_size;
	size_t vcpu_size; /* KVM_GET_VCPU_MMAP_SIZE */
};

struct ku_vcpu {
	int fd;
	struct kvm_run *run;
	size_t size;
};

#define KU_CHECK(cond)                                                                                  \
	do {                                                                                            \
		if (!(cond)) {                                                                          \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #cond, strerror(errno)); \
			exit(99);                                                                       \
		}                                                                                       \
	} while (0)

/* Guest code in assembly: `name` up to `name_end`, position independent; bits is 16, 32 or 64. */
#define KU_ASM(name, bits, text)                                                     \
	extern const uint8_t name[], name##_end[];                                   \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n" #name \
		"_end:\n.code64\n.popsection\n")

/* True on the machine's own KVM: expectations that only userkvm promises are skipped there. */
static inline bool ku_oracle(void)
{
	const char *s = getenv("USERKVM_ORACLE");

	return s && *s == '1';
}

static inline int ku_open(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	KU_CHECK(fd >= 0);
	return fd;
}

/* Descriptors of this process, and a constant. */
static inline int ku_open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	KU_CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* ioctl whose result is an errno: 0 for success (any value >= 0), else positive errno. */
static inline int ku_errno(int fd, unsigned long request, const void *arg)
{
	return ioctl(fd, request, arg) < 0 ? errno : 0;
}

static inline int ku_set_slot(struct ku_vm *vm, uint32_t slot, uint32_t flags, uint64_t gpa, void *host,
			      uint64_t size)
{
	struct kvm_userspace_memory_region r = {
	    .slot = slot,
	    .flags = flags,
	    .guest_phys_addr = gpa,
	    .memory_size = size,
	    .userspace_addr = (uint64_t)(uintptr_t)host,
	};

	return ku_errno(vm->fd, KVM_SET_USER_MEMORY_REGION, &r);
}

/* A VM with `ram` bytes of zeroed RAM at 0 in slot 0; no irqchip. ram 0: no slot. */
static inline void ku_vm_create(struct ku_vm *vm, size_t ram)
{
	*vm = (struct ku_vm){.sys = ku_open(), .ram_size = ram};
	vm->fd = ioctl(vm->sys, KVM_CREATE_VM, 0);
	KU_CHECK(vm->fd >= 0);
	vm->vcpu_size = ioctl(vm->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	KU_CHECK((long)vm->vcpu_size > 0);
	if (!ram)
		return;
	vm->ram = mmap(NULL, ram, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	KU_CHECK(vm->ram != MAP_FAILED);
	KU_CHECK(ku_set_slot(vm, 0, 0, 0, vm->ram, ram) == 0);
}

static inline void ku_vm_destroy(struct ku_vm *vm)
{
	KU_CHECK(close(vm->fd) == 0);
	KU_CHECK(close(vm->sys) == 0);
	if (vm->ram)
		munmap(vm->ram, vm->ram_size);
}

/* Gives the vCPU every CPUID bit that the system offers. */
static inline void ku_set_cpuid(struct ku_vm *vm, struct ku_vcpu *cpu)
{
	unsigned n = 256;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + n * sizeof(c->entries[0]));

	KU_CHECK(c);
	c->nent = n;
	KU_CHECK(ioctl(vm->sys, KVM_GET_SUPPORTED_CPUID, c) == 0);
	KU_CHECK(ioctl(cpu->fd, KVM_SET_CPUID2, c) == 0);
	free(c);
}

/* A vCPU in its power-on state, with its kvm_run mapped and the supported CPUID set. */
static inline void ku_vcpu_create(struct ku_vm *vm, unsigned long id, struct ku_vcpu *cpu)
{
	cpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, id);
	KU_CHECK(cpu->fd >= 0);
	cpu->size = vm->vcpu_size;
	cpu->run = mmap(NULL, cpu->size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	KU_CHECK(cpu->run != MAP_FAILED);
	ku_set_cpuid(vm, cpu);
}

static inline void ku_vcpu_destroy(struct ku_vcpu *cpu)
{
	KU_CHECK(munmap(cpu->run, cpu->size) == 0);
	KU_CHECK(close(cpu->fd) == 0);
}

static inline void ku_load(struct ku_vm *vm, uint64_t gpa, const void *code, size_t len)
{
	KU_CHECK(gpa + len <= vm->ram_size);
	memcpy(vm->ram + gpa, code, len);
}

static inline void ku_get_regs(struct ku_vcpu *cpu, struct kvm_regs *r)
{
	KU_CHECK(ioctl(cpu->fd, KVM_GET_REGS, r) == 0);
}

static inline void ku_set_regs(struct ku_vcpu *cpu, const struct kvm_regs *r)
{
	KU_CHECK(ioctl(cpu->fd, KVM_SET_REGS, r) == 0);
}

static inline uint64_t ku_get_msr(struct ku_vcpu *cpu, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = {.head.nmsrs = 1, .e.index = index};

	KU_CHECK(ioctl(cpu->fd, KVM_GET_MSRS, &m) == 1);
	return m.e.data;
}

/* 1, or 0 where KVM refuses it. */
static inline int ku_set_msr(struct ku_vcpu *cpu, uint32_t index, uint64_t val)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = {.head.nmsrs = 1, .e = {.index = index, .data = val}};

	return ioctl(cpu->fd, KVM_SET_MSRS, &m);
}

static inline void ku_get_sregs(struct ku_vcpu *cpu, struct kvm_sregs *s)
{
	KU_CHECK(ioctl(cpu->fd, KVM_GET_SREGS, s) == 0);
}

static inline void ku_set_sregs(struct ku_vcpu *cpu, const struct kvm_sregs *s)
{
	KU_CHECK(ioctl(cpu->fd, KVM_SET_SREGS, s) == 0);
}

/* All registers zero, RFLAGS 2, RIP and RSP as given. */
static inline void ku_reset_regs(struct ku_vcpu *cpu, uint64_t rip, uint64_t rsp)
{
	struct kvm_regs r = {.rip = rip, .rsp = rsp, .rflags = 2};

	ku_set_regs(cpu, &r);
}

/* Real mode with every segment at 0 and SS:SP just below 0x1000; ip is below 64 KiB. */
static inline void ku_real_mode(struct ku_vcpu *cpu, uint16_t ip)
{
	struct kvm_sregs s;

	ku_get_sregs(cpu, &s);
	s.cs.base = s.cs.selector = 0;
	s.ds.base = s.ds.selector = 0;
	s.es.base = s.es.selector = 0;
	s.ss.base = s.ss.selector = 0;
	s.fs.base = s.fs.selector = 0;
	s.gs.base = s.gs.selector = 0;
	ku_set_sregs(cpu, &s);
	ku_reset_regs(cpu, ip, 0x1000);
}

static inline struct kvm_segment ku_flat(uint16_t selector, uint8_t type, bool is_long)
{
	return (struct kvm_segment){
	    .limit = 0xffffffff,
	    .selector = selector,
	    .type = type,
	    .present = 1,
	    .db = !is_long,
	    .s = 1,
	    .l = is_long,
	    .g = 1,
	};
}

/* 32-bit protected mode, flat segments (CS 8, data 16, no GDT in memory), no paging, CPL 0. */
static inline void ku_protected_mode(struct ku_vcpu *cpu, uint32_t eip, uint32_t esp)
{
	struct kvm_sregs s;

	ku_get_sregs(cpu, &s);
	s.cr0 |= 1;
	s.cs = ku_flat(8, 11, false);
	s.ds = s.es = s.fs = s.gs = s.ss = ku_flat(16, 3, false);
	ku_set_sregs(cpu, &s);
	ku_reset_regs(cpu, eip, esp);
}

/* 64-bit mode, flat, CPL 0; the first GiB mapped one to one with 2 MiB pages whose tables fill the
 * three pages at `tables` (page aligned, in RAM). No GDT or IDT in memory. */
static inline void ku_long_mode(struct ku_vm *vm, struct ku_vcpu *cpu, uint64_t tables, uint64_t rip,
				uint64_t rsp)
{
	uint64_t *pml4 = (uint64_t *)(vm->ram + tables), *pdpt = pml4 + 512, *pd = pdpt + 512;
	struct kvm_sregs s;

	KU_CHECK(tables + 3 * 4096 <= vm->ram_size);
	pml4[0] = (tables + 4096) | 7;
	pdpt[0] = (tables + 8192) | 7;
	for (uint64_t i = 0; i < 512; i++)
		pd[i] = i << 21 | 0x87;
	ku_get_sregs(cpu, &s);
	s.cr0 |= 0x80000001;
	s.cr3 = tables;
	s.cr4 |= 0x20;
	s.efer |= 0x500;
	s.cs = ku_flat(8, 11, true);
	s.ds = s.es = s.fs = s.gs = s.ss = ku_flat(16, 3, false);
	ku_set_sregs(cpu, &s);
	ku_reset_regs(cpu, rip, rsp);
}

/* KVM_RUN until it succeeds (EINTR is repeated); the exit reason. */
static inline uint32_t ku_run(struct ku_vcpu *cpu)
{
	int r;

	do
		r = ioctl(cpu->fd, KVM_RUN, 0);
	while (r < 0 && errno == EINTR);
	KU_CHECK(r == 0);
	return cpu->run->exit_reason;
}

/* Runs until the reason comes; other exits go to `other` (may be NULL: then they are failures). */
static inline void ku_run_until(struct ku_vcpu *cpu, uint32_t reason,
				void (*other)(struct ku_vcpu *cpu, void *arg), void *arg)
{
	while (ku_run(cpu) != reason) {
		if (!other)
			fprintf(stderr, "exit reason %u instead of %u\n", cpu->run->exit_reason, reason);
		KU_CHECK(other);
		other(cpu, arg);
	}
}

/* The data of a KVM_EXIT_IO. */
static inline void *ku_io_data(struct ku_vcpu *cpu)
{
	return (uint8_t *)cpu->run + cpu->run->io.data_offset;
}

#endif
