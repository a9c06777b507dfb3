"""`hrnet-ray serve`."""

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import uvicorn

from hrnet_ray.cli.models import Store, device_of, load
from hrnet_ray.errors import UsageError
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.inference.web.app import app_of
from hrnet_ray.text import printable

LOOPBACK = ["127.0.0.1", "localhost"]


@dataclass(frozen=True, kw_only=True)
class Args:
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
    device: Literal["auto", "cpu", "gpu"] = "auto"
    tracking_uri: str | None = None
    """MLflow server of a model that is named by MLflow; without one, the file in `storage`."""
    storage: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: Args) -> None:
    """Serve until Ctrl-C."""
    loaded = load(args.model, "--model", Store(args.tracking_uri, args.storage))
    predictor = Predictor(loaded.model, loaded.spec, device=device_of(args.device))
    listening = _listen(args.host, args.port)
    port = listening.getsockname()[1]
    app = app_of(predictor, args.model, hosts=LOOPBACK if _is_loopback(args.host) else ["*"])
    shown = f"{printable(args.model)}: HRNet-W{loaded.spec.width} on {predictor.device}"
    print(f"{shown}\nhttp://{args.host}:{port}    (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UsageError(
            "nobody can listen there",
            f"--host {host} --port {port}: {error}",
            "give another --port, or --port 0 for any that is free",
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
