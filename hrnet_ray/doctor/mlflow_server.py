"""Check of the MLflow server: connection and version."""

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
"""Seconds for both requests together."""
MAX_RESPONSE_BYTES = 64
"""Bytes that are read of a response, which is `OK` or a version."""


def check_mlflow_server(uri: str | None, *, timeout_s: float = REQUEST_TIMEOUT_S) -> CheckResult:
    """Request health and version of an MLflow server."""
    if uri is None:
        return CheckResult("unasked", "no server given (--cluster.tracking-uri): runs use a file in the storage")
    if not uri.startswith(("http://", "https://")):
        return CheckResult("ok", f"{uri.split(':')[0]}: no server to check")
    base, start_s = uri.rstrip("/"), time.monotonic()
    redacted = redact_secrets(base, {})
    fix = _suggest_fix_command(redacted)
    try:
        health = _fetch_text(f"{base}/health", timeout_s)
        if health != "OK":
            detail = f"{redacted}/health answers {health!r}: not an MLflow server"
            return CheckResult("wrong", detail, fix)
        remaining_s = max(0.1, timeout_s - (time.monotonic() - start_s))
        version = _fetch_text(f"{base}/version", remaining_s)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        has_code = isinstance(error, urllib.error.HTTPError)  # its reason lacks the status code
        reason = error if has_code else getattr(error, "reason", None) or error
        return CheckResult("wrong", f"{redacted}: {reason}", fix)
    return check_mlflow_versions(f"{redacted} answers in {time.monotonic() - start_s:.1f} s", version)


def check_mlflow_versions(detail: str, server_version: str) -> CheckResult:
    """Compare the versions of server and client: the major versions must be equal."""
    client = metadata.version("mlflow")
    if server_version.split(".")[0] == client.split(".")[0]:
        return CheckResult("ok", f"{detail}, version {server_version}")
    fix = f"pip install {shlex.quote(f'mlflow=={client}')}  # on the server, then restart it"
    return CheckResult("careful", f"{detail}, version {server_version}, but the client has {client}", fix)


def _suggest_fix_command(uri: str) -> str:
    """Suggest to start a local server, or to test the connection to a remote one."""
    parts = urlsplit(uri)
    port = parts.netloc.rpartition(":")[2]
    if parts.hostname in ("127.0.0.1", "localhost", "::1") and port.isdigit():
        return f"mlflow server --host 127.0.0.1 --port {port}"
    return f"curl -v --max-time 5 {shlex.quote(uri.rstrip('/') + '/health')}"


def _fetch_text(url: str, timeout_s: float) -> str:
    """Fetch a short text; a password in the URL is sent as basic authentication, as MLflow does."""
    parts = urlsplit(url)
    account, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if at:
        basic = base64.b64encode(unquote(account).encode()).decode()
        request.add_header("Authorization", f"Basic {basic}")
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return answer.read(MAX_RESPONSE_BYTES).decode(errors="replace").strip()
