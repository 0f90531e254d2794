/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The run loop, the one place where the organs meet: requests, event injection, kvm_run exits, register
 * state, CPUID, MSRs, clock. Every function on a vcpu needs vcpu->mutex (held by the api's dispatcher,
 * for KVM_RUN during the whole run) unless marked "any thread". Structures are kernel copies of the
 * ioctl's argument; errors are the ioctl's errno, KVM 6.1's.
 */
#ifndef USERKVM_VCPU_VCPU_H
#define USERKVM_VCPU_VCPU_H

#include "base/base.h"
#include "bus/bus.h"
#include "engine/engine.h"
#include "irq/irq.h"
#include "mem/mem.h"

#define VCPU_MAX	    1024 /* KVM_CAP_MAX_VCPUS */
#define VCPU_MAX_CPUID	    256
#define VCPU_MCE_BANKS	    32	      /* KVM_CAP_MCE */
#define VCPU_IO_PAGE_OFFSET PAGE_SIZE /* PIO data, in the vCPU's mapping */
#define VCPU_COALESCED_PAGE 2	      /* page number in the vCPU's mapping: KVM_CAP_COALESCED_MMIO */
/* KVM_CAP_XEN_HVM */
#define VCPU_XEN_CAPS                                                                                      \
	(KVM_XEN_HVM_CONFIG_HYPERCALL_MSR | KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL |                           \
	 KVM_XEN_HVM_CONFIG_SHARED_INFO | KVM_XEN_HVM_CONFIG_RUNSTATE | KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL | \
	 KVM_XEN_HVM_CONFIG_EVTCHN_SEND)
#define VCPU_MMAP_SIZE (3 * PAGE_SIZE)

struct vcpu;
struct clock;	   /* VM-wide TSC and kvmclock state: clock.c */
struct hv_vm;	   /* the Hyper-V partition: hyperv.c */
struct xen_vm;	   /* Xen's interface: xen.c */
struct pmu_filter; /* KVM_SET_PMU_EVENT_FILTER: pmu.c */
struct msr_filter; /* KVM_X86_SET_MSR_FILTER: msr.c */

/* What the vCPUs of a VM share: organs made by api, and VM-wide settings. Embedded in struct kvm. */
struct vcpu_vm {
	struct mem *mem;
	struct bus_set *bus;
	struct irq_vm *irq;
	struct engine_code *code;
	struct srcu *srcu;
	struct mutex *lock; /* kvm->lock */
	struct clock *clock;
	struct hv_vm *hv;
	struct xen_vm *xen;
	_Atomic(struct pmu_filter *) pmu_filter; /* read under srcu */
	_Atomic(struct msr_filter *) msr_filter; /* read under srcu */
	_Atomic(struct vcpu *) vcpus[VCPU_MAX];	 /* by vcpu index; published once, gone with the VM */
	_Atomic unsigned nr_vcpus;
	uint32_t boot_cpu_id; /* KVM_SET_BOOT_CPU_ID */
	uint32_t max_vcpu_id;
	/* KVM_ENABLE_CAP and friends; written under kvm->lock before vCPUs run or with atomics' tolerance */
	uint64_t disabled_exits, disabled_quirks, user_space_msr_mask, x2apic_api;
	bool exception_payload, triple_fault_event, bus_lock_exit, exit_on_emulation_error;
	bool pmu_disabled;     /* KVM_CAP_PMU_CAPABILITY, before there are vCPUs */
	bool no_platform_info; /* KVM_CAP_MSR_PLATFORM_INFO 0: the guest cannot read the MSR */
	uint64_t identity_map_addr, tss_addr;
};

/* VM-wide parts that this room owns. vm's organs are set already. -ENOMEM. */
int vcpu_vm_init(struct vcpu_vm *vm);
void vcpu_vm_destroy(struct vcpu_vm *vm);
/* The ports with which api creates the organs (ctx = the struct vcpu_vm *). */
extern const struct mem_port vcpu_mem_port;
extern const struct irq_port vcpu_irq_port;

