# SPDX-License-Identifier: Apache-2.0
"""``kmind daemon``: many instances, an API, and no one at the terminal."""

from __future__ import annotations

import zlib
from pathlib import Path

from kmind.agent.core.core import Core
from kmind.cli.client import Client, DaemonError
from kmind.cli.output import write
from kmind.errors import NotSupportedError
from kmind.extension.discovery.conf import ModuleConf
from kmind.guard import Journal, Policy, finish_carrying
from kmind.paths import RUN, run_folder, socket_path
from kmind.runtime.cleanup import restoring
from kmind.runtime.instance.agent_factory import need_root
from kmind.runtime.objective.poller import settle
from kmind.runtime.supervisor.log.log import DaemonLog
from kmind.runtime.supervisor.supervisor import Options, Supervisor
from kmind.util.saver import SAVER

try:
    from kmind.serve.daemon import Daemon
    from kmind.serve.lock import running_daemon
    from kmind.serve.process import replace, run_daemon
except ModuleNotFoundError as error:
    _name = (error.name or "").partition(".")[0]
    raise NotSupportedError(
        f"the daemon needs {_name}, which is not installed",
        hint="install it with: pip install 'kmind[daemon]'",
    ) from None

__all__ = ["daemon_command"]

# Commands that measured are killed already; their threads reap them.
_SETTLE_S = 0.5


def daemon_command(
    *,
    socket: Path | None,
    policy_file: Path | None,
    keep: bool,
    take_over: bool,
    devices: bool,
    replace_it: bool,
) -> int:
    """Run the daemon until a signal, or have the one that runs restart in place.

    ``keep`` leaves agents and extensions running at the end; ``take_over`` goes on with
    those that are left from before, instead of putting everything back. ``devices`` loads
    modules for devices, by their aliases. Raises DaemonError where there is no daemon
    to restart.
    """
    run_dir = run_folder()
    need_root(extension=True)
    if replace_it:
        return _replace(running_daemon(run_dir), socket)
    log = DaemonLog()

    def check() -> None:
        Policy.load(policy_file)
        ModuleConf.load()

    def make(restarted: bool) -> Daemon:
        def supervisor() -> Supervisor:
            # Without policy and stores nothing may run; a wrong file of modules.d costs what it
            # says.
            with restoring(None, log.emit):
                policy = Policy.load(policy_file)
            conf = ModuleConf.load(strict=False)
            options = Options(
                run_dir=run_dir,
                conf=conf,
                take_over=take_over or restarted,
                devices=devices,
                cgroups=_cgroups(run_dir),
            )
            with restoring(policy, log.emit):
                return Supervisor(Core.open(mount=True), Journal(), policy, log.emit, options)

        return Daemon(make=supervisor, check=check, emit=log.emit, keep=keep)

    def before_exec() -> None:
        finish_carrying()
        settle(_SETTLE_S)
        SAVER.settle(_SETTLE_S)
        log.close()

    try:
        run_daemon(
            make,
            run_dir=run_dir,
            socket=socket or socket_path(),
            before_exec=before_exec,
        )
    finally:
        log.close()
    return 0


def _cgroups(run_dir: Path) -> str:
    # Cgroups are the whole machine's: a daemon beside that of the machine would take those
    # of the other's extensions for leftovers, and end them.
    return "" if run_dir == RUN else f"d{zlib.crc32(str(run_dir).encode())}."


def _replace(pid: int | None, socket: Path | None) -> int:
    if pid is None:
        raise DaemonError("there is no daemon to restart", hint="start one with: kmind daemon")
    client = Client(socket)
    took_s = replace(pid, lambda: float(client.get("/v1/health")["started"]))
    count = len(client.get("/v1/instances")["instances"])
    write(f"the daemon, pid {pid}, restarted in {took_s:.2f} s; {count} instances go on\n")
    return 0
