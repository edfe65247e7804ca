#!/bin/sh
# Runs in mount and pid namespaces of its own: whatever ends it takes its mounts and processes along.
# usage: build-image.sh WORK SUITE MIRROR COMPONENTS PACKAGES [ROOTFS]
# WORK/tree is made by debootstrap, WORK/files laid over it, WORK/commands run in it; ROOTFS, if given, is the squashfs to write.
set -eu
work=$1 suite=$2 mirror=$3 components=$4 packages=$5 rootfs=${6-}
tree=$work/tree

debootstrap --variant=minbase --components="$components" ${packages:+--include="$packages"} "$suite" "$tree" "$mirror"
(umask 0 && cp -R "$work/files/." "$tree/")

printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
mount -t proc proc "$tree/proc"
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root \
    chroot "$tree" /bin/sh -eux <"$work/commands"
umount "$tree/proc"
rm "$tree/usr/sbin/policy-rc.d"

# What belongs to one machine or to the build: the next start makes it anew.
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/cache/apt/*.bin "$tree"/var/lib/apt/lists/* "$tree"/etc/ssh/ssh_host_* \
    "$tree"/var/log/*.log "$tree"/var/log/apt/* "$tree"/root/.bash_history "$tree"/var/lib/dbus/machine-id "$tree"/dev/* "$tree"/tmp/*
rm -f "$tree/etc/hostname" "$tree/etc/resolv.conf"
: >"$tree/etc/machine-id"

if [ -n "$rootfs" ]; then
    echo 'I: Writing the root file system'
    mksquashfs "$tree" "$rootfs" -comp zstd -Xcompression-level 3 -noappend -no-progress -quiet
fi
