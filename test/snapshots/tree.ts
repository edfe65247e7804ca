/** Shell scripts for root in a container: a tree with every kind of thing a container has, and a line on each of them. */

/** Extended attributes by their system calls (x86-64 or arm64): the images have neither attr nor acl nor libcap's tools. */
const XATTRS = `
my %calls = ("x86_64" => { set => 189, get => 192, list => 195 }, "aarch64" => { set => 6, get => 9, list => 12 });
chomp(my $machine = \`uname -m\`);
my $call = $calls{$machine} or die "no calls of $machine";
sub setx { my ($path, $name, $value) = @_; syscall($call->{set}, $path, $name, $value, length $value, 0) == 0 or die "$path $name: $!" }
sub listx { my ($path) = @_; my $buffer = "\\0" x 4096; my $n = syscall($call->{list}, $path, $buffer, 4096); return $n > 0 ? split /\\0/, substr($buffer, 0, $n) : () }
sub getx { my ($path, $name) = @_; my $buffer = "\\0" x 4096; my $n = syscall($call->{get}, $path, $name, $buffer, 4096); return $n < 0 ? "error" : unpack("H*", substr($buffer, 0, $n)) }
`

/** @param smallFiles how many small files beside the rest @param bigMebibytes size of a file of random bytes */
export const makeTree = (smallFiles: number, bigMebibytes: number): string => `set -e
rm -rf /tree && mkdir /tree && cd /tree
printf 'plain' >plain; cp /bin/true setuid; chmod 4755 setuid; cp /bin/true setgid; chmod 2755 setgid
mkdir sticky empty; chmod 1777 sticky; chmod 000 empty
printf 'owned' >owned; chown 1234:4321 owned; printf 'high' >high; chown 65534:65533 high
ln plain hardlink; ln -s /nowhere/at/all dangling; ln -s plain symlink; mkfifo fifo
printf 'x' >'name with
newline'; printf 'u' >'höhe-漢字-🚢'; printf 'd' >./-dash; printf 'l' >"$(printf 'l%.0s' $(seq 250))"
truncate -s 300M sparse; printf 'end' >>sparse; printf 'middle' | dd of=sparse bs=1 seek=100000000 conv=notrunc status=none
dd if=/dev/urandom of=big bs=1M count=${bigMebibytes} status=none
mkdir small; cd small
perl -e 'for my $i (1..${smallFiles}) { my $d = int($i / 1000); mkdir $d unless -d $d; open my $f, ">", "$d/$i" or die; print $f "file $i\\n" }'
cd ..
cp /bin/true capable
perl -e '${XATTRS.replaceAll("'", "'\\''")}
setx("/tree/capable", "security.capability", pack("VVVVV", 0x02000001, 1 << 10, 0, 0, 0));
setx("/tree/plain", "user.berth", "kept\\0whole");
setx("/tree/sticky", "system.posix_acl_default", pack("V(vvV)*", 2, 1, 7, 0xffffffff, 4, 5, 0xffffffff, 32, 0, 0xffffffff));
setx("/tree/owned", "system.posix_acl_access", pack("V(vvV)*", 2, 1, 6, 0xffffffff, 2, 7, 1000, 4, 4, 0xffffffff, 16, 7, 0xffffffff, 32, 4, 0xffffffff));
'
touch -d '2001-02-03 04:05:06.789012345' plain sparse empty; touch -h -d '1999-12-31 23:59:59' symlink; touch -d '2030-01-01' big
mknod device c 1 3 2>/dev/null || true
sync`

/** Every path below /tree with type, mode, owner, time, links, target; then the contents, then the extended attributes. */
export const describeTree = `set -e
cd /tree
find . -printf '%P\\t%y %m %U %G %T@ %n %l\\0' | sort -z | tr '\\n\\0' '_\\n'
find . -type f -print0 | sort -z | xargs -0 sha256sum -z | tr '\\n\\0' '_\\n'
find . -print0 | sort -z | perl -e '${XATTRS.replaceAll("'", "'\\''")}
$/ = "\\0"; while (<STDIN>) { chomp; for my $name (sort(listx($_))) { print "$_ $name ", getx($_, $name), "\\n" } }'`

/** LXD's and Incus's archives hold times to the nearest second. */
export const roundTimes = (description: string): string =>
  description.replaceAll(/\b\d{9,10}\.\d{10}\b/g, seconds => String(Math.round(Number(seconds))))
