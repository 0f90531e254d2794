#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# make oracle: the tests that speak only the KVM ABI, on the machine's own /dev/kvm (cases that would stress it skip).
# A difference is a finding about one of the two. tools/oracle.sh VARIANT-FOLDER [room/name...]
set -u
B=$1
shift
[ -w /dev/kvm ] || { echo "oracle: no /dev/kvm here that we may use"; exit 77; }
[ $# -gt 0 ] || set -- $(for f in test/api/*.c test/guest/*.c; do case $f in *_part.c) ;; *) f=${f#test/}; echo "${f%.c}" ;; esac; done)
passed=0 skipped=0 bad=
for t in "$@"; do
	log=$B/log/$t-oracle.log
	mkdir -p "$(dirname "$log")"
	USERKVM_ORACLE=1 timeout -k 5 120 "$B/test/$t" >"$log" 2>&1 </dev/null
	rc=$?
	ok=$(grep -c '\[       OK \]' "$log")
	sk=$(grep '^\[  SKIPPED \] [a-z]' "$log" | sort -u | wc -l)
	passed=$((passed + ok)) skipped=$((skipped + sk))
	ko=$(grep '^\[  FAILED  \] [a-z]' "$log" | sed 's/^\[  FAILED  \] //; s/,.*//' | sort -u | tr '\n' ' ')
	if [ $rc -ne 0 ] || [ -n "$ko" ]; then
		bad="$bad $t"
		echo "differs: $t (exit $rc): $ko"
		grep -B1 -A2 'ERROR' "$log" | head -12 | sed 's/^/     | /'
	else
		echo "same:    $t ($ok passed, $sk skipped)"
	fi
done
echo "oracle: $passed passed, $skipped skipped;${bad:- nothing differs}"
[ -z "$bad" ]
