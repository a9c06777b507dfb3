import sys
import threading
import time

import pytest

from hrnet_ray.doctor.result import CouldNotLook, Finding, asked, last_line, looked


def test_what_a_look_finds_is_passed_on():
    assert looked(lambda: Finding("ok", "2"), limit_s=10.0) == Finding("ok", "2")


def test_a_look_that_fails_could_not_look_and_breaks_nothing():
    def broken() -> Finding:
        raise KeyError("memory.max")

    found = looked(broken, limit_s=10.0)

    assert found == Finding("careful", "could not look: KeyError: 'memory.max'")


def test_a_look_that_hangs_is_left_behind():
    never = threading.Event()

    def hanging() -> Finding:
        never.wait()
        return Finding("ok", "")

    began = time.monotonic()
    found = looked(hanging, limit_s=0.2)
    never.set()

    assert found == Finding("careful", "could not look: no answer in 0.2 s")
    assert time.monotonic() - began < 10


def test_a_program_that_hangs_is_ended():
    began = time.monotonic()

    with pytest.raises(CouldNotLook, match=r"^python[\d.]* gives no answer in 0.3 s$"):
        asked([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.3)

    assert time.monotonic() - began < 30


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(CouldNotLook, match=r"^/no/such/program: No such file or directory$"):
        asked(["/no/such/program"], limit_s=5.0)


def test_the_last_line_with_text_is_the_message():
    assert (
        last_line("Traceback:\n  File\nValueError:  two\tblanks \n\n") == "ValueError: two blanks"
    )
    assert last_line("\n") == ""
