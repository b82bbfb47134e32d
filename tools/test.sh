#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: tools/test.sh [--guests] [PYTEST ARGUMENT...]
# Runs all tests, or only those in guests, as several runs of pytest. Tests of the kernel go one
# after another, for there is one machine, and mostly wait; then the kernels' guests. What touches
# nothing of the machine runs beside them, with less priority: plain tests, then other guests, one
# of the kernels' among them, so that both sides take about as long. Last comes what is to have the
# machine to itself. Output of what runs beside is shown when all are done.
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

# The guests that run beside; fails if one run does.
other_guests() {
    local failed=0
    nice "${pytest[@]}" -m "guest and not quiet" --ignore "$on_kernels" "$@" || failed=1
    nice "${pytest[@]}" -m "guest and not quiet" "$on_kernels" -k newest "$@" || failed=1
    return "$failed"
}

# Plain tests, then guests; fails if one of the two does.
plain_then_guests() {
    local failed=0
    nice "${pytest[@]}" -m "not ($machine or guest or quiet)" "$@" || failed=1
    other_guests "$@" || failed=1
    return "$failed"
}

# Starts a command beside.
begin() {
    set -m # or it would start with SIGINT ignored, and so would whatever it starts
    "$@" >"$kept" 2>&1 &
    beside=$!
    set +m
}

guests=false
[[ ${1-} != --guests ]] || guests=true
! $guests || shift
first=0 second=0 beside_it=0 quiet=0
if $guests; then
    begin other_guests "$@"
    last="guest and quiet"
else
    begin plain_then_guests "$@"
    "${pytest[@]}" -m "($machine) and not quiet" "$@" || first=$?
    last=quiet
fi
"${pytest[@]}" -m "guest and not quiet" "$on_kernels" -k "not newest" "$@" || second=$?
wait "$beside" || beside_it=$?
beside=''
"${pytest[@]}" -m "$last" "$@" || quiet=$?
printf '\nBeside the first runs, what touches nothing of the machine:\n\n'
cat "$kept"
((first == 0)) || printf '\nThe first run, further up, has failed.\n'
((second == 0)) || printf '\nThe run of the kernels in guests, further up, has failed.\n'
((quiet == 0)) || printf '\nThe run of the quiet tests, further up, has failed.\n'
((first + second + beside_it + quiet == 0))
