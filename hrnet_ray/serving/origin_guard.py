"""Middleware that checks the origin of requests and sets security headers on each answer."""

import ipaddress
import re
from collections.abc import Collection, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOST_PATTERN = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\[\]:@/]+)(:[0-9]+)?")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class OriginGuardMiddleware:
    """Refuse requests that pages of other sites send through the browser of a visitor.

    Such a page may resolve its own host name to this machine (DNS rebinding). `Host` is then that
    name, never an IP address. If it sends to the true address, the browser sets `Origin` or
    `Sec-Fetch-Site`.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self.app = app
        self.allowed_hosts = {name.lower() for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if not self._is_allowed_host(headers.get("host", "")):
            response = make_error_response("the host name is not allowed", headers.get("host", ""), HOST_NAME_FIX)
            return await response(scope, receive, send_with_headers)
        if scope["method"] == "POST" and _is_cross_site(headers):
            fix = "send the request by a program or from this server's page"
            response = make_error_response("requests from other sites are refused", headers.get("origin", ""), fix)
            return await response(scope, receive, send_with_headers)
        await self.app(scope, receive, send_with_headers)

    def _is_allowed_host(self, host: str) -> bool:
        match = HOST_PATTERN.fullmatch(host)
        name = match["name"].strip("[]").lower() if match else ""
        return name in self.allowed_hosts or _is_ip_address(name)


HOST_NAME_FIX = "use an IP address, or start the server with --allowed-hosts NAME"


def make_error_response(what: str, where: str, fix: str, *, status: int = 400) -> JSONResponse:
    """Build an error response with the three parts of a terminal error."""
    return JSONResponse({"error": what, "where": where, "fix": fix}, status_code=status)


def _is_cross_site(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "none") == "cross-site":
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
