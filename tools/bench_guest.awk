# SPDX-License-Identifier: LGPL-2.1-or-later
# Tables of `make bench B=guest`. Input, from all sides: side <TAB> line of the guest program, and
# side <TAB> BOOT seconds | WALL guest host. md=1: for the README. div: the interpreter did 1/div of the work.
BEGIN { FS = "[\t ]+"; n = split("native tcg interp jit", side, " "); label["compute"] = "compute"; label["vector"] = "SIMD/FP"; label["os"] = "OS work" }
function add(key, v) { list[key] = list[key] " " v }
function median(key,   a, k, i, j, t) {
	k = split(list[key], a, " ")
	if (!k) return 0
	for (i = 2; i <= k; i++) for (j = i; j > 1 && a[j - 1] + 0 > a[j] + 0; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
	return k % 2 ? a[(k + 1) / 2] : (a[k / 2] + a[k / 2 + 1]) / 2
}
$2 == "ROW" {
	s = $1; row = $4
	if (!(row in group)) { order[++rows] = row; group[row] = $3 }
	add(s "/" row, s == "interp" ? $5 * div : $5)
	want = s == "interp" || s == "native-div" ? "div/" row : "full/" row
	if (!(want in sum)) sum[want] = $6
	else if (sum[want] != $6) wrong = wrong " " s ":" row
	seen[s] = 1
}
$2 == "BOOT" { add($1 "/boot", $3); seen[$1] = 1 }
$2 == "WALL" {
	d = $4 ? ($3 / $4 - 1) * 100 : 0
	if (d < 0) d = -d
	if (d > worst[$1]) worst[$1] = d
	clocked[$1] = 1
}
function cell(row, s,   v, t) {
	v = median("native/" row); t = median(s "/" row)
	if (!t || !v) return "-"
	return sprintf("%.2f", t / v)
}
function geomean(g, s,   k, sumlog, c, v) {
	for (k = 1; k <= rows; k++) if ((g == "" || group[order[k]] == g) && (v = cell(order[k], s)) + 0 > 0) { sumlog += log(v); c++ }
	return c ? sprintf("%.2f", exp(sumlog / c)) : "-"
}
function out(a, b,   k, l) {
	if (md) { l = "| " a " | " b " |"; for (k = 2; k <= n; k++) if (seen[side[k]]) l = l " " c[k] " |" }
	else { l = sprintf("%-22s %10s", a, b); for (k = 2; k <= n; k++) if (seen[side[k]]) l = l sprintf(" %10s", c[k]) }
	print l
}
function over(v, w) { return v + 0 > 0 && w + 0 > 0 ? sprintf("%.2f", v / w) : "-" }
END {
	title["tcg"] = "QEMU TCG"; title["interp"] = "interp"; title["jit"] = "jit"
	for (k = 2; k <= n; k++) c[k] = title[side[k]]
	out("times native", "native s")
	if (md) { l = "|---|---:|"; for (k = 2; k <= n; k++) if (seen[side[k]]) l = l "---:|"; print l }
	for (r = 1; r <= rows; r++) {
		for (k = 2; k <= n; k++) c[k] = cell(order[r], side[k])
		out(order[r] " (" label[group[order[r]]] ")", sprintf("%.3f", median("native/" order[r])))
	}
	m = split("compute vector os", g, " ")
	for (r = 1; r <= m; r++) {
		for (k = 2; k <= n; k++) c[k] = geomean(g[r], side[k])
		out("geomean " label[g[r]], "")
	}
	for (k = 2; k <= n; k++) c[k] = geomean("", side[k])
	out("geomean of all rows", "")
	t = geomean("", "tcg")
	for (k = 2; k <= n; k++) c[k] = over(t, geomean("", side[k]))
	if (seen["tcg"]) out("times as fast as TCG", "")
	for (k = 2; k <= n; k++) c[k] = (v = median(side[k] "/boot")) ? sprintf("%.2f s", v) : "-"
	out("boot to init", "")
	for (k = 2; k <= n; k++) c[k] = clocked[side[k]] ? sprintf("%.2f %%", worst[side[k]]) : "-"
	out("guest clock off by", "")
	for (k = 2; k <= n; k++) if (worst[side[k]] > 2) { print "The clock of the guest under " title[side[k]] " is more than 2 % off: its rows do not count."; bad = 1 }
	if (wrong) { print "WRONG RESULTS:" wrong; bad = 1 }
	exit bad
}
