/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* References to eventfds: what is one and what is not, identity, signal, drain, and the proof's cost.
 * make check T=base/eventfd */
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/eventfd.h"
#include "base/sys.h"

/* -- What is no eventfd: a descriptor of every kind that this machine can make -- */

static int make_timerfd_fired(void)
{
	struct itimerspec t = {.it_value.tv_nsec = 1};
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);

	timerfd_settime(fd, 0, &t, NULL);
	usleep(1000);
	return fd;
}

static int make_timerfd(void)
{
	return timerfd_create(CLOCK_MONOTONIC, 0);
}

static int make_signalfd(void)
{
	sigset_t s;

	sigemptyset(&s);
	return signalfd(-1, &s, 0);
}

static int make_epoll(void)
{
	return epoll_create1(0);
}

static int make_epoll_ready(void)
{
	int fd = epoll_create1(0), e = eventfd(1, 0);
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT};

	epoll_ctl(fd, EPOLL_CTL_ADD, e, &ev);
	return fd; /* e stays open */
}

static int make_inotify(void)
{
	int fd = inotify_init1(0), dir;

	inotify_add_watch(fd, "/proc/self", IN_OPEN);
	dir = open("/proc/self", O_RDONLY);
	close(dir);
	return fd;
}

static int make_fanotify(void)
{
	return fanotify_init(FAN_CLASS_NOTIF, 0);
}

static int make_userfaultfd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};

	if (fd >= 0)
		ioctl(fd, UFFDIO_API, &api);
	return fd;
}

static int make_userfaultfd_nonblock(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};

	if (fd >= 0)
		ioctl(fd, UFFDIO_API, &api);
	return fd;
}

static int make_perf(void)
{
	struct perf_event_attr a = {
	    .type = PERF_TYPE_SOFTWARE, .size = sizeof(a), .config = PERF_COUNT_SW_DUMMY};

	return (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
}

static int make_io_uring(void)
{
	struct io_uring_params p = {0};

	return (int)syscall(SYS_io_uring_setup, 8, &p);
}

static int make_bpf(unsigned type)
{
	union bpf_attr a;

	memset(&a, 0, sizeof(a));
	a.map_type = type;
	a.max_entries = 4096;
	if (type == BPF_MAP_TYPE_ARRAY)
		a.key_size = 4, a.value_size = 8;
	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof(a));
}

static int make_bpf_array(void)
{
	return make_bpf(BPF_MAP_TYPE_ARRAY);
}

static int make_bpf_ring(void)
{
	return make_bpf(BPF_MAP_TYPE_RINGBUF);
}

