#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: tools/clean.sh [SUITE...]
# Does what a newcomer does, in a system that has nothing but Debian's essential packages: clones
# what is committed here, runs "make demo", which sets up first, then the plain tests. Once for
# each suite; without one, for those that the README names. Demos come one after another, for there
# is one disk to tune; then the plain tests of all suites side by side. Where this machine cannot
# make such a system it says why and stops, which is a failure under CI=true.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/debian.sh

suites=("$@")
[[ $# -gt 0 ]] || suites=(bookworm trixie) # Debian 12 and 13
work='' children=()

say() { printf 'clean: %s\n' "$*" >&2; }

cannot() {
    say "skipped, $*"
    [[ ${CI-} == true ]] && exit 1
    exit 0
}

# Waits for a command in a way that a signal ends at once.
run() {
    local code=0
    "$@" &
    children=($!)
    wait "$!" || code=$?
    children=()
    return "$code"
}

# What was started is in namespaces that end with their first process: see tools/in_root.sh.
stop() {
    trap '' INT TERM
    ((${#children[@]} == 0)) || kill -KILL "${children[@]}" 2>/dev/null || true
    [[ -n $work ]] || return 0
    for _ in {1..100}; do # the rest of them ends a moment later, and may write until then
        rm -rf --one-file-system "$work" 2>/dev/null && return
        sleep 0.1
    done
    say "left behind: $work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# How this machine reaches the network: names, certificates, pip's index.
share() {
    local file
    for file in /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt /etc/pip.conf \
        "${XDG_CONFIG_HOME-$HOME/.config}/pip/pip.conf" "${PIP_CERT-}" "${SSL_CERT_FILE-}"; do
        [[ ! -f $file ]] || install -D -m 644 "$file" "$1$file"
    done
}

make_root() {
    local proxy
    say "$2: making a clean system"
    proxy=$(proxy_option)
    TMPDIR=$work run setpriv --pdeathsig KILL \
        unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        mmdebstrap --quiet --variant=minbase --include=ca-certificates,make,git \
        ${proxy:+"$proxy"} "$2" "$1" "$from"
    share "$1"
    git clone --quiet --no-hardlinks . "$1/srv/kmind"
}

demo() {
    local told=$work/$2.txt code=0
    say "$2: make demo"
    run tools/in_root.sh "$1" make -C /srv/kmind demo >"$told" 2>&1 || code=$?
    cat "$told"
    if ((code == 0)) && ! grep -q 'kmind demo on the real kernel' "$told"; then
        say "$2: the demo is to run on the real kernel"
        code=1
    fi
    return "$code"
}

plain() {
    CI=true tools/in_root.sh "$1" \
        bash -c 'cd /srv/kmind && .venv/bin/python -m pytest -q -m "not (kernel or fault or guest)"'
}

# The plain tests of all suites at once. Each one's output is shown when all are done.
plain_tests() {
    local suite number=0 failed=0
    say "the plain tests in ${suites[*]}"
    for suite in "${suites[@]}"; do
        plain "$work/$suite" >"$work/$suite.txt" 2>&1 &
        children+=($!)
    done
    for suite in "${suites[@]}"; do
        wait "${children[number++]}" || {
            failed=1
            say "$suite: the plain tests have failed"
        }
    done
    children=()
    for suite in "${suites[@]}"; do
        printf '\nclean: the plain tests in %s:\n\n' "$suite"
        cat "$work/$suite.txt"
    done
    return "$failed"
}

[[ $EUID -eq 0 ]] || cannot "for a system in a folder takes root"
command -v apt-get >/dev/null || cannot "for this is no Debian"
command -v mmdebstrap >/dev/null || cannot "for mmdebstrap is not installed: make test-clean"
unshare --mount --pid --fork true 2>/dev/null || cannot "for no namespace can be made here"
from=$(mirror)
[[ -n $from ]] || cannot "for apt knows no Debian mirror here: apt-get update"
work=$(mktemp -d -p /var/tmp kmind-clean.XXXXXX)
/usr/lib/apt/apt-helper download-file "$from/dists/${suites[0]}/InRelease" "$work/reached" \
    >/dev/null 2>&1 || cannot "for $from cannot be reached"

for suite in "${suites[@]}"; do
    make_root "$work/$suite" "$suite"
    demo "$work/$suite" "$suite"
done
plain_tests
say "passed in ${suites[*]}"
