"""`hrnet-ray serve`: serve a model over HTTP, with a page for the browser."""

import errno
import socket
from dataclasses import dataclass
from typing import Literal

import uvicorn

from hrnet_ray.cli.model_resolution import ModelArgs, resolve_model, select_device
from hrnet_ray.errors import UsageError
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.serving.app import create_app
from hrnet_ray.text import escape_control_chars

PORT_ERRNOS = (errno.EADDRINUSE, errno.EACCES)
MAX_PORT = 65535
MAX_CONCURRENT_REQUESTS = 16
"""Number of concurrent requests; further requests get status 503."""
SHUTDOWN_TIMEOUT_S = 3
"""Seconds after Ctrl-C until open connections are closed."""


@dataclass(frozen=True, kw_only=True)
class ServeArgs(ModelArgs):
    """Serve a model: a page for the browser, and POST /predict to get the poses of an image.

    curl -g --data-binary @a.jpg "http://127.0.0.1:8000/predict?boxes=[[20,10,300,220]]"
    """

    port: int = 8000
    """Port to listen on; 0 selects a free one."""
    host: str = "127.0.0.1"
    """Address to listen on. There is no password: any other address than 127.0.0.1 opens the server
    to the network."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that clients may use, such as that of a proxy; IP addresses are always allowed."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the model; auto takes a GPU if torch finds one."""


def run(args: ServeArgs) -> None:
    """Serve until Ctrl-C."""
    loaded = resolve_model(args.model, "--model", args)
    predictor = Predictor(loaded.model, loaded.spec, device=select_device(args.device))
    listening_socket = _open_listening_socket(args.host, args.port)
    address, port = listening_socket.getsockname()[:2]
    names = ("localhost", args.host, *args.allowed_hosts)
    url_host = f"[{address}]" if ":" in address else address
    print(f"{escape_control_chars(args.model)}: HRNet-W{loaded.spec.width} on {predictor.device}")
    print(f"http://{url_host}:{port}    (press Ctrl-C to stop)", flush=True)
    config = uvicorn.Config(
        create_app(predictor, args.model, allowed_hosts=names),
        log_level="critical",  # its errors are tracebacks about closed connections
        access_log=False,
        limit_concurrency=MAX_CONCURRENT_REQUESTS,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    uvicorn.Server(config).run(sockets=[listening_socket])


def _open_listening_socket(host: str, port: int) -> socket.socket:
    """Open a socket that is bound to the address.

    Raises:
        UsageError: the address or the port cannot be used; the fix names which of the two.
    """
    where = f"--host {host} --port {port}"
    try:
        if not 0 <= port <= MAX_PORT:
            raise OverflowError(f"the highest port is {MAX_PORT}")
        ((family, _, _, _, address), *_) = socket.getaddrinfo(host or "?", port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        is_port = isinstance(error, OverflowError) or getattr(error, "errno", None) in PORT_ERRNOS
        raise UsageError(
            "the server cannot listen on this address",
            f"{where}: {error}",
            "give another --port, or --port 0 for a free one"
            if is_port
            else "give an address of this machine as --host, such as 127.0.0.1",
        ) from error
