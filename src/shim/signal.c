/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libc's functions that change what a signal does: base/ records it and decides who is called when. */
#include <signal.h>

#include "shim/shim.h"

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return (int)shim_ret(base_sig_action(sig, act, old));
}
EXPORT_ALIAS(sigaction) int __sigaction(int sig, const struct sigaction *act, struct sigaction *old);

/* signal(2) in one of its two meanings. */
static sighandler_t set_handler(int sig, sighandler_t handler, int flags)
{
	struct sigaction act = {.sa_handler = handler, .sa_flags = flags}, old;

	if (handler == SIG_ERR) {
		errno = EINVAL;
		return SIG_ERR;
	}
	if (!(flags & SA_RESETHAND) && sig > 0 && sig < _NSIG)
		sigaddset(&act.sa_mask, sig);
	if (shim_ret(base_sig_action(sig, &act, &old)) < 0)
		return SIG_ERR;
	return old.sa_handler;
}

EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
	return set_handler(sig, handler, SA_RESTART);
}
EXPORT_ALIAS(signal) sighandler_t bsd_signal(int sig, sighandler_t handler);
EXPORT_ALIAS(signal) sighandler_t ssignal(int sig, sighandler_t handler);

EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
	return set_handler(sig, handler, (int)(SA_RESETHAND | SA_NODEFER));
}
EXPORT_ALIAS(sysv_signal) sighandler_t __sysv_signal(int sig, sighandler_t handler);

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return base_sig_mask(how, set, old);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	return (int)shim_ret(-base_sig_mask(how, set, old));
}
