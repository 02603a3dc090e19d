# SPDX-License-Identifier: Apache-2.0
"""asm/kvm.h: AMD's encrypted VMs (commands of KVM_MEMORY_ENCRYPT_OP)."""

from kvmapi.uapi.layout import Structure, fields, layout, u8, u16, u32, u64

KVM_SEV_INIT = 0
KVM_SEV_ES_INIT = 1
KVM_SEV_LAUNCH_START = 2
KVM_SEV_LAUNCH_UPDATE_DATA = 3
KVM_SEV_LAUNCH_UPDATE_VMSA = 4
KVM_SEV_LAUNCH_SECRET = 5
KVM_SEV_LAUNCH_MEASURE = 6
KVM_SEV_LAUNCH_FINISH = 7
KVM_SEV_SEND_START = 8
KVM_SEV_SEND_UPDATE_DATA = 9
KVM_SEV_SEND_UPDATE_VMSA = 10
KVM_SEV_SEND_FINISH = 11
KVM_SEV_RECEIVE_START = 12
KVM_SEV_RECEIVE_UPDATE_DATA = 13
KVM_SEV_RECEIVE_UPDATE_VMSA = 14
KVM_SEV_RECEIVE_FINISH = 15
KVM_SEV_GUEST_STATUS = 16
KVM_SEV_DBG_DECRYPT = 17
KVM_SEV_DBG_ENCRYPT = 18
KVM_SEV_CERT_EXPORT = 19
KVM_SEV_GET_ATTESTATION_REPORT = 20
KVM_SEV_SEND_CANCEL = 21
KVM_SEV_INIT2 = 22
KVM_SEV_SNP_LAUNCH_START = 100
KVM_SEV_SNP_LAUNCH_UPDATE = 101
KVM_SEV_SNP_LAUNCH_FINISH = 102
KVM_SEV_NR_MAX = 103


@layout(size=24, offsets={"id": 0, "pad0": 4, "data": 8, "error": 16, "sev_fd": 20})
class kvm_sev_cmd(Structure):
    """The argument of KVM_MEMORY_ENCRYPT_OP: command `id`, address of its structure, firmware's error."""

    __slots__ = ()
    _fields_ = [("id", u32), ("pad0", u32), ("data", u64), ("error", u32), ("sev_fd", u32)]


@layout(size=48, offsets={"vmsa_features": 0, "flags": 8, "ghcb_version": 12, "pad1": 14, "pad2": 16})
class kvm_sev_init(Structure):
    """KVM_SEV_INIT2."""

    __slots__ = ()
    _fields_ = [
        ("vmsa_features", u64),
        ("flags", u32),
        ("ghcb_version", u16),
        ("pad1", u16),
        ("pad2", u32 * 8),
    ]


@layout(
    size=40,
    offsets={
        "handle": 0,
        "policy": 4,
        "dh_uaddr": 8,
        "dh_len": 16,
        "pad0": 20,
        "session_uaddr": 24,
        "session_len": 32,
        "pad1": 36,
    },
)
class kvm_sev_launch_start(Structure):
    """KVM_SEV_LAUNCH_START."""

    __slots__ = ()
    _fields_ = [
        ("handle", u32),
        ("policy", u32),
        ("dh_uaddr", u64),
        ("dh_len", u32),
        ("pad0", u32),
        ("session_uaddr", u64),
        ("session_len", u32),
        ("pad1", u32),
    ]


@layout(size=16, offsets={"uaddr": 0, "len": 8, "pad0": 12})
class kvm_sev_launch_update_data(Structure):
    """KVM_SEV_LAUNCH_UPDATE_DATA."""

    __slots__ = ()
    _fields_ = [("uaddr", u64), ("len", u32), ("pad0", u32)]


@layout(
    size=48,
    offsets={
        "hdr_uaddr": 0,
        "hdr_len": 8,
        "guest_uaddr": 16,
        "guest_len": 24,
        "trans_uaddr": 32,
        "trans_len": 40,
        "pad2": 44,
    },
)
class kvm_sev_launch_secret(Structure):
    """KVM_SEV_LAUNCH_SECRET."""

    __slots__ = ()
    _fields_ = [
        ("hdr_uaddr", u64),
        ("hdr_len", u32),
        ("pad0", u32),
        ("guest_uaddr", u64),
        ("guest_len", u32),
        ("pad1", u32),
        ("trans_uaddr", u64),
        ("trans_len", u32),
        ("pad2", u32),
    ]


@layout(size=16, offsets={"uaddr": 0, "len": 8, "pad0": 12})
class kvm_sev_launch_measure(Structure):
    """KVM_SEV_LAUNCH_MEASURE."""

    __slots__ = ()
    _fields_ = [("uaddr", u64), ("len", u32), ("pad0", u32)]


@layout(size=12, offsets={"handle": 0, "policy": 4, "state": 8})
class kvm_sev_guest_status(Structure):
    """KVM_SEV_GUEST_STATUS."""

    __slots__ = ()
    _fields_ = [*fields(u32, "handle policy state")]


@layout(size=24, offsets={"src_uaddr": 0, "dst_uaddr": 8, "len": 16, "pad0": 20})
class kvm_sev_dbg(Structure):
    """KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT."""

    __slots__ = ()
    _fields_ = [("src_uaddr", u64), ("dst_uaddr", u64), ("len", u32), ("pad0", u32)]


@layout(size=32, offsets={"mnonce": 0, "uaddr": 16, "len": 24, "pad0": 28})
class kvm_sev_attestation_report(Structure):
    """KVM_SEV_GET_ATTESTATION_REPORT."""

    __slots__ = ()
    _fields_ = [("mnonce", u8 * 16), ("uaddr", u64), ("len", u32), ("pad0", u32)]


