/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * No dirty bit is lost: vCPUs stamp pages while the log is collected, by bitmap, by bitmap and clear, and by
 * rings. What differs from its copy before a collection is in what is collected.
 *	make check T=guest/dirty
 *	make torture T=guest/dirty TIME=600
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run_util.h"
#include "torture.h"

#define RAM    0x200000
#define CODE   0x1000
#define WINDOW 0x40000000U
#define PAGE   4096UL
#define PAGES  256U
#define SIZE   (PAGES * PAGE)
#define VCPUS  4
#define WORDS  (PAGES / 64)
#define ENOUGH 20	/* rounds at least, however fast the guest is */
#define RING   0x10000U /* bytes: 4096 entries; and a small one below */
#define SMALL  PAGE

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define WRITES 100000U
#else
#define WRITES 10000000U
#endif

/* Stamps the word at EBX of a random page with a number that grows; one form exchanges. */
KU_ASM(stamp, 32,
       "1: imul $1664525, %eax, %eax\n add $1013904223, %eax\n"
       "mov %eax, %edx\n shr $12, %edx\n and $0xff000, %edx\n"
       "inc %ecx\n mov %ecx, (%ebx,%edx)\n jmp 1b");
KU_ASM(swap, 32,
       "1: imul $1664525, %eax, %eax\n add $1013904223, %eax\n"
       "mov %eax, %edx\n shr $12, %edx\n and $0xff000, %edx\n"
       "inc %ecx\n mov %ecx, %esi\n xchg %esi, (%ebx,%edx)\n jmp 1b");

struct env {
	struct ku_vm vm;
	struct ku_vcpu cpu[VCPUS];
	struct ru run[VCPUS];
	struct kvm_dirty_gfn *ring[VCPUS];
	uint32_t collected[VCPUS], ring_size; /* entries */
	uint8_t *mem;
	uint64_t bits[WORDS], owed[WORDS];
	uint32_t copy[PAGES][VCPUS];
	uint64_t rounds, pages;
};

static struct env env;
static _Atomic unsigned other_exits, full_exits;

static _Atomic uint32_t *words_of(struct env *e, unsigned page)
{
	return (_Atomic uint32_t *)(e->mem + page * PAGE);
}

static bool on_exit_of(struct ru *r)
{
	if (r->cpu->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL) {
		atomic_fetch_add(&other_exits, 1);
		return false;
	}
	atomic_fetch_add(&full_exits, 1);
	sched_yield(); /* until the collector has reset */
	return true;
}

/* A VM whose vCPUs stand at their programs; ring: bytes of a dirty ring, or 0. */
static struct env *start(uint32_t ring)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {ring}};
	struct env *e = &env;

	memset(e, 0, sizeof(*e));
	ku_vm_create(&e->vm, RAM);
	if (ring)
		assert_int_equal(ku_errno(e->vm.fd, KVM_ENABLE_CAP, &cap), 0);
	e->ring_size = ring / sizeof(struct kvm_dirty_gfn);
	e->mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	KU_CHECK(e->mem != MAP_FAILED);
	ku_load(&e->vm, CODE, stamp, (size_t)(stamp_end - stamp));
	ku_load(&e->vm, CODE + PAGE, swap, (size_t)(swap_end - swap));
	for (unsigned i = 0; i < VCPUS; i++) {
		uint32_t at = i == VCPUS - 1 ? CODE + PAGE : CODE;
		struct kvm_regs r = {.rip = at, .rflags = 2, .rbx = WINDOW + 4 * i, .rax = i};

		ku_vcpu_create(&e->vm, i, &e->cpu[i]);
		ku_protected_mode(&e->cpu[i], at, 0x8000);
		ku_set_regs(&e->cpu[i], &r);
		e->run[i] = (struct ru){.cpu = &e->cpu[i], .on_exit = on_exit_of};
		if (!ring)
			continue;
		e->ring[i] = mmap(NULL, ring, PROT_READ | PROT_WRITE, MAP_SHARED, e->cpu[i].fd,
				  KVM_DIRTY_LOG_PAGE_OFFSET * PAGE);
		KU_CHECK(e->ring[i] != MAP_FAILED);
	}
	atomic_store(&other_exits, 0);
	atomic_store(&full_exits, 0);
	return e;
}

