/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The flags of mutate.h. */
#include "base/mutate.h"

#ifdef USERKVM_CHECKED
#include <unistd.h>

_Atomic uint64_t base_mutations;

void mutate_pause(void)
{
	usleep(100);
}
#endif
