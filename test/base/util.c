/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* make check T=base/util: memory that fails on demand, big blocks that cost nothing, the TSC's frequency, log
 * lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/base.h"
#include "base/sys.h"

static void impossible_sizes_are_refused(void **state)
{
	assert_null(base_zalloc(SIZE_MAX));
	assert_null(base_zalloc(SIZE_MAX - 64));
	assert_null(base_zalloc_aligned(4096, PTRDIFF_MAX));
	base_free(NULL);
}

static void nth_allocation_fails(void **state)
{
	long live = base_alloc_live();
	void *a, *b, *c;

	base_alloc_fail_at(2);
	a = base_zalloc(8);
	b = base_zalloc(8);
	c = base_zalloc(8);
	assert_non_null(a);
	assert_null(b);
	assert_non_null(c);
	assert_int_equal(base_alloc_live(), live + 2);
	base_free(a);
	base_free(c);
	assert_int_equal(base_alloc_live(), live);
}

static void blocks_are_zeroed_and_aligned(void **state)
{
	static const size_t sizes[] = {1, 100, 4096, 200000, 3UL << 20};

	for (size_t align = 16; align <= 4096; align *= 4) {
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			unsigned char *p = base_zalloc_aligned(align, sizes[i]);

			assert_non_null(p);
			assert_int_equal((uintptr_t)p % align, 0);
			assert_int_equal(p[0] | p[sizes[i] / 2] | p[sizes[i] - 1], 0);
			memset(p, 0xff, sizes[i]);
			base_free(p);
		}
	}
}

/* One after the other, the first one written all over: zeros come from the kernel each time, only where they are looked at. */
static void big_blocks_are_lazy(void **state)
{
	enum { SIZE = 64 << 20, PAGES = SIZE / PAGE_SIZE };
	static unsigned char resident[PAGES + 1];

	for (int round = 0; round < 3; round++) {
		unsigned char *p = base_zalloc(SIZE);
		unsigned touched = 0;

		assert_non_null(p);
		assert_int_equal(p[0] | p[PAGE_SIZE] | p[SIZE - 1], 0);
		assert_return_code(mincore((void *)((uintptr_t)p & ~PAGE_OFFSET_MASK), SIZE, resident),
				   errno);
		for (unsigned k = 0; k < PAGES; k++)
			touched += resident[k] & 1;
		assert_in_range(touched, 1, PAGES / 8); /* huge pages, where the host makes them */
		for (size_t k = 0; k < SIZE; k += 8)
			*(uint64_t *)(p + k) |= k + !round;
		assert_int_equal(*(uint64_t *)(p + SIZE / 2), SIZE / 2 + !round);
		base_free(p);
	}
}

static void tsc_keeps_its_time(void **state)
{
	uint64_t khz = base_tsc_khz(), t0, c0, dt, dc;

	assert_int_equal(khz, base_tsc_khz());
	t0 = base_now_ns();
	c0 = base_rdtsc();
	usleep(20000);
	dc = base_rdtsc() - c0;
	dt = base_now_ns() - t0;
	/* dc / dt within 2 % of khz: a sleep on a loaded machine stretches both alike */
	assert_in_range(mul_div64(dc, 1000000, dt), khz - khz / 50, khz + khz / 50);
}

static void claimed_fds_are_high(void **state)
{
	int fd = sys_fd_claim(open("/dev/null", O_RDONLY));

	assert_true(fd >= 512);
	assert_true(sys_fd_is_ours(fd));
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	sys_fd_close(fd);
	assert_false(sys_fd_is_ours(fd));
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(sys_fd_claim(-EMFILE), -EMFILE);
}

/* Runs in a child, for the environment is read once. */
static void log_goes_where_it_is_told(void **state)
{
	char path[] = "/tmp/ukvm-log-XXXXXX", env[64], buf[256] = "";
	int fd = mkstemp(path), status;

	assert_true(fd >= 0);
	snprintf(env, sizeof(env), "info:%s", path);
	if (!fork()) {
		setenv("USERKVM_LOG", env, 1);
		errno = 7;
		base_log(LOG_INFO, "seen %d", 42);
		base_log(LOG_DEBUG, "unseen");
		_exit(errno == 7 && base_log_on(LOG_ERROR) && !base_log_on(LOG_DEBUG) ? 0 : 1);
	}
	wait(&status);
	assert_int_equal(status, 0);
	assert_true(read(fd, buf, sizeof(buf) - 1) > 0);
	assert_non_null(strstr(buf, "seen 42\n"));
	assert_null(strstr(buf, "unseen"));
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(log_goes_where_it_is_told), /* first: before anything logs */
	    cmocka_unit_test(impossible_sizes_are_refused),
	    cmocka_unit_test(nth_allocation_fails),
	    cmocka_unit_test(blocks_are_zeroed_and_aligned),
	    cmocka_unit_test(big_blocks_are_lazy),
	    cmocka_unit_test(tsc_keeps_its_time),
	    cmocka_unit_test(claimed_fds_are_high),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
