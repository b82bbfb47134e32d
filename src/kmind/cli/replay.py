# SPDX-License-Identifier: Apache-2.0
"""``kmind replay``: what a module would have recommended on a recording."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kmind.cli.output import json_line, warn, write
from kmind.errors import RecordingError, UsageError
from kmind.extension import Value, find_module, parse_parameters
from kmind.learn.recording import Recording, open_recordings
from kmind.learn.replay import Recommended, Replay

__all__ = ["SCHEMA", "replay_command"]

SCHEMA = "kmind.replay/1"


def replay_command(
    path: Path,
    module_name: str,
    words: Sequence[str],
    *,
    real_time: bool,
    seed: int,
    json: bool,
) -> int:
    """Replay, and report each recommendation with its verdict.

    Raises RecordingError for what cannot be read or does not fit the module.
    """
    module = find_module(module_name)
    params = parse_parameters(module.manifest, words)
    if "seed" in params and not any(word.startswith("seed=") for word in words):
        params["seed"] = seed
    recording = _choose(open_recordings(path), module.manifest.name, path)
    meta = recording.meta
    if meta.host.kernel != platform.release():
        warn(
            f"kmind: recorded on kernel {meta.host.kernel}; this is {platform.release()}: "
            "the ABI is the same, so it is replayed\n"
        )
    replay = Replay(recording, module, params, seed=seed, real_time=real_time)
    started = time.monotonic()
    replay.run(_show if not json else lambda recommended: None)
    seconds = time.monotonic() - started
    if json:
        write(json_line(SCHEMA, _report(replay, params)) + "\n")
        return 0
    for line in replay.log:
        warn(f"{line}\n")
    for note in replay.handed_over:
        title = note["note"].get("title") or note["note"].get("kind", "")
        write(f"{note['time_s']:10.3f} s  {note['what']:<10} {title}\n")
    verdicts = Counter(recommended.verdict for recommended in replay.recommended)
    write(
        f"{replay.windows:,} windows and {replay.records:,} records over {replay.span_s:,.1f} s: "
        f"{len(replay.recommended)} recommendations"
        + "".join(f", {count} {name}" for name, count in sorted(verdicts.items()))
        + "\n"
    )
    warn(f"replayed in {seconds:.2f} s\n")
    return 0


def _choose(recordings: list[Recording], module: str, path: Path) -> Recording:
    fitting = [recording for recording in recordings if recording.meta.module == module]
    if not fitting:
        there = ", ".join(recording.meta.instance for recording in recordings)
        raise RecordingError(f"{path} holds nothing of module {module}; it holds {there}")
    if len(fitting) > 1:
        there = ", ".join(recording.meta.instance for recording in fitting)
        raise UsageError(f"{path} holds {there}", hint="name the file of one of them")
    return fitting[0]


def _show(recommended: Recommended) -> None:
    evidence = " ".join(f"{name}={value}" for name, value in recommended.evidence.items())
    write(
        f"{recommended.time_s:10.3f} s  {recommended.verdict:<9} "
        f"{recommended.knob} = {recommended.value} "
        f"(was {recommended.current})  {recommended.reason}  {evidence}\n"
    )


def _report(replay: Replay, params: dict[str, Value]) -> dict[str, Any]:
    # Nothing of this machine or of this moment: it is the same wherever it is made.
    meta = replay.recording.meta
    return {
        "instance": meta.instance,
        "module": meta.module,
        "recorded_version": meta.version,
        "version": replay.module.manifest.version,
        "recorded_kernel": meta.host.kernel,
        "backend": "sim",
        "params": params,
        "seed": replay.seed,
        "span_s": round(replay.span_s, 6),
        "windows": replay.windows,
        "records": replay.records,
        "recommendations": [asdict(recommended) for recommended in replay.recommended],
        "verdicts": dict(sorted(Counter(m.verdict for m in replay.recommended).items())),
        "handed_over": replay.handed_over,
        "status": replay.status,
        "log": replay.log,
    }
