/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Paravirtual pages: kvmclock, steal time, PV EOI. Private to vcpu/; embedded in struct vcpu, so no include
 * of internal.h here. */
#ifndef USERKVM_VCPU_PV_H
#define USERKVM_VCPU_PV_H

#include "base/base.h"

struct vcpu_pv {
	char unused;
};

#endif
