# SPDX-License-Identifier: Apache-2.0
"""The files by which a daemon goes on with instances that another one started.

One file an instance, ``NAME.json`` below the run folder's ``state/``, and one for the
models that it decides by, ``NAME.models``, each replaced as a whole by a rename: whoever
reads it finds the old one or the new one. It survives the daemon and not the machine, and
a state of an earlier boot is worth nothing.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import msgspec

from kmind.errors import KmindError, LaterVersionError
from kmind.runtime.instance.models import MODELS, DeployedModels
from kmind.runtime.instance.state import STATE, InstanceState
from kmind.runtime.sandbox.state import ProcessState
from kmind.util.files import replace_file
from kmind.util.foreign import foreign
from kmind.util.names import file_name
from kmind.util.procfs import boot_id

__all__ = ["StateFolder"]


class StateFolder:
    """The files of all instances in one folder, made when the first is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boot = boot_id()

    def save(self, state: InstanceState) -> None:
        """Replace the file of an instance. Raises KmindError where it cannot be written."""
        data = msgspec.json.encode(msgspec.structs.replace(state, boot=self._boot))
        try:
            replace_file(self._path(state.name), data, durable=False)
        except OSError as error:
            raise KmindError(
                f"cannot write the state of {state.name} to {self._path(state.name)}: "
                f"{error.strerror}",
                hint="after a restart it would be stopped, and its knobs put back",
            ) from None

    def save_models(self, name: str, models: DeployedModels) -> None:
        """Replace the file of an instance's models. Raises KmindError as `save` does."""
        try:
            data = msgspec.msgpack.encode(models)
            replace_file(self._models_path(name), data, durable=False)
        except OSError as error:
            raise KmindError(
                f"cannot write {self._models_path(name)}: {error.strerror}",
                hint="the model decides; after kmind reload it has to be deployed again",
            ) from None

    def load_models(self, name: str) -> DeployedModels:
        """The models that an instance was given; none where that cannot be read."""
        try:
            record = msgspec.msgpack.decode(self._models_path(name).read_bytes())
            # Version 1 did not say so at first.
            record = MODELS.upgrade({"schema": "kmind.state.models/1"} | record)
            return msgspec.convert(record, DeployedModels)
        except Exception:  # whatever is wrong with it: the model has to be deployed again
            return DeployedModels()

    def remove(self, name: str) -> None:
        """Forget an instance; nothing if it is not there."""
        with contextlib.suppress(OSError):
            self._path(name).unlink(missing_ok=True)
            self._models_path(name).unlink(missing_ok=True)

    def discard(self, stem: str) -> None:
        """Remove a file of no use, as ``load`` names it, and the models beside it."""
        with contextlib.suppress(OSError):
            for suffix in (".json", ".models"):
                (self._folder / (stem + suffix)).unlink(missing_ok=True)

    def load(self) -> tuple[list[InstanceState], dict[str, str]]:
        """The states of this boot, and by their files' names why others are of no use."""
        good: list[InstanceState] = []
        bad: dict[str, str] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                with foreign(partial(_unread, path)):
                    record = STATE.upgrade(msgspec.json.decode(path.read_bytes()))
                    state = msgspec.convert(record, InstanceState)
            except LaterVersionError as error:
                bad[path.stem] = f"{path} is of a later kmind: {error}"
                continue
            except KmindError as error:
                bad[path.stem] = str(error)
                continue
            if file_name(state.name) != path.stem:
                bad[path.stem] = f"{path} says that it is of {state.name}"
            elif state.boot != self._boot:
                bad[path.stem] = f"{path} is of an earlier boot"
            else:
                good.append(state)
        for unfinished in self._folder.glob("*.new"):
            unfinished.unlink(missing_ok=True)
        return good, bad

    def process(self, stem: str) -> ProcessState | None:
        """The extension's process that a file of no use names, so that it can be ended.

        Whatever else stands in a file of a later version, this keeps name and meaning. None where
        it cannot be read, or is of an earlier boot.
        """
        try:
            record = msgspec.json.decode((self._folder / f"{stem}.json").read_bytes())
            process = msgspec.convert(record["process"], ProcessState)
            return process if record["boot"] == self._boot else None
        except Exception:  # whatever is wrong with it: its cgroup is removed all the same
            return None

    def _path(self, name: str) -> Path:
        return self._folder / f"{file_name(name)}.json"

    def _models_path(self, name: str) -> Path:
        return self._folder / f"{file_name(name)}.models"


def _unread(path: Path, why: str) -> KmindError:
    return KmindError(f"{path} cannot be read: {why}")
