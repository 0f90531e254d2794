/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM's ioctls. Handlers run with their row's locks held and return what the ioctl returns. */
#include <linux/kvm.h>

#include "api/dispatch.h"

#define MAX_ROUTES 4096 /* KVM_MAX_IRQ_ROUTES */

/* A handler that is one call of another room on the copied argument. */
#define CALL(name, expr)                       \
	static long name(struct ioctl_call *c) \
	{                                      \
		struct kvm *kvm = c->kvm;      \
		return expr;                   \
	}

static unsigned created_vcpus(struct kvm *kvm)
{
	return atomic_load(&kvm->vm.nr_vcpus);
}

/* -- Memory -- */

static long set_user_memory_region(struct ioctl_call *c)
{
	stats_add(c->kvm, &c->kvm->stats.memslot_updates);
	return mem_set_region(c->kvm->vm.mem, c->buf);
}

CALL(get_dirty_log, mem_get_dirty_log(kvm->vm.mem, c->buf))
CALL(clear_dirty_log, mem_clear_dirty_log(kvm->vm.mem, c->buf))

CALL(reset_dirty_rings, mem_reset_rings(kvm->vm.mem))

static long set_nr_mmu_pages(struct ioctl_call *c)
{
	if (c->arg < KVM_MIN_MMU_PAGES)
		return -EINVAL;
	c->kvm->mmu_pages = c->arg;
	return 0;
}

static long get_nr_mmu_pages(struct ioctl_call *c)
{
	return (long)c->kvm->mmu_pages;
}

static long set_tss_addr(struct ioctl_call *c)
{
	if (c->arg > (unsigned)(-3 * (int)PAGE_SIZE))
		return -EINVAL;
	c->kvm->vm.tss_addr = c->arg;
	return 0;
}

static long set_identity_map_addr(struct ioctl_call *c)
{
	uint64_t addr;

	/* As KVM, "too late" goes before "bad pointer": so the copy is made here. */
	if (created_vcpus(c->kvm))
		return -EINVAL;
	if (base_copy_in(&addr, (void *)c->arg, sizeof(addr)))
		return -EFAULT;
	c->kvm->vm.identity_map_addr = addr;
	return 0;
}

/* -- vCPUs and devices -- */

CALL(create_vcpu, vcpu_file_create(kvm, c->arg))
CALL(create_device, device_create(kvm, c->buf))

static long set_boot_cpu_id(struct ioctl_call *c)
{
	if (created_vcpus(c->kvm))
		return -EBUSY;
	c->kvm->vm.boot_cpu_id = (uint32_t)c->arg;
	return 0;
}

static long get_stats_fd(struct ioctl_call *c)
{
	return stats_file_create(c->kvm, NULL);
}

/* -- Interrupts -- */

static long create_irqchip(struct ioctl_call *c)
{
	if (irq_get_mode(c->kvm->vm.irq) != IRQ_MODE_NONE)
		return -EEXIST;
	return created_vcpus(c->kvm) ? -EINVAL : irq_create_chip(c->kvm->vm.irq);
}

CALL(get_irqchip, irq_get_chip(kvm->vm.irq, c->buf))
CALL(set_irqchip, irq_set_chip(kvm->vm.irq, c->buf))

static long irq_line(struct ioctl_call *c)
{
	struct kvm_irq_level *l = c->buf;
	int status = 0;
	int r;

	stats_add(c->kvm, &c->kvm->stats.irq_line_calls);
	r = irq_set_line(c->kvm->vm.irq, 0, l->irq, (int)l->level, &status);
	l->status = status;
	return r;
}

static long signal_msi(struct ioctl_call *c)
{
	stats_add(c->kvm, &c->kvm->stats.msi_calls);
	return irq_signal_msi(c->kvm->vm.irq, c->buf);
}

static long irqfd(struct ioctl_call *c)
{
	stats_add(c->kvm, &c->kvm->stats.irqfd_updates);
	return irq_irqfd(c->kvm->vm.irq, c->buf);
}

static long set_gsi_routing(struct ioctl_call *c)
{
	stats_add(c->kvm, &c->kvm->stats.routing_updates);
	return c->flags ? -EINVAL : irq_set_routing(c->kvm->vm.irq, c->entries, c->n, c->flags);
}

/* -- PIT -- */

static long create_pit(struct ioctl_call *c)
{
	struct kvm_pit_config config = {.flags = KVM_PIT_SPEAKER_DUMMY};

	return irq_create_pit(c->kvm->vm.irq, &config);
}

