#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# One guest program natively, under QEMU's TCG and on userkvm's two tiers.	tools/bench_guest.sh BUILD-FOLDER text|md
# RUNS=n (3): medians of n runs. SIDES="native tcg interp jit", ROWS=a,b: only these. DIV=n (10): the interpreter
# does 1/n of the work.
set -u
cd "$(dirname "$0")/.."
B=$1 form=$2
A=build/assets
W=$B/bench/guest-run
P=$B/bench/guest
RUNS=${RUNS:-3} SIDES=${SIDES:-native tcg interp jit} DIV=${DIV:-10} ROWS=${ROWS:-}
LIMIT=${LIMIT:-240} # seconds that a guest may take

tools/assets.sh cloud || exit 1
rm -rf "$W" && mkdir -p "$W/root/dev" "$W/root/proc"
cp "$P" "$W/root/init"
(cd "$W/root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$W/initrd.gz"

# Lines of the guest program, each CLOCK and INIT with the host's time before it.
stamp() { # SIDE START
	first=
	while IFS= read -r l; do
		t=$(date +%s%N)
		l=$(printf %s "$l" | tr -d '\r')
		case $l in
		INIT) printf '%s\tBOOT %s\n' "$1" "$(echo "$t $2" | awk '{printf "%.3f", ($1 - $2) / 1e9}')" ;;
		ROW*) printf '%s\t%s\n' "$1" "$l" ;;
		CLOCK*)
			if [ -z "$first" ]; then
				first="$t ${l#CLOCK }"
			else
				echo "$first $t ${l#CLOCK }" |
					awk -v s="$1" '{printf "%s\tWALL %.6f %.6f\n", s, $4 - $2, ($3 - $1) / 1e9}'
			fi
			;;
		DONE) printf '%s\tDONE\n' "$1" ;;
		esac
	done
}

# An RTC on all sides: QEMU makes one for TCG only, and a kernel without waits a second for it.
guest() { # SIDE ACCEL CPU KERNEL-PARAMETERS LAUNCHER...
	side=$1 accel=$2 cpu=$3 append=$4
	shift 4
	timeout -k 2 "$LIMIT" "$@" qemu-system-x86_64 -M "microvm,rtc=on,accel=$accel" -cpu "$cpu" -m 512 -nodefaults -no-reboot \
		-display none -serial stdio -kernel $A/cloud/vmlinuz -initrd "$W/initrd.gz" \
		-append "console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on ${ROWS:+ROWS=$ROWS }$append" \
		</dev/null 2>>"$W/$side.err" | stamp "$side" "$(date +%s%N)"
}

# A TCG guest that calibrates its TSC on a busy host does not always succeed, and then hangs: it is told.
run_tcg() { guest tcg tcg max "tsc_early_khz=$("$P" tsc) no_timer_check tsc=reliable" env; }
run_interp() { guest interp kvm host "DIV=$DIV" env USERKVM_ENGINE=interp "$B/userkvm" run; }
run_jit() { guest jit kvm host "" env USERKVM_ENGINE=jit "$B/userkvm" run; }
run_native() {
	DIV='' ROWS=$ROWS taskset -c 0 "$P" | sed -n 's/^ROW/native\tROW/p; s/^DONE/native\tDONE/p'
	DIV=$DIV ROWS=$ROWS taskset -c 0 "$P" | sed -n 's/^ROW/native-div\tROW/p'
}

echo "== A guest program and a boot, -M microvm, Debian cloud kernel, 1 vCPU; medians of $RUNS runs; load $(cut -d' ' -f1 /proc/loadavg) =="
: >"$W/all"
for run in $(seq "$RUNS"); do
	for side in $SIDES; do
		tries=3
		while :; do
			"run_$side" >"$W/once"
			grep -q "DONE" "$W/once" && break
			tries=$((tries - 1))
			echo "(run $run under $side did not come to its end in $LIMIT s: $(grep -c ROW "$W/once") rows)" >&2
			[ $tries = 0 ] && break
		done
		cat "$W/once" >>"$W/all"
	done
done
awk -v md="$([ "$form" = md ] && echo 1)" -v div="$DIV" -f tools/bench_guest.awk "$W/all"
