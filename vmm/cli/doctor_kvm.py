# SPDX-License-Identifier: Apache-2.0
"""What `vmm doctor` makes of KVM's answers."""

from __future__ import annotations

from collections.abc import Iterator

from kvmapi.vsm_support import VSM_FEATURES, VsmSeries
from vmm.backend.host_capabilities import BY_NAME, Need
from vmm.backend.host_profile import HostKind, HostProfile
from vmm.backend.ring0 import Outcome, Ring0
from vmm.backend.vsm import startup_signals, waits
from vmm.cli.doctor_findings import Finding, Severity
from vmm.cli.doctor_host import HostFacts


def kvm_findings(facts: HostFacts, host: HostProfile, ring0: Ring0 | None) -> Iterator[Finding]:
    """What KVM's answers mean. ring0 None: not measured."""
    yield _kind(host)
    yield from _series(host)
    yield _engine(facts, host)
    if ring0 is not None:
        yield _ring0_speed(ring0, host.modules.hardware)
        yield from _ring0_gaps(ring0)
    yield _required(host)
    yield from _wanted(facts, host)
    yield _vcpus(facts, host)
    yield _hyperv(host)
    yield _vtl_memory(host)
    yield _vtl_wakeup(host)
    yield _vtl_startup(host)
    yield _nested(host)


def _kind(host: HostProfile) -> Finding:
    found = f"KVM of kind '{host.kind}'"
    match host.kind:
        case HostKind.PATCHED:
            return Finding(
                "kind", Severity.OK, found, "has the VSM additions: VTLs run on the kernel's own means"
            )
        case HostKind.UPSTREAM:
            meaning = "has Hyper-V emulation but no VSM additions: VTLs work by the VMM's own means"
            return Finding(
                "kind", Severity.OK, found, meaning, "optional: a kernel with the series in kernel/"
            )
    meaning = "has no Hyper-V emulation: the whole Hyper-V interface is the VMM's own"
    return Finding("kind", Severity.OK, found, meaning, "optional: a kernel with the series in kernel/")


def _series(host: HostProfile) -> Iterator[Finding]:
    support = host.vsm_support
    match support.series:
        case VsmSeries.OURS:
            found = f"kernel series of this project, features {support.features:#x}"
            missing = [name for name, bit in VSM_FEATURES.items() if not support.features & bit]
            if missing:
                meaning = f"an older state of the series, without: {', '.join(missing)}"
                yield Finding(
                    "vsm_series", Severity.NOTE, found, meaning, "build the kernel with kernel/series"
                )
            else:
                yield Finding(
                    "vsm_series", Severity.OK, found, "complete; `make test` tests it on this host's /dev/kvm"
                )
        case VsmSeries.ORIGINAL:
            yield Finding(
                "vsm_series",
                Severity.NOTE,
                "VSM of the original series (18 patches of June 2024)",
                "works, with holes: KVM's own accesses and changed page tables get round VTL protections",
                "a kernel with the series in kernel/, whose README lists the differences",
            )


def _engine(facts: HostFacts, host: HostProfile) -> Finding:
    engine = host.modules.engine or "unknown module"
    if host.modules.hardware:
        return Finding(
            "engine", Severity.OK, f"{engine}, hardware virtualization", "guests run at full speed"
        )
    if facts.virtualization:
        module = {"svm": "kvm_amd", "vmx": "kvm_intel"}[facts.virtualization]
        change = f"the processor has {facts.virtualization}: sudo modprobe {module} instead of {engine}"
    elif facts.virtualized:
        change = "ask the host around this machine for nested virtualization (nested=1 of its KVM module)"
    else:
        change = "turn on VT-x or SVM in the firmware"
    meaning = "guests run without VT-x or SVM: ring 3 at full speed, ring 0 as good as the module can"
    return Finding("engine", Severity.NOTE, f"{engine}, no hardware virtualization", meaning, change)


def _ring0_speed(ring0: Ring0, hardware: bool) -> Finding:
    rate = ring0.instructions_per_second
    if not rate:
        why = ring0.error or "the measurement did not end"
        return Finding(
            "ring0_speed", Severity.PROBLEM, f"ring 0 does not run: {why}", "guests will not start"
        )
    found = f"ring 0: {rate / 1e6:,.1f} million instructions/s"
    if not ring0.slow:
        return Finding("ring0_speed", Severity.OK, found, "ring 0 runs natively")
    if hardware:
        meaning = "KVM runs ring 0 natively, but this host's own processor is slow or emulated"
        return Finding("ring0_speed", Severity.NOTE, found, meaning, "")
    meaning = (
        "ring 0 is emulated one instruction at a time: small guests and tests run, a Linux kernel crawls"
    )
    return Finding("ring0_speed", Severity.NOTE, found, meaning, "use a host with VT-x or SVM for kernels")


def _ring0_gaps(ring0: Ring0) -> Iterator[Finding]:
    unemulated, hanging = ring0.having(Outcome.UNEMULATED), ring0.having(Outcome.HANGS)
    if unemulated:
        yield Finding(
            "ring0_gaps",
            Severity.NOTE,
            f"KVM cannot emulate in ring 0: {', '.join(unemulated)}",
            "guests may use them: the VMM carries them out, slowly",
        )
    if hanging:
        yield Finding(
            "ring0_hangs",
            Severity.NOTE,
            f"never ends in ring 0: {', '.join(hanging)}",
            "a guest that uses it hangs its processor; hypercall pages here use a port instead",
        )
    if ring0.having(Outcome.STAYS):
        yield Finding(
            "ring3_system_calls",
            Severity.NOTE,
            "a SYSCALL in ring 3 stays in ring 3",
            "the VMM takes a guest's programs to its kernel, slowly; with hyperv=on or vsm=on it does not, and "
            "they end at their first system call",
            "use a host with VT-x or SVM for programs",
        )
    if not unemulated and not hanging and ring0.outcomes:
        count = len(ring0.outcomes)
        yield Finding(
            "ring0_gaps", Severity.OK, f"all {count} instructions tried work in ring 0", "no known gaps"
        )


