"""Settings as the command line that trains with them again."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def build_train_argv(
    settings: Mapping[str, Any], *, name: str, defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """The words of a `hrnet-ray train` command; settings at their `defaults` are left out.

    The run is called `name`: under its trial's own name it would be finished already. A password
    within an address is left out.
    """
    defaults = defaults or {}
    missing = object()
    words = ["hrnet-ray", "train", "--name", name]
    for setting, value in settings.items():
        if setting != "name" and _convert_tuple_to_list(value) != _convert_tuple_to_list(
            defaults.get(setting, missing)
        ):
            words += _format_flag(setting, value)
    return words


def format_shell_command(argv: list[str]) -> str:
    """For a terminal: a flag a line, every word quoted where it must be."""
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
