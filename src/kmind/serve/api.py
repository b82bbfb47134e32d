# SPDX-License-Identifier: Apache-2.0
"""The API: HTTP and JSON, from the routes' records to answers and refusals.

Calls wait in line for the supervisor's one thread, up to a number and for a time.
Whatever goes wrong is a Problem with its status, and never takes the daemon down.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import Receive, Scope, Send

from kmind import events
from kmind.errors import KmindError
from kmind.events import Emit
from kmind.serve._pace import Pace, Paced
from kmind.serve._problem import HttpError, problem
from kmind.serve.openapi import describe
from kmind.serve.routes import ROUTES, Call, Context, Route
from kmind.serve.schema import PROBLEM
from kmind.util.foreign import one_line

__all__ = ["Api"]

_BODY_S = 10.0
_CALL_S = 60.0
_WAITING = 64


class Api:
    """The API; ``app`` is the ASGI application, and ``pace`` what it may spend.

    ``call_s`` is how long a client waits for the supervisor, and ``waiting`` how many
    may wait at once.
    """

    def __init__(
        self,
        context: Context,
        *,
        audit: Emit,
        pace: Pace | None = None,
        call_s: float = _CALL_S,
        waiting: int = _WAITING,
    ) -> None:
        self._context = context
        self._audit = audit
        self._pace = pace or Pace()
        self._call_s = call_s
        self._most = waiting
        self._waiting = 0
        self._description = describe(ROUTES)
        by_path: dict[str, list[Route]] = {}
        for route in ROUTES:
            by_path.setdefault(route.path, []).append(route)
        app = Starlette(
            routes=[
                Path("/openapi.json", self._describe, methods=["GET"]),
                *(
                    Path(path, _Endpoint(self, routes), methods=[r.method for r in routes])
                    for path, routes in by_path.items()
                ),
            ],
            exception_handlers={HTTPException: _unknown},
        )
        app.router.redirect_slashes = False
        self.app = Paced(app, self._pace)

    async def answer(self, route: Route, request: Request) -> Any:
        """The ASGI application that answers one request."""
        try:
            body = await _read(request, route.body, route.body_bytes) if route.body else None
            call = Call(request.path_params, request.query_params, body, _uid(request))
            if route.where == "stream":
                return route.handler(self._context, call)
            if route.where == "loop":
                return _json(route.handler(self._context, call))
            if route.where == "thread":
                return _json(await self._pace.run(route.handler, self._context, call))
            asked = partial(self._run, route, call, request)
            return _json(await self._ask(asked, reads=route.method == "GET"))
        except Exception as error:
            if not isinstance(error, KmindError):
                trace = "".join(traceback.format_exception(error))
                self._audit(
                    events.Trouble(method=route.method, path=request.url.path, traceback=trace)
                )
            return _refusal(error)

    def _run(self, route: Route, call: Call, request: Request) -> Any:
        # On the supervisor's thread. What was asked is recorded with who asked it, and how it went.
        result = "done"
        try:
            return route.handler(self._context, call)
        except Exception as error:
            result = problem(error).detail
            raise
        finally:
            if route.method != "GET":
                uid, pid = request.client or ("unknown", 0)
                self._audit(
                    events.Request(
                        method=route.method,
                        path=request.url.path,
                        peer=uid,
                        pid=pid,
                        result=result,
                    )
                )

    async def _ask(self, call: Callable[[], Any], *, reads: bool) -> Any:
        if self._waiting >= self._most:
            raise HttpError(
                503, f"{self._waiting} requests wait already", hint="ask again in a moment"
            )
        self._waiting += 1
        try:
            future = asyncio.wrap_future(self._context.supervisor.submit(call, reads=reads))
            return await asyncio.wait_for(future, self._call_s)
        except TimeoutError:
            raise HttpError(
                504,
                f"the supervisor did not answer within {self._call_s:g} s",
                hint="the request may still take effect; see: kmind status",
            ) from None
        finally:
            self._waiting -= 1

    async def _describe(self, request: Request) -> Response:
        return _json(self._description)


class _Endpoint:
    # All methods of one path. Not a function: Starlette hands such a one scope, receive, send.

    def __init__(self, api: Api, routes: Sequence[Route]) -> None:
        self._api = api
        self._routes = {route.method: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        answer = await self._api.answer(self._routes[method], Request(scope, receive))
        try:
            await answer(scope, receive, send)
        except HttpError as error:  # a stream that could not begin
            await _refusal(error)(scope, receive, send)


def _uid(request: Request) -> int:
    # Of the process that connected, as PeerSocket names it.
    words = request.client.host.split() if request.client else []
    return int(words[1]) if len(words) == 2 and words[1].isdecimal() else -1


async def _read(request: Request, kind: type, most: int) -> Any:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HttpError(
            415,
            f"the body is {media or 'of no type'}, and must be application/json",
            hint="set the header Content-Type",
        )
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > most:
                    raise HttpError(
                        413,
                        f"the body has more than {most} bytes",
                        headers={"connection": "close"},
                    )
    except (TimeoutError, ClientDisconnect):
        raise HttpError(
            408, f"the body did not arrive within {_BODY_S:g} s", headers={"connection": "close"}
        ) from None
    return _body(bytes(data), kind)


def _body(data: bytes, kind: type) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except Exception as error:  # whatever a client sends
        raise HttpError(
            400, f"the body is wrong: {one_line(error)}", hint="see /openapi.json for its schema"
        ) from None


async def _unknown(request: Request, error: Exception) -> Response:
    # Of Starlette itself: no such path, or no such method of it.
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = "there is no such path" if status == 404 else f"it does not take {request.method}"
    headers = dict(getattr(error, "headers", None) or {})
    known = HttpError(
        status, f"{request.url.path[:200]}: {what}", hint="see /openapi.json", headers=headers
    )
    return _refusal(known)


def _refusal(error: Exception) -> Response:
    told = problem(error)
    return Response(
        msgspec.json.encode(told),
        told.status,
        error.headers if isinstance(error, HttpError) else None,
        PROBLEM,
    )


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content, enc_hook=str), media_type="application/json")
