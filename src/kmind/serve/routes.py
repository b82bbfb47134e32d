# SPDX-License-Identifier: Apache-2.0
"""The API's routes: one record each, from which the server and its description are made.

A handler's name is the operation's id, and the first line of its docstring its
summary. It runs on the supervisor's thread, on a thread of its own where it asks the
supervisor nothing, or on the loop where it takes no time, or its answer is a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kmind.agent.types import Mode
from kmind.errors import PrivilegeError, UsageError
from kmind.extension import list_modules
from kmind.extension.discovery.conf import ModuleConf
from kmind.extension.discovery.describe import describe
from kmind.runtime.evidence_store import read_experiments
from kmind.runtime.findings.store import read_findings, read_reports
from kmind.serve import schema
from kmind.serve._base import Supervisor
from kmind.serve._problem import NotFoundError
from kmind.serve.events import EventStream, Hub

__all__ = [
    "ROUTES",
    "Call",
    "Context",
    "Handler",
    "Route",
    "acknowledge_finding",
    "apply_advice",
    "close_finding",
    "deploy_model",
    "follow_events",
    "get_advice",
    "get_experiment",
    "get_finding",
    "get_health",
    "get_instance",
    "get_report",
    "installed_modules",
    "list_advice",
    "list_experiments",
    "list_findings",
    "list_instances",
    "list_leases",
    "list_models",
    "list_reports",
    "load_instance",
    "reject_advice",
    "reload_instance",
    "remove_report",
    "rollback_model",
    "set_mode",
    "undo_advice",
    "unload_instance",
]


@dataclass(frozen=True)
class Context:
    """Objects that the handlers use. ``health`` answers even while the supervisor hangs."""

    supervisor: Supervisor
    hub: Hub
    health: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """A request: parts of its path and its query, and its body as the route's record.

    ``uid`` is the user who asks; -1 where the kernel did not say.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    uid: int = -1


Handler: TypeAlias = Callable[[Context, Call], Any]


@dataclass(frozen=True)
class Route:
    """One method of one path.

    ``where`` says on which thread the handler runs; one with a ``stream`` runs on the loop and
    returns an ASGI application. ``refusals`` are the statuses that it has of its own, and
    ``body_bytes`` is how long a request's body may be.
    """

    method: str
    path: str
    handler: Handler
    answer: type
    body: type | None = None
    refusals: tuple[int, ...] = ()
    where: Literal["supervisor", "thread", "loop", "stream"] = "supervisor"
    query: Mapping[str, str] = field(default_factory=dict)
    body_bytes: int = 64 << 10


def list_instances(context: Context, call: Call) -> dict[str, Any]:
    """List all instances."""
    return _instances(context, context.supervisor.status())


def get_instance(context: Context, call: Call) -> dict[str, Any]:
    """Return one instance."""
    name = _name(context, call)
    return _instances(context, context.supervisor.status(name))


def _instances(context: Context, rows: list[dict[str, Any]]) -> dict[str, Any]:
    fill = context.supervisor.fill()
    return {"schema": "kmind.instances/1", "instances": rows, "fill": fill}


def load_instance(context: Context, call: Call) -> dict[str, Any]:
    """Load a module as an instance on a target."""
    body: schema.LoadRequest = call.body
    result = context.supervisor.requests.load(
        body.module,
        _not_a_path(body.target),
        body.parameters,
        mode=Mode[body.mode.upper()] if body.mode else None,
        dry_run=body.dry_run,
        asker=call.uid,
    )
    return _change(str(result["name"]), result)


def unload_instance(context: Context, call: Call) -> dict[str, Any]:
    """Unload an instance, and put back its changes."""
    name = _name(context, call)
    force = call.query.get("force", "false")
    if force not in ("true", "false"):
        raise UsageError(f"force is {force[:80]!r}, and must be true or false")
    return _change(name, context.supervisor.requests.unload(name, force=force == "true"))


def reload_instance(context: Context, call: Call) -> dict[str, Any]:
    """Upgrade an instance's agent in place, and restart its extension."""
    name = _name(context, call)
    return _change(name, context.supervisor.requests.reload(name))


def set_mode(context: Context, call: Call) -> dict[str, Any]:
    """Set the mode of an instance."""
    name = _name(context, call)
    body: schema.ModeRequest = call.body
    return _change(name, context.supervisor.requests.set_mode(name, Mode[body.mode.upper()]))


def list_models(context: Context, call: Call) -> dict[str, Any]:
    """List the models in an instance's slots."""
    name = _name(context, call)
    return {
        "schema": "kmind.models/1",
        "name": name,
        "models": context.supervisor.requests.models(name),
    }


