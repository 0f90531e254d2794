/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Coalesced zones by their ABI: errno, how zones are found again, every position of the ring, a ring that the
 * VMM fills with nonsense, eight vCPUs that write while the VMM drains.
 *	make check T=api/coalesced
 *	USERKVM_ORACLE=1 build/checked/test/api/coalesced
 * WORKS: Coalesced MMIO and PIO | the ring of KVM, shared by all vCPUs
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest_util.h"
#include "run_util.h"

#define PAGE 4096UL
#define DEV  0xd0000000ULL
#define PORT 0xc000
#define CPUS 8
#define MAX  ((PAGE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

static struct gu g;
static struct kvm_coalesced_mmio_ring *ring;

static int setup(void **state)
{
	int page;

	gu_start(&g, GU_LONG);
	gu_window(&g, 0, DEV);
	gu_window(&g, 1, DEV + PAGE);
	page = ioctl(g.vm.sys, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
	KU_CHECK(page > 0);
	ring = (struct kvm_coalesced_mmio_ring *)((uint8_t *)g.cpu.run + (size_t)page * PAGE);
	return 0;
}

static int teardown(void **state)
{
	gu_end(&g);
	return 0;
}

static int zone(bool add, uint64_t addr, uint32_t size, uint32_t pio)
{
	struct kvm_coalesced_mmio_zone z = {.addr = addr, .size = size, .pio = pio};

	return ku_errno(g.vm.fd, add ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &z);
}

/* The guest stores (or puts out) EAX at offset RDX of the window, or at port DX. */
KU_ASM(store, 64, "movl %eax, (%rbx,%rdx)\n out %al, $0xe1");
KU_ASM(out, 64, "out %eax, %dx\n out %al, $0xe1");

/* True if the access came out to the VMM, false if it is in the ring. */
static bool comes_out(uint64_t where, bool pio, uint32_t val)
{
	struct kvm_run *run = g.cpu.run;
	struct kvm_regs r;

	if (pio)
		GU_ASM(&g, out);
	else
		GU_ASM(&g, store);
	ku_get_regs(&g.cpu, &r);
	r.rax = val;
	r.rbx = GU_WINDOW;
	r.rdx = where;
	ku_set_regs(&g.cpu, &r);
	KU_CHECK(ku_run(&g.cpu) == KVM_EXIT_IO || run->exit_reason == KVM_EXIT_MMIO);
	if (run->exit_reason == KVM_EXIT_IO && run->io.port == 0xe1)
		return false;
	KU_CHECK(pio ? run->io.port == where : run->mmio.phys_addr == DEV + where);
	KU_CHECK(ku_run(&g.cpu) == KVM_EXIT_IO && run->io.port == 0xe1);
	return true;
}

static void drain(void)
{
	ring->first = ring->last;
}

/* -- Zones -- */

/* Seen to fail without the look at pio in bus/coalesced.c. */
static void refusals(void **state)
{
	for (unsigned add = 0; add < 2; add++) {
		assert_int_equal(zone(add, DEV, PAGE, 2), EINVAL);
		assert_int_equal(zone(add, DEV, PAGE, 3), EINVAL);
		assert_int_equal(zone(add, DEV, PAGE, 0x100), EINVAL);
		assert_int_equal(zone(add, DEV, PAGE, 0xffffffff), EINVAL);
	}
	assert_int_equal(zone(false, DEV, PAGE, 0), 0); /* there is none: no matter */
	assert_int_equal(zone(false, PORT, 4, 1), 0);
	assert_true(comes_out(0, false, 1));
	assert_true(comes_out(PORT, true, 1));
}

/* The access has to be inside. Seen to fail without the second half of contains(). */
static void edges(void **state)
{
	assert_int_equal(zone(true, DEV + 0x10, 8, 0), 0);
	assert_int_equal(zone(true, PORT + 8, 8, 1), 0);
	for (unsigned at = 0x8; at < 0x20; at++)
		assert_int_equal(comes_out(at, false, at), !(at >= 0x10 && at + 4 <= 0x18));
	for (unsigned at = 0; at < 0x14; at++)
		assert_int_equal(comes_out(PORT + at, true, at), !(at >= 8 && at + 4 <= 16));
	assert_int_equal(ring->last - ring->first, 10);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(ring->coalesced_mmio[ring->first + i].pio, i >= 5);
	drain();
	assert_int_equal(zone(false, DEV + 0x10, 8, 0), 0);
	assert_int_equal(zone(false, PORT + 8, 8, 1), 0);
}

/* Every zone that contains the range goes, whatever it was registered as; the others stay. */
static void taken_away_by_range(void **state)
{
	assert_int_equal(zone(true, DEV, 0x100, 0), 0);
	assert_int_equal(zone(true, DEV, 0x100, 0), 0); /* twice: no matter */
	assert_int_equal(zone(true, DEV + 0x40, 0x40, 0), 0);
	assert_int_equal(zone(true, DEV + 0x80, 0x100, 0), 0);
	assert_int_equal(zone(false, DEV, 0x101, 0), 0); /* in none */
	assert_int_equal(zone(false, DEV, 0x100, 1), 0); /* ports are others */
	assert_false(comes_out(0x10, false, 1));
	assert_int_equal(zone(false, DEV + 0x50, 4, 0), 0); /* in the first three */
	assert_true(comes_out(0x10, false, 1));
	assert_true(comes_out(0x50, false, 1));
	assert_false(comes_out(0x80, false, 1));
	assert_int_equal(zone(false, DEV + 0x17f, 1, 0), 0);
	assert_true(comes_out(0x80, false, 1));
	drain();
}

/* A zone is a device: a thousand of them fit on a bus. */
static void too_many(void **state)
{
	unsigned i = 0;

	while (!zone(true, DEV + PAGE + i * 4, 4, 0))
		i++;
	assert_in_range(i, 990, 1000);
	assert_int_equal(zone(true, DEV, 4, 0), ENOSPC);
	assert_int_equal(zone(true, PORT, 4, 1), 0);
	while (i--)
		assert_int_equal(zone(false, DEV + PAGE + i * 4, 4, 0), 0);
	assert_int_equal(zone(true, DEV, 4, 0), 0);
	assert_false(comes_out(0, false, 1));
	assert_int_equal(zone(false, DEV, 4, 0), 0);
	assert_int_equal(zone(false, PORT, 4, 1), 0);
	drain();
}

/* -- The ring -- */

/* From every position one entry goes where it belongs; from every position exactly MAX - 1 fit. Seen to fail
 * with `last + 1` not wrapped in ring_put. */
static void every_position(void **state)
{
	assert_int_equal(zone(true, DEV, PAGE, 0), 0);
	for (unsigned at = 0; at < MAX; at++) {
		ring->first = ring->last = at;
		assert_false(comes_out(at * 4, false, at + 1));
		assert_int_equal(ring->last, (at + 1) % MAX);
		assert_int_equal(ring->coalesced_mmio[at].phys_addr, DEV + at * 4);
		assert_int_equal(ring->coalesced_mmio[at].len, 4);
		assert_memory_equal(ring->coalesced_mmio[at].data, &(uint32_t){at + 1}, 4);
		ring->first = at;
		ring->last = (at + MAX - 2) % MAX; /* one place left */
		assert_false(comes_out(0, false, 7));
		assert_true(comes_out(0, false, 8));
	}
	drain();
	assert_int_equal(zone(false, DEV, PAGE, 0), 0);
}

/* Nonsense in the indices: the write comes out, and nothing beside the ring is written. Seen to fail without
 * the look at the range of `last` in ring_put. */
static void nonsense(void **state)
{
	static const uint32_t bad[] = {MAX,	   MAX + 1,    1000,	   4096,       0x10000,
				       0x7fffffff, 0x80000000, 0xfffffff0, 0xfffffffe, 0xffffffff};
	static uint8_t before[3 * PAGE], after[3 * PAGE];
	struct kvm_coalesced_mmio_ring saved = *ring;

	assert_int_equal(zone(true, DEV, PAGE, 0), 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ring->last = bad[i];
		ring->first = i & 1 ? bad[i] : 0;
		memcpy(before, ring->coalesced_mmio, PAGE - sizeof(*ring));
		assert_true(comes_out(0, false, 0x5a5a5a5a));
		assert_int_equal(ring->last, bad[i]);
		memcpy(after, ring->coalesced_mmio, PAGE - sizeof(*ring));
		assert_memory_equal(before, after, PAGE - sizeof(*ring));
	}
	/* A nonsense `first` is only never reached: the ring takes what it can. */
	ring->last = 0;
	ring->first = 0xffffffff;
	assert_false(comes_out(0, false, 1));
	ring->first = saved.first;
	ring->last = saved.last;
	assert_int_equal(zone(false, DEV, PAGE, 0), 0);
	assert_true(comes_out(0, false, 1));
}

/* -- Eight vCPUs -- */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define EACH 1000
#else
#define EACH 10000
#endif

static pthread_mutex_t drain_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t seen[CPUS], lost;
static _Atomic unsigned running;

/* Entry by entry: vCPU in the upper byte, its count below; each vCPU's come in order, none missing. */
static void note(uint32_t val)
{
	uint32_t cpu = val >> 24;

	if (cpu >= CPUS || (val & 0xffffff) != seen[cpu] + 1)
		lost++;
	else
		seen[cpu]++;
}

static void take_all(void)
{
	while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
		uint32_t val;

		memcpy(&val, ring->coalesced_mmio[ring->first].data, 4);
		note(val);
		__atomic_store_n(&ring->first, (ring->first + 1) % MAX, __ATOMIC_RELEASE);
	}
}