static void finish(struct env *e)
{
	for (unsigned i = 0; i < VCPUS; i++) {
		if (e->ring[i])
			munmap(e->ring[i], e->ring_size * sizeof(struct kvm_dirty_gfn));
		ku_vcpu_destroy(&e->cpu[i]);
	}
	ku_vm_destroy(&e->vm);
	munmap(e->mem, SIZE);
}

static bool bit(const uint64_t *bits, unsigned n)
{
	return bits[n / 64] >> (n % 64) & 1;
}

/* -- Three ways to collect into e->bits; a way ends with the pages protected again -- */

static void by_bitmap(struct env *e)
{
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = e->bits};

	assert_int_equal(ku_errno(e->vm.fd, KVM_GET_DIRTY_LOG, &log), 0);
}

/* Cleared in pieces, in another order each time. */
static void by_clear(struct env *e)
{
	struct kvm_clear_dirty_log clear = {.slot = 1, .num_pages = 64};

	by_bitmap(e);
	for (unsigned i = 0; i < WORDS; i++) {
		unsigned at = (unsigned)(i + e->rounds) % WORDS;

		clear.first_page = at * 64;
		clear.dirty_bitmap = &e->bits[at];
		assert_int_equal(ku_errno(e->vm.fd, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	}
}

static void by_ring(struct env *e)
{
	int n = 0;

	memset(e->bits, 0, sizeof(e->bits));
	for (unsigned i = 0; i < VCPUS; i++) {
		for (;; n++) {
			struct kvm_dirty_gfn *g = &e->ring[i][e->collected[i] % e->ring_size];

			if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
				break;
			assert_int_equal(g->slot, 1);
			assert_true(g->offset < PAGES);
			e->bits[g->offset / 64] |= 1ULL << (g->offset % 64);
			__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
			e->collected[i]++;
		}
	}
	assert_int_equal(ioctl(e->vm.fd, KVM_RESET_DIRTY_RINGS, 0), n);
}

/*
 * One round. With rings a vCPU may write to a page that another one is just about to enter: then the page is
 * owed until it comes.
 */
static void collect(struct env *e, void (*by)(struct env *e))
{
	for (unsigned p = 0; p < PAGES; p++) {
		for (unsigned i = 0; i < VCPUS; i++) {
			if (atomic_load(&words_of(e, p)[i]) != e->copy[p][i])
				e->owed[p / 64] |= 1ULL << (p % 64);
		}
	}
	by(e);
	e->rounds++;
	for (unsigned p = 0; p < PAGES; p++) {
		if (!bit(e->bits, p))
			continue;
		e->owed[p / 64] &= ~(1ULL << (p % 64));
		e->pages++;
		for (unsigned i = 0; i < VCPUS; i++)
			e->copy[p][i] = atomic_load(&words_of(e, p)[i]);
	}
	for (unsigned w = 0; w < WORDS && by != by_ring; w++)
		assert_int_equal(e->owed[w], 0);
}

/* Writes so far: each vCPU's highest stamp. */
static uint64_t written(const struct env *e)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < VCPUS; i++) {
		uint32_t max = 0;

		for (unsigned p = 0; p < PAGES; p++)
			max = e->copy[p][i] > max ? e->copy[p][i] : max;
		n += max;
	}
	return n;
}

/* A ring was full, or there was every chance for it. */
static bool filled(const struct env *e)
{
	return atomic_load(&full_exits) || e->rounds >= 100 * ENOUGH;
}

/*
 * Stamps and collections until there were so many writes, and rings that are to be full were; then nothing is owed and
 * every copy is right.
 */
