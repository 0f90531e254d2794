/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MSRs that this room owns, and exits to the VMM for them. Private to vcpu/; embedded in struct vcpu, so no
 * include of internal.h here. */
#ifndef USERKVM_VCPU_MSR_H
#define USERKVM_VCPU_MSR_H

#include "base/base.h"

struct vcpu_msrs {
	char unused;
};

#endif
