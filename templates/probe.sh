# Looks for what keeps a member out of a running container. berth runs it in the container as root; it changes nothing that lasts.
# usage: sh -c "$SCRIPT" probe USER
# One sentence on standard output for each fault.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
name=$1
file=/etc/ssh/berth_keys/$name

if ! command -v sshd >/dev/null 2>&1; then
    echo 'sshd is not installed.'
else
    mkdir -p /run/sshd
    if ! said=$(sshd -t 2>&1); then
        echo "sshd refuses its configuration: $(echo "$said" | head -n 1)"
    elif ! sshd -T -C "user=$name,host=localhost,addr=127.0.0.1" 2>/dev/null | grep -qi '^authorizedkeysfile.*/etc/ssh/berth_keys/'; then
        echo "sshd does not read berth's list of keys: AuthorizedKeysFile lacks /etc/ssh/berth_keys/%u."
    fi
fi
if [ -L "$file" ] || [ ! -f "$file" ]; then echo "$file is not a regular file: keys of berth's list do not open the container."; fi
if [ "$(id -u "$name" 2>/dev/null)" != 1000 ]; then
    echo "The user $name is missing or has not the uid 1000."
else
    home=$(getent passwd "$name" | cut -d: -f6)
    [ -d "$home/" ] || echo "The home directory $home is not a directory."
    if ! command -v sudo >/dev/null 2>&1; then
        echo 'sudo is not installed.'
    elif ! runuser -u "$name" -- sudo -n true >/dev/null 2>&1 </dev/null; then
        echo "sudo does not give $name root rights without a password."
    fi
fi
if command -v ip >/dev/null 2>&1 && ! ip -4 -o address show dev eth0 scope global 2>/dev/null | grep -q .; then
    echo 'eth0 has no address: the network is not set up inside.'
fi
exit 0
