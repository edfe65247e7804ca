# Replaces the member's list of keys in a running container. berth runs it in the container as root, the list on standard input.
# usage: sh -c "$SCRIPT" push-keys USER
# Nothing that is not a plain file in plain directories is written to. The last line on standard error says what was met instead.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
directory=/etc/ssh/berth_keys
file=$directory/$1

refuse() {
    echo "$*" >&2
    exit 3
}
for path in /etc /etc/ssh "$directory"; do
    [ ! -L "$path" ] || refuse "$path is a symbolic link"
    [ "$path" != "$directory" ] || [ -e "$path" ] || mkdir -m 755 "$path"
    [ -d "$path" ] || refuse "$path is not a directory"
done
[ ! -L "$file" ] || refuse "$file is a symbolic link"
[ ! -e "$file" ] || [ -f "$file" ] || refuse "$file is not a regular file"
new=$(mktemp "$directory/.new-XXXXXX")
trap 'rm -f "$new"' EXIT
cat >"$new"
chmod 644 "$new"
mv -fT "$new" "$file"
