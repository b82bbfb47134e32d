#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: tools/test.sh [--guests] [PYTEST ARGUMENT...]
# Runs all tests, or only those in guests, as several runs of pytest. Tests of the kernel go one
# after another, for there is one machine, and mostly wait. What touches nothing of it runs beside
# them, with less priority: plain tests, and guests. Last comes what is to have the machine to
# itself. Output of what runs beside is shown when all are done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

machine="kernel or fault"
pytest=(.venv/bin/python -m pytest)
on_kernels=tests/vm/test_kernels.py # half of the time of all guests
work=$(mktemp -d)
names=() beside=()

stop() {
    local group
    for group in "${beside[@]}"; do
        kill -INT -- "-$group" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Starts a run beside: its name, then arguments of pytest.
begin() {
    set -m # or it would start with SIGINT ignored, and so would whatever it starts
    nice "${pytest[@]}" "${@:2}" >"$work/${#names[@]}" 2>&1 &
    set +m
    names+=("$1") beside+=($!)
}

guests=false
[[ ${1-} != --guests ]] || guests=true
! $guests || shift
first=0 others=0 quiet=0
if $guests; then
    begin "the other guests" -m "guest and not quiet" --ignore "$on_kernels" "$@"
    "${pytest[@]}" -m "guest and not quiet" "$on_kernels" "$@" || first=$?
    last="guest and quiet"
else
    begin "plain tests" -m "not ($machine or guest or quiet)" "$@"
    begin "guests" -m "guest and not quiet" "$@"
    "${pytest[@]}" -m "($machine) and not quiet" "$@" || first=$?
    last=quiet
fi
for run in "${beside[@]}"; do
    wait "$run" || others=$?
done
beside=()
"${pytest[@]}" -m "$last" "$@" || quiet=$?
for number in "${!names[@]}"; do
    printf '\nBeside the first run, %s:\n\n' "${names[number]}"
    cat "$work/$number"
done
((first == 0)) || printf '\nThe first run, further up, has failed.\n'
((quiet == 0)) || printf '\nThe run of the quiet tests, further up, has failed.\n'
((first + others + quiet == 0))
