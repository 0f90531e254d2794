#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# One round of `make soak` on 2 vCPUs: Debian's compiler, a program, the sqlite3 shell, their results those of this
# machine. How it was seen to fail: tools/soak.sh.
# WORKS: Debian root file system: gcc, sqlite3 (`make soak`) | object files, program and database results equal to the host's, 1 and 2 vCPUs, an hour without a fault
. "$(dirname "$0")/../vmm_util.sh"
tools/deps.sh soak >"$W/deps" 2>&1 || { echo "no debootstrap: $(tail -1 "$W/deps")"; exit 77; }
tools/rootfs.sh >"$W/rootfs" 2>&1
rc=$?
[ $rc = 0 ] || { cat "$W/rootfs"; exit $rc; }
unset USERKVM_LOG
tools/soak.sh "$B" 0 2 || fail "the guest's round"
