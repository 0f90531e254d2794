/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to file/: the close watch, the fd table, and what a fork asks of them. */
#ifndef USERKVM_FILE_INTERNAL_H
#define USERKVM_FILE_INTERNAL_H

#include "file/file.h"

/* True if the file belongs to this process's memory (KVM: to the caller's mm). */
static inline bool file_is_current(const struct file *f)
{
	return f->generation == owner_generation();
}

/* -- file.c -- */

/* In a forked child: forgets the parent's files, but for the fd numbers that they occupy. */
void files_forked(void);
/* The file with that watch descriptor; fd_lock. */
struct file *file_by_wd(int wd);
/* Calls fn for every file handed out; fd_lock. */
void file_for_each(void (*fn)(struct file *f, void *arg), void *arg);
void files_lock(void);
void files_unlock(void);
/* True while a thread is in a munmap that may be a last close, which it will drain itself. */
bool files_unmapping(void);

struct file_list {
	struct file *first;
};

/* Runs the releases, no lock held. */
void files_release(struct file_list *dead);

/* -- owner.c -- */

/* Maps the page that tells a fork, once per process; under files_start_lock. -ENOMEM. */
int owner_start(void);

/* -- watch.c: fd_lock held where said -- */

int watch_start(void);
void watch_forked(void);
/* Watches the inode behind `path` for the last close; fd_lock not needed. The descriptor, or -errno. */
int watch_add(const char *path, int access);
void watch_del(int wd);
/* True if the kernel reported something that nobody has acted on. No lock, one system call: what a close of any
 * descriptor of the VMM's asks before it takes fd_lock. */
bool watch_pending(void);
/* Takes what the kernel reported so far; files whose last reference went are put on `dead`. fd_lock. */
void watch_drain(struct file_list *dead);

/* -- table.c: fd number -> file, lock-free -- */

/* The cached file, or NULL. */
struct file *table_get(int fd);
/* NULL clears. False: no memory for the entry (then the inode identifies the file). */
bool table_set(int fd, struct file *f);
/* The first fd >= fd with an entry, or -1. */
int table_next(int fd);
/* Drops entries of f whose fd is something else by now; true if one remains. */
bool table_scrub(struct file *f);
/* Drops all entries of f. */
void table_forget(struct file *f);

#endif
