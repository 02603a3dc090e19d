# SPDX-License-Identifier: Apache-2.0
"""HvCallTranslateVirtualAddress and its Ex form as a guest makes them, over address spaces that a test makes up."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.pure.hvcalls.rig import VpContext
from tests.pure.hypercall.fakes import OUTPUT, Caller, control, without
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.constants import HV_VP_INDEX_SELF
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.memory_bits import HvTranslateGvaResultCode
from vmm.hv.status import HvStatus
from vmm.hvcalls.translate import GvaAccess, GvaTranslation, TranslateCalls
from vmm.hypercall.convention import Outcome

SELF = (1 << 64) - 1
FORMS = [Code.HvCallTranslateVirtualAddress, Code.HvCallTranslateVirtualAddressEx]
READ, WRITE, EXECUTE, EXEMPT, SET_BITS, INHIBIT = 1, 2, 4, 8, 0x10, 0x20
SUPERVISOR, USER, ENFORCE_SMAP, OVERRIDE_SMAP, SHADOW_STACK = 0x40, 0x80, 0x100, 0x200, 0x400
USE_VTL = 1 << 4 + 56
GVA_PAGE = 0xF_FFFF_8000_1234
FOUND = GvaTranslation(HvTranslateGvaResultCode.HvTranslateGvaSuccess, 0x12345, 6, True)


class Spaces:
    """Two VPs with VTL0 and VTL1; every translation ends with `found`."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, int, int, GvaAccess]] = []
        self.inhibited: list[tuple[int, int, int, int]] = []
        self.found: GvaTranslation | None = FOUND
        self.holds = True
        self.before_holding: Callable[[], None] = lambda: None
        calls = TranslateCalls(self)
        self.caller = Caller(
            {
                Code.HvCallTranslateVirtualAddress: calls.translate,
                Code.HvCallTranslateVirtualAddressEx: calls.translate_ex,
            }
        )
        self.context = VpContext()
        self.caller.context = self.context

    def has_vp(self, vp: int) -> bool:
        return vp < 2

    def has_vtl(self, vp: int, vtl: int) -> bool:
        return vtl < 2

    def translate(
        self, caller: int, caller_vtl: int, vp: int, vtl: int, gva: int, access: GvaAccess
    ) -> GvaTranslation | None:
        self.asked.append((caller, caller_vtl, vp, vtl, gva, access))
        return self.found

    def inhibit_flushes(self, caller: int, caller_vtl: int, vp: int, vtl: int) -> bool:
        self.inhibited.append((caller, caller_vtl, vp, vtl))
        self.before_holding()
        return self.holds

    def put(
        self, flags: int, vp: int = HV_VP_INDEX_SELF, page: int = GVA_PAGE, partition: int = SELF
    ) -> None:
        self.caller.put(struct.pack("<QIIQQ", partition, vp, 0xEEEE, flags, page))

    def call(self, code: Code, flags: int, **arguments: int) -> int:
        self.put(flags, **arguments)
        return self.caller.status(control(code))


@pytest.fixture
def spaces() -> Spaces:
    return Spaces()


@pytest.mark.tlfs("VP-020")
def test_the_result(spaces: Spaces) -> None:
    assert spaces.call(FORMS[0], READ, vp=1) == HvStatus.SUCCESS

    assert spaces.asked == [(0, 0, 1, 0, GVA_PAGE << 12, GvaAccess(True, False, False))]
    # Code 0, cache type 6, overlay: bit 40.
    assert spaces.context.memory.read(OUTPUT, 16) == struct.pack("<QQ", 6 << 32 | 1 << 40, 0x12345)


@pytest.mark.tlfs("VP-025")
def test_the_result_of_the_ex_form(spaces: Spaces) -> None:
    assert spaces.call(FORMS[1], READ, vp=1) == HvStatus.SUCCESS

    expected = struct.pack("<QQ32xQQ", 6 << 32 | 1 << 40, 0, 0x12345, 0)
    assert spaces.context.memory.read(OUTPUT, 64) == expected
    assert spaces.context.memory.read(OUTPUT + 64, 1) == b"\xee"


@pytest.mark.tlfs("VP-022")
@pytest.mark.parametrize("code", list(HvTranslateGvaResultCode), ids=lambda code: code.name)
@pytest.mark.parametrize("form", FORMS)
def test_every_code_is_a_success_of_the_call(
    spaces: Spaces, form: Code, code: HvTranslateGvaResultCode
) -> None:
    spaces.found = GvaTranslation(code)

    assert spaces.call(form, READ) == HvStatus.SUCCESS
    assert spaces.context.memory.read(OUTPUT, 4) == struct.pack("<I", int(code))


@pytest.mark.tlfs("VP-021")
@pytest.mark.parametrize(
    ("flags", "access"),
    [
        (READ, GvaAccess(True, False, False)),
        (WRITE, GvaAccess(False, True, False)),
        (EXECUTE, GvaAccess(False, False, True)),
        (READ | WRITE | EXECUTE, GvaAccess(True, True, True)),
        (READ | EXEMPT, GvaAccess(True, False, False, exempt=True)),
        (READ | SET_BITS, GvaAccess(True, False, False, set_bits=True)),
        (READ | SUPERVISOR, GvaAccess(True, False, False, user=False)),
        (READ | USER, GvaAccess(True, False, False, user=True)),
        (READ | ENFORCE_SMAP, GvaAccess(True, False, False, smap=True)),
        (READ | OVERRIDE_SMAP, GvaAccess(True, False, False, smap=False)),
    ],
)
def test_flags(spaces: Spaces, flags: int, access: GvaAccess) -> None:
    assert spaces.call(FORMS[0], flags) == HvStatus.SUCCESS
    assert spaces.asked[0][5] == access


