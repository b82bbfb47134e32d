# SPDX-License-Identifier: Apache-2.0
"""Asking a Prometheus server one query over HTTP, bounded in time, size and redirects.

The HTTP API is that of https://prometheus.io/docs/prometheus/latest/querying/api/. Neither
the server nor its name server is trusted: an answer that is late, long, or no single number
is a gap. Credentials come from a file of root's, never from the URL.
"""

from __future__ import annotations

import base64
import http
import http.client
import json
import netrc
import os
import re
import socket
import ssl
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from kmind.errors import UsageError
from kmind.paths import CREDENTIALS
from kmind.runtime.objective.command import GapError
from kmind.runtime.objective.number import parse_number, short
from kmind.util.text import clean

__all__ = ["Prometheus", "parse_prometheus"]

_API = "/api/v1/query"
_MOST_ANSWER = 1 << 20
_MOST_WORDS = 160
_HOST = re.compile(r"[\w.-]+")


class _Cut:
    # Ends a connection from another thread. A socket that TLS wraps changes its owner, so
    # what is shut down is a copy of the descriptor.

    def __init__(self) -> None:
        self.late = False
        self._lock = threading.Lock()
        self._copy: socket.socket | None = None

    def hold(self, connection: socket.socket) -> None:
        with self._lock:
            if self.late:
                raise TimeoutError
            self._drop()
            self._copy = connection.dup()

    def cut(self) -> None:
        with self._lock:
            self.late = True
            if self._copy is not None:
                with suppress(OSError):
                    self._copy.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None


class Prometheus:
    """An ``Objective``: what a query gives now, one number."""

    better: Literal["higher", "lower", ""] = ""

    def __init__(
        self,
        host: str,
        port: int | None,
        path: str,
        *,
        secure: bool,
        timeout_s: float,
        authorization: str = "",
    ) -> None:
        self.timeout_s = timeout_s
        self._host = host
        self._port = port or (http.client.HTTPS_PORT if secure else http.client.HTTP_PORT)
        self._path = path
        self._secure = secure
        self._context: ssl.SSLContext | None = None
        self._headers = {"Accept": "application/json"}
        if authorization:
            self._headers["Authorization"] = authorization
        self._cut: _Cut | None = None

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        """The answer; raises GapError."""
        cut = self._cut = _Cut()
        if cancelled():
            raise GapError("timeout", "it was cancelled")
        # A server may send a byte now and then: only a clock beside it bounds the whole.
        timer = threading.Timer(self.timeout_s, cut.cut)
        timer.daemon = True
        timer.start()
        try:
            return _value(self._fetch(cut))
        finally:
            timer.cancel()
            cut.close()

    def cancel(self) -> None:
        """End the question under way; from any thread."""
        if self._cut is not None:
            self._cut.cut()

    def _fetch(self, cut: _Cut) -> str:
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connect(cut)
            connection.request("GET", self._path, headers=self._headers)
            reply = connection.getresponse()
            text = reply.read(_MOST_ANSWER + 1)
        # ValueError: a host that is no name in IDNA, a header that is none.
        except (OSError, http.client.HTTPException, ValueError) as error:
            if cut.late or isinstance(error, TimeoutError):
                raise GapError("timeout", f"no answer within {self.timeout_s:g} s") from None
            why = clean(str(error) or type(error).__name__, _MOST_WORDS)
            raise GapError("failed", f"the server cannot be reached: {why}") from None
        finally:
            if connection is not None:
                connection.close()
        if cut.late:
            raise GapError("timeout", f"no complete answer within {self.timeout_s:g} s")
        if reply.status != http.HTTPStatus.OK:
            raise GapError("failed", self._refusal(reply, text))
        if len(text) > _MOST_ANSWER:
            raise GapError("text", f"the answer has more than {_MOST_ANSWER} bytes")
        return text.decode("utf-8", "replace")

    def _connect(self, cut: _Cut) -> http.client.HTTPConnection:
        until = time.monotonic() + self.timeout_s
        last: OSError = OSError("its name has no address")
        for family, kind, number, _, address in socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM
        ):
            connection = socket.socket(family, kind, number)
            try:
                cut.hold(connection)
                connection.settimeout(max(0.001, until - time.monotonic()))
                connection.connect(address)
                client: http.client.HTTPConnection
                if self._secure:
                    self._context = self._context or ssl.create_default_context()
                    client = http.client.HTTPSConnection(
                        self._host, self._port, context=self._context
                    )
                    connection = self._context.wrap_socket(connection, server_hostname=self._host)
                else:
                    client = http.client.HTTPConnection(self._host, self._port)
                client.sock = connection
                return client
            except OSError as error:
                connection.close()
                last = error
                if cut.late:
                    break
        raise last

    def _refusal(self, reply: http.client.HTTPResponse, text: bytes) -> str:
        why = f"the server says {reply.status} {clean(reply.reason, 60)}"
        if where := reply.getheader("Location"):
            return f"{why}, to {clean(_hidden(where), 80)}; no redirect is followed: name that URL"
        if reply.status == http.HTTPStatus.UNAUTHORIZED:
            return f"{why}; put a name and a password for {self._host} into {CREDENTIALS}"
        # A query that is wrong is answered by 400 or 422, with the reason in JSON.
        with suppress(Exception):
            why += f": {clean(str(json.loads(text)['error']), _MOST_WORDS)}"
        return why


