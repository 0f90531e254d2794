/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hypervisor's own accesses hold nothing while they wait for a page, and are revoked like a vCPU's: slots are
 * deleted and moved, logs collected, under an access that hangs in a userfault.	make check T=mem/access
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "mem_test.h"

#define PAGES 4
#define BASE  0x100000UL

enum what { READ, WRITE, CMPXCHG };

static struct {
	struct world *w;
	enum what what;
	uint64_t gpa, value;
	int result;
	_Atomic bool done;
	pthread_t thread;
} job;
static uint8_t *mem;
static int uffd;

static void *run_job(void *arg)
{
	uint64_t old = 0;

	switch (job.what) {
	case READ: job.result = mem_read(job.w->mem, 0, job.gpa, &job.value, 8); break;
	case WRITE: job.result = mem_write(job.w->mem, 0, job.gpa, &job.value, 8); break;
	case CMPXCHG: job.result = mem_cmpxchg(job.w->mem, 0, job.gpa, 8, &old, job.value); break;
	}
	atomic_store(&job.done, true);
	return NULL;
}

/* Waits for the fault of a page and returns its number. */
static unsigned wait_fault(void)
{
	struct uffd_msg msg;

	assert_int_equal(read(uffd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
	return (unsigned)((msg.arg.pagefault.address - (uint64_t)mem) >> PAGE_SHIFT);
}

/* A logged slot of missing pages, and an access to page 1 that hangs. False: no userfaultfd here. */
static bool hang(struct world *w, enum what what)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};

	mem = ram(PAGES);
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		return false;
	reg.range.start = (uint64_t)mem;
	reg.range.len = PAGES * PAGE_SIZE;
	assert_int_equal(ioctl(uffd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	assert_int_equal(set_region(w, 3, KVM_MEM_LOG_DIRTY_PAGES, BASE, PAGES * PAGE_SIZE, mem), 0);
	job.w = w;
	job.what = what;
	job.gpa = BASE + PAGE_SIZE + 16;
	job.value = 77;
	atomic_store(&job.done, false);
	assert_int_equal(pthread_create(&job.thread, NULL, run_job, NULL), 0);
	assert_int_equal(wait_fault(), 1);
	return true;
}

static void give_page(unsigned page)
{
	struct uffdio_zeropage z = {.range = {(uint64_t)mem + page * PAGE_SIZE, PAGE_SIZE}};

	assert_int_equal(ioctl(uffd, UFFDIO_ZEROPAGE, &z), 0);
}

static void finish(void)
{
	pthread_join(job.thread, NULL);
	close(uffd);
	munmap(mem, PAGES * PAGE_SIZE);
}

/* The page never comes; the slot goes. Seen to hang (a time-out) with base_sig_kick left out of mem_revoke, and
 * with the section left behind the copy. */
static void deleted(struct world *w, enum what what)
{
	if (!hang(w, what))
		skip();
	assert_int_equal(set_region(w, 3, 0, BASE, 0, mem), 0);
	pthread_join(job.thread, NULL);
	assert_int_equal(job.result, -EFAULT);
	close(uffd);
	munmap(mem, PAGES * PAGE_SIZE);
}

static void a_deleted_slot_ends_a_read(void **state)
{
	deleted(*state, READ);
}

static void a_deleted_slot_ends_a_write(void **state)
{
	deleted(*state, WRITE);
}

static void a_deleted_slot_ends_an_exchange(void **state)
{
	deleted(*state, CMPXCHG);
}

/* A write that was marked and not yet made is marked again for the next log. Seen to fail as above. */
static void a_collected_write_is_marked_again(void **state)
{
	struct world *w = *state;
	uint64_t bits = 0;

	if (!hang(w, WRITE))
		skip();
	assert_int_equal(get_log(w, 3, &bits), 0);
	assert_int_equal(bits, 2);
	assert_int_equal(wait_fault(), 1); /* it is there again, so it has marked */
	assert_int_equal(get_log(w, 3, &bits), 0);
	assert_int_equal(bits, 2);
	assert_int_equal(wait_fault(), 1);
	give_page(1);
	pthread_join(job.thread, NULL);
	assert_int_equal(job.result, 0);
	assert_int_equal(*(uint64_t *)(mem + PAGE_SIZE + 16), 77);
	assert_int_equal(get_log(w, 3, &bits), 0);
	assert_int_equal(bits, 2);
	close(uffd);
	munmap(mem, PAGES * PAGE_SIZE);
}

/* The address has other memory now: the write goes there. */
static void a_replaced_slot_gets_the_write(void **state)
{
	struct world *w = *state;
	uint8_t *other = ram(PAGES);

	if (!hang(w, WRITE))
		skip();
	/* Between the two the access may find nothing: what was asked for is then refused. */
	assert_int_equal(set_region(w, 3, 0, BASE, 0, mem), 0);
	assert_int_equal(set_region(w, 4, 0, BASE, PAGES * PAGE_SIZE, other), 0);
	pthread_join(job.thread, NULL);
	if (!job.result)
		assert_int_equal(*(uint64_t *)(other + PAGE_SIZE + 16), 77);
	else
		assert_int_equal(job.result, -EFAULT);
	close(uffd);
	munmap(mem, PAGES * PAGE_SIZE);
	munmap(other, PAGES * PAGE_SIZE);
}

/* Other slots come and go; the access waits on, for its page is where it was. */
static void others_do_not_disturb(void **state)
{
	struct world *w = *state;
	uint8_t *other = ram(1);
	uint64_t v = 5;

	if (!hang(w, READ))
		skip();
	for (int i = 0; i < 20; i++) {
		assert_int_equal(set_region(w, 5, 0, 0x40000000, PAGE_SIZE, other), 0);
		assert_int_equal(mem_write(w->mem, 0, 0x40000000, &v, 8), 0);
		assert_int_equal(set_region(w, 5, 0, 0x40000000, 0, other), 0);
	}
	assert_false(atomic_load(&job.done));
	give_page(1);
	finish();
	assert_int_equal(job.result, 0);
	assert_int_equal(job.value, 0);
	munmap(other, PAGE_SIZE);
}

static int enable(void **state)
{
	return base_sig_enable();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_deleted_slot_ends_a_read),	   TEST(a_deleted_slot_ends_a_write),
	    TEST(a_deleted_slot_ends_an_exchange), TEST(a_collected_write_is_marked_again),
	    TEST(a_replaced_slot_gets_the_write),  TEST(others_do_not_disturb),
	};

	return cmocka_run_group_tests(tests, enable, NULL);
}
