# SPDX-License-Identifier: Apache-2.0
"""The commands and their options; errors become one line and an exit code.

0 done, 1 failed, 2 usage, 3 daemon not running, 4 not supported by this kernel,
77 permission.
"""

from __future__ import annotations

import copy
import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kmind import __version__
from kmind.cli._bench_app import bench
from kmind.cli._model_app import model_app
from kmind.cli._names import AdviceAction, KnobsAction
from kmind.cli.output import plain
from kmind.errors import KmindError
from kmind.util.descriptors import raise_soft_limit

__all__ = ["app", "main"]

# typer has its own copy of click, or click itself: the class of usage errors either way.
_UsageFault: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="kmind",
    help="Machine learning in user space that watches and tunes this kernel, "
    "through verified eBPF agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(model_app, name="model")

_Json = Annotated[bool, typer.Option("--json", help="Write JSON, with its schema.")]
_Socket = Annotated[
    Path | None,
    # Whether it may be opened is found out by connecting: no process may read a socket.
    typer.Option(
        "--socket", readable=False, help="The daemon's socket, if not /run/kmind/api.sock."
    ),
]
_Name = Annotated[str, typer.Argument(help="An instance, such as readahead@vda (see: kmind list).")]
_Quick = Annotated[bool, typer.Option("--quick", help="Smaller and shorter, for a first look.")]


class _ModeName(StrEnum):
    """The modes that an admin can choose."""

    observe = "observe"
    advise = "advise"
    canary = "canary"
    auto = "auto"


class _AnyMode(StrEnum):
    """Those, and the one that puts everything back."""

    observe = "observe"
    advise = "advise"
    canary = "canary"
    auto = "auto"
    emergency = "emergency"


class _OnExit(StrEnum):
    """What becomes of the instances when the daemon ends."""

    restore = "restore"
    keep = "keep"


class _AtStart(StrEnum):
    """What becomes of instances that an earlier daemon left running."""

    take_over = "take-over"
    restore = "restore"


class _StreamName(StrEnum):
    """The streams of a recording."""

    windows = "windows"
    records = "records"


class _Speed(StrEnum):
    """How fast a recording is replayed."""

    full = "full"
    real = "real"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kmind {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of unexpected errors.")
    ] = False,
) -> None:
    pass


@app.command(
    "run",
    epilog="Example: kmind run readahead vda patience=5 --mode auto --duration 60",
)
def _run(
    module: Annotated[
        str, typer.Argument(help="A module (see: kmind modules), or a folder with a module.toml.")
    ],
    target: Annotated[str, typer.Argument(help="A block device such as vda, or: system.")],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its parameters.")
    ] = None,
    mode: Annotated[
        _ModeName,
        typer.Option(
            help="observe: only record; advise: say what to change; canary: change for moments, "
            "to measure; auto: change, and keep what helps until the end."
        ),
    ] = _ModeName.advise,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds; else until Ctrl-C.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Use this policy, not those in /etc/kmind.")
    ] = None,
    json: _Json = False,
) -> int:
    """Run a module on a target in the foreground; everything is put back at the end."""
    from kmind.agent.types import Mode
    from kmind.cli.run import run

    return run(
        module,
        target,
        parameters or [],
        mode=Mode[mode.value.upper()],
        duration_s=duration,
        json=json,
        policy_file=policy,
    )


