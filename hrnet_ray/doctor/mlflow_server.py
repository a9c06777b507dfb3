"""The MLflow server: whether it answers, and in which version."""

import base64
import shlex
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from importlib import metadata
from urllib.parse import unquote, urlsplit

from hrnet_ray.doctor.result import CheckResult
from hrnet_ray.text import redact_secrets

REQUEST_TIMEOUT_S = 3.0
MAX_RESPONSE_BYTES = 64  # bytes of an answer that says `OK` or a version


def check_mlflow_server(uri: str | None, *, timeout_s: float = REQUEST_TIMEOUT_S) -> CheckResult:
    """Ask an MLflow server whether it is well; a server that drips is left to the check's limit."""
    if uri is None:
        return CheckResult(
            "unasked", "no server named (--cluster.tracking-uri): a file in the storage"
        )
    if not uri.startswith(("http://", "https://")):
        return CheckResult("ok", f"{uri.split(':')[0]}: no server to ask")
    base, began = uri.rstrip("/"), time.monotonic()
    shown = redact_secrets(base, {})
    fix = _suggest_fix_command(shown)
    try:
        said = _fetch_text(f"{base}/health", timeout_s)
        if said != "OK":
            return CheckResult("wrong", f"{shown}/health answers {said!r}: no MLflow server", fix)
        left_s = max(0.1, timeout_s - (time.monotonic() - began))
        version = _fetch_text(f"{base}/version", left_s)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        has_code = isinstance(error, urllib.error.HTTPError)  # its reason alone lacks the number
        reason = error if has_code else getattr(error, "reason", None) or error
        return CheckResult("wrong", f"{shown}: {reason}", fix)
    return check_mlflow_versions(f"{shown} answers in {time.monotonic() - began:.1f} s", version)


def check_mlflow_versions(detail: str, server_version: str) -> CheckResult:
    """The server's version beside the client's: the first number must be the same."""
    client = metadata.version("mlflow")
    if server_version.split(".")[0] == client.split(".")[0]:
        return CheckResult("ok", f"{detail}, version {server_version}")
    fix = f"pip install {shlex.quote(f'mlflow=={client}')}  # where the server runs, then start it"
    return CheckResult("careful", f"{detail}, version {server_version}, but here is {client}", fix)


def _suggest_fix_command(uri: str) -> str:
    """How to start a server of this machine; another machine's can only be asked."""
    parts = urlsplit(uri)
    port = parts.netloc.rpartition(":")[2]
    if parts.hostname in ("127.0.0.1", "localhost", "::1") and port.isdigit():
        return f"mlflow server --host 127.0.0.1 --port {port}"
    return f"curl -v --max-time 5 {shlex.quote(uri.rstrip('/') + '/health')}"


def _fetch_text(url: str, timeout_s: float) -> str:
    """What is said there. A password in the address is sent, as a client of MLflow does."""
    parts = urlsplit(url)
    account, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if at:
        basic = base64.b64encode(unquote(account).encode()).decode()
        request.add_header("Authorization", f"Basic {basic}")
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return answer.read(MAX_RESPONSE_BYTES).decode(errors="replace").strip()
