# SPDX-License-Identifier: Apache-2.0
"""What a user asks for, in QEMU's words (`hv-time`, `hv-passthrough` ...), as features and calls.

QEMU's documentation, docs/system/i386/hyperv.rst, says what each means there. Here the hypercall MSRs, and
HvCallPostMessage and HvCallSignalEvent with the SynIC, come with any of them as they do in QEMU.

| | |
|---|---|
| `hv-passthrough` | all there is; further flags take parts away (`hv-tlbflush=off`) |
| `hv-vapic` | the MSRs, without the recommendation to use them: the kernel's local APIC is faster |
| `hv-spinlocks=N` | tries before a guest tells that it spins |
| `hv-vp-registers` | ours: HvCallGetVpRegisters, HvCallSetVpRegisters, HvCallTranslateVirtualAddress, Ex |
| `hv-guest-idle` | ours: the idle MSR; HLT is cheaper for a guest with interrupts enabled |
| `hv-hypercall-exits` | ours: VMCALL or VMMCALL in the hypercall page (on), a port write (off); `transport` |
| `hv-start-vp` | ours: HvCallStartVirtualProcessor |
| `hv-vsm` | ours: Virtual Trust Levels, with what `hv-vp-registers`, `hv-start-vp`, `hv-tlbflush`, `hv-ipi` offer |
| `hv-switch-space` | ours: HvCallSwitchVirtualAddressSpace; never recommended, MOV CR3 needs no exit |
| `hv-frequencies`, `hv-reset`, `hv-crash`, `hv-runtime`, `hv-vpindex`, `hv-synic`, `hv-stimer` ... | as in QEMU |

Implements: WIN-013
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.cpuid import HV_SPIN_RETRIES_NEVER_NOTIFY
from vmm.hvcpuid import DEFAULT_FEATURES, HvFeature
from vmm.hypercall.call import Features

_F = HvFeature
_TLB: Final = frozenset(
    {
        Code.HvCallFlushVirtualAddressSpace,
        Code.HvCallFlushVirtualAddressList,
        Code.HvCallFlushVirtualAddressSpaceEx,
        Code.HvCallFlushVirtualAddressListEx,
    }
)
_IPI: Final = frozenset({Code.HvCallSendSyntheticClusterIpi, Code.HvCallSendSyntheticClusterIpiEx})
_REGISTERS: Final = frozenset(
    {
        Code.HvCallGetVpRegisters,
        Code.HvCallSetVpRegisters,
        Code.HvCallTranslateVirtualAddress,
        Code.HvCallTranslateVirtualAddressEx,
    }
)
_START: Final = frozenset({Code.HvCallStartVirtualProcessor})
_VSM: Final = frozenset(
    {
        Code.HvCallAssertVirtualInterrupt,
        Code.HvCallInstallIntercept,
        Code.HvCallModifyVtlProtectionMask,
        Code.HvCallEnablePartitionVtl,
        Code.HvCallEnableVpVtl,
        Code.HvCallVtlCall,
        Code.HvCallVtlReturn,
    }
)
_VTL2: Final = frozenset(
    {
        Code.HvCallSignalEventDirect,
        Code.HvCallPostMessageDirect,
        Code.HvCallCheckSparseGpaPageVtlAccess,
    }
)
"""What VTL2 does to those below it; any lower VTL is denied it."""
_SWITCH: Final = frozenset({Code.HvCallSwitchVirtualAddressSpace})
_SYNIC: Final = frozenset({Code.HvCallPostMessage, Code.HvCallSignalEvent})
_ALWAYS: Final = frozenset({Code.HvCallNotifyLongSpinWait, Code.HvCallGetVpIndexFromApicId})

VSM: Final = "hv-vsm"
FEATURE_FLAGS: Final[dict[str, frozenset[HvFeature]]] = {
    "hv-relaxed": frozenset(),
    "hv-vapic": frozenset({_F.APIC}),
    "hv-vpindex": frozenset({_F.VP_INDEX}),
    "hv-runtime": frozenset({_F.VP_RUNTIME}),
    "hv-crash": frozenset({_F.CRASH}),
    "hv-time": frozenset({_F.TIME, _F.REFERENCE_TSC}),
    "hv-synic": frozenset({_F.SYNIC}),
    "hv-stimer": frozenset({_F.STIMER}),
    "hv-stimer-direct": frozenset({_F.STIMER_DIRECT}),
    "hv-frequencies": frozenset({_F.FREQUENCIES}),
    "hv-reset": frozenset({_F.RESET}),
    "hv-reenlightenment": frozenset({_F.REENLIGHTENMENT}),
    "hv-guest-idle": frozenset({_F.IDLE}),
}
CALL_FLAGS: Final[dict[str, frozenset[Code]]] = {
    "hv-tlbflush": _TLB,
    "hv-ipi": _IPI,
    "hv-vp-registers": _REGISTERS,
    "hv-start-vp": _START,
    "hv-switch-space": _SWITCH,
    VSM: _VSM | _VTL2,
}
BESIDE_VSM: Final = ("hv-vp-registers", "hv-start-vp", "hv-tlbflush", "hv-ipi")
"""What VTLs need: registers and a start for each other; flushes that a VTL1 can hold (TLB-005); interrupts from one to
another. A flag that is named counts for itself."""
XMM_FLAGS: Final = ("hv-xmm-input", "hv-xmm-output")
PASSTHROUGH: Final = "hv-passthrough"
SPINLOCKS: Final = "hv-spinlocks"
EXITS: Final = "hv-hypercall-exits"
NO_EFFECT: Final = frozenset({"hv-enforce-cpuid", "hv-avic", "hv-apicv", "hv-no-nonarch-coresharing"})
"""Accepted: what is not announced always faults, AutoEoi is never recommended, the scheduler promises nothing."""

NAMES: Final = tuple(
    sorted({*FEATURE_FLAGS, *CALL_FLAGS, *XMM_FLAGS, PASSTHROUGH, SPINLOCKS, EXITS, *NO_EFFECT})
)

_ON: Final = frozenset({"on", "yes", "true", "y"})
_OFF: Final = frozenset({"off", "no", "false", "n"})
_LEAST_SPINS: Final = 0xFFF  # QEMU's lower bound


class HypervFlagError(ValueError):
    """A flag that says nothing, or a feature without one that it needs. One line."""


@dataclass(frozen=True)
class Wanted:
    """What a machine shall offer."""

    features: frozenset[HvFeature]
    codes: frozenset[Code]
    convention: Features
    spin_retries: int = HV_SPIN_RETRIES_NEVER_NOTIFY
    exits: bool | None = None
    """Whether hypercalls shall leave by the processor's instruction; None: where nothing is lost by that."""

    @property
    def vsm(self) -> bool:
        """Whether there are Virtual Trust Levels."""
        return Code.HvCallEnableVpVtl in self.codes

    def without(self, feature: HvFeature) -> Wanted:
        """The same without a feature that this host cannot give."""
        return replace(self, features=self.features - {feature})


