#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The kernel's own KVM selftests on userkvm.
#	tools/selftests.sh VARIANT-FOLDER [PROGRAM...]     (PROGRAM as in `make selftests T=dirty_log_test`)
#	tools/selftests.sh VARIANT-FOLDER short            the quick ones, for `make check`: none of them may skip
# Unpacks and builds tools/testing/selftests/kvm of Debian's linux-source-6.1 into build/selftests, unmodified; runs each
# program under VARIANT/userkvm, two at a time. The whole suite on the plain build writes doc/selftests.md.
# Fails if a program fails, or skips without being in the list below.
set -u
here=$PWD S=$PWD/build/selftests
K=$S/linux/tools/testing/selftests/kvm
tarball=/usr/src/linux-source-6.1.tar.xz

unpack() {
	local top=linux-source-6.1 t
	[ "$S/unpacked" -nt $tarball ] && return
	rm -rf "$S/linux" && mkdir -p "$S/linux"
	t=$top/tools
	tar xf $tarball -C "$S/linux" --strip-components=1 $top/{Makefile,Kbuild,Kconfig,include,scripts,usr,arch/x86} \
		$t/{build,include,scripts,arch/x86,lib/rbtree.c} $t/testing/selftests/{kvm,rseq,lib.mk,kselftest.h,kselftest_harness.h} &&
		make -s -C "$S/linux" headers_install && touch "$S/unpacked"
}

# The suite's Makefile and Linux's must not know that a make is around them: lib.mk would build into /.
unset MAKELEVEL MAKEFLAGS MFLAGS MAKEOVERRIDES O T SAN

# ASSERT_EQ: the name that two programs use before the suite has it. stddef.h: __DECLARE_FLEX_ARRAY, newer than Debian's.
build() {
	make -s -k -j2 -C "$K" EXTRA_CFLAGS="-DTEST_ASSERT_EQ=ASSERT_EQ -include $S/linux/usr/include/linux/stddef.h" \
		>"$S/build.log" 2>&1 || { tail -5 "$S/build.log"; return 1; }
}

# The suite's own list, with the arguments of each run: those without, then those of MODES.
programs() {
	sed -n 's/^TEST_GEN_PROGS\(_EXTENDED\)\{0,1\}_x86_64 +\{0,1\}= //p' "$K/Makefile"
}
modes() {
	cat <<-'END'
	access_tracking_perf_test|-v 2
	demand_paging_test|-v 2 -b 64M
	demand_paging_test|-u MISSING
	demand_paging_test|-u MISSING -v 2 -b 64M
	demand_paging_test|-u MINOR -s shmem
	demand_paging_test|-u MINOR -s shmem -v 2 -b 64M
	dirty_log_test|-M dirty-log
	dirty_log_test|-M clear-log
	dirty_log_test|-M dirty-ring
	dirty_log_perf_test|-v 2 -b 64M
	dirty_log_perf_test|-v 2 -b 64M -g
	kvm_page_table_test|-v 2 -b 64M
	kvm_page_table_test|-s shmem
	memslot_modification_stress_test|-v 2 -b 64M
	x86_64/nx_huge_pages_test|-t 887563923 -p 100 -r
	END
}
# What `make check` runs: less than two seconds each.
short() {
	cat <<-'END'
	demand_paging_test|-u MINOR -s shmem -v 2 -b 64M
	demand_paging_test|-u MISSING -v 2 -b 64M
	dirty_log_test|-M clear-log -i 4 -I 50
	dirty_log_test|-M dirty-log -i 4 -I 50
	kvm_binary_stats_test|
	memslot_modification_stress_test|-v 2 -b 64M
	steal_time|
	x86_64/cpuid_test|
	x86_64/debug_regs|
	x86_64/fix_hypercall_test|
	x86_64/hyperv_clock|
	x86_64/hyperv_features|
	x86_64/kvm_pv_test|
	x86_64/pmu_event_filter_test|
	x86_64/smm_test|
	x86_64/state_test|
	x86_64/sync_regs_test|
	x86_64/userspace_io_test|
	x86_64/userspace_msr_exit_test|
	x86_64/xapic_ipi_test|-s 1
	x86_64/xapic_state_test|
	x86_64/xen_vmcall_test|
	END
}
# What may skip, and why it is right that it does.
may_skip() {
	case $1 in
	*/evmcs_test | */nested_exceptions_test | */vmx_apic_access_test | */vmx_close_while_nested_test | */vmx_dirty_log_test | \
		*/vmx_invalid_nested_guest_state | */vmx_msrs_test | */vmx_nested_tsc_scaling_test | */vmx_preemption_timer_test | \
		*/vmx_set_nested_state_test | */vmx_tsc_adjust_test | */triple_fault_event_test | */hyperv_svm_test | */svm_*)
		echo "no nested virtualization" ;;
	*/sev_migrate_tests) echo "no SEV" ;;
	*/emulator_error_test) echo "allow_smaller_maxphyaddr is N, as on any KVM with EPT" ;;
	*/amx_test) echo "no AMX tile state in the guest" ;;
	access_tracking_perf_test) echo "the machine has no page_idle" ;;
	*/nx_huge_pages_test) echo "guest memory is handed out by 4 KiB, so no huge page is ever mapped, split or put together again" ;;
	*/mmio_warning_test | */vmx_exception_with_invalid_guest_state) echo "unrestricted guest" ;;
	*) return 1 ;;
	esac
}
# Seconds; touching tens of millions of pages takes an interpreter long.
limit() {
	case $1 in
	max_guest_memory_test) echo 1200 ;;
	memslot_perf_test | kvm_page_table_test | rseq_test | hardware_disable_test | demand_paging_test* | dirty_log_perf_test*) echo 600 ;;
	*) echo 300 ;;
	esac
}

