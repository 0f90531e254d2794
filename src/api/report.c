/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * USERKVM_STATS=1|FILE: one line per vCPU, when it ends or the process does, on standard error or at the end of FILE.
 * A VMM that ends by _exit or a signal with open VMs leaves no lines.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "api/kvm.h"
#include "base/sys.h"

#define LEFT_MAX 16

struct line {
	char text[4096];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static void put(struct line *l, const char *fmt, ...)
{
	size_t room = sizeof(l->text) - l->len - 1; /* the newline */
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(l->text + l->len, room, fmt, ap);
	va_end(ap);
	if (n > 0)
		l->len += MIN((size_t)n, room - 1);
}

static void put_engine(struct line *l, const struct vcpu_handle *h)
{
	struct engine_left left[LEFT_MAX];
	struct engine_stats s;
	unsigned n = vcpu_engine_stats(h->vcpu, &s, left, LEFT_MAX);

#define PUT(field) put(l, " " #field " %lu", s.field);
	ENGINE_STATS(PUT)
#undef PUT
	for (unsigned k = 0; k < n; k++)
		put(l, "%s%s%s %lu", k ? ", " : "; left: ", left[k].name, left[k].access ? " (memory)" : "",
		    left[k].count);
}

/* Where the lines go; -1: nobody wants them. To be closed unless it is 2. */
static int open_output(void)
{
	const char *s = getenv("USERKVM_STATS");

	if (!s || !*s || !strcmp(s, "0"))
		return -1;
	if (!strcmp(s, "1"))
		return 2;
	return (int)sys_call(SYS_openat, AT_FDCWD, s, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

void report_vcpu(const struct vcpu_handle *h)
{
	struct line l = {.len = 0};
	int fd = open_output();

	if (fd < 0)
		return;
	put(&l, "userkvm[%ld]: vcpu %u:", sys_call(SYS_getpid), vcpu_id(h->vcpu));
	put_engine(&l, h);
	put(&l, ";");
#define PUT(field, kind) put(&l, " " #field " %lu", atomic_load(&h->stats.field));
	VCPU_STATS(PUT)
#undef PUT
	l.text[l.len++] = '\n';
	sys_call(SYS_write, fd, l.text, l.len);
	if (fd != 2)
		sys_call(SYS_close, fd);
}

void api_report_all(void)
{
	const char *s = getenv("USERKVM_STATS");

	if (!s || !*s)
		return;
	for (struct kvm *kvm = registry_next(NULL); kvm; kvm = registry_next(kvm))
		for (unsigned i = 0; i < atomic_load(&kvm->vm.nr_vcpus); i++)
			report_vcpu(kvm->handles[i]);
}
