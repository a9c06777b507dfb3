"""Command line that trains again with given settings."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def build_train_argv(settings: Mapping[str, Any], *, name: str, defaults: Mapping[str, Any] | None = None) -> list[str]:
    """Build the words of a `hrnet-ray train` command, without settings at their `defaults`.

    The run gets a `name` of its own, because the run of the trial is finished. Passwords in URLs
    are removed.
    """
    defaults = defaults or {}
    missing = object()
    words = ["hrnet-ray", "train", "--size", "published", "--name", name]  # with any other size, flags start from it
    for setting, value in settings.items():
        if setting != "name" and _convert_tuple_to_list(value) != _convert_tuple_to_list(
            defaults.get(setting, missing)
        ):
            words += _format_flag(setting, value)
    return words


def format_shell_command(argv: list[str]) -> str:
    """Format the command for a shell, one flag per line."""
    parts: list[str] = []
    for word in argv:
        if word.startswith("--") or not parts:
            parts.append(shlex.quote(word))
        else:
            parts[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(parts)


def _format_flag(setting: str, value: Any) -> list[str]:
    flag = "--" + setting.replace("_", "-")
    if isinstance(value, bool):
        head, _, last = flag.rpartition(".")
        no = f"{head}.no-{last}" if head else f"--no-{last.removeprefix('--')}"
        return [flag if value else no]
    if isinstance(value, list | tuple):
        return [flag, *map(str, value)]
    return [flag, URL_CREDENTIALS.sub("", str(value))]


def _convert_tuple_to_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
