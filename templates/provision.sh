# Sets up a container at its first start. berth runs it in the container as root; safe to run again, whole or after a break.
# usage: sh -c "$SCRIPT" provision USER nat|proxy
# Lines on standard output are steps. Exit status: 0 done; 10 the image lacks something; 11 the image has such a user already;
# anything else a failure. The last line on standard error says what it was.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
name=$1 forwarding=$2

fail() {
    status=$1
    shift
    echo "$*" >&2
    exit "$status"
}
has() { command -v "$1" >/dev/null 2>&1; }
field() { getent "$1" "$2" | cut -d: -f"$3"; }

for tool in systemctl useradd usermod sshd sudo; do
    has "$tool" || fail 10 "$tool is missing in the image"
done

echo 'waiting for the system'
tries=0
until systemctl is-active --quiet sysinit.target 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail 1 'the system did not come up within 60 s'
    sleep 0.2
done
# It makes users and host keys of its own until it is through; its exit status tells of faults that are not ours.
if has cloud-init && ! [ -e /etc/cloud/cloud-init.disabled ]; then
    echo 'waiting for cloud-init'
    timeout 120 cloud-init status --wait >/dev/null 2>&1 </dev/null || :
fi

echo "making the user $name"
uid=$(field passwd "$name" 3)
[ "${uid:-1000}" = 1000 ] || fail 11 "the image has a user $name of its own"
mkdir -p /var/lib/berth
renamed=/var/lib/berth/renamed-from
if [ -z "$uid" ]; then
    [ -z "$(field group "$name" 3)" ] || [ "$(field group "$name" 3)" = 1000 ] || fail 11 "the image has a group $name of its own"
    old=$(field passwd 1000 1)
    if [ -n "$old" ]; then
        echo "$old" >"$renamed"
        usermod --login "$name" "$old"
    else
        useradd --uid 1000 --user-group --create-home --shell /bin/bash --password '*' "$name"
    fi
fi
if [ -s "$renamed" ]; then
    old=$(cat "$renamed")
    if [ -n "$(field group "$old" 3)" ] && [ -z "$(field group "$name" 3)" ]; then groupmod --new-name "$name" "$old"; fi
    if [ "$(field passwd "$name" 6)" != "/home/$name" ]; then usermod --home "/home/$name" --move-home "$name"; fi
    for file in /etc/sudoers /etc/sudoers.d/* /etc/subuid /etc/subgid; do
        [ ! -f "$file" ] || sed -i "s/^$old\\([[:space:]:]\\)/$name\\1/" "$file"
    done
    rm "$renamed"
fi
[ -d "/home/$name" ] || install -d -o "$name" -g "$(field passwd "$name" 4)" -m 755 "/home/$name"
# sshd without PAM takes a "!" in the password field for a locked account, which no key opens.
case $(field shadow "$name" 2) in '!'*) usermod --password '*' "$name" ;; esac
printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$name" >/etc/sudoers.d/.99-berth
chmod 440 /etc/sudoers.d/.99-berth
mv /etc/sudoers.d/.99-berth /etc/sudoers.d/99-berth

echo 'naming the host'
echo "$name" >/etc/hostname
hostname "$name"
grep -qs "[[:space:]]$name\$" /etc/hosts || printf '127.0.1.1\t%s\n' "$name" >>/etc/hosts

echo 'setting up sshd'
mkdir -p /run/sshd /etc/ssh/berth_keys
chmod 755 /etc/ssh/berth_keys
# A key that came with the image is every container's.
rm -f /etc/ssh/ssh_host_rsa_key* /etc/ssh/ssh_host_dsa_key* /etc/ssh/sshd_not_to_be_run
settings() {
    echo '# berth: the keys of `ssh NODE-manage keys`, beside your own ~/.ssh/authorized_keys'
    echo 'AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/berth_keys/%u'
    # All members come from one address there: one who mistypes must not lock out the others.
    if [ "$forwarding" = proxy ] && sshd -T -o PerSourcePenalties=no >/dev/null 2>&1; then echo 'PerSourcePenalties no'; fi
    echo '# berth end'
}
config=/etc/ssh/sshd_config
sed -i '/^# berth: /,/^# berth end$/d' "$config"
if grep -qi '^[[:space:]]*Include[[:space:]].*/etc/ssh/sshd_config\.d/' "$config"; then
    settings >/etc/ssh/sshd_config.d/00-berth.conf
else
    { settings && cat "$config"; } >"$config.berth"
    chmod 644 "$config.berth"
    mv "$config.berth" "$config"
fi
sshd -t || fail 1 'sshd refuses its configuration'
sshd -T -C "user=$name,host=localhost,addr=127.0.0.1" | grep -qi '^authorizedkeysfile.*berth_keys' || fail 1 "sshd does not read berth's keys"
if systemctl is-enabled --quiet ssh.socket 2>/dev/null; then
    systemctl start ssh.socket
else
    systemctl enable --quiet ssh.service
    systemctl start ssh.service
fi
# Not a reload: an sshd that systemd handed its socket to does not survive one.
systemctl try-restart ssh.service
