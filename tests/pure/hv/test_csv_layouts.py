# SPDX-License-Identifier: Apache-2.0
"""Every offset, size and bit position of hv-layouts.csv against our structures, in both directions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.pure.hv.tables import Announce, Row, rows
from vmm.hv import (
    cpuid,
    hypercall_words,
    inputs,
    memory_bits,
    messages,
    msr_bits,
    outputs,
    register_bits,
    vp_context,
    vp_pages,
)
from vmm.hv.bits import BitField, Bits
from vmm.hv.layout import Layout

MODULES: list[ModuleType] = [
    hypercall_words,
    inputs,
    memory_bits,
    messages,
    msr_bits,
    outputs,
    register_bits,
    vp_context,
    vp_pages,
]

# Structures whose heading in the table is not our class's name.
STRUCTURES = {
    "HV_INITIAL_VP_CONTEXT (x64)": "HV_INITIAL_VP_CONTEXT",
    "HV_HYPERCALL_INPUT (control value)": "HV_HYPERCALL_INPUT",
    "HV_INPUT_POST_MESSAGE_DIRECT (hvdef)": "HV_INPUT_POST_MESSAGE_DIRECT",
    "HV_INPUT_POST_MESSAGE_DIRECT (md)": "HV_INPUT_POST_MESSAGE_DIRECT_MD",
    "HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX (hvdef)": "HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX",
    "HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX (md)": "HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX_MD",
    "HV_REGISTER_VSM_CAPABILITIES (hvdef, Linux)": "HV_REGISTER_VSM_CAPABILITIES",
    "HV_REGISTER_VSM_CAPABILITIES (TLFS table)": "HV_REGISTER_VSM_CAPABILITIES_TLFS",
    "HV_X64_MEMORY_INTERCEPT_MESSAGE (short)": "HV_X64_MEMORY_INTERCEPT_MESSAGE_SHORT",
    "HV_X64_MEMORY_INTERCEPT_MESSAGE (long)": "HV_X64_MEMORY_INTERCEPT_MESSAGE",
}
# Fields with a name of their own in our class, and why.
FIELDS = {
    ("HV_MESSAGE", "Sender/Port/Origin"): "Sender",  # one union, three names
    ("HV_X64_REGISTER_INTERCEPT_MESSAGE", "AccessInfo/SourceValue"): "AccessInfo",  # one union, two names
}
# Rows that stand for a part described elsewhere: compared there.
COVERED_BY = {
    ("HV_X64_MEMORY_INTERCEPT_MESSAGE", "(first 80 bytes as short)"): "HV_X64_MEMORY_INTERCEPT_MESSAGE_SHORT"
}
# Reserved parts that the table leaves out, and that our classes have because they describe every bit and byte.
RESERVED_HERE_ONLY = {
    "HV_FLUSH_FLAGS.ReservedZ0",
    "HV_FLUSH_FLAGS.ReservedZ1",
    "HV_INPUT_POST_MESSAGE_DIRECT_MD.Padding",
    "HV_INTERNAL_ACTIVITY_REGISTER.Reserved",
    "HV_MAP_GPA_FLAGS.Reserved0",
    "HV_MAP_GPA_FLAGS.Reserved1",
    "HV_REGISTER_CR_INTERCEPT_CONTROL.RsvdZ",
    "HV_TRANSLATE_GVA_CONTROL_FLAGS.ReservedZ",
    "HV_X64_INTERRUPT_STATE_REGISTER.Reserved",
    "HV_X64_MSR_SINT_CONTENTS.RsvdP0",
    "HV_X64_MSR_SINT_CONTENTS.RsvdP1",
}
# Structures of ours that the table does not describe, each with the source of its layout.
OWN = {
    "HV_ACCESS_CHECK_RESULT": "hv-hypercalls.csv, HvCallCheckSparseGpaPageVtlAccess",
    "HV_APIC_ASSIST": "hv-layouts.csv, note of HV_VP_ASSIST_PAGE.ApicAssist",
    "HV_BOOT_ZEROED_RANGE": "hv-hypercalls.csv, HvExtCallGetBootZeroedMemory",
    "HV_CRASH_CTL_REG_CONTENTS": "hv-msrs.csv",
    "HV_ENABLE_PARTITION_VTL_FLAGS": "hv-layouts.csv, note of HV_INPUT_ENABLE_PARTITION_VTL.Flags",
    "HV_EXPLICIT_SUSPEND_REGISTER": "hvdef",
    "HV_EXT_OUTPUT_GET_BOOT_ZEROED_MEMORY": "hv-hypercalls.csv",
    "HV_EXT_OUTPUT_QUERY_CAPABILITIES": "hv-hypercalls.csv",
    "HV_GVA_RANGE": "hv-hypercalls.csv, HvCallFlushVirtualAddressList",
    "HV_GVA_RANGE_EXTENDED": "TLFS markdown HV_GVA_RANGE",
    "HV_GVA_RANGE_LARGE_PAGE": "TLFS markdown HV_GVA_RANGE",
    "HV_INPUT_FLUSH_VIRTUAL_ADDRESS_LIST": "hv-hypercalls.csv: header as HvCallFlushVirtualAddressSpace",
    "HV_INPUT_NOTIFY_LONG_SPIN_WAIT": "hv-hypercalls.csv",
    "HV_INPUT_SWITCH_VIRTUAL_ADDRESS_SPACE": "hv-hypercalls.csv",
    "HV_INTERCEPT_ACCESS_MASK": "checklist VSM-119",
    "HV_INTERCEPT_SUSPEND_REGISTER": "hv-registers.csv, note",
    "HV_INTERRUPT_CONTROL": "hv-hypercalls.csv, HvCallAssertVirtualInterrupt",
    "HV_MESSAGE_FLAGS": "hv-layouts.csv, note of HV_MESSAGE.MessageFlags",
    "HV_OUTPUT_GET_VP_INDEX_FROM_APIC_ID": "hv-hypercalls.csv",
    "HV_OUTPUT_SIGNAL_EVENT_DIRECT": "hv-hypercalls.csv",
    "HV_REENLIGHTENMENT_CONTROL": "hv-msrs.csv",
    "HV_REGISTER_VSM_VP_WAIT_FOR_TLB_LOCK": "hv-registers.csv, note",
    "HV_TRANSLATE_GVA_RESULT": "checklist VP-020",
    "HV_TSC_EMULATION_CONTROL": "hv-msrs.csv",
    "HV_TSC_EMULATION_STATUS": "hv-msrs.csv",
    "HV_VINA_STATUS": "checklist VSM-049",
    "HV_VP_VTL_CONTROL_X86": "hv-layouts.csv, note of HV_VP_VTL_CONTROL",
    "HV_X64_EXCEPTION_INFO": "hv-layouts.csv, note",
    "HV_X64_INSTRUCTION_LENGTH": "hv-layouts.csv, note",
    "HV_X64_IO_PORT_ACCESS_INFO": "hv-layouts.csv, note",
    "HV_X64_MEMORY_ACCESS_INFO": "hv-layouts.csv, note",
    "HV_X64_REGISTER_INTERCEPT_FLAGS": "hv-layouts.csv, note",
    "HV_X64_SEGMENT_ATTRIBUTES": "hv-layouts.csv, note of HV_X64_SEGMENT_REGISTER.Attributes",
} | {
    name: "hv-msrs.csv, column fields"
    for name in vars(msr_bits)
    if name.startswith("HV_X64_MSR_")
    and name not in ("HV_X64_MSR_HYPERCALL_CONTENTS", "HV_X64_MSR_SINT_CONTENTS", "HV_X64_MSR_STIMER_CONFIG")
}

Description = type[Layout] | type[Bits]


def our_structures() -> dict[str, Description]:
    return {
        name: value
        for module in MODULES
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, (Layout, Bits))
        and value.__module__ == module.__name__
    }


def by_structure() -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows("hv-layouts.csv"):
        grouped[STRUCTURES.get(row["structure"], row["structure"])].append(row)
    return grouped


def field_name(structure: str, row: Row) -> str:
    """The table's field without its remark of a source: `Vtl (hvdef)` is Vtl."""
    bare = re.sub(r" \((?:hvdef|Linux|md, hvdef)\)$", "", row["field"])
    return FIELDS.get((structure, bare), bare)


