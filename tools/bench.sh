#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# make bench: each figure beside its baseline of the same run.	tools/bench.sh BUILD-FOLDER
# API costs against the machine's own KVM where it has one (idle and 1-vCPU rows); the engine against TCG.
set -u
cd "$(dirname "$0")/.."
B=$1
A=build/assets
tools/assets.sh cloud && tools/assets.sh initrd || exit 1

echo "== KVM API, ns (median, p99) =="
"$B/userkvm" run "$B/bench/api" >"$B/bench/api.us" || exit 1
if [ -w /dev/kvm ] && USERKVM_ORACLE=1 "$B/bench/api" >"$B/bench/api.kvm" 2>/dev/null; then
	awk 'BEGIN { printf "%-26s %10s %10s %10s %10s %7s\n", "operation", "userkvm", "p99", "/dev/kvm", "p99", "ratio" }
		NR == FNR { m[$1] = $2; p[$1] = $3; next }
		{ printf "%-26s %10d %10d %10d %10d %7.2f\n", $1, m[$1], p[$1], $2, $3, $2 ? m[$1] / $2 : 0 }' \
		"$B/bench/api.us" "$B/bench/api.kvm"
else
	echo "(no usable /dev/kvm here to compare with)"
	awk '{ printf "%-26s %10d %10d\n", $1, $2, $3 }' "$B/bench/api.us"
fi

if [ -x "$B/bench/interp" ]; then
	echo
	echo "== Interpreter =="
	"$B/bench/interp"
fi

echo
echo "== Debian cloud kernel to init, -M microvm, 1 vCPU: seconds by the host's clock, best of 3 =="
once() { # ACCEL-NAME LAUNCHER... : seconds from start to the guest's init line
	acc=$1 cpu=$2
	shift 2
	t0=$(date +%s%N)
	timeout -k 2 45 "$@" qemu-system-x86_64 -M microvm,accel=$acc -cpu "$cpu" -m 512 -nodefaults -no-reboot -display none \
		-serial stdio -kernel $A/cloud/vmlinuz -initrd $A/initrd.gz -append "console=ttyS0 panic=-1 reboot=t" \
		</dev/null 2>/dev/null | while IFS= read -r l; do
		case $l in *userkvm-guest:\ init*) echo $(($(date +%s%N) - t0)) ;; esac
	done
}
best() { sort -n | head -1; }
ours=$(for _ in 1 2 3; do once kvm host "$B/userkvm" run; done | best)
tcg=$(for _ in 1 2 3; do once tcg max env; done | best)
# TCG's boot of a microvm hangs now and then; a run that does not end in 45 s does not count.
awk -v a="$ours" -v b="$tcg" 'BEGIN { if (!a || !b) { print "userkvm " a / 1e9 " s, QEMU TCG " b / 1e9 " s (0: no boot)"; exit }
	printf "userkvm %.2f s   QEMU TCG %.2f s   ratio %.2f\n", a/1e9, b/1e9, a/b }'
