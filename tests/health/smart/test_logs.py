# SPDX-License-Identifier: Apache-2.0
"""Logs of NVMe and SCSI disks: units, wide counters, and logs that are at odds with themselves."""

from typing import Any

import pytest
from health.smart.samples import encoded, nvme, scsi

from kmind.health.smart.follow import Follower
from kmind.health.smart.record import read_record


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1", "1e400", "twelve", "1e30"])
def test_gigabytes_that_are_no_number_are_doubtful(text: str) -> None:
    record = read_record(encoded(scsi(scsi_error_counter_log={"write": {
        "gigabytes_processed": text, "total_uncorrected_errors": 0}})))  # fmt: skip
    assert record.credible("bytes_written") is None


def test_data_units_of_nvme_need_no_block_size() -> None:
    record = read_record(encoded(nvme({"data_units_written": 64_663_716})))
    assert record.facts["bytes_written"] == 64_663_716 * 512_000


@pytest.mark.parametrize(
    ("log", "fact"),
    [
        ({"media_errors": 2**128 - 1}, "media_errors"),
        ({"media_errors": 3.4e38, "media_errors_s": str(2**128 - 2**20)}, "media_errors"),
        ({"media_errors": 4_000_000, "host_reads": 100, "host_writes": 0}, "media_errors"),
        ({"media_errors": "none"}, "media_errors"),
        ({"percentage_used": 256}, "percentage_used"),
        ({"available_spare": 101}, "available_spare"),
        ({"available_spare": 0}, "available_spare"),
        ({"critical_warning": 255}, "critical_warning"),
        ({"data_units_written": 2**64 - 1}, "bytes_written"),
        ({"data_units_written": 10**13, "power_on_hours": 1}, "bytes_written"),
        ({"temperature": 65261}, "temperature"),
        ({"power_on_hours": 2**32}, "hours"),
    ],
)
def test_doubtful_values_of_nvme(log: dict[str, Any], fact: str) -> None:
    record = read_record(encoded(nvme(log)))
    assert fact in record.doubtful
    assert record.credible(fact) is None
    assert Follower().see(record).judgement.state == "ok"


def test_empty_log_of_nvme_tells_nothing() -> None:
    log = dict.fromkeys(nvme()["nvme_smart_health_information_log"], 0)
    followed = Follower().see(read_record(encoded(nvme(log))))
    assert followed.judgement.state == "unknown"
