#!/usr/bin/env bash
# Sees to the programs that come from the distribution: installs them by apt when root, else says the exact command.
# What is missing stops nothing here: the demo says what it cannot do, and tests are skipped aloud.
set -euo pipefail

have() { # a program by name, or a file by pattern
    case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

demo=(wireguard-go:wireguard-go nft:nftables ip:iproute2 ping:iputils-ping sysctl:procps)
tests=("${demo[@]}" wg:wireguard-tools chromium:chromium '/usr/lib/postgresql/*/bin/initdb:postgresql'
    tcpdump:tcpdump iperf3:iperf3 qemu-system-x86_64:qemu-system-x86 busybox:busybox-static modprobe:kmod
    cpio:cpio xz:xz-utils debootstrap:debootstrap '/usr/share/fonts/truetype/*:fonts-dejavu-core'
    '/usr/lib/*/libatomic.so.1:libatomic1') # what drives Chromium wants it, and nothing else may have brought it

case ${1:-} in
demo) wanted=("${demo[@]}") ;;
test) wanted=("${tests[@]}") ;;
*) echo "usage: $0 demo|test" >&2 && exit 2 ;;
esac

missing=()
for pair in "${wanted[@]}"; do
    have "${pair%:*}" || missing+=("${pair##*:}")
done
[ ${#missing[@]} = 0 ] && exit

if ! command -v apt-get >/dev/null; then
    echo "not found on this machine, and wanted: ${missing[*]}" >&2
elif [ "$(id -u)" = 0 ]; then
    echo "installing ${missing[*]}" >&2
    {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    } >&2 || echo "could not install: apt-get install -y --no-install-recommends ${missing[*]}" >&2
else
    echo "missing; install by: sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
fi
