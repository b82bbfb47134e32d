#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs all tests as two runs of pytest, one beside the other. Tests of the kernel go one after
# another, for there is one machine, and mostly wait; what touches nothing runs beside them,
# with less priority. That run is shown when both are done. Arguments are for both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

machine="kernel or fault"
pytest=(.venv/bin/python -m pytest)
beside=''
kept=$(mktemp)

trap '[[ -z $beside ]] || kill -INT "$beside"; rm -f "$kept"' EXIT
trap 'exit 130' INT TERM

set -m # or it would start with SIGINT ignored, and so would whatever it starts
nice "${pytest[@]}" -m "not ($machine)" "$@" >"$kept" 2>&1 &
beside=$!
set +m
first=0 second=0
"${pytest[@]}" -m "$machine" "$@" || first=$?
wait "$beside" || second=$?
beside=''
printf '\nBeside it ran what touches nothing of the machine:\n\n'
cat "$kept"
((first == 0)) || printf "\nThe run of the kernel's tests, further up, has failed.\n"
exit $((first > second ? first : second))
