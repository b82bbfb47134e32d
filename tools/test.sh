#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs all tests as four runs of pytest. Tests of the kernel go one after another, for there is one
# machine, and mostly wait. What touches nothing runs beside them, with less priority, and after it
# the guests; these two are shown when all are done. Last comes what is to have the machine to
# itself. Arguments are for all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

machine="kernel or fault"
pytest=(.venv/bin/python -m pytest)
beside=''
kept=$(mktemp)

trap '[[ -z $beside ]] || kill -INT -- "-$beside"; rm -f "$kept"' EXIT
trap 'exit 130' INT TERM

set -m # or it would start with SIGINT ignored, and so would whatever it starts
beside() {
    local plain=0 guests=0
    nice "${pytest[@]}" -m "not ($machine or guest or quiet)" "$@" || plain=$?
    nice "${pytest[@]}" -m "guest and not quiet" "$@" || guests=$?
    return $((plain | guests))
}
beside "$@" >"$kept" 2>&1 &
beside=$!
set +m
kernel=0 others=0 quiet=0
"${pytest[@]}" -m "($machine) and not quiet" "$@" || kernel=$?
wait "$beside" || others=$?
beside=''
"${pytest[@]}" -m quiet "$@" || quiet=$?
printf '\nBeside the first run, what touches nothing of the machine, and then the guests:\n\n'
cat "$kept"
((kernel == 0)) || printf "\nThe run of the kernel's tests, further up, has failed.\n"
((quiet == 0)) || printf '\nThe run of the quiet tests, further up, has failed.\n'
exit $((kernel | others | quiet))
