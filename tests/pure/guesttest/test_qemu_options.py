# SPDX-License-Identifier: Apache-2.0
"""QEMU options of an entry -> options of `vmm run`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.guesttest.qemu_options import HANDLERS, MachineNeeds, OptionError, UnsupportedError, translate

DEFAULTS = ["--no-reboot", "--memory", "128M", "--cpus", "1", "--cpu", "qemu64"]


def replaced(option: str, value: str) -> list[str]:
    argv = list(DEFAULTS)
    argv[argv.index(option) + 1] = value
    return argv


def test_no_options_mean_the_machine_of_upstreams_runner() -> None:
    assert translate([]).run_arguments() == DEFAULTS


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("-smp 4", replaced("--cpus", "4")),
        ("-smp cpus=4,maxcpus=8,threads=1", replaced("--cpus", "4")),
        ("-m 2048", replaced("--memory", "2048M")),
        ("-m 4g", replaced("--memory", "4G")),
        ("-m size=512K", replaced("--memory", "512K")),
        ("-m 1 -m 2", replaced("--memory", "2M")),
        ("-cpu max,host-phys-bits,+vmx,-vmx-mbec", replaced("--cpu", "max,host-phys-bits,+vmx,-vmx-mbec")),
        ("-append -x", [*DEFAULTS, "--append=-x"]),
        ("-initrd env", [*DEFAULTS, "--initrd=env"]),
        ("-machine pit=off", [*DEFAULTS, "--machine", "pit=off"]),
        ("--machine pc,accel=kvm,pit=on", [*DEFAULTS, "--machine", "pit=on"]),
        ("-M kernel_irqchip=split", [*DEFAULTS, "--machine", "irqchip=split"]),
        ("-machine kernel-irqchip=on,vmport=off", [*DEFAULTS, "--machine", "irqchip=kernel"]),
        ("-enable-kvm --no-reboot -nodefaults -display none -serial stdio", DEFAULTS),
        ("-device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 -device pci-testdev", DEFAULTS),
        ("-global kvm-pit.lost_tick_policy=discard -overcommit mem-lock=off", DEFAULTS),
        ("-cpu host,hv_passthrough,hv-stimer=off", replaced("--cpu", "host,hv_passthrough,hv-stimer=off")),
        ("-overcommit cpu-pm=on,mem-lock=on", [*DEFAULTS, "--machine", "cpu-pm=on"]),
    ],
)
def test_options_that_exist_here(line: str, arguments: list[str]) -> None:
    assert translate(line.split(" ")).run_arguments() == arguments


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-M q35,kernel-irqchip=split", "-M q35: `vmm run` has one board"),
        ("-machine vmport=on", "-machine vmport=on"),
        ("-machine accel=tcg", "accel=tcg"),
        ("-machine kernel-irqchip=off", "kernel-irqchip=off"),
        ("-device intel-iommu,intremap=on", "-device intel-iommu: `vmm run` has no such device"),
        ("-device isa-debug-exit,iobase=0x501", "iobase is always 0xf4 here"),
        ("-device isa-debug-exit,foo=1", "no property 'foo'"),
        ("-overcommit cpu-pm=maybe", "-overcommit cpu-pm=maybe"),
        ("-smp 8,threads=4", "no CPU topology (threads)"),
        ("-m 1G,slots=2", "no memory hotplug (slots)"),
        ("-bios x", "-bios: `vmm run` has no such option"),
        ("-cpu max,hv_time,hv-nonsense=on", "`vmm run` has no hv-nonsense"),
        ("-cpu host,+hv_nonsense", "`vmm run` has no hv-nonsense"),
        ("-accel tcg", "-accel tcg"),
        ("-global kvm-pit.lost_tick_policy=delay", "-global kvm-pit.lost_tick_policy=delay"),
    ],
)
def test_option_without_counterpart_is_unsupported_and_named(line: str, reason: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        translate(line.split(" "))
    assert reason in str(caught.value)


PAGE = Path(__file__).parents[3] / "docs" / "guest-tests.md"


def named_in_the_table(become: str) -> list[str]:
    """The options of docs/guest-tests.md's table that become `become` here."""
    (row,) = [line for line in PAGE.read_text().splitlines() if line.endswith(f"| {become} |")]
    return re.findall(r"`([^`]+)`", row)


def test_what_the_documentation_calls_unsupported_is() -> None:
    lines = named_in_the_table("UNSUPPORTED")

    assert len(lines) >= 3
    for line in lines:
        with pytest.raises(UnsupportedError):
            translate(shlex.split(line))


def test_what_the_documentation_calls_usual_changes_nothing() -> None:
    lines = named_in_the_table("always so")

    assert len(lines) >= 9
    for line in lines:
        assert translate(shlex.split(line)) == MachineNeeds(), line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stray", "expected a QEMU option, found 'stray'"),
        ("-m", "-m: expected an operand behind it, found the end"),
        ("-m many", "found 'many'"),
        ("-m 0", "found '0'"),
        ("-m size=", "found ''"),
        ("-smp none", "found 'none'"),
        ("-smp 0", "found '0'"),
        ("-smp 99999999999999999999", "expected a number of CPUs"),
        ("-device isa-debug-exit,iobase=here", "expected a number for iobase, found 'here'"),
    ],
)
def test_what_qemu_would_not_take_is_an_error(line: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        translate(line.split(" "))
    assert message in str(caught.value)


WORDS = [f"-{name}" for name in HANDLERS] + [
    "-serial",
    "",
    ",",
    "=",
    "a=b",
    "1",
    "q35",
    "isa-debug-exit,",
    "²",
    "-",
]


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), max_size=6))
def test_no_words_raise_anything_else(words: list[str]) -> None:
    try:
        arguments = translate(words).run_arguments()
    except (OptionError, UnsupportedError):
        return
    assert all(isinstance(argument, str) for argument in arguments)
