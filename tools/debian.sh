# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the tools that make systems and kernels of Debian: where this machine's own packages
# come from, for those are from there too.

# Prints the address of this machine's mirror; nothing if apt knows none.
mirror() {
    local found
    # shellcheck disable=SC2016 # for apt
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
        'Label: Debian' 'Component: main' | sed -n 1p)
    printf '%s' "${found%/}"
}

# Prints the option by which mmdebstrap uses this machine's proxy; nothing if it has none.
proxy_option() {
    local proxy=''
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [[ -z $proxy ]] || printf -- '--aptopt=Acquire::http::Proxy "%s"' "$proxy"
}
