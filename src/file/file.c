/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Open files of ours: made, found, pinned, duplicated, closed. The mechanism is told in file.h. */
#include "file/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <linux/close_range.h>

#include "base/loop.h"
#include "base/mutate.h"
#include "base/sys.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#define BUCKETS	    256
#define POOL	    16 /* files allocated at a time */
#define PATH_MAX_FD 40

static struct {
	struct mutex lock; /* fd_lock: hash chains, free list, and closes of our own descriptors */
	struct file *by_wd[BUCKETS], *by_ino[BUCKETS];
	struct file *free;
	_Atomic uint64_t dev; /* of every memfd */
	_Atomic long live;
	_Atomic bool mapped; /* the VMM mapped a file of ours at some time */
	_Atomic int unmapping;
} files = {.lock = {.role = LOCK_FD_TABLE}};

static struct mutex start_lock = {.role = LOCK_FILES_START}; /* files_start, by whichever room opens first */

/* Both may be looked at by a signal handler of the VMM that interrupted us and closes something. */
static __thread __attribute__((tls_model("initial-exec"))) volatile int inside, locking;

void files_lock(void)
{
	locking++;
	mutex_lock(&files.lock);
}

void files_unlock(void)
{
	mutex_unlock(&files.lock);
	locking--;
}

/* True where a close may neither take fd_lock nor run a release: the event loop does it then. */
static bool must_defer(void)
{
	return inside || locking || loop_is_self();
}

/* This thread is inside the library: a close by a signal handler of the VMM must not run releases. */
static void enter(void)
{
	inside++;
}

static void leave(void)
{
	inside--;
}

bool file_call_begin(void)
{
	if (must_defer() || !owner_is_me())
		return false;
	enter();
	return true;
}

void file_call_end(void)
{
	leave();
}

bool files_unmapping(void)
{
	return atomic_load(&files.unmapping);
}

long files_live(void)
{
	return atomic_load_explicit(&files.live, memory_order_relaxed);
}

int files_start(void)
{
	int r;

	mutex_lock(&start_lock);
	r = owner_start();
	if (!r)
		r = loop_start();
	if (!r)
		r = watch_start();
	mutex_unlock(&start_lock);
	return r;
}

void files_forked(void)
{
	if (mutated(MUTATE_FORK_CHILD_WAITS)) {
		mutex_lock(&files.lock);
		mutex_unlock(&files.lock);
	}
	mutex_forked(&files.lock);
	mutex_forked(&start_lock);
	memset(files.by_wd, 0, sizeof(files.by_wd));
	memset(files.by_ino, 0, sizeof(files.by_ino));
	atomic_store(&files.live, 0);
	atomic_store(&files.unmapping, 0);
	watch_forked();
}

/* -- Hash chains; fd_lock -- */

struct file *file_by_wd(int wd)
{
	struct file *f = files.by_wd[(unsigned)wd % BUCKETS];

	while (f && f->wd != wd)
		f = f->by_wd;
	return f;
}

static struct file *file_by_ino(uint64_t ino)
{
	struct file *f = files.by_ino[ino % BUCKETS];

	while (f && f->ino != ino)
		f = f->by_ino;
	return f;
}

void file_for_each(void (*fn)(struct file *f, void *arg), void *arg)
{
	for (unsigned i = 0; i < BUCKETS; i++) {
		for (struct file *f = files.by_ino[i], *next; f; f = next) {
			next = f->by_ino;
			fn(f, arg);
		}
	}
}

static void hash_add(struct file *f)
{
	struct file **w = &files.by_wd[(unsigned)f->wd % BUCKETS];
	struct file **i = &files.by_ino[f->ino % BUCKETS];

	f->by_wd = *w;
	*w = f;
	f->by_ino = *i;
	*i = f;
	atomic_fetch_add(&files.live, 1);
}

static void hash_del(struct file *f)
{
	struct file **p;

	for (p = &files.by_wd[(unsigned)f->wd % BUCKETS]; *p != f; p = &(*p)->by_wd)
		;
	*p = f->by_wd;
	for (p = &files.by_ino[f->ino % BUCKETS]; *p != f; p = &(*p)->by_ino)
		;
	*p = f->by_ino;
	atomic_fetch_sub(&files.live, 1);
}

