# SPDX-License-Identifier: Apache-2.0
"""The language after `-cpu`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.cpu.recorded_hosts import load
from vmm.cli.main import main
from vmm.machine.cpu import CpuidTable, CpuSpec, CpuSpecError, Topology, parse_cpu
from vmm.machine.cpu.features import ALIASES, FEATURES
from vmm.machine.cpu.models import NAMES
from vmm.machine.cpu.spec import MAX_PHYS_BITS, MIN_PHYS_BITS, PROPERTIES


def test_model_alone() -> None:
    assert parse_cpu("kvm64") == CpuSpec(model="kvm64")


def test_plus_and_minus() -> None:
    spec = parse_cpu("qemu64,+x2apic,-vmx")
    assert (set(spec.on), set(spec.off)) == ({"x2apic"}, {"vmx"})


@pytest.mark.parametrize("text", ["qemu64,sse3=off", "qemu64,-sse3", "qemu64,pni=no", "qemu64,-pni"])
def test_aliases_name_one_bit(text: str) -> None:
    assert parse_cpu(text).off == {"pni"}


@pytest.mark.parametrize("item", ["tsc-deadline", "tsc_deadline", "+tsc_deadline", "tsc-deadline=on"])
def test_dashes_and_underscores_are_equal(item: str) -> None:
    assert parse_cpu(f"qemu64,{item}").on == {"tsc-deadline"}


def test_kvmclock_stands_for_both_clock_bits() -> None:
    assert parse_cpu("host,-kvmclock").off == {"kvmclock", "kvmclock2"}


@pytest.mark.parametrize(
    ("text", "on", "off"),
    [
        ("qemu64,+smep,-smep", set(), {"smep"}),
        ("qemu64,-smep,+smep", set(), {"smep"}),
        ("qemu64,smep=off,+smep", {"smep"}, set()),
        ("qemu64,-smep,smep=on", set(), {"smep"}),
        ("qemu64,smep=on,smep=off", set(), {"smep"}),
    ],
)
def test_precedence_is_minus_plus_assignment(text: str, on: set[str], off: set[str]) -> None:
    spec = parse_cpu(text)
    assert (set(spec.on), set(spec.off)) == (on, off)


def test_properties() -> None:
    spec = parse_cpu(
        "max,vendor=GenuineIntel,family=6,model=0x8f,stepping=8,model-id=Some CPU,level=0x16,"
        "xlevel=0x80000008,phys-bits=36,host-phys-bits=off,tsc-frequency=2.5G,pmu=off,kvm=off,migratable=no,enforce"
    )
    assert spec == CpuSpec(
        model="max",
        vendor="GenuineIntel",
        family=6,
        model_number=0x8F,
        stepping=8,
        brand="Some CPU",
        level=0x16,
        xlevel=0x8000_0008,
        phys_bits=36,
        host_phys_bits=False,
        tsc_hz=2_500_000_000,
        pmu=False,
        kvm=False,
        migratable=False,
        enforce=True,
    )


@pytest.mark.parametrize(("item", "pmu"), [("pmu", True), ("+pmu", True), ("-pmu", False), ("pmu=on", True)])
def test_switch_properties_take_signs(item: str, pmu: bool) -> None:
    assert parse_cpu(f"host,{item}").pmu is pmu


def test_hyperv_properties_are_kept() -> None:
    spec = parse_cpu("kvm64,hv_vpindex,hv-synic=on,hv-spinlocks=0x1fff,-hv_time")
    assert spec.hyperv == {
        "hv-vpindex": "on",
        "hv-synic": "on",
        "hv-spinlocks": "0x1fff",
        "hv-time": "off",
    }


def test_vmx_controls_are_understood_but_not_applied() -> None:
    assert parse_cpu("max,+vmx,vmx-mbec=on").unsupported == ("vmx-mbec=on",)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("qemu46", "did you mean qemu64"),
        ("haswel", "did you mean Haswell"),
        ("Opteron-G1", "did you mean Opteron_G1"),
        ("486", "known models: host, max, qemu64"),
        ("", "known models"),
        ("qemu64,+tsc-deadlin", "did you mean tsc-deadline"),
        ("qemu64,phys-bit=40", "did you mean"),
        ("qemu64,+zzzz", "vmm run --cpu help"),
        ("qemu64,", "expected +feature"),
        ("qemu64,+", "expected +feature"),
        ("qemu64,+smep=on", "expected +feature"),
        ("qemu64,smep=maybe", "expected on or off"),
        ("qemu64,vendor=Intel", "12 ASCII characters"),
        ("qemu64,family=0x1000", "expected 0x0 to"),
        ("qemu64,phys-bits=64", "expected 0x20 to 0x34"),
        ("host,host-phys-bits-limit=31", "expected 0x20 to 0x34"),
        ("host,host-phys-bits-limit=53", "expected 0x20 to 0x34"),
        ("qemu64,tsc-frequency=12", "1M to 100G"),
        ("qemu64,stepping=x", "stepping=x"),
    ],
)
def test_errors_say_what_was_expected(text: str, part: str) -> None:
    with pytest.raises(CpuSpecError, match=part.replace("+", r"\+")):
        parse_cpu(text)


def test_every_alias_names_a_feature() -> None:
    assert {target for target in ALIASES.values() if target not in FEATURES} == set()


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_every_feature_can_be_switched(name: str) -> None:
    spec = parse_cpu(f"max,+{name}")
    assert name in spec.on


VALUES = ("", "on", "off", "0", "1", "-1", "0x20", "52", "0xff", "1e400", "nan", "1.5G", "٣", "GenuineIntel")
ITEMS = st.builds(
    lambda sign, name, value: f"{sign}{name}{value}",
    st.sampled_from(("", "", "+", "-")),
    st.sampled_from((*PROPERTIES, "avx2", "hv-time", "vmx-mbec", "l3-cache", "zzzz", "")),
    st.one_of(st.just(""), st.sampled_from(VALUES).map("={}".format)),
)
TEXTS = st.one_of(
    st.text(alphabet="+-=,_ abhqemu64sx0.", max_size=40), st.lists(ITEMS, max_size=6).map(",".join)
)


@given(st.sampled_from(("qemu64", "host")), TEXTS)
def test_any_text_is_a_processor_or_raises_cpu_spec_error(model: str, text: str) -> None:
    try:
        cpu = load("kvm-intel").resolve(f"{model},{text}")
    except CpuSpecError as error:
        assert "\n" not in str(error)
    else:
        assert MIN_PHYS_BITS <= cpu.phys_bits <= MAX_PHYS_BITS
        assert CpuidTable(cpu.entries(Topology(1), 0)).limit(0) == cpu.level


def test_help_names_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["run", "--cpu", "help"])
    words = set(capsys.readouterr().out.split())
    assert status == 0
    assert {*NAMES, *FEATURES, *PROPERTIES} - words == set()