static int make_pidfd(void)
{
	return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int make_landlock(void)
{
	uint64_t access = 1;

	return (int)syscall(444, &access, sizeof(access), 0); /* landlock_create_ruleset */
}

static int make_fscontext(void)
{
	return (int)syscall(SYS_fsopen, "tmpfs", 0);
}

/* On the machine's own KVM, the files it makes have anonymous inodes too. */
static int own_kvm(int which)
{
	int sys = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, r;
	struct kvm_create_device dev = {.type = KVM_DEV_TYPE_VFIO};

	if (sys < 0)
		return -1;
	vm = ioctl(sys, KVM_CREATE_VM, 0);
	close(sys);
	if (vm < 0 || which == 0)
		return vm;
	switch (which) {
	case 1: r = ioctl(vm, KVM_CREATE_VCPU, 0); break;
	case 2: r = ioctl(vm, KVM_GET_STATS_FD, 0); break;
	default: r = ioctl(vm, KVM_CREATE_DEVICE, &dev) ? -1 : (int)dev.fd;
	}
	close(vm);
	return r;
}

static int make_kvm_vm(void)
{
	return own_kvm(0);
}

static int make_kvm_vcpu(void)
{
	return own_kvm(1);
}

static int make_kvm_stats(void)
{
	return own_kvm(2);
}

static int make_kvm_device(void)
{
	return own_kvm(3);
}

static int make_memfd(void)
{
	return memfd_create("x", 0);
}

static int make_pipe_read(void)
{
	int p[2];

	return pipe(p) ? -1 : p[0];
}

static int make_pipe_write(void)
{
	int p[2];

	return pipe(p) ? -1 : p[1];
}

static int make_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int make_null(void)
{
	return open("/dev/null", O_RDWR);
}

static int make_dir(void)
{
	return open("/", O_RDONLY);
}

static const struct kind {
	const char *name;
	int (*make)(void);
	bool always; /* every Linux lets us make it */
} kinds[] = {
    {"timerfd", make_timerfd, true},
    {"timerfd, fired", make_timerfd_fired, true},
    {"signalfd", make_signalfd, true},
    {"epoll", make_epoll, true},
    {"epoll, ready", make_epoll_ready, true},
    {"inotify, ready", make_inotify, true},
    {"fanotify", make_fanotify, false},
    {"userfaultfd", make_userfaultfd, false},
    {"userfaultfd, nonblocking", make_userfaultfd_nonblock, false},
    {"perf", make_perf, false},
    {"io_uring", make_io_uring, false},
    {"bpf array", make_bpf_array, false},
    {"bpf ring", make_bpf_ring, false},
    {"pidfd", make_pidfd, false},
    {"landlock", make_landlock, false},
    {"fscontext", make_fscontext, false},
    {"kvm-vm", make_kvm_vm, false},
    {"kvm-vcpu", make_kvm_vcpu, false},
    {"kvm stats", make_kvm_stats, false},
    {"kvm-vfio", make_kvm_device, false},
    {"memfd", make_memfd, true},
    {"pipe, reading end", make_pipe_read, true},
    {"pipe, writing end", make_pipe_write, true},
    {"socket", make_socket, true},
    {"/dev/null", make_null, true},
    {"a directory", make_dir, true},
};

static void assert_refused(const char *name, int fd, int error)
{
	struct base_eventfd e;
	int r = base_eventfd_get(&e, fd);

	if (r != error)
		print_error("%s: %d\n", name, r);
	assert_int_equal(r, error);
	assert_int_equal(e.fd, -1);
	assert_int_equal(base_eventfd_peek(&e, fd), error);
}

/* Seen to fail (timerfd taken for an eventfd) without the look at POLLOUT in prove(), and (kvm-vm, landlock)
 * without that at POLLWRNORM. */
static void everything_else_is_refused(void **state)
{
	unsigned made = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		int fd = kinds[i].make();

		if (fd < 0) {
			assert_false(kinds[i].always);
			continue;
		}
		assert_refused(kinds[i].name, fd, -EINVAL);
		close(fd);
		made++;
	}
	print_message("%u of %zu kinds\n", made, ARRAY_SIZE(kinds));
	assert_refused("-1", -1, -EBADF);
	assert_refused("closed", 9999, -EBADF);
}

