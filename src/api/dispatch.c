/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From ioctl(2) to a handler. */
#include "api/dispatch.h"

#include <asm/ioctl.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/sys.h"

/* -- The row -- */

static int take_locks(const struct ioctl_row *row, struct ioctl_call *c)
{
	int r = 0;

	if (row->locks & L_KVM)
		mutex_lock(&c->kvm->lock);
	if (row->locks & L_VCPU)
		r = mutex_lock_interruptible(vcpu_mutex(c->v));
	if (r && row->locks & L_KVM)
		mutex_unlock(&c->kvm->lock);
	if (!r && row->locks & L_SLOTS)
		mutex_lock(&c->kvm->slots_lock);
	return r;
}

static void drop_locks(const struct ioctl_row *row, struct ioctl_call *c)
{
	if (row->locks & L_SLOTS)
		mutex_unlock(&c->kvm->slots_lock);
	if (row->locks & L_VCPU)
		mutex_unlock(vcpu_mutex(c->v));
	if (row->locks & L_KVM)
		mutex_unlock(&c->kvm->lock);
}

/* Copies the header and the entries in; the caller frees c->entries. */
static int copy_array_in(const struct ioctl_row *row, struct ioctl_call *c)
{
	uint32_t head[2];

	if (base_copy_in(head, (void *)c->arg, sizeof(head)))
		return -EFAULT;
	c->n = head[0];
	c->flags = head[1];
	if (c->n > row->max)
		return row->too_many;
	c->entries = base_zalloc((size_t)MAX(c->n, 1U) * row->entry);
	if (!c->entries)
		return -ENOMEM;
	return base_copy_in(c->entries, (void *)(c->arg + ARRAY_HEAD), (size_t)c->n * row->entry);
}

static int copy_array_out(const struct ioctl_row *row, struct ioctl_call *c)
{
	return base_copy_out((void *)(c->arg + ARRAY_HEAD), c->entries, (size_t)c->n * row->entry);
}

/* Locks, handler, locks. */
static long call_handler(const struct ioctl_row *row, struct ioctl_call *c)
{
	long r = take_locks(row, c);

	if (r)
		return r;
	r = row->fn(c);
	drop_locks(row, c);
	return r;
}

/* A row with entries: the VMM's memory is touched before and after, never under a lock. */
static long run_array_row(const struct ioctl_row *row, struct ioctl_call *c)
{
	long r = copy_array_in(row, c);

	if (!r)
		r = call_handler(row, c);
	if (r >= 0 && row->back && copy_array_out(row, c))
		r = -EFAULT;
	base_free(c->entries);
	return r;
}

/* A row with a fixed-size argument, or none. */
static long run_row(const struct ioctl_row *row, struct ioctl_call *c)
{
	_Alignas(64) uint8_t buf[IOCTL_BUF];
	long r;

	if (row->in && base_copy_in(buf, (void *)c->arg, row->in))
		return (row->locks & L_LAPIC) && !vcpu_has_lapic(c->v) ? -EINVAL : -EFAULT;
	if (row->out > row->in)
		memset(buf + row->in, 0, row->out - row->in);
	c->buf = buf;
	r = call_handler(row, c);
	if (r >= 0 && row->out && base_copy_out((void *)c->arg, buf, row->out))
		return -EFAULT;
	return r;
}

long ioctl_unknown(const struct file_class *cls, uint32_t request, long r)
{
	static const struct file_class *_Atomic known[8];
	static _Atomic uint64_t told[ARRAY_SIZE(known)][4];
	unsigned nr = _IOC_NR(request), i = 0;
	uint64_t bit = BIT(nr % 64);

	for (; i < ARRAY_SIZE(known) - 1; i++) {
		const struct file_class *none = NULL;

		if (atomic_compare_exchange_strong(&known[i], &none, cls) || none == cls)
			break;
	}
	if (!(atomic_fetch_or(&told[i][nr / 64], bit) & bit))
		base_log(LOG_INFO, "unknown %s ioctl 0x%08x (type 0x%02x, number 0x%02x): %s", cls->name,
			 request, _IOC_TYPE(request), nr, r == -ENOTTY ? "ENOTTY" : "EINVAL");
	return r;
}

long ioctl_dispatch(const struct ioctl_row *rows, size_t n, struct ioctl_call *c, uint32_t request,
		    long unknown)
{
	for (size_t i = 0; i < n; i++) {
		if (rows[i].request == request)
			return rows[i].entry ? run_array_row(&rows[i], c) : run_row(&rows[i], c);
	}
	return ioctl_unknown(c->file->cls, request, unknown);
}

/* -- Entry -- */

long api_ioctl_unknown(int fd, unsigned long request, void *arg)
{
	static const char system[] = "/memfd:kvm (deleted)", ours[] = "/memfd:kvm-";
	static const struct file stranger = {.cls = &system_file_class};
	char path[40], name[64] = "";
	long r;

	r = sys_call(SYS_ioctl, fd, request, arg);
	if (r != -ENOTTY)
		return r;
	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	if (sys_call(SYS_readlinkat, AT_FDCWD, path, name, sizeof(name) - 1) < 0)
		return r;
	if (!strcmp(name, system))
		return system_ioctl((struct file *)&stranger, request, (unsigned long)arg);
	return strncmp(name, ours, sizeof(ours) - 1) ? r : -EIO;
}
