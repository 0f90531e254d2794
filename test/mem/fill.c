/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=mem/fill: what a vCPU is handed, the hypervisor's own accesses, invalidations. */
#include "mem_test.h"

static uint8_t *pool;

static int make_pool(void **state)
{
	pool = ram(64);
	return base_sig_enable();
}

static void nothing_there_is_a_device(void **state)
{
	struct world *w = *state;
	struct mem_page p;
	uint64_t v = 0;

	assert_int_equal(mem_fill(w->mem, 0, 0, false, &p), MEM_MMIO);
	assert_int_equal(mem_fill(w->mem, 0, UINT64_MAX, true, &p), MEM_MMIO);
	assert_int_equal(mem_read(w->mem, 0, 0, &v, 8), -EFAULT);
	assert_int_equal(mem_write(w->mem, 0, 0, &v, 8), -EFAULT);
	assert_int_equal(mem_cmpxchg(w->mem, 0, 0, 8, &v, 1), -EFAULT);
	assert_int_equal(mem_read(w->mem, 0, 0, &v, 0), 0);
}

/* Seen to fail without MEM_READONLY in fill, and without the look at `readonly` in access.c's find. */
static void readonly_slots_read_but_do_not_write(void **state)
{
	struct world *w = *state;
	struct mem_page p;
	uint32_t v = 1;
	uint64_t old = 0;

	assert_int_equal(set_region(w, 0, KVM_MEM_READONLY, 0x1000, 2 * PAGE_SIZE, pool), 0);
	assert_int_equal(mem_fill(w->mem, 0, 0x1000, true, &p), MEM_READONLY);
	assert_int_equal(mem_fill(w->mem, 0, 0x1000, false, &p), MEM_FIXED);
	assert_false(p.writable);
	assert_int_equal(mem_write(w->mem, 0, 0x1000, &v, 4), -EFAULT);
	assert_int_equal(mem_cmpxchg(w->mem, 0, 0x1000, 4, &old, 1), -EFAULT);
	assert_int_equal(mem_read(w->mem, 0, 0x1000, &v, 4), 0);
	assert_int_equal(v, 0);
	assert_true(mem_is_visible(w->mem, 0, 0x1000));
}

/* Seen to fail with ids made of the host address. */
static void pages_have_addresses_and_identities(void **state)
{
	struct world *w = *state;
	struct mem_page a, b;

	assert_int_equal(set_region(w, 0, 0, 0x1000, 4 * PAGE_SIZE, pool), 0);
	assert_int_equal(set_region(w, 1, 0, 0x5000, 4 * PAGE_SIZE, pool), 0);
	assert_int_equal(mem_fill(w->mem, 0, 0x3abc, true, &a), MEM_FIXED);
	assert_ptr_equal(a.host, pool + 2 * PAGE_SIZE);
	assert_true(a.writable);
	assert_int_equal(mem_fill(w->mem, 0, 0x7000, false, &b), MEM_FIXED);
	assert_ptr_equal(b.host, a.host);
	assert_true(b.id != a.id);
	assert_int_equal(mem_fill(w->mem, 0, 0x3000, false, &b), MEM_FIXED);
	assert_true(b.id == a.id);
	/* A change of flags leaves identities alone. */
	assert_int_equal(set_region(w, 0, KVM_MEM_LOG_DIRTY_PAGES, 0x1000, 4 * PAGE_SIZE, pool), 0);
	assert_int_equal(mem_fill(w->mem, 0, 0x3000, false, &b), MEM_FIXED);
	assert_true(b.id == a.id);
}

static void fill_touches_no_guest_memory(void **state)
{
	struct world *w = *state;
	struct mem_page p;

	assert_int_equal(set_region(w, 0, 0, 0, PAGE_SIZE, (void *)0x7fff00000000), 0); /* not mapped */
	assert_int_equal(mem_fill(w->mem, 0, 0, true, &p), MEM_FIXED);
	assert_ptr_equal(p.host, (void *)0x7fff00000000);
}

/* Seen to fail with a page's whole length taken from any byte of it, in access.c's find. */
static void accesses_cross_slots_and_stop_at_holes(void **state)
{
	struct world *w = *state;
	uint8_t buf[3 * PAGE_SIZE], back[3 * PAGE_SIZE];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7);
	assert_int_equal(set_region(w, 0, 0, 0x1000, 2 * PAGE_SIZE, pool + 8 * PAGE_SIZE), 0);
	assert_int_equal(set_region(w, 1, 0, 0x3000, 2 * PAGE_SIZE, pool), 0);
	assert_int_equal(mem_write(w->mem, 0, 0x1800, buf, sizeof(buf)), 0);
	assert_memory_equal(pool + 8 * PAGE_SIZE + 0x800, buf, 0x1800);
	assert_memory_equal(pool, buf + 0x1800, 0x1800);
	assert_int_equal(mem_read(w->mem, 0, 0x1800, back, sizeof(back)), 0);
	assert_memory_equal(back, buf, sizeof(buf));
	assert_int_equal(mem_read(w->mem, 0, 0x2800, back, sizeof(back)), -EFAULT);
	assert_int_equal(mem_write(w->mem, 0, 0x800, buf, 0x1000), -EFAULT);
}

