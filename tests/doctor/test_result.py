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


def test_the_result_of_a_check_is_returned():
    assert run_with_timeout(lambda: CheckResult("ok", "2"), timeout_s=10.0) == CheckResult("ok", "2")


def test_a_failing_check_is_reported_as_not_checked():
    def broken() -> CheckResult:
        raise KeyError("memory.max")

    result = run_with_timeout(broken, timeout_s=10.0)

    assert result == CheckResult("careful", "not checked: KeyError: 'memory.max'")


def test_a_hanging_check_is_a_timeout():
    never = threading.Event()

    def hanging() -> CheckResult:
        never.wait()
        return CheckResult("ok", "")

    start_s = time.monotonic()
    result = run_with_timeout(hanging, timeout_s=0.2)
    never.set()

    assert result == CheckResult("careful", "not checked: no answer in 0.2 s")
    assert time.monotonic() - start_s < 10


def test_a_hanging_program_is_killed():
    start_s = time.monotonic()

    with pytest.raises(CheckSkipped, match=r"^no answer of python[\d.]* in 0.3 s$"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)

    assert time.monotonic() - start_s < 30


def test_a_missing_program_is_named():
    with pytest.raises(CheckSkipped, match=r"^/no/such/program: No such file or directory$"):
        run_command(["/no/such/program"], timeout_s=5.0)


def test_the_last_line_with_text_is_returned():
    assert get_last_line("Traceback:\n  File\nValueError:  two\tblanks \n\n") == "ValueError: two blanks"
    assert get_last_line("\n") == ""
