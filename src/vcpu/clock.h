/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The vCPU's TSC and its part of kvmclock. Private to vcpu/; embedded in struct vcpu, so no include of
 * internal.h here. */
#ifndef USERKVM_VCPU_CLOCK_H
#define USERKVM_VCPU_CLOCK_H

#include "base/base.h"

struct vcpu_clock {
	char unused;
};

#endif
