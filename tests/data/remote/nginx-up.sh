#!/usr/bin/env bash
# Installs nginx (Debian's package) for the tests of shards on a web server, where it is missing and apt-get can.
# Idempotent. Without root or apt-get it says so and changes nothing: those tests then skip.
set -euo pipefail

PATH=$PATH:/usr/sbin
command -v nginx >/dev/null && exit 0
if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "nginx-up: no nginx here, and no apt-get as root to install it with" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600)
log=$(mktemp)
# Only its program is wanted: without this, Debian's package starts a server of the machine's own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends nginx-light; } >"$log" 2>&1; then
    echo "nginx-up: apt-get failed, see $log" >&2
    exit 1
fi
rm -f "$log"
