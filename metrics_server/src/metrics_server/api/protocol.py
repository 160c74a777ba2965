# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP itself: what is no request is answered in the words of the Kubernetes API, and costs no traceback in the log."""

from __future__ import annotations

import logging

from aiohttp import web

from metrics_server.api import status
from metrics_server.api.negotiate import JSON
from metrics_server.logs import Seldom

_log = logging.getLogger(__name__)
_seldom = Seldom()

#: In place of the library's own, which names its version and that of the interpreter.
SERVER_HEADER = {"Server": "metrics-server"}


class HttpServer(web.Server):
    """Makes the protocol of each connection."""

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Handler(self, loop=self._loop, **self._kwargs)


class _Handler(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status_code: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read as a request, and close the connection: nobody knows where the next begins."""
        gone = request.transport is None or request.transport.is_closing()
        if gone and isinstance(exc, ConnectionError):
            # The client went away in the middle of its answer. That happens each day, and nobody is left to be told.
            raise exc
        if status_code >= 500:
            _log.error("Request failed", exc_info=exc)
            error = status.internal_error("the request could not be handled, see the log of the metrics server")
        else:
            if _seldom():
                _log.info("Not a request", extra={"kv": {"peer": request.remote, "reason": type(exc).__name__}})
            # The library's message repeats what the client sent.
            error = status.bad_request("the request is not valid HTTP, or its headers are too large")
        if request.writer.output_size > 0:
            raise ConnectionError("a part of an answer was sent already")
        response = web.Response(status=error.code, body=error.body(), content_type=JSON, headers=SERVER_HEADER)
        response.force_close()
        return response