/* The ring was full: what is in it came before. */
static bool on_full(struct ru *r)
{
	struct kvm_run *run = r->cpu->run;
	uint32_t val;

	if (run->exit_reason == KVM_EXIT_HLT) {
		atomic_fetch_sub(&running, 1);
		return false;
	}
	KU_CHECK(run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr == DEV && run->mmio.is_write);
	memcpy(&val, run->mmio.data, 4);
	pthread_mutex_lock(&drain_lock);
	take_all();
	note(val);
	pthread_mutex_unlock(&drain_lock);
	return true;
}

KU_ASM(fill, 64, "1: inc %ecx\n lea (%rax,%rcx), %edx\n mov %edx, (%rbx)\n cmp %esi, %ecx\n jne 1b\n hlt");

/* No entry is lost, none comes twice, and each vCPU's are in order. Seen to fail without ring_lock. */
static void eight_writers(void **state)
{
	struct ku_vcpu cpus[CPUS];
	struct ru runs[CPUS];
	struct kvm_sregs s;
	struct kvm_regs r;

	memset(seen, 0, sizeof(seen));
	lost = 0;
	GU_ASM(&g, fill);
	ku_get_sregs(&g.cpu, &s);
	ku_get_regs(&g.cpu, &r);
	assert_int_equal(zone(true, DEV, PAGE, 0), 0);
	atomic_store(&running, CPUS);
	for (unsigned i = 0; i < CPUS; i++) {
		cpus[i] = g.cpu;
		if (i)
			ku_vcpu_create(&g.vm, i, &cpus[i]);
		ku_set_sregs(&cpus[i], &s);
		r.rax = (uint64_t)i << 24;
		r.rbx = GU_WINDOW;
		r.rcx = 0;
		r.rsi = EACH;
		ku_set_regs(&cpus[i], &r);
		runs[i] = (struct ru){.cpu = &cpus[i], .on_exit = on_full};
		ru_start(&runs[i]);
	}
	while (atomic_load(&running)) {
		pthread_mutex_lock(&drain_lock);
		take_all();
		pthread_mutex_unlock(&drain_lock);
		usleep(10);
	}
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(ru_join(&runs[i]), 0);
	take_all();
	assert_int_equal(lost, 0);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(seen[i], EACH);
	assert_int_equal(zone(false, DEV, PAGE, 0), 0);
	for (unsigned i = 1; i < CPUS; i++)
		ku_vcpu_destroy(&cpus[i]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(refusals),	  TEST(edges),	  TEST(taken_away_by_range), TEST(too_many),
	    TEST(every_position), TEST(nonsense), TEST(eight_writers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
