/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile uintptr_t fault_at;
static uint8_t *area;
static volatile int healed;

static void on_signal(int n, siginfo_t *si, void *ctx)
{
	(void)ctx;
	fault_at = (uintptr_t)si->si_addr;
	siglongjmp(back, n);
}

/* Makes the page writable and lets the store go on. */
static void heal(int n, siginfo_t *si, void *ctx)
{
	(void)n, (void)ctx;
	uintptr_t page = (uintptr_t)si->si_addr & ~4095ul;
	mprotect((void *)page, 4096, PROT_READ | PROT_WRITE);
	healed++;
}

static void action(int n, void (*f)(int, siginfo_t *, void *))
{
	struct sigaction sa = {.sa_sigaction = f, .sa_flags = SA_SIGINFO | SA_NODEFER};
	expect(!sigaction(n, &sa, NULL), "sigaction");
}

static void faults(void)
{
	enum { PAGES = 64 };
	volatile int zero = 0, caught = 0;
	area = mmap(NULL, PAGES * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	expect(area != MAP_FAILED, "mmap");
	action(SIGFPE, on_signal);
	action(SIGSEGV, on_signal);
	action(SIGILL, on_signal);
	if (!sigsetjmp(back, 1))
		zero = 100 / zero; /* 1 / x needs no division */
	else
		caught |= 1;
	if (!sigsetjmp(back, 1))
		*(volatile uint8_t *)(area + 4096 + 17) = 1;
	else
		caught |= fault_at == (uintptr_t)area + 4096 + 17 ? 2 : 0;
	if (!sigsetjmp(back, 1))
		__asm__ volatile("ud2");
	else
		caught |= 4;
	expect(caught == 7, "signals of faults");
	action(SIGSEGV, heal);
	for (int i = 0; i < PAGES * 4096; i += 512)
		((volatile uint8_t *)area)[i] = (uint8_t)(i >> 9);
	expect(healed == PAGES, "faults of a read-only mapping");
	for (int i = 0; i < PAGES * 4096; i += 512)
		expect(area[i] == (uint8_t)(i >> 9), "stores that faulted");
	munmap(area, PAGES * 4096);
	signal(SIGSEGV, SIG_DFL);
	signal(SIGFPE, SIG_DFL);
	signal(SIGILL, SIG_DFL);
}

/* Code made at run time, another each time in the same place: mov eax, imm32; ret. */
static void generated(struct rng *r)
{
	uint8_t *code =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	expect(code != MAP_FAILED, "mmap");
	for (int i = 0; i < 2000; i++) {
		uint32_t v = (uint32_t)rng_next(r);
		uint8_t *at = code + (i % 3) * 8;
		at[0] = 0xb8;
		memcpy(at + 1, &v, 4);
		at[5] = 0xc3;
		expect(((uint32_t(*)(void))(uintptr_t)at)() == v, "generated code");
	}
	munmap(code, 4096);
}

/* Children that take a text through a pipe, change it and hand it on; a private page stays private. */
static void chain(struct rng *r)
{
	enum { LINKS = 12, BYTES = 30000 };
	static uint8_t text[BYTES], want[BYTES], got[BYTES];
	volatile uint8_t *copy =
	    mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int in, fd[2];
	pid_t pid[LINKS + 1];
	for (int i = 0; i < BYTES; i++)
		want[i] = (uint8_t)((text[i] = (uint8_t)rng_next(r)) + LINKS * (LINKS + 1) / 2);
	expect(copy != MAP_FAILED && !pipe(fd), "pipe");
	memset((void *)copy, 0x11, 1 << 20);
	for (int n = 0; n <= LINKS; n++) {
		int next[2] = {-1, -1};
		expect(n == 0 || n > LINKS || !pipe(next), "pipe");
		fflush(stdout);
		pid[n] = fork();
		expect(pid[n] >= 0, "fork");
		if (pid[n] == 0) {
			size_t len = 0, want_len = BYTES;
			in = fd[0];
			for (int i = 0; i < 1 << 20; i += 4096)
				copy[i] = (uint8_t)n;
			if (n == 0)
				memcpy(got, text, BYTES);
			for (ssize_t k; n && len < want_len && (k = read(in, got + len, want_len - len)) > 0;)
				len += (size_t)k;
			for (int i = 0; i < BYTES; i++)
				got[i] = (uint8_t)(got[i] + n);
			int out = n == 0 ? fd[1] : next[1];
			for (size_t k = 0; k < BYTES;) {
				ssize_t w = write(out, got + k, BYTES - k > 777 ? 777 : BYTES - k);
				if (w <= 0)
					_exit(2);
				k += (size_t)w;
			}
			_exit(n && len != want_len);
		}
		if (n == 0) {
			close(fd[1]);
		} else {
			close(fd[0]);
			close(next[1]);
			fd[0] = next[0];
		}
	}
	size_t len = 0;
	for (ssize_t k; len < BYTES && (k = read(fd[0], got + len, BYTES - len)) > 0;)
		len += (size_t)k;
	close(fd[0]);
	for (int n = 0; n <= LINKS; n++) {
		int status = -1;
		waitpid(pid[n], &status, 0);
		expect(status == 0, "a child's end");
	}
	expect(len == BYTES && !memcmp(got, want, BYTES), "what came out of the pipes");
	for (int i = 0; i < 1 << 20; i += 4096)
		expect(copy[i] == 0x11, "a private page");
	munmap((void *)copy, 1 << 20);
	printf("chain %s\n", sha256_hex(got, BYTES));
}

void part_process(uint64_t seed)
{
	struct rng r = {seed * 3 + 1};
	faults();
	generated(&r);
	chain(&r);
	fesetround(FE_UPWARD);
	volatile double up = 1.0 / 3.0, one = 1.0, three = 3.0;
	up = one / three;
	fesetround(FE_DOWNWARD);
	volatile double down = one / three;
	fesetround(FE_TONEAREST);
	expect(up > down, "rounding modes");
	printf("rounding %a %a\n", up, down);
}
