/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to api/: open files of ours. The kernel's open file description is the reference: a memfd that
 * the library maps, handed to the VMM through a second open of it; inotify tells when that description is
 * closed for the last time, anywhere (every fd in every process, and the VMM's mappings, count).
 *
 *	prepare   memfd, mapping, close watch, one fd not yet visible	everything that costs memory
 *	install   the VMM's description on that same fd number		last step that can fail (EMFILE)
 *	(last close, or the end of the last ioctl after it)		class->release(object)
 */
#ifndef USERKVM_API_FILE_H
#define USERKVM_API_FILE_H

#include "api/api.h"

enum file_kind { FILE_SYSTEM, FILE_VM, FILE_VCPU, FILE_DEVICE, FILE_STATS };

struct file_class {
	enum file_kind kind;
	/* NULL: -ENOTTY. Runs with the file pinned, no lock held. */
	long (*ioctl)(struct api_file *f, uint32_t request, unsigned long arg);
	/* After the kernel mapped `pages` pages from page `first` of the file at addr. NULL: -ENODEV. */
	int (*mapped)(struct api_file *f, uint8_t *addr, uint64_t first, uint64_t pages, int prot);
	/* The last reference went; no lock held. */
	void (*release)(void *object);
};

/* Memory of a file is never returned to the allocator, so a stale pointer may be probed with
 * ref_get_unless_zero. */
struct api_file {
	struct ref refs; /* the description's, and one per call in progress */
	uint32_t generation;
	const struct file_class *cls;
	void *object;
	uint8_t *map; /* the library's mapping of the memfd */
	size_t size;
	bool keep_map;	/* the object owns the mapping and unmaps it */
	bool gone;	/* the description's reference was dropped; guarded by fd_lock */
	uint8_t doubts; /* times that a close event was not believed; guarded by fd_lock */
	int access;	/* O_RDONLY, O_WRONLY or O_RDWR of the VMM's description, with status flags */
	int setup_fd;	/* between prepare and install */
	int wd;
	uint64_t ino;
	_Atomic int slots;		 /* fd table entries that name this file */
	struct api_file *by_wd, *by_ino; /* hash chains, guarded by fd_lock */
	struct api_file *next;		 /* free list, or a list of dead files */
};

/* -- file.c -- */

/* A file of `size` bytes (0: no content) named "kvm..." in /proc. -EMFILE, -ENOMEM. */
int file_prepare(struct api_file **out, const struct file_class *cls, const char *name, size_t size,
		 int access);
/* Hands it out: the new fd, close-on-exec unless cloexec is false. -EMFILE: still prepared. From now on
 * object's reference is the file's. */
int file_install(struct api_file *f, void *object, bool cloexec);
/* Undoes prepare. */
void file_abandon(struct api_file *f);
/* Brings up the close watch in this process. Idempotent; called under usage_lock. */
int files_start(void);
/* In a forked child: forgets the parent's files, but for the fd numbers that they occupy. */
void files_forked(void);
/* True if the file belongs to this process's memory (KVM: to the caller's mm). */
static inline bool file_is_current(const struct api_file *f, uint32_t generation)
{
	return f->generation == generation;
}
/* Number of files handed out and not yet released. */
long files_live(void);

/* -- watch.c: fd_lock held where said -- */

struct file_list {
	struct api_file *first;
};

int watch_start(void);
void watch_forked(void);
/* Watches the inode behind `path` for the last close; fd_lock not needed. The descriptor, or -errno. */
int watch_add(const char *path, int access);
void watch_del(int wd);
/* Takes what the kernel reported so far; files whose last reference went are put on `dead`. fd_lock. */
void watch_drain(struct file_list *dead);
/* The file with that watch descriptor; fd_lock. */
struct api_file *file_by_wd(int wd);
/* Calls fn for every file handed out; fd_lock. */
void file_for_each(void (*fn)(struct api_file *f, void *arg), void *arg);
void files_lock(void);
void files_unlock(void);
/* Runs the releases, no lock held. */
void files_release(struct file_list *dead);
/* This thread is inside the library: a close by a signal handler of the VMM must not run releases. */
void files_enter(void);
void files_leave(void);

/* -- table.c: fd number -> file, lock-free -- */

/* The cached file, or NULL. */
struct api_file *table_get(int fd);
/* NULL clears. False: no memory for the entry (then the inode identifies the file). */
bool table_set(int fd, struct api_file *f);
/* The first fd >= fd with an entry, or -1. */
int table_next(int fd);
/* Drops entries of f whose fd is something else by now; true if one remains. */
bool table_scrub(struct api_file *f);
/* Drops all entries of f. */
void table_forget(struct api_file *f);

#endif
