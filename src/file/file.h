/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Open files of ours. The kernel's open file description is the reference: a memfd that the library maps,
 * handed to the VMM through a second open of it; inotify tells when that description is closed for the last
 * time, anywhere (every fd in every process, and the VMM's mappings, count). What a file is good for its
 * class says: this room knows neither VMs nor VFIO.
 *
 *	prepare   memfd, mapping, close watch, one fd not yet visible	everything that costs memory
 *	install   the VMM's description on that same fd number		last step that can fail (EMFILE)
 *	(last close, or the end of the last call after it)		class->release(object)
 *
 * Results are what the system call returns inside the kernel (>= 0, or -errno). Any thread.
 */
#ifndef USERKVM_FILE_FILE_H
#define USERKVM_FILE_FILE_H

#include <sys/types.h>

#include "base/base.h"

struct file;

struct file_class {
	const char *name; /* in log lines */
	/* Belongs to nobody's memory (KVM: /dev/kvm itself): its ioctls work in a forked child too. */
	bool global;
	bool grows; /* what libc's streams append lies behind the content, which is less than a page */
	/* NULL: -ENOTTY. Runs with the file pinned, no lock held. */
	long (*ioctl)(struct file *f, uint32_t request, unsigned long arg);
	/* Before it: 0, or -errno. NULL: always. */
	int (*may_map)(struct file *f, uint64_t first, uint64_t pages, int prot, int flags);
	/* After the kernel mapped `pages` pages from page `first` of the file at addr. NULL: -ENODEV. */
	int (*mapped)(struct file *f, uint8_t *addr, uint64_t first, uint64_t pages, int prot);
	/* Where mmap(2) at *offset finds its pages: another place, or another descriptor of the library's. NULL:
	 * there, in the file. -errno: refuses. */
	int (*map_at)(struct file *f, int *fd, uint64_t *offset, size_t len, int flags);
	/* pread(2) and pwrite(2); NULL: the memfd's own. buf is the VMM's. Bytes, or -errno. */
	long (*read)(struct file *f, void *buf, size_t len, uint64_t pos);
	long (*write)(struct file *f, const void *buf, size_t len, uint64_t pos);
	/* The last reference went; no lock held. */
	void (*release)(void *object);
};

/* Memory of a file is never returned to the allocator, so a stale pointer may be probed with
 * ref_get_unless_zero. */
struct file {
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
	_Atomic int slots;	     /* fd table entries that name this file */
	struct file *by_wd, *by_ino; /* hash chains, guarded by fd_lock */
	struct file *next;	     /* free list, or a list of dead files */
};

/* -- Making -- */

/* A file of `size` bytes (0: no content) named `name` in /proc. -EMFILE, -ENOMEM. */
int file_prepare(struct file **out, const struct file_class *cls, const char *name, size_t size, int access);
/* Hands it out: the new fd, close-on-exec unless cloexec is false. -EMFILE: still prepared. From now on
 * object's reference is the file's. */
int file_install(struct file *f, void *object, bool cloexec);
/* Undoes prepare. */
void file_abandon(struct file *f);
/* Brings up what files need in this process: its owner's mark, event loop, close watch. Idempotent. Takes
 * files_start_lock. */
int files_start(void);
/* Number of files handed out and not yet released. */
long files_live(void);

/* -- Finding -- */

/* Pinned for a call, as fdget: pairs with file_put. NULL if the fd is not ours. Lock-free for the fds that
 * came our way; others (SCM_RIGHTS) are identified by their inode. */
struct file *file_get(int fd);
/* One more pin; the caller has one, or is inside the class's call. */
void file_get_again(struct file *f);
/* The last one after the last close releases the file here: no lock may be held. */
void file_put(struct file *f);
/* The class of the file behind an fd, or NULL; one look-up, nothing is pinned. */
const struct file_class *file_class_of(int fd);

/* -- The VMM's calls -- */

/* -EIO for a file that belongs to another process's memory (KVM: another mm), unless its class is global. */
long file_ioctl(struct file *f, unsigned long request, void *arg);
/* pread(2), pwrite(2) of a file whose class has such a function. -EIO as above. */
long file_read(struct file *f, void *buf, size_t len, uint64_t pos);
long file_write(struct file *f, const void *buf, size_t len, uint64_t pos);
/* The address, or -errno; -ENODEV: this kind of file cannot be mapped. */
long file_mmap(struct file *f, int fd, void *addr, size_t len, int prot, int flags, off_t offset);
/* munmap(2), after which a file whose last reference was the mapping has been released. */
long file_munmap(void *addr, size_t len);
/* file_munmap in two halves around a munmap(2) of the caller's: true, then end is due, which runs the releases
 * with no lock held and nothing under way. */
bool file_unmap_begin(void);
void file_unmap_end(void);

/*
 * Descriptor calls, any fd. When one of them drops the last reference to a file of ours, the file has been
 * released on return. The library's own descriptors cannot be closed this way (-EBADF).
 */
long file_close(int fd);
long file_close_range(unsigned first, unsigned last, unsigned flags);
long file_dup3(int oldfd, int newfd, int flags);
/* After dup, F_DUPFD and the like: newfd is a duplicate of oldfd. */
void file_duplicated(int oldfd, int newfd);
/* Releases what was closed behind our back (another process, a mapping) and not yet noticed. */
void file_drain(void);

/* Around what the library does for the VMM outside a file's ioctl: false, and nothing begun, where this thread is
 * inside the library already (a handler of the VMM interrupted it), is the event loop, or where the files are
 * another process's. */
bool file_call_begin(void);
void file_call_end(void);

/* -- Owners: owner.c -- */

/*
 * Whose files these are. A "generation" is one existence of the library's state: it grows in a forked child,
 * whose inherited files belong to the parent. The current one stands in a page that a fork wipes, so that
 * even a raw clone(2) is noticed; a vfork child shares the page and is let through, but it is not the owner
 * of the fd table and never writes it.
 */

/* The current generation, 0 if there is none yet. Lock-free. */
uint32_t owner_generation(void);
/* True in the process that owns the fd table; a forked child becomes its own owner here, a vfork child
 * never. One getpid(2). */
bool owner_is_me(void);
/* In a forked child: a new generation; nobody else runs yet. Idempotent. */
void owner_adopt(void);
/* In a forked child (pthread_atfork; without it the next call notices). */
void owner_forked(void);
/* fn runs in every child that adopts, before the new generation counts, so that a room forgets its parent's
 * objects. At most OWNER_HOOKS rooms, each once, at its first set-up; a second time is nothing. */
#define OWNER_HOOKS 4
void owner_on_fork(void (*fn)(void));

#endif
