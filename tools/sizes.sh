#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The size budget (house-style.md): no file over 800 lines, at most 5% of the functions over 60 lines and 1%
# over 100; an SPDX line first in every source file.
cd "$(dirname "$0")/.." || exit 2
bad=0
for f in $(git ls-files 'src/*.[ch]' 'test/*.[ch]' 'bench/*.[ch]' 'include/*.h'); do
	n=$(wc -l <"$f")
	[ "$n" -le 800 ] || { echo "$f: $n lines, more than 800"; bad=1; }
	head -1 "$f" | grep -q 'SPDX-License-Identifier: LGPL-2.1-or-later' || { echo "$f: no SPDX line"; bad=1; }
done
ctags -R --languages=C --c-kinds=f --fields=+ne -f - src 2>/dev/null | awk -F'\t' '
	{ line = 0; end = 0
	  for (i = 4; i <= NF; i++) { if ($i ~ /^line:/) line = substr($i, 6); if ($i ~ /^end:/) end = substr($i, 5) }
	  if (end) { n++; len = end - line + 1; if (len > 60) { a++; list = list "\n  " len " " $2 ":" line " " $1 } if (len > 100) b++ } }
	END { printf "%d functions, %d over 60 lines (%.1f%%), %d over 100 (%.1f%%)\n", n, a, 100*a/n, b, 100*b/n
	      if (a > 0.05*n || b > 0.01*n) { print "too many long functions:" list; exit 1 } }' || bad=1
exit $bad
