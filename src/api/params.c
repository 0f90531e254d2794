/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /sys/module/kvm..., parameters: a table of what is true here. */
#include "api/api.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "api/kvm.h"
#include "base/sys.h"

#define TEXT_MAX 32

static _Atomic bool nx_huge_pages;
static _Atomic unsigned recovery_period,
    recovery_ratio = 60;     /* of huge pages that were split: there are none */
static _Atomic long writers; /* open files that may be written */

/*
 * As set_nx_huge_pages of KVM: every VM loses the translations that it has, under its slots_lock, while no lock
 * of the list is held.
 */
static int set_nx_huge_pages(_Atomic unsigned *number, const char *text)
{
	bool on;

	if (!strcmp(text, "off") || !strcmp(text, "auto")) /* auto: there is no such bug to work around */
		on = false;
	else if (!strcmp(text, "force") || strchr("yY1", text[0]) || !strcasecmp(text, "on"))
		on = true;
	else if (strchr("nN0", text[0]))
		on = false;
	else
		return -EINVAL;
	if (atomic_exchange(&nx_huge_pages, on) == on)
		return 0;
	for (struct kvm *kvm = registry_next(NULL); kvm; kvm = registry_next(kvm)) {
		mutex_lock(&kvm->slots_lock);
		vcpu_mem_port.flush(&kvm->vm);
		mutex_unlock(&kvm->slots_lock);
	}
	return 0;
}

/* As kstrtouint: any base, one sign at most, nothing behind it. */
static int set_number(_Atomic unsigned *number, const char *text)
{
	const char *digits = text + (text[0] == '+');
	unsigned long n;
	char *end;

	if (digits[0] < '0' || digits[0] > '9')
		return -EINVAL;
	errno = 0;
	n = strtoul(digits, &end, 0);
	if (*end)
		return -EINVAL;
	if (errno || n > UINT32_MAX)
		return -ERANGE;
	atomic_store(number, (unsigned)n);
	return 0;
}

enum module { KVM, KVM_INTEL, KVM_AMD };
static const char *const modules[] = {"kvm", "kvm_intel", "kvm_amd"};

/* A parameter's value is constant, or where `value` or `number` points; only one with `set` may be written. */
static const struct param {
	enum module module;
	const char *name, *text;
	_Atomic bool *value;
	int (*set)(_Atomic unsigned *number, const char *text);
	_Atomic unsigned *number;
} params[] = {
    {KVM, "enable_pmu", "Y", NULL, NULL, NULL},
    {KVM, "enable_vmware_backdoor", "N", NULL, NULL, NULL},
    {KVM, "flush_on_reuse", "N", NULL, NULL, NULL},
    {KVM, "force_emulation_prefix", "0", NULL, NULL, NULL},
    {KVM, "halt_poll_ns", "0", NULL, NULL, NULL}, /* a halted vCPU sleeps at once */
    {KVM, "ignore_msrs", "N", NULL, NULL, NULL},
    {KVM, "nx_huge_pages", NULL, &nx_huge_pages, set_nx_huge_pages, NULL},
    {KVM, "nx_huge_pages_recovery_period_ms", NULL, NULL, set_number, &recovery_period},
    {KVM, "nx_huge_pages_recovery_ratio", NULL, NULL, set_number, &recovery_ratio},
    {KVM, "report_ignored_msrs", "N", NULL, NULL, NULL},
    {KVM, "tdp_mmu", "N", NULL, NULL, NULL},
    /* What the guest can do here is what it can do with these on; what VMX lends a host for speed is off. */
    {KVM_INTEL, "allow_smaller_maxphyaddr", "N", NULL, NULL, NULL},
    {KVM_INTEL, "emulate_invalid_guest_state", "Y", NULL, NULL, NULL},
    {KVM_INTEL, "enable_apicv", "N", NULL, NULL, NULL},
    {KVM_INTEL, "ept", "Y", NULL, NULL, NULL},
    {KVM_INTEL, "nested", "N", NULL, NULL, NULL},
    {KVM_INTEL, "pml", "N", NULL, NULL, NULL},
    {KVM_INTEL, "sgx", "N", NULL, NULL, NULL},
    {KVM_INTEL, "unrestricted_guest", "Y", NULL, NULL, NULL},
    {KVM_AMD, "avic", "N", NULL, NULL, NULL},
    {KVM_AMD, "nested", "0", NULL, NULL, NULL},
    {KVM_AMD, "npt", "Y", NULL, NULL, NULL},
    {KVM_AMD, "sev", "N", NULL, NULL, NULL},
    {KVM_AMD, "sev_es", "N", NULL, NULL, NULL},
};

/* The name behind MODULE/parameters/ of one of our modules, and which; NULL if it is not one. */
static const char *split(const char *path, enum module *module)
{
	static const char folder[] = "/parameters/";

	for (unsigned i = 0; i < ARRAY_SIZE(modules); i++) {
		size_t n = strlen(modules[i]);

		if (strncmp(path, modules[i], n) || strncmp(path + n, folder, sizeof(folder) - 1))
			continue;
		*module = i;
		return path + n + sizeof(folder) - 1;
	}
	return NULL;
}

