#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# make demo: Debian's cloud kernel in Debian's unmodified QEMU (-M microvm,accel=kvm) on userkvm. With an RTC, which TCG's
# microvm has by default: a kernel without one looks for it for a second.
# make demo-shell: the same with a shell in the guest.
set -eu
cd "$(dirname "$0")/.."
tools/assets.sh cloud
tools/assets.sh initrd
A=build/assets
append="console=ttyS0 panic=-1 reboot=t"
[ "${1:-demo}" = demo-shell ] && append="$append quiet userkvm.shell"
cmd="qemu-system-x86_64 -M microvm,rtc=on,accel=kvm -cpu host -m 512 -nodefaults -no-reboot -display none -serial stdio"
echo "build/userkvm run $cmd -kernel $A/cloud/vmlinuz -initrd $A/initrd.gz -append '$append'"
log=build/demo.log
start=$(date +%s%N)
# shellcheck disable=SC2086
if [ "${1:-demo}" = demo-shell ]; then
	exec build/userkvm run $cmd -kernel $A/cloud/vmlinuz -initrd $A/initrd.gz -append "$append"
fi
# shellcheck disable=SC2086
timeout 300 build/userkvm run $cmd -kernel $A/cloud/vmlinuz -initrd $A/initrd.gz -append "$append" </dev/null 2>&1 |
	while IFS= read -r line; do
		printf '%s\n' "$line"
		case $line in *userkvm-guest:\ init*) echo $(($(date +%s%N) - start)) >build/demo.ns ;; esac
	done | tee $log
grep -q 'userkvm-guest: done' $log || { echo "demo: the guest did not get to its end" >&2; exit 1; }
awk '{printf "demo: %.1f seconds from start to init\n", $1 / 1e9}' build/demo.ns
