/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to api/: an ioctl is a row. The dispatcher copies the argument in, takes the row's locks, calls
 * the handler, drops the locks and copies the result out; handlers check, then act.
 */
#ifndef USERKVM_API_DISPATCH_H
#define USERKVM_API_DISPATCH_H

#include "api/kvm.h"

enum ioctl_locks {
	L_NONE = 0,
	L_KVM = 1,   /* kvm->lock */
	L_VCPU = 2,  /* vcpu->mutex; -EINTR while waiting */
	L_SLOTS = 4, /* kvm->slots_lock */
	L_LAPIC = 8, /* no lock: a vCPU without a local APIC says -EINVAL before -EFAULT */
};

#define IOCTL_BUF 4096 /* largest fixed argument: struct kvm_xsave */

struct ioctl_call {
	struct file *file;
	struct kvm *kvm;       /* NULL on /dev/kvm */
	struct vcpu_handle *h; /* on a vCPU */
	struct vcpu *v;	       /* h->vcpu */
	unsigned long arg;     /* as passed: an integer, or the VMM's pointer */
	void *buf;	       /* our copy of the fixed-size argument */
	void *entries;	       /* our copy of a variable-size argument's entries; never NULL */
	uint32_t n, flags;     /* its header */
};

struct ioctl_row {
	uint32_t request;
	uint16_t in, out; /* bytes copied before and (if the result is >= 0) after */
	uint8_t locks;
	long (*fn)(struct ioctl_call *c);
	const char *name;
	/* A variable-size argument: {u32 n, u32 flags, entries}. entry 0: none. */
	uint16_t entry, max; /* bytes of one, most of them */
	int16_t too_many;    /* -errno for more */
	bool back;	     /* entries are copied out again */
};

#define ROW(request, in, out, locks, fn)                              \
	{                                                             \
		request, in, out, locks, fn, #request, 0, 0, 0, false \
	}
#define ROW_ARRAY(request, locks, fn, entry, max, too_many, back)              \
	{                                                                      \
		request, 0, 0, locks, fn, #request, entry, max, too_many, back \
	}
#define ARRAY_HEAD 8 /* bytes before the entries */

/* Runs the row of `request`; `unknown` if there is none. */
long ioctl_dispatch(const struct ioctl_row *rows, size_t n, struct ioctl_call *c, uint32_t request,
		    long unknown);
/* One log line per kind of file and ioctl number. Returns r. */
long ioctl_unknown(const struct file_class *cls, uint32_t request, long r);

/* Shared by several files: KVM_CHECK_EXTENSION on /dev/kvm and on a VM. */
long ioctl_check_extension(struct ioctl_call *c);
/* KVM_GET_SUPPORTED_HV_CPUID on /dev/kvm and on a vCPU. */
long ioctl_get_hv_cpuid(struct ioctl_call *c);

#endif
