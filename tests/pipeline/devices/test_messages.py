"""What OpenSSH and a device say, as one message each: what, got, allowed, next."""

from typing import Any

import pytest

from pipeline.devices.device_file import make_device
from pipeline.devices.messages import busy, clock_skew, disk_full, failed_run, refusal

DEVICE = make_device("bench1", "nvidia@orin:2222")
CHANGED = """@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
The fingerprint for the ED25519 key sent by the remote host is
SHA256:abc.
Offending ED25519 key in /home/me/.ssh/known_hosts:7
Host key verification failed."""


@pytest.mark.parametrize(
    ("status", "text", "what", "next_step"),
    [
        (255, CHANGED, "the host key of bench1 is another one than before", "ssh-keygen -R '[orin]:2222'"),
        (255, "No ED25519 host key is known for orin and you have requested strict checking.\nHost key verification failed.",
         "the host key of bench1 is not known to you", "ssh -p 2222 nvidia@orin true"),
        (255, "nvidia@orin: Permission denied (publickey).", "bench1 does not let you in", "ssh-copy-id -p 2222 nvidia@orin"),
        (255, "ssh: Could not resolve hostname orin: Name or service not known", "bench1 cannot be reached", "device add bench1"),
        (1, "t2t-edge: Python 3.8.10", "bench1 has another Python than is needed", "--python python3.10"),
        (127, "sh: 1: python3: not found", "bench1 has another Python than is needed", "--python python3.10"),
    ],
)  # fmt: skip
def test_what_another_attempt_does_not_mend(status: int, text: str, what: str, next_step: str) -> None:
    found = refusal(DEVICE, status, text)
    assert found is not None and found.what == what and next_step in (found.next_step or "")
    assert found.got and found.allowed


@pytest.mark.parametrize(
    "text", ["", "Connection reset by peer", "Connection to orin closed by remote host.", "Connection timed out"]
)
def test_a_lost_connection_is_none_of_these(text: str) -> None:
    assert refusal(DEVICE, 255, text) is None and refusal(DEVICE, -9, text) is None


@pytest.mark.parametrize(
    ("problem", "what", "got", "next_step"),
    [
        ({"kind": "killed", "step": "build", "signal": 9, "out_of_memory": True, "engine": "tensorrt-fp32"},
         "bench1 is out of memory: the build of tensorrt-fp32 was killed", "the system was out of memory", "workspace_mib"),
        ({"kind": "killed", "step": "benchmark", "signal": 9, "out_of_memory": False, "engine": None},
         "bench1 is out of memory: benchmark was killed", "signal 9", "swap"),
        ({"kind": "killed", "step": "build", "signal": 11, "out_of_memory": False, "engine": "tensorrt-int8"},
         "the build of tensorrt-int8 crashed on bench1", "signal 11", "log.txt"),
        ({"kind": "timeout", "step": "build", "seconds": 3600.0, "engine": "tensorrt-fp16"},
         "build on bench1 took longer than allowed (tensorrt-fp16)", "1 h", "--timeout build=120"),
        ({"kind": "slept", "step": "benchmark", "seconds": 40.0}, "bench1 slept while it measured", "40 s in benchmark",
         "sleep.target"),
        ({"kind": "stopped", "step": "build"}, "the run on bench1 was stopped", "in build", "AGAIN"),
        ({"kind": "died", "step": "build", "restarted": True}, "the run on bench1 ended early", "started again", "AGAIN"),
        ({"kind": "died", "step": "build", "restarted": False}, "the run on bench1 ended early", "KillUserProcesses", "AGAIN"),
        ({"kind": "disk", "step": "build", "text": "error: the disk is full", "place": "/home/x"}, "the disk of bench1 is full",
         "build: error: the disk is full", "du -xh"),
        ({"kind": "failed", "step": "evaluate", "text": "error: it is wrong"}, "evaluate failed on bench1", "error: it is wrong",
         "AGAIN"),
    ],
)  # fmt: skip
def test_what_became_of_a_run(problem: dict[str, Any], what: str, got: str, next_step: str) -> None:
    found = failed_run(DEVICE, problem, 1, "AGAIN", "log.txt")
    assert found.what == what and got in str(found.got) and next_step in (found.next_step or "")


def test_a_busy_device_is_somebody_s() -> None:
    note = {"owner": "bob@lab", "run": "emoji", "since": "2026-01-01 12:00 UTC", "token": "1"}
    others = busy(DEVICE, note, "demo", "2", "AGAIN")
    assert others.got == "bob@lab: run emoji, since 2026-01-01 12:00 UTC" and "ask bob@lab" in (others.next_step or "")
    assert "t2t-edge device stop bench1 --run demo" in (busy(DEVICE, note, "demo", "1", "AGAIN").next_step or "")
    assert busy(DEVICE, {}, "demo", "1", "AGAIN").got == "a run that has not said whose it is"


def test_a_clock_and_a_disk() -> None:
    assert "got: 3 h 20 min behind" in clock_skew(DEVICE, -12000) and "set-ntp" in clock_skew(DEVICE, -12000)
    assert "--images 200" in str(disk_full(DEVICE, "x", "/home/y"))