# run_one NUMBER PROGRAM ARGUMENTS: one line "state|program|arguments|seconds|reason" into results/NUMBER.
run_one() {
	local n=$1 p=$2 args=$3 log=$R/$1.log start rc state why
	local lim=$(($(limit "$p") * (${SLOW:-1})))
	start=$(date +%s%N)
	rm -f "$R/$n.reports"
	cd "$K" || exit 1
	ulimit -Sn 1024
	# shellcheck disable=SC2086
	LSAN_OPTIONS=exitcode=0 USERKVM_LOG=error:$R/$n.reports timeout -k 5 $lim "$here/$B/userkvm" run "./$p" $args >"$log" 2>&1 </dev/null
	rc=$?
	why=
	case $rc in
	0) state=pass; why=$(grep -m1 -iE '# SKIP|, skipping' "$log" | sed 's/^1\.\.0 # SKIP[ -]*/part skipped: /') ;;
	4) why=$(grep -m1 -i skip "$log" | sed 's/^.*# SKIP[ -]*//; s/^Requirement not met: //')
		if may_skip "$p" >/dev/null; then state=skip; why="$(may_skip "$p"): $why"; else state=SKIP; fi ;;
	124 | 137) state=FAIL; why="not done after $lim s" ;;
	*) state=FAIL; why="exit $rc: $(grep -v '^ *[0-9]*$' "$log" | grep -A1 -m1 -E 'Test Assertion|error' | tr '\n' ' ')" ;;
	esac
	# Some programs leak (malloc in main); a leak is ours if one of our functions allocated.
	if sed -n '/ERROR: LeakSanitizer/,$p' "$log" | grep -qE ' src/[a-z]+/|libuserkvm'; then
		state=FAIL why="the library leaks: $(grep -m1 -E ' in [a-z_]+ src/' "$log")"
	fi
	if [ -s "$R/$n.reports" ]; then
		cat "$R/$n.reports" >>"$log"
		state=FAIL why="the library reports: $(head -1 "$R/$n.reports")"
	fi
	why=$(echo "$why" | tr '|' '/' | tr -s ' \t' ' ' | cut -c1-150)
	printf '%s|%s|%s|%s.%01d|%s\n' $state "$p" "$args" $((($(date +%s%N) - start) / 1000000000)) \
		$((($(date +%s%N) - start) / 100000000 % 10)) "$why" | tee "$R/$n" | tr '|' ' '
}

table() {
	cat <<-END
	# The kernel's KVM selftests

	Generated by \`make selftests\`, which builds the suite of Linux 6.1 (\`tools/testing/selftests/kvm\`) from Debian's
	\`linux-source-6.1\` and runs it, unmodified, under \`build/userkvm run\`, two programs at a time, with 1,024 file descriptors.
	Times are seconds on $(nproc) shared cores.

	Without arguments: $(count '^pass|[^|]*||') pass, $(count '^FAIL|[^|]*||') fail, $(count '^[sS][kK][iI][pP]|[^|]*||') skip
	($(count '^SKIP|[^|]*||') of them should not). With their modes: $(count '^pass|') pass, $(count '^FAIL|') fail, $(count '^[sS][kK][iI][pP]|') skip.

	| program | arguments | result | seconds | |
	|---|---|---|---|---|
	END
	awk -F'|' '{ gsub(/[<>]/, "", $5); printf "| %s | %s | %s | %s | %s |\n", $2, $3 ? "`" $3 "`" : "", $1, $4, $5 }' "$R/all"
}
count() { grep -c -- "$1" "$R/all"; }

B=$1
shift
case $B in */thread | */address) SLOW=4 ;; esac
R=$here/$B/log/selftests
export SLOW B S K R here
export -f run_one limit may_skip
[ -f $tarball ] || { echo "selftests: no $tarball" >&2; exit 1; }
mkdir -p "$S"
unpack && build || exit 1
rm -rf "$R" && mkdir -p "$R"
# hardware_disable_test last: it loads the machine with hundreds of threads, and some of the others measure time.
{ programs | sed 's/$/|/'; modes; } | sed 's/^hardware_disable_test/~&/' | sort -t'|' -k1,1 -k2,2 | sed 's/^~//' >"$R/list"
if [ "${1:-}" = short ]; then
	short >"$R/list"
elif [ $# -gt 0 ]; then
	for t in "$@"; do grep -E "^(x86_64/)?$t\|" "$R/list"; done >"$R/list.part"
	mv "$R/list.part" "$R/list"
fi
[ -s "$R/list" ] || { echo "selftests: no such program" >&2; exit 1; }
start=$(date +%s)
awk -F'|' '{ printf "%03d%c%s%c%s%c", NR, 0, $1, 0, $2, 0 }' "$R/list" | xargs -0 -n3 -P2 bash -c 'run_one "$@"' -
sort -t'|' -k2,2 -k3,3 "$R"/[0-9][0-9][0-9] >"$R/all"
if [ $# -eq 0 ] && [ "$B" = build ]; then
	{ table; echo; echo "The whole took $((($(date +%s) - start) / 60)) minutes."; } >doc/selftests.md
fi
echo "$(count '^pass|') passed, $(count '^FAIL|') failed, $(count '^skip|') skipped, $(count '^SKIP|') skipped that should not"
! grep -E '^(FAIL|SKIP)\|' "$R/all"
