#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: tools/in_root.sh ROOT COMMAND...
# Runs a command in a folder that holds a system of its own, on this machine's kernel, devices
# and network. Its mounts are in a mount namespace and its processes in a PID namespace that
# end with this script, however it ends: nothing outside ever sees them.
set -euo pipefail

# What is asked for on this machine to reach the network is asked for in there, and nothing else.
kept=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8)
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY \
    PIP_CERT PIP_INDEX_URL PIP_DEFAULT_TIMEOUT SSL_CERT_FILE CI; do
    [[ -z ${!name-} ]] || kept+=("$name=${!name}")
done
[[ -z ${TERM-} ]] || kept+=("TERM=$TERM")

# shellcheck disable=SC2016 # for the shell inside
exec setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child \
    bash -euc '
        root=$1
        shift
        mount --bind "$root" "$root"
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o mode=755 tmpfs "$root/run"
        code=0
        chroot "$root" "$@" || code=$? # this shell stays, as process 1
        exit "$code"
    ' in_root "$1" env -i "${kept[@]}" "${@:2}"
