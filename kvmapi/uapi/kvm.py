# SPDX-License-Identifier: Apache-2.0
"""linux/kvm.h of Linux 6.12, without what only other architectures use."""

from kvmapi.uapi.kvm_cap import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.kvm_device import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.kvm_ioctl import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.kvm_irq import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.kvm_memory import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.kvm_run import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.kvm_vcpu import *  # noqa: F403  (the header in one module)