@layout(
    size=72,
    offsets={
        "policy": 0,
        "pdh_cert_uaddr": 8,
        "pdh_cert_len": 16,
        "plat_certs_uaddr": 24,
        "plat_certs_len": 32,
        "amd_certs_uaddr": 40,
        "amd_certs_len": 48,
        "session_uaddr": 56,
        "session_len": 64,
        "pad4": 68,
    },
)
class kvm_sev_send_start(Structure):
    """KVM_SEV_SEND_START."""

    __slots__ = ()
    _fields_ = [
        ("policy", u32),
        ("pad0", u32),
        ("pdh_cert_uaddr", u64),
        ("pdh_cert_len", u32),
        ("pad1", u32),
        ("plat_certs_uaddr", u64),
        ("plat_certs_len", u32),
        ("pad2", u32),
        ("amd_certs_uaddr", u64),
        ("amd_certs_len", u32),
        ("pad3", u32),
        ("session_uaddr", u64),
        ("session_len", u32),
        ("pad4", u32),
    ]


@layout(
    size=48,
    offsets={
        "hdr_uaddr": 0,
        "hdr_len": 8,
        "guest_uaddr": 16,
        "guest_len": 24,
        "trans_uaddr": 32,
        "trans_len": 40,
        "pad2": 44,
    },
)
class kvm_sev_send_update_data(Structure):
    """KVM_SEV_SEND_UPDATE_DATA."""

    __slots__ = ()
    _fields_ = [
        ("hdr_uaddr", u64),
        ("hdr_len", u32),
        ("pad0", u32),
        ("guest_uaddr", u64),
        ("guest_len", u32),
        ("pad1", u32),
        ("trans_uaddr", u64),
        ("trans_len", u32),
        ("pad2", u32),
    ]


@layout(
    size=40,
    offsets={
        "handle": 0,
        "policy": 4,
        "pdh_uaddr": 8,
        "pdh_len": 16,
        "pad0": 20,
        "session_uaddr": 24,
        "session_len": 32,
        "pad1": 36,
    },
)
class kvm_sev_receive_start(Structure):
    """KVM_SEV_RECEIVE_START."""

    __slots__ = ()
    _fields_ = [
        ("handle", u32),
        ("policy", u32),
        ("pdh_uaddr", u64),
        ("pdh_len", u32),
        ("pad0", u32),
        ("session_uaddr", u64),
        ("session_len", u32),
        ("pad1", u32),
    ]


@layout(
    size=48,
    offsets={
        "hdr_uaddr": 0,
        "hdr_len": 8,
        "guest_uaddr": 16,
        "guest_len": 24,
        "trans_uaddr": 32,
        "trans_len": 40,
        "pad2": 44,
    },
)
class kvm_sev_receive_update_data(Structure):
    """KVM_SEV_RECEIVE_UPDATE_DATA."""

    __slots__ = ()
    _fields_ = [
        ("hdr_uaddr", u64),
        ("hdr_len", u32),
        ("pad0", u32),
        ("guest_uaddr", u64),
        ("guest_len", u32),
        ("pad1", u32),
        ("trans_uaddr", u64),
        ("trans_len", u32),
        ("pad2", u32),
    ]


@layout(size=64, offsets={"policy": 0, "gosvw": 8, "flags": 24, "pad0": 26, "pad1": 32})
class kvm_sev_snp_launch_start(Structure):
    """KVM_SEV_SNP_LAUNCH_START."""

    __slots__ = ()
    _fields_ = [("policy", u64), ("gosvw", u8 * 16), ("flags", u16), ("pad0", u8 * 6), ("pad1", u64 * 4)]


KVM_SEV_SNP_PAGE_TYPE_NORMAL = 0x1
KVM_SEV_SNP_PAGE_TYPE_ZERO = 0x3
KVM_SEV_SNP_PAGE_TYPE_UNMEASURED = 0x4
KVM_SEV_SNP_PAGE_TYPE_SECRETS = 0x5
KVM_SEV_SNP_PAGE_TYPE_CPUID = 0x6


@layout(
    size=64,
    offsets={
        "gfn_start": 0,
        "uaddr": 8,
        "len": 16,
        "type": 24,
        "pad0": 25,
        "flags": 26,
        "pad1": 28,
        "pad2": 32,
    },
)
class kvm_sev_snp_launch_update(Structure):
    """KVM_SEV_SNP_LAUNCH_UPDATE."""

    __slots__ = ()
    _fields_ = [
        *fields(u64, "gfn_start uaddr len"),
        ("type", u8),
        ("pad0", u8),
        ("flags", u16),
        ("pad1", u32),
        ("pad2", u64 * 4),
    ]


KVM_SEV_SNP_ID_BLOCK_SIZE = 96
KVM_SEV_SNP_ID_AUTH_SIZE = 4096
KVM_SEV_SNP_FINISH_DATA_SIZE = 32


@layout(
    size=88,
    offsets={"id_block_uaddr": 0, "id_block_en": 16, "host_data": 19, "pad0": 51, "flags": 54, "pad1": 56},
)
class kvm_sev_snp_launch_finish(Structure):
    """KVM_SEV_SNP_LAUNCH_FINISH."""

    __slots__ = ()
    _fields_ = [
        ("id_block_uaddr", u64),
        ("id_auth_uaddr", u64),
        *fields(u8, "id_block_en auth_key_en vcek_disabled"),
        ("host_data", u8 * KVM_SEV_SNP_FINISH_DATA_SIZE),
        ("pad0", u8 * 3),
        ("flags", u16),
        ("pad1", u64 * 4),
    ]
