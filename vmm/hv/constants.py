# SPDX-License-Identifier: Apache-2.0
"""Numbers that the whole Hyper-V interface shares.

TLFS 4.2 (partitions), 7.8 (virtual processors), chapter 3 (hypercalls), chapter 15 "Virtual Secure Mode".
"""

from __future__ import annotations

HV_PAGE_SIZE = 4096
"""Bytes of a page, for every page number and every overlay (TLFS 1.8)."""
HV_PAGE_SHIFT = 12

HV_PARTITION_ID_SELF = 0xFFFF_FFFF_FFFF_FFFF
"""The caller's own partition (TLFS 4.2)."""
HV_PARTITION_ID_INVALID = 0

HV_VP_INDEX_SELF = 0xFFFF_FFFE
"""The caller's own virtual processor (TLFS 7.8)."""
HV_ANY_VP = 0xFFFF_FFFF
"""Any virtual processor of the partition (TLFS 7.8)."""

HV_INVALID_VTL = 0xFF
HV_VTL_ALL = 0xF
HV_NUM_VTLS_ARCHITECTURAL = 16
"""VTL numbers are four bits wide everywhere; TLFS 15.2 names two of them, OpenVMM a third."""

HV_REFERENCE_TIME_UNIT_NS = 100
"""Nanoseconds of one unit of partition reference time (TLFS 12)."""

HV_SYNIC_SINT_COUNT = 16
"""Synthetic interrupt sources per virtual processor and VTL (TLFS 11.8.5)."""
HV_SYNIC_INTERCEPTION_SINT_INDEX = 0
"""The source that carries intercept messages (TLFS 15.13)."""
HV_SYNIC_EVENT_FLAGS_COUNT = 2048
"""Event flags of one source: 256 bytes of the event flags page (TLFS 11.9)."""
HV_STIMER_COUNT = 4
"""Synthetic timers per virtual processor and VTL (TLFS 12.4)."""
HV_MESSAGE_SIZE = 256
"""Bytes of a message slot (TLFS 11.7)."""
HV_MESSAGE_PAYLOAD_SIZE = 240
"""Bytes of a message's payload, the most a guest may post (TLFS 11.7)."""

HV_HYPERCALL_FAST_INPUT_SIZE = 16
"""Bytes of input in RDX and R8 (TLFS 3.7)."""
HV_HYPERCALL_FAST_XMM_INPUT_SIZE = 112
"""Bytes of input in RDX, R8 and XMM0 to XMM5 (TLFS 3.7)."""
HV_EXT_CALL_FIRST = 0x8000
"""Call codes from here on are extended hypercalls (TLFS 3.14)."""
HV_FLUSH_MAX_ADDITIONAL_PAGES = 0xFFF
"""The largest count of further pages in one GVA range (TLFS 9.4)."""
