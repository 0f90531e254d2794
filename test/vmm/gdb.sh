#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# gdb stops inside the handling of a guest instruction; QEMU's gdb stub breaks and single-steps in the guest.
# WORKS: gdb on the VMM, gdb in the guest | stops in a guest instruction; `-s` stub: step, break, continue, detach
. "$(dirname "$0")/../vmm_util.sh"
tools/assets.sh cloud && tools/assets.sh initrd || exit 1
# (1) gdb on QEMU itself: a breakpoint in the engine's CPUID handler, which the guest executes at boot.
cat >"$W/one.gdb" <<EOF
set pagination off
set confirm off
set breakpoint pending on
handle SIGUSR1 SIG61 nostop noprint pass
set environment LD_PRELOAD $(realpath "$B/libuserkvm.so")
break vcpu_cpuid_port
run
backtrace 24
kill
EOF
# shellcheck disable=SC2086
timeout -k 5 120 gdb -q -batch -x "$W/one.gdb" --args $QEMU -M microvm,accel=kvm -serial null \
	-kernel $A/cloud/vmlinuz -initrd $A/initrd.gz </dev/null >"$W/gdb1.log" 2>&1
grep -q '#.*engine_run' "$W/gdb1.log" && grep -q '#.*vcpu_run' "$W/gdb1.log" || { tail -30 "$W/gdb1.log"; fail "no backtrace through the engine"; }
echo "gdb on QEMU: stopped in a guest CPUID, with a backtrace"
# (2) QEMU's stub: the guest waits at reset; step twice, break at the kernel's entry, continue to it.
# shellcheck disable=SC2086
"$B/userkvm" run $QEMU -M pc,accel=kvm -serial "file:$W/stub.log" -kernel $A/cloud/vmlinuz -initrd $A/initrd.gz \
	-append "console=ttyS0 panic=-1 nokaslr" -S -gdb "unix:$W/gdb.sock,server=on,wait=off" </dev/null >"$W/stub.err" 2>&1 &
n=0
until [ -S "$W/gdb.sock" ]; do n=$((n + 1)); [ $n -gt 50 ] && fail "no gdb socket"; sleep 0.1; done
cat >"$W/two.gdb" <<EOF
set pagination off
set architecture i386:x86-64
target remote $W/gdb.sock
printf "reset rip %x\n", \$rip
stepi
printf "step1 rip %x\n", \$rip
stepi
printf "step2 rip %x\n", \$rip
hbreak *0x1000000
continue
printf "break rip %lx\n", \$rip
stepi
printf "after rip %lx\n", \$rip
detach
EOF
timeout -k 5 120 gdb -q -batch -x "$W/two.gdb" </dev/null >"$W/gdb2.log" 2>&1
grep -q 'reset rip fff0' "$W/gdb2.log" || { cat "$W/gdb2.log" "$W/stub.err"; fail "no reset rip"; }
s1=$(sed -n 's/step1 rip //p' "$W/gdb2.log") s2=$(sed -n 's/step2 rip //p' "$W/gdb2.log")
[ -n "$s1" ] && [ "$s1" != fff0 ] && [ "$s1" != "$s2" ] || { cat "$W/gdb2.log"; fail "stepi does not step"; }
grep -q 'break rip 1000000' "$W/gdb2.log" || { cat "$W/gdb2.log"; fail "the breakpoint is not hit"; }
grep -q 'after rip 1000000' "$W/gdb2.log" && fail "no step after the breakpoint"
wait_for "$W/stub.log" 'userkvm-guest: done' 200 || fail "the guest does not go on after the debugger left"
echo "gdb stub: stepi, hbreak, continue, detach: ok"
no_reports