/* `run` is VCPU_MMAP_SIZE bytes shared with the VMM (its first page a struct kvm_run), and with dirty rings
 * also the ring at page KVM_DIRTY_LOG_PAGE_OFFSET; id is the APIC id.
 * Not yet visible to others: the caller publishes it in vm->vcpus under vm->lock. */
int vcpu_create(struct vcpu **out, struct vcpu_vm *vm, uint32_t id, unsigned index, struct kvm_run *run);
void vcpu_destroy(struct vcpu *v);
struct mutex *vcpu_mutex(struct vcpu *v);
uint32_t vcpu_id(const struct vcpu *v);

/* KVM_RUN (api.rst 4.10): 0 with an exit in kvm_run, -EINTR, -EFAULT, ... */
int vcpu_run(struct vcpu *v);
/* The engine's counters, and the max instructions that it left most; how many these are. Any thread. */
unsigned vcpu_engine_stats(const struct vcpu *v, struct engine_stats *s, struct engine_left *left,
			   unsigned max);

/* -- One function per vCPU ioctl -- */
int vcpu_get_regs(struct vcpu *v, struct kvm_regs *r);
int vcpu_set_regs(struct vcpu *v, const struct kvm_regs *r);
int vcpu_get_sregs(struct vcpu *v, struct kvm_sregs *s);
int vcpu_set_sregs(struct vcpu *v, const struct kvm_sregs *s);
int vcpu_get_sregs2(struct vcpu *v, struct kvm_sregs2 *s);
int vcpu_set_sregs2(struct vcpu *v, const struct kvm_sregs2 *s);
int vcpu_get_fpu(struct vcpu *v, struct kvm_fpu *f);
int vcpu_set_fpu(struct vcpu *v, const struct kvm_fpu *f);
int vcpu_get_xsave(struct vcpu *v, struct kvm_xsave *x);
int vcpu_get_xsave2(struct vcpu *v, void *area, uint32_t size);
uint32_t vcpu_xsave2_size(struct vcpu *v);
int vcpu_set_xsave(struct vcpu *v, const void *area, uint32_t size);
int vcpu_get_xcrs(struct vcpu *v, struct kvm_xcrs *x);
int vcpu_set_xcrs(struct vcpu *v, const struct kvm_xcrs *x);
int vcpu_get_debugregs(struct vcpu *v, struct kvm_debugregs *d);
int vcpu_set_debugregs(struct vcpu *v, const struct kvm_debugregs *d);
int vcpu_get_events(struct vcpu *v, struct kvm_vcpu_events *e);
int vcpu_set_events(struct vcpu *v, const struct kvm_vcpu_events *e);
int vcpu_get_mp_state(struct vcpu *v, struct kvm_mp_state *s);
int vcpu_set_mp_state(struct vcpu *v, const struct kvm_mp_state *s);
/* A local APIC of ours, from creation to end; -EINVAL from the next two without one. */
bool vcpu_has_lapic(const struct vcpu *v);
int vcpu_get_lapic(struct vcpu *v, struct kvm_lapic_state *s);
int vcpu_set_lapic(struct vcpu *v, const struct kvm_lapic_state *s);
/* Entries are in/out; returns how many were done before the first refusal. */
int vcpu_get_msrs(struct vcpu *v, struct kvm_msr_entry *e, unsigned n);
int vcpu_set_msrs(struct vcpu *v, const struct kvm_msr_entry *e, unsigned n);
int vcpu_set_cpuid(struct vcpu *v, const struct kvm_cpuid_entry2 *e, unsigned n);
int vcpu_get_cpuid(struct vcpu *v, struct kvm_cpuid_entry2 *e, unsigned *n); /* -E2BIG, *n = needed */
int vcpu_interrupt(struct vcpu *v, const struct kvm_interrupt *irq);
int vcpu_nmi(struct vcpu *v);
int vcpu_smi(struct vcpu *v);
int vcpu_set_guest_debug(struct vcpu *v, const struct kvm_guest_debug *d);
int vcpu_set_signal_mask(struct vcpu *v, const sigset_t *set); /* NULL = none */
int vcpu_set_tsc_khz(struct vcpu *v, uint32_t khz);
int vcpu_get_tsc_khz(struct vcpu *v);
int vcpu_kvmclock_ctrl(struct vcpu *v);
int vcpu_tpr_access_reporting(struct vcpu *v, struct kvm_tpr_access_ctl *t);
int vcpu_set_vapic_addr(struct vcpu *v, const struct kvm_vapic_addr *a);
int vcpu_setup_mce(struct vcpu *v, uint64_t mcg_cap);
int vcpu_set_mce(struct vcpu *v, const struct kvm_x86_mce *mce);
int vcpu_translate(struct vcpu *v, struct kvm_translation *t);
int vcpu_enable_cap(struct vcpu *v, const struct kvm_enable_cap *cap);
int vcpu_has_attr(struct vcpu *v, const struct kvm_device_attr *a);
int vcpu_get_attr(struct vcpu *v, const struct kvm_device_attr *a);
int vcpu_set_attr(struct vcpu *v, const struct kvm_device_attr *a);
/* Any thread: makes a running vCPU look at its requests, wakes a halted one. */
void vcpu_kick(struct vcpu *v);

