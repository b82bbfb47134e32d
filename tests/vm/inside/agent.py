# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: does what the test says, one request a line of JSON, over a virtio port.

``{"do": "run", "command": [...], "seconds": 60, "cwd": "/", "environment": {...}, "input": ""}``
answers with ``code`` (None if its time was over, and it was killed), ``stdout`` and ``stderr``;
``read`` and ``write`` take a ``path`` and bring or take ``data``. Bytes are in base64.
"""

import base64
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

MOST = 16 << 20  # of what a command says; the end of it is kept


def port() -> BinaryIO:
    for name in Path("/sys/class/virtio-ports").glob("*/name"):
        if name.read_text().strip() == "agent":
            return Path("/dev", name.parent.name).open("r+b", buffering=0)
    raise SystemExit("no port of that name")


def coded(data: bytes) -> str:
    return base64.b64encode(data[-MOST:]).decode()


def memory(data: bytes = b"") -> BinaryIO:
    """A file in memory: a full disk does not matter, nor who else holds it open."""
    file = os.fdopen(os.memfd_create("said"), "w+b", buffering=0)
    file.write(data)
    file.seek(0)
    return file


def run(asked: dict[str, Any]) -> dict[str, Any]:
    given = base64.b64decode(asked["input"])
    with memory(given) as stdin, memory() as out, memory() as err:
        process = subprocess.Popen(
            asked["command"], cwd=asked["cwd"], env={**os.environ, **asked["environment"]},
            stdin=stdin, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        code: int | None
        try:
            code = process.wait(asked["seconds"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
        for file in (out, err):
            file.seek(0)
        return {"code": code, "stdout": coded(out.read()), "stderr": coded(err.read())}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        if asked["do"] == "run":
            return run(asked)
        path = Path(asked["path"])
        if asked["do"] == "read":
            return {"data": coded(path.read_bytes())}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(asked["data"]))
        return {}
    except OSError as error:
        return {"error": str(error)}


def main() -> None:
    with port() as line:
        line.write(b'{"ready": true}\n')
        waiting = b""
        while True:
            while b"\n" not in waiting:
                waiting += line.read(1 << 16)
            first, _, waiting = waiting.partition(b"\n")
            told = json.dumps(answer(json.loads(first))).encode() + b"\n"
            while told:
                told = told[line.write(told) :]


main()
