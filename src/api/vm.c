/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM object: made, counted, listed, destroyed; and its file. */
#include <fcntl.h>
#include <sys/mman.h>

#include "api/kvm.h"
#include "api/life.h"
#include "base/mutate.h"
#include "base/sys.h"

static struct {
	struct mutex lock; /* guards the links; never held across a callback */
	struct kvm *first;
} registry = {.lock = {.role = LOCK_REGISTRY}};

/* -- Registry -- */

static void registry_add(struct kvm *kvm)
{
	mutex_lock(&registry.lock);
	kvm->list_next = registry.first;
	if (registry.first)
		registry.first->list_prev = kvm;
	registry.first = kvm;
	mutex_unlock(&registry.lock);
}

static void registry_del(struct kvm *kvm)
{
	mutex_lock(&registry.lock);
	if (kvm->list_prev)
		kvm->list_prev->list_next = kvm->list_next;
	else
		registry.first = kvm->list_next;
	if (kvm->list_next)
		kvm->list_next->list_prev = kvm->list_prev;
	mutex_unlock(&registry.lock);
}

struct kvm *registry_next(struct kvm *kvm)
{
	bool keep = mutated(MUTATE_WALK_LOCKED);
	struct kvm *next;

	if (!keep || !kvm)
		mutex_lock(&registry.lock);
	next = kvm ? kvm->list_next : registry.first;
	while (next && !kvm_get_safe(next))
		next = next->list_next;
	if (!keep || !next)
		mutex_unlock(&registry.lock);
	if (kvm)
		kvm_put(kvm);
	return next;
}

void registry_forked(void)
{
	mutex_forked(&registry.lock);
	registry.first = NULL;
}

/* -- Destruction -- */

/* What runs and rings, and so may look at every other organ. */
static void end_vcpus(struct kvm *kvm)
{
	unsigned n = atomic_load(&kvm->vm.nr_vcpus);

	irq_stop(kvm->vm.irq); /* a tick of the PIT kicks vCPUs */
	for (unsigned i = 0; i < n; i++)
		vcpu_handle_destroy(kvm->handles[i]);
}

/*
 * The order of systems.md A5: nobody can find it, nothing runs, then routing and chips, buses, coalesced ring,
 * the rest of the machine, devices without a file, memory; what their ends replaced is on its way out until
 * the barrier; last the set-up of the process.
 */
void kvm_destroy(struct kvm_file *file)
{
	struct kvm *kvm = container_of(file, struct kvm, handle);

	base_bug_on(ref_read(&file->users));
	base_bug_on(atomic_load(&kvm->file) != NULL);
	if (kvm->stage >= KVM_STAGE_SRCU)
		srcu_barrier(&kvm->srcu);
	switch (kvm->stage) {
	case KVM_STAGE_LISTED:
		registry_del(kvm);
		end_vcpus(kvm);
		/* fallthrough */
	case KVM_STAGE_IRQ:
		irq_destroy(kvm->vm.irq);
		/* fallthrough */
	case KVM_STAGE_BUS:
		mutex_retire(&kvm->slots_lock, &file->users);
		bus_destroy(kvm->vm.bus);
		/* fallthrough */
	case KVM_STAGE_RING:
		sys_call(SYS_munmap, kvm->ring, PAGE_SIZE);
		/* fallthrough */
	case KVM_STAGE_VCPUS:
		vcpu_vm_destroy(&kvm->vm);
		/* fallthrough */
	case KVM_STAGE_CODE:
		engine_code_destroy(kvm->vm.code);
		/* fallthrough */
	case KVM_STAGE_MEM:
		device_destroy_all(kvm);
		mem_destroy(kvm->vm.mem);
		/* fallthrough */
	case KVM_STAGE_SRCU:
		srcu_barrier(&kvm->srcu);
		srcu_cleanup(&kvm->srcu);
		/* fallthrough */
	case KVM_STAGE_NONE: break;
	}
	file->magic = 0;
	base_free(kvm);
	life_put();
}

/* -- References -- */

void kvm_get(struct kvm *kvm)
{
	kvm_file_get(&kvm->handle);
}

bool kvm_get_safe(struct kvm *kvm)
{
	return kvm_file_get_safe(&kvm->handle);
}

void kvm_put(struct kvm *kvm)
{
	kvm_file_put(&kvm->handle);
}

void kvm_put_not_last(struct kvm *kvm)
{
	kvm_file_put_not_last(&kvm->handle);
}

