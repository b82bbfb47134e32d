#!/usr/bin/python3.11
# SPDX-License-Identifier: Apache-2.0
"""The rings between two CPUs of arm64, as the first process of a guest; test_arm64.py judges.

One CPU is the agent's: its program pushes records and judges recommendations. The other is the
extension's: it reads the records and writes recommendations.
"""

import ctypes
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

RECORDS = 1_000_000
SECONDS = 150.0  # at most, where this machine is busy
LATER = 1 << 62
PUSHES = 1000
ADMITS = 64
POWER_OFF = 0x4321FEDC

libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, where: str) -> None:
    """Mount a file system of the kernel's own."""
    libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None)


def run_rings(shape: str) -> dict[str, Any]:
    """Push, read, recommend and judge at once; what came, and what should not have."""
    import numpy as np

    from kmind.agent.kernel.agent import BpfAgent
    from kmind.agent.types import Mode, Verdict
    from kmind.queue import CompletionQueue, Doorbell, Endpoint

    fields = [(name, "<u4") for name in ("pushes", "admits", "kind", "subject")]
    fields += [(name, "<u8") for name in ("value", "count", "gauge", "pushed")]
    work = np.zeros((), np.dtype(fields))
    work["pushes"], work["admits"], work["kind"] = PUSHES, ADMITS, 65
    os.environ["KMIND_SHARED"] = shape
    agent = BpfAgent(Path("/kmind/bare.bpf.o"), sq_slots=1024, deadline_s=3600)
    agent.set_mode(Mode.OBSERVE)
    done = threading.Event()
    pushed = 0

    def act_as_agent() -> None:
        nonlocal pushed
        os.sched_setaffinity(0, {0})
        end = time.monotonic() + SECONDS
        while pushed < RECORDS and time.monotonic() < end:
            ran = np.frombuffer(agent.own.run("bare_run", work.tobytes()), work.dtype)[0]
            pushed += int(ran["pushed"])
            work["value"] += PUSHES
        time.sleep(0.1)  # the tick may have to publish the last ones: `head` is a hint
        work["pushes"] = 0  # what is asked for still is judged, and no record comes with it
        done.set()

    thread = threading.Thread(target=act_as_agent)
    thread.start()
    os.sched_setaffinity(0, {1})
    ring = Endpoint(agent.arena, Doorbell(agent.doorbell_fd)).records[0]
    queue = CompletionQueue(agent.arena, agent.geometry)
    read = disordered = asked = 0
    last_seq = last_value = -1
    verdicts: dict[str, int] = {}
    while not done.is_set() or len(ring.peek()) or queue.waiting:
        rows = ring.peek()
        if len(rows):
            seq = np.append(last_seq, rows["seq"].astype(np.int64))
            value = np.append(last_value, rows["value"].astype(np.int64))
            disordered += int((np.diff(seq) <= 0).sum() + (np.diff(value) <= 0).sum())
            disordered += int((rows["kind"] != 65).sum())
            last_seq, last_value, read = int(seq[-1]), int(value[-1]), read + len(rows)
            ring.release(len(rows))
        for _, verdict in queue.answers():
            name = Verdict(verdict).name
            verdicts[name] = verdicts.get(name, 0) + 1
        if done.is_set():
            agent.own.run("bare_run", work.tobytes())
        elif queue.waiting < 32:
            queue.submit(1, 1, asked, type=1, expires_ns=LATER, hold_ms=1000)
            asked += 1
    thread.join()
    agent.close()
    return {
        "pushed": pushed, "read": read, "disordered": disordered, "asked": asked,
        "verdicts": verdicts,
    }  # fmt: skip


def main() -> None:
    """Tell what was found, and switch off."""
    for kind, where in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        mount(kind, where)
    sys.path[:0] = ["/kmind/src", "/usr/lib/python3/dist-packages"]
    found: dict[str, Any] = {"machine": os.uname().machine, "cpus": os.cpu_count()}
    try:
        for shape in ("arena", "array"):
            found[shape] = run_rings(shape)
    except BaseException:
        traceback.print_exc()
    print("\nKMIND-GUEST " + json.dumps(found), flush=True)
    os.sync()
    libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
