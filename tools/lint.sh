#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# make lint: formatting, floors, sizes, generated documents up to date, static analysis.
cd "$(dirname "$0")/.." || exit 2
rc=0
files=$(git ls-files 'src/*.[ch]' 'test/*.[ch]' 'bench/*.[ch]' 'include/*.h')
# shellcheck disable=SC2086
out=$(clang-format --dry-run $files 2>&1 | grep -E 'warning:' | cut -d: -f1 | sort | uniq -c)
[ -z "$out" ] || { echo "clang-format would change:"; echo "$out"; rc=1; }
tools/floors.sh || rc=1
tools/sizes.sh || rc=1
for g in tools/gen-*; do
	[ -x "$g" ] || continue
	"$g" --check || { echo "$g: the document is not what the source says"; rc=1; }
done
# Rules can be broken on purpose in checked builds only.
if [ -f build/libuserkvm.so ] && nm build/libuserkvm.so | grep -qE 'base_mutations|lockdep'; then
	echo "build/libuserkvm.so: the release build has the lock checker's switches in it"
	rc=1
fi
# Only what changed since the last run is analysed again; _Noreturn is spelled as cppcheck knows it. A first run on
# a busy machine may not get to its end: what it has is kept.
mkdir -p build/cppcheck
timeout 300 cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 -j2 \
	--cppcheck-build-dir=build/cppcheck --suppressions-list=tools/cppcheck.txt -Isrc -Iinclude -D_GNU_SOURCE \
	-D__cppcheck__ -DUSERKVM_CHECKED '-D_Noreturn=__attribute__((noreturn))' src 2>build/cppcheck.log
case $? in
0) ;;
124) echo "cppcheck: not done after 300 s; run make lint again, it goes on from here"; rc=1 ;;
*) cat build/cppcheck.log; rc=1 ;;
esac
exit $rc
