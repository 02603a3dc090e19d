# SPDX-License-Identifier: Apache-2.0
"""Event flags of one SynIC, and its sources asserted without either."""

from __future__ import annotations

import pytest

from tests.pure.synic.rig import MASKED, POLLING, SIEFP_PAGE, SINT, VECTOR, VP, VTL, Rig
from vmm.hv.status import HvStatus


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.tlfs("SYN-026")
def test_an_event_sets_its_flag_and_interrupts_once(rig: Rig) -> None:
    first = rig.synic.signal_event(SINT, 17)
    second = rig.synic.signal_event(SINT, 17)

    assert (first, second) == ((HvStatus.SUCCESS, True), (HvStatus.SUCCESS, False))
    assert rig.flags(SIEFP_PAGE, SINT) == {17}
    assert rig.services.taken() == [(VP, VTL, VECTOR, False)]


@pytest.mark.tlfs("SYN-026")
@pytest.mark.parametrize("flag", [0, 7, 8, 2047])
@pytest.mark.parametrize("sint", [0, 15])
def test_flags_lie_at_their_bits(sint: int, flag: int) -> None:
    rig = Rig()
    rig.synic.write_sint(sint, VECTOR)

    rig.synic.signal_event(sint, flag)

    assert rig.flags(SIEFP_PAGE, sint) == {flag}
    assert sum(len(rig.flags(SIEFP_PAGE, other)) for other in range(16)) == 1


@pytest.mark.tlfs("SYN-026", "SYN-028")
def test_events_that_cannot_be_signalled(rig: Rig) -> None:
    refused = [rig.synic.signal_event(SINT, 2048), rig.synic.signal_event(SINT, -1)]
    rig.synic.write_sint(SINT, VECTOR | MASKED)
    masked = rig.synic.signal_event(SINT, 0)
    rig.synic.write_sint(SINT, VECTOR)
    rig.synic.write_siefp(0)
    no_page = rig.synic.signal_event(SINT, 0)

    assert refused == [(HvStatus.INVALID_PARAMETER, False)] * 2
    assert (masked, no_page) == ((HvStatus.INVALID_SYNIC_STATE, False),) * 2
    assert rig.services.taken() == []


@pytest.mark.tlfs("SYN-025", "SYN-026")
def test_a_polling_source_gets_its_flag_without_interrupt(rig: Rig) -> None:
    rig.synic.write_sint(SINT, POLLING)

    assert rig.synic.signal_event(SINT, 3) == (HvStatus.SUCCESS, True)
    assert rig.services.taken() == []


def test_a_source_can_be_asserted_bare(rig: Rig) -> None:
    asserted = rig.synic.assert_sint(SINT)
    masked = rig.synic.assert_sint(SINT + 1)
    rig.synic.write_scontrol(0)

    assert (asserted, masked, rig.synic.assert_sint(SINT)) == (True, False, False)
    assert rig.services.taken() == [(VP, VTL, VECTOR, False)]
