# SPDX-License-Identifier: LGPL-2.1-or-later
# Shared by test/vmm/*.sh: sourced, not run. A test prints what it does, exits 0, 77 (skip) or 1.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${USERKVM_BUILD:-build/checked}
A=build/assets
W=$(mktemp -d /tmp/userkvm-vmm.XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$W"' EXIT
QEMU="qemu-system-x86_64 -nodefaults -no-reboot -display none -cpu host -m 512"
export USERKVM_LOG=${USERKVM_LOG:-error:$W/userkvm.log}

fail() { echo "FAILED: $*"; [ -s "$W/userkvm.log" ] && tail -20 "$W/userkvm.log"; exit 1; }
# Every lock-order or invariant report of the run is a failure.
no_reports() { if [ -s "$W/userkvm.log" ]; then fail "userkvm reported"; fi; }

# boot NAME LIMIT-SECONDS QEMU-ARGS...: the cloud kernel to init and power off; the console is $W/NAME.log
boot() {
	name=$1 limit=$2
	shift 2
	tools/assets.sh cloud && tools/assets.sh initrd || exit 1
	t0=$(date +%s%N)
	# shellcheck disable=SC2086
	timeout -k 5 "$limit" "$B/userkvm" run $QEMU -serial "file:$W/$name.log" -kernel $A/cloud/vmlinuz \
		-initrd $A/initrd.gz -append "console=ttyS0 panic=-1 reboot=t" "$@" </dev/null >"$W/$name.err" 2>&1
	rc=$?
	echo "$name: $((($(date +%s%N) - t0) / 1000000)) ms, qemu exit $rc, $(grep -a -o 'userkvm-guest: init.*' "$W/$name.log" | tr -d '\r')"
	grep -aq 'userkvm-guest: done' "$W/$name.log" || {
		cat "$W/$name.err"
		tail -5 "$W/$name.log"
		fail "$name did not reach its end"
	}
}
# hmp FILE-OF-SOCKET COMMAND: one QEMU monitor command, its answer on stdout
hmp() { printf '%s\n' "$2" | socat -t 2 - "UNIX-CONNECT:$1" | tr -d '\r'; }
# wait_for FILE PATTERN SECONDS
wait_for() {
	n=0
	until grep -aq "$2" "$1" 2>/dev/null; do
		n=$((n + 1))
		[ $n -gt $(($3 * 10)) ] && return 1
		sleep 0.1
	done
}