struct kvm_file *kvm_file_get_active(struct kvm *kvm)
{
	struct kvm_file *f = atomic_load(&kvm->file);

	if (f)
		kvm_file_get(f);
	return f;
}

/* -- Creation -- */

static int make_ring(struct kvm *kvm)
{
	long page =
	    sys_call(SYS_mmap, NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (page < 0 && page > -4096)
		return (int)page;
	kvm->ring = (struct kvm_coalesced_mmio_ring *)page;
	return 0;
}

/* The organs; kvm->stage says how far, and kvm_destroy undoes them in the reverse order. */
static int make_organs(struct kvm *kvm)
{
	struct vcpu_vm *vm = &kvm->vm;
	int r;

	r = srcu_init(&kvm->srcu, LOCK_SRCU_VM);
	if (r)
		return r;
	kvm->stage = KVM_STAGE_SRCU;
	r = mem_create(&vm->mem, &vcpu_mem_port, vm, &kvm->srcu, &kvm->slots_lock);
	if (r)
		return r;
	kvm->stage = KVM_STAGE_MEM;
	r = engine_code_create(&vm->code);
	if (r)
		return r;
	kvm->stage = KVM_STAGE_CODE;
	r = vcpu_vm_init(vm);
	if (r)
		return r;
	kvm->stage = KVM_STAGE_VCPUS;
	r = make_ring(kvm);
	if (r)
		return r;
	kvm->stage = KVM_STAGE_RING;
	r = bus_create(&vm->bus, &kvm->srcu, &kvm->slots_lock);
	if (r)
		return r;
	bus_coalesced_set_ring(vm->bus, kvm->ring);
	kvm->stage = KVM_STAGE_BUS;
	r = irq_create(&vm->irq, &vcpu_irq_port, vm, vm->bus, &kvm->slots_lock);
	if (r)
		return r;
	kvm->stage = KVM_STAGE_IRQ;
	return 0;
}

int kvm_create(struct kvm **out)
{
	struct kvm *kvm;
	int r;

	r = life_get();
	if (r)
		return r;
	kvm = base_zalloc(sizeof(*kvm));
	if (!kvm) {
		life_put();
		return -ENOMEM;
	}
	kvm->handle = (struct kvm_file){.magic = KVM_FILE_MAGIC, .ops = &kvm_handle_ops};
	kvm->generation = owner_generation();
	ref_init(&kvm->handle.users, 1);
	kvm->mmu_pages = KVM_MIN_MMU_PAGES;
	mutex_init(&kvm->lock, LOCK_KVM);
	mutex_init(&kvm->slots_lock, LOCK_SLOTS);
	spin_init(&kvm->stats_lock, LOCK_STATS);
	kvm->vm.srcu = &kvm->srcu;
	kvm->vm.lock = &kvm->lock;
	r = make_organs(kvm);
	if (r) {
		kvm_put(kvm);
		return r;
	}
	/* From the list on, it is others' as well. */
	kvm->stage = KVM_STAGE_LISTED;
	registry_add(kvm);
	*out = kvm;
	return 0;
}

/* -- The file -- */

/* Whoever else holds the VM: it has no file from here on, and no irqfd raises anything in it. */
static void vm_release(void *object)
{
	struct kvm *kvm = object;

	atomic_store(&kvm->file, NULL);
	irq_release_irqfds(kvm->vm.irq);
	kvm_put(kvm);
}

const struct file_class vm_file_class = {
    .name = "VM",
    .ioctl = vm_ioctl,
    .release = vm_release,
};

/* The set-up is there (life_get). */
static int make_vm_file(void)
{
	struct file *f;
	struct kvm *kvm;
	int r;

	r = file_prepare(&f, &vm_file_class, "kvm-vm", 0, O_RDWR);
	if (r)
		return r;
	r = kvm_create(&kvm);
	if (r) {
		file_abandon(f);
		return r;
	}
	atomic_store(&kvm->file, &kvm->handle);
	r = file_install(f, kvm, true);
	if (r < 0) {
		atomic_store(&kvm->file, NULL);
		kvm_put(kvm);
		file_abandon(f);
	}
	return r;
}

int vm_file_create(unsigned long type)
{
	int r;

	if (type)
		return -EINVAL;
	/* The /dev/kvm asked may be a parent's or a stranger's: then nothing is set up in this process yet.
	 */
	r = life_get();
	if (r)
		return r;
	r = make_vm_file();
	life_put();
	return r;
}
