/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KVM_GET_STATS_FD: header, id string, descriptors and values in a read-only memfd of its own. While such
 * files are open, every change of a counter is copied into them, so that any read of them is up to date.
 */
#include "api/stats.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>

#include "api/kvm.h"
#include "base/mutate.h"
#include "base/sys.h"

#define NAME_SIZE 48 /* KVM_STATS_NAME_SIZE */

struct stat_row {
	const char *name;
	uint32_t flags;
};

#define STAT_ROW(name, kind) {#name, KVM_STATS_TYPE_##kind | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10},
static const struct stat_row vm_rows[] = {VM_STATS(STAT_ROW)};
static const struct stat_row vcpu_rows[] = {VCPU_STATS(STAT_ROW)};
#undef STAT_ROW
_Static_assert(ARRAY_SIZE(vm_rows) * sizeof(uint64_t) == sizeof(struct vm_stats), "one row per counter");
_Static_assert(ARRAY_SIZE(vcpu_rows) * sizeof(uint64_t) == sizeof(struct vcpu_stats), "one row per counter");

/* A descriptor as it stands in the file: struct kvm_stats_desc with its name. */
struct stat_desc {
	uint32_t flags;
	int16_t exponent;
	uint16_t size;
	uint32_t offset;
	uint32_t bucket_size;
	char name[NAME_SIZE];
};
_Static_assert(offsetof(struct stat_desc, name) == offsetof(struct kvm_stats_desc, name), "the ABI's layout");
_Static_assert(offsetof(struct stat_desc, offset) == offsetof(struct kvm_stats_desc, offset),
	       "the ABI's layout");

struct stats_file {
	struct kvm *kvm;
	struct stats_file *next; /* kvm->stats_files */
	const _Atomic uint64_t *values;
	unsigned n;
	uint64_t *out; /* in the file's mapping */
	uint8_t *map;  /* ours: copying goes on until the file is unlinked */
	size_t size;
};

/* -- Counters -- */

static void copy_values(struct stats_file *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		uint64_t v = atomic_load_explicit(&s->values[i], memory_order_relaxed);

		__atomic_store_n(&s->out[i], v, __ATOMIC_RELAXED);
	}
}

/* Brings the open files of a VM up to date. */
static void publish(struct kvm *kvm)
{
	if (!atomic_load(&kvm->stats_files))
		return;
	spin_lock(&kvm->stats_lock);
	for (struct stats_file *s = atomic_load(&kvm->stats_files); s; s = s->next)
		copy_values(s);
	spin_unlock(&kvm->stats_lock);
}

static void count(_Atomic uint64_t *stat)
{
	atomic_fetch_add(stat, 1);
}

