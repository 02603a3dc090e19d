#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The host ring: on this machine's /dev/kvm, or inside the lab (which has one) where there is none.
# VMM_JUNIT_DIR: a folder for kernel.xml and host.xml, the results as JUnit XML.
set -eu

if ! { [ -r /dev/kvm ] && [ -w /dev/kvm ]; }; then
    echo "host ring: no usable /dev/kvm on this machine, running it in the lab on Linux 6.12"
    exec scripts/lab run --kernel upstream --memory 6G --time-limit 3600 -- "$0" -p no:cacheprovider "$@"
fi

# What this KVM has of VSM is tested where it is, and its absence where it is not; tests/kernel says what it found.
status=0
for ring in kernel host; do
    # The tests of the kernel look at the whole machine's free memory: one after the other.
    [ "$ring" = kernel ] && workers=0 || workers=$(nproc)
    .venv/bin/pytest -n "$workers" "tests/$ring" ${VMM_JUNIT_DIR:+"--junitxml=$VMM_JUNIT_DIR/$ring.xml"} "$@" || status=$?
    # 2: the user stopped it
    [ "$status" -ne 2 ] || break
done
exit "$status"
