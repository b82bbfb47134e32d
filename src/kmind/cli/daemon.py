# SPDX-License-Identifier: Apache-2.0
"""``kmind daemon``: many instances, an API, and no one at the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kmind.agent.core import Core
from kmind.cli.client import Client, default_run_dir, default_socket_path
from kmind.errors import NotSupportedError
from kmind.extension.conf import ModuleConf
from kmind.guard import Journal, Policy
from kmind.runtime.agents import need_root
from kmind.runtime.log import StructuredLog
from kmind.runtime.supervisor import Supervisor

try:
    from kmind.serve.daemon import Daemon
    from kmind.serve.leases import describe_leases
    from kmind.serve.lock import running_daemon
    from kmind.serve.process import replace, run_daemon
except ModuleNotFoundError as error:
    raise NotSupportedError(
        f"the daemon needs {error.name}, which is not installed",
        hint="install it with: pip install 'kmind[daemon]'",
    ) from None

__all__ = ["daemon_command"]


def daemon_command(
    *,
    socket: Path | None,
    policy_file: Path | None,
    keep: bool,
    take_over: bool,
    replace_it: bool,
) -> int:
    """Run the daemon until a signal, or have the one that runs restart in place.

    ``keep`` leaves agents and extensions running at the end; ``take_over`` goes on with
    those that are left from before, instead of putting everything back.
    """
    run_dir = default_run_dir()
    need_root()
    if replace_it and (pid := running_daemon(run_dir)):
        return _replace(pid, socket)
    log = StructuredLog()

    def make(restarted: bool) -> Daemon:
        parts = _Parts(policy_file, run_dir, log, take_over=take_over or restarted)
        return Daemon(
            make=parts.make, leases=parts.leases, check=parts.check, emit=log.emit, keep=keep
        )

    try:
        run_daemon(
            make,
            run_dir=run_dir,
            socket=socket or default_socket_path(),
            before_exec=log.close,
        )
    finally:
        log.close()
    return 0


class _Parts:
    # What a daemon is made of. All but ``check`` is for the supervisor's thread.

    def __init__(
        self, policy_file: Path | None, run_dir: Path, log: StructuredLog, *, take_over: bool
    ) -> None:
        self._policy_file = policy_file
        self._run_dir = run_dir
        self._log = log
        self._take_over = take_over

    def make(self) -> Supervisor:
        policy, conf = self.check()
        self._core = Core.open(mount=True)
        return Supervisor(
            core=self._core,
            journal=Journal(),
            policy=policy,
            emit=self._log.emit,
            run_dir=self._run_dir,
            conf=conf,
            take_over=self._take_over,
        )

    def check(self) -> tuple[Policy, ModuleConf]:
        return Policy.load(self._policy_file), ModuleConf.load()

    def leases(self) -> list[dict[str, Any]]:
        return describe_leases(self._core)


def _replace(pid: int, socket: Path | None) -> int:
    client = Client(socket)
    took_s = replace(pid, lambda: float(client.get("/v1/health")["started"]))
    count = len(client.get("/v1/instances")["instances"])
    sys.stdout.write(
        f"the daemon, pid {pid}, restarted in {took_s:.2f} s; {count} instances go on\n"
    )
    return 0
