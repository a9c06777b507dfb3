"""What a look found, and a look that neither hangs nor fails."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "careful", "wrong", "unasked"]
"""`careful`: works, but not well, or could not be looked at. `unasked`: a flag would ask for it."""

MAX_MESSAGE_CHARS = 240
"""Characters of somebody else's message that are worth repeating."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found."""

    state: CheckState
    detail: str
    fix: str = ""
    """The command that puts it right; never empty where something is wrong."""


class CheckSkipped(Exception):
    """A look that came to nothing, with the reason."""


def run_with_timeout(check: Callable[[], CheckResult], *, timeout_s: float) -> CheckResult:
    """What `look` finds; where it fails or takes longer than `limit_s`, that it could not look.

    A look that hangs (a dead network folder) is left behind in its thread.
    """
    answers: queue.SimpleQueue[CheckResult] = queue.SimpleQueue()

    def put_result() -> None:
        try:
            answers.put(check())
        except CheckSkipped as error:
            answers.put(CheckResult("careful", f"could not look: {error}"))
        except Exception as error:  # whatever it is, the other checks must go on
            reason = f"{type(error).__name__}: {to_one_line(str(error))}"
            answers.put(CheckResult("careful", f"could not look: {reason}"))

    threading.Thread(target=put_result, daemon=True).start()
    try:
        return answers.get(timeout=timeout_s)
    except queue.Empty:
        return CheckResult("careful", f"could not look: no answer in {timeout_s:g} s")


def to_one_line(message: str) -> str:
    """Somebody's message in one line."""
    return " ".join(message.split())[:MAX_MESSAGE_CHARS]


def run_command(command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program, which gets no input and ends after `limit_s`.

    Raises:
        CouldNotLook: it is not there, or did not end in time.
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
        raise CheckSkipped(f"{name} gives no answer in {timeout_s:g} s") from None
    except OSError as error:
        raise CheckSkipped(f"{command[0]}: {error.strerror}") from None


def run_python(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run this interpreter: what it loads, breaks or hangs on does not stay here.

    Raises:
        CouldNotLook: it did not end in time.
    """
    return run_command([sys.executable, *arguments], timeout_s=timeout_s)


def get_last_line(output: str) -> str:
    """The last line with text: the message of a traceback, or the answer after chatter."""
    lines = [line for line in output.splitlines() if line.strip()]
    return to_one_line(lines[-1]) if lines else ""
