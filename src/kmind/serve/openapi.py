# SPDX-License-Identifier: Apache-2.0
"""The API's description, OpenAPI 3.1, made of the routes and of the records they parse."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Union

import msgspec

import kmind
from kmind.serve.routes import Route
from kmind.serve.schema import EVENT_LINES, LINES, PROBLEM, Event, Problem

__all__ = ["describe"]

# What any route can answer: a daemon that is busy, or has an error of its own.
_ALWAYS = (500, 503, 504)
_WITH_BODY = (400, 408, 413, 415)


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """The description of all these routes."""
    used: list[type] = [Problem]
    for route in routes:
        used += [kind for kind in (route.answer, route.body) if kind and kind not in used]
    # A line of the event stream is one of many records.
    described = [Union[EVENT_LINES] if kind is Event else kind for kind in used]  # noqa: UP007
    refs, components = msgspec.json.schema_components(
        described, ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(used, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kmind",
            "version": kmind.__version__,
            "description": "The kmind daemon. Peers are root and members of the group kmind.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, schemas: dict[type, dict[str, Any]]) -> dict[str, Any]:
    name = route.handler.__name__
    media = LINES if route.where == "stream" else "application/json"
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": (route.handler.__doc__ or name).splitlines()[0].rstrip("."),
        "responses": {
            "200": {
                "description": (route.answer.__doc__ or "Done").splitlines()[0],
                "content": {media: {"schema": schemas[route.answer]}},
            }
        },
    }
    parameters = [
        {
            "name": parameter,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        for parameter in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": parameter, "in": "query", "description": text, "schema": {"type": "string"}}
        for parameter, text in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    refusals = {*route.refusals, *_ALWAYS}
    if route.body:
        refusals |= {*_WITH_BODY}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    for status in sorted(refusals):
        operation["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM: {"schema": schemas[Problem]}},
        }
    return operation
