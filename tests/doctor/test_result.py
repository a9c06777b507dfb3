import sys
import threading
import time

import pytest

from hrnet_ray.doctor.result import (
    CheckResult,
    CheckSkipped,
    get_last_line,
    run_command,
    run_with_timeout,
)


def test_what_a_look_finds_is_passed_on():
    assert run_with_timeout(lambda: CheckResult("ok", "2"), timeout_s=10.0) == CheckResult(
        "ok", "2"
    )


def test_a_look_that_fails_could_not_look_and_breaks_nothing():
    def broken() -> CheckResult:
        raise KeyError("memory.max")

    found = run_with_timeout(broken, timeout_s=10.0)

    assert found == CheckResult("careful", "could not look: KeyError: 'memory.max'")


def test_a_look_that_hangs_is_left_behind():
    never = threading.Event()

    def hanging() -> CheckResult:
        never.wait()
        return CheckResult("ok", "")

    began = time.monotonic()
    found = run_with_timeout(hanging, timeout_s=0.2)
    never.set()

    assert found == CheckResult("careful", "could not look: no answer in 0.2 s")
    assert time.monotonic() - began < 10


def test_a_program_that_hangs_is_ended():
    began = time.monotonic()

    with pytest.raises(CheckSkipped, match=r"^python[\d.]* gives no answer in 0.3 s$"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)

    assert time.monotonic() - began < 30


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(CheckSkipped, match=r"^/no/such/program: No such file or directory$"):
        run_command(["/no/such/program"], timeout_s=5.0)


def test_the_last_line_with_text_is_the_message():
    assert (
        get_last_line("Traceback:\n  File\nValueError:  two\tblanks \n\n")
        == "ValueError: two blanks"
    )
    assert get_last_line("\n") == ""
