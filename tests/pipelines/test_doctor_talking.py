"""Doctor lets two processes talk, and does not wait for ever when they cannot."""

from __future__ import annotations

import time

import pytest
import torch

from mimkit.pipelines.machine import talking
from mimkit.pipelines.machine.finding import Finding

ALONE = """
import sys, time
if sys.argv[3] == "1":
    time.sleep(600)
print(3)
"""


def test_two_processes_add_up() -> None:
    finding = talking.talk("gloo", 2, seconds=300)
    assert finding.state == "ok", finding
    assert finding.topic == "between processes: gloo"
    assert finding.found.startswith("a sum over two processes")


def test_a_process_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "_PROGRAM", ALONE)
    started = time.monotonic()
    finding = talking.talk("gloo", 2, seconds=2)
    assert time.monotonic() - started < 60
    assert finding.state == "missing"
    assert "no answer within 2 s" in finding.found
    assert "GLOO_SOCKET_IFNAME" in finding.remedy
    assert not finding.fatal  # one process is enough for most work


def test_what_a_process_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "_PROGRAM", "raise OSError('no network')")
    assert "OSError: no network" in talking.talk("nccl", 1, seconds=60).found
    assert "NCCL_DEBUG" in talking.talk("nccl", 1, seconds=60).remedy


def test_nccl_has_a_line_where_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(backend: str, num_processes: int, seconds: int) -> Finding:
        asked.append((backend, num_processes, seconds))
        return Finding(backend, "")

    monkeypatch.setattr(talking, "talk", noted)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    for num_gpus in (0, 1, 8):
        monkeypatch.setattr(torch.cuda, "is_available", lambda n=num_gpus: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=num_gpus: n)
        talking.talking(9)
    cpu = ("gloo", 2, 9)
    assert asked == [cpu, cpu, ("nccl", 1, 9), cpu, ("nccl", 2, 9)]
