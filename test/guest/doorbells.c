/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Doorbells rung by a guest: ioeventfd on ports and memory, with and without a value to match, of any length,
 * assigned and taken away under a running guest; the coalesced ring.
 *	make check T=guest/doorbells
 *	USERKVM_ORACLE=1 build/checked/test/guest/doorbells
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "guest_util.h"
#include "run_util.h"
#include "torture.h"

#define PAGE 4096UL
#define DEV  0xd0000000ULL
#define PORT 0xc000

struct env {
	struct gu g;
	int fd[2];
};

static int setup(void **state)
{
	static struct env e;

	gu_start(&e.g, GU_LONG);
	gu_window(&e.g, 0, DEV);
	gu_window(&e.g, 1, DEV + PAGE);
	for (unsigned i = 0; i < 2; i++) {
		e.fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		KU_CHECK(e.fd[i] >= 0);
	}
	*state = &e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	close(e->fd[0]);
	close(e->fd[1]);
	gu_end(&e->g);
	return 0;
}

static void begin(struct env *e, const uint8_t *code, const uint8_t *end)
{
	struct kvm_regs r;

	gu_code(&e->g, code, (size_t)(end - code), 0);
	ku_get_regs(&e->g.cpu, &r);
	r.rbx = GU_WINDOW;
	ku_set_regs(&e->g.cpu, &r);
}
#define BEGIN(e, name) begin(e, name, name##_end)

static int doorbell(struct env *e, unsigned which, uint64_t addr, unsigned len, unsigned flags,
		    uint64_t match)
{
	struct kvm_ioeventfd io = {
	    .datamatch = match, .addr = addr, .len = len, .fd = e->fd[which], .flags = flags};

	return ku_errno(e->g.vm.fd, KVM_IOEVENTFD, &io);
}

static uint64_t rings(struct env *e, unsigned which)
{
	uint64_t n = 0;

	return read(e->fd[which], &n, 8) == 8 ? n : 0;
}

static void assert_out(struct env *e, unsigned port, uint64_t val, unsigned size)
{
	uint64_t got = 0;

	assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
	assert_int_equal(e->g.cpu.run->io.port, port);
	assert_int_equal(e->g.cpu.run->io.size, size);
	memcpy(&got, ku_io_data(&e->g.cpu), size);
	assert_int_equal(got, val);
}

static void assert_store(struct env *e, uint64_t addr, uint64_t val, unsigned len)
{
	uint64_t got = 0;

	assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_MMIO);
	assert_int_equal(e->g.cpu.run->mmio.is_write, 1);
	assert_int_equal(e->g.cpu.run->mmio.phys_addr, addr);
	assert_int_equal(e->g.cpu.run->mmio.len, len);
	memcpy(&got, e->g.cpu.run->mmio.data, len);
	assert_int_equal(got, val);
}

#define PIO   KVM_IOEVENTFD_FLAG_PIO
#define MATCH KVM_IOEVENTFD_FLAG_DATAMATCH
#define OFF   KVM_IOEVENTFD_FLAG_DEASSIGN

/* -- Ports -- */

KU_ASM(outs, 64,
       "mov $0xc000, %dx\n mov $7, %eax\n out %ax, %dx\n" /* the bell */
       "mov $8, %eax\n out %ax, %dx\n"			  /* another value */
       "mov $7, %eax\n out %al, %dx\n"			  /* another size */
       "out %eax, %dx\n"
       "mov $0xc001, %dx\n out %ax, %dx\n" /* another port */
       "mov $0xc000, %dx\n in %dx, %ax\n"  /* reads are nobody's */
       "out %al, $0xe1");

static void ports(void **state)
{
	struct env *e = *state;

	assert_int_equal(doorbell(e, 0, PORT, 2, PIO | MATCH, 7), 0);
	BEGIN(e, outs);
	assert_out(e, PORT, 8, 2);
	assert_int_equal(rings(e, 0), 1);
	assert_out(e, PORT, 7, 1);
	assert_out(e, PORT, 7, 4);
	assert_out(e, PORT + 1, 7, 2);
	assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_IO);
	assert_int_equal(e->g.cpu.run->io.direction, KVM_EXIT_IO_IN);
	assert_out(e, 0xe1, 0, 1);
	assert_int_equal(rings(e, 0), 0);
	/* Any value; the two do not go together. */
	assert_int_equal(doorbell(e, 1, PORT, 2, PIO, 0), EEXIST);
	assert_int_equal(doorbell(e, 0, PORT, 2, PIO | MATCH | OFF, 7), 0);
	assert_int_equal(doorbell(e, 1, PORT, 2, PIO, 0), 0);
	BEGIN(e, outs);
	assert_out(e, PORT, 7, 1);
	assert_int_equal(rings(e, 1), 2);
	assert_int_equal(rings(e, 0), 0);
	assert_int_equal(doorbell(e, 1, PORT, 2, PIO | OFF, 0), 0);
	BEGIN(e, outs);
	assert_out(e, PORT, 7, 2);
}

