/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The deadlock chains of systems.md, section 2, in the shipped code: each is driven through the ioctls twice. As
 * shipped it makes no report; with its fix switched off (base/mutate.h) one report names the locks of the chain,
 * though nothing hangs, for one thread walks through all of it. That is also how each case was seen to fail: the
 * second half is the first half with the rule broken.
 *	make check T=lockorder/chains
 */
#include "chain.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* -- Steps -- */

/* A slot that the guest has used goes and comes back. */
static void replace_slot(struct world *w)
{
	assert_int_equal(set_slot(w, 0, 0, 0), 0);
	assert_int_equal(set_slot(w, 0, 0, RAM_SIZE), 0);
}

/* The guest reads and writes its memory. */
static void touch(struct world *w)
{
	WORLD_RUN(w, 0xa1, DATA_AT & 0xff, DATA_AT >> 8, 0xa3, DATA_AT & 0xff, DATA_AT >> 8);
}

/* KVM_SET_MSRS of IA32_APIC_BASE, unchanged: in KVM it may switch a static branch. */
static void write_apic_base(struct world *w)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head.nmsrs = 1, .entry.index = 0x1b};

	assert_int_equal(call(w->cpu[0], KVM_GET_MSRS, &m), 1);
	assert_int_equal(call(w->cpu[0], KVM_SET_MSRS, &m), 1);
}

/* -- Chains -- */

/* 1: three CPUs: CREATE_VM's enabling; a walk over the VMs that takes slots_lock; a memslot update that
 * synchronises; a vCPU that takes the machine-wide lock in its read section. */
static void three_cpus(struct world *w)
{
	touch(w);
	replace_slot(w);
	write_apic_base(w);
	world_remap(w);
}

/* 2: what a walk calls runs under the registry's lock. */
static void walk(struct world *w)
{
	touch(w);
	world_remap(w);
}

/* 3, 4, 5: a memslot update beside a vCPU's access. */
static void update_beside_access(struct world *w)
{
	touch(w);
	replace_slot(w);
	touch(w);
}

/* 6: an access to a port that the VMM serves; kvm->lock is outside vcpu->mutex at KVM_CREATE_VCPU. */
static void port_exit(struct world *w)
{
	WORLD_RUN(w, 0x90);
}

/* 8: the VMM changes a mapping while a memslot is updated. */
static void remap_beside_update(struct world *w)
{
	touch(w);
	replace_slot(w);
	world_remap(w);
}

