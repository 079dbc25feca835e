#!/bin/sh
# Run a program of an ARM64 root file system as if on a machine of its own. It is the first process of new user, mount
# and PID namespaces: all that is mounted and registered here is gone with it, and every process ends with it, which is
# when the program ends or stdin does.
# Usage: enter.sh ROOT BOARD QEMU ro|rw PROGRAM...      (BOARD: a folder with home, ssh, sys, cpuinfo and cpu)
set -eu
root=$1 board=$2 qemu=$3 mode=$4
shift 4
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec 3<&0 1>&2
ulimit -c 0

# The kernel opens the emulator now (F): inside the root file system there is none. P: a program keeps its argv[0].
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
mkdir -p "$board/binfmt"
mount -t binfmt_misc binfmt_misc "$board/binfmt"
printf '%s' ":edgenas-aarch64:M::$magic:$mask:$qemu:PF" >"$board/binfmt/register"

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$board/cpuinfo" "$root/proc/cpuinfo"
mount --bind "$board/sys" "$root/sys"
mount --bind "$board/ssh" "$root/etc/board"
mount --bind "$board/home" "$root/home/pi"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -m 1777 "$root/dev/shm"
mount -o "remount,bind,$mode" "$root"

env -i PATH="$PATH" QEMU_CPU="$(cat "$board/cpu")" chroot "$root" "$@" </dev/null 3<&- &
program=$!
{
    cat <&3 >/dev/null
    kill -KILL $program
} &
wait $program