def layout_fields(layout: type[Layout], prefix: str = "", base: int = 0) -> Iterator[tuple[str, int, int]]:
    """Fields with offset and size, those of a nested VP set as `VpSet.Format`, arrays as `Banks[i]`."""
    for field in layout.FIELDS:
        if field.type is inputs.HV_VP_SET:
            yield from layout_fields(inputs.HV_VP_SET, f"{field.name}.", base + field.offset)
        else:
            yield prefix + field.name, base + field.offset, field.size
    if layout.ELEMENT is not None:
        yield f"{prefix}{layout.ELEMENT.name}[i]", base + layout.SIZE, layout.ELEMENT.size


def element_aliases(name: str) -> list[str]:
    """The banks behind a nested VP set belong to it in the table, and to the call's block in ours."""
    return [name, name.removeprefix("VpSet.")]


@pytest.mark.parametrize("structure", sorted(by_structure()))
def test_structure(structure: str) -> None:
    description = our_structures()[structure]
    differences = []
    for row in by_structure()[structure]:
        name = field_name(structure, row)
        if (structure, name) in COVERED_BY:
            continue
        if row["bit_width"]:
            # All words of the table lie at offset 0: their bits are counted from the word's start.
            expected = (
                int(row["bit_low"]) + 8 * int(row["offset_bytes"]),
                int(row["bit_width"]),
                int(row["size_bytes"]),
            )
            field = vars(description).get(name)
            ours = (field.low, field.width, description.SIZE) if isinstance(field, BitField) else None
        elif name == "(total)":
            expected, ours = (int(row["size_bytes"]),) * 3, (description.SIZE,) * 3
        else:
            assert issubclass(description, Layout)
            fields = {field: (offset, size) for field, offset, size in layout_fields(description)}
            place = next((fields[alias] for alias in element_aliases(name) if alias in fields), None)
            expected = int(row["offset_bytes"]), int(row["size_bytes"]), 0
            ours = (*place, 0) if place is not None else None
        if ours != expected:
            differences.append(f"{structure}.{name}: ours {ours}, expected {expected}")

    assert differences == []