/* Two values of one port, each its own bell. */
static void values(void **state)
{
	struct env *e = *state;

	assert_int_equal(doorbell(e, 0, PORT, 2, PIO | MATCH, 7), 0);
	assert_int_equal(doorbell(e, 1, PORT, 2, PIO | MATCH, 8), 0);
	BEGIN(e, outs);
	assert_out(e, PORT, 7, 1);
	assert_int_equal(rings(e, 0), 1);
	assert_int_equal(rings(e, 1), 1);
	assert_int_equal(doorbell(e, 0, PORT, 2, PIO | MATCH | OFF, 7), 0);
	BEGIN(e, outs);
	assert_out(e, PORT, 7, 2);
	assert_out(e, PORT, 7, 1);
	assert_int_equal(rings(e, 1), 1);
	assert_int_equal(doorbell(e, 1, PORT, 2, PIO | MATCH | OFF, 8), 0);
}

/* A string of OUTs rings once for each element that matches. */
KU_ASM(out_string, 64, "mov $0xc000, %dx\n mov $0x20000, %esi\n mov $6, %ecx\n rep outsw\n out %al, $0xe1");

static void strings(void **state)
{
	struct env *e = *state;

	assert_int_equal(doorbell(e, 0, PORT, 2, PIO, 0), 0);
	BEGIN(e, out_string);
	assert_out(e, 0xe1, 0, 1);
	assert_int_equal(rings(e, 0), 6);
	assert_int_equal(doorbell(e, 0, PORT, 2, PIO | OFF, 0), 0);
}

/* -- Memory -- */

KU_ASM(stores, 64,
       "movl $7, (%rbx)\n" /* the bell */
       "movl $8, (%rbx)\n" /* another value */
       "movw $7, (%rbx)\n" /* another size */
       "mov $7, %eax\n mov %rax, (%rbx)\n"
       "movl $7, 4(%rbx)\n" /* another address */
       "out %al, $0xe1");

static void memory(void **state)
{
	struct env *e = *state;

	assert_int_equal(doorbell(e, 0, DEV, 4, MATCH, 7), 0);
	BEGIN(e, stores);
	assert_store(e, DEV, 8, 4);
	assert_int_equal(rings(e, 0), 1);
	assert_store(e, DEV, 7, 2);
	assert_store(e, DEV, 7, 8);
	assert_store(e, DEV + 4, 7, 4);
	assert_out(e, 0xe1, 7, 1);
	assert_int_equal(rings(e, 0), 0);
	assert_int_equal(doorbell(e, 0, DEV, 4, MATCH | OFF, 7), 0);
	/* Length 0: any store that begins there, whatever its size and value. */
	if (ioctl(e->g.vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD_ANY_LENGTH) == 1) {
		assert_int_equal(doorbell(e, 1, DEV, 0, 0, 0), 0);
		BEGIN(e, stores);
		assert_store(e, DEV + 4, 7, 4);
		assert_int_equal(rings(e, 1), 4);
		assert_int_equal(doorbell(e, 1, DEV, 0, OFF, 0), 0);
	}
	BEGIN(e, stores);
	assert_store(e, DEV, 7, 4);
}

/* A store over the end of the page rings nobody: it is two, and neither is the bell's. */
KU_ASM(straddle, 64, "movl $7, 0xffe(%rbx)\n out %al, $0xe1");

static void straddling(void **state)
{
	struct env *e = *state;

	assert_int_equal(doorbell(e, 0, DEV + 0xffe, 4, 0, 0), 0);
	BEGIN(e, straddle);
	assert_store(e, DEV + 0xffe, 7, 2);
	assert_store(e, DEV + PAGE, 0, 2);
	assert_out(e, 0xe1, 0, 1);
	assert_int_equal(rings(e, 0), 0);
	assert_int_equal(doorbell(e, 0, DEV + 0xffe, 4, OFF, 0), 0);
}

/* -- Under a running guest -- */

KU_ASM(ring_for_ever, 64, "1: inc %ecx\n mov %ecx, (%rbx)\n jmp 1b");

static bool go_on(struct ru *r)
{
	KU_CHECK(r->cpu->run->exit_reason == KVM_EXIT_MMIO);
	return true;
}

