/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libc's syscall(): the same calls by number. The calls whose child shares or replaces this very stack
 * (fork, vfork, clone) are made without a C frame around them, as libc makes them.
 */
#include <signal.h>
#include <sys/syscall.h>

#include "shim/shim.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define KERNEL_SIGSET 8

/* struct sigaction as the kernel takes it. */
struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

struct open_how_head {
	uint64_t flags, mode, resolve;
};

static long sys_sigaction(int sig, const struct kernel_sigaction *act, struct kernel_sigaction *old,
			  size_t size)
{
	struct sigaction a = {0}, o;
	long r;

	if (size != KERNEL_SIGSET)
		return -EINVAL;
	if (act) {
		a.sa_handler = act->handler;
		a.sa_flags = (int)act->flags;
		memcpy(&a.sa_mask, &act->mask, sizeof(act->mask));
	}
	r = base_sig_action(sig, act ? &a : NULL, &o);
	if (r || !old)
		return r;
	*old = (struct kernel_sigaction){.handler = o.sa_handler, .flags = (unsigned)o.sa_flags};
	memcpy(&old->mask, &o.sa_mask, sizeof(old->mask));
	return 0;
}

static long sys_sigprocmask(int how, const uint64_t *set, uint64_t *old, size_t size)
{
	sigset_t s = {0}, o;
	long r;

	if (size != KERNEL_SIGSET)
		return -EINVAL;
	if (set)
		memcpy(&s, set, sizeof(*set));
	r = -base_sig_mask(how, set ? &s : NULL, &o);
	if (!r && old)
		memcpy(old, &o, sizeof(*old));
	return r;
}

static long sys_openat2(int dirfd, const char *path, const struct open_how_head *how, size_t size)
{
	char buf[PATH_MAX];
	enum path_kind kind = size >= sizeof(*how) ? path_kind(dirfd, path, buf) : PATH_OTHER;

	if (kind != PATH_OTHER)
		return path_open(kind, buf, (int)how->flags);
	return sys_call(SYS_openat2, dirfd, path, how, size);
}

/* Calls with a path; true if nr is one. */
static bool with_path(long nr, const long a[6], long *r)
{
	const char *p0 = (const char *)a[0], *p1 = (const char *)a[1];

	switch (nr) {
	case SYS_open: *r = do_open(AT_FDCWD, p0, (int)a[1], (mode_t)a[2]); return true;
	case SYS_openat: *r = do_open((int)a[0], p1, (int)a[2], (mode_t)a[3]); return true;
	case SYS_openat2: *r = sys_openat2((int)a[0], p1, (void *)a[2], (size_t)a[3]); return true;
	case SYS_access: *r = do_access(AT_FDCWD, p0, (int)a[1], 0, false); return true;
	case SYS_faccessat: *r = do_access((int)a[0], p1, (int)a[2], 0, false); return true;
	case SYS_faccessat2: *r = do_access((int)a[0], p1, (int)a[2], (int)a[3], true); return true;
	case SYS_stat: *r = do_stat(AT_FDCWD, p0, (void *)a[1], 0); return true;
	case SYS_lstat: *r = do_stat(AT_FDCWD, p0, (void *)a[1], AT_SYMLINK_NOFOLLOW); return true;
	case SYS_newfstatat: *r = do_stat((int)a[0], p1, (void *)a[2], (int)a[3]); return true;
	case SYS_fstat: *r = do_fstat((int)a[0], (void *)a[1]); return true;
	case SYS_statx: *r = do_statx((int)a[0], p1, (int)a[2], (unsigned)a[3], (void *)a[4]); return true;
	default: return false;
	}
}

