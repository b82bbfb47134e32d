#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: tools/test.sh [--guests] [PYTEST ARGUMENT...]
# Runs all tests, or only those in guests, as several runs of pytest. Tests of the kernel go one
# after another, for there is one machine, and mostly wait. What touches nothing of it runs beside
# them, with less priority: plain tests, then guests. Last comes what is to have the machine to
# itself. Output of what runs beside is shown when all are done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

machine="kernel or fault"
pytest=(.venv/bin/python -m pytest)
on_kernels=tests/vm/test_kernels.py # half of the time of all guests
kept=$(mktemp)
beside=''

stop() {
    [[ -z $beside ]] || kill -INT -- "-$beside" 2>/dev/null || true
    rm -f "$kept"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Runs pytest once for each word that follows "--", its marks, and fails if one of them does.
all_of() {
    local failed=0 options=() marks
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    for marks in "${@:2}"; do
        nice "${pytest[@]}" -m "$marks" "${options[@]}" || failed=1
    done
    return "$failed"
}

# Starts that beside.
begin() {
    set -m # or it would start with SIGINT ignored, and so would whatever it starts
    all_of "$@" >"$kept" 2>&1 &
    beside=$!
    set +m
}

guests=false
[[ ${1-} != --guests ]] || guests=true
! $guests || shift
first=0 others=0 quiet=0
if $guests; then
    begin --ignore "$on_kernels" "$@" -- "guest and not quiet"
    "${pytest[@]}" -m "guest and not quiet" "$on_kernels" "$@" || first=$?
    last="guest and quiet"
else
    begin "$@" -- "not ($machine or guest or quiet)" "guest and not quiet"
    "${pytest[@]}" -m "($machine) and not quiet" "$@" || first=$?
    last=quiet
fi
wait "$beside" || others=$?
beside=''
"${pytest[@]}" -m "$last" "$@" || quiet=$?
printf '\nBeside the first run, what touches nothing of the machine:\n\n'
cat "$kept"
((first == 0)) || printf '\nThe first run, further up, has failed.\n'
((quiet == 0)) || printf '\nThe run of the quiet tests, further up, has failed.\n'
((first + others + quiet == 0))