CALL(create_pit2, irq_create_pit(kvm->vm.irq, c->buf))
CALL(get_pit2, irq_get_pit(kvm->vm.irq, c->buf))
CALL(set_pit2, irq_set_pit(kvm->vm.irq, c->buf))

static long get_pit(struct ioctl_call *c)
{
	struct kvm_pit_state2 s;
	int r = irq_get_pit(c->kvm->vm.irq, &s);

	if (!r)
		memcpy(((struct kvm_pit_state *)c->buf)->channels, s.channels, sizeof(s.channels));
	return r;
}

/* The old form has no flags: they stay. */
static long set_pit(struct ioctl_call *c)
{
	struct kvm_pit_state2 s;
	int r = irq_get_pit(c->kvm->vm.irq, &s);

	if (r)
		return r;
	memcpy(s.channels, ((struct kvm_pit_state *)c->buf)->channels, sizeof(s.channels));
	return irq_set_pit(c->kvm->vm.irq, &s);
}

static long reinject_control(struct ioctl_call *c)
{
	const struct kvm_reinject_control *r = c->buf;

	return irq_set_pit_reinject(c->kvm->vm.irq, r->pit_reinject);
}

/* -- Doorbells -- */

static long ioeventfd(struct ioctl_call *c)
{
	stats_add(c->kvm, &c->kvm->stats.ioeventfd_updates);
	return bus_ioeventfd(c->kvm->vm.bus, c->buf);
}

CALL(register_coalesced, bus_coalesced_register(kvm->vm.bus, c->buf))
CALL(unregister_coalesced, bus_coalesced_unregister(kvm->vm.bus, c->buf))

/* -- Time, MSRs, capabilities -- */

CALL(get_clock, vcpu_vm_get_clock(&kvm->vm, c->buf))
CALL(set_clock, vcpu_vm_set_clock(&kvm->vm, c->buf))
CALL(set_tsc_khz, vcpu_vm_set_tsc_khz(&kvm->vm, (uint32_t)c->arg))
CALL(get_tsc_khz, vcpu_vm_get_tsc_khz(&kvm->vm))
CALL(set_msr_filter, vcpu_vm_set_msr_filter(&kvm->vm, c->buf))
CALL(set_pmu_event_filter, vcpu_vm_set_pmu_filter(&kvm->vm, (void *)c->arg))
CALL(xen_hvm_config, vcpu_vm_xen_config(&kvm->vm, c->buf))
CALL(xen_set_attr, vcpu_vm_xen_set_attr(&kvm->vm, c->buf))
CALL(xen_get_attr, vcpu_vm_xen_get_attr(&kvm->vm, c->buf))
CALL(xen_evtchn_send, vcpu_vm_xen_evtchn_send(&kvm->vm, c->buf))
CALL(hyperv_eventfd, vcpu_vm_hyperv_eventfd(&kvm->vm, c->buf))
CALL(enable_cap, vm_enable_cap(kvm, c->buf))

/* -- The table -- */

#define SIZE(type) sizeof(struct type)

