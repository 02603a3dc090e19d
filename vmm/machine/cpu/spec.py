# SPDX-License-Identifier: Apache-2.0
"""The text after `-cpu`, parsed: a model name, features switched on and off, and properties.

The language is QEMU's: `MODEL[,+feature][,-feature][,feature=on|off][,feature][,property=value]...`. Dashes
and underscores are the same. For one feature, `-feature` beats `+feature`, and both beat `feature=on|off`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vmm.machine.cpu.features import ARCH_CAPABILITY_MASKS, find, nearest, normalise
from vmm.machine.cpu.models import NAMES, VENDORS

DEFAULT_MODEL = "qemu64"
MIN_PHYS_BITS, MAX_PHYS_BITS = 32, 52  # KVM needs PAE's 32; the architecture's page tables hold 52


class CpuSpecError(ValueError):
    """A CPU description that cannot be understood. The message says which part and what would be right."""


@dataclass(frozen=True, slots=True)
class CpuSpec:
    """What the user asked for. `None` means: as the model says.

    on, off: feature names of `features.FEATURES` and `features.ARCH_CAPABILITY_MASKS`.
    hyperv: `hv-*` properties with their values, for the Hyper-V interface to read.
    unsupported: names that are understood, but have no effect here; the builder warns about them.
    """

    model: str = DEFAULT_MODEL
    on: frozenset[str] = frozenset()
    off: frozenset[str] = frozenset()
    vendor: str | None = None
    family: int | None = None
    model_number: int | None = None
    stepping: int | None = None
    brand: str | None = None
    level: int | None = None
    xlevel: int | None = None
    phys_bits: int | None = None
    host_phys_bits: bool | None = None
    host_phys_bits_limit: int = 0
    tsc_hz: int | None = None
    ucode_rev: int | None = None
    pmu: bool | None = None
    kvm: bool = True
    migratable: bool = True
    check: bool = True
    enforce: bool = False
    host_cache_info: bool | None = None
    hyperv: dict[str, str] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()


def _number(text: str, low: int, high: int) -> int:
    expected = f"expected {low:#x} to {high:#x}, found {text!r}"
    if not text.isascii():  # int() takes the digits of every script
        raise ValueError(expected)
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError(expected) from None
    if not low <= value <= high:
        raise ValueError(expected)
    return value


def _switch(text: str) -> bool:
    match text.lower():
        case "on" | "yes" | "true" | "y":
            return True
        case "off" | "no" | "false" | "n":
            return False
    raise ValueError(f"expected on or off, found {text!r}")


def _vendor(text: str) -> str:
    if len(text) != 12 or not text.isascii():
        raise ValueError(f"expected 12 ASCII characters, such as {', '.join(VENDORS)}")
    return text


def _hertz(text: str) -> int:
    """A frequency with an optional decimal suffix k, M or G."""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    expected = f"expected 1M to 100G hertz, found {text!r}"
    if not text.isascii():
        raise ValueError(expected)
    try:
        value = int(float(text[:-1]) * scale) if scale > 1 else int(text, 0)
    except (ValueError, OverflowError):  # OverflowError: infinity
        raise ValueError(expected) from None
    if not 10**6 <= value <= 10**11:
        raise ValueError(expected)
    return value


def _phys_bits(text: str) -> int:
    """A width of physical addresses; 0 for none given."""
    return 0 if text == "0" else _number(text, MIN_PHYS_BITS, MAX_PHYS_BITS)


# Property -> (field of CpuSpec, how its text is read).
PROPERTIES: dict[str, tuple[str, Callable[[str], object]]] = {
    "vendor": ("vendor", _vendor),
    "family": ("family", lambda t: _number(t, 0, 0xFF + 0xF)),
    "model": ("model_number", lambda t: _number(t, 0, 0xFF)),
    "stepping": ("stepping", lambda t: _number(t, 0, 0xF)),
    "model-id": ("brand", str),
    "level": ("level", lambda t: _number(t, 1, 0xFF)),
    "min-level": ("level", lambda t: _number(t, 1, 0xFF)),
    "xlevel": ("xlevel", lambda t: _number(t, 0x8000_0000, 0x8000_00FF)),
    "min-xlevel": ("xlevel", lambda t: _number(t, 0x8000_0000, 0x8000_00FF)),
    "phys-bits": ("phys_bits", _phys_bits),
    "host-phys-bits": ("host_phys_bits", _switch),
    "host-phys-bits-limit": ("host_phys_bits_limit", _phys_bits),
    "tsc-frequency": ("tsc_hz", _hertz),
    "tsc-freq": ("tsc_hz", _hertz),
    "ucode-rev": ("ucode_rev", lambda t: _number(t, 0, 2**64 - 1)),
    "pmu": ("pmu", _switch),
    "kvm": ("kvm", _switch),
    "migratable": ("migratable", _switch),
    "check": ("check", _switch),
    "enforce": ("enforce", _switch),
    "host-cache-info": ("host_cache_info", _switch),
}

# QEMU switches that change nothing in this VMM's guests at either value.
NO_EFFECT = frozenset(
    {"l3-cache", "legacy-cache", "cpuid-0xb", "fill-mtrr-mask", "vmware-cpuid-freq", "full-cpuid-auto-level"}
)


def _unknown(item: str, name: str) -> CpuSpecError:
    known = nearest(name) or nearest(name, list(PROPERTIES))
    hint = f"; did you mean {' or '.join(known)}?" if known else "; `vmm run --cpu help` lists all"
    return CpuSpecError(f"CPU option '{item}': no feature or property is called '{name}'{hint}")


def parse_cpu(text: str) -> CpuSpec:
    """Parse `text`, as in `qemu64,+x2apic,-vmx,vendor=GenuineIntel`. Raises `CpuSpecError`."""
    model, *items = [part.strip() for part in text.split(",")]
    if model not in NAMES:
        close = nearest(model, list(NAMES))
        hint = f"did you mean {' or '.join(close)}?" if close else f"known models: {', '.join(NAMES)}"
        raise CpuSpecError(f"no CPU model is called '{model}'; {hint}")
    plus: set[str] = set()
    minus: set[str] = set()
    switches: dict[str, bool] = {}
    fields: dict[str, object] = {}
    hyperv: dict[str, str] = {}
    unsupported: list[str] = []

    for item in items:
        sign = item[:1] if item[:1] in ("+", "-") else ""
        name, equals, value = item[len(sign) :].partition("=")
        key = normalise(name)
        if not key or (sign and equals):
            raise CpuSpecError(f"CPU option '{item}' of '{text}': expected +feature, -feature or name=value")
        if key.startswith("hv-"):
            hyperv[key] = value or ("off" if sign == "-" else "on")
        elif key in PROPERTIES and (not sign or PROPERTIES[key][1] is _switch):
            attribute, read = PROPERTIES[key]
            try:
                fields[attribute] = read(value if equals else "off" if sign == "-" else "on")
            except ValueError as error:
                raise CpuSpecError(f"CPU option '{item}': {error}") from error
        elif key.startswith("vmx-") or key in NO_EFFECT:
            unsupported.append(item)
        else:
            names = {f.name for f in find(key)} or ({key} if key in ARCH_CAPABILITY_MASKS else set())
            if not names:
                raise _unknown(item, name)
            if sign:
                (plus if sign == "+" else minus).update(names)
                continue
            try:
                switches.update(dict.fromkeys(names, _switch(value) if equals else True))
            except ValueError as error:
                raise CpuSpecError(f"CPU option '{item}': {error}") from error

    on = {name for name, state in switches.items() if state} | plus
    off = {name for name, state in switches.items() if not state} - plus
    return CpuSpec(
        model=model,
        on=frozenset(on - minus),
        off=frozenset(off | minus),
        hyperv=hyperv,
        unsupported=tuple(unsupported),
        **fields,  # type: ignore[arg-type]  # PROPERTIES pairs each field with a reader of its type
    )
