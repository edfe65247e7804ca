#!/bin/sh
# Process 1 of a lab's place. Makes the mount namespace fit for a container server, says "ready", then only reaps orphans.
# usage: inside.sh TREE HIERARCHY...   TREE: root file system to change to, or "" for the machine's own; HIERARCHY: fstype:options:path
set -eu
tree=$1
shift

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
