#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Debian's cloud kernel patches its own text while two vCPUs execute it: static keys, tracepoints, ftrace on all functions,
# probes, packet filters that it translates, a module that comes and goes.	make check T=vmm/patching
# PATCHING_SECONDS=n: for that long. Seen to fail (same_code): with no comparison at all, and with none of what others wrote.
# WORKS: Linux patching its own text under load | static keys, ftrace, kprobes, BPF's translator, modules, on 2 vCPUs; calls counted
. "$(dirname "$0")/../vmm_util.sh"
tools/assets.sh cloud || exit 1
mkdir -p "$W/root/modules" "$W/root/dev" "$W/root/proc" "$W/root/sys"
gcc -std=gnu11 -Wall -Wextra -Werror -O2 -static -o "$W/root/init" test/vmm/guest/patching.c || fail "gcc"
cp "$(find $A/cloud/lib/modules -name dummy.ko)" "$W/root/modules/" || fail "no module"
(cd "$W/root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$W/initrd.gz"
s=${PATCHING_SECONDS:-10}
# shellcheck disable=SC2086
timeout -k 5 $((s + 240)) "$B/userkvm" run $QEMU -M microvm,accel=kvm -smp 2 -serial "file:$W/patching.log" \
	-kernel $A/cloud/vmlinuz -initrd "$W/initrd.gz" -append "console=ttyS0 quiet panic=-1 reboot=t SECONDS=$s" \
	</dev/null >"$W/patching.err" 2>&1
grep -a '^patching' "$W/patching.log"
grep -aq '^patching: done' "$W/patching.log" || { tail -20 "$W/patching.log"; cat "$W/patching.err"; fail "not done"; }
grep -aq ' 2 cpus' "$W/patching.log" || fail "no second CPU"
no_reports