/* The module of the other vendor is not loaded. */
static const struct param *find(const char *path)
{
	enum module module;
	const char *name = split(path, &module);

	if (!name || module == (vcpu_host_is_amd() ? KVM_INTEL : KVM_AMD))
		return NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(params); i++)
		if (params[i].module == module && !strcmp(params[i].name, name))
			return &params[i];
	return NULL;
}

bool api_params_own(const char *path)
{
	enum module module;

	return split(path, &module) != NULL;
}

int api_params_mode(const char *path)
{
	const struct param *p = find(path);

	return p ? (int)(S_IFREG | (p->set ? 0644 : 0444)) : -ENOENT;
}

static int text_of(const struct param *p, char text[TEXT_MAX])
{
	const char *value = p->value ? (atomic_load(p->value) ? "Y" : "N") : p->text;

	if (p->number)
		return snprintf(text, TEXT_MAX, "%u\n", atomic_load(p->number));
	return snprintf(text, TEXT_MAX, "%s\n", value);
}

/* -- Files that may be written -- */

struct writer {
	const struct param *param;
	char *map; /* ours: TEXT_MAX bytes of value, and what was appended */
	char seen[TEXT_MAX];
};

static int set(struct writer *w, char text[TEXT_MAX])
{
	int r;

	text[strcspn(text, "\n")] = 0;
	r = w->param->set(w->param->number, text);
	if (!r) {
		text_of(w->param, w->seen);
		memcpy(w->map, w->seen, TEXT_MAX);
		w->map[TEXT_MAX] = 0;
	}
	return r;
}

/* The whole of a write is the value, as for a sysfs attribute. */
static long param_write(struct file *f, const void *buf, size_t len, uint64_t pos)
{
	char text[TEXT_MAX] = "";
	int r;

	if (len >= sizeof(text))
		return -EINVAL;
	r = base_copy_in(text, buf, len);
	if (!r)
		r = set(f->object, text);
	return r ? r : (long)len;
}

/* What libc's own streams wrote did not come by write(2): it acts now. */
static void param_release(void *object)
{
	struct writer *w = object;
	char text[TEXT_MAX];

	memcpy(text, w->map[TEXT_MAX] ? w->map + TEXT_MAX : w->map, TEXT_MAX);
	text[TEXT_MAX - 1] = 0;
	if (memcmp(text, w->seen, TEXT_MAX) && set(w, text))
		base_log(LOG_INFO, "%s: \"%s\" is no value", w->param->name, text);
	sys_call(SYS_munmap, w->map, PAGE_SIZE);
	base_free(w);
	atomic_fetch_sub(&writers, 1);
}

static const struct file_class param_file_class = {
    .name = "parameter",
    .global = true,
    .grows = true,
    .write = param_write,
    .release = param_release,
};

bool api_params_write(int fd, const void *buf, size_t len, long *r)
{
	struct file *f;

	if (likely(!atomic_load_explicit(&writers, memory_order_relaxed)))
		return false;
	f = file_get(fd);
	if (!f)
		return false;
	if (f->cls != &param_file_class) {
		file_put(f);
		return false;
	}
	*r = (f->access & O_ACCMODE) == O_RDONLY ? -EBADF : param_write(f, buf, len, 0);
	file_put(f);
	return true;
}

static int open_written(const struct param *p, int flags)
{
	struct writer *w = base_zalloc(sizeof(*w));
	struct file *f;
	int r;

	if (!w)
		return -ENOMEM;
	r = files_start();
	if (!r)
		r = file_prepare(&f, &param_file_class, "kvm-parameter", TEXT_MAX,
				 flags & (O_ACCMODE | O_NONBLOCK | O_APPEND));
	if (r) {
		base_free(w);
		return r;
	}
	text_of(p, w->seen);
	w->param = p;
	w->map = (char *)f->map;
	memcpy(w->map, w->seen, TEXT_MAX);
	f->keep_map = true;
	atomic_fetch_add(&writers, 1);
	r = file_install(f, w, flags & O_CLOEXEC);
	if (r < 0) {
		atomic_fetch_sub(&writers, 1);
		f->keep_map = false;
		file_abandon(f);
		base_free(w);
	}
	return r;
}

/* -- Files that are only read: the kernel's own, with the value of the time of the open -- */

static int open_read(const struct param *p, int flags)
{
	char text[TEXT_MAX], name[40];
	int n = text_of(p, text), fd, r;

	fd = (int)sys_call(SYS_memfd_create, "kvm-parameter", 1U /* MFD_CLOEXEC */);
	if (fd < 0)
		return fd;
	snprintf(name, sizeof(name), "/proc/thread-self/fd/%d", fd);
	r = (int)sys_call(SYS_write, fd, text, n);
	if (r == n)
		r = (int)sys_call(SYS_openat, AT_FDCWD, name, O_RDONLY | (flags & (O_CLOEXEC | O_NONBLOCK)),
				  0);
	else
		r = r < 0 ? r : -EIO;
	sys_call(SYS_close, fd);
	return r;
}

int api_params_open(const char *path, int flags)
{
	const struct param *p = find(path);

	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return p ? -EEXIST : -EACCES;
	if (!p)
		return flags & O_CREAT ? -EACCES : -ENOENT;
	if (flags & O_DIRECTORY)
		return -ENOTDIR;
	if ((flags & O_ACCMODE) == O_RDONLY)
		return open_read(p, flags);
	return p->set ? open_written(p, flags) : -EACCES;
}
