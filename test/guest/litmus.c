/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the guest has observed, its next instruction uses (systems.md C2, C3). The VMM registers a doorbell and
 * then sets a flag in guest memory; the guest waits for the flag and rings: that store must find the
 * registration. After it took the doorbell away and set the flag, the store must come out, and nothing ring.
 * For memory and ports, doorbells of one length and of any, coalesced zones, in 64-bit and in real mode.
 *	make check T=guest/litmus
 *	USERKVM_ORACLE=1 build/checked/test/guest/litmus
 * WORKS: Registration order | a doorbell that the guest was told of never leaks an exit
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/eventfd.h>

#include "run_util.h"
#include "torture.h"

#define RAM    0xa0000
#define DEV    0xb8000 /* nothing is there: also where real mode can reach it */
#define PORT   0xc000
#define CODE   0x1000
#define FLAG   0x5000
#define ACK    0x5040
#define TABLES 0x90000

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS 400
#else
#define ROUNDS 12500 /* of each of eight kinds */
#endif

enum kind { STORE, STORE_ANY, OUT, COALESCED, COALESCED_OUT };

KU_ASM(long_store, 64,
       "1: mov (%rsi), %eax\n cmp %ecx, %eax\n je 1b\n mov %eax, %ecx\n"
       "mov %eax, (%rbx)\n mov %eax, (%rdi)\n jmp 1b");
KU_ASM(long_out, 64,
       "1: mov (%rsi), %eax\n cmp %ecx, %eax\n je 1b\n mov %eax, %ecx\n"
       "out %eax, %dx\n mov %eax, (%rdi)\n jmp 1b");
KU_ASM(real_store, 16,
       "1: mov (%si), %eax\n cmp %ecx, %eax\n je 1b\n mov %eax, %ecx\n"
       "mov %eax, %es:(%bx)\n mov %eax, (%di)\n jmp 1b");
KU_ASM(real_out, 16,
       "1: mov (%si), %eax\n cmp %ecx, %eax\n je 1b\n mov %eax, %ecx\n"
       "out %eax, %dx\n mov %eax, (%di)\n jmp 1b");

struct litmus {
	struct ku_vm vm;
	struct ku_vcpu cpu;
	enum kind kind;
	int bell;
	struct kvm_coalesced_mmio_ring *ring;
	unsigned ring_size;
	_Atomic uint32_t exits, last; /* by the vCPU's thread: how many, and the value of the newest */
	_Atomic uint32_t wrong;
};

static bool is_port(const struct litmus *l)
{
	return l->kind == OUT || l->kind == COALESCED_OUT;
}

/* -- The guest -- */

static void load(struct litmus *l, bool real)
{
	const uint8_t *code = is_port(l) ? (real ? real_out : long_out) : (real ? real_store : long_store);
	struct kvm_sregs s;
	struct kvm_regs r;

	ku_load(&l->vm, CODE, code, 64);
	if (real) {
		ku_real_mode(&l->cpu, CODE);
		ku_get_sregs(&l->cpu, &s);
		s.es.base = DEV;
		s.es.selector = DEV >> 4;
		ku_set_sregs(&l->cpu, &s);
	} else {
		ku_long_mode(&l->vm, &l->cpu, TABLES, CODE, 0x8000);
	}
	ku_get_regs(&l->cpu, &r);
	r.rbx = real ? 0 : DEV;
	r.rsi = FLAG;
	r.rdi = ACK;
	r.rdx = PORT;
	ku_set_regs(&l->cpu, &r);
}

