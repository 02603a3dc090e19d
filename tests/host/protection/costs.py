# SPDX-License-Identifier: Apache-2.0
"""What an access costs where a page can be read and written and not executed: `python -m tests.host.protection.costs`.

Microseconds for each access, a loop around it included; the fastest of five runs. Refused: until the owner is told,
which gives nothing back here.
"""

from __future__ import annotations

import signal
import time

from tests.host.protection.world import DATA, KICK, new_world
from vmm.vsm.rights import ALL, NONE, READ, WRITE

ROUNDS, RUNS = 300, 5
ACCESSES = {
    "read": "8b07",
    "write": "8907",
    "read and write": "0107",
    "read and write, LOCKed": "f00107",
    "push and pop": "5058",
}


def microseconds(code: str, ring: int, rights: int) -> float:
    """Of one access."""
    body = bytes.fromhex(code)
    loop = body + bytes([0xFF, 0xC9, 0x75, 0x100 - len(body) - 4])
    best = float("inf")
    with new_world() as world:
        world.restrict(DATA, rights)
        for _ in range(RUNS):
            world.start(loop, ring, rdi=DATA, rcx=ROUNDS, rsp=DATA + 0x800)
            begin = time.perf_counter()
            world.run()
            best = min(best, (time.perf_counter() - begin) / ROUNDS * 1e6)
    return best


def refused(ring: int) -> float:
    """From the guest's access to the owner's being told, and back to the guest, which makes it again."""
    with new_world(grant=False) as world:
        world.restrict(DATA, NONE)
        world.start(bytes.fromhex("8b07"), ring, rdi=DATA)
        begin = time.perf_counter()
        for _ in range(ROUNDS):
            world.run()
        return (time.perf_counter() - begin) / ROUNDS * 1e6


def main() -> None:
    """Print the table."""
    signal.signal(KICK, lambda number, frame: None)
    print("access, ring: unrestricted, rw- in microseconds")
    for name, code in ACCESSES.items():
        for ring in (0, 3):
            plain, slow = microseconds(code, ring, ALL), microseconds(code, ring, READ | WRITE)
            print(f"{name}, ring {ring}: {plain:.1f}, {slow:.0f}")
    for ring in (0, 3):
        print(f"a read that is refused, ring {ring}: {refused(ring):.0f}")


if __name__ == "__main__":
    main()
