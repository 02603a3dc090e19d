# SPDX-License-Identifier: Apache-2.0
"""What a hypercall returns in bits 15:0 of its result (TLFS appendix B).

A member is the TLFS name without its prefix: `HvStatus.INVALID_PARAMETER` is HV_STATUS_INVALID_PARAMETER.
"""

from __future__ import annotations

from vmm.hv.open_enum import OpenIntEnum


class HvStatus(OpenIntEnum):
    """HV_STATUS. Zero is success; the values 0x0001 and 0x000F are reserved and have no name."""

    SUCCESS = 0x0000  # done
    INVALID_HYPERCALL_CODE = 0x0002  # call code not implemented
    INVALID_HYPERCALL_INPUT = (
        0x0003  # bad rep count, rep start, reserved control bit, or unexpected variable header
    )
    INVALID_ALIGNMENT = 0x0004  # input or output GPA misaligned, list crosses a page
    INVALID_PARAMETER = 0x0005  # parameter value not acceptable
    ACCESS_DENIED = 0x0006  # caller lacks right, including a VTL that is too low
    INVALID_PARTITION_STATE = 0x0007  # partition in wrong state
    OPERATION_DENIED = 0x0008  # operation refused
    UNKNOWN_PROPERTY = 0x0009  # property id unknown
    PROPERTY_VALUE_OUT_OF_RANGE = 0x000A  # property value out of range
    INSUFFICIENT_MEMORY = 0x000B  # hypervisor out of memory
    PARTITION_TOO_DEEP = 0x000C  # partition nesting limit
    INVALID_PARTITION_ID = 0x000D  # partition id unknown
    INVALID_VP_INDEX = 0x000E  # VP index unknown
    NOT_FOUND = 0x0010  # object absent
    INVALID_PORT_ID = 0x0011  # port id unknown or duplicate
    INVALID_CONNECTION_ID = 0x0012  # connection id unknown or duplicate
    INSUFFICIENT_BUFFERS = 0x0013  # no message buffer at target port
    NOT_ACKNOWLEDGED = 0x0014  # external interrupt not yet acknowledged
    INVALID_VP_STATE = 0x0015  # VP in wrong state
    ACKNOWLEDGED = 0x0016  # external interrupt still acknowledged
    INVALID_SAVE_RESTORE_STATE = 0x0017  # save or restore sequence error
    INVALID_SYNIC_STATE = 0x0018  # needed SynIC feature disabled
    OBJECT_IN_USE = 0x0019  # object busy
    INVALID_PROXIMITY_DOMAIN_INFO = 0x001A  # bad proximity information
    NO_DATA = 0x001B  # nothing to retrieve
    INACTIVE = 0x001C  # debug link idle
    NO_RESOURCES = 0x001D  # resource exhausted
    FEATURE_UNAVAILABLE = 0x001E  # feature not available to caller
    PARTIAL_PACKET = 0x001F  # debug packet truncated
    PROCESSOR_FEATURE_NOT_SUPPORTED = 0x0020  # restore state needs missing CPU feature
    PROCESSOR_CACHE_LINE_FLUSH_SIZE_INCOMPATIBLE = 0x0030  # cache line flush size mismatch
    INSUFFICIENT_BUFFER = 0x0033  # buffer too small
    INCOMPATIBLE_PROCESSOR = 0x0037  # CPU architecture mismatch
    INSUFFICIENT_DEVICE_DOMAINS = 0x0038  # IOMMU domains exhausted
    CPUID_FEATURE_VALIDATION_ERROR = 0x003C  # LP CPUID mismatch
    CPUID_XSAVE_FEATURE_VALIDATION_ERROR = 0x003D  # LP XSAVE CPUID mismatch
    PROCESSOR_STARTUP_TIMEOUT = 0x003E  # LP start timed out
    SMX_ENABLED = 0x003F  # SMX enabled by firmware
    INVALID_LP_INDEX = 0x0041  # LP index unknown
    INVALID_REGISTER_VALUE = 0x0050  # register value not acceptable
    INVALID_VTL_STATE = 0x0051  # VTL state conflicts with the request
    NX_NOT_DETECTED = 0x0055  # NX missing
    INVALID_DEVICE_ID = 0x0057  # device id unknown
    INVALID_DEVICE_STATE = 0x0058  # device in wrong state
    PENDING_PAGE_REQUESTS = 0x0059  # page requests were dropped
    PAGE_REQUEST_INVALID = 0x0060  # page request exceeds permissions
    KEY_ALREADY_EXISTS = 0x0065  # key exists
    DEVICE_ALREADY_IN_DOMAIN = 0x0066  # device attached already
    INVALID_CPU_GROUP_ID = 0x006F  # CPU group unknown
    INVALID_CPU_GROUP_STATE = 0x0070  # CPU group in wrong state
    OPERATION_FAILED = 0x0071  # operation failed
    NOT_ALLOWED_WITH_NESTED_VIRT_ACTIVE = 0x0072  # nested virtualization active
    INSUFFICIENT_ROOT_MEMORY = 0x0073  # root out of memory
    EVENT_BUFFER_ALREADY_FREED = 0x0074  # event buffer released already
    TIME_OUT = 0x0078  # timed out
    CALL_PENDING = 0x0079  # call continues asynchronously
    VTL_ALREADY_ENABLED = 0x0086  # VTL enabled already
    UNKNOWN_REGISTER_NAME = 0x0087  # register name unknown
