"""What NVML says becomes facts; what it refuses becomes an error that names the device's state."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensloth.devices.inventory import discover
from opensloth.devices.nvml import GpuLost, GpuProcess, GpuUnreadable, Nvml, NvmlAbsent
from opensloth.errors import InvalidInput, Unavailable
from tests.support import fake_nvml
from tests.support.fake_nvml import gpu

GIB = 1 << 30


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nvml:
    monkeypatch.setenv(fake_nvml.VARIABLE, str(tmp_path / "driver"))
    fake_nvml.write(gpus=[gpu("GPU-0"), gpu("GPU-1")])
    return Nvml("tests.support.fake_nvml")


def test_gpus_are_found_with_the_memory_that_programs_may_use(nvml: Nvml) -> None:
    found = discover("auto", "box", nvml)
    assert [(device.id, device.kind, device.index, device.memory_bytes) for device in found] == [
        ("GPU-0", "cuda", 0, 80 * GIB),
        ("GPU-1", "cuda", 1, 80 * GIB),
    ]
    assert all(device.bf16 for device in found)


def test_devices_are_chosen_by_index_or_uuid(nvml: Nvml) -> None:
    assert [device.id for device in discover("1", "box", nvml)] == ["GPU-1"]
    assert [device.id for device in discover("GPU-0", "box", nvml)] == ["GPU-0"]
    with pytest.raises(InvalidInput, match="has 0 "):
        discover("7", "box", nvml)


def test_without_a_driver_there_are_cpu_slots(nvml: Nvml) -> None:
    fake_nvml.write(absent=True)
    assert [device.kind for device in discover("auto", "box", nvml)] == ["cpu"]
    with pytest.raises(NvmlAbsent):
        nvml.sample("GPU-0")


def test_without_the_library_there_are_cpu_slots_too() -> None:
    assert Nvml("pynvml").gpus() == [] or Nvml("pynvml").gpus()[0].memory_bytes > 0


def test_a_driver_that_hangs_is_an_error_and_not_a_wait(nvml: Nvml) -> None:
    fake_nvml.write(hang=True)
    with pytest.raises(Unavailable, match="has not answered"):
        discover("auto", "box", nvml, timeout_s=0.2)
    fake_nvml.write(gpus=[gpu("GPU-0")])


def test_a_sample_says_what_is_used_and_by_whom(nvml: Nvml) -> None:
    fake_nvml.write(gpus=[gpu("GPU-0", foreign={77: 3 * GIB}, extra=GIB, ecc=2)])
    sample = nvml.sample("GPU-0")
    assert (sample.used_bytes, sample.processes) == (4 * GIB, (GpuProcess(77, 3 * GIB),))
    assert (sample.utilization, sample.temperature, sample.uncorrected) == (42, 55, 2)
    assert nvml.process_bytes("GPU-0", 77) == 3 * GIB
    assert nvml.process_bytes("GPU-0", 78) is None


def test_what_a_gpu_does_not_support_is_not_known(nvml: Nvml) -> None:
    fake_nvml.write(gpus=[gpu("GPU-0", ecc=None)])
    assert nvml.sample("GPU-0").uncorrected is None


def test_a_lost_gpu_is_told_from_one_that_does_not_answer_now(nvml: Nvml) -> None:
    fake_nvml.write(gpus=[gpu("GPU-0", lost=True), gpu("GPU-1", error=fake_nvml.NVML_ERROR_UNKNOWN)])
    with pytest.raises(GpuLost, match="GPU is lost"):
        nvml.sample("GPU-0")
    with pytest.raises(GpuUnreadable, match="Unknown Error"):
        nvml.sample("GPU-1")
    with pytest.raises(GpuLost):
        nvml.sample("GPU-9")


def test_a_gpu_that_is_lost_at_the_start_hides_no_other(nvml: Nvml) -> None:
    fake_nvml.write(gpus=[gpu("GPU-0", lost=True), gpu("GPU-1")])
    for setting in ("auto", "0,1", "GPU-1"):
        assert [(device.id, device.index) for device in discover(setting, "box", nvml)] == [("GPU-1", 1)]
    with pytest.raises(InvalidInput):
        discover("0", "box", nvml)


def test_each_xid_is_told_once(nvml: Nvml) -> None:
    fake_nvml.write(gpus=[gpu("GPU-0", xids=[79]), gpu("GPU-1", xids=[13, 48])])
    assert nvml.xids() == [("GPU-0", 79), ("GPU-1", 13), ("GPU-1", 48)]
    assert nvml.xids() == []
