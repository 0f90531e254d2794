#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The quick ones of the kernel's own KVM selftests, built from Debian's source package; `make selftests` runs all of them.
# Seen to fail with KVM_SYNC_X86_REGS taken out of what KVM_CAP_SYNC_REGS reports.
# WORKS: Linux's KVM selftests (`make selftests`) | Linux 6.1's suite of 68, unmodified: 44 pass, 24 skip (nested, SEV, what the machine lacks), none fails
. "$(dirname "$0")/../vmm_util.sh"
tools/deps.sh selftests >"$W/deps" 2>&1 || { echo "no linux-source-6.1: $(tail -1 "$W/deps")"; exit 77; }
tools/selftests.sh "$B" short || fail "a program failed or skipped"
