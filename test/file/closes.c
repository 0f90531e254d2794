/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Closes of descriptors that are not ours, in a process that has files of ours. */
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "base/sys.h"
#include "file/internal.h"

static _Atomic int released, closed;

static void release(void *object)
{
	atomic_fetch_add(&released, 1);
}

static const struct file_class cls = {.name = "test", .release = release};

static int make_file(void)
{
	struct file *f;

	assert_int_equal(files_start(), 0);
	assert_int_equal(file_prepare(&f, &cls, "test", 0, O_RDWR), 0);
	return file_install(f, NULL, true);
}

/* Until *v is n, or for five seconds. */
static int wait_for(_Atomic int *v, int n)
{
	for (int i = 0; i < 5000 && atomic_load(v) != n; i++)
		usleep(1000);
	return atomic_load(v);
}

static void *close_one(void *arg)
{
	assert_int_equal(file_close((int)(intptr_t)arg), 0);
	atomic_store(&closed, 1);
	return NULL;
}

/*
 * A thread that closes its own descriptor does not wait for fd_lock, which may be held by one that lost its CPU:
 * with 64 of them vCPUs took a second to make. Seen to fail with file_drain not asking watch_pending.
 */
static void foreign_close_waits_for_nobody(void **state)
{
	int ours = make_file(), fd = open("/dev/null", O_RDWR);
	pthread_t t;
	int done;

	assert_true(ours >= 0 && fd >= 0);
	closed = released = 0;
	files_lock();
	pthread_create(&t, NULL, close_one, (void *)(intptr_t)fd);
	done = wait_for(&closed, 1);
	files_unlock();
	pthread_join(t, NULL);
	assert_int_equal(done, 1);
	assert_int_equal(released, 0);
	assert_int_equal(file_close(ours), 0);
	assert_int_equal(released, 1);
}

static sem_t stopped, go_on;

static void stop_here(void *arg)
{
	sem_post(&stopped);
	sem_wait(&go_on);
}

/*
 * The last descriptor of a file may be a stranger to the table (a raw dup here; SCM_RIGHTS): its close, too, has
 * released the file when it returns, with the loop held up in a callback. Seen to fail with watch_pending always false.
 */
static void foreign_close_of_ours_releases(void **state)
{
	struct loop_timer timer;
	int ours = make_file(), copy = (int)sys_call(SYS_dup, ours);

	assert_true(ours >= 0 && copy >= 0);
	assert_int_equal(sem_init(&stopped, 0, 0) | sem_init(&go_on, 0, 0), 0);
	loop_timer_init(&timer, stop_here, NULL);
	loop_timer_set(&timer, base_now_ns());
	sem_wait(&stopped);
	released = 0;
	assert_int_equal(file_close(ours), 0);
	assert_int_equal(released, 0);
	assert_int_equal(file_close(copy), 0);
	assert_int_equal(released, 1);
	sem_post(&go_on);
	loop_timer_cancel(&timer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(foreign_close_waits_for_nobody),
	    cmocka_unit_test(foreign_close_of_ours_releases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
