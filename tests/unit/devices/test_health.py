"""When a device leaves service, and who is to blame."""

from __future__ import annotations

from opensloth.devices.health import DeviceHealth, Suspects, out_of_memory_victim


def test_new_uncorrectable_errors_take_a_gpu_out_of_service_old_ones_do_not():
    health = DeviceHealth("gpu")
    assert health.sampled(7) is None
    assert health.sampled(7) is None
    assert "2 memory error" in str(health.sampled(9))
    assert health.sampled(9) is None
    assert health.sampled(None) is None


def test_an_xid_of_the_gpu_counts_one_of_a_program_does_not():
    health = DeviceHealth("gpu")
    assert "fallen off the bus" in str(health.xid(79))
    assert health.xid(13) is None
    assert health.xid(31) is None


def test_one_unanswered_question_is_forgiven_five_in_a_row_are_not():
    health = DeviceHealth("gpu")
    assert [health.not_read("why") for _ in range(4)] == [None] * 4
    health.sampled(0)
    assert [health.not_read("why") for _ in range(4)] == [None] * 4
    assert "cannot be read: why" in str(health.not_read("why"))


def test_three_device_errors_in_a_row_take_a_device_out_of_service():
    health = DeviceHealth("gpu")
    assert health.ended("a", "device_error") is None
    assert health.ended("a", "device_error") is None
    assert health.ended("b", None) is None
    assert health.ended("a", "device_error") is None
    assert health.ended("a", "nan_loss") is None
    assert health.ended("b", "device_error") is None
    assert "3 attempts in a row" in str(health.ended("a", "device_error"))


def test_a_job_that_meets_device_errors_on_a_second_device_is_the_suspect():
    suspects = Suspects()
    assert not suspects.ended("a", ["gpu0"])
    assert not suspects.ended("a", ["gpu0"])
    assert suspects.ended("a", ["gpu1"])
    assert suspects.ended("a", ["gpu1"])
    assert not suspects.ended("b", ["gpu1"])


def test_when_memory_runs_out_the_largest_job_goes():
    held = [("a", 5), ("b", 9), ("c", 1)]
    assert out_of_memory_victim(10, 20, held) == "b"
    assert out_of_memory_victim(30, 20, held) is None
    assert out_of_memory_victim(10, 20, []) is None
