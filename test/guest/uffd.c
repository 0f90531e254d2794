/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Userfaults on guest memory, in every mode, met by every way in which a vCPU touches memory. While the vCPU
 * waits for its page, the handler's own KVM calls succeed: it holds nothing that they need.
 *	make check T=guest/uffd
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "guest_util.h"
#include "run_util.h"

#define A     0x10000000ULL
#define PAGE  4096UL
#define PAGES 16UL
#define SIZE  (PAGES * PAGE)
#define SMM   0x30000ULL
#define OTHER 0x30000000ULL
#define LOG   KVM_MEM_LOG_DIRTY_PAGES
#define LIMIT 20000 /* ms for one meeting: a hang, not a slow machine */

#define MSR_SYSTEM_TIME 0x4b564d01
#define MSR_STEAL_TIME	0x4b564d03

enum mode { MISSING, MISSING_SHARED, MINOR_SHARED, WP };

/* -- Guests: RBX is the window, whose page n is page n of the slot; they end at port 0xe1 -- */

KU_ASM(load, 64, "mov 0x1010(%rbx), %rax\n out %al, $0xe1");
KU_ASM(store, 64, "movq $0x1234, 0x1010(%rbx)\n out %al, $0xe1");
KU_ASM(fetch, 64, "lea 0x1000(%rbx), %rcx\n jmp *%rcx");
KU_ASM(walk, 64, "mov 0x300000(%rbx), %al\n out %al, $0xe1");
KU_ASM(outs, 64, "lea 0x1010(%rbx), %rsi\n mov $0xe1, %edx\n mov $4, %ecx\n cld\n rep outsb");
KU_ASM(ins, 64, "lea 0x1010(%rbx), %rdi\n mov $0xe2, %edx\n cld\n insb\n out %al, $0xe1");
KU_ASM(nothing, 64, "nop\n out %al, $0xe1");

/* What every page of the slot holds: code for fetch and SMM at 0, a number at 0x10, page-table entries at 0x800. */
static uint64_t template[PAGE / 8];
#define NUMBER	    0x5c5b5a
#define PTE(flags)  (GU_DATA | (flags))
#define TABLE_AT    0x800
#define TEMPLATE_AT 0x10

struct env {
	struct gu g;
	struct ku_vcpu second;
	struct ru run;
	enum mode mode;
	uint8_t *mem, *alias; /* alias: the same pages, without userfaults */
	uint8_t *other;
	int uffd, memfd;
	unsigned created, faults;
};

struct kind {
	const char *name;
	const uint8_t *code, *end;
	bool writes; /* met in write-protected memory, too */
	bool smm;
	uint32_t msr;
	uint8_t pte;
};
#define K(code) #code, code, code##_end

static const struct kind kinds[] = {
    {K(load), false, false, 0, 0x67},
    {K(store), true, false, 0, 0x67},
    {K(fetch), false, false, 0, 0x67},
    {K(walk), false, false, 0, 0x67},
    {"walk that sets A", walk, walk_end, true, false, 0, 0x07},
    {K(outs), false, false, 0, 0x67},
    {K(ins), true, false, 0, 0x67},
    {"kvmclock", nothing, nothing_end, true, false, MSR_SYSTEM_TIME, 0x67},
    {"steal time", nothing, nothing_end, true, false, MSR_STEAL_TIME, 0x67},
    {"SMM", nothing, nothing_end, true, true, 0, 0x67},
};

/* -- Memory -- */

static bool register_memory(struct env *e)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {(uint64_t)e->mem, SIZE}};

	switch (e->mode) {
	case MINOR_SHARED:
		api.features = UFFD_FEATURE_MINOR_SHMEM;
		reg.mode = UFFDIO_REGISTER_MODE_MINOR;
		break;
	case WP:
		api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
		reg.mode = UFFDIO_REGISTER_MODE_WP;
		break;
	default: reg.mode = UFFDIO_REGISTER_MODE_MISSING;
	}
	e->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	return e->uffd >= 0 && !ioctl(e->uffd, UFFDIO_API, &api) && !ioctl(e->uffd, UFFDIO_REGISTER, &reg);
}