/* Calls that change mappings; true if nr is one. */
static bool with_memory(long nr, const long a[6], long *r)
{
	void *addr = (void *)a[0];
	size_t len = (size_t)a[1];

	switch (nr) {
	case SYS_mmap: *r = do_mmap(addr, len, (int)a[2], (int)a[3], (int)a[4], a[5]); return true;
	case SYS_munmap: *r = do_munmap(addr, len); return true;
	case SYS_mremap: *r = do_mremap(addr, len, (size_t)a[2], (int)a[3], (void *)a[4]); return true;
	case SYS_mprotect: *r = do_mprotect(addr, len, (int)a[2], 0, false); return true;
	case SYS_pkey_mprotect: *r = do_mprotect(addr, len, (int)a[2], (int)a[3], true); return true;
	case SYS_madvise: *r = do_madvise(addr, len, (int)a[2]); return true;
	default: return false;
	}
}

/* Calls with a descriptor or a signal; true if nr is one. */
static bool with_fd(long nr, const long a[6], long *r)
{
	switch (nr) {
	case SYS_ioctl: *r = do_ioctl((int)a[0], (unsigned long)a[1], (void *)a[2]); return true;
	case SYS_write: *r = do_write((int)a[0], (void *)a[1], (size_t)a[2]); return true;
	case SYS_close: *r = do_close((int)a[0]); return true;
	case SYS_close_range:
		*r = do_close_range((unsigned)a[0], (unsigned)a[1], (unsigned)a[2]);
		return true;
	case SYS_dup: *r = do_dup((int)a[0]); return true;
	case SYS_dup2: *r = do_dup2((int)a[0], (int)a[1]); return true;
	case SYS_dup3: *r = do_dup3((int)a[0], (int)a[1], (int)a[2]); return true;
	case SYS_pread64: *r = do_pread((int)a[0], (void *)a[1], (size_t)a[2], a[3]); return true;
	case SYS_pwrite64: *r = do_pwrite((int)a[0], (void *)a[1], (size_t)a[2], a[3]); return true;
	case SYS_fcntl: *r = do_fcntl((int)a[0], (int)a[1], (unsigned long)a[2]); return true;
	case SYS_rt_sigaction:
		*r = sys_sigaction((int)a[0], (void *)a[1], (void *)a[2], (size_t)a[3]);
		return true;
	case SYS_rt_sigprocmask:
		*r = sys_sigprocmask((int)a[0], (void *)a[1], (void *)a[2], (size_t)a[3]);
		return true;
	default: return false;
	}
}

/* Called by the assembly below with syscall()'s own arguments, the sixth on the stack. */
__attribute__((used, visibility("hidden"))) long shim_syscall(long nr, long a0, long a1, long a2, long a3,
							      long a4, long a5)
{
	const long a[6] = {a0, a1, a2, a3, a4, a5};
	long r;

	if (!with_path(nr, a, &r) && !with_fd(nr, a, &r) && !with_memory(nr, a, &r))
		r = sys_call6(nr, a0, a1, a2, a3, a4, a5);
	return shim_ret(r);
}

/* errno of a call that returned to libc's own form. */
__attribute__((used, visibility("hidden"))) long shim_syscall_failed(long r)
{
	errno = (int)-r;
	return -1;
}

__asm__(".text\n"
	".globl syscall\n"
	".type syscall, @function\n"
	"syscall:\n"
	"	.cfi_startproc\n"
	"	cmp	$56, %rdi\n" /* clone */
	"	je	1f\n"
	"	cmp	$57, %rdi\n" /* fork */
	"	je	1f\n"
	"	cmp	$58, %rdi\n" /* vfork */
	"	je	1f\n"
	"	cmp	$435, %rdi\n" /* clone3 */
	"	jne	shim_syscall\n"
	"1:	mov	%rdi, %rax\n"
	"	mov	%rsi, %rdi\n"
	"	mov	%rdx, %rsi\n"
	"	mov	%rcx, %rdx\n"
	"	mov	%r8, %r10\n"
	"	mov	%r9, %r8\n"
	"	mov	8(%rsp), %r9\n"
	"	syscall\n"
	"	cmp	$-4095, %rax\n"
	"	jae	2f\n"
	"	ret\n"
	"2:	mov	%rax, %rdi\n"
	"	jmp	shim_syscall_failed\n"
	"	.cfi_endproc\n"
	".size syscall, .-syscall\n");