def test_no_field_of_ours_is_unknown_to_the_table() -> None:
    unknown = set()
    for structure, table in by_structure().items():
        named = {field_name(structure, row).partition(".")[0] for row in table}
        for covered in named & {field for name, field in COVERED_BY if name == structure}:
            named |= {field.name for field in our_structures()[COVERED_BY[structure, covered]].FIELDS}
        unknown |= {f"{structure}.{field.name}" for field in our_structures()[structure].FIELDS} - {
            f"{structure}.{name}" for name in named
        }

    assert unknown == RESERVED_HERE_ONLY


@pytest.mark.parametrize(("covered", "by"), COVERED_BY.items())
def test_a_covered_part_is_the_structure_that_covers_it(covered: tuple[str, str], by: str) -> None:
    whole, part = our_structures()[covered[0]], our_structures()[by]

    assert whole.FIELDS[: len(part.FIELDS)] == part.FIELDS


def test_every_structure_is_in_the_table_or_has_a_source(announce: Announce) -> None:
    ours = our_structures()
    table = by_structure()

    assert set(ours) - set(table) == set(OWN)
    assert set(table) - set(ours) == set()
    announce(
        f"hv-layouts.csv: {sum(map(len, table.values()))} rows in {len(table)} structures compared; "
        f"{len(OWN)} further structures with a source of their own"
    )


def test_every_word_describes_all_its_bits_once() -> None:
    words = [value for value in our_structures().values() if issubclass(value, Bits)]
    words += [value for value in vars(cpuid).values() if isinstance(value, type) and issubclass(value, Bits)]

    wrong = [
        word.__name__
        for word in words
        if sum(field.mask for field in word.FIELDS) != (1 << 8 * word.SIZE) - 1
    ]

    assert wrong == ["Bits"]  # the base class, which describes nothing
