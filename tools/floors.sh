#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Includes go down the floors (design.md, "Rooms and floors"): fails on any that does not.
cd "$(dirname "$0")/.." || exit 2
allowed() {
	case $1 in
	base) echo "base" ;;
	mem) echo "mem base" ;;
	bus) echo "bus base" ;;
	engine) echo "engine base" ;;
	file) echo "file base" ;;
	irq) echo "irq bus base" ;;
	vcpu) echo "vcpu irq engine bus mem base" ;;
	api) echo "api file vcpu irq bus mem engine base" ;;
	vfio) echo "vfio file base" ;;
	shim) echo "shim api vfio file base" ;;
	cli) echo "cli api vfio file base" ;;
	esac
}
bad=0
for f in src/*/*.[ch]; do
	room=${f#src/} room=${room%%/*}
	for inc in $(sed -n 's/^#[[:space:]]*include "\([a-z]*\)\/\([a-z_0-9]*\.[a-z]*\)".*/\1\/\2/p' "$f"); do
		r=${inc%%/*}
		case " $(allowed "$room") " in *" $r "*) ;; *) echo "$f: room $room may not include $inc"; bad=1 ;; esac
		# Another room is entered by its front door only.
		if [ "$r" != "$room" ] && [ "$r" != base ] && [ "$inc" != "$r/$r.h" ]; then
			echo "$f: $inc is private to $r"
			bad=1
		fi
	done
done
exit $bad
