#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# make soak TIME=seconds VCPUS="1 2": Debian guests at work, one for each number of vCPUs, all at the same time, on
# unmodified QEMU. In rounds (test/vmm/guest/debian/rounds.sh) a guest compiles a C program, runs it, tests a database
# and compares all with what this machine found. Fails at a wrong result, a complaint of the guest's kernel, an end of
# the VMM, a clock that is not this machine's, SILENCE (300) seconds without a word, or a file system that e2fsck does
# not find clean.
#	tools/soak.sh BUILD-FOLDER SECONDS VCPUS...
# 0 seconds, as in make check: one round, in which the guest compiles some of the files and links this machine's others.
# Each console is kept: BUILD-FOLDER/soak/N.log.
# Seen to fail: with a digit of expect/prog.1 or expect/db.1 changed ("what the database says differs"), with QEMU killed
# ("the VMM ended"), with QEMU stopped ("silent"), and with a guest that writes to /dev/kmsg what an Oops says.
set -u
cd "$(dirname "$0")/.." || exit 2
B=$1 time=$2
shift 2
A=build/assets G=test/vmm/guest/debian W=$PWD/$B/soak
SILENCE=${SILENCE:-300} SEEDS=6
export USERKVM_LOG="${USERKVM_LOG:-error:$W/userkvm.log}"
unset MAKELEVEL MAKEFLAGS MFLAGS MAKEOVERRIDES # the program's Makefile is its own

die() { echo "soak: $*"; [ ! -s "$W/userkvm.log" ] || tail -20 "$W/userkvm.log"; exit 1; }

