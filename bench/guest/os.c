/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an operating system does all day. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

uint64_t row_syscall(unsigned work)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < work * 3300; i++)
		n += syscall(SYS_getppid) >= 0;
	return n;
}

uint64_t row_pipe(unsigned work)
{
	int to[2], from[2];
	uint64_t sum = 0;
	uint32_t v;
	pid_t pid;

	if (pipe(to) || pipe(from))
		return 0;
	pid = fork();
	if (pid < 0)
		return 0;
	if (!pid) {
		close(to[1]);
		while (read(to[0], &v, 4) == 4) {
			v = v * 3 + 1;
			if (write(from[1], &v, 4) != 4)
				break;
		}
		_exit(0);
	}
	for (uint32_t i = 0; i < work * 130; i++) {
		if (write(to[1], &i, 4) != 4 || read(from[0], &v, 4) != 4)
			break;
		sum += v;
	}
	close(to[0]);
	close(to[1]);
	waitpid(pid, NULL, 0);
	close(from[0]);
	close(from[1]);
	return sum;
}

uint64_t row_fork(unsigned work)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < work * 5; i++) {
		pid_t pid = fork();
		int status = 0;

		if (pid < 0)
			return 0;
		if (!pid)
			_exit((int)(i & 63));
		waitpid(pid, &status, 0);
		sum += (uint64_t)WEXITSTATUS(status);
	}
	return sum;
}

uint64_t row_fault(unsigned work)
{
	enum { N = 64 };
	uint64_t sum = 0;

	for (unsigned i = 0; i < work * 6; i++) {
		uint8_t *p = mmap(NULL, N * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return 0;
		for (unsigned k = 0; k < N; k++)
			p[k * 4096] = (uint8_t)(i + k);
		sum += p[4096 * (i % N)];
		munmap(p, N * 4096);
	}
	return sum;
}

static volatile uint64_t caught;

static void handler(int sig)
{
	caught += (uint64_t)sig;
}

uint64_t row_signal(unsigned work)
{
	struct sigaction sa = {.sa_handler = handler};

	caught = 0;
	sigaction(SIGUSR1, &sa, NULL);
	for (unsigned i = 0; i < work * 300; i++)
		raise(SIGUSR1);
	return caught;
}
