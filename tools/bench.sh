#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# make bench: each figure beside its baseline of the same run.	tools/bench.sh BUILD-FOLDER text|md [api|interp|guest|boot]
# API costs against the machine's own KVM where it has one (idle and 1-vCPU rows); the engine against TCG.
set -u
cd "$(dirname "$0")/.."
B=$1 form=$2 part=${3:-}
A=build/assets

bench_api() {
	out=$B/bench
	echo "== KVM API (best of 3 runs) =="
	: >"$out/api.kvm"
	"$B/userkvm" run "$out/api" >"$out/api.us" || return 1
	# What the exits cost with a library that does not compare code bytes; nobody else gets that library.
	LD_PRELOAD=$PWD/$out/nocheck.so "$out/api" "exit and re-entry" |
		sed 's/exit and re-entry/exit, without the code check/' |
		awk -F '\t' -v OFS='\t' '{ $6 = 0; print }' >"$out/api.nocheck" || return 1
	if [ ! -w /dev/kvm ]; then
		echo "(no usable /dev/kvm here to compare with)"
	elif ! USERKVM_ORACLE=1 timeout -k 2 120 "$out/api" >"$out/api.kvm"; then
		echo "(the machine's own /dev/kvm did not get through all of it)"
	fi
	awk -v kvm="$out/api.kvm" -v md="$([ "$form" = md ] && echo 1)" -f tools/bench.awk "$out/api.us" "$out/api.nocheck"
	echo
}

bench_interp() {
	for tier in interp jit; do
		echo "== Loops on the engine alone, USERKVM_ENGINE=$tier; CPU time =="
		USERKVM_ENGINE=$tier "$B/bench/interp"
	done
	echo
}

once() { # ACCEL-NAME CPU LAUNCHER... : nanoseconds from start to the guest's init line
	acc=$1 cpu=$2
	shift 2
	t0=$(date +%s%N)
	timeout -k 2 45 "$@" qemu-system-x86_64 -M microvm,rtc=on,accel=$acc -cpu "$cpu" -m 512 -nodefaults -no-reboot -display none \
		-serial stdio -kernel $A/cloud/vmlinuz -initrd $A/initrd.gz -append "console=ttyS0 panic=-1 reboot=t" \
		</dev/null 2>/dev/null | while IFS= read -r l; do
		case $l in *userkvm-guest:\ init*) echo $(($(date +%s%N) - t0)) ;; esac
	done
}
best() { sort -n | head -1; }

bench_boot() {
	tools/assets.sh cloud && tools/assets.sh initrd || return 1
	echo "== Debian cloud kernel to init, -M microvm,rtc=on, 1 vCPU: seconds by the host's clock, best of 3 =="
	ours=$(for _ in 1 2 3; do once kvm host "$B/userkvm" run; done | best)
	tcg=$(for _ in 1 2 3; do once tcg max env; done | best)
	# TCG's boot of a microvm hangs now and then; a run that does not end in 45 s does not count.
	awk -v a="$ours" -v b="$tcg" 'BEGIN { if (!a || !b) { print "userkvm " a / 1e9 " s, QEMU TCG " b / 1e9 " s (0: no boot)"; exit }
		printf "userkvm %.2f s   QEMU TCG %.2f s   ratio %.2f\n", a/1e9, b/1e9, a/b }'
}

bench_guest() {
	tools/bench_guest.sh "$B" "$form"
	echo
}

case $part in
"") bench_api && bench_interp && bench_boot && bench_guest ;;
api | interp | guest | boot) "bench_$part" ;;
*)
	echo "make bench B=api, B=interp, B=guest or B=boot" >&2
	exit 2
	;;
esac
