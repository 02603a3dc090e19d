# SPDX-License-Identifier: Apache-2.0
"""SynIC messages: types, header, and the payloads of timers and intercepts (TLFS 11.7, 11.10, 13.2; hvdef).

Payload layouts start at offset 0 of the payload, which is offset 16 of the message.
"""

from vmm.hv.bits import Bits, bit, bits, reserved
from vmm.hv.layout import U8, U16, U32, U64, Layout, padding, raw
from vmm.hv.open_enum import OpenIntEnum
from vmm.hv.vp_context import HV_X64_SEGMENT_REGISTER


class HvMessageType(OpenIntEnum):
    """HV_MESSAGE_TYPE. The hypervisor's own have bit 31 set; guests post types below 0x80000000.

    0x80010006 is the register intercept of TLFS and hvdef; Linux names it IOMMU PRQ (DIS-23).
    """

    HvMessageTypeNone = 0x00000000
    HvMessageTypeUnmappedGpa = 0x80000000
    HvMessageTypeGpaIntercept = 0x80000001
    HvMessageTypeUnacceptedGpa = 0x80000003
    HvMessageTypeGpaAttributeIntercept = 0x80000004
    HvMessageTypeEnablePartitionVtlIntercept = 0x80000005
    HvMessageTypeTimerExpired = 0x80000010
    HvMessageTypeInvalidVpRegisterValue = 0x80000020
    HvMessageTypeUnrecoverableException = 0x80000021
    HvMessageTypeUnsupportedFeature = 0x80000022
    HvMessageTypeTlbPageSizeMismatch = 0x80000023
    HvMessageTypeIommuFault = 0x80000024
    HvMessageTypeOpaqueIntercept = 0x8000003F
    HvMessageTypeEventLogBufferComplete = 0x80000040
    HvMessageTypeHypercallIntercept = 0x80000050
    HvMessageTypeSynicEventIntercept = 0x80000060
    HvMessageTypeSynicSintIntercept = 0x80000061
    HvMessageTypeSynicSintDeliverable = 0x80000062
    HvMessageTypeAsyncCallCompletion = 0x80000070
    HvMessageTypeInsufficientMemory = 0x80000071
    HvMessageTypeSchedulerVpSignalBitset = 0x80000100
    HvMessageTypeSchedulerVpSignalPair = 0x80000101
    HvMessageTypeX64IoPortIntercept = 0x80010000
    HvMessageTypeMsrIntercept = 0x80010001
    HvMessageTypeX64CpuidIntercept = 0x80010002
    HvMessageTypeExceptionIntercept = 0x80010003
    HvMessageTypeX64ApicEoi = 0x80010004
    HvMessageTypeX64LegacyFpError = 0x80010005
    HvMessageTypeRegisterIntercept = 0x80010006
    HvMessageTypeX64Halt = 0x80010007
    HvMessageTypeX64InterruptionDeliverable = 0x80010008
    HvMessageTypeX64SipiIntercept = 0x80010009
    HvMessageTypeX64RdtscIntercept = 0x8001000A
    HvMessageTypeX64ApicSmiIntercept = 0x8001000B
    HvMessageTypeArm64ResetIntercept = 0x8001000C
    HvMessageTypeX64ApicInitSipiIntercept = 0x8001000D
    HvMessageTypeX64ApicWriteIntercept = 0x8001000E
    HvMessageTypeX64ProxyInterruptIntercept = 0x8001000F
    HvMessageTypeX64IsolationCtrlRegIntercept = 0x80010010
    HvMessageTypeX64SnpGuestRequestIntercept = 0x80010011
    HvMessageTypeX64ExceptionTrapIntercept = 0x80010012
    HvMessageTypeX64SevVmgexitIntercept = 0x80010013
    HvMessageTypeX64MsrListIntercept = 0x80010015


class HvInterceptAccessType(OpenIntEnum):
    """HV_INTERCEPT_ACCESS_TYPE as intercept headers carry it: hvdef's and kvm-unit-tests' numbers (DIS-42)."""

    Read = 0
    Write = 1
    Execute = 2


class HvCacheType(OpenIntEnum):
    """HV_CACHE_TYPE: the processor's memory types (TLFS 9.3)."""

    Uncached = 0
    WriteCombining = 1
    WriteThrough = 4
    WriteProtected = 5
    WriteBack = 6


class HV_MESSAGE_FLAGS(Bits, size=1):
    """Flags of a message slot (TLFS 11.7)."""

    MessagePending = bit(0)
    """Another message waits for this slot: write EOM after emptying it."""
    Reserved = reserved(1, 7)


