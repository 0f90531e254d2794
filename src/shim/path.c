/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which paths name /dev/kvm, and what is found there: always ours, never the machine's. */
#include <limits.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "shim/shim.h"

#define KVM_MAJOR 10
#define KVM_MINOR 232
#define KVM_INODE 0x6b766d

/* The last component could name the device: a test that almost every path fails at once. */
static bool last_is_kvm(const char *path)
{
	const char *last;

	last = strrchr(path, '/');
	last = last ? last + 1 : path;
	return !strcmp(last, "kvm") || !strcmp(last, "10:232");
}

/* Appends the components of `path` to the absolute path in buf, of length len. The new length; 0: too long.
 */
static size_t append(char *buf, size_t len, const char *path)
{
	while (*path) {
		size_t n = strcspn(path, "/");

		if (n == 2 && path[0] == '.' && path[1] == '.') {
			while (len && buf[--len] != '/')
				;
		} else if (n && !(n == 1 && path[0] == '.')) {
			if (len + 1 + n >= PATH_MAX)
				return 0;
			buf[len++] = '/';
			memcpy(buf + len, path, n);
			len += n;
		}
		path += n;
		path += strspn(path, "/");
	}
	buf[len] = 0;
	return len;
}

/* The directory that a relative path starts from, into buf; its length, 0 for "/" or unknown. */
static size_t start_of(int dirfd, char *buf)
{
	char link[40];
	long n;

	if (dirfd == AT_FDCWD) {
		n = sys_call(SYS_getcwd, buf, PATH_MAX) - 1;
	} else {
		snprintf(link, sizeof(link), "/proc/thread-self/fd/%d", dirfd);
		n = sys_call(SYS_readlinkat, AT_FDCWD, link, buf, PATH_MAX - 1);
	}
	return n > 1 && buf[0] == '/' ? (size_t)n : 0;
}

/* What follows "/sys/module/" if that names a parameter of KVM; else NULL. */
static const char *path_param(const char *path)
{
	static const char prefix[] = "/sys/module/";

	if (!shim_ready || (uintptr_t)path < PAGE_SIZE || strncmp(path, prefix, sizeof(prefix) - 1))
		return NULL;
	path += sizeof(prefix) - 1;
	return api_params_own(path) ? path : NULL;
}

enum path_kind path_kind(int dirfd, const char *path, char buf[PATH_MAX])
{
	bool kvm, vfio;
	struct stat st;
	size_t len = 0;

	if (!shim_ready || (uintptr_t)path < PAGE_SIZE)
		return PATH_OTHER; /* the kernel says EFAULT */
	if (path_param(path)) {
		snprintf(buf, PATH_MAX, "%s", path_param(path));
		return PATH_PARAM;
	}
	kvm = last_is_kvm(path);
	vfio = vfio_exists();
	if (!kvm && !vfio)
		return PATH_OTHER;
	if (path[0] != '/')
		len = start_of(dirfd, buf);
	len = append(buf, len, path);
	if (len && vfio && vfio_is_path(buf))
		return PATH_VFIO;
	if (!kvm)
		return PATH_OTHER;
	if (len && !strcmp(buf, "/dev/kvm"))
		return PATH_KVM;
	/* The same device by a symbolic link on the way. */
	return !sys_call(SYS_newfstatat, dirfd, path, &st, 0) && S_ISCHR(st.st_mode) &&
		       st.st_rdev == makedev(KVM_MAJOR, KVM_MINOR)
		   ? PATH_KVM
		   : PATH_OTHER;
}

long path_open(enum path_kind kind, const char *path, int flags)
{
	switch (kind) {
	case PATH_KVM: return api_open(flags);
	case PATH_VFIO: return vfio_open(path, flags);
	case PATH_PARAM: return api_params_open(path, flags);
	case PATH_OTHER: break;
	}
	return -ENOENT;
}

/* The device number and inode of what the path is. */
static dev_t device_of(enum path_kind kind, const char *path, ino_t *ino)
{
	*ino = KVM_INODE;
	if (kind == PATH_KVM)
		return makedev(KVM_MAJOR, KVM_MINOR);
	*ino = KVM_INODE + 1;
	for (const char *p = path; *p; p++)
		*ino = *ino * 31 + (unsigned char)*p;
	return vfio_device_number(path);
}

static void path_stat(enum path_kind kind, const char *path, struct stat *st)
{
	struct stat dev = {0};
	ino_t ino;
	dev_t number = device_of(kind, path, &ino);

	sys_call(SYS_newfstatat, AT_FDCWD, "/dev", &dev, 0);
	*st = (struct stat){
	    .st_dev = dev.st_dev,
	    .st_ino = ino,
	    .st_nlink = 1,
	    .st_mode = S_IFCHR | 0666,
	    .st_rdev = number,
	    .st_blksize = PAGE_SIZE,
	    .st_atim = dev.st_ctim,
	    .st_mtim = dev.st_ctim,
	    .st_ctim = dev.st_ctim,
	};
}

