#!/bin/sh
# Runs in mount and pid namespaces of its own: whatever ends it takes its mounts and processes along.
# usage: build-image.sh WORK OS SUITE MIRROR COMPONENTS PACKAGES [ROOTFS]
# WORK/tree is made by debootstrap and apt-get, WORK/files laid over it, WORK/commands run in it; ROOTFS, if given, is the
# squashfs to write. COMPONENTS and PACKAGES are lists with spaces.
set -eu
work=$1 os=$2 suite=$3 mirror=$4 components=$5 packages=$6 rootfs=${7-}
tree=$work/tree
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8

inside() {
    env -i PATH="$PATH" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root \
        ${http_proxy:+http_proxy="$http_proxy"} chroot "$tree" "$@"
}

# A suite younger than the debootstrap here is made as the last one it knew.
script=
if ! [ -e "/usr/share/debootstrap/scripts/$suite" ]; then
    case $os in
    Ubuntu) script=gutsy ;;
    *) script=sid ;;
    esac
fi
# A tree of minutes needs no fsync for each file: what is half done is thrown away.
mkdir -p "$tree/etc/dpkg/dpkg.cfg.d"
echo force-unsafe-io >"$tree/etc/dpkg/dpkg.cfg.d/unsafe-io"
# Without --force-check-gpg a missing keyring is a mere warning, and the mirror could put in what it likes.
debootstrap --force-check-gpg --variant=minbase --components="$(echo "$components" | tr ' ' ,)" "$suite" "$tree" "$mirror" $script
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
mount -t proc proc "$tree/proc"
cat /etc/resolv.conf >"$tree/etc/resolv.conf"
# debootstrap installs in an order of its own making, which fails for larger sets; apt-get knows the right one.
echo "deb $mirror $suite $components" >"$tree/etc/apt/sources.list"
inside apt-get update
# shellcheck disable=SC2086 # a list of words that the recipe's schema lets through
inside apt-get install --yes --no-install-recommends -o Dpkg::Use-Pty=0 $packages
# A symbolic link in the tree may name a path of this machine: it is replaced, not followed.
(umask 0 && cp -R --remove-destination "$work/files/." "$tree/")
inside /bin/sh -eux <"$work/commands"
umount "$tree/proc"

# What belongs to one machine or to the build: the next start makes it anew.
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/cache/apt/*.bin "$tree"/var/lib/apt/lists/* "$tree"/etc/ssh/ssh_host_* \
    "$tree"/var/log/*.log "$tree"/var/log/apt/* "$tree"/root/.bash_history "$tree"/var/lib/dbus/machine-id "$tree"/dev/* "$tree"/tmp/*
rm -f "$tree/etc/dpkg/dpkg.cfg.d/unsafe-io" "$tree/usr/sbin/policy-rc.d" "$tree/etc/hostname" "$tree/etc/resolv.conf"
: >"$tree/etc/machine-id"

if [ -n "$rootfs" ]; then
    echo 'I: Writing the root file system'
    mksquashfs "$tree" "$rootfs" -comp zstd -Xcompression-level 3 -noappend -no-progress -quiet
fi
