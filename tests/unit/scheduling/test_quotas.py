"""Who has used up a month's device-hours is told when the next month begins."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from opensloth.scheduling.planner import plan
from opensloth.scheduling.quotas import next_month
from opensloth.scheduling.types import Account, Device, QueuedJob, Usage


@pytest.mark.parametrize(
    ("now", "begins"),
    [
        (datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)),
        (datetime(2028, 2, 29, 12, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
        (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_the_next_month_begins_at_midnight_of_its_first_day(now: datetime, begins: datetime) -> None:
    assert next_month(now.timestamp()) == begins.timestamp()


def test_a_job_beyond_the_months_device_hours_knows_when_new_ones_come() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
    job = QueuedJob("j", "ann", 1, now, 1)
    spent = Usage({"ann": Account(device_s_left=0.0)})
    wait = plan([job], [Device("d", "box", 0, 80 << 30)], [], spent, now).waits["j"]
    assert (wait.code, wait.at) == ("device_hours", datetime(2026, 12, 1, tzinfo=UTC).timestamp())
