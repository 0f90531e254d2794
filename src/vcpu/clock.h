/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The vCPU's TSC and its part of kvmclock. Private to vcpu/; embedded in struct vcpu, so no include of
 * internal.h here. */
#ifndef USERKVM_VCPU_CLOCK_H
#define USERKVM_VCPU_CLOCK_H

#include "base/base.h"

struct vcpu;
struct vcpu_vm;

/* Written on the vCPU's own thread; the timers of irq/ and other vCPUs read the atomics. */
struct vcpu_clock {
	_Atomic uint64_t offset; /* guest TSC = scaled host TSC + offset */
	_Atomic uint64_t ratio;	 /* guest/host frequency, CLOCK_RATIO_BITS of fraction; 0 = 1:1, no scaling */
	_Atomic uint32_t khz;	 /* what KVM_GET_TSC_KHZ tells */
	uint64_t tsc_adjust;	 /* IA32_TSC_ADJUST */
};

#define CLOCK_RATIO_BITS 48

/* What a guest's kvmclock page says: ns(tsc) = system_time + scale(tsc - tsc_timestamp). */
struct clock_reading {
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	bool stable; /* one page serves every vCPU */
};

void clock_read(struct vcpu *v, struct clock_reading *r);
/* CLOCK_REALTIME ns at which the VM's kvmclock was 0. Any thread. */
uint64_t clock_wall_ns(struct vcpu_vm *vm);
/* The value of MSR_KVM_WALL_CLOCK. */
_Atomic uint64_t *clock_wall_msr(struct vcpu_vm *vm);
/* kvmclock at this host TSC. Any thread. */
uint64_t clock_kvmclock_ns(struct vcpu_vm *vm, uint64_t host_tsc);
/* Takes the fixed point of all kvmclock pages anew and has every vCPU rewrite its page. */
void clock_refresh(struct vcpu_vm *vm);

/* MSRs: IA32_TSC and IA32_TSC_ADJUST, by the VMM (host) or the guest. */
void clock_write_tsc(struct vcpu *v, uint64_t tsc, bool host);
void clock_write_tsc_adjust(struct vcpu *v, uint64_t val, bool host);
/* clock_guest_tsc for a given host TSC. */
uint64_t clock_scale_tsc(const struct vcpu *v, uint64_t host_tsc);

#endif
