# SPDX-License-Identifier: Apache-2.0
"""asm/kvm.h of Linux 6.12 for x86, and what a VMM needs of asm/kvm_para.h and linux/kvm_para.h."""

from kvmapi.uapi.x86_board import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.x86_features import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.x86_nested import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.x86_para import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.x86_sev import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.x86_vcpu import *  # noqa: F403  (the header in one module)
from kvmapi.uapi.x86_xen import *  # noqa: F403  (the header in one module)