@app.command("daemon")
def _daemon(
    socket: _Socket = None,
    policy: Annotated[
        Path | None, typer.Option(help="Use this policy, not those in /etc/kmind.")
    ] = None,
    on_exit: Annotated[
        _OnExit,
        typer.Option(
            help="restore: unload all and put everything back; keep: leave agents and extensions "
            "running, for the next daemon to take over."
        ),
    ] = _OnExit.restore,
    at_start: Annotated[
        _AtStart,
        typer.Option(
            help="take-over: go on with what an earlier daemon left running, also one that was "
            "killed; restore: end it and put everything back."
        ),
    ] = _AtStart.take_over,
    devices: Annotated[
        bool,
        typer.Option(help="Load modules for devices, by their aliases, at the start and later."),
    ] = True,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Restart the daemon that runs; its instances go on."),
    ] = False,
) -> int:
    """Run instances in the background, and answer the commands below on a socket."""
    # Else numpy's BLAS starts a thread for each CPU, for sums that a daemon does not do.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from kmind.cli.daemon import daemon_command

    return daemon_command(
        socket=socket,
        policy_file=policy,
        keep=on_exit == _OnExit.keep,
        take_over=at_start == _AtStart.take_over,
        devices=devices,
        replace_it=replace,
    )


@app.command("load", epilog="Example: kmind load readahead vda patience=5 --mode auto")
def _load(
    module: Annotated[
        str, typer.Argument(help="A module (see: kmind modules), or a folder with a module.toml.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TARGET] [NAME=VALUE]...", help="Its target and parameters."),
    ] = None,
    mode: Annotated[_ModeName | None, typer.Option(help="How far it may go.")] = None,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Only say what would be done.")
    ] = False,
    json: _Json = False,
    socket: _Socket = None,
) -> int:
    """Load a module into the daemon: make an instance of it."""
    from kmind.cli.load import load_command

    name = mode.value if mode else None
    return load_command(module, words or [], mode=name, dry_run=dry_run, json=json, socket=socket)


@app.command("unload")
def _unload(name: _Name, json: _Json = False, socket: _Socket = None) -> int:
    """Unload an instance, and put back what it changed."""
    from kmind.cli.unload import unload_command

    return unload_command(name, json=json, socket=socket)


@app.command("list")
def _list(json: _Json = False, socket: _Socket = None) -> int:
    """List the daemon's instances."""
    from kmind.cli.list import list_command

    return list_command(json=json, socket=socket)


@app.command("status")
def _status(
    name: Annotated[str | None, typer.Argument(help="One instance; else all.")] = None,
    json: _Json = False,
    socket: _Socket = None,
) -> int:
    """Show all that the daemon knows of its instances."""
    from kmind.cli.status import status_command

    return status_command(name, json=json, socket=socket)


@app.command("reload")
def _reload(name: _Name, json: _Json = False, socket: _Socket = None) -> int:
    """Upgrade an instance's agent in place, and start its extension anew."""
    from kmind.cli.reload import reload_command

    return reload_command(name, json=json, socket=socket)


@app.command("mode")
def _mode(
    name: _Name,
    mode: Annotated[_AnyMode, typer.Argument(help="emergency puts everything back.")],
    json: _Json = False,
    socket: _Socket = None,
) -> int:
    """Say how far an instance may go."""
    from kmind.cli.mode import mode_command

    return mode_command(name, mode.value, json=json, socket=socket)


@app.command("advice", epilog="Example: kmind advice apply 7")
def _advice(
    action: Annotated[
        AdviceAction, typer.Argument(help="list, show, apply, reject or undo.")
    ] = AdviceAction.list,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Which one.")] = None,
    all: Annotated[
        bool, typer.Option("--all", help="List also what is refused or settled.")
    ] = False,
    json: _Json = False,
    socket: _Socket = None,
) -> int:
    """See what the instances advise; do it, undo it, or reject it."""
    from kmind.cli.advice import advice_command

    return advice_command(action.value, id, all=all, json=json, socket=socket)


@app.command("why", epilog="Example: kmind why 12")
def _why(
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One experiment; else the latest.")
    ] = None,
    json: _Json = False,
) -> int:
    """Show experiments: what was measured, and why a value was kept or not."""
    from kmind.cli.why import why_command

    return why_command(id, json=json)


