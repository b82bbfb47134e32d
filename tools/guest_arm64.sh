#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes what the arm64 guest of tests/vm boots from, in .cache/guests/arm64 (or KMIND_GUESTS/arm64):
# Debian's kernel for clouds, and a folder with Python, libbpf and kmind's dependencies for arm64.
# Everything is unpacked, and nothing of it runs here. Quick when there is nothing to do. Where it
# cannot make it, it says why and the test is skipped, which is a failure under CI=true.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/debian.sh

cache=${KMIND_GUESTS:-$PWD/.cache/guests}/arm64
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
suite=bookworm kernels=bookworm-backports # its kernel has arenas, and no loader without them
python=3.11                               # of that suite
packages=python3,libbpf1,libstdc++6,libgcc-s1
work=''

say() { printf 'guests: %s\n' "$*" >&2; }

cannot() {
    say "arm64: skipped, $*"
    mkdir -p "$cache" && printf '%s\n' "$*" >"$cache/reason"
    [[ ${CI-} == true ]] && exit 1
    exit 0
}

stop() { [[ -z $work ]] || rm -rf --one-file-system "$work"; }
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a tool of apt that knows arm64 packages of one suite, and nothing of this machine's.
apt_of() {
    "$1" -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$work/state" -o Dir::State::Status=/dev/null -o Dir::Cache="$work/cache" \
        -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Acquire::Languages=none \
        -o APT::Sandbox::User=root "${@:2}"
}

fetch_kernel() {
    local name
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$from" "$kernels" >"$work/sources.list"
    apt_of apt-get update || cannot "$kernels cannot be read from $from"
    name=$(apt_of apt-cache search --names-only '^linux-image-6\.12\..*cloud-arm64$' |
        awk '{ print $1 }' | sort -V | tail -n 1)
    [[ -n $name ]] || cannot "$kernels has no kernel 6.12 for clouds on arm64"
    say "arm64: $name"
    (cd "$work" && apt_of apt-get download "$name" && dpkg-deb -x "$name"_*.deb kernel)
    cp "$work"/kernel/boot/vmlinuz-* "$work/made/vmlinuz"
}

make_root() {
    local proxy
    proxy=$(proxy_option)
    say "arm64: a root file system of Debian's $suite"
    TMPDIR=$work mmdebstrap --quiet --architectures=arm64 --variant=extract \
        --include="$packages" --keyring="$keyring" ${proxy:+"$proxy"} \
        "$suite" "$work/made/root" "$from"
    .venv/bin/python -m pip download -qq --disable-pip-version-check --no-deps \
        --only-binary :all: --python-version "$python" --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        -d "$work/wheels" numpy msgspec || cannot "numpy or msgspec has no wheel for arm64"
    for wheel in "$work"/wheels/*.whl; do
        .venv/bin/python -m zipfile -e "$wheel" "$work/made/root/usr/lib/python3/dist-packages"
    done
    mkdir -p "$work"/made/root/{dev,kmind,proc,run,sys,tmp}
    rm -rf "$work"/made/root/dev/* # devices, which the kernel has in devtmpfs
}

[[ $EUID -eq 0 ]] || cannot "making guests takes root"
command -v mmdebstrap >/dev/null || cannot "mmdebstrap is not installed: make vm-test"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
rm -f "$cache/reason"
version=$(sha256sum tools/guest_arm64.sh | cut -c1-16)
[[ $(cat "$cache/made/version" 2>/dev/null) != "$version" ]] || exit 0
from=$(mirror)
[[ -n $from ]] || cannot "apt knows no Debian mirror here: apt-get update"
work=$(mktemp -d -p "$cache" making.XXXXXX)
mkdir "$work/made"
fetch_kernel
make_root
printf '%s\n' "$version" >"$work/made/version"
rm -rf "$cache/made"
mv "$work/made" "$cache/made"
