# SPDX-License-Identifier: Apache-2.0
"""The outer ends of a guest's serial line: terminal, file, pseudo-terminal, unix socket, nothing.

What lives here: moving bytes between a host file descriptor and the board, and keeping the user's terminal
sane. What does not: the UART itself (`vmm.machine.devices.serial`).
"""
