/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU's file: creation under kvm->lock, its three pages and its dirty ring, its last close. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "api/kvm.h"
#include "base/sys.h"

/* Bytes of a vCPU's file. KVM_GET_VCPU_MMAP_SIZE is about the three pages, ring or not. */
static size_t file_size(const struct kvm *kvm)
{
	uint32_t ring = mem_ring_bytes(kvm->vm.mem);

	return ring ? KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE + ring : VCPU_MMAP_SIZE;
}

static bool in_ring(const struct kvm *kvm, uint64_t page)
{
	return page >= KVM_DIRTY_LOG_PAGE_OFFSET &&
	       page - KVM_DIRTY_LOG_PAGE_OFFSET < mem_ring_bytes(kvm->vm.mem) >> PAGE_SHIFT;
}

/* Of ring pages there is one copy, and no code is in them. */
static int vcpu_may_map(struct file *f, uint64_t first, uint64_t pages, int prot, int flags)
{
	const struct kvm *kvm = ((struct vcpu_handle *)f->object)->kvm;
	bool shared = (flags & MAP_TYPE) == MAP_SHARED || (flags & MAP_TYPE) == MAP_SHARED_VALIDATE;

	if (!in_ring(kvm, first) && !in_ring(kvm, first + pages - 1))
		return 0;
	return prot & PROT_EXEC || !shared ? -EINVAL : 0;
}

/* The coalesced ring is the VM's page: a second mapping of it replaces the vCPU's third page. */
static int vcpu_mapped(struct file *f, uint8_t *addr, uint64_t first, uint64_t pages, int prot)
{
	struct vcpu_handle *h = f->object;
	uint8_t *at;
	long r;

	if (first > VCPU_COALESCED_PAGE || pages <= VCPU_COALESCED_PAGE - first)
		return 0;
	at = addr + ((VCPU_COALESCED_PAGE - first) << PAGE_SHIFT);
	/* An old size of 0 duplicates a shared mapping (mremap(2)). */
	r = sys_call(SYS_mremap, h->kvm->ring, 0, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, at);
	if (r < 0 && r > -4096)
		return (int)r;
	if (prot != (PROT_READ | PROT_WRITE))
		return (int)sys_call(SYS_mprotect, at, PAGE_SIZE, prot);
	return 0;
}

/* The vCPU itself stays until the VM goes (KVM: kvm_vcpu_release only puts the VM). */
static void vcpu_release(void *object)
{
	struct vcpu_handle *h = object;

	kvm_put(h->kvm);
}

const struct file_class vcpu_file_class = {
    .name = "vCPU",
    .ioctl = vcpu_ioctl,
    .may_map = vcpu_may_map,
    .mapped = vcpu_mapped,
    .release = vcpu_release,
};

void vcpu_handle_destroy(struct vcpu_handle *h)
{
	report_vcpu(h);
	vcpu_destroy(h->vcpu);
	sys_call(SYS_munmap, h->map, file_size(h->kvm));
	base_free(h);
}

/* Everything that can refuse before anything is made. */
static int check(struct kvm *kvm, unsigned long id)
{
	unsigned n = atomic_load(&kvm->vm.nr_vcpus);

	if (id >= KVM_MAX_VCPU_ID || n >= VCPU_MAX)
		return -EINVAL;
	if (kvm->vm.max_vcpu_id && id >= kvm->vm.max_vcpu_id)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++) {
		if (vcpu_id(kvm->handles[i]->vcpu) == id)
			return -EEXIST;
	}
	return 0;
}

/* Makes the file visible with vcpu->mutex held, so that an ioctl on a guessed fd waits until the vCPU is
 * published. The fd, or -errno with nothing changed. */
static int publish(struct kvm *kvm, struct file *f, struct vcpu_handle *h)
{
	unsigned n = atomic_load(&kvm->vm.nr_vcpus);
	int fd;

	mutex_lock(vcpu_mutex(h->vcpu));
	kvm_get(kvm);
	f->keep_map = true;
	fd = file_install(f, h, true);
	if (fd >= 0) {
		kvm->handles[n] = h;
		atomic_store(&kvm->vm.vcpus[n], h->vcpu);
		atomic_store(&kvm->vm.nr_vcpus, n + 1);
		stats_add(kvm, &kvm->stats.vcpus);
	} else {
		f->keep_map = false;
		kvm_put_not_last(kvm);
	}
	mutex_unlock(vcpu_mutex(h->vcpu));
	return fd;
}

int vcpu_file_create(struct kvm *kvm, unsigned long id)
{
	struct vcpu_handle *h;
	struct file *f;
	char name[32];
	int r;

	r = check(kvm, id);
	if (r)
		return r;
	snprintf(name, sizeof(name), "kvm-vcpu:%lu", id);
	r = file_prepare(&f, &vcpu_file_class, name, file_size(kvm), O_RDWR);
	if (r)
		return r;
	h = base_zalloc(sizeof(*h));
	if (!h) {
		file_abandon(f);
		return -ENOMEM;
	}
	*h = (struct vcpu_handle){.kvm = kvm, .map = f->map};
	r = vcpu_create(&h->vcpu, &kvm->vm, (uint32_t)id, atomic_load(&kvm->vm.nr_vcpus),
			(struct kvm_run *)f->map);
	if (!r) {
		r = publish(kvm, f, h);
		if (r < 0)
			vcpu_destroy(h->vcpu);
	}
	if (r < 0) {
		base_free(h);
		file_abandon(f);
	}
	return r;
}
