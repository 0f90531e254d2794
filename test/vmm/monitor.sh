#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# QEMU monitor commands under load: stop, cont, info registers, savevm/loadvm, migrate, system_reset.
# WORKS: QEMU monitor under load | stop, cont, info registers, savevm, loadvm, live migration, system_reset
. "$(dirname "$0")/../vmm_util.sh"
tools/assets.sh cloud && tools/assets.sh initrd || exit 1
QEMU=$(echo "$QEMU" | sed 's/-no-reboot//') # system_reset boots again
qemu-img create -q -f qcow2 "$W/snap.qcow2" 64M || fail qemu-img
args="-M pc,accel=kvm -smp 2 -kernel $A/cloud/vmlinuz -initrd $A/initrd.gz"
append="console=ttyS0 panic=-1 userkvm.stay"
drive="-drive file=$W/snap.qcow2,format=qcow2,if=none,id=s -device virtio-blk-pci,drive=s"
rounds() { grep -ac 'round [0-9]* ok' "$1"; }
goes_on() { # the guest in log $1 makes progress
	n=$(rounds "$1")
	for _ in $(seq 300); do
		sleep 0.2
		[ "$(rounds "$1")" -gt $((n + 1)) ] && return 0
	done
	return 1
}
# shellcheck disable=SC2086
"$B/userkvm" run $QEMU $args -append "$append" $drive -serial "file:$W/a.log" \
	-monitor "unix:$W/a.sock,server,nowait" </dev/null >"$W/a.err" 2>&1 &
wait_for "$W/a.log" 'round 2 ok' 200 || { tail -3 "$W/a.log"; cat "$W/a.err"; fail "the guest does not start"; }
hmp "$W/a.sock" stop >/dev/null
n=$(rounds "$W/a.log")
sleep 1
[ "$(rounds "$W/a.log")" -le $((n + 1)) ] || fail "stop does not stop"
hmp "$W/a.sock" 'info registers -a' | grep -q 'RIP=' || fail "info registers"
hmp "$W/a.sock" cont >/dev/null
goes_on "$W/a.log" || fail "cont does not go on"
echo "stop, info registers, cont: ok"
if [ -n "$drive" ]; then
	hmp "$W/a.sock" 'savevm one' | grep -i error && fail savevm
	goes_on "$W/a.log" || fail "does not go on after savevm"
	hmp "$W/a.sock" 'loadvm one' | grep -i error && fail loadvm
	goes_on "$W/a.log" || fail "does not go on after loadvm"
	echo "savevm, loadvm: ok"
fi
# shellcheck disable=SC2086
"$B/userkvm" run $QEMU $args -append "$append" $drive -serial "file:$W/b.log" -incoming "unix:$W/mig.sock" \
	-monitor "unix:$W/b.sock,server,nowait" </dev/null >"$W/b.err" 2>&1 &
n=0
until [ -S "$W/mig.sock" ]; do n=$((n + 1)); [ $n -gt 100 ] && { cat "$W/b.err"; fail "no destination"; }; sleep 0.1; done
hmp "$W/a.sock" 'migrate_set_parameter downtime-limit 2000' >/dev/null
hmp "$W/a.sock" "migrate -d unix:$W/mig.sock" >/dev/null
n=0
until hmp "$W/a.sock" 'info migrate' | grep -q 'Migration status: completed'; do
	n=$((n + 1))
	[ $n -gt 120 ] && { hmp "$W/a.sock" 'info migrate'; fail "migration does not complete"; }
	hmp "$W/a.sock" 'info migrate' | grep -q 'status: failed' && { cat "$W/b.err"; fail "migration failed"; }
	sleep 0.5
done
goes_on "$W/b.log" || { tail -3 "$W/b.log"; cat "$W/b.err"; fail "the migrated guest stands still"; }
grep -a 'BAD' "$W/a.log" "$W/b.log" && fail "the guest's memory went wrong"
echo "migrate: ok, $(rounds "$W/a.log") rounds before, $(rounds "$W/b.log") after"
hmp "$W/a.sock" quit >/dev/null
n=$(grep -ac 'userkvm-guest: init' "$W/b.log")
hmp "$W/b.sock" system_reset >/dev/null
for _ in $(seq 600); do
	[ "$(grep -ac 'userkvm-guest: init' "$W/b.log")" -gt "$n" ] && break
	sleep 0.2
done
goes_on "$W/b.log" || { tail -3 "$W/b.log"; fail "system_reset does not boot again"; }
echo "system_reset: ok, booted again"
hmp "$W/b.sock" quit >/dev/null
no_reports