@app.command(
    "evaluate",
    epilog="Example: kmind evaluate readahead vda block.read_ahead_kb=16 --against 128",
)
def _evaluate(
    module: Annotated[
        str, typer.Argument(help="The module whose outcome it goes by, or its folder.")
    ],
    target: Annotated[str, typer.Argument(help="A block device such as vda, or: system.")],
    change: Annotated[str, typer.Argument(metavar="KNOB=VALUE", help="What to try.")],
    against: Annotated[
        str | None, typer.Option(help="The value to compare it with; else what stands.")
    ] = None,
    duration: Annotated[float, typer.Option(min=2, help="At most so many seconds.")] = 60.0,
    metric: Annotated[
        str | None, typer.Option(help="Which outcome of the module; else its first.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Use this policy, not those in /etc/kmind.")
    ] = None,
    json: _Json = False,
) -> int:
    """Measure on what runs now whether a value is better; everything is put back."""
    from kmind.cli.evaluate import evaluate_command

    return evaluate_command(
        module,
        target,
        change,
        against=against,
        duration_s=duration,
        metric=metric or "",
        policy_file=policy,
        json=json,
    )


@app.command("knobs", epilog="Example: kmind knobs set vm.swappiness=10")
def _knobs(
    action: Annotated[
        KnobsAction,
        typer.Argument(
            help="show: what can be set here, and to what; set: set one, within the policy; "
            "verify: whether knobs still hold what was set."
        ),
    ] = KnobsAction.show,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME[=VALUE]] [TARGET]",
            help="A knob, a family or a pattern; a disk, a cgroup (cgroup:/PATH), or: system.",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Use this policy, not those in /etc/kmind.")
    ] = None,
    json: _Json = False,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Only say what would be set.")
    ] = False,
) -> int:
    """Show the kernel settings that kmind knows, set one by hand, or look for drift."""
    from kmind.cli.knobs import knobs_command

    return knobs_command(action.value, words or [], json=json, dry_run=dry_run, policy_file=policy)


@app.command("restore")
def _restore(
    json: _Json = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what running instances hold.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Only say what would be done.")
    ] = False,
) -> int:
    """Put back every knob that an instance left changed."""
    from kmind.cli.restore import restore_command

    return restore_command(json=json, force=force, dry_run=dry_run)