class HV_MESSAGE(Layout):
    """A slot of the message page. Markdown, hvdef and Linux agree on this order; v6.0b prints another (DIS-22)."""

    MessageType: U32
    """HvMessageType; 0 is an empty slot."""
    PayloadSize: U8
    """In bytes, up to 240."""
    MessageFlags: HV_MESSAGE_FLAGS
    Reserved: bytes = padding(2)
    Sender: U64
    """Partition id, or port id, of the origin."""
    Payload: bytes = raw(240)


class HV_TIMER_MESSAGE_PAYLOAD(Layout):
    """HvMessageTypeTimerExpired (TLFS 12.5). Times are partition reference time, 100 ns units."""

    TimerIndex: U32
    Reserved: bytes = padding(4)
    ExpirationTime: U64
    DeliveryTime: U64


class HV_X64_VP_EXECUTION_STATE(Bits, size=2):
    """The VP when it was intercepted (TLFS 13.2 for bits 0 to 6; hvdef)."""

    Cpl = bits(0, 2)
    Cr0Pe = bit(2)
    Cr0Am = bit(3)
    EferLma = bit(4)
    DebugActive = bit(5)
    InterruptionPending = bit(6)
    Vtl = bits(7, 4)
    EnclaveMode = bit(11)
    InterruptShadow = bit(12)
    VirtualizationFaultActive = bit(13)
    Reserved = reserved(14, 2)


class HV_X64_INSTRUCTION_LENGTH(Bits, size=1):
    """Length of the intercepted instruction, 0 when unknown, and CR8 (VSM-108)."""

    InstructionLength = bits(0, 4)
    Cr8 = bits(4, 4)


class HV_X64_INTERCEPT_MESSAGE_HEADER(Layout):
    """What every x64 intercept message begins with: the state before the instruction (TLFS 13.2, VSM-108)."""

    VpIndex: U32
    InstructionLength: HV_X64_INSTRUCTION_LENGTH
    InterceptAccessType: U8
    """HvInterceptAccessType."""
    ExecutionState: HV_X64_VP_EXECUTION_STATE
    CsSegment: HV_X64_SEGMENT_REGISTER
    Rip: U64
    Rflags: U64


class HV_X64_MEMORY_ACCESS_INFO(Bits, size=1):
    """What a memory intercept knows of the access (hvdef, VSM-109)."""

    GvaValid = bit(0)
    GvaGpaValid = bit(1)
    HypercallOutputPending = bit(2)
    TlbLocked = bit(3)
    SupervisorShadowStack = bit(4)
    Reserved = reserved(5, 3)


class HV_X64_MEMORY_INTERCEPT_MESSAGE_SHORT(Layout):
    """The 80 bytes that hvdef describes (DIS-21)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    CacheType: U32
    """HvCacheType."""
    InstructionByteCount: U8
    MemoryAccessInfo: HV_X64_MEMORY_ACCESS_INFO
    TprPriority: U8
    Reserved: bytes = padding(1)
    GuestVirtualAddress: U64
    GuestPhysicalAddress: U64
    InstructionBytes: bytes = raw(16)


class HV_X64_MEMORY_INTERCEPT_MESSAGE(Layout):
    """All 240 bytes, as TLFS v2.0, kvm-unit-tests and QEMU's VSM branch have them (DIS-21)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    CacheType: U32
    """HvCacheType."""
    InstructionByteCount: U8
    MemoryAccessInfo: HV_X64_MEMORY_ACCESS_INFO
    TprPriority: U8
    Reserved: bytes = padding(1)
    GuestVirtualAddress: U64
    GuestPhysicalAddress: U64
    InstructionBytes: bytes = raw(16)
    DsSegment: HV_X64_SEGMENT_REGISTER
    SsSegment: HV_X64_SEGMENT_REGISTER
    Rax: U64
    Rcx: U64
    Rdx: U64
    Rbx: U64
    Rsp: U64
    Rbp: U64
    Rsi: U64
    Rdi: U64
    R8: U64
    R9: U64
    R10: U64
    R11: U64
    R12: U64
    R13: U64
    R14: U64
    R15: U64


class HV_X64_IO_PORT_ACCESS_INFO(Bits, size=1):
    """The kind of a port access (hvdef)."""

    AccessSize = bits(0, 3)
    """In bytes: 1, 2 or 4."""
    StringOp = bit(3)
    RepPrefix = bit(4)
    Reserved = reserved(5, 3)


