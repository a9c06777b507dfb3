"""The MLflow server: whether it answers, and in which version."""

import base64
import shlex
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from importlib import metadata
from urllib.parse import unquote, urlsplit

from hrnet_ray.doctor.result import Finding
from hrnet_ray.text import without_secrets

WAIT_S = 3.0
MOST_READ = 64  # bytes of an answer that says `OK` or a version


def mlflow(uri: str | None, *, wait_s: float = WAIT_S) -> Finding:
    """Ask an MLflow server whether it is well; a server that drips is left to the check's limit."""
    if uri is None:
        return Finding("unasked", "no server named (--cluster.tracking-uri): a file in the storage")
    if not uri.startswith(("http://", "https://")):
        return Finding("ok", f"{uri.split(':')[0]}: no server to ask")
    base, began = uri.rstrip("/"), time.monotonic()
    shown = without_secrets(base, {})
    fix = _start(shown)
    try:
        said = _get(f"{base}/health", wait_s)
        if said != "OK":
            return Finding("wrong", f"{shown}/health answers {said!r}: no MLflow server", fix)
        left_s = max(0.1, wait_s - (time.monotonic() - began))
        version = _get(f"{base}/version", left_s)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        has_code = isinstance(error, urllib.error.HTTPError)  # its reason alone lacks the number
        reason = error if has_code else getattr(error, "reason", None) or error
        return Finding("wrong", f"{shown}: {reason}", fix)
    return versions(f"{shown} answers in {time.monotonic() - began:.1f} s", version)


def versions(said: str, server: str) -> Finding:
    """The server's version beside the client's: the first number must be the same."""
    client = metadata.version("mlflow")
    if server.split(".")[0] == client.split(".")[0]:
        return Finding("ok", f"{said}, version {server}")
    fix = f"pip install {shlex.quote(f'mlflow=={client}')}  # where the server runs, then start it"
    return Finding("careful", f"{said}, version {server}, but here is {client}", fix)


def _start(uri: str) -> str:
    """How to start a server of this machine; another machine's can only be asked."""
    parts = urlsplit(uri)
    port = parts.netloc.rpartition(":")[2]
    if parts.hostname in ("127.0.0.1", "localhost", "::1") and port.isdigit():
        return f"mlflow server --host 127.0.0.1 --port {port}"
    return f"curl -v --max-time 5 {shlex.quote(uri.rstrip('/') + '/health')}"


def _get(address: str, wait_s: float) -> str:
    """What is said there. A password in the address is sent, as a client of MLflow does."""
    parts = urlsplit(address)
    account, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if at:
        basic = base64.b64encode(unquote(account).encode()).decode()
        request.add_header("Authorization", f"Basic {basic}")
    with urllib.request.urlopen(request, timeout=wait_s) as answer:
        return answer.read(MOST_READ).decode(errors="replace").strip()
