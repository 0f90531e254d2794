/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The CPUID that the VMM set, and what follows from it. Private to vcpu/; embedded in struct vcpu, so no
 * include of internal.h here. */
#ifndef USERKVM_VCPU_CPUID_H
#define USERKVM_VCPU_CPUID_H

#include <linux/kvm.h>

#include "base/base.h"
#include "engine/engine.h"

struct vcpu_cpuid {
	struct kvm_cpuid_entry2 *entries; /* as the VMM gave them; NULL before KVM_SET_CPUID2 */
	unsigned n;
	bool given; /* KVM_SET_CPUID was called */
	bool amd;   /* leaves out of range answer as on AMD */
	struct engine_features feat;
};

/* A feature register (0 eax .. 3 edx) of what this library offers. */
uint32_t cpuid_offered(uint32_t function, unsigned reg);

#endif
