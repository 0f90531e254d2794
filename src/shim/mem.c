/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libc's functions that change what is mapped where: around those that take memory away, move it or change what
 * a page is, the VMs are told (api_invalidate_begin).
 */
#include <stdarg.h>
#include <sys/mman.h>

#include "shim/shim.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* -- By number -- */

long do_munmap(void *addr, size_t len)
{
	struct mem_invalidation inv;
	bool told, due;
	long r;

	if (!shim_ready)
		return sys_call(SYS_munmap, addr, len);
	due = file_unmap_begin();
	told = api_invalidate_begin(&inv, addr, len);
	r = sys_call(SYS_munmap, addr, len);
	if (told)
		api_invalidate_end(&inv);
	if (due)
		file_unmap_end(); /* a mapping may have been the last reference to its file */
	return r;
}

long do_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	struct mem_invalidation inv;
	struct file *f;
	bool told;
	long r;

	if (!shim_ready)
		return sys_call(SYS_mmap, addr, len, prot, flags, fd, offset);
	f = flags & MAP_ANONYMOUS || fd < 0 ? NULL : file_get(fd);
	/* Only MAP_FIXED takes something away; MAP_FIXED_NOREPLACE is another bit. */
	told = (flags & MAP_FIXED) && api_invalidate_begin(&inv, addr, len);
	r = f ? file_mmap(f, fd, addr, len, prot, flags, offset)
	      : sys_call(SYS_mmap, addr, len, prot, flags, fd, offset);
	if (told)
		api_invalidate_end(&inv);
	if (f)
		file_put(f);
	return r;
}

long do_mremap(void *old, size_t old_len, size_t new_len, int flags, void *new)
{
	struct mem_invalidation from, to;
	bool told_from, told_to;
	long r;

	if (!shim_ready)
		return sys_call(SYS_mremap, old, old_len, new_len, flags, new);
	/* An old length of 0 duplicates and moves nothing. */
	told_from = api_invalidate_begin(&from, old, old_len);
	told_to = (flags & MREMAP_FIXED) && api_invalidate_begin(&to, new, new_len);
	r = sys_call(SYS_mremap, old, old_len, new_len, flags, new);
	if (told_to)
		api_invalidate_end(&to);
	if (told_from)
		api_invalidate_end(&from);
	return r;
}

long do_mprotect(void *addr, size_t len, int prot, int key, bool has_key)
{
	struct mem_invalidation inv;
	bool told = shim_ready && api_invalidate_begin(&inv, addr, len);
	long r = has_key ? sys_call(SYS_pkey_mprotect, addr, len, prot, key)
			 : sys_call(SYS_mprotect, addr, len, prot);

	if (told)
		api_invalidate_end(&inv);
	return r;
}

/* True for advice after which a page may be another one, or gone. */
static bool changes_pages(int advice)
{
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
	case MADV_FREE:
	case MADV_REMOVE:
	case MADV_PAGEOUT:
	case MADV_COLLAPSE:
	case MADV_HWPOISON:
	case MADV_SOFT_OFFLINE: return true;
	default: return false;
	}
}

long do_madvise(void *addr, size_t len, int advice)
{
	struct mem_invalidation inv;
	bool told = shim_ready && changes_pages(advice) && api_invalidate_begin(&inv, addr, len);
	long r = sys_call(SYS_madvise, addr, len, advice);

	if (told)
		api_invalidate_end(&inv);
	return r;
}

/* -- libc's names -- */

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	return (void *)shim_ret(do_mmap(addr, len, prot, flags, fd, offset));
}
EXPORT_ALIAS(mmap) void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset);

EXPORT int munmap(void *addr, size_t len)
{
	return (int)shim_ret(do_munmap(addr, len));
}

EXPORT void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	void *new = NULL;

	if (flags & MREMAP_FIXED) {
		va_list ap;

		va_start(ap, flags);
		new = va_arg(ap, void *);
		va_end(ap);
	}
	return (void *)shim_ret(do_mremap(old, old_len, new_len, flags, new));
}

EXPORT int mprotect(void *addr, size_t len, int prot)
{
	return (int)shim_ret(do_mprotect(addr, len, prot, 0, false));
}

EXPORT int pkey_mprotect(void *addr, size_t len, int prot, int key)
{
	/* As libc: without a key it is mprotect, which older kernels have, too. */
	return (int)shim_ret(do_mprotect(addr, len, prot, key, key != -1));
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
	return (int)shim_ret(do_madvise(addr, len, advice));
}