def _required(host: HostProfile) -> Finding:
    missing = host.missing(Need.REQUIRED)
    if not missing:
        count = sum(c.need is Need.REQUIRED for c in BY_NAME.values())
        return Finding("required", Severity.OK, f"all {count} necessary capabilities", "a guest can run")
    uses = "; ".join(f"{name}: {BY_NAME[name].use}" for name in missing)
    return Finding(
        "required",
        Severity.PROBLEM,
        f"missing: {', '.join(f'KVM_CAP_{name.upper()}' for name in missing)}",
        f"no guest can run ({uses})",
        "use Linux 5.10 or later with CONFIG_KVM",
    )


def _wanted(facts: HostFacts, host: HostProfile) -> Iterator[Finding]:
    missing = host.missing(Need.WANTED)
    for name in missing:
        if name in ("xsave", "xcrs") and not facts.xsave:
            meaning = "the processor has no XSAVE: guests get SSE, but no wider vector registers"
            yield Finding(f"wanted_{name}", Severity.NOTE, f"missing: KVM_CAP_{name.upper()}", meaning)
            continue
        yield Finding(
            f"wanted_{name}",
            Severity.NOTE,
            f"missing: KVM_CAP_{name.upper()}",
            f"not available: {BY_NAME[name].use}",
            "use a later kernel",
        )
    if not missing:
        count = sum(c.need is Need.WANTED for c in BY_NAME.values())
        yield Finding("wanted", Severity.OK, f"all {count} useful capabilities", "nothing is left out")


def _vcpus(facts: HostFacts, host: HostProfile) -> Finding:
    return Finding(
        "vcpus",
        Severity.OK,
        f"up to {host.max_vcpus} processors and {host.max_memslots} memory slots per guest",
        f"fastest with up to {facts.cores} processors in all guests together",
    )


def _hyperv(host: HostProfile) -> Finding:
    if not (host.has("x86_msr_filter") and host.has("x86_user_space_msr")):
        return Finding(
            "hyperv",
            Severity.NOTE,
            "no MSR filter",
            "guests cannot be given the Hyper-V interface",
            "use Linux 5.10 or later",
        )
    calls = "can exit from VMCALL" if host.vsm else "go through a port of the hypercall page"
    meaning = (
        f"Hyper-V interface possible; hypercalls {calls}; VTLs can intercept ports and MSRs, which leave the guest on "
        "any KVM, but not CPUID, exceptions and writes of CR0, CR4, XCR0 and descriptor tables"
    )
    return Finding("hyperv", Severity.OK, "MSR filter and user-space MSRs", meaning)


def _vtl_memory(host: HostProfile) -> Finding:
    if host.rwx_attributes:
        meaning = "VTL protections are set per page in the kernel"
        return Finding("vtl_memory", Severity.OK, "read, write and execute attributes", meaning)
    told = "each refused access is told exactly"
    if not host.modules.hardware:
        told = "refused reads of page tables are not told, and few pages can be without X alone"
    meaning = (
        f"VTL protections are made with a mapping of guest memory per VTL; {told}; pages that can be read and not "
        "executed are slow: each access to them leaves the guest"
    )
    return Finding(
        "vtl_memory",
        Severity.OK,
        f"memory attributes {host.memory_attributes:#x}",
        meaning,
        "optional: a kernel with the series in kernel/",
    )


def _vtl_wakeup(host: HostProfile) -> Finding:
    if waits.in_kernel(host.vsm_support):
        meaning = "an interrupt for one enters it at once, and nothing ticks"
        return Finding("vtl_wakeup", Severity.OK, "VTLs that do not run wait in the kernel", meaning)
    found = f"VTLs that do not run are looked at, at most every {waits.TICK_NS / 1e6:g} ms"
    meaning = "an IPI between local APICs of higher VTLs may be that late"
    return Finding("vtl_wakeup", Severity.OK, found, meaning, "optional: a kernel with the series in kernel/")


def _vtl_startup(host: HostProfile) -> Finding:
    if startup_signals.can_block(host.vsm_support):
        found, meaning = "INIT and SIPI can be blocked", "they do nothing to processors with VTLs above 0"
        return Finding("vtl_startup", Severity.OK, found, meaning)
    meaning = "a guest can reset VTL0 of a processor that runs, whatever VTLs it has"
    change = "optional: a kernel with the series in kernel/"
    return Finding("vtl_startup", Severity.OK, "INIT and SIPI cannot be blocked", meaning, change)


def _nested(host: HostProfile) -> Finding:
    engine = host.modules.engine
    value = host.modules.parameters.get(f"{engine}.nested", "")
    if value in ("1", "Y"):
        return Finding(
            "nested", Severity.OK, f"{engine}.nested={value}", "guests may run hypervisors (+svm, +vmx)"
        )
    if not host.modules.hardware:
        return Finding("nested", Severity.OK, "no nested virtualization", "guests cannot run hypervisors")
    return Finding(
        "nested",
        Severity.NOTE,
        f"{engine}.nested={value or '?'}",
        "guests cannot run hypervisors",
        f"optional: sudo modprobe -r {engine}; sudo modprobe {engine} nested=1",
    )
