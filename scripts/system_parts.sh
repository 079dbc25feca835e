#!/bin/sh
# Bring Debian packages that this machine lacks, where apt is there and allowed; otherwise say what that means.
# Usage: system_parts.sh PACKAGE...      (openssh-server, iproute2, nftables, adb, mksh, toybox,
#                                         dataset-fashion-mnist, g++)
set -eu

is_there() {
    case $1 in
        openssh-server) command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] ;;
        dataset-fashion-mnist) [ -f /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] ;;
        iproute2) command -v ip >/dev/null && command -v tc >/dev/null ;;
        nftables) command -v nft >/dev/null || [ -x /usr/sbin/nft ] ;;
        adb|mksh|toybox) command -v "$1" >/dev/null ;;
        g++) command -v g++ >/dev/null ;;
        *) echo "system_parts.sh does not know the package $1" >&2; exit 2 ;;
    esac
}

without() {
    case $1 in
        openssh-server) echo "no OpenSSH server here: the tests of SSH devices will be skipped" ;;
        iproute2|nftables) echo "no $1 here: the tests of bad networks will be skipped" ;;
        adb) echo "no adb client here: the tests of phones will be skipped" ;;
        mksh|toybox) echo "no $1 here: the tests with Android's own shell and tools will be skipped" ;;
        g++) echo "no C++ compiler here: the tests of exported C++ source will be skipped" ;;
        dataset-fashion-mnist) echo "no Fashion-MNIST of Debian's here: tests on it will be skipped, quickstart looks elsewhere" ;;
    esac
}

missing=''
for package; do
    is_there "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=''
elif sudo -n true 2>/dev/null; then
    as_root=sudo
else
    as_root=none
fi

# Under systemd a package starts its service at once, unless this file forbids it. The tests start servers of their own.
policy=/usr/sbin/policy-rc.d
forbid_start() {
    if [ -d /run/systemd/system ] && [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
        $as_root chmod 755 $policy
        trap '$as_root rm -f $policy; $as_root systemctl disable ssh.socket ssh.service >/dev/null 2>&1 || true' EXIT
    fi
}

if command -v apt-get >/dev/null && [ "$as_root" != none ]; then
    echo "Installing$missing with apt-get ..."
    case $missing in *openssh-server*) forbid_start ;; esac
    wait='-o DPkg::Lock::Timeout=600' # somebody else may be installing
    { $as_root apt-get update -qq $wait &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $wait --no-install-recommends $missing
    } >/dev/null || echo "apt-get failed: going on without." >&2
    reason='apt-get could not install it'
elif command -v apt-get >/dev/null; then
    reason="install it with: sudo apt-get install$missing"
else
    reason='there is no apt-get on this machine'
fi

for package in $missing; do
    is_there "$package" || echo "Note: $(without "$package") ($reason)."
done