/* The slot's memory; false if this kind of userfault cannot be had. */
static bool make_memory(struct env *e)
{
	const int rw = PROT_READ | PROT_WRITE;
	bool shared = e->mode == MISSING_SHARED || e->mode == MINOR_SHARED;

	e->memfd = shared ? memfd_create("ram", MFD_CLOEXEC) : -1;
	KU_CHECK(!shared || !ftruncate(e->memfd, SIZE));
	e->mem = mmap(NULL, SIZE, rw, shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, e->memfd, 0);
	KU_CHECK(e->mem != MAP_FAILED);
	e->alias = e->mem;
	if (shared)
		e->alias = mmap(NULL, SIZE, rw, MAP_SHARED, e->memfd, 0);
	KU_CHECK(e->alias != MAP_FAILED);
	if (!register_memory(e))
		return false;
	for (unsigned i = 0; i < PAGES && (e->mode == MINOR_SHARED || e->mode == WP); i++)
		memcpy(e->alias + i * PAGE, template, PAGE);
	if (e->mode == WP) {
		struct uffdio_writeprotect wp = {.range = {(uint64_t)e->mem, SIZE},
						 .mode = UFFDIO_WRITEPROTECT_MODE_WP};

		return !ioctl(e->uffd, UFFDIO_WRITEPROTECT, &wp);
	}
	return true;
}

static void give_page(struct env *e, uint64_t at)
{
	struct uffdio_copy copy = {.dst = at, .src = (uint64_t) template, .len = PAGE};
	struct uffdio_continue cont = {.range = {at, PAGE}};
	struct uffdio_writeprotect wp = {.range = {at, PAGE}};
	int r = 0;

	switch (e->mode) {
	case MISSING:
	case MISSING_SHARED: r = ioctl(e->uffd, UFFDIO_COPY, &copy); break;
	case MINOR_SHARED: r = ioctl(e->uffd, UFFDIO_CONTINUE, &cont); break;
	case WP: r = ioctl(e->uffd, UFFDIO_WRITEPROTECT, &wp); break;
	}
	KU_CHECK(!r || errno == EEXIST); /* a second message of the same fault */
}

/* -- The handler's own calls -- */

static void change_routing(struct ku_vm *vm)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[1];
	} r = {.head = {.nr = 1}, .e = {{.gsi = 5, .type = KVM_IRQ_ROUTING_MSI}}};

	r.e[0].u.msi.address_lo = 0xfee00000;
	assert_int_equal(ku_errno(vm->fd, KVM_SET_GSI_ROUTING, &r), 0);
}

static void change_doorbell(struct ku_vm *vm)
{
	struct kvm_ioeventfd d = {.addr = 0x9000000, .len = 4, .fd = eventfd(0, EFD_CLOEXEC)};

	assert_int_equal(ku_errno(vm->fd, KVM_IOEVENTFD, &d), 0);
	d.flags = KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(ku_errno(vm->fd, KVM_IOEVENTFD, &d), 0);
	close(d.fd);
}

