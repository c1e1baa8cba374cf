"""The table of a profile is of the time that counts: a GPU's where there is one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs the extra deep: torch")

from torch.autograd import DeviceType

from tasks.deep.profiling import table


def test_the_table_is_of_the_cpu_or_of_the_gpu_greatest_first() -> None:
    memory = {"self_cpu_memory_usage": 1e6, "self_device_memory_usage": 5e6, "device_type": DeviceType.CPU}
    launched = SimpleNamespace(key="launched", count=3, self_cpu_time_total=9e3, self_device_time_total=2e3, **memory)
    computed = SimpleNamespace(key="computed", count=1, self_cpu_time_total=4e3, self_device_time_total=8e3, **memory)
    kernel = SimpleNamespace(**{**vars(computed), "key": "kernel", "device_type": DeviceType.CUDA})  # of `computed`
    events = [launched, kernel, computed]
    rows = {of: [line.split() for line in table(events, of).splitlines()[1:]] for of in ("cpu", "device")}
    assert rows["cpu"] == [["launched", "9.0", "3", "1.0"], ["computed", "4.0", "1", "1.0"]]
    assert rows["device"] == [["computed", "8.0", "1", "5.0"], ["launched", "2.0", "3", "5.0"]]