/* -- Memory -- */

/* A zeroed file whose count is still 0; fd_lock not held. */
static struct file *file_alloc(void)
{
	struct file *f, *pool;

	files_lock();
	f = files.free;
	if (f) {
		files.free = f->next;
		files_unlock();
		return f;
	}
	files_unlock();
	pool = base_zalloc(POOL * sizeof(*pool));
	if (!pool)
		return NULL;
	files_lock();
	for (int i = 1; i < POOL; i++) {
		pool[i].next = files.free;
		files.free = &pool[i];
	}
	files_unlock();
	return pool;
}

/* Back to the free list; the count is 0. */
static void file_free(struct file *f)
{
	files_lock();
	f->next = files.free;
	files.free = f;
	files_unlock();
}

/* -- Making -- */

static void fd_path(char path[PATH_MAX_FD], int fd)
{
	snprintf(path, PATH_MAX_FD, "/proc/thread-self/fd/%d", fd);
}

/* A memfd of fixed size, unless it grows; the VMM cannot shrink it under us. */
static int make_memfd(const char *name, size_t size, bool grows)
{
	long fd, r = 0;

	fd = sys_call(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (fd == -EINVAL)
		fd = sys_call(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return (int)fd;
	if (size) {
		r = sys_call(SYS_ftruncate, fd, size);
		if (!r)
			r = sys_call(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK | (grows ? 0 : F_SEAL_GROW));
	}
	if (r) {
		sys_call(SYS_close, fd);
		return (int)r;
	}
	return (int)fd;
}

/* Maps the memfd and watches it: f->map, f->wd, f->ino. On an error nothing is left. */
static int attach(struct file *f, int fd)
{
	size_t len = MAX(f->size, PAGE_SIZE);
	char path[PATH_MAX_FD];
	struct stat st;
	long map, r;

	map = sys_call(SYS_mmap, NULL, len, f->size ? PROT_READ | PROT_WRITE : PROT_NONE, MAP_SHARED, fd, 0);
	if (map < 0 && map > -4096)
		return (int)map;
	fd_path(path, fd);
	r = sys_call(SYS_fstat, fd, &st);
	if (!r)
		r = watch_add(path, f->access);
	if (r < 0) {
		sys_call(SYS_munmap, map, len);
		return (int)r;
	}
	files.dev = st.st_dev;
	f->map = (uint8_t *)map;
	f->wd = (int)r;
	f->ino = st.st_ino;
	return 0;
}

int file_prepare(struct file **out, const struct file_class *cls, const char *name, size_t size, int access)
{
	struct file *f = file_alloc();
	int r;

	if (!f)
		return -ENOMEM;
	f->cls = cls;
	f->size = size;
	f->access = access;
	f->keep_map = f->gone = false;
	f->doubts = 0;
	f->object = NULL;
	f->generation = owner_generation();
	r = make_memfd(name, size, cls->grows);
	if (r >= 0) {
		f->setup_fd = r;
		r = attach(f, r);
		if (r)
			sys_call(SYS_close, f->setup_fd);
	}
	if (r) {
		file_free(f);
		return r;
	}
	*out = f;
	return 0;
}

static void detach(struct file *f)
{
	watch_del(f->wd);
	if (!f->keep_map)
		sys_call(SYS_munmap, f->map, MAX(f->size, PAGE_SIZE));
}

void file_abandon(struct file *f)
{
	detach(f);
	sys_call(SYS_close, f->setup_fd);
	file_free(f);
}

/* The description that the VMM gets, locked for the probe of watch.c; on a number of its own. */
static int open_description(struct file *f)
{
	bool readonly = (f->access & O_ACCMODE) == O_RDONLY;
	struct flock lock = {.l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
	char path[PATH_MAX_FD];
	long fd;

	fd_path(path, f->setup_fd);
	fd = sys_call(SYS_openat, AT_FDCWD, path, f->access | O_CLOEXEC, 0);
	if (fd >= 0)
		sys_call(SYS_fcntl, fd, F_OFD_SETLK, &lock);
	return (int)fd;
}

int file_install(struct file *f, void *object, bool cloexec)
{
	int fd = f->setup_fd, second = open_description(f);

	if (second < 0)
		return second;
	f->object = object;
	files_lock();
	hash_add(f);
	ref_init(&f->refs, 1);
	if (owner_is_me())
		table_set(fd, f);
	files_unlock();
	/* The number that made the memfd becomes the VMM's; our own description lives on in the mapping. */
	sys_call(SYS_dup3, second, fd, cloexec ? O_CLOEXEC : 0);
	sys_call(SYS_close, second);
	return fd;
}

/* -- Ending -- */

/* The last reference went: nobody else has f. No lock held. */
static void file_release(struct file *f)
{
	files_lock();
	hash_del(f);
	table_forget(f);
	files_unlock();
	detach(f);
	enter();
	f->cls->release(f->object);
	leave();
	file_free(f);
}

void files_release(struct file_list *dead)
{
	while (dead->first) {
		struct file *f = dead->first;

		dead->first = f->next;
		file_release(f);
	}
}

void file_get_again(struct file *f)
{
	ref_get(&f->refs);
}

void file_put(struct file *f)
{
	lock_assert_may_put(f->cls->name);
	if (ref_put(&f->refs))
		file_release(f);
}

/* -- Finding -- */

/* A file of ours whose fd came past us (SCM_RIGHTS, a raw dup); pinned. */
static struct file *get_by_inode(int fd)
{
	struct file *f;
	struct stat st;

	if (locking || sys_call(SYS_fstat, fd, &st) || st.st_dev != files.dev)
		return NULL;
	files_lock();
	f = file_by_ino(st.st_ino);
	if (f && !ref_get_unless_zero(&f->refs))
		f = NULL;
	files_unlock();
	return f;
}

struct file *file_get(int fd)
{
	struct file *f;

	while ((f = table_get(fd))) {
		if (!ref_get_unless_zero(&f->refs))
			return NULL;
		if (table_get(fd) == f)
			return f;
		file_put(f);
	}
	return files_live() ? get_by_inode(fd) : NULL;
}

const struct file_class *file_class_of(int fd)
{
	struct file *f = table_get(fd);

	return f ? f->cls : NULL;
}

/* -- The VMM's descriptor calls -- */

void file_drain(void)
{
	struct file_list dead = {NULL};

	if (!files_live() || must_defer() || !watch_pending() || !owner_is_me())
		return;
	files_lock();
	watch_drain(&dead);
	files_unlock();
	files_release(&dead);
}

long file_close(int fd)
{
	struct file *f = table_get(fd);
	struct file_list dead = {NULL};
	long r;

	if (sys_fd_is_ours(fd))
		return -EBADF;
	if (f && !owner_is_me())
		return sys_call(SYS_close, fd);
	if (!f || must_defer() || !file_is_current(f)) {
		if (f)
			table_set(fd, NULL);
		r = sys_call(SYS_close, fd);
		file_drain();
		return r;
	}
	/* Under the lock the event that our close causes cannot be taken by another thread. */
	files_lock();
	table_set(fd, NULL);
	r = sys_call(SYS_close, fd);
	watch_drain(&dead);
	files_unlock();
	files_release(&dead);
	return r;
}

/* The first descriptor in [fd, last] that needs more than a bare close, or last + 1. */
static unsigned next_special(unsigned fd, unsigned last)
{
	int mine = table_next((int)MIN(fd, (unsigned)INT32_MAX));
	unsigned end = mine >= 0 ? MIN((unsigned)mine, last) : last;

	for (unsigned i = fd; i <= MIN(end, 0xffffU); i++) {
		if (sys_fd_is_ours((int)i))
			return i;
	}
	return mine >= 0 && (unsigned)mine <= last ? (unsigned)mine : last + 1;
}

long file_close_range(unsigned first, unsigned last, unsigned flags)
{
	long r = 0;

	if (first > last || flags & ~(unsigned)CLOSE_RANGE_UNSHARE)
		return sys_call(SYS_close_range, first, last, flags);
	if (flags) {
		/* Unshares and closes nothing: no descriptor has that number. */
		r = sys_call(SYS_close_range, UINT32_MAX, UINT32_MAX, flags);
		if (r)
			return r;
	}
	last = MIN(last, (unsigned)INT32_MAX);
	while (first <= last) {
		unsigned special = next_special(first, last);

		if (special > first)
			r = sys_call(SYS_close_range, first, special - 1, 0);
		if (r)
			return r;
		if (special <= last && !sys_fd_is_ours((int)special))
			file_close((int)special);
		first = special + 1;
	}
	file_drain();
	return 0;
}

long file_dup3(int oldfd, int newfd, int flags)
{
	struct file *f = table_get(oldfd);
	struct file_list dead = {NULL};
	long r;

	if (sys_fd_is_ours(newfd))
		return -EBUSY;
	if (!(f || table_get(newfd)) || !owner_is_me()) {
		r = sys_call(SYS_dup3, oldfd, newfd, flags);
		file_drain();
		return r;
	}
	if (must_defer()) {
		r = sys_call(SYS_dup3, oldfd, newfd, flags);
		if (r >= 0)
			table_set(newfd, f);
		return r;
	}
	files_lock();
	r = sys_call(SYS_dup3, oldfd, newfd, flags);
	if (r >= 0)
		table_set(newfd, f);
	watch_drain(&dead);
	files_unlock();
	files_release(&dead);
	return r;
}

void file_duplicated(int oldfd, int newfd)
{
	struct file *f = table_get(oldfd);

	if (newfd >= 0 && (f || table_get(newfd)) && owner_is_me())
		table_set(newfd, f);
}

/* -- Calls on a file -- */

long file_ioctl(struct file *f, unsigned long request, void *arg)
{
	long r;

	if (!f->cls->global && !file_is_current(f))
		return -EIO;
	if (!f->cls->ioctl)
		return -ENOTTY;
	enter();
	r = f->cls->ioctl(f, (uint32_t)request, (unsigned long)arg);
	leave();
	return r;
}

long file_read(struct file *f, void *buf, size_t len, uint64_t pos)
{
	long r;

	if (!f->cls->global && !file_is_current(f))
		return -EIO;
	enter();
	r = f->cls->read(f, buf, len, pos);
	leave();
	return r;
}

long file_write(struct file *f, const void *buf, size_t len, uint64_t pos)
{
	long r;

	if (!f->cls->global && !file_is_current(f))
		return -EIO;
	enter();
	r = f->cls->write(f, buf, len, pos);
	leave();
	return r;
}

long file_mmap(struct file *f, int fd, void *addr, size_t len, int prot, int flags, off_t offset)
{
	uint64_t pages = (len + PAGE_OFFSET_MASK) >> PAGE_SHIFT;
	long r;
	int err;

	if (!f->cls->mapped)
		return -ENODEV;
	if (f->cls->map_at) {
		uint64_t at = (uint64_t)offset;

		err = f->cls->map_at(f, &fd, &at, len, flags);
		if (err)
			return err;
		offset = (off_t)at;
	}
	err = f->cls->may_map ? f->cls->may_map(f, (uint64_t)offset >> PAGE_SHIFT, pages, prot, flags) : 0;
	if (err)
		return err;
	r = sys_call(SYS_mmap, addr, len, prot, flags, fd, offset);
	if (r < 0 && r > -4096)
		return r;
	atomic_store_explicit(&files.mapped, true, memory_order_relaxed);
	err = f->cls->mapped(f, (uint8_t *)r, (uint64_t)offset >> PAGE_SHIFT, pages, prot);
	if (err) {
		sys_call(SYS_munmap, r, len);
		return err;
	}
	return r;
}

bool file_unmap_begin(void)
{
	if (!atomic_load_explicit(&files.mapped, memory_order_relaxed) || must_defer())
		return false;
	atomic_fetch_add(&files.unmapping, 1);
	return true;
}

void file_unmap_end(void)
{
	file_drain();
	atomic_fetch_sub(&files.unmapping, 1);
}

long file_munmap(void *addr, size_t len)
{
	/* A mapping may have been the last reference to its file. */
	bool due = file_unmap_begin();
	long r = sys_call(SYS_munmap, addr, len);

	if (due)
		file_unmap_end();
	return r;
}
