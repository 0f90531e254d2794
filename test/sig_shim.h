/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cmocka takes SIGSEGV and friends with signal(2) around every test. In a program under the library that
 * call would go through the shim; a unit test that includes this file has it go to base_sig_action too, so
 * that windows work and real crashes still reach cmocka.
 */
#ifndef USERKVM_TEST_SIG_SHIM_H
#define USERKVM_TEST_SIG_SHIM_H

#include "base/sig.h"

__attribute__((weak, visibility("default"))) __sighandler_t signal(int sig, __sighandler_t handler)
{
	struct sigaction act = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
	int r = base_sig_action(sig, &act, &old);

	if (r) {
		errno = -r;
		return SIG_ERR;
	}
	return old.sa_handler;
}

#endif