static void stamped(struct env *e, void (*by)(struct env *e), bool full, const char *name)
{
	uint64_t wanted = torture_seconds() ? 1000000000 : WRITES;
	struct torture t = torture_begin(UINT64_MAX, UINT64_MAX);

	assert_int_equal(ku_set_slot(&e->vm, 1, KVM_MEM_LOG_DIRTY_PAGES, WINDOW, e->mem, SIZE), 0);
	for (unsigned i = 0; i < VCPUS; i++)
		ru_start(&e->run[i]);
	while ((written(e) < wanted || e->rounds < ENOUGH || (full && !filled(e))) && torture_more(&t)) {
		collect(e, by);
		if (e->rounds % 4 == 0)
			usleep(e->rounds % 64 * 16);
		assert_int_equal(atomic_load(&other_exits), 0);
	}
	for (unsigned i = 0; i < VCPUS; i++)
		assert_int_equal(ru_stop(&e->run[i]), EINTR);
	collect(e, by);
	for (unsigned w = 0; w < WORDS; w++)
		assert_int_equal(e->owed[w], 0);
	for (unsigned p = 0; p < PAGES; p++) {
		for (unsigned i = 0; i < VCPUS; i++)
			assert_int_equal(e->copy[p][i], atomic_load(&words_of(e, p)[i]));
	}
	assert_int_equal(atomic_load(&other_exits), 0);
	assert_true(e->rounds > 5 && e->pages > 200);
	if (torture_seconds())
		printf("torture: %s: %lu of %lu writes\n", name, written(e), wanted);
	torture_end(&t, name);
}

/* Seen to fail with the revocation left out of take_snapshot, and with pages handed out without a mark (log_set in
 * writable_now). torture: dirty-bitmap */
static void nothing_is_lost_by_bitmap(void **state)
{
	struct env *e;

	if (ku_oracle())
		skip(); /* four vCPUs */
	e = start(0);
	stamped(e, by_bitmap, false, "dirty-bitmap");
	finish(e);
}

/* Seen to fail with the revocation left out of mem_clear_dirty_log. torture: dirty-clear */
static void nothing_is_lost_by_clear(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				     .args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};
	struct env *e;

	if (ku_oracle())
		skip(); /* four vCPUs */
	e = start(0);
	assert_int_equal(ku_errno(e->vm.fd, KVM_ENABLE_CAP, &cap), 0);
	stamped(e, by_clear, false, "dirty-clear");
	finish(e);
}

static bool have_rings(void)
{
	int sys = ku_open(), n = ioctl(sys, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);

	close(sys);
	return n > 0;
}

/* Seen to fail (the rings run dry) with the right to write not taken in batch_end. torture: dirty-rings */
static void nothing_is_lost_by_rings(void **state)
{
	struct env *e;

	if (ku_oracle())
		skip(); /* four vCPUs */
	if (!have_rings())
		skip();
	e = start(RING);
	stamped(e, by_ring, false, "dirty-rings");
	finish(e);
}

/* 192 entries until it is full, for 256 pages. Seen to fail (no vCPU is stopped) with mem_ring_soft_full never true and
 * MEM_FULL left out of fill. torture: dirty-small-rings
 * WORKS: dirty rings | four vCPUs against a collector, full rings, resets; no write lost in 10^7 */
static void nothing_is_lost_by_full_rings(void **state)
{
	struct env *e;

	if (ku_oracle())
		skip(); /* four vCPUs */
	if (!have_rings())
		skip();
	e = start(SMALL);
	stamped(e, by_ring, true, "dirty-small-rings");
	assert_true(atomic_load(&full_exits) > 0);
	finish(e);
}

/* -- What the ioctls say of rings -- */

static int enable(int vm, uint32_t cap, uint64_t bytes, uint32_t flags)
{
	struct kvm_enable_cap c = {.cap = cap, .flags = flags, .args = {bytes}};

	return ku_errno(vm, KVM_ENABLE_CAP, &c);
}

