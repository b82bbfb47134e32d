#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes what the guests of tests/vm boot from, in .cache/guests (or KMIND_GUESTS): Debian's kernels
# and one image of a root file system, which has their modules and what the tests run. Packages are
# unpacked there and never installed; apt has its lists there too. Quick when there is nothing to
# do. Needs root and the network for what is missing or older than a week; where it cannot make it,
# it says why and the tests are skipped, which is a failure under CI=true.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/debian.sh

# As tests choose it, and the suite whose newest kernel for clouds it is.
kernels="
    6.1     bookworm
    6.12    bookworm-backports
    newest  trixie-backports
"
# What tests in a guest run. clang-19 compiles the agents of tests.
packages=(bpftool clang-19 coreutils dmsetup e2fsprogs findutils fio iproute2 kmod libbpf-dev
    libbpf1 libc6-dev linux-libc-dev mount procps python3 systemd util-linux util-linux-extra)
# The distributions of .venv that are copied, with all that they ask for.
python="coverage hypothesis kmind[daemon,infer,learn,tune] pytest pytest-timeout requests scikit-learn scipy"
free_mib=2048

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
cache=${KMIND_GUESTS:-$PWD/.cache/guests}
work='' from='' lacking=''

say() { printf 'guests: %s\n' "$*" >&2; }

cannot() {
    say "skipped, $*"
    printf '%s\n' "$*" >"$cache/reason" 2>/dev/null || true
    [[ ${CI-} == true ]] && exit 1
    exit 0
}