@pytest.mark.tlfs("VP-021")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "flags",
    [
        0,  # nothing to validate
        EXEMPT,
        SET_BITS | SUPERVISOR,
        READ | 1 << 11,  # reserved
        READ | 1 << 55,  # reserved
        READ | 1 << 5 + 56,  # reserved in the HV_INPUT_VTL
        READ | SUPERVISOR | USER,
        READ | ENFORCE_SMAP | OVERRIDE_SMAP,
        READ | SHADOW_STACK,
        READ | INHIBIT,  # of the caller's own VTL
    ],
    ids=hex,
)
def test_flags_that_mean_nothing(spaces: Spaces, form: Code, flags: int) -> None:
    assert spaces.call(form, flags) == HvStatus.INVALID_PARAMETER
    assert spaces.asked == []


@pytest.mark.tlfs("VP-020")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"partition": 5}, HvStatus.INVALID_PARTITION_ID),
        ({"vp": 2}, HvStatus.INVALID_VP_INDEX),
        ({"page": 1 << 52}, HvStatus.INVALID_PARAMETER),
        ({"flags": READ | USE_VTL | 1 << 56}, HvStatus.ACCESS_DENIED),  # VTL1, above the caller
    ],
    ids=str,
)
def test_refusals(spaces: Spaces, arguments: dict[str, int], status: HvStatus) -> None:
    assert spaces.call(FORMS[0], **{"flags": READ} | arguments) == status


@pytest.mark.tlfs("VP-024")
def test_a_vtl_may_translate_its_own_addresses(spaces: Spaces) -> None:
    assert spaces.call(FORMS[0], READ | USE_VTL) == HvStatus.SUCCESS
    assert spaces.asked[0][:4] == (0, 0, 0, 0)


def test_a_higher_vtl_translates_a_lower_ones(spaces: Spaces) -> None:
    spaces.context.vtl = 1

    assert spaces.call(FORMS[0], READ) == HvStatus.SUCCESS
    assert spaces.call(FORMS[0], READ | USE_VTL) == HvStatus.SUCCESS
    assert [(caller_vtl, vtl) for _, caller_vtl, _, vtl, _, _ in spaces.asked] == [(1, 1), (1, 0)]


def test_a_vtl_that_the_vp_does_not_have(spaces: Spaces) -> None:
    spaces.context.vtl = 2

    assert spaces.call(FORMS[0], READ) == HvStatus.INVALID_VTL_STATE


@pytest.mark.tlfs("VP-021")
def test_flushes_of_a_lower_vtl_are_held_once_the_page_is_found(spaces: Spaces) -> None:
    spaces.context.vtl = 1

    assert spaces.call(FORMS[0], READ | INHIBIT | USE_VTL, vp=1) == HvStatus.SUCCESS
    assert spaces.inhibited == [(0, 1, 1, 0)]
    spaces.found = GvaTranslation(HvTranslateGvaResultCode.HvTranslateGvaPageNotPresent)
    assert spaces.call(FORMS[0], READ | INHIBIT | USE_VTL, vp=1) == HvStatus.SUCCESS
    assert len(spaces.inhibited) == 1


@pytest.mark.tlfs("VP-021")
def test_no_bits_are_set_before_flushes_are_held(spaces: Spaces) -> None:
    """Where they cannot be, the call fails."""
    spaces.context.vtl = 1
    flags = READ | SET_BITS | INHIBIT | USE_VTL

    spaces.holds = False
    assert spaces.call(FORMS[0], flags, vp=1) == HvStatus.INVALID_PARAMETER
    assert [access.set_bits for *_, access in spaces.asked] == [False]

    spaces.holds = True
    spaces.call(FORMS[0], flags, vp=1)
    assert [access.set_bits for *_, access in spaces.asked] == [False, False, True]


@pytest.mark.tlfs("VP-021")
@pytest.mark.parametrize(
    "later", [GvaTranslation(HvTranslateGvaResultCode.HvTranslateGvaSuccess, 0x777, 6), None]
)
def test_what_a_held_translation_tells_was_found_after_flushes_were_held(
    spaces: Spaces, later: GvaTranslation | None
) -> None:
    """Another VP changes the tables and has flushed between the walk and the hold: that walk's page is stale."""
    spaces.context.vtl = 1

    def change() -> None:
        spaces.found = later

    spaces.before_holding = change
    spaces.put(READ | INHIBIT | USE_VTL, vp=1)
    outcome = spaces.caller.call(control(FORMS[0]))

    if later is None:
        assert outcome is Outcome.RETRY
    else:
        assert (outcome, spaces.caller.result.Status) == (Outcome.COMPLETED, HvStatus.SUCCESS)
        assert spaces.context.memory.read(OUTPUT + 8, 8) == struct.pack("<Q", later.gpa_page)


@pytest.mark.tlfs("VP-021")
def test_flushes_that_cannot_be_held(spaces: Spaces) -> None:
    spaces.context.vtl = 1
    spaces.holds = False

    assert spaces.call(FORMS[0], READ | INHIBIT | USE_VTL, vp=1) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("VP-020")
def test_without_the_privilege(spaces: Spaces) -> None:
    spaces.context.privileges = without(HV_PARTITION_PRIVILEGE_MASK.AccessVpRegisters.mask)

    assert spaces.call(FORMS[0], READ) == HvStatus.ACCESS_DENIED


@pytest.mark.parametrize("form", FORMS)
def test_a_walk_that_takes_longer_is_asked_for_again(spaces: Spaces, form: Code) -> None:
    spaces.found = None
    spaces.put(READ, vp=1)

    assert spaces.caller.call(control(form)) is Outcome.RETRY
