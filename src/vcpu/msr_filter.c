/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* KVM_X86_SET_MSR_FILTER (api.rst 4.97): an immutable copy, replaced as a whole, read under the VM's srcu. */
#include "vcpu/internal.h"

#define X2APIC_FIRST	 0x800
#define X2APIC_LAST	 0x8ff
#define BITMAP_MAX_BYTES 0x600

struct msr_filter {
	bool default_allow;
	unsigned n;
	struct msr_range {
		uint32_t flags, base, nmsrs;
		uint8_t *bitmap;
	} range[KVM_MSR_FILTER_MAX_RANGES];
};

static void filter_free(struct msr_filter *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->n; i++)
		base_free(f->range[i].bitmap);
	base_free(f);
}

static bool filter_verdict(const struct msr_filter *f, uint32_t index, uint32_t type)
{
	for (unsigned i = 0; i < f->n; i++) {
		const struct msr_range *r = &f->range[i];
		uint32_t bit = index - r->base;

		if (index >= r->base && bit < r->nmsrs && (r->flags & type))
			return r->bitmap[bit / 8] >> (bit % 8) & 1;
	}
	return f->default_allow;
}

bool msr_filter_allows(struct vcpu_vm *vm, uint32_t index, bool write)
{
	const struct msr_filter *f;
	bool allowed = true;
	int idx;

	if (!atomic_load_explicit(&vm->msr_filter, memory_order_relaxed))
		return true;
	if (index >= X2APIC_FIRST && index <= X2APIC_LAST)
		return true;
	idx = srcu_read_lock(vm->srcu);
	f = srcu_dereference(vm->msr_filter);
	if (f)
		allowed = filter_verdict(f, index, write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ);
	srcu_read_unlock(vm->srcu, idx);
	return allowed;
}

/* Bytes of a range's bitmap, which the VMM gives in whole 64-bit words. */
static size_t bitmap_bytes(uint32_t nmsrs)
{
	return ((size_t)nmsrs + 63) / 64 * 8;
}

/* -EINVAL unless every range is well formed and the whole denies nothing without a range. */
static int filter_check(const struct kvm_msr_filter *arg)
{
	bool empty = true;

	if (arg->flags & ~KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		const struct kvm_msr_filter_range *r = &arg->ranges[i];

		if (!r->nmsrs)
			continue;
		empty = false;
		if (!r->flags || (r->flags & ~(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)) ||
		    bitmap_bytes(r->nmsrs) > BITMAP_MAX_BYTES)
			return -EINVAL;
	}
	return empty && (arg->flags & KVM_MSR_FILTER_DEFAULT_DENY) ? -EINVAL : 0;
}

/* Appends a checked range with a copy of its bitmap. */
static int filter_add(struct msr_filter *f, const struct kvm_msr_filter_range *from)
{
	struct msr_range *r = &f->range[f->n];
	size_t size = bitmap_bytes(from->nmsrs);

	r->bitmap = base_zalloc(size);
	if (!r->bitmap)
		return -ENOMEM;
	f->n++;
	r->flags = from->flags;
	r->base = from->base;
	r->nmsrs = from->nmsrs;
	return base_copy_in(r->bitmap, from->bitmap, size);
}

int vcpu_vm_set_msr_filter(struct vcpu_vm *vm, const struct kvm_msr_filter *arg)
{
	struct msr_filter *f, *old;
	int ret = filter_check(arg);

	if (ret)
		return ret;
	f = base_zalloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->default_allow = !(arg->flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES && !ret; i++)
		if (arg->ranges[i].nmsrs)
			ret = filter_add(f, &arg->ranges[i]);
	if (ret) {
		filter_free(f);
		return ret;
	}
	old = atomic_exchange(&vm->msr_filter, f);
	srcu_synchronize(vm->srcu); /* no vCPU judges by the old one after we return */
	filter_free(old);
	return 0;
}

int msr_vm_init(struct vcpu_vm *vm)
{
	atomic_store(&vm->msr_filter, NULL);
	return 0;
}

void msr_vm_destroy(struct vcpu_vm *vm)
{
	filter_free(atomic_exchange(&vm->msr_filter, NULL));
}
