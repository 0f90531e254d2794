/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What KVM API operations cost: prints "row median-ns p99-ns" per line. Speaks only the KVM ABI, so that
 * tools/bench.sh can run it under userkvm and on the machine's own KVM and print both.
 */
#include <sys/eventfd.h>
#include <time.h>

#include "kvm_util.h"

#define SAMPLES 2000

static uint64_t samples[SAMPLES];
static unsigned nsamples;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void row(const char *name)
{
	qsort(samples, nsamples, sizeof(samples[0]), compare);
	printf("%s %lu %lu\n", name, (unsigned long)samples[nsamples / 2],
	       (unsigned long)samples[nsamples * 99 / 100]);
	nsamples = 0;
}

static void add(uint64_t ns)
{
	samples[nsamples++] = ns;
}

static void bench_lifetime(void)
{
	static uint64_t destroy[200];

	for (unsigned i = 0; i < 200; i++) {
		struct ku_vm vm;
		struct ku_vcpu cpu;
		uint64_t t0 = now(), t1;

		ku_vm_create(&vm, 2 << 20);
		ku_vcpu_create(&vm, 0, &cpu);
		t1 = now();
		add(t1 - t0);
		t0 = now();
		ku_vcpu_destroy(&cpu);
		ku_vm_destroy(&vm);
		destroy[i] = now() - t0;
	}
	row("create_vm+vcpu+setup");
	for (unsigned i = 0; i < 200; i++)
		add(destroy[i]);
	row("destroy");
}

static void bench_regs(struct ku_vcpu *cpu)
{
	struct kvm_regs r;

	for (unsigned i = 0; i < SAMPLES; i++) {
		uint64_t t0 = now();

		for (unsigned j = 0; j < 10; j++)
			KU_CHECK(ioctl(cpu->fd, KVM_GET_REGS, &r) == 0);
		add((now() - t0) / 10);
	}
	row("get_regs");
}

/* Time of one KVM_RUN that ends in the wanted exit, taken over batches of 10. */
static void bench_exit(struct ku_vcpu *cpu, unsigned want, const char *name)
{
	for (unsigned i = 0; i < SAMPLES; i++) {
		uint64_t t0 = now();

		for (unsigned j = 0; j < 10; j++)
			KU_CHECK(ku_run(cpu) == want);
		add((now() - t0) / 10);
	}
	row(name);
}

static void bench_ioeventfd(struct ku_vm *vm, struct ku_vcpu *cpu)
{
	/* mov dx,0x200; mov cx,1000; l: out dx,al; dec cx; jnz l; hlt -- and the same without the out */
	static const uint8_t with[] = {0xba, 0, 2, 0xb9, 0xe8, 3, 0xee, 0x49, 0x75, 0xfc, 0xf4};
	static const uint8_t without[] = {0xba, 0, 2, 0xb9, 0xe8, 3, 0x90, 0x49, 0x75, 0xfc, 0xf4};
	struct kvm_ioeventfd io = {
	    .addr = 0x200, .len = 1, .fd = eventfd(0, EFD_NONBLOCK), .flags = KVM_IOEVENTFD_FLAG_PIO};
	uint64_t one = 1;

	KU_CHECK(ioctl(vm->fd, KVM_IOEVENTFD, &io) == 0);
	for (unsigned pass = 0; pass < 2; pass++) {
		ku_load(vm, 0x1000, pass ? without : with, sizeof(with));
		for (unsigned i = 0; i < 50; i++) {
			uint64_t t0;

			ku_real_mode(cpu, 0x1000);
			t0 = now();
			KU_CHECK(ku_run(cpu) == KVM_EXIT_HLT);
			add((now() - t0) / 1000);
		}
		row(pass ? "loop_without_ioeventfd" : "ioeventfd_hit_in_loop");
	}
	for (unsigned i = 0; i < SAMPLES; i++) {
		uint64_t t0 = now();

		KU_CHECK(write(io.fd, &one, 8) == 8);
		add(now() - t0);
	}
	row("bare_eventfd_write");
	io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	KU_CHECK(ioctl(vm->fd, KVM_IOEVENTFD, &io) == 0);
	close(io.fd);
}

static void bench_registration(struct ku_vm *vm)
{
	static uint64_t del[300];
	int fd = eventfd(0, EFD_NONBLOCK);

	for (unsigned i = 0; i < 300; i++) {
		struct kvm_ioeventfd io = {.addr = 0x10000000 + i * 8, .len = 4, .fd = fd};
		uint64_t t0 = now();

		KU_CHECK(ioctl(vm->fd, KVM_IOEVENTFD, &io) == 0);
		add(now() - t0);
	}
	row("ioeventfd_add");
	for (unsigned i = 0; i < 300; i++) {
		struct kvm_ioeventfd io = {
		    .addr = 0x10000000 + i * 8, .len = 4, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_DEASSIGN};
		uint64_t t0 = now();

		KU_CHECK(ioctl(vm->fd, KVM_IOEVENTFD, &io) == 0);
		del[i] = now() - t0;
	}
	for (unsigned i = 0; i < 300; i++)
		add(del[i]);
	row("ioeventfd_delete");
	close(fd);
}

static void bench_memslot(struct ku_vm *vm)
{
	void *mem = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	static uint64_t del[500];

	KU_CHECK(mem != MAP_FAILED);
	for (unsigned i = 0; i < 500; i++) {
		uint64_t t0 = now();

		KU_CHECK(ku_set_slot(vm, 5, 0, 0x40000000, mem, 1 << 20) == 0);
		add(now() - t0);
		t0 = now();
		KU_CHECK(ku_set_slot(vm, 5, 0, 0x40000000, mem, 0) == 0);
		del[i] = now() - t0;
	}
	row("memslot_add");
	for (unsigned i = 0; i < 500; i++)
		add(del[i]);
	row("memslot_delete");
	munmap(mem, 1 << 20);
}

int main(void)
{
	/* l: out 0x80,al; jmp l */
	static const uint8_t pio[] = {0xe6, 0x80, 0xeb, 0xfc};
	/* mov ax,0x9000; mov ds,ax; l: mov [0],al; jmp l -- 0x90000 lies behind the RAM of 0x80000 bytes */
	static const uint8_t mmio[] = {0xb8, 0, 0x90, 0x8e, 0xd8, 0xa2, 0, 0, 0xeb, 0xfb};
	struct ku_vm vm;
	struct ku_vcpu cpu;

	bench_lifetime();
	ku_vm_create(&vm, 0x80000);
	ku_vcpu_create(&vm, 0, &cpu);
	bench_regs(&cpu);
	ku_load(&vm, 0x1000, pio, sizeof(pio));
	ku_real_mode(&cpu, 0x1000);
	bench_exit(&cpu, KVM_EXIT_IO, "pio_exit");
	ku_load(&vm, 0x1000, mmio, sizeof(mmio));
	ku_real_mode(&cpu, 0x1000);
	bench_exit(&cpu, KVM_EXIT_MMIO, "mmio_exit");
	bench_ioeventfd(&vm, &cpu);
	bench_registration(&vm);
	bench_memslot(&vm);
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
	return 0;
}
