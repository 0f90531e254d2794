#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Makes build/assets/debian.img: Debian with a compiler and the sqlite3 shell, by debootstrap from the mirror that apt
# uses, as an ext4 image. Any user may: fakechroot and fakeroot stand in for root. Takes 40 s on a quiet machine, once.
#	tools/rootfs.sh		(needs what tools/deps.sh soak installs; ends with 77 if the mirror is not reachable)
set -eu
cd "$(dirname "$0")/.."
A=build/assets
SUITE=bookworm
sum=$(sha256sum <tools/rootfs.sh) # a clone's files are all new
[ -e $A/debian.img ] && [ "$sum" = "$(cat $A/debian.made 2>/dev/null)" ] && exit 0

die() { echo "rootfs: $*" >&2; exit "${rc:-1}"; }

mkdir -p $A
mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | awk -v s=$SUITE '$1 == s {print $2; exit}')
mirror=${mirror:-http://deb.debian.org/debian} mirror=${mirror%/}
W=$(mktemp -d "$(cd $A && pwd -P)/rootfs.XXXXXX") # fakechroot wants the real path
trap 'rm -rf "$W"' EXIT
R=$W/root
/usr/lib/apt/apt-helper download-file "$mirror/dists/$SUITE/InRelease" "$W/InRelease" >"$W/log" 2>&1 || rc=77 die "$mirror is not reachable"
fakechroot fakeroot -s "$W/owners" debootstrap --variant=minbase --include=gcc,libc6-dev,make,sqlite3 $SUITE "$R" "$mirror" \
	>"$W/log" 2>&1 || { tail -3 "$W/log" >&2; die "debootstrap of $SUITE from $mirror failed"; }
# Absolute links that were made under fakechroot point to where the root was then.
find "$R" -type l -lname "$R/*" -printf '%p\n%l\n' | while IFS= read -r link && IFS= read -r to; do
	ln -sfn "${to#"$R"}" "$link"
done
(cd "$R" && rm -rf usr/share/doc usr/share/locale usr/share/man usr/share/info var/cache/apt var/lib/apt/lists dev/* proc/* sys/*)
truncate -s 640M "$W/img"
fakeroot -i "$W/owners" mke2fs -q -t ext4 -L debian -d "$R" "$W/img" >"$W/log" 2>&1 || { tail -3 "$W/log" >&2; die mke2fs; }
mv "$W/img" $A/debian.img
echo "$sum" >$A/debian.made
