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

/* -- Write tracking and pins: memslots are addresses in the memory of the process that made the VM -- */

static int handle_track_register(struct kvm_file *file, struct kvm_track *node)
{
	if (to_kvm(file)->generation != owner_generation())
		return -ESRCH;
	kvm_file_get(file);
	mem_track_register(to_kvm(file)->vm.mem, node);
	return 0;
}

static void handle_track_unregister(struct kvm_file *file, struct kvm_track *node)
{
	mem_track_unregister(to_kvm(file)->vm.mem, node);
	kvm_file_put_not_last(file); /* the caller has one */
}

static int handle_track_add(struct kvm_file *file, uint64_t gfn)
{
	return mem_track_add(to_kvm(file)->vm.mem, gfn);
}

static int handle_track_del(struct kvm_file *file, uint64_t gfn)
{
	return mem_track_del(to_kvm(file)->vm.mem, gfn);
}

static int handle_pin(struct kvm_file *file, struct kvm_pin *pin)
{
	if (to_kvm(file)->generation != owner_generation())
		return -ESRCH;
	return mem_pin(to_kvm(file)->vm.mem, pin);
}

static void handle_unpin(struct kvm_file *file, struct kvm_pin *pin)
{
	mem_unpin(to_kvm(file)->vm.mem, pin);
}

static int handle_dirty(struct kvm_file *file, uint64_t gpa, uint64_t len)
{
	return mem_pin_dirty(to_kvm(file)->vm.mem, gpa, len);
}

const struct kvm_file_ops kvm_handle_ops = {
    .destroy = kvm_destroy,
    .read = handle_read,
    .write = handle_write,
    .msi = handle_msi,
    .track_register = handle_track_register,
    .track_unregister = handle_track_unregister,
    .track_add = handle_track_add,
    .track_del = handle_track_del,
    .pin = handle_pin,
    .unpin = handle_unpin,
    .dirty = handle_dirty,
    .noncoherent = handle_noncoherent,
};