/* 9: routing is replaced; the guest ends an interrupt whose line has a resampler. */
static void routing_beside_ack(struct world *w)
{
	struct kvm_irqfd irqfd = {.gsi = 5, .flags = KVM_IRQFD_FLAG_RESAMPLE};
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[1];
	} table = {.head.nr = 1, .e[0] = {.gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP}};

	table.e[0].u.irqchip.irqchip = KVM_IRQCHIP_PIC_MASTER;
	table.e[0].u.irqchip.pin = 5;
	irqfd.fd = (uint32_t)eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	irqfd.resamplefd = (uint32_t)eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(call(w->vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(call(w->vm, KVM_SET_GSI_ROUTING, &table), 0);
	assert_int_equal(call(w->vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.pic.isr = 1 << 5; /* in service */
	assert_int_equal(call(w->vm, KVM_SET_IRQCHIP, &chip), 0);
	WORLD_RUN(w, 0xb0, 0x20, 0xe6, 0x20); /* mov $0x20, %al; out %al, $0x20: end of interrupt */
	assert_int_equal(eventfd_read((int)irqfd.resamplefd, &(eventfd_t){0}), 0);
	irqfd.flags |= KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(call(w->vm, KVM_IRQFD, &irqfd), 0);
	close((int)irqfd.fd);
	close((int)irqfd.resamplefd);
}

/* 10: a constructor of the VMM's, which the loader runs with its lock held, opens /dev/kvm and makes a VM. */
static void open_in_constructor(struct world *w)
{
	struct world other;

	world_close(w);
	lock_host_enter();
	world_open(&other);
	lock_host_leave();
	world_close(&other);
	world_open(w);
}

/* 11: the reference of a stats file is put. */
static void close_stats(struct world *w)
{
	int fd = (int)call(w->vm, KVM_GET_STATS_FD, NULL);

	assert_true(fd >= 0);
	file_close(fd);
}

/* 11: the VMM's memory is written by an ioctl. */
static void get_tsc_offset(struct world *w)
{
	uint64_t offset = 1;
	struct kvm_device_attr a = {
	    .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)&offset};

	assert_int_equal(call(w->cpu[0], KVM_GET_DEVICE_ATTR, &a), 0);
}

/* 11: a flush of two vCPUs. */
static void update_beside_two(struct world *w)
{
	world_add_cpu(w, 1);
	touch(w);
	replace_slot(w);
}

static pthread_barrier_t changing;

/* A page outside guest memory is being changed. */
static void *change(void *arg)
{
	struct mem_invalidation i;

	mem_invalidate_begin(&i, 0, PAGE_SIZE);
	pthread_barrier_wait(&changing);
	pthread_barrier_wait(&changing);
	mem_invalidate_end(&i);
	return NULL;
}

/* A flush, for a changed mapping, beside a vCPU that looks whether its page's mapping is being changed. */
static void stop_beside_fill(struct world *w)
{
	pthread_t t;

	pthread_barrier_init(&changing, NULL, 2);
	pthread_create(&t, NULL, change, NULL);
	pthread_barrier_wait(&changing);
	touch(w);
	pthread_barrier_wait(&changing);
	pthread_join(t, NULL);
	world_remap(w);
}

/* A doorbell whose eventfd is not non-blocking is rung. */
static void ring(struct world *w)
{
	struct kvm_ioeventfd bell = {.addr = BELL_AT, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO};

	bell.fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(call(w->vm, KVM_IOEVENTFD, &bell), 0);
	WORLD_RUN(w, 0xe6, BELL_AT);
	assert_int_equal(eventfd_read(bell.fd, &(eventfd_t){0}), 0);
	bell.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(call(w->vm, KVM_IOEVENTFD, &bell), 0);
	close(bell.fd);
}

/* The library reads guest memory, which may wait for the VMM's userfault handler; that one may change slots. */
static void read_guest(struct world *w)
{
	struct kvm_vapic_addr a = {.vapic_addr = DATA_AT};

	assert_int_equal(call(w->cpu[0], KVM_SET_VAPIC_ADDR, &a), 0);
	replace_slot(w);
}

/* A kick's handler runs. */
static void kick(struct world *w)
{
	base_sig_kick((int)syscall(SYS_gettid));
	base_membarrier();
}

/* A forked child makes the locks its own. */
static void fork_and_adopt(struct world *w)
{
	int status;
	pid_t pid;

	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		uint32_t parents = owner_generation();

		owner_forked();
		_exit(owner_generation() != parents ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* The VMM's own handlers of fork, registered before the library's: they run between its prepare and parent. */
static int fork_vm = -1;

static void vmm_prepares_fork(void)
{
	if (fork_vm < 0)
		return;
	lock_host_enter(); /* before glibc 2.36 */
	assert_int_equal(call(fork_vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000), 0);
	lock_host_leave();
}

static __attribute__((constructor(101))) void vmm_starts(void)
{
	pthread_atfork(vmm_prepares_fork, NULL, NULL);
}

static void fork_with_handlers(struct world *w)
{
	int status;
	pid_t pid;

	fork_vm = w->vm;
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(0);
	fork_vm = -1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(chain_1_three_cpus, three_cpus,
		 FLAG(USAGE_IN_REGISTRY) | FLAG(HOST_IN_SRCU) | FLAG(WALK_LOCKED) |
		     FLAG(INVALIDATE_TAKES_SLOTS),
		 "possible deadlock", "libc -> kvm_registry", "kvm_registry -> kvm->slots_lock",
		 "kvm->slots_lock -> kvm->srcu", "kvm->srcu -> libc"),
	    CASE(chain_2_walk_under_registry, walk, FLAG(WALK_LOCKED), "holds kvm_registry", "vcpu.guest"),
	    CASE(chain_3_slots_arch_across_sync, update_beside_access, FLAG(SLOTS_ARCH_ACROSS_SYNC),
		 "possible deadlock", "kvm->slots_arch_lock -> kvm->srcu",
		 "kvm->srcu -> kvm->slots_arch_lock"),
	    CASE(chain_4_slots_in_section, update_beside_access, FLAG(SLOTS_IN_SRCU), "possible deadlock",
		 "kvm->slots_lock -> kvm->srcu", "kvm->srcu -> kvm->slots_lock"),
	    CASE(chain_4_sync_in_own_section, update_beside_access, FLAG(SYNC_IN_SECTION), "self-deadlock",
		 "kvm->srcu"),
	    CASE(chain_5_vcpus_under_slots, update_beside_access, FLAG(FLUSH_LOCKS_VCPUS), "wrong order",
		 "vcpu->mutex is wanted while kvm->slots_lock is held"),
	    CASE(chain_6_kvm_lock_in_exit, port_exit, FLAG(KVM_IN_EXIT), "possible deadlock",
		 "vcpu->mutex -> kvm->lock", "kvm->lock -> vcpu->mutex"),
	    CASE(chain_8_invalidation, remap_beside_update,
		 FLAG(INVALIDATE_TAKES_SLOTS) | FLAG(UPDATE_AWAITS_INVALIDATION), "possible deadlock",
		 "mn_invalidation -> kvm->slots_lock", "kvm->slots_lock -> mn_invalidation"),
	    CASE(chain_9_ack_takes_irq, routing_beside_ack, FLAG(SYNC_IN_IRQ) | FLAG(ACK_TAKES_IRQ),
		 "possible deadlock", "kvm->irq_lock -> kvm->irq_srcu", "kvm->irq_srcu -> kvm->irq_lock"),
	    CASE(chain_10_loader_under_lock, open_in_constructor, FLAG(LOAD_IN_LOCK), "possible deadlock",
		 "usage_lock -> libc", "libc -> usage_lock"),
	    CASE(chain_11_put_under_spin, close_stats, FLAG(PUT_UNDER_LOCK), "a last reference",
		 "holds kvm->stats_lock"),
	    CASE(chain_11_copy_under_spin, get_tsc_offset, FLAG(COPY_UNDER_SPIN), "the VMM may be waited for",
		 "holds kvm->clock_lock"),
	    CASE(chain_11_two_vcpus, update_beside_two, FLAG(FLUSH_LOCKS_VCPUS), "nested in its own role",
		 "vcpu->mutex"),
	    CASE(stop_under_a_vcpus_lock, stop_beside_fill, FLAG(STOP_UNDER_LOCK), "possible deadlock",
		 "kvm->mn_invalidate_lock -> vcpu.guest", "vcpu.guest -> kvm->mn_invalidate_lock"),
	    CASE(full_eventfd_is_waited_for, ring, FLAG(EVENTFD_WAITS), "the VMM may be waited for",
		 "a full eventfd", "holds kvm->srcu"),
	    CASE(userfault_in_section, read_guest, FLAG(FAULT_IN_SRCU), "the VMM may be waited for",
		 "base_guarded_copy", "holds kvm->srcu"),
	    CASE(malloc_in_handler, kick, FLAG(ALLOC_IN_HANDLER), "the allocator is entered",
		 "a handler of ours"),
	    CASE(lock_in_forked_child, fork_and_adopt, FLAG(FORK_CHILD_WAITS), "wanted where nothing",
		 "a forked child"),
	    CASE(fork_with_the_loop_locked, fork_with_handlers, FLAG(FORK_HOLDS_LOOP), "loop->lock",
		 "kvm->lock is wanted while loop->lock is held"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
