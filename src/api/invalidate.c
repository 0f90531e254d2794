/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMM changes mappings, perhaps guest memory's: every VM with a slot there is told. VMs are walked by
 * references, so one that dies meanwhile may end here. A call from a handler that interrupted the library tells
 * nobody: it may have interrupted the very locks. Nothing wrong comes of it: vCPUs then learn what has become of
 * a page by touching it.
 */
#include "api/api.h"
#include "api/kvm.h"

bool api_invalidate_begin(struct mem_invalidation *i, const void *addr, size_t len)
{
	if (likely(!mem_invalidate_due((uint64_t)addr, len)) || !file_call_begin())
		return false;
	mem_invalidate_begin(i, (uint64_t)addr, len);
	for (struct kvm *kvm = registry_next(NULL); kvm; kvm = registry_next(kvm))
		mem_invalidate_vm(kvm->vm.mem, i);
	file_call_end();
	return true;
}

void api_invalidate_end(struct mem_invalidation *i)
{
	bool counted = file_call_begin();

	mem_invalidate_end(i);
	if (counted)
		file_call_end();
}
