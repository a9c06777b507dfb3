"""An HTTP server before an MLflow server, which can be told to fail in all the usual ways."""

import http.client
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_S = 2.0


class Proxy:
    """Hands requests on to the server at `port`, as `mode` says.

    good: at once. slow: two seconds later. hangs: accepted, and never answered. fails: answered
    with 500. forgets: carried out, but the answer is lost. refuses: nobody listens any more.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.requests: list[str] = []
        self._mode = "good"
        self._changed = threading.Event()
        self._listen(0)
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> str:
        """How it behaves."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        before, self._mode = self._mode, mode
        self._changed.set()
        self._changed = threading.Event()
        if mode == "refuses":
            self._close()
        elif before == "refuses":
            self._listen(self.port)

    def close(self) -> None:
        """Stop, if it is not stopped."""
        if self._mode != "refuses":
            self.mode = "refuses"

    def _listen(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.socket.close()  # not `server_close`: it waits for the handlers that hang


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            mode, changed = proxy.mode, proxy._changed
            proxy.requests.append(f"{self.command} {self.path.partition('?')[0]}")
            if mode in ("hangs", "refuses"):
                changed.wait(60)
                return
            if mode == "fails":
                self.send_error(500)
                return
            if mode == "slow":
                time.sleep(SLOW_S)
            status, headers, answer = _asked(proxy.upstream, self, body)
            if mode == "forgets":
                return
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    return Handler


def _asked(port: int, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {**request.headers, "Host": f"127.0.0.1:{port}", "Connection": "close"}
    upstream.request(request.command, request.path, body, headers)
    answer = upstream.getresponse()
    return answer.status, answer.getheaders(), answer.read()
