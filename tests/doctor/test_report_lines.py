import json
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_ray.cli import doctor as verb
from hrnet_ray.doctor.result import CheckResult

RESULTS = [
    ("CPUs", CheckResult("ok", "2")),
    ("open files", CheckResult("careful", "few", "ulimit -n 65536")),
    ("libGL", CheckResult("wrong", "no\nlibGL", "apt-get install -y libgl1")),
    ("data", CheckResult("unasked", "none named")),
]


def test_each_result_is_a_line_with_its_mark():
    assert [verb.format_result(name, result) for name, result in RESULTS] == [
        "ok       CPUs            2",
        "careful  open files      few",
        r"wrong    libGL           no\nlibGL",
        "-        data            none named",
    ]


def test_the_mark_has_a_colour_on_a_terminal():
    assert verb.format_result(*RESULTS[0], use_color=True) == "\x1b[32mok       \x1b[0mCPUs            2"


def test_fixes_are_listed_the_wrong_ones_first_then_the_counts():
    assert verb.format_fixes(RESULTS) == (
        "\n"
        "Fixes:\n"
        "  libGL (wrong)\n"
        "    apt-get install -y libgl1\n"
        "  open files (careful)\n"
        "    ulimit -n 65536\n"
        "\n"
        "4 checks: 1 ok, 1 careful, 1 wrong, 1 not run"
    )
    assert verb.format_fixes(RESULTS[:1]) == "\n1 checks: 1 ok, 0 careful, 0 wrong"


def test_json_has_the_checks_and_the_counts():
    report = json.loads(verb.to_json(RESULTS))

    assert report["checks"][1] == {
        "name": "open files",
        "state": "careful",
        "detail": "few",
        "fix": "ulimit -n 65536",
    }
    assert [report[state] for state in verb.STATE_LABELS] == [1, 1, 1, 1]


@pytest.mark.timeout(180)  # it imports torch, OpenCV and Ray
def test_the_checks_use_no_network_and_import_neither_ray_nor_mlflow(tmp_path: Path):
    (tmp_path / "file").write_text("")
    code = (
        "import sys\n"
        "def log_network(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): print('network', event)\n"
        "sys.addaudithook(log_network)\n"
        "from hrnet_ray.cli.doctor import DoctorArgs, run\n"
        "from hrnet_ray.config import ClusterConfig\n"
        f"cluster = ClusterConfig(storage_path={str(tmp_path / 'file' / 'runs')!r})\n"
        "code = run(DoctorArgs(cluster=cluster, json=True))\n"
        "print(sorted({'ray', 'mlflow'} & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 4, done.stderr
    assert done.stderr == "[]\n"
    report = json.loads(done.stdout)  # nothing else was printed
    by_name = {check["name"]: check for check in report["checks"]}
    assert by_name["storage"]["detail"] == f"{tmp_path / 'file'}: Not a directory"
    assert len(by_name) == len(verb.CHECKS)
    wrong = {name for name, check in by_name.items() if check["state"] == "wrong"}
    assert report["wrong"] == len(wrong)
    assert wrong - {"temporary"} == {"storage"}  # however full the disk of this machine is
    skipped = [check["detail"] for check in report["checks"] if "not checked" in check["detail"]]
    assert all("no answer in" in detail for detail in skipped)  # on a very busy machine
