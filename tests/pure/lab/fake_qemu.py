# SPDX-License-Identifier: Apache-2.0
"""Stands in for QEMU: speaks as process 1 of a lab does, as told by FAKE_QEMU. Run by test_run.py."""

import os
import re
import socket
import struct
import sys
import time


def frame(kind: str, payload: bytes = b"") -> bytes:
    return struct.pack("<B3xI", ord(kind), len(payload)) + payload


def read_frame(channel: socket.socket) -> bytes:
    header = channel.recv(8, socket.MSG_WAITALL)
    return header[:1] + channel.recv(struct.unpack("<4xI", header)[0], socket.MSG_WAITALL)


def main() -> None:
    line = " ".join(sys.argv)
    descriptor = re.search(r"id=channel,fd=(\d+)", line)
    log_path = re.search(r"id=console,path=(\S+)", line)
    assert descriptor is not None
    assert log_path is not None
    mode = os.environ["FAKE_QEMU"]
    if mode == "refuses":
        sys.exit("qemu-system-x86_64: -device foo: 'foo' is not a valid device model name")
    channel = socket.socket(fileno=int(descriptor[1]))
    with open(log_path[1], "a") as log:
        log.write("[    0.000000] Linux version 6.12\n")
        if mode == "boot panic":
            log.write("[    1.000000] Kernel panic - not syncing: VFS: Unable to mount root fs\n")
            return
    if mode == "never boots":
        time.sleep(60)
    channel.sendall(frame("R", b"6.12-fake"))
    job = read_frame(channel)
    if mode == "exit":
        channel.sendall(
            frame("O", b"out\r\n\0\xff") + frame("E", b"err") + frame("X", struct.pack("<i", 7 << 8))
        )
    elif mode == "killed":
        channel.sendall(frame("X", struct.pack("<i", 9)))
    elif mode == "job":
        channel.sendall(frame("O", job) + frame("X", bytes(4)))
    elif mode == "warned":
        with open(log_path[1], "a") as log:
            log.write(
                "[    2.000000] WARNING: CPU: 0 PID: 1 at virt/kvm/kvm_main.c:1 f+0x1\n---[ end trace 0 ]---\n"
            )
        channel.sendall(frame("X", bytes(4)))
    elif mode == "panic":
        with open(log_path[1], "a") as log:
            log.write("[    2.000000] Kernel panic - not syncing: sysrq triggered crash\n")
        return
    elif mode == "failed":
        channel.sendall(frame("F", b"no"))
    elif mode == "nonsense":
        channel.sendall(b"SeaBIOS (version 1.16)\r\n")
    elif mode == "vanishes":
        return
    elif mode == "signal":
        received = read_frame(channel)
        channel.sendall(frame("O", received) + frame("X", struct.pack("<i", 2)))
    elif mode == "endless":
        while True:
            channel.sendall(frame("A"))
            time.sleep(0.02)
    time.sleep(60)


main()