# What the guests must find: the same program and statements on this machine's CPU.
expectations() {
	mkdir -p "$W/root/soak/expect" "$W/native"
	e=$W/root/soak/expect
	cp $G/prog/* "$W/native/" && make -s -C "$W/native" || die "the program does not compile here"
	for s in $(seq $SEEDS); do
		"$W/native/soak" "$s" >"$e/prog.$s" || die "the program fails here"
		rm -f "$W/db"
		{ echo "CREATE TEMP TABLE p AS SELECT $s AS seed;"; cat $G/db.sql; } | sqlite3 "$W/db" >"$e/db.$s" || die "sqlite3 fails here"
	done
	debugfs -R "dump /usr/lib/gcc/x86_64-linux-gnu/12/cc1 $W/cc1" $A/debian.img 2>/dev/null
	[ -s "$W/cc1" ] || die "no compiler in $A/debian.img"
	sha256sum <"$W/cc1" >"$e/cc1"
	# The same compiler here as there: it must make the same object files.
	if cmp -s "$W/cc1" "$(gcc -print-prog-name=cc1)"; then
		(cd "$W/native" && sha256sum ./*.o) >"$e/objects"
	else
		echo "soak: this machine's compiler is not the guests': their first round says what it makes"
	fi
}

initrd() {
	r=$W/root
	mkdir -p "$r/bin" "$r/dev" "$r/proc" "$r/mnt" "$r/modules"
	cp "$(command -v busybox)" "$r/bin/busybox" || die "no busybox"
	cp $G/init.sh "$r/init" && chmod 755 "$r/init"
	cp -r $G/rounds.sh $G/db.sql $G/prog "$r/soak/"
	[ "$time" != 0 ] || cp "$W"/native/digest.o "$W"/native/numbers.o "$W"/native/pack.o "$W"/native/float.o "$r/soak/prog/"
	for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
		find $A/cloud/lib/modules -name "$m.ko" -exec cp {} "$r/modules/" \;
	done
	(cd "$r" && find . | cpio -o -H newc --quiet) | gzip -1 >"$W/initrd.gz"
}

start() { # VCPUS: its process id is in $pid
	cp --sparse=always $A/debian.img "$W/$1.img" || die "cannot copy the image"
	: >"$W/$1.log"
	date +%s >"$W/$1.start"
	"$B/userkvm" run qemu-system-x86_64 -nodefaults -no-reboot -display none -M q35,accel=kvm -cpu host -m 640 -smp "$1" \
		-kernel $A/cloud/vmlinuz -initrd "$W/initrd.gz" -append "console=ttyS0 panic=-1 oops=panic quiet userkvm.time=$time userkvm.seeds=$SEEDS" \
		-drive "file=$W/$1.img,format=raw,if=virtio" -serial "file:$W/$1.log" -monitor "unix:$W/$1.sock,server,nowait" </dev/null >"$W/$1.err" 2>&1 &
	pid=$!
}

# Where a guest that says nothing is, and what its threads do: $1 vCPUs, process $2.
where() {
	tail -20 "$W/$1.log"
	for _ in 1 2; do
		(cd "/proc/$2/task" && for t in *; do awk '{ printf "%s %s: %s, user %s, system %s\n", $1, $2, $3, $14, $15 }' "$t/stat"; done)
		printf 'info registers -a\n' | socat -t 5 - "UNIX-CONNECT:$W/$1.sock" 2>&1 | grep -aE 'CPU#|RIP|RSP|CR[0-9]' | tr -d '\r'
		sleep 1
	done
}

# Of the guest with $1 vCPUs, whose VMM has ended: does everything say that all was well?
judge() {
	if ! grep -aq '^SOAK PASSED' "$W/$1.log"; then
		tail -50 "$W/$1.log"
		tail -3 "$W/$1.err"
		echo "soak: $1 vCPU: $(grep -a -m1 '^SOAK FAILED' "$W/$1.log" || echo "the VMM ended")"
		return 1
	fi
	grep -aq 'userkvm-soak: unmounted' "$W/$1.log" || { echo "soak: $1 vCPU: not unmounted"; return 1; }
	# Its clock against this machine's; the firmware and the last second are not in it.
	up=$(sed -n 's/.* up \([0-9]*\)[.0-9]*: ok.*/\1/p' "$W/$1.log" | tail -1)
	off=$(($(stat -c %Y "$W/$1.log") - $(cat "$W/$1.start") - up))
	[ $off -ge -2 ] && [ $off -le $((60 + up / 100)) ] || { echo "soak: $1 vCPU: up for $up s, $off less than here"; return 1; }
	e2fsck -fn "$W/$1.img" >"$W/$1.fsck" 2>&1 || { tail -5 "$W/$1.fsck"; echo "soak: $1 vCPU: e2fsck"; return 1; }
	echo "soak: $1 vCPU: $(grep -a '^SOAK PASSED' "$W/$1.log" | tr -d '\r')"
	rm -f "$W/$1.img"
}

tools/assets.sh cloud && tools/rootfs.sh || exit 1
rm -rf "$W"
expectations
initrd
running='' bad=0
trap 'for j in $running; do kill -KILL "${j#*:}" 2>/dev/null; done' EXIT
trap 'exit 1' INT TERM
for n in "$@"; do
	start "$n"
	running="$running $n:$pid"
	echo 0 >"$W/$n.shown"
done
while [ -n "$running" ]; do
	sleep 1
	left=
	for j in $running; do
		n=${j%:*} p=${j#*:}
		ended=1
		kill -0 "$p" 2>/dev/null && ended=
		# New lines of the console, those of the soak.
		lines=$(wc -l <"$W/$n.log") shown=$(cat "$W/$n.shown")
		[ "$lines" -le "$shown" ] || sed -n "$((shown + 1)),${lines}p" "$W/$n.log" | tr -d '\r' | sed -n "s/^userkvm-soak/$(date +%T) $n vCPU/p"
		echo "$lines" >"$W/$n.shown"
		if [ -n "$ended" ]; then
			judge "$n" || bad=1
		elif [ $(($(date +%s) - $(stat -c %Y "$W/$n.log"))) -gt "$SILENCE" ]; then
			where "$n" "$p"
			kill -KILL "$p"
			echo "soak: $n vCPU: silent for $SILENCE seconds"
			bad=1
		else
			left="$left $j"
		fi
	done
	running=$left
done
[ ! -s "$W/userkvm.log" ] || die "userkvm reported"
exit $bad