static void begin(struct litmus *l, enum kind kind, bool real)
{
	int page;

	*l = (struct litmus){.kind = kind, .bell = eventfd(0, EFD_NONBLOCK)};
	KU_CHECK(l->bell >= 0);
	ku_vm_create(&l->vm, RAM);
	ku_vcpu_create(&l->vm, 0, &l->cpu);
	page = ioctl(l->vm.sys, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
	KU_CHECK(page > 0);
	l->ring = (struct kvm_coalesced_mmio_ring *)((uint8_t *)l->cpu.run + (size_t)page * 4096);
	l->ring_size = (4096 - sizeof(*l->ring)) / sizeof(l->ring->coalesced_mmio[0]);
	load(l, real);
}

static void end(struct litmus *l)
{
	close(l->bell);
	ku_vcpu_destroy(&l->cpu);
	ku_vm_destroy(&l->vm);
}

static bool on_exit_(struct ru *r)
{
	struct litmus *l = r->arg;
	struct kvm_run *run = r->cpu->run;
	uint32_t val = 0;

	if (is_port(l)) {
		l->wrong += run->exit_reason != KVM_EXIT_IO || run->io.port != PORT || run->io.size != 4;
		memcpy(&val, ku_io_data(r->cpu), 4);
	} else {
		l->wrong +=
		    run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != DEV || run->mmio.len != 4;
		memcpy(&val, run->mmio.data, 4);
	}
	atomic_store(&l->last, val);
	atomic_fetch_add(&l->exits, 1);
	return true;
}

/* Shows the guest the number and waits until it has done its store. */
static void tell(struct litmus *l, uint32_t n)
{
	uint64_t end = 0;

	__atomic_store_n((uint32_t *)(l->vm.ram + FLAG), n, __ATOMIC_RELEASE);
	for (unsigned i = 1; __atomic_load_n((uint32_t *)(l->vm.ram + ACK), __ATOMIC_ACQUIRE) != n; i++) {
		if (i % 200)
			continue;
		sched_yield();
		end = end ? end : ru_ms() + 20000;
		KU_CHECK(ru_ms() < end && "the guest goes on");
	}
}

/* -- The registration -- */

static void put(struct litmus *l, bool on)
{
	struct kvm_ioeventfd io = {.addr = is_port(l) ? PORT : DEV,
				   .len = l->kind == STORE_ANY ? 0 : 4,
				   .fd = l->bell,
				   .flags = (is_port(l) ? KVM_IOEVENTFD_FLAG_PIO : 0) |
					    (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN)};
	struct kvm_coalesced_mmio_zone zone = {.addr = io.addr, .size = 4, .pio = is_port(l)};
	unsigned long coalesced = on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO;

	if (l->kind >= COALESCED)
		assert_int_equal(ku_errno(l->vm.fd, coalesced, &zone), 0);
	else
		assert_int_equal(ku_errno(l->vm.fd, KVM_IOEVENTFD, &io), 0);
}

/* How often it was rung since the last look; in the ring, with the value n. */
static unsigned rung(struct litmus *l, uint32_t n)
{
	struct kvm_coalesced_mmio_ring *r = l->ring;
	uint64_t count = 0;

	if (l->kind < COALESCED)
		return read(l->bell, &count, 8) == 8 ? (unsigned)count : 0;
	for (; r->first != __atomic_load_n(&r->last, __ATOMIC_ACQUIRE); count++) {
		assert_memory_equal(r->coalesced_mmio[r->first].data, &n, 4);
		__atomic_store_n(&r->first, (r->first + 1) % l->ring_size, __ATOMIC_RELEASE);
	}
	return (unsigned)count;
}

static void run(enum kind kind, bool real, const char *name)
{
	struct torture t = torture_begin(ROUNDS, 10000000);
	struct litmus l;
	struct ru cpu = {.cpu = &l.cpu, .on_exit = on_exit_, .arg = &l};
	uint32_t n = 0;

	/* Where two CPUs are shared with others every hand-over waits for a time slice: not for ever. */
	if (!t.limit_ns)
		t.limit_ns = 1500000000;
	begin(&l, kind, real);
	ru_start(&cpu);
	while (torture_more(&t)) {
		uint32_t exits = atomic_load(&l.exits);

		put(&l, true);
		tell(&l, ++n);
		if (atomic_load(&l.exits) != exits)
			print_error("%s: round %u leaked an exit\n", name, n);
		assert_int_equal(atomic_load(&l.exits), exits);
		assert_int_equal(rung(&l, n), 1);
		put(&l, false);
		tell(&l, ++n);
		assert_int_equal(atomic_load(&l.exits), exits + 1);
		assert_int_equal(atomic_load(&l.last), n);
		assert_int_equal(rung(&l, n), 0);
	}
	assert_int_equal(ru_stop(&cpu), EINTR);
	assert_int_equal(l.wrong, 0);
	torture_end(&t, name);
	end(&l);
}

/* Each seen to fail (exit leaked, or rung after DEASSIGN) with the array pointer of bus_array_reader kept per
 * thread and taken anew at every second access only. */
#define LITMUS(name, kind, real)        \
	static void name(void **state)  \
	{                               \
		run(kind, real, #name); \
	}

/* torture: litmus */
LITMUS(memory_64, STORE, false)
LITMUS(memory_any_length_64, STORE_ANY, false)
LITMUS(port_64, OUT, false)
LITMUS(coalesced_64, COALESCED, false)
LITMUS(coalesced_port_64, COALESCED_OUT, false)
LITMUS(memory_real, STORE, true)
LITMUS(port_real, OUT, true)
LITMUS(coalesced_real, COALESCED, true)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(memory_64),	 cmocka_unit_test(memory_any_length_64),
	    cmocka_unit_test(port_64),		 cmocka_unit_test(coalesced_64),
	    cmocka_unit_test(coalesced_port_64), cmocka_unit_test(memory_real),
	    cmocka_unit_test(port_real),	 cmocka_unit_test(coalesced_real),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