static void vanished_memory_gives_efault(void **state)
{
	struct world *w = *state;
	uint8_t *p = ram(2), b = 1;
	uint64_t old = 0;

	assert_int_equal(set_region(w, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, 2 * PAGE_SIZE, p), 0);
	assert_int_equal(mem_write(w->mem, 0, 0, &b, 1), 0);
	munmap(p + PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(mem_write(w->mem, 0, PAGE_SIZE, &b, 1), -EFAULT);
	assert_int_equal(mem_read(w->mem, 0, PAGE_SIZE - 1, &old, 2), -EFAULT);
	assert_int_equal(mem_cmpxchg(w->mem, 0, PAGE_SIZE, 4, &old, 1), -EFAULT);
	mprotect(p, PAGE_SIZE, PROT_READ);
	assert_int_equal(mem_write(w->mem, 0, 0, &b, 1), -EFAULT);
	assert_int_equal(mem_read(w->mem, 0, 0, &b, 1), 0);
	munmap(p, PAGE_SIZE);
}

/* Seen to fail without the test of the alignment in mem_cmpxchg. */
static void exchanges_compare(void **state)
{
	struct world *w = *state;
	uint64_t old = 5;

	memset(pool, 0, PAGE_SIZE);
	assert_int_equal(set_region(w, 0, 0, 0, PAGE_SIZE, pool), 0);
	assert_int_equal(mem_cmpxchg(w->mem, 0, 4, 4, &old, 7), 0);
	assert_int_equal(old, 0);
	assert_int_equal(mem_cmpxchg(w->mem, 0, 4, 4, &old, 7), 0);
	assert_int_equal(((uint32_t *)pool)[1], 7);
	assert_int_equal(((uint32_t *)pool)[0], 0);
	assert_int_equal(mem_cmpxchg(w->mem, 0, 2, 4, &old, 7), -EFAULT);
	assert_int_equal(mem_cmpxchg(w->mem, 0, 0, 2, &old, 7), -EFAULT);
	old = 7UL << 32;
	assert_int_equal(mem_cmpxchg(w->mem, 0, 0, 8, &old, 9), 0);
	assert_int_equal(*(uint64_t *)pool, 9);
}

/* Seen to fail without mem_invalidating in fill. */
static void invalidations_make_fills_retry(void **state)
{
	struct world *w = *state;
	uint64_t hva = (uint64_t)pool;
	struct mem_invalidation a, b;
	struct mem_page p;

	mem_invalidate_begin(&a, hva, PAGE_SIZE);
	mem_invalidate_vm(w->mem, &a); /* no slot there */
	mem_invalidate_end(&a);
	assert_int_equal(set_region(w, 0, 0, 0, 16 * PAGE_SIZE, pool), 0);
	mem_invalidate_begin(&a, hva + 16 * PAGE_SIZE, PAGE_SIZE);
	mem_invalidate_vm(w->mem, &a);
	mem_invalidate_end(&a);
	assert_int_equal(w->flushes, 0);
	mem_invalidate_begin(&a, hva + 4 * PAGE_SIZE, PAGE_SIZE);
	mem_invalidate_vm(w->mem, &a);
	assert_int_equal(w->flushes, 1);
	assert_int_equal(mem_fill(w->mem, 0, 4 * PAGE_SIZE, false, &p), MEM_RETRY);
	assert_int_equal(mem_fill(w->mem, 0, 3 * PAGE_SIZE, false, &p), MEM_FIXED);
	assert_int_equal(mem_fill(w->mem, 0, 5 * PAGE_SIZE, false, &p), MEM_FIXED);
	mem_invalidate_begin(&b, hva + 8 * PAGE_SIZE, PAGE_SIZE); /* a second one */
	assert_int_equal(mem_fill(w->mem, 0, 8 * PAGE_SIZE, false, &p), MEM_RETRY);
	mem_invalidate_end(&a);
	assert_int_equal(mem_fill(w->mem, 0, 8 * PAGE_SIZE, false, &p), MEM_RETRY);
	assert_int_equal(mem_fill(w->mem, 0, 4 * PAGE_SIZE, false, &p), MEM_FIXED);
	mem_invalidate_end(&b);
	assert_int_equal(mem_fill(w->mem, 0, 8 * PAGE_SIZE, false, &p), MEM_FIXED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(nothing_there_is_a_device),
	    TEST(readonly_slots_read_but_do_not_write),
	    TEST(pages_have_addresses_and_identities),
	    TEST(fill_touches_no_guest_memory),
	    TEST(accesses_cross_slots_and_stop_at_holes),
	    TEST(vanished_memory_gives_efault),
	    TEST(exchanges_compare),
	    TEST(invalidations_make_fills_retry),
	};

	return cmocka_run_group_tests(tests, make_pool, NULL);
}