/* A vCPU's own: whoever counts holds vcpu->mutex. */
static void count_own(_Atomic uint64_t *stat)
{
	atomic_store_explicit(stat, atomic_load_explicit(stat, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

void stats_add(struct kvm *kvm, _Atomic uint64_t *stat)
{
	count(stat);
	publish(kvm);
}

void stats_count_run(struct vcpu_handle *h, long result)
{
	const struct kvm_run *run = (const struct kvm_run *)h->map;

	count_own(&h->stats.exits);
	if (result == -EINTR)
		count_own(&h->stats.signal_exits);
	if (result)
		goto out;
	switch (__atomic_load_n(&run->exit_reason, __ATOMIC_RELAXED)) {
	case KVM_EXIT_IO: count_own(&h->stats.io_exits); break;
	case KVM_EXIT_MMIO: count_own(&h->stats.mmio_exits); break;
	case KVM_EXIT_HLT: count_own(&h->stats.halt_exits); break;
	case KVM_EXIT_IRQ_WINDOW_OPEN: count_own(&h->stats.irq_window_exits); break;
	case KVM_EXIT_DEBUG: count_own(&h->stats.debug_exits); break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR: count_own(&h->stats.msr_exits); break;
	case KVM_EXIT_SHUTDOWN: count_own(&h->stats.shutdown_exits); break;
	default: break;
	}
out:
	publish(h->kvm);
}

/* -- Files -- */

static void link_file(struct stats_file *s)
{
	struct kvm *kvm = s->kvm;

	spin_lock(&kvm->stats_lock);
	s->next = atomic_load(&kvm->stats_files);
	atomic_store(&kvm->stats_files, s);
	copy_values(s);
	spin_unlock(&kvm->stats_lock);
}

static void unlink_file(struct stats_file *s)
{
	struct kvm *kvm = s->kvm;
	struct stats_file *p;

	spin_lock(&kvm->stats_lock);
	p = atomic_load(&kvm->stats_files);
	if (p == s) {
		atomic_store(&kvm->stats_files, s->next);
	} else {
		while (p->next != s)
			p = p->next;
		p->next = s->next;
	}
	spin_unlock(&kvm->stats_lock);
}

static void stats_release(void *object)
{
	struct stats_file *s = object;
	struct kvm *kvm = s->kvm;

	unlink_file(s);
	sys_call(SYS_munmap, s->map, s->size);
	if (mutated(MUTATE_PUT_UNDER_LOCK)) /* not the last: the lock lives in the VM */
		spin_lock(&kvm->stats_lock);
	kvm_put(kvm);
	if (mutated(MUTATE_PUT_UNDER_LOCK))
		spin_unlock(&kvm->stats_lock);
	base_free(s);
}

static const struct file_class stats_file_class = {
    .name = "stats",
    .release = stats_release,
};

static size_t content_size(unsigned n)
{
	return sizeof(struct kvm_stats_header) + NAME_SIZE +
	       n * (sizeof(struct stat_desc) + sizeof(uint64_t));
}

/* Header, id and descriptors; returns where the values go. */
static uint64_t *fill_content(uint8_t *map, const struct stat_row *rows, unsigned n, struct vcpu_handle *h)
{
	struct kvm_stats_header *head = (struct kvm_stats_header *)map;
	struct stat_desc *desc;
	char *id = (char *)(head + 1);
	int pid = (int)sys_call(SYS_getpid);

	desc = (struct stat_desc *)(id + NAME_SIZE);
	*head = (struct kvm_stats_header){
	    .name_size = NAME_SIZE,
	    .num_desc = n,
	    .id_offset = sizeof(*head),
	    .desc_offset = sizeof(*head) + NAME_SIZE,
	    .data_offset = (uint32_t)(sizeof(*head) + NAME_SIZE + n * sizeof(*desc)),
	};
	if (h)
		snprintf(id, NAME_SIZE, "kvm-%d/vcpu-%u", pid, vcpu_id(h->vcpu));
	else
		snprintf(id, NAME_SIZE, "kvm-%d", pid);
	for (unsigned i = 0; i < n; i++) {
		desc[i].flags = rows[i].flags;
		desc[i].size = 1;
		desc[i].offset = (uint32_t)(i * sizeof(uint64_t));
		snprintf(desc[i].name, NAME_SIZE, "%s", rows[i].name);
	}
	return (uint64_t *)(desc + n);
}

int stats_file_create(struct kvm *kvm, struct vcpu_handle *h)
{
	const struct stat_row *rows = h ? vcpu_rows : vm_rows;
	unsigned n = h ? ARRAY_SIZE(vcpu_rows) : ARRAY_SIZE(vm_rows);
	struct stats_file *s = base_zalloc(sizeof(*s));
	struct file *f;
	int r;

	if (!s)
		return -ENOMEM;
	r = file_prepare(&f, &stats_file_class, h ? "kvm-vcpu-stats" : "kvm-vm-stats", content_size(n),
			 O_RDONLY);
	if (r) {
		base_free(s);
		return r;
	}
	s->kvm = kvm;
	s->n = n;
	s->values = h ? &h->stats.exits : &kvm->stats.vcpus;
	s->out = fill_content(f->map, rows, n, h);
	s->map = f->map;
	s->size = f->size;
	kvm_get(kvm);
	link_file(s);
	f->keep_map = true;
	r = file_install(f, s, true);
	if (r < 0) {
		unlink_file(s);
		f->keep_map = false;
		kvm_put_not_last(kvm);
		file_abandon(f);
		base_free(s);
	}
	return r;
}
