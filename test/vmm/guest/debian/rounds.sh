#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Inside the Debian guest of tools/soak.sh. A round: compile the program of prog/ with make -j, beside it the database
# test and several writers on one database; run the program; read the compiler's file from the disk again; compare all
# with what the host found (/soak/expect); look at the kernel's log. Rounds until userkvm.time seconds have passed.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
S=/soak E=/soak/expect W=/root/work
option() { sed -n "s/.*userkvm\.$1=\([0-9]*\).*/\1/p" /proc/cmdline; }
now() { cut -d' ' -f1 /proc/uptime; }
took() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
time=$(option time) seeds=$(option seeds)
faults='BUG|Oops|WARNING|segfault|general protection|invalid opcode|traps:|lockup|stall|unstable|Call Trace|blocked for more'
faults="$faults|I/O error|EXT4-fs error|EXT4-fs warning|mce:.*[Ee]rror|Out of memory|corrupt|unhandled"

quit() {
	printf '\nuserkvm-soak: round %d: %s\n' $round "$1"
	dmesg | tail -20
	[ -z "${2:-}" ] || head -20 "$2"
	echo "SOAK FAILED round $round: $1"
	exit 1
}
same() { cmp -s "$2" "$3" || { diff "$2" "$3" >$W/diff; quit "$1 differs" $W/diff; }; }

compile() {
	t=$(now)
	rm -rf $W/prog $W/made
	cp -r $S/prog $W/prog
	touch -c $W/prog/*.o # what the host brought along
	# A dot for each command, that the host sees us work.
	{ make -C $W/prog -j"$(nproc)" 2>&1 && touch $W/made; } | tee $W/make.log | while read -r _; do printf .; done
	[ -e $W/made ] || quit "the compiler fails" $W/make.log
	printf ' compile %s' "$(took "$t")"
	(cd $W/prog && sha256sum ./*.o) >$W/objects
	# The host's, when it has the same compiler; else those of the first round.
	[ -e $E/objects ] || cp $W/objects $E/objects
	same "what the compiler made" $E/objects $W/objects
}

database() {
	rm -f $W/db*
	t=$(now)
	{ echo "CREATE TEMP TABLE p AS SELECT $seed AS seed;"; cat $S/db.sql; } | sqlite3 $W/db >$W/db.out 2>&1
	took "$t" >$W/db.took
}

# Three processes on one database, 60 transactions each; nothing may be lost.
writers() {
	rm -f $W/shared*
	sqlite3 $W/shared 'PRAGMA journal_mode=WAL; CREATE TABLE c(n INT); INSERT INTO c VALUES (0); CREATE TABLE l(w INT, i INT)' >$W/shared.out
	for w in 1 2 3; do
		awk -v w=$w 'BEGIN { print ".timeout 120000"; print "PRAGMA synchronous=NORMAL;"
			for (i = 1; i <= 60; i++)
				printf "BEGIN IMMEDIATE; UPDATE c SET n=n+%d; INSERT INTO l VALUES (%d, %d); COMMIT;\n", w, w, i }' |
			sqlite3 -bail $W/shared >>$W/shared.out 2>&1 &
	done
	wait
	sqlite3 $W/shared 'SELECT n, (SELECT count(*) || " " || sum(i) FROM l) FROM c; PRAGMA integrity_check' >>$W/shared.out 2>&1
}

one_round() {
	begin=$(now)
	seed=$(((round - 1) % seeds + 1))
	printf 'userkvm-soak: round %d: seed %d ' $round $seed
	database &
	db=$!
	writers &
	wr=$!
	compile
	t=$(now)
	$W/prog/soak "$seed" >$W/prog.out 2>&1 || quit "the program fails with $?" $W/prog.out
	printf ', program %s' "$(took "$t")"
	same "what the program prints" $E/prog.$seed $W/prog.out
	wait $db
	printf ', database %s' "$(cat $W/db.took)"
	same "what the database says" $E/db.$seed $W/db.out
	wait $wr
	printf 'wal\n360|180 5490\nok\n' >$W/shared.want
	same "what the writers left" $W/shared.want $W/shared.out
	sync
	echo 3 >/proc/sys/vm/drop_caches
	sha256sum <"$(gcc -print-prog-name=cc1)" >$W/cc1
	same "a file read from the disk" $E/cc1 $W/cc1
	dmesg | grep -E "$faults" | grep -v 'RETBleed: WARNING: Spectre' >$W/faults && quit "the kernel complains" $W/faults
	[ "$(cat /proc/sys/kernel/tainted)" = 0 ] || quit "the kernel is tainted: $(cat /proc/sys/kernel/tainted)"
	[ "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" = "$clock" ] || quit "another clocksource"
	echo ", all $(took "$begin") s, up $(now): ok," \
		"sum $(cat $W/objects $W/prog.out $W/db.out $W/shared.out | sha256sum | cut -c1-16)"
}

round=0
mkdir -p $W
clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo "userkvm-soak: Debian $(cat /etc/debian_version), $(gcc --version | head -1), sqlite $(sqlite3 --version | cut -d' ' -f1), $(nproc) cpu, clocksource $clock, up $(now)"
end=$(awk -v t="$time" '{ printf "%d", $1 + t }' /proc/uptime)
while [ $round = 0 ] || [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ]; do
	round=$((round + 1))
	one_round
done
echo "SOAK PASSED rounds=$round"
