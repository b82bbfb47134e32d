# SPDX-License-Identifier: Apache-2.0
"""Entry point of the extension's process, once it is in its cgroup.

The order matters: steps that need privileges come first and run only kmind's code; then the
privileges are dropped for good; then the manifest's imports are done; then the interpreter's
folders are closed too; only then does the module's code run. All its output goes to the log.
"""

from __future__ import annotations

import importlib
import mmap
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.random
import numpy.typing as npt

from kmind.errors import KmindError
from kmind.extension import Context, Dispatcher, Extension, Given, Outlets
from kmind.extension.discovery.loader import import_early, load_extension, refuse_other_imports
from kmind.extension.files import read_sources
from kmind.queue import Bell, Doorbell, Endpoint, Table, open_tables
from kmind.runtime.sandbox.config import THREADS, ChildConfig
from kmind.runtime.sandbox.confine.privileges import close_other_fds, drop_privileges, shut
from kmind.runtime.sandbox.exit_codes import EXIT_MODULE, EXIT_SETUP
from kmind.runtime.sandbox.framing import send_note
from kmind.runtime.sandbox.log_writer import LineOutput

if TYPE_CHECKING:
    from kmind.runtime.sandbox.device import Device

__all__ = ["run"]

# Numpy imports these only when they are first used, which is too late here.
_LATE_PARTS = re.compile(r"\b(fft|linalg|ma|polynomial)\b")


def run(config_fd: int) -> int:
    """Set up, drop all privileges, and run the extension that is described there."""
    output = LineOutput(1)
    try:
        os.set_blocking(1, False)
        config = _read_config(config_fd)
        sources = read_sources(Path(config.folder))
        endpoint = Endpoint(_map(config), _doorbell(config), config.first_id)
        tables = _map_tables(config)
        device = _open_device(config)
        close_other_fds({0, 1, 2, config.doorbell, *(device.descriptors if device else ())})
        # What says that numeric libraries start no threads is needed until they are imported.
        for name in os.environ.keys() - THREADS.keys():
            del os.environ[name]
        fences = drop_privileges(
            config.uid,
            None if config.keep else config.parent,
            files=config.files,
            network=config.network,
            data_bytes=config.cgroup.data_bytes,
            precise=device is not None,
        )
        import_early(config.imports, sources)
        _import_late_parts(sources)
        if config.network:
            importlib.import_module("encodings.idna")  # what socket asks for, by name
        os.environ.clear()
        shut(fences)
        refuse_other_imports()
    except (KmindError, OSError, msgspec.MsgspecError) as error:
        print(f"the extension cannot start: {error}", file=sys.stderr)
        return EXIT_SETUP
    sys.stdout = sys.stderr = output
    for line in fences.lacking:
        print(line)
    try:
        send = partial(send_note, output)
        _serve(config, sources, endpoint, tables, send, device)
    except BaseException:
        traceback.print_exc()
    output.end_line()
    return EXIT_MODULE


def _serve(
    config: ChildConfig,
    sources: Mapping[str, bytes],
    endpoint: Endpoint,
    tables: Mapping[str, Table],
    hand_over: Callable[[str, bytes], None],
    device: Device | None,
) -> None:
    context = Context(
        Given(
            module=config.module,
            target=config.target,
            params=config.params,
            features=config.features,
            knobs=config.knobs,
            memory=msgspec.json.decode(config.memory),
            tables=tables,
            findings=config.findings,
            reports=config.reports,
        ),
        Outlets(port=endpoint.cq, keep=endpoint.remember, hand_over=hand_over),
    )
    if device:
        device.serve(config, sources, Dispatcher(endpoint, Extension(context), context))
        return
    kind = load_extension(config.package, config.folder, sources, config.entry)
    dispatcher = Dispatcher(endpoint, kind(context), context)
    dispatcher.start()
    while True:
        dispatcher.step(config.beat_s)


def _read_config(fd: int) -> ChildConfig:
    with open(fd, "rb") as pipe:
        return msgspec.json.decode(pipe.read(), type=ChildConfig)


def _open_device(config: ChildConfig) -> Device | None:
    if config.device is None:
        return None
    from kmind.runtime.sandbox.device import open_device  # other extensions have no use for it

    return open_device(config.device)


def _import_late_parts(sources: Mapping[str, bytes]) -> None:
    text = b"\n".join(sources.values()).decode("utf-8", "replace")
    for name in set(_LATE_PARTS.findall(text)) if "numpy" in text else ():
        importlib.import_module(f"numpy.{name}")


def _map(config: ChildConfig) -> npt.NDArray[np.uint8]:
    if not config.address:
        return np.frombuffer(mmap.mmap(config.arena, config.size), np.uint8)
    from kmind.bpf.arena import map_arena

    return map_arena(config.arena, config.address, config.size // mmap.PAGESIZE).buffer


def _map_tables(config: ChildConfig) -> dict[str, Table]:
    # For reading, and the descriptors are closed before the module's code runs: it cannot write.
    fds = {entry.part.name: entry.fd for entry in config.tables}
    return open_tables(fds, [entry.part.shape for entry in config.tables])


def _doorbell(config: ChildConfig) -> Bell:
    if config.address:
        return Doorbell(config.doorbell)
    # Only ever for a simulated agent: a real one's extension has no use for that code.
    from kmind.agent.sim.agent import SimDoorbell

    return SimDoorbell(config.doorbell)
