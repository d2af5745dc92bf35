#!/usr/bin/env bash
# Installs Chromium (Debian's package) for the tests that open a report, where it is missing and apt-get can.
# Idempotent. Without root or apt-get it says so and changes nothing: those tests then skip.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "chromium-up: no Chromium here, and no apt-get as root to install it with" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600)
log=$(mktemp)
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends chromium fonts-dejavu-core; } >"$log" 2>&1; then
    echo "chromium-up: apt-get failed, see $log" >&2
    exit 1
fi
rm -f "$log"
