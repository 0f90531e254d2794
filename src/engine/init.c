/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine's process-wide set-up: what the host can do, stub memory, and the hook for faults in stubs. */
#include <ucontext.h>

#include "engine/fpu.h"
#include "engine/jit.h"

/*
 * A stub's instruction trapped: unmasked SIMD exception (SIGFPE), or an encoding that the host refuses
 * (SIGILL). Execution goes on at the stub's fault exit, which r11 holds, with the guest's vector in eax.
 */
static bool on_fault(int sig, siginfo_t *info, void *ucontext)
{
	greg_t *g = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
	uint64_t fault, again;

	/* In a translated block: the interpreter executes the instruction again, and raises. */
	if (sig == SIGFPE && base_window_find((uint64_t)g[REG_RIP], &fault, &again)) {
		g[REG_RIP] = (greg_t)fault;
		return true;
	}
	if (!stub_owns(g[REG_RIP]) || (sig != SIGFPE && sig != SIGILL))
		return false;
	g[REG_RAX] = sig == SIGFPE ? EXC_XM : EXC_UD;
	g[REG_RIP] = g[REG_R11];
	return true;
}

int engine_init(void)
{
	int err;

	host_detect();
	if ((host_cpu.xcr0 & (XF_X87 | XF_SSE)) != (XF_X87 | XF_SSE))
		return -EOPNOTSUPP;
	jit_size(); /* asks the host's CPU: now, not when the first VM is made */
	err = stub_init();
	if (err)
		return err;
	base_sig_set_fault_hook(on_fault);
	return 0;
}