def deploy_model(context: Context, call: Call) -> dict[str, Any]:
    """Switch an instance to another model."""
    name = _name(context, call)
    body: schema.ModelRequest = call.body
    return _change(name, context.supervisor.requests.deploy_model(name, body.file))


def rollback_model(context: Context, call: Call) -> dict[str, Any]:
    """Switch an instance back to its earlier model."""
    name = _name(context, call)
    return _change(name, context.supervisor.requests.rollback_model(name))


def list_advice(context: Context, call: Call) -> dict[str, Any]:
    """List all advice, newest first."""
    return _advice(context.supervisor.advice.list())


def get_advice(context: Context, call: Call) -> dict[str, Any]:
    """Return one piece of advice, with its reason and evidence."""
    return _advice([context.supervisor.advice.get(_known_advice(context, call))])


def apply_advice(context: Context, call: Call) -> dict[str, Any]:
    """Apply advice."""
    return _advice([context.supervisor.advice.apply(_known_advice(context, call))])


def reject_advice(context: Context, call: Call) -> dict[str, Any]:
    """Reject advice: close it without applying it."""
    return _advice([context.supervisor.advice.reject(_known_advice(context, call))])


def undo_advice(context: Context, call: Call) -> dict[str, Any]:
    """Undo applied advice."""
    return _advice([context.supervisor.advice.undo(_known_advice(context, call))])


def list_experiments(context: Context, call: Call) -> dict[str, Any]:
    """List the latest experiments, newest first, without their blocks."""
    return _experiments(read_experiments(context.supervisor.evidence_path))


def get_experiment(context: Context, call: Call) -> dict[str, Any]:
    """Return one experiment, with all of its blocks."""
    with _not_found():
        return _experiments(read_experiments(context.supervisor.evidence_path, call.path["id"]))


def list_findings(context: Context, call: Call) -> dict[str, Any]:
    """List all findings: open ones first, the latest first."""
    return _findings(read_findings(_findings_path(context)))


def get_finding(context: Context, call: Call) -> dict[str, Any]:
    """Return one finding, with its evidence."""
    with _not_found():
        return _findings(read_findings(_findings_path(context), call.path["id"]))


def acknowledge_finding(context: Context, call: Call) -> dict[str, Any]:
    """Acknowledge a finding, for root."""
    _need_root(call)
    with _not_found():
        return _findings([context.supervisor.findings.acknowledge(call.path["id"])])


def close_finding(context: Context, call: Call) -> dict[str, Any]:
    """Close a finding."""
    _need_root(call)
    with _not_found():
        return _findings([context.supervisor.findings.close_finding(call.path["id"])])


def list_reports(context: Context, call: Call) -> dict[str, Any]:
    """List all reports, the latest first."""
    return _reports(read_reports(_findings_path(context))[0])


def get_report(context: Context, call: Call) -> dict[str, Any]:
    """Return one report, with the content of its files."""
    with _not_found():
        rows, files = read_reports(_findings_path(context), call.path["id"])
    return _reports([rows[0] | {"data": files}])


def remove_report(context: Context, call: Call) -> dict[str, Any]:
    """Remove a report and its files."""
    _need_root(call)
    with _not_found():
        return _reports([context.supervisor.findings.remove_report(call.path["id"])])


def installed_modules(context: Context, call: Call) -> dict[str, Any]:
    """List the installed modules."""
    conf = ModuleConf.load(strict=False)
    good, broken = list_modules()
    known = [*(module.manifest.name for module in good), *broken]
    return {
        "schema": "kmind.modules/1",
        "modules": [describe(module, conf) for module in good],
        "broken": {name: str(error) for name, error in broken.items()},
        "unknown": conf.unknown(known),
        "wrong": list(conf.wrong),
    }


def list_leases(context: Context, call: Call) -> dict[str, Any]:
    """List all held leases."""
    fill = context.supervisor.fill()
    return {"schema": "kmind.leases/1", "leases": context.supervisor.leases(), "fill": fill}


def follow_events(context: Context, call: Call) -> EventStream:
    """Stream events, one JSON object a line, until either side closes the connection."""
    return EventStream(context.hub, call.query.get("instance", ""))


def get_health(context: Context, call: Call) -> dict[str, Any]:
    """Return the state of the daemon; answers even while the supervisor hangs."""
    return {"schema": "kmind.health/1", **context.health()}


