"""Result of a check, and helpers that run a check without hanging or failing."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "careful", "wrong", "unasked"]
"""`careful`: works with limitations, or can't be checked. `unasked`: needs a flag."""

MAX_MESSAGE_CHARS = 240
"""Maximum length of a quoted message of another program."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check."""

    state: CheckState
    detail: str
    fix: str = ""
    """Command that fixes the problem; never empty if the state is `wrong`."""


class CheckSkipped(Exception):
    """The check is not possible; the message is the reason."""


def run_with_timeout(check: Callable[[], CheckResult], *, timeout_s: float) -> CheckResult:
    """Run a check; an error or a timeout becomes a `careful` result.

    A check that hangs (a dead network folder) stays in its daemon thread.
    """
    results: queue.SimpleQueue[CheckResult] = queue.SimpleQueue()

    def put_result() -> None:
        try:
            results.put(check())
        except CheckSkipped as error:
            results.put(CheckResult("careful", f"not checked: {error}"))
        except Exception as error:  # the other checks must run in any case
            reason = f"{type(error).__name__}: {to_one_line(str(error))}"
            results.put(CheckResult("careful", f"not checked: {reason}"))

    threading.Thread(target=put_result, daemon=True).start()
    try:
        return results.get(timeout=timeout_s)
    except queue.Empty:
        return CheckResult("careful", f"not checked: no answer in {timeout_s:g} s")


def to_one_line(message: str) -> str:
    """Join a message to one line, cut to MAX_MESSAGE_CHARS."""
    return " ".join(message.split())[:MAX_MESSAGE_CHARS]


def run_command(command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program without input, and kill it after `timeout_s`.

    Raises:
        CheckSkipped: the program is missing, or did not end in time.
    """
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        name = os.path.basename(command[0])
        raise CheckSkipped(f"no answer of {name} in {timeout_s:g} s") from None
    except OSError as error:
        raise CheckSkipped(f"{command[0]}: {error.strerror}") from None


def run_python(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run this Python interpreter as a separate process.

    Raises:
        CheckSkipped: it did not end in time.
    """
    return run_command([sys.executable, *arguments], timeout_s=timeout_s)


def get_last_line(output: str) -> str:
    """Return the last line with text, such as the message of a traceback."""
    lines = [line for line in output.splitlines() if line.strip()]
    return to_one_line(lines[-1]) if lines else ""