stop() {
    [[ -z $work ]] || rm -rf --one-file-system "$work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a tool of apt that knows one suite and nothing of this machine's packages.
apt_of() {
    local own=$cache/apt/$1 tool=$2
    "$tool" -qq -o Dir::Etc::SourceList="$own/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$own/state" -o Dir::State::Status=/dev/null -o Dir::Cache="$own/cache" \
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o Acquire::Languages=none \
        -o APT::Sandbox::User=root -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
        "${@:3}"
}

update() {
    local own=$cache/apt/$1
    mkdir -p "$own/state/lists/partial" "$own/cache/archives/partial"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$from" "$1" >"$own/sources.list"
    apt_of "$1" apt-get update
}

# Prints the packages of a suite's kernel: one, or from 7.3 on its image, binary and modules.
kernel_packages() {
    apt_of "$1" apt-cache depends --recurse --important linux-image-cloud-amd64 |
        grep -oE '\blinux-(image|binary|modules|base)-[0-9][^ >]*' | sort -u
}

# Unpacks the newest kernel of a suite. The folder is whole or not there.
fetch_kernel() {
    local name=$1 suite=$2 place=$cache/kernels/$1 packages version
    rm -f "$place.absent"
    mapfile -t packages < <(kernel_packages "$suite")
    if [[ ${#packages[@]} -eq 0 ]]; then
        printf '%s has no linux-image-cloud-amd64\n' "$suite" | tee "$place.absent" >&2
        [[ ${CI-} != true ]] || exit 1
        return 0
    fi
    version=$(apt_of "$suite" apt-cache show --no-all-versions "${packages[@]}" |
        sed -n 's/^SHA256: //p' | sha256sum | cut -c1-16)
    if [[ $(cat "$place/version" 2>/dev/null) != "$version" ]]; then
        say "$name: ${packages[*]}"
        mkdir -p "$work/$name"
        (cd "$work/$name" && apt_of "$suite" apt-get download "${packages[@]}")
        mkdir "$work/$name/all"
        for package in "$work/$name"/*.deb; do
            dpkg-deb -x "$package" "$work/$name/all"
        done
        arrange "$work/$name/all" "$work/$name/kernel"
        printf '%s\n' "$version" >"$work/$name/kernel/version"
        rm -rf "$place"
        mv "$work/$name/kernel" "$place"
    fi
    touch "$place/version"
}

# Files of one kernel, wherever its packages have them, under names of their own.
arrange() {
    local image release
    image=$(find "$1" -name 'vmlinuz*' -type f | sed -n 1p)
    release=$(basename "$(find "$1" -path '*lib/modules/*' -prune -type d | sed -n 1p)")
    mkdir -p "$2/modules"
    cp "$image" "$2/vmlinuz"
    find "$1" -name 'config*' -type f -path "*$release*" -exec cp {} "$2/config" \;
    find "$1" -path "*lib/modules/$release" -exec cp -a {} "$2/modules/" \;
    printf '%s\n' "$release" >"$2/release"
}

fetch_kernels() {
    local name suite
    mkdir -p "$cache/kernels"
    while read -r name suite; do
        [[ -n $name ]] || continue
        [[ -z $(find "$cache/kernels/$name/version" -mtime -7 2>/dev/null) ]] || continue
        if reach && update "$suite"; then
            fetch_kernel "$name" "$suite"
        elif [[ ! -e $cache/kernels/$name/version ]]; then
            cannot "${lacking:-$suite cannot be read from $from}"
        fi
    done <<<"$kernels"
}

# Looks up, once, where packages come from; says in "lacking" why there is nothing to be had.
reach() {
    if [[ -n $from || -n $lacking ]]; then
        [[ -z $lacking ]]
        return
    fi
    if [[ $EUID -ne 0 ]]; then
        lacking="making guests takes root"
    elif ! command -v apt-get >/dev/null; then
        lacking="this is no Debian"
    elif [[ ! -e $keyring ]]; then
        lacking="debian-archive-keyring is not installed"
    elif ! command -v mmdebstrap >/dev/null; then
        lacking="mmdebstrap is not installed: make vm-test"
    else
        from=$(mirror)
        [[ -n $from ]] || lacking="apt knows no Debian mirror here: apt-get update"
    fi
    [[ -z $lacking ]]
}

# Prints the suite whose Python is that of .venv, for its packages are copied.
suite_of_python() {
    case $(.venv/bin/python -c 'import sys; print(*sys.version_info[:2], sep=".")') in
        3.11) echo bookworm ;;
        3.13) echo trixie ;;
    esac
}

make_root() {
    local suite hash proxy place
    suite=$(suite_of_python)
    [[ -n $suite ]] || cannot "no Debian has the Python of .venv"
    hash=$({
        cat tools/guests.sh tools/guest_python.py
        .venv/bin/python tools/guest_python.py list "$python"
        cat "$cache"/kernels/*/version
    } | sha256sum | cut -c1-16)
    place=$cache/root-$hash.img
    [[ ! -e $place ]] || return 0
    reach || cannot "$lacking"
    say "making a root file system of Debian's $suite"
    proxy=$(proxy_option)
    TMPDIR=$work setpriv --pdeathsig KILL \
        unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
        --keyring="$keyring" --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        ${proxy:+"$proxy"} "$suite" "$work/root" "$from"
    fill_root "$work/root"
    make_image "$work/root" "$work/root.img"
    rm -f "$cache"/root-*.img
    mv "$work/root.img" "$place"
}

fill_root() {
    local root=$1 kernel
    mkdir -p "$root/usr/lib/modules" "$root/kmind"
    for kernel in "$cache"/kernels/*/; do
        cp -a "$kernel/modules/." "$root/usr/lib/modules/"
        chroot "$root" depmod "$(cat "$kernel/release")"
    done
    .venv/bin/python tools/guest_python.py copy "$python" \
        "$root/usr/local/lib/$(basename "$root"/usr/lib/python3.1?)/dist-packages"
    chroot "$root" python3 -m compileall -q -j 0 /usr/local/lib || true
    printf 'guest\n' >"$root/etc/hostname"
    printf '127.0.0.1 localhost guest\n' >"$root/etc/hosts"
    printf 'kmind:x:991:\n' >>"$root/etc/group"
    printf '%s\n' '#!/bin/sh' 'exec python3 -m kmind "$@"' >"$root/usr/bin/kmind"
    echo /kmind/src >"$(echo "$root"/usr/local/lib/python3.*/dist-packages)/kmind.pth"
    # The rest comes with the project, on the second disk: see tests/vm/guest.py.
    # shellcheck disable=SC2016 # for the shell inside; by number, for names are in no certain order
    printf '%s\n' '#!/bin/sh' 'mount -t proc proc /proc' 'mount -t sysfs sysfs /sys' \
        'mount -t devtmpfs devtmpfs /dev' \
        'until disk=$(grep -lx 2 /sys/block/nvme*/nsid) && disk=${disk%/nsid} &&' \
        'mount -o ro "/dev/${disk##*/}" /kmind; do sleep 0.1; done 2>/dev/null' \
        'exec sh /kmind/guest/init' >"$root/sbin/guest-init"
    chmod 755 "$root/usr/bin/kmind" "$root/sbin/guest-init"
}

# One partition, whose name (PARTUUID=6b6d696e-01) the kernel finds without an initramfs on
# whichever disk it comes to first.
make_image() {
    local size
    size=$(($(du -sm --apparent-size "$1" | cut -f1) * 12 / 10 + free_mib))
    truncate -s "$((size + 2))M" "$2"
    mke2fs -qF -t ext4 -L root -m 0 -O ^has_journal -E offset=$((1 << 20)) -d "$1" "$2" "${size}M" >/dev/null
    .venv/bin/python - "$2" "$((size << 11))" <<'EOT'
import struct, sys

with open(sys.argv[1], "r+b") as image:
    entry = struct.pack("<B3xB3xII", 0, 0x83, 1 << 11, int(sys.argv[2]))
    image.seek(440)
    image.write(struct.pack("<IH", 0x6B6D696E, 0) + entry + bytes(48) + b"\x55\xaa")
EOT
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
rm -f "$cache/reason"
[[ $(uname -m) == x86_64 ]] || cannot "the guests are x86-64"
work=$(mktemp -d -p "$cache" making.XXXXXX)
fetch_kernels
make_root