/* Seen to fail with flags or the upper half looked at in vm_enable_cap. */
static void rings_are_enabled_once_and_early(void **state)
{
	uint64_t bits[WORDS];
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bits};
	struct kvm_clear_dirty_log clear = {.slot = 0, .num_pages = 64, .dirty_bitmap = bits};
	uint32_t cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
	struct ku_vm vm;
	struct ku_vcpu cpu;
	int max;

	if (!have_rings())
		skip();
	ku_vm_create(&vm, RAM);
	max = ioctl(vm.fd, KVM_CHECK_EXTENSION, cap);
	assert_int_equal(max, ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING));
	assert_int_equal(max, 65536 * sizeof(struct kvm_dirty_gfn));
	assert_int_equal(ku_errno(vm.fd, KVM_RESET_DIRTY_RINGS, 0), EINVAL);
	assert_int_equal(enable(vm.fd, cap, 0, 0), EINVAL);
	assert_int_equal(enable(vm.fd, cap, 3 * PAGE, 0), EINVAL);
	assert_int_equal(enable(vm.fd, cap, 512, 0), EINVAL);
	assert_int_equal(enable(vm.fd, cap, 2 * (uint64_t)max, 0), E2BIG);
	assert_int_equal(enable(vm.fd, cap, 1ULL << 32, 0), EINVAL);
	assert_int_equal(ku_set_slot(&vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, vm.ram, RAM), 0);
	/* neither flags nor the upper half are looked at */
	assert_int_equal(enable(vm.fd, cap, RING | 1ULL << 32, 1), 0);
	assert_int_equal(enable(vm.fd, cap, RING, 0), EINVAL);
	assert_int_equal(ku_errno(vm.fd, KVM_GET_DIRTY_LOG, &log), ENXIO);
	assert_int_equal(ku_errno(vm.fd, KVM_CLEAR_DIRTY_LOG, &clear), ENXIO);
	assert_int_equal(ioctl(vm.fd, KVM_RESET_DIRTY_RINGS, 0), 0);
	assert_int_equal(ioctl(vm.sys, KVM_GET_VCPU_MMAP_SIZE, 0), vm.vcpu_size);
	ku_vm_destroy(&vm);
	ku_vm_create(&vm, RAM);
	ku_vcpu_create(&vm, 0, &cpu);
	assert_int_equal(enable(vm.fd, cap, RING, 0), EINVAL); /* too late */
	ku_vcpu_destroy(&cpu);
	ku_vm_destroy(&vm);
}

/* mmap's errno; 0 if it works. */
static int map_errno(int fd, size_t len, int prot, int flags, unsigned page)
{
	void *p = mmap(NULL, len, prot, flags, fd, page * (off_t)PAGE);

	if (p == MAP_FAILED)
		return errno;
	munmap(p, len);
	return 0;
}

/* Seen to fail without vcpu_may_map. */
static void ring_pages_are_shared_data(void **state)
{
	const int rw = PROT_READ | PROT_WRITE;
	const unsigned first = KVM_DIRTY_LOG_PAGE_OFFSET, pages = RING / PAGE;
	struct ku_vcpu *cpu = &env.cpu[0];
	int e;

	if (!have_rings())
		skip();
	start(RING);
	assert_int_equal(map_errno(cpu->fd, RING, rw, MAP_SHARED, first), 0);
	assert_int_equal(map_errno(cpu->fd, RING, PROT_READ, MAP_SHARED, first), 0);
	assert_int_equal(map_errno(cpu->fd, RING, rw, MAP_PRIVATE, first), EINVAL);
	e = map_errno(cpu->fd, RING, rw | PROT_EXEC, MAP_SHARED, first);
	assert_true(e == EINVAL || (ku_oracle() && e == EPERM)); /* newer kernels: no code in any such file */
	assert_int_equal(map_errno(cpu->fd, PAGE, rw, MAP_PRIVATE, first + pages - 1), EINVAL);
	assert_int_equal(map_errno(cpu->fd, 2 * PAGE, rw, MAP_PRIVATE, first - 1), EINVAL);
	assert_int_equal(map_errno(cpu->fd, PAGE, rw, MAP_PRIVATE, first - 1), 0);
	assert_int_equal(map_errno(cpu->fd, PAGE, rw, MAP_PRIVATE, first + pages), 0);
	assert_int_equal(map_errno(cpu->fd, PAGE, rw, MAP_PRIVATE, 0), 0);
	finish(&env);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(rings_are_enabled_once_and_early),
	    cmocka_unit_test(ring_pages_are_shared_data),
	    cmocka_unit_test(nothing_is_lost_by_bitmap),
	    cmocka_unit_test(nothing_is_lost_by_clear),
	    cmocka_unit_test(nothing_is_lost_by_rings),
	    cmocka_unit_test(nothing_is_lost_by_full_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