/* Everything that a handler may want, on the slot itself as well. */
static void call_everything(struct env *e, const struct kind *k)
{
	uint32_t slot = k->smm ? 1 << 16 : 1;
	uint64_t bits[1], gpa = k->smm ? SMM : A;
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bits};
	struct ku_vm *vm = &e->g.vm;
	struct kvm_regs r;
	int fd;

	assert_int_equal(ku_set_slot(vm, 2, 0, OTHER, e->other, PAGE), 0);
	assert_int_equal(ku_errno(vm->fd, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(ku_set_slot(vm, slot, 0, gpa, e->mem, SIZE), 0);
	assert_int_equal(ku_set_slot(vm, 2, 0, OTHER, e->other, 0), 0);
	assert_int_equal(ku_set_slot(vm, slot, LOG, gpa, e->mem, SIZE), 0);
	assert_int_equal(ku_errno(vm->fd, KVM_GET_DIRTY_LOG, &log), 0);
	change_doorbell(vm);
	change_routing(vm);
	ku_get_regs(&e->second, &r);
	fd = ioctl(vm->fd, KVM_CREATE_VCPU, 2 + e->created++);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(madvise(e->mem + 2 * PAGE, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(atomic_load(&e->run.exits), 0 + (k->code == ins));
}

static _Atomic bool over;

static bool on_exit_of(struct ru *r)
{
	struct kvm_run *run = r->cpu->run;

	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN) {
		*(uint8_t *)ku_io_data(r->cpu) = 0x77;
		return true;
	}
	atomic_store(&over, true);
	return false;
}

/* Serves faults until the guest is through. */
static void serve(struct env *e, const struct kind *k)
{
	uint64_t end = ru_ms() + LIMIT;
	struct uffd_msg msg;

	while (!atomic_load(&over)) {
		struct pollfd p = {.fd = e->uffd, .events = POLLIN};

		KU_CHECK(ru_ms() < end && "the guest does not get through");
		if (poll(&p, 1, 1) <= 0 || read(e->uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
		if (!e->faults++)
			call_everything(e, k);
		give_page(e, msg.arg.pagefault.address & ~(PAGE - 1));
	}
}

/* -- One meeting -- */

static void prepare(struct env *e, const struct kind *k)
{
	struct kvm_regs r;

	template[0] = 0xf4e1e6; /* out %al, $0xe1; hlt */
	template[TEMPLATE_AT / 8] = NUMBER;
	for (unsigned i = TABLE_AT / 8; i < PAGE / 8; i++)
		template[i] = PTE(k->pte);
	gu_start_chips(&e->g, GU_LONG, true);
	ku_vcpu_create(&e->g.vm, 1, &e->second);
	e->run = (struct ru){.cpu = &e->g.cpu, .on_exit = on_exit_of};
	e->other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned i = 0; i < PAGES; i++)
		gu_window(&e->g, i, A + i * PAGE);
	/* The second 2 MiB behind the window: a page table in the slot's page 1. */
	((uint64_t *)(e->g.vm.ram + GU_PML4))[1537] = (A + PAGE) | 0x67;
	gu_code(&e->g, k->code, (size_t)(k->end - k->code), 0);
	ku_get_regs(&e->g.cpu, &r);
	r.rbx = GU_WINDOW;
	ku_set_regs(&e->g.cpu, &r);
	if (k->smm)
		assert_int_equal(ku_set_slot(&e->g.vm, 1 << 16, LOG, SMM, e->mem, SIZE), 0);
	else
		assert_int_equal(ku_set_slot(&e->g.vm, 1, LOG, A, e->mem, SIZE), 0);
}

static void set_msr(struct ku_vcpu *cpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} m = {.head = {.nmsrs = 1}, .e = {{.index = index, .data = value}}};

	KU_CHECK(ioctl(cpu->fd, KVM_SET_MSRS, &m) == 1);
}

/* What the guest saw or did. */
static void check(struct env *e, const struct kind *k)
{
	const uint8_t *page = e->alias + PAGE;
	const struct kvm_run *run = e->g.cpu.run;
	struct kvm_regs r;

	assert_int_equal(run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(run->io.port, 0xe1);
	assert_true(e->faults > 0);
	ku_get_regs(&e->g.cpu, &r);
	if (k->code == load)
		assert_int_equal(r.rax, NUMBER);
	if (k->code == store)
		assert_int_equal(*(const uint64_t *)(page + 0x10), 0x1234);
	if (k->code == outs)
		assert_int_equal(*(uint32_t *)ku_io_data(&e->g.cpu), NUMBER);
	if (k->code == ins)
		assert_int_equal(page[0x10], 0x77);
	if (k->code == walk)
		assert_int_equal(*(const uint64_t *)(page + TABLE_AT), PTE(k->pte | 0x20));
	if (k->msr == MSR_SYSTEM_TIME)
		assert_int_not_equal(*(const uint64_t *)(page + 16), NUMBER); /* system_time */
	if (k->smm)
		assert_true(run->flags & KVM_RUN_X86_SMM);
}

/* False if there is no such userfault here. */
static bool meet(enum mode mode, const struct kind *k)
{
	struct env e = {.mode = mode};
	bool have;

	atomic_store(&over, false);
	template[0] = 0xf4e1e6;
	have = make_memory(&e);
	if (have) {
		prepare(&e, k);
		/* In WP mode the memory was filled before the entries were known. */
		if (k->msr)
			set_msr(&e.g.cpu, k->msr, (A + PAGE) | 1);
		if (k->smm)
			KU_CHECK(ioctl(e.g.cpu.fd, KVM_SMI, 0) == 0);
		ru_start(&e.run);
		serve(&e, k);
		assert_int_equal(ru_join(&e.run), 0);
		check(&e, k);
		ku_vcpu_destroy(&e.second);
		gu_end(&e.g);
		munmap(e.other, PAGE);
	}
	close(e.uffd);
	if (e.alias != e.mem)
		munmap(e.alias, SIZE);
	munmap(e.mem, SIZE);
	close(e.memfd);
	return have;
}

/* Seen to fail (a time-out) with an srcu section held around the copies of mem_read and mem_write, as it once was.
 * WORKS: userfaultfd on guest memory | missing, minor and write-protect faults; the handler may call KVM */
static void meet_all(enum mode mode)
{
	if (ku_oracle())
		skip(); /* there a slot's update may wait for the page */
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		const struct kind *k = &kinds[i];

		if (mode == WP && !k->writes)
			continue;
		printf("   %s\n", k->name);
		fflush(stdout);
		for (unsigned j = TABLE_AT / 8; j < PAGE / 8; j++)
			template[j] = PTE(k->pte);
		template[TEMPLATE_AT / 8] = NUMBER;
		if (!meet(mode, k))
			skip(); /* not permitted, or not in this kernel */
	}
}

static void missing_anonymous(void **state)
{
	meet_all(MISSING);
}

static void missing_shared(void **state)
{
	meet_all(MISSING_SHARED);
}

static void minor_shared(void **state)
{
	meet_all(MINOR_SHARED);
}

static void write_protected(void **state)
{
	meet_all(WP);
}

/* The page never comes, the slot goes: the vCPU meets a device. Seen to fail (a time-out) with the kick left out of
 * flush_one. */
static void a_deleted_slot_frees_the_vcpu(void **state)
{
	struct env e = {.mode = MISSING};
	struct kvm_regs before, after;
	struct uffd_msg msg;

	if (ku_oracle())
		skip(); /* there the deletion waits for the page */
	atomic_store(&over, false);
	if (!make_memory(&e))
		skip();
	prepare(&e, &kinds[1]);
	ku_get_regs(&e.g.cpu, &before);
	ru_start(&e.run);
	RU_UNTIL(read(e.uffd, &msg, sizeof(msg)) == sizeof(msg));
	assert_int_equal(ku_set_slot(&e.g.vm, 1, 0, A, e.mem, 0), 0);
	RU_UNTIL(atomic_load(&over));
	assert_int_equal(ru_join(&e.run), 0);
	assert_int_equal(e.g.cpu.run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(e.g.cpu.run->mmio.phys_addr, A + PAGE + 0x10);
	ku_get_regs(&e.g.cpu, &after);
	assert_int_equal(after.rip, before.rip);
	ku_vcpu_destroy(&e.second);
	gu_end(&e.g);
	close(e.uffd);
	munmap(e.mem, SIZE);
	munmap(e.other, PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(missing_anonymous),
	    cmocka_unit_test(missing_shared),
	    cmocka_unit_test(minor_shared),
	    cmocka_unit_test(write_protected),
	    cmocka_unit_test(a_deleted_slot_frees_the_vcpu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