class HV_X64_IO_PORT_INTERCEPT_MESSAGE(Layout):
    """HvMessageTypeX64IoPortIntercept (hvdef)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    PortNumber: U16
    AccessInfo: HV_X64_IO_PORT_ACCESS_INFO
    InstructionByteCount: U8
    Reserved: bytes = padding(4)
    Rax: U64
    InstructionBytes: bytes = raw(16)
    DsSegment: HV_X64_SEGMENT_REGISTER
    EsSegment: HV_X64_SEGMENT_REGISTER
    Rcx: U64
    Rsi: U64
    Rdi: U64


class HV_X64_MSR_INTERCEPT_MESSAGE(Layout):
    """HvMessageTypeMsrIntercept; access type Read is RDMSR, Write is WRMSR (hvdef, VSM-117)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    MsrNumber: U32
    Reserved: bytes = padding(4)
    Rdx: U64
    Rax: U64


class HV_X64_REGISTER_INTERCEPT_FLAGS(Bits, size=1):
    """The operand of an intercepted register access (hvdef)."""

    IsMemoryOp = bit(0)
    Reserved = reserved(1, 7)


class HV_X64_REGISTER_INTERCEPT_MESSAGE(Layout):
    """HvMessageTypeRegisterIntercept (hvdef, VSM-118)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    Flags: HV_X64_REGISTER_INTERCEPT_FLAGS
    Reserved: bytes = padding(3)
    RegisterName: U32
    """HvRegisterName."""
    AccessInfo: bytes = raw(16)
    """The new value, as an HV_REGISTER_VALUE, or the operand's address."""


class HV_X64_CPUID_INTERCEPT_MESSAGE(Layout):
    """HvMessageTypeX64CpuidIntercept: the leaf asked for, and what the hypervisor would answer (hvdef)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    Rax: U64
    Rcx: U64
    Rdx: U64
    Rbx: U64
    DefaultRax: U64
    DefaultRcx: U64
    DefaultRdx: U64
    DefaultRbx: U64


class HV_X64_EXCEPTION_INFO(Bits, size=1):
    """The kind of an intercepted exception (hvdef)."""

    ErrorCodeValid = bit(0)
    SoftwareException = bit(1)
    Reserved = reserved(2, 6)


class HV_X64_EXCEPTION_INTERCEPT_MESSAGE(Layout):
    """HvMessageTypeExceptionIntercept (hvdef)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    Vector: U16
    ExceptionInfo: HV_X64_EXCEPTION_INFO
    InstructionByteCount: U8
    ErrorCode: U32
    ExceptionParameter: U64
    Reserved: bytes = padding(8)
    InstructionBytes: bytes = raw(16)
    DsSegment: HV_X64_SEGMENT_REGISTER
    SsSegment: HV_X64_SEGMENT_REGISTER
    Rax: U64
    Rcx: U64
    Rdx: U64
    Rbx: U64
    Rsp: U64
    Rbp: U64
    Rsi: U64
    Rdi: U64
    R8: U64
    R9: U64
    R10: U64
    R11: U64
    R12: U64
    R13: U64
    R14: U64
    R15: U64


class HV_X64_SIPI_INTERCEPT_MESSAGE(Layout):
    """HvMessageTypeX64SipiIntercept (hvdef)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    TargetVpIndex: U32
    Vector: U32


class HV_X64_SYNIC_SINT_DELIVERABLE_MESSAGE(Layout):
    """HvMessageTypeSynicSintDeliverable (hvdef, OHCL-009)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    DeliverableSints: U16
    """Bit N: SINT N can take a message."""
    Reserved: bytes = padding(6)


class HV_X64_INTERRUPTION_DELIVERABLE_MESSAGE(Layout):
    """HvMessageTypeX64InterruptionDeliverable (hvdef, OHCL-009)."""

    Header: HV_X64_INTERCEPT_MESSAGE_HEADER
    DeliverableType: U8
    """HvX64PendingInterruptionType."""
    Reserved: bytes = padding(7)


class HV_X64_APIC_EOI_MESSAGE(Layout):
    """HvMessageTypeX64ApicEoi (hvdef)."""

    VpIndex: U32
    InterruptVector: U32


class HV_INVALID_VP_REGISTER_MESSAGE(Layout):
    """HvMessageTypeInvalidVpRegisterValue (hvdef)."""

    VpIndex: U32
    Reserved: bytes = padding(4)
