/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /dev/kvm: its file and its ioctls (api.rst 4.1 to 4.4, 4.46, 4.68, 4.88). */
#include <fcntl.h>
#include <linux/kvm.h>

#include "api/dispatch.h"
#include "api/life.h"
#include "base/sys.h"

#define MAX_MSRS 255 /* KVM: fewer than MAX_IO_MSRS, which is 256 */

/* -- The file -- */

static void system_release(void *object)
{
	life_put();
}

const struct file_class system_file_class = {
    .name = "system",
    .global = true, /* /dev/kvm itself belongs to nobody; VMs and what hangs on them, to one address space */
    .ioctl = system_ioctl,
    .release = system_release,
};

bool api_is_system(int fd)
{
	return file_class_of(fd) == &system_file_class;
}

int api_open(int flags)
{
	struct file *f;
	int r;

	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return -EEXIST;
	if (flags & O_DIRECTORY)
		return -ENOTDIR;
	r = life_get();
	if (r)
		return r;
	r = file_prepare(&f, &system_file_class, "kvm", 0, flags & (O_ACCMODE | O_NONBLOCK | O_APPEND));
	if (!r) {
		r = file_install(f, NULL, flags & O_CLOEXEC);
		if (r < 0)
			file_abandon(f);
	}
	if (r < 0)
		life_put();
	return r;
}

/* -- Integers -- */

static long get_api_version(struct ioctl_call *c)
{
	return c->arg ? -EINVAL : KVM_API_VERSION;
}

static long get_vcpu_mmap_size(struct ioctl_call *c)
{
	return c->arg ? -EINVAL : (long)VCPU_MMAP_SIZE;
}

static long create_vm(struct ioctl_call *c)
{
	return vm_file_create(c->arg);
}

long ioctl_check_extension(struct ioctl_call *c)
{
	return caps_check(c->kvm, (long)c->arg);
}

static long get_mce_cap(struct ioctl_call *c)
{
	uint64_t cap = vcpu_mce_cap();

	memcpy(c->buf, &cap, sizeof(cap));
	return 0;
}

/* -- Lists -- */

/* struct kvm_msr_list: the count is always told, the list only where there is room. */
static long put_msr_list(unsigned long arg, const uint32_t *list, uint32_t n)
{
	uint32_t room;

	if (base_copy_in(&room, (void *)arg, sizeof(room)) || base_copy_out((void *)arg, &n, sizeof(n)))
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	return base_copy_out((void *)(arg + sizeof(n)), list, n * sizeof(*list));
}

static long get_msr_index_list(struct ioctl_call *c)
{
	unsigned n;
	const uint32_t *list = vcpu_msr_list(&n);

	return put_msr_list(c->arg, list, n);
}

static long get_msr_feature_index_list(struct ioctl_call *c)
{
	unsigned n;
	const uint32_t *list = vcpu_msr_feature_list(&n);

	return put_msr_list(c->arg, list, n);
}

/* struct kvm_cpuid2, filled by `get`. */
static long put_cpuid(struct ioctl_call *c,
		      int (*get)(struct ioctl_call *c, struct kvm_cpuid_entry2 *e, unsigned *n))
{
	unsigned long arg = c->arg;
	struct kvm_cpuid_entry2 *e;
	uint32_t head[2];
	unsigned n;
	int r;

	if (base_copy_in(head, (void *)arg, sizeof(head)))
		return -EFAULT;
	if (!head[0])
		return -E2BIG;
	n = MIN(head[0], (uint32_t)VCPU_MAX_CPUID);
	e = base_zalloc(n * sizeof(*e));
	if (!e)
		return -ENOMEM;
	r = get(c, e, &n);
	if (!r) {
		head[0] = n;
		if (base_copy_out((void *)(arg + sizeof(head)), e, n * sizeof(*e)) ||
		    base_copy_out((void *)arg, head, sizeof(head)))
			r = -EFAULT;
	}
	base_free(e);
	return r;
}

