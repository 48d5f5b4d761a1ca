"""A chief and two workers: all trials done once, and kills in the middle lose nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("keras_tuner")
pytest.importorskip("grpc")
pytest.importorskip("sklearn")

SCRIPT = Path(__file__).parents[2] / "tuner" / "distributed.py"
TRIALS = 3
# Far above what it takes, because machines may be busy; a search that hangs ends here.
LONGEST = 900


class Running:
    """The script with `--local 2`, its output so far, and the state of the search on disk."""

    def __init__(self, out: Path):
        self.out, self.log = out, out.with_suffix(".log")
        arguments = ["--local", "2", "--out", str(out), "--trials", str(TRIALS)]
        arguments += ["--epochs", "2", "--images", "128"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", str(SCRIPT), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.deadline = time.monotonic() + LONGEST

    def state(self) -> dict:
        try:
            return json.loads((self.out / "digits" / "oracle.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or being written
            return {}

    def wait_for(self, condition):
        while not condition():
            if self.process.poll() is not None or time.monotonic() > self.deadline:
                pytest.fail(f"the search ended or hung:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        process = re.findall(rf"^{name} is process (\d+)$", self.log.read_text(), re.MULTILINE)[-1]
        os.kill(int(process), signal.SIGKILL)

    def end(self) -> int:
        return self.process.wait(timeout=max(1.0, self.deadline - time.monotonic()))


@pytest.fixture
def running(tmp_path):
    started = Running(tmp_path / "search")
    yield started
    if started.process.poll() is None:
        os.killpg(started.process.pid, signal.SIGKILL)  # the group that this test started
        started.process.wait()


def test_killed_worker_and_killed_chief_lose_nothing(running):
    running.wait_for(lambda: "worker0" in running.state().get("ongoing_trials", {}))
    interrupted = running.state()["ongoing_trials"].get("worker0")
    running.kill("worker0")
    running.wait_for(lambda: len(running.state().get("end_order", [])) >= 1)
    running.kill("chief")
    assert running.end() == 0, running.log.read_text()[-3000:]
    log = running.log.read_text()
    assert "worker0 ended with code -9 and is started again" in log
    assert "chief ended with code -9 and is started again" in log

    folder = running.out / "digits"
    trials = [json.loads(file.read_text()) for file in folder.glob("trial_*/trial.json")]
    assert len(trials) == TRIALS
    assert {trial["status"] for trial in trials} == {"COMPLETED"}
    values = [json.dumps(trial["hyperparameters"]["values"], sort_keys=True) for trial in trials]
    assert len(set(values)) == TRIALS, "no point of the space was tried twice"
    state = running.state()
    assert sorted(set(state["end_order"])) == sorted(trial["trial_id"] for trial in trials)
    assert interrupted in state["end_order"]
    assert "compression" in log, "the front is printed at the end"


def test_folder_that_cannot_be_written_is_one_line_and_code_2(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "file")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line
