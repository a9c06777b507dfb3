"""`hrnet-ray serve`."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import uvicorn

from hrnet_ray.cli.model_resolution import MlflowStoreArgs, resolve_model, select_device
from hrnet_ray.errors import UsageError
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.serving.app import create_app
from hrnet_ray.text import escape_control_chars

PORT_ERRNOS = (errno.EADDRINUSE, errno.EACCES)
MAX_PORT = 65535
MAX_CONCURRENT_REQUESTS = 16
"""Requests; more are told to come back (503)."""
SHUTDOWN_TIMEOUT_S = 3
"""After Ctrl-C, until clients that send nothing more are left."""


@dataclass(frozen=True, kw_only=True)
class ServeArgs:
    """Show a model in the browser, and answer programs: POST a picture to /predict, get its poses.

    curl -g --data-binary @a.jpg "http://127.0.0.1:8000/predict?boxes=[[20,10,300,220]]"
    """

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run, or
    models:/NAME@champion."""
    port: int = 8000
    """0 takes any that is free."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own let in whoever can reach it: there is no
    password."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which others reach it, such as a proxy's. Addresses need none."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    tracking_uri: str | None = None
    """MLflow server of a model that is named by MLflow; without one, the file in `storage`."""
    storage_path: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: ServeArgs) -> None:
    """Serve until Ctrl-C."""
    loaded = resolve_model(
        args.model, "--model", MlflowStoreArgs(args.tracking_uri, args.storage_path)
    )
    predictor = Predictor(loaded.model, loaded.spec, device=select_device(args.device))
    listening = _open_listening_socket(args.host, args.port)
    address, port = listening.getsockname()[:2]
    names = ("localhost", args.host, *args.allowed_hosts)
    shown = f"[{address}]" if ":" in address else address
    print(f"{escape_control_chars(args.model)}: HRNet-W{loaded.spec.width} on {predictor.device}")
    print(f"http://{shown}:{port}    (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(
        create_app(predictor, args.model, allowed_hosts=names),
        log_level="critical",  # its errors are tracebacks of clients that went away
        access_log=False,
        limit_concurrency=MAX_CONCURRENT_REQUESTS,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _open_listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound.

    Raises:
        UsageError: it cannot be; says whether for its address or its port.
    """
    where = f"--host {host} --port {port}"
    try:
        if not 0 <= port <= MAX_PORT:
            raise OverflowError(f"ports end at {MAX_PORT}")
        ((family, _, _, _, address), *_) = socket.getaddrinfo(
            host or "?", port, type=socket.SOCK_STREAM
        )
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        of_port = isinstance(error, OverflowError) or getattr(error, "errno", None) in PORT_ERRNOS
        raise UsageError(
            "nobody can listen there",
            f"{where}: {error}",
            "give another --port, or --port 0 for any that is free"
            if of_port
            else "give an address of this machine as --host, such as 127.0.0.1",
        ) from error