ROUTES = (
    Route("GET", "/v1/instances", list_instances, schema.InstanceList),
    Route(
        "POST", "/v1/instances", load_instance, schema.Change, schema.LoadRequest, (403, 409, 501)
    ),
    Route("GET", "/v1/instances/{name}", get_instance, schema.InstanceList, refusals=(404,)),
    Route(
        "DELETE",
        "/v1/instances/{name}",
        unload_instance,
        schema.Change,
        refusals=(400, 404, 409),
        query={"force": "true: end the device of a driver though it is in use"},
    ),
    Route(
        "POST", "/v1/instances/{name}/reload", reload_instance, schema.Change, refusals=(404, 409)
    ),
    Route(
        "PUT", "/v1/instances/{name}/mode", set_mode, schema.Change, schema.ModeRequest, (404, 409)
    ),
    Route("GET", "/v1/instances/{name}/model", list_models, schema.ModelList, refusals=(404,)),
    Route(
        "PUT",
        "/v1/instances/{name}/model",
        deploy_model,
        schema.Change,
        schema.ModelRequest,
        (404, 409, 501),
        body_bytes=2 * schema.MODEL_BYTES,
    ),
    Route(
        "POST",
        "/v1/instances/{name}/model/rollback",
        rollback_model,
        schema.Change,
        refusals=(404, 409, 501),
    ),
    Route("GET", "/v1/advice", list_advice, schema.AdviceList),
    Route("GET", "/v1/advice/{id}", get_advice, schema.AdviceList, refusals=(404,)),
    Route(
        "POST", "/v1/advice/{id}/apply", apply_advice, schema.AdviceList, refusals=(403, 404, 409)
    ),
    Route("POST", "/v1/advice/{id}/reject", reject_advice, schema.AdviceList, refusals=(404, 409)),
    Route("POST", "/v1/advice/{id}/undo", undo_advice, schema.AdviceList, refusals=(404, 409)),
    Route("GET", "/v1/experiments", list_experiments, schema.ExperimentList, where="thread"),
    Route(
        "GET",
        "/v1/experiments/{id}",
        get_experiment,
        schema.ExperimentList,
        refusals=(404,),
        where="thread",
    ),
    Route("GET", "/v1/findings", list_findings, schema.FindingList, where="thread"),
    Route(
        "GET",
        "/v1/findings/{id}",
        get_finding,
        schema.FindingList,
        refusals=(404,),
        where="thread",
    ),
    Route(
        "POST",
        "/v1/findings/{id}/ack",
        acknowledge_finding,
        schema.FindingList,
        refusals=(403, 404, 409),
    ),
    Route(
        "POST",
        "/v1/findings/{id}/close",
        close_finding,
        schema.FindingList,
        refusals=(403, 404, 409),
    ),
    Route("GET", "/v1/reports", list_reports, schema.ReportList, where="thread"),
    Route(
        "GET",
        "/v1/reports/{id}",
        get_report,
        schema.ReportList,
        refusals=(404,),
        where="thread",
    ),
    Route("DELETE", "/v1/reports/{id}", remove_report, schema.ReportList, refusals=(403, 404)),
    Route("GET", "/v1/leases", list_leases, schema.LeaseList),
    Route("GET", "/v1/modules", installed_modules, schema.ModuleList, None, (400,), "thread"),
    Route("GET", "/v1/health", get_health, schema.Health, where="loop"),
    Route(
        "GET",
        "/v1/events",
        follow_events,
        schema.Event,
        where="stream",
        query={"instance": "only this instance's events"},
    ),
)
"""All routes but the description itself."""


def _name(context: Context, call: Call) -> str:
    name = call.path["name"]
    loaded = context.supervisor.names()
    if name not in loaded:
        some = f"loaded: {', '.join(loaded[:16])}" if loaded else "nothing is loaded"
        raise NotFoundError(f"there is no instance {name!r}", hint=some)
    return name


def _need_root(call: Call) -> None:
    if call.uid != 0:
        raise PrivilegeError("only root may settle findings and reports", hint="run as root")


def _findings_path(context: Context) -> Path:
    path = context.supervisor.findings.path
    assert path is not None, "the daemon keeps its findings in a file"
    return path


def _known_advice(context: Context, call: Call) -> str:
    with _not_found():
        context.supervisor.advice.get(call.path["id"])
    return call.path["id"]


@contextmanager
def _not_found() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise NotFoundError(str(error.args[0]), hint=error.hint) from None


def _not_a_path(target: str) -> str:
    # A client's path may lead to where a look takes forever, as a dead network mount does: it
    # is for the client to follow it. What lies in /dev itself is root's.
    if "/" in target.removeprefix("/dev/") and not target.startswith("cgroup:"):
        raise UsageError(
            f"the daemon opens no path given by a client: {target!r}",
            hint="name the disk as the kernel does, such as vda (see: readlink -f)",
        )
    return target


def _change(name: str, result: dict[str, Any]) -> dict[str, Any]:
    return {"schema": "kmind.change/1", "name": name, "result": result}


def _advice(advice: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": "kmind.advice/1", "advice": advice}


def _findings(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": "kmind.findings/1", "findings": rows}


def _reports(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": "kmind.reports/1", "reports": rows}


def _experiments(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": "kmind.why/2", "experiments": rows}