def _value(text: str) -> float:
    try:
        answer = json.loads(text)
        data = answer["data"]
        kind, result = data["resultType"], data["result"]
        if answer["status"] != "success":
            raise ValueError
        if kind not in ("vector", "scalar"):
            what = clean(str(kind), 20)
            raise GapError("text", f"the query gives a {what}, and must give one number")
        if kind == "vector" and not result:
            raise GapError("empty", "the query found nothing")
        if kind == "vector" and len(result) > 1:
            raise GapError("text", f"the query found {len(result)} series, and must find one")
        word = result[0]["value"][1] if kind == "vector" else result[1]
        if not isinstance(word, str):
            raise ValueError
    except GapError:
        raise
    except Exception:  # whatever it is: what a server says ends no daemon
        raise GapError("text", f"this is not an answer of Prometheus: {short(text)}") from None
    return parse_number(word)


def parse_prometheus(text: str, *, timeout_s: float, credentials: Path | None = None) -> Prometheus:
    """The server and the query of ``URL?query=QUERY``; UsageError that shows no password.

    The URL is that of the server or of its API's query. In the query ``%XX`` stands for a
    byte, ``+`` for itself. ``credentials`` is the file to use in place of ``CREDENTIALS``.
    """
    url, mark, query = text.partition("?query=")
    shown = f"objective prometheus:{clean(_hidden(text), 80)}"
    parts = _server(url) if mark and query else None
    if parts is None:
        raise UsageError(
            f"{shown} names no server or no query",
            hint="such as prometheus:http://127.0.0.1:9090?query=rate(requests_total[10s])",
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{shown}: credentials are not taken from a URL",
            hint=f"put them into {CREDENTIALS}: machine HOST login NAME password WORD",
        )
    host = urllib.parse.unquote(str(parts.hostname))
    path = urllib.parse.quote(_prefix(parts.path, shown), safe="/%")
    words = urllib.parse.quote(_query(query, shown), safe="")
    return Prometheus(
        host,
        parts.port,
        f"{path}{_API}?query={words}",
        secure=parts.scheme == "https",
        timeout_s=timeout_s,
        authorization=_authorization(host, credentials or CREDENTIALS),
    )


def _server(url: str) -> urllib.parse.SplitResult | None:
    if not url.isprintable() or any(c.isspace() for c in url):
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        known = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
        if ":" not in host:
            known = known and bool(_HOST.fullmatch(host) and host.encode("idna"))
    except ValueError:  # a port that is not a number, brackets that do not match, no host name
        return None
    return parts if known and not parts.query and not parts.fragment else None


def _prefix(path: str, shown: str) -> str:
    # People copy the address of the API, or of the page that draws a graph.
    path = path.rstrip("/")
    for ending in (_API, "/api/v1"):
        if path.endswith(ending):
            return path.removesuffix(ending).rstrip("/")
    for ending in ("/api/v1/query_range", "/graph"):
        if path.endswith(ending):
            raise UsageError(
                f"{shown}: {ending} gives no single number",
                hint="name the server alone, such as http://127.0.0.1:9090?query=...",
            )
    return path


def _query(text: str, shown: str) -> str:
    quote = ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'`":
            quote = char
        elif char == "&":
            raise UsageError(
                f"{shown}: only query= is taken", hint="omit & and what follows, or write it %26"
            )
    query = urllib.parse.unquote(text)
    if not query.strip() or not query.isprintable():
        raise UsageError(
            f"{shown}: the query holds a character that cannot be printed",
            hint="%XX stands for a byte; write the operator % as %25, or with blanks around it",
        )
    return query


def _authorization(host: str, file: Path) -> str:
    # The header for that host, "" where the file names none.
    try:
        with file.open() as opened:
            status = os.fstat(opened.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UsageError(
                    f"{file} can be read by others, or is not yours",
                    hint=f"chown root: {file} && chmod 600 {file}",
                )
            found: Any = netrc.netrc(str(file)).hosts.get(host)
    except FileNotFoundError:
        return ""
    except UsageError:
        raise
    except Exception as error:  # netrc raises more than it names
        why = getattr(error, "strerror", None) or f"line {getattr(error, 'lineno', '?')}"
        raise UsageError(f"{file} cannot be read: {why}", hint="see netrc(5)") from None
    if found is None:
        return ""
    login, _, password = found
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


def _hidden(text: str) -> str:
    # Without what may be a name and a password, however they are written.
    head, at, tail = text.replace("%40", "@").rpartition("@")
    scheme, slashes, _ = head.partition("//")
    return f"{scheme if slashes else ''}{slashes}...@{tail}" if at else text