@app.command("record", epilog="Example: kmind record readahead@vda -o trace --duration 60")
def _record(
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE[@TARGET] [NAME=VALUE]...",
            help="Modules, each with its parameters; hooks@DISK is each request of a disk.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A new folder, or a file NAME.parquet.")
    ],
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds; else until Ctrl-C.")
    ] = None,
    max_mib: Annotated[
        int, typer.Option(min=1, help="Keep all files below that; the oldest are removed.")
    ] = 1024,
    stream: Annotated[_StreamName | None, typer.Option(help="Only this one.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE to be stored with it; repeatable.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="KNOB=VALUE,VALUE,...: set them by turns, and put all back at the end."),
    ] = None,
    sweep_s: Annotated[float, typer.Option(min=0.2, help="Seconds for each value.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="For the order of a sweep.")] = 0,
    policy: Annotated[
        Path | None, typer.Option(help="Use this policy, not those in /etc/kmind.")
    ] = None,
    json: _Json = False,
) -> int:
    """Record what the agents of modules see, as Parquet files."""
    from kmind.cli.record import record_command
    from kmind.learn.record import plan_recording

    plan = plan_recording(
        modules,
        max_mib=max_mib,
        stream=stream.value if stream else None,
        tags=tag or [],
        sweep=sweep,
        sweep_s=sweep_s,
        seed=seed,
    )
    return record_command(plan, output, duration_s=duration, policy_file=policy, json=json)


@app.command("inspect")
def _inspect(
    path: Annotated[Path, typer.Argument(help="A file or folder of kmind record.")],
    json: _Json = False,
) -> int:
    """Say what a recording holds."""
    from kmind.cli.inspect import inspect_command

    return inspect_command(path, json=json)


@app.command("replay", epilog="Example: kmind replay trace readahead patience=0 --json")
def _replay(
    path: Annotated[Path, typer.Argument(help="A file or folder of kmind record.")],
    module: Annotated[str, typer.Argument(help="A module, or a folder with a module.toml.")],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its parameters.")
    ] = None,
    speed: Annotated[
        _Speed, typer.Option(help="real: as long as it took; full: as fast as it goes.")
    ] = _Speed.full,
    seed: Annotated[int, typer.Option(min=0, help="Of the module's random numbers.")] = 0,
    json: _Json = False,
) -> int:
    """Feed a module a recording, and say what it would have recommended."""
    from kmind.cli.replay import replay_command

    return replay_command(
        path, module, parameters or [], real_time=speed == _Speed.real, seed=seed, json=json
    )


@app.command("train", epilog="Example: kmind train readahead recordings -o readahead.kmm")
def _train(
    module: Annotated[str, typer.Argument(help="A module, or a folder with a module.toml.")],
    data: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to be made.")],
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    json: _Json = False,
) -> int:
    """Train a module's model on recordings, beside baselines."""
    from kmind.cli.train import train_command

    return train_command(module, data, output, seed=seed, json=json)


@app.command("modules")
def _modules(json: _Json = False) -> int:
    """List the installed modules and their parameters."""
    from kmind.cli.modules import modules_command

    return modules_command(json=json)


@app.command("info", epilog="Example: kmind info readahead -F parameters")
def _info(
    module: Annotated[str, typer.Argument(help="A module, or a folder with a module.toml.")],
    field: Annotated[
        str | None, typer.Option("-F", "--field", help="Only this field, such as aliases.")
    ] = None,
    json: _Json = False,
) -> int:
    """Show all that is known of a module."""
    from kmind.cli.info import info_command

    return info_command(module, field=field, json=json)


@app.command("depends")
def _depends(
    module: Annotated[
        str | None, typer.Argument(help="A module; else all, with what each depends on.")
    ] = None,
    json: _Json = False,
) -> int:
    """Show what is loaded for a module, in order."""
    from kmind.cli.depends import depends_command

    return depends_command(module, json=json)


@app.command("doctor")
def _doctor(json: _Json = False) -> int:
    """Say what this machine has of what kmind needs, and what each gap costs."""
    from kmind.cli.doctor import run_doctor

    return run_doctor(json=json, out=sys.stdout)


app.command("bench", epilog="Example: kmind bench readahead --quick --json")(bench)


@app.command("demo")
def _demo(json: _Json = False) -> int:
    """Watch kmind tune readahead for a random reader on this machine's disk."""
    from kmind.cli.demo import demo_command

    return demo_command(json=json)


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code.

    Never raises: every error is one line on stderr.
    """
    words = sys.argv[1:] if argv is None else argv
    if argv is None and os.geteuid() == 0:
        os.umask(0o077)  # what root writes is for others only where it says so
        raise_soft_limit()
    try:
        code = _narrowed(words)(words, prog_name="kmind", standalone_mode=False)
        sys.stdout.flush()
    except KmindError as error:
        return _say(str(error), error.exit_code)
    except _UsageFault as error:
        what = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return _say(f"{what}; try: kmind --help", 2) if what else 2
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _say(f"unexpected error: {what}; see it whole with: kmind --debug ...", 1)
    return code if isinstance(code, int) else 0


def _narrowed(words: list[str]) -> typer.Typer:
    # typer makes every command that it is given, with all options, before it runs one.
    named = [each for each in app.registered_commands if words[:1] == [each.name]]
    if not named:
        return app
    one = copy.copy(app)
    one.registered_commands, one.registered_groups = named, []
    return one


def _say(message: str, code: int) -> int:
    print("kmind: " + plain(" ".join(message.split())), file=sys.stderr)
    return code
