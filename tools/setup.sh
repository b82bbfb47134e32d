#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up this folder for work: Debian packages, .venv, BPF objects. Safe to repeat; quick
# when there is nothing to do. It changes nothing else on the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Each package, and the programs of it that the project runs. clang and libbpf-dev compile the
# BPF objects, libbpf1 loads them, fio and db_bench are the demo's and the bench's load, gcc is
# for the bench of models; the rest is for the tests (tests/programs.py reads this list). None of
# them starts a service.
programs="
    bash              bash
    bpftool           bpftool
    clang-19          clang-19
    clang-format-19   clang-format-19
    coreutils         cat cp dd dirname env false sleep stat true
    dash              sh
    e2fsprogs         e2fsck mkfs.ext4
    findutils         find
    fio               fio
    gcc               cc
    git               git
    groff-base        groff
    libbpf-dev
    libbpf1
    libc-bin          ldconfig ldd
    libc6-dev
    linux-libc-dev
    llvm-19
    mount             losetup mount umount
    python3-venv
    rocksdb-tools     db_bench
    shellcheck        shellcheck
    systemd           systemd-analyze
    util-linux        blkdiscard dmesg partx setpriv unshare
    util-linux-extra  fincore
"
# For the clean roots of tools/clean.sh; only when asked for.
for_clean_roots="
    mmdebstrap        mmdebstrap
"
# For the guests of tools/guests.sh; only when asked for.
for_guests="
    debian-archive-keyring
    e2fsprogs         mke2fs
    mmdebstrap        mmdebstrap
    qemu-system-arm   qemu-system-aarch64
    qemu-system-x86   qemu-system-x86_64
    qemu-utils        qemu-img
    seabios
"
[[ ${1-} != --clean-roots ]] || programs+=$for_clean_roots
[[ ${1-} != --guests ]] || programs+=$for_guests
mapfile -t packages < <(awk 'NF { print $1 }' <<<"$programs")

say() { printf 'setup: %s\n' "$*" >&2; }

# Prints those of the packages that are not installed.
missing_packages() {
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
        sed -n 's/^installed //p' || true)
    comm -23 <(printf '%s\n' "${packages[@]}" | sort) <(sort <<<"$installed")
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

install_packages() {
    local missing
    if ! command -v dpkg-query >/dev/null; then
        say "not Debian; make sure that these are here under the names they have: ${packages[*]}"
        return
    fi
    mapfile -t missing < <(missing_packages)
    [[ ${#missing[@]} -eq 0 ]] && return
    if [[ $EUID -ne 0 ]]; then
        say "not root; missing, and some things will not work without: ${missing[*]}"
        return
    fi
    say "installing ${missing[*]}"
    if ! apt_install "${missing[@]}" 2>/dev/null; then # the package lists may be old or absent
        apt-get update -qq
        apt_install "${missing[@]}"
    fi
}

# Prints the first Python that is new enough and can make a virtual environment.
find_python() {
    local candidate
    for candidate in python3 python3.1{4,3,2,1} /usr/bin/python3; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "no Python 3.11 or newer with venv; install it (Debian: apt-get install python3-venv)"
    return 1
}

# Prints what pyproject.toml asks for, extras included: all but the project itself.
dependencies() {
    .venv/bin/python - <<'EOF'
import pathlib, tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
print(*(line for group in groups for line in group if not line.startswith("kmind[")), sep="\n")
EOF
}

# What is never imported need not be compiled; Python compiles the rest as it goes.
pip_install() {
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-compile "$@"
}

# The stamp is named after all that an installation depends on, this folder's place included:
# a virtual environment cannot be moved, and one that was is made anew.
installed() {
    stamp=.venv/.setup-$({
        pwd
        cat pyproject.toml hatch_build.py
    } | sha256sum | cut -c1-16)
    [[ -e $stamp ]] && .venv/bin/python -c '' 2>/dev/null
}

install_dependencies() {
    local python wanted
    say "installing into .venv"
    if [[ $(head -n 1 .venv/bin/pip 2>/dev/null) != "#!$PWD/.venv/bin/python"* ]]; then
        python=$(find_python)
        "$python" -m venv --clear .venv
    fi
    mapfile -t wanted < <(dependencies)
    pip_install "${wanted[@]}"
}

install_project() {
    pip_install --no-deps -e .
    rm -f .venv/.setup-*
    touch "$stamp"
}

stamp=
if installed; then
    install_packages
else
    # Packages and dependencies come from different places, and neither needs the other,
    # unless there is no Python yet.
    if find_python >/dev/null 2>&1; then
        install_packages &
        packages_pid=$!
        install_dependencies
        wait "$packages_pid"
    else
        install_packages
        install_dependencies
    fi
    install_project
fi
.venv/bin/python hatch_build.py
