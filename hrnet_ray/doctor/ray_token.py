"""Ray's token: who knows it may run code on the cluster, so it must be there, and be private."""

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from hrnet_ray.doctor.result import CheckResult


def check_ray_token(
    environment: Mapping[str, str] = os.environ, home: Path | None = None
) -> CheckResult:
    """Whether token and mode agree, and nobody else reads the token.

    Ray looks at RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, and ~/.ray/auth_token.
    """
    mode = environment.get("RAY_AUTH_MODE", "").lower()
    path = Path(
        environment.get("RAY_AUTH_TOKEN_PATH") or (home or Path.home()) / ".ray" / "auth_token"
    )
    quoted = shlex.quote(str(path))
    if mode not in ("", "token", "disabled"):
        said = f"RAY_AUTH_MODE is {mode!r}, which Ray doesn't know"
        return CheckResult("wrong", said, "export RAY_AUTH_MODE=token")
    if path.is_file() and is_readable_by_others(path):
        said = f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}: others can read it"
        return CheckResult("wrong", said, f"chmod 600 {quoted}")
    if mode == "disabled":
        said = "RAY_AUTH_MODE=disabled: whoever reaches Ray's ports may run code"
        return CheckResult("careful", said, "export RAY_AUTH_MODE=token")
    has_token = bool(environment.get("RAY_AUTH_TOKEN")) or path.is_file()
    if mode == "token" and not has_token:
        fix = f"ray get-auth-token --generate && chmod 600 {quoted}"
        return CheckResult("wrong", f"RAY_AUTH_MODE=token, but no token at {path}", fix)
    if has_token and not mode:
        said = "there is a token, but RAY_AUTH_MODE is not set, as it must be to join a cluster"
        return CheckResult("careful", said, "export RAY_AUTH_MODE=token")
    return CheckResult("ok", "set and private" if has_token else "none: a local Ray makes one")


def is_readable_by_others(path: Path) -> bool:
    """Whether the group or everybody may read a file and enter all folders above it.

    Ray writes its token with mode 0644; in a closed home that is private enough.
    """
    folders = [folder.stat().st_mode for folder in path.absolute().parents]
    mode = path.stat().st_mode
    return any(
        mode & read and all(folder & enter for folder in folders)
        for read, enter in ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH))
    )
