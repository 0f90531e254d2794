/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which guest pages were used lately: userkvm_age. */
#include "api/api.h"
#include "api/kvm.h"
#include "base/window.h"

#define CHUNK 4096U /* pages at a time */

/* Ages len bytes from gpa in pieces; VMM memory is touched between them, in no section. */
static long age(struct kvm *kvm, uint64_t gpa, uint64_t len, unsigned char *young)
{
	uint8_t bits[CHUNK];
	int r = 0;

	for (uint64_t left = len >> PAGE_SHIFT, gfn = gpa >> PAGE_SHIFT; left && !r;) {
		uint64_t n = MIN(left, (uint64_t)CHUNK);

		mem_age(kvm->vm.mem, 0, gfn, n, bits);
		r = base_copy_out(young, bits, n);
		young += n;
		gfn += n;
		left -= n;
	}
	return r;
}

long api_age(int fd, uint64_t gpa, uint64_t len, unsigned char *young)
{
	struct file *f = file_get(fd);
	struct kvm *kvm;
	long r = -EBADF;
	bool counted;

	if (!f)
		return r;
	counted = file_call_begin();
	if (f->cls == &vm_file_class) {
		kvm = f->object;
		if (kvm->generation != owner_generation())
			r = -EIO;
		else if (((gpa | len) & PAGE_OFFSET_MASK) || gpa + len < gpa)
			r = -EINVAL;
		else
			r = age(kvm, gpa, len, young);
	}
	if (counted)
		file_call_end();
	file_put(f);
	return r;
}
