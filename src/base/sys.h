/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System calls of our own. The library interposes libc's wrappers (syscall() included) in the very object
 * that contains this code, so what we ask of the kernel for ourselves goes past libc. Results are the
 * kernel's: >= 0, or -errno; errno is not touched.
 */
#ifndef USERKVM_BASE_SYS_H
#define USERKVM_BASE_SYS_H

#include <sys/syscall.h>

#include "base/util.h"

/* One system call with up to six arguments. */
static inline long sys_call6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define SYS_PICK(_1, _2, _3, _4, _5, _6, _7, name, ...) name
#define sys_call_0(n)					sys_call6(n, 0, 0, 0, 0, 0, 0)
#define sys_call_1(n, a)				sys_call6(n, (long)(a), 0, 0, 0, 0, 0)
#define sys_call_2(n, a, b)				sys_call6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define sys_call_3(n, a, b, c)				sys_call6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sys_call_4(n, a, b, c, d)			sys_call6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sys_call_5(n, a, b, c, d, e)			sys_call6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define sys_call_6(n, a, b, c, d, e, f) \
	sys_call6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* sys_call(number, up to six arguments) */
#define sys_call(...)                                                                                 \
	SYS_PICK(__VA_ARGS__, sys_call_6, sys_call_5, sys_call_4, sys_call_3, sys_call_2, sys_call_1, \
		 sys_call_0)                                                                          \
	(__VA_ARGS__)

/* Sleeps while *word == val; timeout_ns relative, 0 = none. 0, -EAGAIN, -EINTR or -ETIMEDOUT. */
int sys_futex_wait(_Atomic uint32_t *word, uint32_t val, uint64_t timeout_ns);
/* Wakes up to n sleepers of a futex of this process. */
void sys_futex_wake(_Atomic uint32_t *word, int n);

/*
 * Moves a descriptor of the library out of the VMM's way (512 or above, if the limit permits), sets
 * FD_CLOEXEC and records it as ours. Returns the new number; a negative fd is returned unchanged.
 */
int sys_fd_claim(int fd);
/* Closes a claimed descriptor. */
void sys_fd_close(int fd);
/* True for a descriptor claimed by this process: the shim must not close it for the VMM. Any thread. */
bool sys_fd_is_ours(int fd);

#endif
