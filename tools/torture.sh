#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# make torture TIME=seconds: the long form of every test that has one (a "torture: name" comment in its source), each
# for at most TIME seconds a race. tools/torture.sh VARIANT-FOLDER TIME [room/name...]
set -u
B=$1 time=$2
shift 2
[ $# -gt 0 ] || set -- $(grep -l 'torture: [a-z]' test/*/*.c | sed 's/^test\///; s/\(_part\)\{0,1\}\.c$//' | sort -u)
rc=0
for t in "$@"; do
	rm -f "$B/log/$t.log" "$B/log/$t"-*.log
	# A program may hold several races; none gets more than TIME, with as much again for what is around it.
	USERKVM_TORTURE=$time TEST_TIMEOUT=$((time * 20 + 240)) tools/check.sh "$B" "$t" || rc=1
	grep -h '^torture: ' "$B/log/$t.log" "$B/log/$t"-*.log 2>/dev/null
done
exit $rc
