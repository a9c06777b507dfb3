"""Check of the Ray token, which allows to run code on the cluster and must be private."""

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from hrnet_ray.doctor.result import CheckResult


def check_ray_token(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> CheckResult:
    """Check that token and RAY_AUTH_MODE agree, and that no other user can read the token.

    Ray reads RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.
    """
    mode = environment.get("RAY_AUTH_MODE", "").lower()
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or (home or Path.home()) / ".ray" / "auth_token")
    quoted = shlex.quote(str(path))
    if mode not in ("", "token", "disabled"):
        detail = f"RAY_AUTH_MODE must be token or disabled, got {mode!r}"
        return CheckResult("wrong", detail, "export RAY_AUTH_MODE=token")
    if path.is_file() and is_readable_by_others(path):
        detail = f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}: other users can read it"
        return CheckResult("wrong", detail, f"chmod 600 {quoted}")
    if mode == "disabled":
        detail = "RAY_AUTH_MODE=disabled: any host that reaches the ports of Ray can run code"
        return CheckResult("careful", detail, "export RAY_AUTH_MODE=token")
    has_token = bool(environment.get("RAY_AUTH_TOKEN")) or path.is_file()
    if mode == "token" and not has_token:
        fix = f"ray get-auth-token --generate && chmod 600 {quoted}"
        return CheckResult("wrong", f"RAY_AUTH_MODE=token, but no token at {path}", fix)
    if has_token and not mode:
        detail = "a token exists, but RAY_AUTH_MODE=token, which joining a cluster needs, is not set"
        return CheckResult("careful", detail, "export RAY_AUTH_MODE=token")
    return CheckResult("ok", "set and private" if has_token else "none: a local Ray creates one")


def is_readable_by_others(path: Path) -> bool:
    """Return whether the group or others can read a file and enter all folders above it.

    Ray writes its token with mode 0644, which is private in a closed home folder.
    """
    folders = [folder.stat().st_mode for folder in path.absolute().parents]
    mode = path.stat().st_mode
    return any(
        mode & read and all(folder & enter for folder in folders)
        for read, enter in ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH))
    )
