# SPDX-License-Identifier: Apache-2.0
"""The extension's process: ``python -m kmind.runtime.child FD``.

FD is a pipe with a ``ChildConfig``. Order is everything here: what needs privileges
comes first and runs only kmind's code and the named imports; then they are dropped
for good; only then does the module's code run. All that it prints goes to the log.
"""

from __future__ import annotations

import mmap
import os
import sys
import traceback
from pathlib import Path

import msgspec
import numpy as np
import numpy.random
import numpy.typing as npt

from kmind.agent.sim import SimDoorbell
from kmind.bpf import map_arena
from kmind.errors import KmindError
from kmind.extension import Context, Dispatcher
from kmind.extension.loader import import_early, load_extension, refuse_other_imports
from kmind.queue import Doorbell, Endpoint
from kmind.runtime._config import ChildConfig
from kmind.runtime.sandbox import close_other_fds, drop_privileges

__all__ = ["EXIT_MODULE", "EXIT_SETUP", "main"]

EXIT_MODULE = 70
"""The module's code raised an exception."""

EXIT_SETUP = 71
"""The process could not be set up; no code of the module ran."""


def main() -> int:
    """Run one extension until the process is killed, or its code raises."""
    try:
        config = _read_config(int(sys.argv[1]))
        sources = {
            str(path.relative_to(config.folder)): path.read_bytes()
            for path in sorted(Path(config.folder).rglob("*.py"))
        }
        import_early(config.imports, sources)
        arena = _map(config)
        bell = Doorbell(config.doorbell) if config.address else SimDoorbell(config.doorbell)
        endpoint = Endpoint(arena, bell)
        close_other_fds({0, 1, 2, config.doorbell})
        os.environ.clear()
        drop_privileges(config.uid, config.parent)
        refuse_other_imports()
    except (KmindError, OSError) as error:
        print(f"the extension cannot start: {error}", file=sys.stderr)
        return EXIT_SETUP
    try:
        _run(config, sources, endpoint)
    except BaseException:
        traceback.print_exc()
    return EXIT_MODULE


def _run(config: ChildConfig, sources: dict[str, bytes], endpoint: Endpoint) -> None:
    kind = load_extension(config.package, config.folder, sources, config.entry)
    context = Context(
        module=config.module,
        target=config.target,
        params=config.params,
        features=config.features,
        knobs=config.knobs,
        port=endpoint.cq,
    )
    dispatcher = Dispatcher(endpoint, kind(context), context)
    dispatcher.start()
    while True:
        dispatcher.step(config.beat_s)


def _read_config(fd: int) -> ChildConfig:
    with open(fd, "rb") as pipe:
        return msgspec.json.decode(pipe.read(), type=ChildConfig)


def _map(config: ChildConfig) -> npt.NDArray[np.uint8]:
    if config.address:
        return map_arena(config.arena, config.address, config.size // mmap.PAGESIZE).buffer
    return np.frombuffer(mmap.mmap(config.arena, config.size), np.uint8)


if __name__ == "__main__":
    sys.exit(main())
