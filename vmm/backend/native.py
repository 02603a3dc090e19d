# SPDX-License-Identifier: Apache-2.0
"""What Python cannot do: read the TSC, and change memory atomically. A page of machine code does it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Final

# System V calling convention: arguments in RDI, RSI and RDX, result in RAX.
_RDTSC: Final = bytes.fromhex(
    "0f31"  # rdtsc
    "48c1e220"  # shl $32, %rdx
    "4809d0"  # or %rdx, %rax
    "c3"  # ret
)
_FETCH_OR: Final = bytes.fromhex(
    "0fb607"  # movzbl (%rdi), %eax
    "89c1"  # 1: mov %eax, %ecx
    "09f1"  # or %esi, %ecx
    "f00fb00f"  # lock cmpxchg %cl, (%rdi)
    "75f6"  # jne 1b
    "c3"  # ret
)
_COMPARE_EXCHANGE_16: Final = bytes.fromhex(
    "53"  # push %rbx
    "4989d0"  # mov %rdx, %r8
    "488b06"  # mov (%rsi), %rax
    "488b5608"  # mov 8(%rsi), %rdx
    "498b18"  # mov (%r8), %rbx
    "498b4808"  # mov 8(%r8), %rcx
    "f0480fc70f"  # lock cmpxchg16b (%rdi)
    "488906"  # mov %rax, (%rsi)
    "48895608"  # mov %rdx, 8(%rsi)
    "5b"  # pop %rbx
    "c3"  # ret
)
_FETCH_OR_AT: Final = 0x40
_COMPARE_EXCHANGE_16_AT: Final = 0x80


class NativeCode:
    """The routines; the page lives as long as the object.

    rdtsc(): the host's time stamp counter, 64 bits.
    fetch_or(address, mask): sets bits of the byte at a host address, atomically; its value before.

    `compare_exchange_16` is its own method, below.

    Errors: `OSError` where this process may not have executable memory.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._munmap = libc.munmap
        self._munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        page = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if page == ctypes.c_void_p(-1).value:
            raise _os_error("mmap")
        self._page: int | None = page
        ctypes.memmove(page, _RDTSC, len(_RDTSC))
        ctypes.memmove(page + _FETCH_OR_AT, _FETCH_OR, len(_FETCH_OR))
        ctypes.memmove(page + _COMPARE_EXCHANGE_16_AT, _COMPARE_EXCHANGE_16, len(_COMPARE_EXCHANGE_16))
        # Never writable and executable at once.
        if libc.mprotect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
            error = _os_error("mprotect")
            self.close()
            raise error
        # PYFUNCTYPE keeps the GIL: each takes less time than giving it up.
        self.rdtsc: Callable[[], int] = ctypes.PYFUNCTYPE(ctypes.c_uint64)(page)
        self.fetch_or: Callable[[int, int], int] = ctypes.PYFUNCTYPE(
            ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32
        )(page + _FETCH_OR_AT)
        self._compare_exchange_16: Callable[[int, object, bytes], None] = ctypes.PYFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p
        )(page + _COMPARE_EXCHANGE_16_AT)

    def compare_exchange_16(self, address: int, expected: bytes, new: bytes) -> bytes:
        """The 16 bytes at a host address, a multiple of 16; if they are `expected`, `new` takes their place. Atomic."""
        found = ctypes.create_string_buffer(expected, 16)
        self._compare_exchange_16(address, found, new)
        return found.raw

    def close(self) -> None:
        """Unmap the page. Nobody may call the routines any more. Idempotent."""
        page, self._page = self._page, None
        if page is not None:
            self._munmap(page, mmap.PAGESIZE)


def _os_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call} of a page of machine code: {os.strerror(number)}")
