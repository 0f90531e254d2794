# SPDX-License-Identifier: LGPL-2.1-or-later
# The table of make bench B=api from the lines of bench/api: name, mode, median, p99, unit, and the bars of the last
# two, separated by tabs. Files: -v kvm=FILE the machine's own KVM's lines, then userkvm's. -v md=1: for the README.
BEGIN {
	FS = "\t"
	while (kvm != "" && (getline line < kvm) > 0) {
		split(line, f, "\t")
		other[f[1], f[2]] = f[3]
		other99[f[1], f[2]] = f[4]
	}
}

# A figure with its unit: three significant digits at most.
function show(x, unit) {
	if (x == "")
		return ""
	if (unit == "ns") {
		unit = "ns"
		if (x >= 1e6) {
			x /= 1e6
			unit = "ms"
		} else if (x >= 1e3) {
			x /= 1e3
			unit = "us"
		}
	}
	return sprintf(x >= 100 ? "%.0f %s" : x >= 10 ? "%.1f %s" : "%.2f %s", x, unit)
}

function pair(m, p, unit) { return m == "" ? "" : p > 0 ? show(m, unit) " / " show(p, unit) : show(m, unit) }

function bar(m, p, unit) {
	return (m > 0 ? show(m, unit) : "") (p > 0 ? (m > 0 ? ", " : "") "p99 " show(p, unit) : "")
}

function verdict() {
	if ($6 == 0 && $7 == 0)
		return ""
	return ($6 > 0 && $3 > $6) || ($7 > 0 && $4 > $7) ? "MISS" : "ok"
}

!(($1, $2) in mine) {
	if (!($1 in seen)) {
		seen[$1] = 1
		order[++n] = $1
	}
	mine[$1, $2] = pair($3, $4, $5)
	theirs[$1, $2] = pair(other[$1, $2], other99[$1, $2], $5)
	want[$1, $2] = bar($6, $7, $5)
	got[$1, $2] = verdict()
	if (got[$1, $2] == "MISS")
		missed++
}

function text(    i, k) {
	fmt = "%-42s %-7s %-20s %-20s %-20s %s\n"
	printf fmt, "median / p99", "busy", "userkvm", "/dev/kvm", "bar", ""
	for (i = 1; i <= n; i++)
		for (k = 1; k <= 3; k++)
			if ((order[i], m[k]) in mine)
				printf fmt, order[i], m[k], mine[order[i], m[k]], theirs[order[i], m[k]],
					want[order[i], m[k]], got[order[i], m[k]]
	printf "%d of the bars missed\n", missed
}

function markdown(    i, k, o) {
	print "| operation (median / p99) | idle | 1 vCPU runs | 8 vCPUs run | /dev/kvm idle | /dev/kvm, 1 vCPU runs |"
	print "|---|---|---|---|---|---|"
	for (i = 1; i <= n; i++) {
		o = order[i]
		printf "| %s |", o
		for (k = 1; k <= 3; k++)
			printf " %s |", mine[o, m[k]] (got[o, m[k]] == "MISS" ? " (bar " want[o, m[k]] ")" : "")
		printf " %s | %s |\n", theirs[o, m[1]], theirs[o, m[2]]
	}
}

END {
	m[1] = "idle"
	m[2] = "1 vCPU"
	m[3] = "8 vCPUs"
	if (md)
		markdown()
	else
		text()
}
