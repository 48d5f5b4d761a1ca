"""The examples, studies and benchmarks run: each in a process of its own, in its `--smoke` form."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path
    for folder in ("examples", "tuner", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if all(word in path.read_text(encoding="utf-8") for word in ("smoke", "__main__"))
)
QUICK = [ROOT / "examples" / "custom_network.py"]  # in seconds as it is
NEEDS = {
    "peers": ("tednet", "tltorch"),
    "lenet5_mnist": ("keras_tuner",),
    "compress_minilm": ("keras_hub",),
}
# Starts a model server from an environment of its own, which has to be made first.
BY_HAND = ("serving",)


@pytest.mark.parametrize(
    "script", SCRIPTS + QUICK, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_smoke(script, tmp_path):
    if script.stem in BY_HAND:
        pytest.skip("needs the Python of another environment, see its docstring")
    for package in NEEDS.get(script.stem, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    results = sorted(ROOT.glob("docs/results/*"))
    before = [path.stat().st_mtime_ns for path in results]
    arguments = [] if script in QUICK else ["--smoke"]
    arguments += ["--out", str(tmp_path)] if script.parent.name == "benchmarks" else []
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "an example prints what it found"
    assert sorted(ROOT.glob("docs/results/*")) == results, "a smoke run keeps nothing"
    assert [path.stat().st_mtime_ns for path in results] == before
