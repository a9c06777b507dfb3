"""Who may ask, and what each answer says to a browser: around the application, below its errors."""

import ipaddress
import re
from collections.abc import Collection, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\[\]:@/]+)(:[0-9]+)?")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Refuses what a page of elsewhere would send by a visitor's browser.

    Such a page may lead a name of its own to this machine (DNS rebinding): then `Host` is that
    name. An address in `Host` cannot be of that kind. Or it sends to the true address: then the
    browser says so in `Origin` or `Sec-Fetch-Site`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app = app
        self.names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        asked = Headers(scope=scope)
        if not self._is_ours(asked.get("host", "")):
            answer = refusal("another name than this server's", asked.get("host", ""), NAME_FIX)
            return await answer(scope, receive, with_headers)
        if scope["method"] == "POST" and _from_elsewhere(asked):
            answer = refusal("a page of elsewhere", asked.get("origin", ""), "send it by a program")
            return await answer(scope, receive, with_headers)
        await self.app(scope, receive, with_headers)

    def _is_ours(self, host: str) -> bool:
        found = HOST.fullmatch(host)
        name = found["name"].strip("[]").lower() if found else ""
        return name in self.names or _is_address(name)


NAME_FIX = "ask by an address, or start the server with --names NAME"


def refusal(what: str, where: str, fix: str, *, status: int = 400) -> JSONResponse:
    """An error as programs read it: in the three parts that a terminal would show."""
    return JSONResponse({"error": what, "where": where, "fix": fix}, status_code=status)


def _from_elsewhere(asked: Headers) -> bool:
    if asked.get("sec-fetch-site", "none") == "cross-site":
        return True
    origin = asked.get("origin")
    return origin is not None and origin.partition("://")[2] != asked.get("host")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