/* Each store rings or exits, never both, never neither, while the bell comes and goes. */
static void comes_and_goes(void **state)
{
	struct env *e = *state;
	struct ru run = {.cpu = &e->g.cpu, .on_exit = go_on};
	uint64_t heard = 0;
	struct kvm_regs r;

	BEGIN(e, ring_for_ever);
	ru_start(&run);
	for (unsigned i = 0; i < 60; i++) {
		unsigned exits;
		uint64_t n = 0;

		assert_int_equal(doorbell(e, 0, DEV, 4, 0, 0), 0);
		RU_UNTIL((n += rings(e, 0)) > 2);
		assert_int_equal(doorbell(e, 0, DEV, 4, OFF, 0), 0);
		n += rings(e, 0);
		heard += n;
		exits = atomic_load(&run.exits);
		RU_UNTIL(atomic_load(&run.exits) > exits + 2);
		assert_int_equal(rings(e, 0), 0); /* silent since the ioctl returned */
	}
	assert_int_equal(ru_stop(&run), EINTR);
	ku_get_regs(&e->g.cpu, &r);
	assert_in_range(heard + atomic_load(&run.exits), (uint32_t)r.rcx - 1, (uint32_t)r.rcx);
}

/* Eventfds, pipes and timers that take the number of a bell which was taken away a moment ago. */
static void make_stranger(unsigned kind, int number)
{
	int p[2], fd = -1;

	switch (kind % 3) {
	case 0: fd = eventfd(0, EFD_NONBLOCK); break;
	case 1:
		KU_CHECK(pipe2(p, O_NONBLOCK) == 0);
		fd = p[1];
		break;
	case 2: fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK); break;
	}
	KU_CHECK(fd >= 0);
	if (fd != number) {
		KU_CHECK(dup2(fd, number) == number);
		close(fd);
	}
	if (kind % 3 != 1)
		return;
	KU_CHECK(dup2(p[0], number + 1) == number + 1); /* the reading end */
	if (p[0] != number + 1)
		close(p[0]);
}

/* How much came out of it: events, or bytes. */
static uint64_t stray(unsigned kind, int number)
{
	uint64_t n = 0;
	int from = kind % 3 == 1 ? number + 1 : number;

	return read(from, &n, 8) > 0 ? n + 1 : 0;
}

/*
 * torture: number_reused. DEASSIGN, close, and the number becomes another file's while four vCPUs store to the
 * doorbell: nothing is ever written there. Seen to fail (a stray signal) without srcu_synchronize in
 * bus_unregister, with the doorbell's own descriptor replaced by the VMM's number.
 */
static void number_reused(void **state)
{
	enum { CPUS = 4, NUMBER = 300 };
	struct torture t = torture_begin(200, 1000000);
	struct env *e = *state;
	struct ku_vcpu cpus[CPUS];
	struct ru runs[CPUS];
	struct kvm_sregs s;
	struct kvm_regs r;
	uint64_t heard = 0;

	if (ku_oracle())
		skip(); /* four vCPUs in a race */
	BEGIN(e, ring_for_ever);
	ku_get_sregs(&e->g.cpu, &s);
	ku_get_regs(&e->g.cpu, &r);
	for (unsigned i = 0; i < CPUS; i++) {
		cpus[i] = e->g.cpu;
		if (i)
			ku_vcpu_create(&e->g.vm, i, &cpus[i]);
		ku_set_sregs(&cpus[i], &s);
		ku_set_regs(&cpus[i], &r);
		runs[i] = (struct ru){.cpu = &cpus[i], .on_exit = go_on};
		ru_start(&runs[i]);
	}
	while (torture_more(&t)) {
		struct kvm_ioeventfd io = {.addr = DEV, .len = 4, .fd = NUMBER};
		unsigned kind = t.round % 3;

		KU_CHECK(dup2(e->fd[0], NUMBER) == NUMBER);
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_IOEVENTFD, &io), 0);
		usleep(t.round % 4 * 50);
		io.flags = OFF;
		assert_int_equal(ku_errno(e->g.vm.fd, KVM_IOEVENTFD, &io), 0);
		heard += rings(e, 0);
		close(NUMBER);
		make_stranger(kind, NUMBER);
		usleep(t.round % 4 * 50);
		assert_int_equal(stray(kind, NUMBER), 0);
		assert_int_equal(rings(e, 0), 0);
		close(NUMBER);
		if (kind == 1)
			close(NUMBER + 1);
	}
	for (unsigned i = 0; i < CPUS; i++) {
		assert_int_equal(ru_stop(&runs[i]), EINTR);
		if (i)
			ku_vcpu_destroy(&cpus[i]);
	}
	assert_true(heard > 0);
	torture_end(&t, "number_reused");
}