static int supported_cpuid(struct ioctl_call *c, struct kvm_cpuid_entry2 *e, unsigned *n)
{
	return vcpu_supported_cpuid(e, n);
}

static int emulated_cpuid(struct ioctl_call *c, struct kvm_cpuid_entry2 *e, unsigned *n)
{
	return vcpu_emulated_cpuid(e, n);
}

static int supported_hv_cpuid(struct ioctl_call *c, struct kvm_cpuid_entry2 *e, unsigned *n)
{
	return vcpu_supported_hv_cpuid(c->v, e, n);
}

static long get_supported_cpuid(struct ioctl_call *c)
{
	return put_cpuid(c, supported_cpuid);
}

static long get_emulated_cpuid(struct ioctl_call *c)
{
	return put_cpuid(c, emulated_cpuid);
}

long ioctl_get_hv_cpuid(struct ioctl_call *c)
{
	return put_cpuid(c, supported_hv_cpuid);
}

/* KVM_GET_MSRS of /dev/kvm: feature MSRs; the number of entries read before the first refusal. */
static long get_feature_msrs(struct ioctl_call *c)
{
	struct kvm_msr_entry *e = c->entries;
	uint32_t done = 0;

	while (done < c->n) {
		uint64_t value;

		if (vcpu_get_feature_msr(e[done].index, &value))
			break;
		e[done++].data = value;
	}
	return done;
}

/* -- Attributes (KVM_CAP_SYS_ATTRIBUTES) -- */

static long has_attr(struct ioctl_call *c)
{
	const struct kvm_device_attr *a = c->buf;

	return !a->group && a->attr == KVM_X86_XCOMP_GUEST_SUPP ? 0 : -ENXIO;
}

static long get_attr(struct ioctl_call *c)
{
	const struct kvm_device_attr *a = c->buf;
	uint64_t xcr0 = vcpu_supported_xcr0();
	long r = has_attr(c);

	return r ? r : base_copy_out((void *)(uintptr_t)a->addr, &xcr0, sizeof(xcr0));
}

/* -- The table -- */

static const struct ioctl_row rows[] = {
    ROW(KVM_GET_API_VERSION, 0, 0, L_NONE, get_api_version),
    ROW(KVM_CREATE_VM, 0, 0, L_NONE, create_vm),
    ROW(KVM_CHECK_EXTENSION, 0, 0, L_NONE, ioctl_check_extension),
    ROW(KVM_GET_VCPU_MMAP_SIZE, 0, 0, L_NONE, get_vcpu_mmap_size),
    ROW(KVM_GET_MSR_INDEX_LIST, 0, 0, L_NONE, get_msr_index_list),
    ROW(KVM_GET_MSR_FEATURE_INDEX_LIST, 0, 0, L_NONE, get_msr_feature_index_list),
    ROW(KVM_GET_SUPPORTED_CPUID, 0, 0, L_NONE, get_supported_cpuid),
    ROW(KVM_GET_EMULATED_CPUID, 0, 0, L_NONE, get_emulated_cpuid),
    ROW(KVM_GET_SUPPORTED_HV_CPUID, 0, 0, L_NONE, ioctl_get_hv_cpuid),
    ROW(KVM_X86_GET_MCE_CAP_SUPPORTED, 0, sizeof(uint64_t), L_NONE, get_mce_cap),
    ROW_ARRAY(KVM_GET_MSRS, L_NONE, get_feature_msrs, sizeof(struct kvm_msr_entry), MAX_MSRS, -E2BIG, true),
    ROW(KVM_HAS_DEVICE_ATTR, sizeof(struct kvm_device_attr), 0, L_NONE, has_attr),
    ROW(KVM_GET_DEVICE_ATTR, sizeof(struct kvm_device_attr), 0, L_NONE, get_attr),
};

long system_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	struct ioctl_call c = {.file = f, .arg = arg};

	return ioctl_dispatch(rows, ARRAY_SIZE(rows), &c, request, -EINVAL);
}
