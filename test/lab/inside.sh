#!/bin/sh
# Process 1 of a lab's place. Makes the mount namespace fit for a container server, says "ready", then only reaps orphans.
# usage: inside.sh DIRECTORY LOWER STATE HIERARCHY...
# LOWER: root file system to change to (DIRECTORY/state then is its STATE), or "" for the machine's own. HIERARCHY: fstype:options:path
set -eu
directory=$1 lower=$2 state=$3 tree=
shift 3

if [ -n "$lower" ]; then
    tree=$directory/root
    mkdir -p "$tree" "$directory/upper" "$directory/work"
    mount -t overlay -o "lowerdir=$lower,upperdir=$directory/upper,workdir=$directory/work" overlay "$tree"
    mkdir -p "$tree$state"
    mount --bind "$directory/state" "$tree$state"
fi
# Held here, another lab's network namespace would outlive it.
umount -R -l /run/netns 2>/dev/null || :
mount -t sysfs sysfs "$tree/sys"
case "$*" in
cgroup2:*:/sys/fs/cgroup) ;;
*) mount -t tmpfs -o mode=755 tmpfs "$tree/sys/fs/cgroup" ;;
esac
for hierarchy in "$@"; do
    type=${hierarchy%%:*} rest=${hierarchy#*:}
    options=${rest%%:*} path=$tree${rest#*:}
    mkdir -p "$path"
    mount -t "$type" ${options:+-o "$options"} "$type" "$path"
    if [ "$type" = cgroup2 ]; then
        mkdir -p "$path/init.scope"
        echo 1 >"$path/init.scope/cgroup.procs"
    fi
done
# What a server keeps in /run (locks, sockets of dnsmasq, of the container monitors) goes away with this namespace.
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mkdir -p "$tree/run/lock"
echo 1 >/proc/sys/net/ipv4/ip_forward
# LXD looks up the owner of every file it archives. No systemd runs here, whom nss-systemd would ask for the ids it does not know.
sed -E 's/^(passwd|group|shadow|gshadow):.*/\1: files/' "$tree/etc/nsswitch.conf" >"$directory/nsswitch.conf"
mount --bind "$directory/nsswitch.conf" "$tree/etc/nsswitch.conf"

if [ -n "$tree" ]; then
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    cd "$tree"
    # User namespaces are refused under a plain chroot (user_namespaces(7), EPERM), so the root itself is exchanged.
    pivot_root . mnt
    umount -l /mnt
fi
echo ready
exec >/dev/null
sleep infinity &
while :; do wait; done
