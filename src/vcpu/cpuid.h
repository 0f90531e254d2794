/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The CPUID that the VMM set, and what follows from it. Private to vcpu/; embedded in struct vcpu, so no
 * include of internal.h here. */
#ifndef USERKVM_VCPU_CPUID_H
#define USERKVM_VCPU_CPUID_H

#include "base/base.h"

struct vcpu_cpuid {
	char unused;
};

#endif
