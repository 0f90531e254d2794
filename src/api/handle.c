/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VM as drivers see it: the functions that its handle carries (base/kvm_file.h). */
#include "api/kvm.h"

static struct kvm *to_kvm(struct kvm_file *file)
{
	base_bug_on(file->magic != KVM_FILE_MAGIC);
	return container_of(file, struct kvm, handle);
}

static int handle_read(struct kvm_file *file, uint64_t gpa, void *buf, size_t len)
{
	return mem_read(to_kvm(file)->vm.mem, 0, gpa, buf, len);
}

static int handle_write(struct kvm_file *file, uint64_t gpa, const void *buf, size_t len)
{
	return mem_write(to_kvm(file)->vm.mem, 0, gpa, buf, len);
}

static int handle_msi(struct kvm_file *file, uint64_t addr, uint32_t data)
{
	struct kvm_msi msi = {
	    .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};

	return irq_signal_msi(to_kvm(file)->vm.irq, &msi);
}

static void handle_noncoherent(struct kvm_file *file, int change)
{
	int old = atomic_fetch_add(&to_kvm(file)->noncoherent, change);

	base_bug_on(old + change < 0);
}

const struct kvm_file_ops kvm_handle_ops = {
    .destroy = kvm_destroy,
    .read = handle_read,
    .write = handle_write,
    .msi = handle_msi,
    .noncoherent = handle_noncoherent,
};