static int path_statx(enum path_kind kind, const char *path, unsigned mask, struct statx *stx)
{
	struct statx x;
	ino_t ino;
	dev_t number = device_of(kind, path, &ino);

	if (mask & STATX__RESERVED)
		return -EINVAL;
	memset(&x, 0, sizeof(x));
	sys_call(SYS_statx, AT_FDCWD, "/dev", 0, STATX_BASIC_STATS, &x);
	x.stx_mask = STATX_BASIC_STATS;
	x.stx_attributes = x.stx_attributes_mask = 0;
	x.stx_ino = ino;
	x.stx_nlink = 1;
	x.stx_uid = x.stx_gid = 0;
	x.stx_mode = S_IFCHR | 0666;
	x.stx_size = x.stx_blocks = 0;
	x.stx_rdev_major = major(number);
	x.stx_rdev_minor = minor(number);
	x.stx_atime = x.stx_mtime = x.stx_ctime;
	*stx = x;
	return 0;
}

static int path_access(int mode)
{
	if (mode & ~7)
		return -EINVAL;
	return mode & 1 ? -EACCES : 0; /* X_OK */
}

/* -- /sys/module/kvm... -- */

bool path_is_param(const char *path)
{
	return path_param(path) != NULL;
}

/* As sysfs shows an attribute. */
static long param_stat(const char *param, struct stat *st)
{
	int mode = api_params_mode(param);

	if (mode < 0)
		return mode;
	path_stat(PATH_KVM, param, st);
	st->st_mode = (mode_t)mode;
	st->st_rdev = 0;
	st->st_size = PAGE_SIZE;
	return 0;
}

static long param_statx(const char *param, unsigned mask, struct statx *stx)
{
	int mode = api_params_mode(param), err;

	if (mode < 0)
		return mode;
	err = path_statx(PATH_KVM, param, mask, stx);
	if (err)
		return err;
	stx->stx_mode = (uint16_t)mode;
	stx->stx_rdev_major = stx->stx_rdev_minor = 0;
	stx->stx_size = PAGE_SIZE;
	return 0;
}

static long param_access(const char *param, int mode)
{
	int have = api_params_mode(param);

	if (have < 0)
		return have;
	if (mode & ~7)
		return -EINVAL;
	return mode & X_OK || (mode & W_OK && !(have & 0200)) ? -EACCES : 0;
}

/* -- Calls with a path -- */

long do_open(int dirfd, const char *path, int flags, mode_t mode)
{
	char buf[PATH_MAX];
	enum path_kind kind = path_kind(dirfd, path, buf);

	return kind == PATH_OTHER ? sys_call(SYS_openat, dirfd, path, flags, mode)
				  : path_open(kind, buf, flags);
}

long do_access(int dirfd, const char *path, int mode, int flags, bool has_flags)
{
	char buf[PATH_MAX];

	switch (path_kind(dirfd, path, buf)) {
	case PATH_KVM:
	case PATH_VFIO: return path_access(mode);
	case PATH_PARAM: return param_access(buf, mode);
	case PATH_OTHER: break;
	}
	return has_flags ? sys_call(SYS_faccessat2, dirfd, path, mode, flags)
			 : sys_call(SYS_faccessat, dirfd, path, mode);
}

long do_stat(int dirfd, const char *path, struct stat *st, int flags)
{
	char buf[PATH_MAX];
	enum path_kind kind;

	/* fstatat(fd, "", AT_EMPTY_PATH) is how newer glibcs spell fstat. */
	if (flags & AT_EMPTY_PATH && (uintptr_t)path >= PAGE_SIZE && !*path)
		return do_fstat(dirfd, st);
	kind = path_kind(dirfd, path, buf);
	if (kind == PATH_OTHER)
		return sys_call(SYS_newfstatat, dirfd, path, st, flags);
	if (kind == PATH_PARAM)
		return param_stat(buf, st);
	path_stat(kind, buf, st);
	return 0;
}

long do_fstat(int fd, struct stat *st)
{
	if (!shim_ready || !api_is_system(fd))
		return sys_call(SYS_fstat, fd, st);
	path_stat(PATH_KVM, "", st);
	return 0;
}

long do_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *stx)
{
	bool empty = flags & AT_EMPTY_PATH && (uintptr_t)path >= PAGE_SIZE && !*path;
	char buf[PATH_MAX] = "";
	enum path_kind kind = PATH_OTHER;

	if (!empty)
		kind = path_kind(dirfd, path, buf);
	else if (shim_ready && api_is_system(dirfd))
		kind = PATH_KVM;
	if (kind == PATH_OTHER)
		return sys_call(SYS_statx, dirfd, path, flags, mask, stx);
	return kind == PATH_PARAM ? param_statx(buf, mask, stx) : path_statx(kind, buf, mask, stx);
}