/* -- VM and system ioctls whose facts live here -- */
/* KVM_SET_PMU_EVENT_FILTER: the VMM's pointer. Takes vm->lock. -EFAULT, -EINVAL, -E2BIG, -ENOMEM. */
int vcpu_vm_set_pmu_filter(struct vcpu_vm *vm, const void *user);
int vcpu_xen_set_attr(struct vcpu *v, const struct kvm_xen_vcpu_attr *a);
int vcpu_xen_get_attr(struct vcpu *v, struct kvm_xen_vcpu_attr *a);
int vcpu_vm_xen_config(struct vcpu_vm *vm, const struct kvm_xen_hvm_config *c);
int vcpu_vm_xen_set_attr(struct vcpu_vm *vm, const struct kvm_xen_hvm_attr *a);
int vcpu_vm_xen_get_attr(struct vcpu_vm *vm, struct kvm_xen_hvm_attr *a);
int vcpu_vm_xen_evtchn_send(struct vcpu_vm *vm, const struct kvm_irq_routing_xen_evtchn *e);
/* The MSR that fills Xen's hypercall page, 0 = none. */
uint32_t vcpu_xen_msr(const struct vcpu_vm *vm);
int vcpu_vm_hyperv_eventfd(struct vcpu_vm *vm, const struct kvm_hyperv_eventfd *e);
int vcpu_vm_get_clock(struct vcpu_vm *vm, struct kvm_clock_data *c);
int vcpu_vm_set_clock(struct vcpu_vm *vm, const struct kvm_clock_data *c); /* -EINVAL flags */
int vcpu_vm_set_msr_filter(struct vcpu_vm *vm,
			   const struct kvm_msr_filter *f); /* bitmaps are user pointers */
int vcpu_vm_set_tsc_khz(struct vcpu_vm *vm, uint32_t khz);
int vcpu_vm_get_tsc_khz(struct vcpu_vm *vm);
/* KVM_GET_SUPPORTED_CPUID / EMULATED_CPUID: fills at most *n; -E2BIG with room too small, *n = count. */
int vcpu_supported_cpuid(struct kvm_cpuid_entry2 *e, unsigned *n);
/* KVM_GET_SUPPORTED_HV_CPUID of a vCPU, or (NULL) of /dev/kvm. */
int vcpu_supported_hv_cpuid(const struct vcpu *v, struct kvm_cpuid_entry2 *e, unsigned *n);
int vcpu_emulated_cpuid(struct kvm_cpuid_entry2 *e, unsigned *n);
/* KVM_GET_MSR_INDEX_LIST / FEATURE list: returns the table and its length. */
const uint32_t *vcpu_msr_list(unsigned *n);
const uint32_t *vcpu_msr_feature_list(unsigned *n);
int vcpu_get_feature_msr(uint32_t index, uint64_t *val); /* -EINVAL */
uint64_t vcpu_mce_cap(void);
/* AMD or Hygon, else Intel: whose hypercall instruction and vendor MSRs there are. */
bool vcpu_host_is_amd(void);
uint64_t vcpu_supported_xcr0(void);
/* Process-wide tables (CPUID snapshot, TSC frequency); once per process, at open("/dev/kvm"). */
int vcpu_init(void);

#endif
