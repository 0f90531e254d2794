#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# memtest86+ completes its first test without an error; OVMF reaches its shell.
# WORKS: memtest86+, OVMF | first test without errors; the UEFI shell
. "$(dirname "$0")/../vmm_util.sh"
# memtest86+ draws its screen on the serial line with cursor moves: look for the test number and the counters.
# shellcheck disable=SC2086
timeout -k 5 300 "$B/userkvm" run qemu-system-x86_64 -nodefaults -display none -cpu host -m 64 -M pc,accel=kvm \
	-serial "file:$W/memtest.log" -kernel /boot/memtest86+x64.bin -append "console=ttyS0,115200" \
	</dev/null >"$W/memtest.err" 2>&1 &
q=$!
# Test #0 is over when a later one is shown; the screen is sampled, so it may be #3.
wait_for "$W/memtest.log" '#[1-9]' 280 || { cat "$W/memtest.err"; tail -c 600 "$W/memtest.log"; fail "memtest86+ does not finish its first test"; }
kill $q 2>/dev/null
tr -d '\0' <"$W/memtest.log" | sed 's/\x1b\[[0-9;]*[A-Za-z]/\n/g' >"$W/memtest.txt"
grep -aiq 'failing\|unexpected\|Errors: *[1-9]' "$W/memtest.txt" && fail "memtest86+ found errors"
echo "memtest86+: first test done, no error"
# OVMF 2022.11 maps all of the physical address space with 2 MiB pages: with the 48 bits of some hosts its
# tables alone are larger than this guest, on any KVM. 40 bits is what QEMU gives other CPU models.
cp /usr/share/OVMF/OVMF_VARS_4M.fd "$W/vars.fd"
timeout -k 5 300 "$B/userkvm" run qemu-system-x86_64 -nodefaults -display none -cpu host,host-phys-bits-limit=40 -m 256 -M q35,accel=kvm \
	-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
	-drive "if=pflash,format=raw,file=$W/vars.fd" -serial "file:$W/ovmf.log" </dev/null >"$W/ovmf.err" 2>&1 &
q=$!
wait_for "$W/ovmf.log" 'Shell>' 280 || { cat "$W/ovmf.err"; tail -c 600 "$W/ovmf.log"; fail "OVMF does not reach its shell"; }
kill $q 2>/dev/null
echo "OVMF: shell reached"
no_reports
