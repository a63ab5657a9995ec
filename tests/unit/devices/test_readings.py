"""Whose memory is whose on a GPU, also where the driver says little."""

from __future__ import annotations

from opensloth.devices.nvml import GpuProcess, GpuSample
from opensloth.devices.readings import Attribution, is_freed

GIB = 1 << 30
VISIBLE = {10, 11, 20, 99}


def sample(used: int, *processes: tuple[int, int | None]) -> GpuSample:
    return GpuSample(used, tuple(GpuProcess(pid, size) for pid, size in processes))


def test_what_no_job_of_ours_holds_is_foreign():
    reading = Attribution().read(sample(9 * GIB, (99, 9 * GIB)), {}, VISIBLE, 1.0)
    assert reading.foreign_bytes == 9 * GIB
    assert reading.processes[0].job_id is None


def test_a_gpu_that_nobody_uses_has_nothing_foreign_on_it():
    assert Attribution().read(sample(400 << 20), {}, VISIBLE, 1.0).foreign_bytes == 0


def test_a_jobs_processes_are_its_own_and_what_is_beside_them_foreign():
    reading = Attribution().read(sample(8 * GIB, (10, 5 * GIB), (99, 3 * GIB)), {"a": {10, 11}}, VISIBLE, 1.0)
    assert (reading.bytes_of("a"), reading.foreign_bytes) == (5 * GIB, 3 * GIB)


def test_two_jobs_on_one_gpu_are_told_apart():
    holders = {"a": {10}, "b": {20}}
    reading = Attribution().read(sample(8 * GIB, (10, 5 * GIB), (20, 3 * GIB)), holders, VISIBLE, 1.0)
    assert (reading.bytes_of("a"), reading.bytes_of("b"), reading.foreign_bytes) == (5 * GIB, 3 * GIB, 0)


def test_in_a_container_a_number_that_came_with_the_job_is_the_jobs():
    attribution = Attribution()
    attribution.read(sample(2 * GIB, (70_001, 2 * GIB)), {}, VISIBLE, 1.0)
    reading = attribution.read(sample(7 * GIB, (70_001, 2 * GIB), (70_500, 5 * GIB)), {"a": {10}}, VISIBLE, 2.0)
    assert (reading.bytes_of("a"), reading.foreign_bytes) == (5 * GIB, 2 * GIB)


def test_with_two_jobs_a_hidden_process_is_nobodys_in_particular_but_not_foreign():
    attribution = Attribution()
    reading = attribution.read(sample(5 * GIB, (70_500, 5 * GIB)), {"a": {10}, "b": {20}}, VISIBLE, 2.0)
    assert (reading.bytes_of("a"), reading.bytes_of("b"), reading.foreign_bytes) == (None, None, 0)


def test_where_the_driver_lists_no_process_foreign_is_what_was_there_before_the_job():
    attribution = Attribution()
    attribution.read(sample(2 * GIB), {}, VISIBLE, 1.0)
    assert attribution.read(sample(30 * GIB), {"a": {10}}, VISIBLE, 2.0).foreign_bytes == 2 * GIB


def test_where_the_driver_names_processes_without_their_bytes_foreign_is_what_was_there_before():
    attribution = Attribution()
    attribution.read(sample(GIB, (99, 0)), {}, VISIBLE, 1.0)
    reading = attribution.read(sample(30 * GIB, (99, None), (10, 0)), {"a": {10}}, VISIBLE, 2.0)
    assert (reading.foreign_bytes, reading.bytes_of("a")) == (GIB, None)


def freed(attribution: Attribution, after: GpuSample, *, alone: bool = True, others: dict[str, set[int]] | None = None):
    reading = attribution.read(after, {"a": {10}, **(others or {})}, VISIBLE - {10}, 3.0)
    return is_freed(reading, "a", {10}, alone)


def test_a_process_that_is_still_listed_holds_its_memory():
    assert not freed(Attribution(), sample(5 * GIB, (10, 5 * GIB)))
    assert freed(Attribution(), sample(100 << 20))


def test_memory_that_nobody_is_listed_for_is_not_freed():
    assert not freed(Attribution(), sample(5 * GIB))
    assert not freed(Attribution(), sample(8 * GIB, (99, 3 * GIB)))


def test_memory_of_foreign_processes_is_not_waited_for():
    attribution = Attribution()
    attribution.read(sample(3 * GIB, (99, 3 * GIB)), {}, VISIBLE, 1.0)
    assert freed(attribution, sample(3 * GIB, (99, 3 * GIB)))
    assert freed(attribution, sample(3 * GIB + (200 << 20), (99, None)))


def test_a_neighbour_that_goes_on_does_not_keep_a_job_from_ending():
    others = {"b": {20}}
    assert freed(Attribution(), sample(6 * GIB, (20, 6 * GIB)), alone=False, others=others)
    assert freed(Attribution(), sample(6 * GIB), alone=False, others=others)
    assert not freed(Attribution(), sample(9 * GIB, (20, 6 * GIB)), alone=False, others=others)
