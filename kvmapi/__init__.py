# SPDX-License-Identifier: Apache-2.0
"""Linux KVM from Python (x86-64): the whole UAPI as objects, with nothing to compile.

    Kvm     /dev/kvm: what the host's KVM can do; makes a Vm
    Vm      memory slots, interrupt controllers, MSR filter, clock ...; makes a Vcpu or Device
    Vcpu    registers and state, KVM_RUN; `Vcpu.run` is the shared page, a KvmRun
    decode  a KvmRun's exit as a typed object that prints itself

Constants and structures keep their C names: `kvmapi.uapi.kvm` is linux/kvm.h, `kvmapi.uapi.x86` is
asm/kvm.h, `kvmapi.uapi.vsm` what a kernel with Hyper-V VSM adds. Errors are `KvmError`s that name the ioctl,
the errno, the operands and the usual cause. All that touches the kernel goes through `kvmapi.seam`, and
`kvmapi.fake` can stand in for it.

What does not live here: devices, machines, Hyper-V or any other policy. The package imports nothing of `vmm`.

The package `python-kvm-bindings`, on which this project was first meant to stand, does not exist on PyPI; the
nearest names there are unrelated or Python 2 only. `kvmapi` takes its place.

>>> import ctypes, mmap
>>> from kvmapi import Kvm, decode
>>> code = bytes.fromhex("b0 2a e6 80 f4")  # mov al, 42; out 0x80, al; hlt
>>> with mmap.mmap(-1, 4096) as ram, Kvm.open() as kvm, kvm.create_vm() as vm:
...     ram[: len(code)] = code
...     pin = ctypes.c_char.from_buffer(ram)
...     vm.set_user_memory_region(slot=0, gpa=0x1000, size=4096, userspace_addr=ctypes.addressof(pin))
...     vcpu = vm.create_vcpu(0)
...     sregs = vcpu.get_sregs()
...     sregs.cs.base = sregs.cs.selector = 0
...     vcpu.set_sregs(sregs)
...     regs = vcpu.get_regs()
...     regs.rip = 0x1000
...     vcpu.set_regs(regs)
...     for _ in range(2):
...         assert vcpu.run_once() == 0
...         print(decode(vcpu.run))
...     vm.close()
...     del pin
IO: out port 0x80, 1 byte: 2a
HLT
"""

from typing import TYPE_CHECKING, Any

from kvmapi.device import Device
from kvmapi.errors import (
    KvmClosedError,
    KvmError,
    KvmMsrError,
    KvmTooBigError,
    KvmUnavailableError,
    KvmUnsupportedError,
)
from kvmapi.msr_filter import MsrRange
from kvmapi.run import KvmRun
from kvmapi.stats import Stats
from kvmapi.system import Kvm
from kvmapi.vcpu import Vcpu
from kvmapi.vm import Vm

if TYPE_CHECKING:
    from kvmapi.exits import Exit, decode

__all__ = [
    "Device",
    "Exit",
    "Kvm",
    "KvmClosedError",
    "KvmError",
    "KvmMsrError",
    "KvmRun",
    "KvmTooBigError",
    "KvmUnavailableError",
    "KvmUnsupportedError",
    "MsrRange",
    "Stats",
    "Vcpu",
    "Vm",
    "decode",
]


def __getattr__(name: str) -> Any:
    # A class per exit reason takes a fifth of the library's import time, and a guest that runs well needs none.
    if name in ("Exit", "decode"):
        from kvmapi import exits

        return getattr(exits, name)
    raise AttributeError(f"module 'kvmapi' has no attribute {name!r}")