/* A seccomp listener is an anonymous inode with a poll of its own; the filter stays, so in a child. */
static void seccomp_listener(void **state)
{
	struct sock_filter f[] = {{BPF_RET, 0, 0, SECCOMP_RET_ALLOW}};
	struct sock_fprog prog = {1, f};
	struct base_eventfd e;
	pid_t pid = fork();
	int status;

	if (!pid) {
		int fd;

		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
				  &prog);
		_exit(fd < 0 ? 0 : base_eventfd_get(&e, fd) != -EINVAL);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

/* -- What is one -- */

/* Seen to fail (the full one refused) with ASK taken for NO in base_eventfd_peek. */
static void every_eventfd_is_taken(void **state)
{
	static const int flags[] = {0, EFD_NONBLOCK, EFD_SEMAPHORE, EFD_NONBLOCK | EFD_SEMAPHORE,
				    EFD_CLOEXEC};
	static const uint64_t counts[] = {0, 1, 5, UINT64_MAX - 2, UINT64_MAX - 1};
	struct base_eventfd e;

	for (unsigned i = 0; i < ARRAY_SIZE(flags) * ARRAY_SIZE(counts); i++) {
		int fd = eventfd(0, flags[i % 5]);
		uint64_t n = counts[i / 5];

		if (n)
			assert_int_equal(write(fd, &n, 8), 8);
		assert_int_equal(base_eventfd_get(&e, fd), 0);
		assert_int_equal(e.nonblock, (flags[i % 5] & EFD_NONBLOCK) != 0);
		assert_true(e.fd >= 512 && sys_fd_is_ours(e.fd));
		assert_int_equal(fcntl(e.fd, F_GETFD), FD_CLOEXEC);
		base_eventfd_put(&e);
		base_eventfd_put(&e);
		close(fd);
	}
}

/* An O_PATH descriptor of an eventfd names it, but nothing can be done with it: EBADF, as fget says. */
static void o_path(void **state)
{
	char path[40];
	int fd = eventfd(0, 0), p;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	p = open(path, O_PATH);
	assert_true(p >= 0);
	assert_refused("O_PATH", p, -EBADF);
	close(p);
	close(fd);
}

static void no_number_left(void **state)
{
	struct rlimit old, now;
	struct base_eventfd e;
	int fd = eventfd(0, 0);

	/* Known before: how to tell an eventfd was learnt by the tests above. */
	getrlimit(RLIMIT_NOFILE, &old);
	now = (struct rlimit){(rlim_t)fd + 1, old.rlim_max};
	setrlimit(RLIMIT_NOFILE, &now);
	assert_int_equal(base_eventfd_get(&e, fd), -EMFILE);
	assert_int_equal(e.fd, -1);
	now.rlim_cur = (rlim_t)fd + 2; /* one number, a low one */
	setrlimit(RLIMIT_NOFILE, &now);
	assert_int_equal(base_eventfd_get(&e, fd), 0);
	assert_int_equal(e.fd, fd + 1);
	setrlimit(RLIMIT_NOFILE, &old);
	base_eventfd_put(&e);
	close(fd);
}

/* -- Which one -- */

/* By id and by kcmp, through duplicates, after the number was reused. Seen to fail with fd numbers compared in base_eventfd_same. */
static void identity(void **state)
{
	for (unsigned learn = 0; learn < 4; learn++) {
		int a = eventfd(0, 0), b = eventfd(0, 0), a2 = dup(a);
		struct base_eventfd ra, rb, ra2, again;

		assert_int_equal(base_eventfd_get(&ra, a), 0);
		assert_int_equal(base_eventfd_get(&rb, b), 0);
		assert_int_equal(base_eventfd_peek(&ra2, a2), 0);
		assert_int_equal(ra2.fd, a2);
		if (learn & 1) {
			base_eventfd_learn(&ra);
			base_eventfd_learn(&rb);
		}
		if (learn & 2)
			base_eventfd_learn(&ra2);
		assert_true(base_eventfd_same(&ra, &ra2));
		assert_false(base_eventfd_same(&ra, &rb));
		assert_false(base_eventfd_same(&rb, &ra2));
		assert_int_equal(dup2(b, a), a); /* the number is b's now */
		assert_int_equal(base_eventfd_peek(&again, a), 0);
		assert_false(base_eventfd_same(&ra, &again));
		assert_true(base_eventfd_same(&rb, &again));
		base_eventfd_put(&ra);
		base_eventfd_put(&rb);
		close(a);
		close(b);
		close(a2);
	}
}

static void signal_and_drain(void **state)
{
	int fd = eventfd(0, 0), sem = eventfd(0, EFD_SEMAPHORE);
	uint64_t n, max = UINT64_MAX - 1;
	struct base_eventfd e, s;

	alarm(5); /* nothing here may wait */
	assert_int_equal(base_eventfd_get(&e, fd), 0);
	assert_int_equal(base_eventfd_drain(&e), 0);
	base_eventfd_signal(&e);
	base_eventfd_signal(&e);
	assert_int_equal(base_eventfd_drain(&e), 2);
	assert_int_equal(base_eventfd_drain(&e), 0);
	assert_int_equal(write(fd, &max, 8), 8);
	base_eventfd_signal(&e);
	assert_int_equal(read(fd, &n, 8), 8);
	assert_true(n == max);
	assert_int_equal(base_eventfd_get(&s, sem), 0);
	base_eventfd_signal(&s);
	base_eventfd_signal(&s);
	assert_int_equal(base_eventfd_drain(&s), 1);
	assert_int_equal(base_eventfd_drain(&s), 1);
	assert_int_equal(base_eventfd_drain(&s), 0);
	base_eventfd_put(&e);
	base_eventfd_put(&s);
	close(fd);
	close(sem);
	alarm(0);
}

/* An ordinary eventfd is proved without /proc. Seen to fail with prove() saying ASK. */
static void cost(void **state)
{
	enum { ROUNDS = 2000 };
	int fd = eventfd(0, 0);
	struct base_eventfd e;
	uint64_t t0 = base_now_ns(), get, learn;

	for (unsigned i = 0; i < ROUNDS; i++) {
		assert_int_equal(base_eventfd_get(&e, fd), 0);
		assert_false(e.has_id);
		base_eventfd_put(&e);
	}
	get = (base_now_ns() - t0) / ROUNDS;
	t0 = base_now_ns();
	for (unsigned i = 0; i < ROUNDS; i++) {
		assert_int_equal(base_eventfd_peek(&e, fd), 0);
		base_eventfd_learn(&e);
	}
	learn = (base_now_ns() - t0) / ROUNDS;
	print_message("get and put %lu ns, peek and learn %lu ns\n", get, learn);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(everything_else_is_refused),
	    cmocka_unit_test(seccomp_listener),
	    cmocka_unit_test(every_eventfd_is_taken),
	    cmocka_unit_test(o_path),
	    cmocka_unit_test(no_number_left),
	    cmocka_unit_test(identity),
	    cmocka_unit_test(signal_and_drain),
	    cmocka_unit_test(cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
