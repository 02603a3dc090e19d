#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The host ring: on this machine's /dev/kvm, or inside the lab (which has one) where there is none.
set -eu

if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
    # What this KVM has of VSM is tested where it is, and its absence where it is not.
    .venv/bin/python -m scripts.host_series
    exec .venv/bin/pytest tests/kernel tests/host "$@"
fi
echo "host ring: no usable /dev/kvm on this machine, running it in the lab on Linux 6.12"
exec scripts/lab run --kernel upstream --time-limit 3600 -- "$0" -p no:cacheprovider "$@"