# With flushes: a VTL1 can hold VTL0's TLBs only where VTL0 flushes by call. Implements: TLB-005
EVERYTHING: Final = Wanted(
    DEFAULT_FEATURES,
    _ALWAYS | _SYNIC | _TLB | _IPI | _REGISTERS | _START | _SWITCH | {Code.HvExtCallQueryCapabilities},
    Features(),
)


def wanted(flags: Mapping[str, str]) -> Wanted | None:
    """What `flags` (name with dashes -> value) ask for; None when they leave the interface off.

    Errors: `HypervFlagError`.
    """
    switches = {name: _switch(name, text) for name, text in flags.items() if name != SPINLOCKS}
    if switches.get(VSM):
        switches = {**dict.fromkeys(BESIDE_VSM, True), **switches}
    for name in flags:
        if name not in NAMES:
            raise HypervFlagError(f"CPU option '{name}': expected one of {', '.join(NAMES)}")
    spins = _spins(flags[SPINLOCKS]) if SPINLOCKS in flags else None
    exits = switches.pop(EXITS, None)
    if not any(switches.values()) and spins is None:
        return None
    if switches.pop(PASSTHROUGH, False):
        features, codes, xmm = EVERYTHING.features, EVERYTHING.codes, dict.fromkeys(XMM_FLAGS, True)
    else:
        features, codes, xmm = frozenset({_F.HYPERCALL}), _ALWAYS, dict.fromkeys(XMM_FLAGS, False)
    for name, on in switches.items():
        new_features, new_codes = FEATURE_FLAGS.get(name, frozenset()), CALL_FLAGS.get(name, frozenset())
        features = features | new_features if on else features - new_features
        codes = codes | new_codes if on else codes - new_codes
        if name in xmm:
            xmm[name] = on
    return Wanted(
        features,
        codes | _SYNIC if _F.SYNIC in features else codes - _SYNIC,
        Features(xmm_input=xmm["hv-xmm-input"], xmm_output=xmm["hv-xmm-output"]),
        HV_SPIN_RETRIES_NEVER_NOTIFY if spins is None else spins,
        exits,
    )


def _switch(name: str, text: str) -> bool:
    if text.lower() in _ON:
        return True
    if text.lower() in _OFF:
        return False
    if name in NO_EFFECT:
        return False
    raise HypervFlagError(f"CPU option '{name}={text}': expected {name}=on or {name}=off")


def _spins(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not _LEAST_SPINS <= value <= HV_SPIN_RETRIES_NEVER_NOTIFY:
        raise HypervFlagError(
            f"CPU option '{SPINLOCKS}={text}': expected a number of tries, {_LEAST_SPINS:#x} to "
            f"{HV_SPIN_RETRIES_NEVER_NOTIFY:#x} (never tell)"
        )
    return value
