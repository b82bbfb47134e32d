# SPDX-License-Identifier: Apache-2.0
"""States by the rules that need one record, and what is no failure."""

from typing import Any

import pytest
from health.smart.samples import TOOL, Row, asleep, ata, encoded, nvme, row, scsi

from kmind.health.smart.judge import Judgement, judge
from kmind.health.smart.record import read_record


def judged(document: Row) -> Judgement:
    return judge(read_record(encoded(document)))


@pytest.mark.parametrize("bits", [0, 4, 32, 64, 128, 4 + 64 + 128])
def test_bits_of_commands_and_old_entries_are_no_failure(bits: int) -> None:
    tool = TOOL | {"exit_status": bits}
    assert judged(ata(smartctl=tool)).state == "ok"
    assert judged(ata(smartctl=tool, smart_status={})).state == "ok"


def test_bit_of_a_failing_disk_counts_where_the_disk_has_said_nothing() -> None:
    failing = judged(ata(smartctl=TOOL | {"exit_status": 8}, smart_status={}))
    assert failing.state == "failing"
    assert judged(ata(smartctl=TOOL | {"exit_status": 8})).state == "ok"


def test_the_disks_own_verdict() -> None:
    judgement = judged(ata(smart_status={"passed": False}))
    assert judgement.state == "failing"
    assert judgement.reasons[0].text == "the disk itself says that it is failing"


@pytest.mark.parametrize("bit", range(6))
def test_each_warning_of_nvme_is_named(bit: int) -> None:
    judgement = judged(nvme({"critical_warning": 1 << bit}, smart_status={"passed": False}))
    assert judgement.state == "failing"
    assert [each.key for each in judgement.reasons] == [f"critical_warning:{bit}"]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (5, "Reallocated_Sector_Ct"),
        (197, "Current_Pending_Sector"),
        (198, "Offline_Uncorrectable"),
    ],
)
def test_rules_of_hard_disks_are_not_for_ssds(number: int, name: str) -> None:
    counts = row(number, name, 8)
    assert judged(ata(counts)).state == "watch"
    assert judged(ata(counts, rotation=0)).state == "ok"
    assert judged(ata(counts, rotation_rate=None)).state == "ok"


@pytest.mark.parametrize("rotation", [0, 7200])
def test_uncorrected_errors_count_for_every_disk(rotation: int) -> None:
    judgement = judged(ata(row(187, "Reported_Uncorrect", 1), rotation=rotation))
    assert (judgement.state, len(judgement.reasons)) == ("watch", 1)


def test_doubtful_facts_judge_nothing_and_are_told() -> None:
    judgement = judged(ata(row(197, "Current_Pending_Sector", 2**48 - 1)))
    assert judgement.state == "ok"
    assert any(text.startswith("pending is doubtful") for text in judgement.remarks)


def test_attribute_at_its_limit() -> None:
    at = {"value": 1, "thresh": 5, "failed": "now"}
    assert judged(ata(row(10, "Spin_Retry_Count", 9, prefail=True, **at))).state == "failing"
    # Of old age, and of a threshold that is none.
    aged = judged(ata(row(193, "Load_Cycle_Count", 9, **at)))
    assert (aged.state, "no sign of failure" in aged.remarks[0]) == ("ok", True)
    no_limit: dict[str, Any] = at | {"thresh": 0}
    assert judged(ata(row(10, "Spin_Retry_Count", 9, prefail=True, **no_limit))).state == "ok"


def test_limit_of_the_past() -> None:
    def past(number: int) -> str:
        return judged(ata(row(number, "Any", 1, failed="past", prefail=True))).state

    assert (past(10), past(190)) == ("watch", "ok")


def test_wear_beyond_the_rated_life_is_watched() -> None:
    assert judged(nvme({"percentage_used": 99})).state == "ok"
    assert judged(nvme({"percentage_used": 100})).state == "watch"


def test_newest_self_test_that_came_to_a_result_counts() -> None:
    def tested(*passed: bool | None) -> str:
        entries = [{"status": {} if one is None else {"passed": one}} for one in passed]
        return judged(ata(ata_smart_self_test_log={"standard": {"table": entries}})).state

    assert tested(None, False, True) == "watch"
    assert tested(None, True, False) == "ok"


def test_sleeping_disk_is_neither_well_nor_failed() -> None:
    assert judged(asleep()).state == "asleep"
    for mode in ("SLEEP", "IDLE_B", "STANDBY BY TIMER", "STANDBY (OS)", "STANDBY_Y"):
        text = f"Device is in {mode} mode, exit(2)"
        words = TOOL | {"exit_status": 2, "messages": [{"string": text}]}
        assert judged(asleep() | {"smartctl": words}).state == "asleep", mode


def test_disk_that_does_not_answer_may_be_taken_for_asleep_and_this_is_said() -> None:
    """As smartctl 7.3 says it of a device that refuses the question, /dev/null for one."""
    text = "Device is in SLEEP mode, exit(2)"
    words = TOOL | {"exit_status": 2, "messages": [{"string": text}]}
    assert "does not answer" in judged(asleep() | {"smartctl": words}).remarks[0]
    assert "does not answer" not in judged(asleep()).remarks[0]


def test_awake_disk_that_speaks_of_standby_is_not_asleep() -> None:
    words = TOOL | {"messages": [{"string": "Device is in STANDBY mode, exit(2)"}]}
    assert judged(ata(smartctl=words)).state == "ok"


def test_disk_that_tells_nothing_is_unknown() -> None:
    silent = scsi(smart_status={}, temperature={}, power_on_time={}, scsi_grown_defect_list=None,
                  scsi_error_counter_log={})  # fmt: skip
    assert judged(silent).state == "unknown"


def test_grown_defects_of_sas() -> None:
    assert judged(scsi(scsi_grown_defect_list=56)).state == "watch"
    assert judged(scsi(scsi_grown_defect_list=56, rotation_rate=0)).state == "ok"