/* -- Coalesced -- */

KU_ASM(coalesce, 64,
       "movl $1, 0x10(%rbx)\n movb $2, 0x21(%rbx)\n movw $3, 0x1000(%rbx)\n" /* the third is outside */
       "movq $4, 0x18(%rbx)\n"
       "mov 0x10(%rbx), %eax\n" /* a read is an exit, with the ring as it is */
       "out %al, $0xe1");

static struct kvm_coalesced_mmio_ring *ring(struct env *e)
{
	int page = ioctl(e->g.vm.sys, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);

	KU_CHECK(page > 0);
	return (struct kvm_coalesced_mmio_ring *)((uint8_t *)e->g.cpu.run + (size_t)page * PAGE);
}

static void coalesced(void **state)
{
	struct env *e = *state;
	struct kvm_coalesced_mmio_ring *r = ring(e);
	struct kvm_coalesced_mmio_zone zone = {.addr = DEV, .size = PAGE};
	uint32_t first = r->first;

	assert_int_equal(first, r->last);
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	BEGIN(e, coalesce);
	assert_store(e, DEV + PAGE, 3, 2);
	assert_int_equal(r->last - first, 2);
	assert_int_equal(r->coalesced_mmio[first].phys_addr, DEV + 0x10);
	assert_int_equal(r->coalesced_mmio[first].len, 4);
	assert_int_equal(r->coalesced_mmio[first].data[0], 1);
	assert_int_equal(r->coalesced_mmio[first + 1].phys_addr, DEV + 0x21);
	assert_int_equal(r->coalesced_mmio[first + 1].len, 1);
	assert_int_equal(r->coalesced_mmio[first + 1].data[0], 2);
	assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_MMIO);
	assert_int_equal(e->g.cpu.run->mmio.is_write, 0);
	assert_int_equal(r->last - first, 3);
	assert_int_equal(r->coalesced_mmio[first + 2].len, 8);
	memset(e->g.cpu.run->mmio.data, 0x5a, 4);
	assert_out(e, 0xe1, 0x5a, 1);
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
	BEGIN(e, coalesce);
	assert_store(e, DEV + 0x10, 1, 4);
}

KU_ASM(fill_ring, 64, "1: inc %ecx\n mov %ecx, (%rbx)\n jmp 1b");

/* A full ring: the store exits, in order behind what the ring holds; emptied, it fills again. */
static void ring_full(void **state)
{
	struct env *e = *state;
	struct kvm_coalesced_mmio_ring *r = ring(e);
	struct kvm_coalesced_mmio_zone zone = {.addr = DEV, .size = PAGE};
	unsigned max = (PAGE - sizeof(*r)) / sizeof(r->coalesced_mmio[0]);
	uint32_t next = 1;

	assert_int_equal(ku_errno(e->g.vm.fd, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	BEGIN(e, fill_ring);
	for (unsigned round = 0; round < 5; round++) {
		unsigned n = 0;
		uint32_t val;

		assert_int_equal(ku_run(&e->g.cpu), KVM_EXIT_MMIO);
		for (; r->first != r->last; n++, next++) {
			memcpy(&val, r->coalesced_mmio[r->first].data, 4);
			assert_int_equal(val, next);
			r->first = (r->first + 1) % max;
		}
		assert_in_range(n, max - 2, max);
		memcpy(&val, e->g.cpu.run->mmio.data, 4);
		assert_int_equal(val, next);
		next++;
	}
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
}

/* The ring is the VMM's memory: nonsense in it is not followed. */
static void ring_nonsense(void **state)
{
	struct env *e = *state;
	struct kvm_coalesced_mmio_ring *r = ring(e);
	struct kvm_coalesced_mmio_zone zone = {.addr = DEV, .size = PAGE};
	struct kvm_coalesced_mmio_ring saved = *r;

	assert_int_equal(ku_errno(e->g.vm.fd, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	BEGIN(e, fill_ring);
	r->last = 0xfffffff0;
	assert_store(e, DEV, 1, 4);
	r->last = 100000;
	assert_store(e, DEV, 2, 4);
	*r = saved;
	assert_int_equal(ku_errno(e->g.vm.fd, KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
	assert_store(e, DEV, 3, 4);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(ports),	  CASE(values),	       CASE(strings),	CASE(memory),	 CASE(straddling),
	    CASE(comes_and_goes), CASE(number_reused), CASE(coalesced), CASE(ring_full), CASE(ring_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
