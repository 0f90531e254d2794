#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs tests and counts. tools/check.sh VARIANT-FOLDER TEST...   (TEST = room/name, as `make check T=` takes it)
# A cmocka program counts case by case; a script counts as one: exit 0 passed, 77 skipped, else failed.
# Every program's output is kept in VARIANT/log/room/name.log; failures are shown. Programs that execute guest code in
# earnest run on every tier of the engine, unless USERKVM_ENGINE names one.
set -u
B=$1
shift
passed=0 failed=0 skipped=0 bad=
count() { grep -c "$1" "$2" || true; }

# The tiers that a program runs on; none: whatever is the library's own choice.
tiers() {
	[ -n "${USERKVM_ENGINE:-}" ] && return
	case $1 in guest/* | engine/integer | engine/diff) echo interp jit:0 ;; esac
}

# One program on one tier ("": no matter which).
one() {
	t=$1 name=$1${2:+ ($2)} log=$B/log/$1${2:+-${2%:*}}.log
	export USERKVM_ENGINE="${2:-${USERKVM_ENGINE:-}}"
	mkdir -p "$(dirname "$log")"
	start=$(date +%s%N)
	limit=${TEST_TIMEOUT:-240}
	if [ -x "test/$t.sh" ]; then
		USERKVM_BUILD=$B timeout -k 5 "${TEST_TIMEOUT:-900}" "test/$t.sh" >"$log" 2>&1 </dev/null
		rc=$?
		ok=0 ko=0 sk=0
		case $rc in 0) ok=1 ;; 77) sk=1 ;; *) ko=1 ;; esac
	else
		case $t in
		api/* | guest/*) set -- "$B/userkvm" run "$B/test/$t" ;;
		*) set -- "$B/test/$t" ;;
		esac
		# A lock-order or invariant report of the library fails the test, unless a unit test provoked it and
		# took it for itself (lockdep_on_report, base_bug_expect). The orders seen go to VARIANT/edges.
		reports=$log.reports
		rm -f "$reports"
		export USERKVM_LOG="error:$PWD/$reports"
		[ "$t" != base/util ] || unset USERKVM_LOG # tests where a log goes
		case $t in base/lockdep | lockorder/*) unset USERKVM_LOCK_EDGES ;; *) export USERKVM_LOCK_EDGES="$PWD/$B/edges" ;; esac
		# The test devices; programs that know nothing of VFIO do not notice them.
		case $t in api/* | guest/*) export USERKVM_VFIO=test ;; *) unset USERKVM_VFIO ;; esac
		timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null
		rc=$?
		# Other errors are none of the library's in a unit test.
		case $t in api/* | guest/*) ;; *) [ -f "$reports" ] && sed -i '/: \(lockdep\|bug\): /!d' "$reports" ;; esac
		if [ -s "$reports" ]; then
			cat "$reports" >>"$log"
			rc=1
		fi
		ok=$(count '\[       OK \]' "$log")
		sk=$(grep '^\[  SKIPPED \] [a-z]' "$log" | sort -u | wc -l) # cmocka names each twice
		ko=$(count '^\[  FAILED  \] [a-z].*' "$log")
		ko=$((ko > 0 ? 1 : 0))
		# A crash, a time-out, or no case at all is a failure however far it got.
		if [ $rc -ne 0 ] && [ $ko -eq 0 ]; then ko=1; fi
		if [ $ok -eq 0 ] && [ $sk -eq 0 ] && [ $ko -eq 0 ]; then ko=1; fi
	fi
	ms=$((($(date +%s%N) - start) / 1000000))
	passed=$((passed + ok)) failed=$((failed + ko)) skipped=$((skipped + sk))
	if [ $ko -gt 0 ]; then
		bad="$bad $name"
		echo "FAIL $name ($ms ms, exit $rc)"
		tail -25 "$log" | sed 's/^/     | /'
	elif [ "$ok" -eq 0 ]; then
		echo "skip $name ($ms ms): $(tail -1 "$log")"
	else
		echo "ok   $name ($ms ms, $ok passed$([ "$sk" -gt 0 ] && echo ", $sk skipped"))"
	fi
}

for t in "$@"; do
	list=$(tiers "$t")
	[ -n "$list" ] || one "$t" ""
	for tier in $list; do
		one "$t" "$tier"
		unset USERKVM_ENGINE
	done
done
[ -n "$bad" ] && echo "failed:$bad"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
