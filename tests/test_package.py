"""Rules of the whole package, read from its source: imports point downwards, nothing is printed."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_tensornet

ROOT = Path(keras_tensornet.__file__).parent
# The rooms of the house. A module may import from rooms of its level or below.
LEVELS = {
    0: ("validation", "modes", "networks", "shapes", "files", "wording", "types"),
    1: ("contraction", "decompositions", "formats", "ranks"),
    2: (
        "initializers",
        "regularizers",
        "optimizers",
        "kernels",
        "augment",
        "execution",
        "compiled",
        "reading",
        "saving",
        "keras_internals",
    ),
    3: ("layers",),
    4: (
        "models",
        "datasets",
        "interop",
        "rewriting",
        "tbasis",
        "compression",
        "training",
        "serving",
        "back_to_keras",
        "export",
        "reports",
    ),
    5: ("cli", "commands", "demo", "tuner", "registration", "__main__", "__init__"),
}
LEVEL_OF = {room: level for level, rooms in LEVELS.items() for room in rooms}
# What a level may import at the top of a module, besides the standard library and this package.
ALLOWED = {
    0: set(),
    1: {"numpy", "opt_einsum"},
    2: {"numpy", "opt_einsum", "keras"},
    3: {"numpy", "opt_einsum", "keras"},
    4: {"numpy", "opt_einsum", "keras"},
    5: {"numpy", "opt_einsum", "keras"},
}
# What it may import inside functions as well; None stands for anything.
INSIDE = {
    0: set(),
    1: set(),
    2: {"tensorflow", "jax", "torch"},  # to compile a function of the backend at hand
    3: set(),
    4: None,
    5: None,
}
# A room that is nothing without its extra, and that no other room imports.
ROOM_EXTRAS = {"tuner": {"keras_tuner"}}
# Keras has no public name for these.
PRIVATE = {
    "keras_internals.py": {
        "keras.src.models.functional.Functional",
        "keras.src.utils.tracking.DotNotTrackScope",
    }
}
MAY_PRINT = ("cli", "commands", "demo", "tuner", "__main__")
SOURCES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    """The top-level module that a source file belongs to."""
    return path.parts[0].removesuffix(".py")


def imports_of(tree: ast.Module):
    """`(module, at the top)` of every import; what only type checkers read is left out."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError("relative import")
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) not in inside


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse((ROOT / path).read_text())


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_downwards(path):
    room = room_of(path)
    assert room in LEVEL_OF, f"{room} has no level yet: put it into LEVELS of this test"
    level = LEVEL_OF[room]
    for module, at_top in imports_of(parsed(path)):
        package, *rest = module.split(".")
        if package == "keras_tensornet":
            other = rest[0] if rest[0] in LEVEL_OF else "__init__"
            assert LEVEL_OF[other] <= level, f"{path} imports {module} from above"
        elif package not in sys.stdlib_module_names:
            private = module.startswith("keras.src") and module not in PRIVATE.get(str(path), ())
            assert not private, f"{path} imports {module}, which is private"
            if package in ALLOWED[level] | ROOM_EXTRAS.get(room, set()):
                continue
            assert not at_top, f"{path} imports {module} at its top"
            allowed = INSIDE[level]
            assert allowed is None or package in allowed, f"{path} imports {module}"


def test_rooms_do_not_import_each_other_in_circles():
    uses = {room: set() for room in LEVEL_OF}
    for path in SOURCES:
        for module, at_top in imports_of(parsed(path)):
            parts = module.split(".")
            if at_top and parts[0] == "keras_tensornet" and parts[1] in uses:
                uses[room_of(path)].add(parts[1])
    done = set()

    def visit(room, trail):
        assert room not in trail, " -> ".join([*trail, room])
        if room not in done:
            for other in sorted(uses[room] - {room}):
                visit(other, (*trail, room))
            done.add(room)

    for room in uses:
        visit(room, ())


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_prints_asserts_or_endless_files(path):
    source = (ROOT / path).read_text()
    assert source.count("\n") <= 400, "a file is 400 lines at most"
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}: assert"
        name = getattr(getattr(node, "func", None), "id", None)
        if isinstance(node, ast.Call) and name == "print":
            assert room_of(path) in MAY_PRINT, f"{path}:{node.lineno}: print"


# LiteRT's converter warns of what we have chosen; export runs in no threads of ours.
MAY_FILTER_WARNINGS = ("export/writers.py",)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_the_filters_of_warnings_belong_to_the_process(path):
    # catch_warnings in two threads may leave the whole process deaf: use validation.quietly.
    for node in ast.walk(parsed(path)):
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        if name in ("catch_warnings", "simplefilter", "filterwarnings", "resetwarnings"):
            assert str(path) in MAY_FILTER_WARNINGS, f"{path}:{node.lineno}: {name}"


def test_importing_prints_nothing_and_changes_nothing():
    script = """
import os, warnings, numpy, keras
def state():
    random = numpy.random.get_state()[1].tolist()
    filters = [entry for entry in warnings.filters]
    return numpy.geterr(), keras.config.floatx(), filters, dict(os.environ), random
import sys
before, loaded = state(), set(sys.modules)
sys.stderr.flush()
sys.stderr.write("START")
sys.stderr.flush()
import keras_tensornet
assert state() == before, "importing changed the process"
extras = {"t3f", "keras_tuner", "tensorflow_datasets", "tensorly", "onnx", "sklearn", "matplotlib"}
assert not extras & (set(sys.modules) - loaded), extras & (set(sys.modules) - loaded)
missing = set(sys.argv[1:]) - set(sys.modules)
assert not missing, f"{missing} register classes: name them in registration.REGISTERING"
# Rooms that are imported when they are first used.
assert keras_tensornet.training.ADMM is keras_tensornet.ADMM
assert keras_tensornet.export.export_model and keras_tensornet.datasets.load
"""
    registering = [
        ".".join(("keras_tensornet", *path.with_suffix("").parts)).removesuffix(".__init__")
        for path in SOURCES
        if re.search(r"register_keras_serializable|^@serialisable", (ROOT / path).read_text(), re.M)
    ]
    assert "keras_tensornet.layers.dense" in registering
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    run = subprocess.run(
        [sys.executable, "-c", script, *registering],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    assert run.stdout == b""
    assert run.stderr.decode().partition("START")[2] == ""


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_module_asks_for_a_format_by_its_name(path):
    from keras_tensornet import formats

    for node in ast.walk(parsed(path)):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        keys = [key for key in node.keys if key] if isinstance(node, ast.Dict) else []
        for part in (*sides, *keys):
            for inner in ast.walk(part):
                name = getattr(inner, "value", None)
                assert not isinstance(name, str) or name not in formats.FORMATS, (
                    f"{path}:{node.lineno} asks for {name!r}: make it an attribute of `Format`"
                )


def test_the_table_of_rooms_is_that_of_the_tree():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if re.match(r"\| \d \|", line)]
    told = {int(level): set(re.findall(r"`(\w+)`", rooms)) for level, rooms in rows}
    assert told == {level: set(rooms) for level, rooms in LEVELS.items()}
    assert {room_of(path) for path in SOURCES} == set(LEVEL_OF), "LEVELS lists what is not there"