static const struct ioctl_row rows[] = {
    ROW(KVM_IRQ_LINE, SIZE(kvm_irq_level), 0, L_NONE, irq_line),
    ROW(KVM_IRQ_LINE_STATUS, SIZE(kvm_irq_level), SIZE(kvm_irq_level), L_NONE, irq_line),
    ROW(KVM_SIGNAL_MSI, SIZE(kvm_msi), 0, L_NONE, signal_msi),
    ROW(KVM_SET_USER_MEMORY_REGION, SIZE(kvm_userspace_memory_region), 0, L_SLOTS, set_user_memory_region),
    ROW(KVM_GET_DIRTY_LOG, SIZE(kvm_dirty_log), 0, L_SLOTS, get_dirty_log),
    ROW(KVM_CLEAR_DIRTY_LOG, SIZE(kvm_clear_dirty_log), 0, L_SLOTS, clear_dirty_log),
    ROW(KVM_RESET_DIRTY_RINGS, 0, 0, L_SLOTS, reset_dirty_rings),
    ROW(KVM_CHECK_EXTENSION, 0, 0, L_NONE, ioctl_check_extension),
    ROW(KVM_ENABLE_CAP, SIZE(kvm_enable_cap), 0, L_KVM | L_SLOTS, enable_cap),
    ROW(KVM_CREATE_VCPU, 0, 0, L_KVM, create_vcpu),
    ROW(KVM_CREATE_DEVICE, SIZE(kvm_create_device), SIZE(kvm_create_device), L_NONE, create_device),
    ROW(KVM_SET_BOOT_CPU_ID, 0, 0, L_KVM, set_boot_cpu_id),
    ROW(KVM_GET_STATS_FD, 0, 0, L_NONE, get_stats_fd),
    ROW(KVM_SET_TSS_ADDR, 0, 0, L_KVM, set_tss_addr),
    ROW(KVM_SET_IDENTITY_MAP_ADDR, 0, 0, L_KVM, set_identity_map_addr),
    ROW(KVM_SET_NR_MMU_PAGES, 0, 0, L_SLOTS, set_nr_mmu_pages),
    ROW(KVM_GET_NR_MMU_PAGES, 0, 0, L_SLOTS, get_nr_mmu_pages),
    ROW(KVM_CREATE_IRQCHIP, 0, 0, L_KVM, create_irqchip),
    ROW(KVM_GET_IRQCHIP, SIZE(kvm_irqchip), SIZE(kvm_irqchip), L_KVM, get_irqchip),
    ROW(KVM_SET_IRQCHIP, SIZE(kvm_irqchip), 0, L_KVM, set_irqchip),
    ROW(KVM_IRQFD, SIZE(kvm_irqfd), 0, L_NONE, irqfd),
    ROW_ARRAY(KVM_SET_GSI_ROUTING, L_KVM, set_gsi_routing, SIZE(kvm_irq_routing_entry), MAX_ROUTES, -EINVAL,
	      false),
    ROW(KVM_CREATE_PIT, 0, 0, L_KVM, create_pit),
    ROW(KVM_CREATE_PIT2, SIZE(kvm_pit_config), 0, L_KVM, create_pit2),
    ROW(KVM_GET_PIT, SIZE(kvm_pit_state), SIZE(kvm_pit_state), L_KVM, get_pit),
    ROW(KVM_SET_PIT, SIZE(kvm_pit_state), 0, L_KVM, set_pit),
    ROW(KVM_GET_PIT2, 0, SIZE(kvm_pit_state2), L_KVM, get_pit2),
    ROW(KVM_SET_PIT2, SIZE(kvm_pit_state2), 0, L_KVM, set_pit2),
    ROW(KVM_REINJECT_CONTROL, SIZE(kvm_reinject_control), 0, L_KVM, reinject_control),
    ROW(KVM_IOEVENTFD, SIZE(kvm_ioeventfd), 0, L_SLOTS, ioeventfd),
    ROW(KVM_REGISTER_COALESCED_MMIO, SIZE(kvm_coalesced_mmio_zone), 0, L_SLOTS, register_coalesced),
    ROW(KVM_UNREGISTER_COALESCED_MMIO, SIZE(kvm_coalesced_mmio_zone), 0, L_SLOTS, unregister_coalesced),
    ROW(KVM_SET_PMU_EVENT_FILTER, 0, 0, L_NONE, set_pmu_event_filter),
    ROW(KVM_XEN_HVM_CONFIG, SIZE(kvm_xen_hvm_config), 0, L_NONE, xen_hvm_config),
    ROW(KVM_XEN_HVM_SET_ATTR, SIZE(kvm_xen_hvm_attr), 0, L_NONE, xen_set_attr),
    ROW(KVM_XEN_HVM_GET_ATTR, SIZE(kvm_xen_hvm_attr), SIZE(kvm_xen_hvm_attr), L_NONE, xen_get_attr),
    ROW(KVM_XEN_HVM_EVTCHN_SEND, SIZE(kvm_irq_routing_xen_evtchn), 0, L_NONE, xen_evtchn_send),
    ROW(KVM_HYPERV_EVENTFD, SIZE(kvm_hyperv_eventfd), 0, L_NONE, hyperv_eventfd),
    ROW(KVM_GET_CLOCK, 0, SIZE(kvm_clock_data), L_NONE, get_clock),
    ROW(KVM_SET_CLOCK, SIZE(kvm_clock_data), 0, L_NONE, set_clock),
    ROW(KVM_SET_TSC_KHZ, 0, 0, L_NONE, set_tsc_khz),
    ROW(KVM_GET_TSC_KHZ, 0, 0, L_NONE, get_tsc_khz),
    ROW(KVM_X86_SET_MSR_FILTER, SIZE(kvm_msr_filter), 0, L_NONE, set_msr_filter),
};

long vm_ioctl(struct file *f, uint32_t request, unsigned long arg)
{
	struct ioctl_call c = {.file = f, .kvm = f->object, .arg = arg};

	return ioctl_dispatch(rows, ARRAY_SIZE(rows), &c, request, -ENOTTY);
}
