"""The command line as its user meets it: help without Keras, exit codes, errors of one line."""

import argparse
import importlib
import subprocess
import sys
import types

import pytest

import keras_tensornet
from keras_tensornet import cli
from keras_tensornet.commands import console
from keras_tensornet.commands.errors import CommandError

# Runs the command line in this interpreter's place, and then tells which heavy packages it loaded.
PROBE = """
import runpy, sys
sys.argv = ["keras-tensornet", *sys.argv[1:]]
try:
    runpy.run_module("keras_tensornet", run_name="__main__", alter_sys=True)
finally:
    heavy = {"keras", "tensorflow", "rich", "matplotlib"}
    print("loaded:", *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def run_python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture
def command(monkeypatch):
    """Registers a command `trial` that runs the given function."""

    def register(run):
        module = types.ModuleType("trial_command")
        module.add_arguments = lambda parser: parser.add_argument("--size", type=int, default=3)
        module.run = run
        monkeypatch.setitem(sys.modules, "trial_command", module)
        monkeypatch.setitem(cli.COMMANDS, "trial", cli.Command("trial_command", "try something"))

    return register


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in ("demo", "export", "plan"))],
)
def test_help_and_version_load_no_keras(arguments):
    done = run_python("-c", PROBE, *arguments)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].strip() == "loaded:"


def test_module_and_console_script_are_the_same_command():
    done = run_python("-m", "keras_tensornet", "--version")
    assert (done.returncode, done.stdout) == (0, f"keras-tensornet {keras_tensornet.__version__}\n")


def test_help_names_every_command_with_its_summary(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, row in cli.COMMANDS.items():
        assert f"{name} {row.summary}" in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_keeps_to_the_interface(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name].module)
    module.add_arguments(argparse.ArgumentParser())
    assert callable(module.run)
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert "usage: keras-tensornet" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["demo", "--epochs", "0"]])
def test_wrong_arguments_end_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: keras-tensornet" in capsys.readouterr().err


def test_arguments_reach_the_command_and_its_code_comes_back(command):
    command(lambda arguments: arguments.size)
    assert cli.main(["trial", "--size", "7"]) == 7
    command(lambda arguments: None)
    assert cli.main(["trial"]) == 0


def test_command_error_is_one_line_and_code_2(command, capsys):
    def run(arguments):
        raise CommandError("No data.\nSet  THIS.")

    command(run)
    assert cli.main(["trial"]) == 2
    assert capsys.readouterr().err == "keras-tensornet: No data. Set THIS.\n"


def test_other_errors_are_not_hidden(command):
    def run(arguments):
        raise ZeroDivisionError

    command(run)
    with pytest.raises(ZeroDivisionError):
        cli.main(["trial"])


def test_ctrl_c_ends_with_code_130(command, capsys):
    def run(arguments):
        raise KeyboardInterrupt

    command(run)
    assert cli.main(["trial"]) == 130
    assert capsys.readouterr().err == "keras-tensornet: interrupted\n"


def test_a_plain_import_registers_layers_and_loads_no_optional_package():
    program = (
        "import sys, keras_tensornet, keras\n"
        "name = 'keras_tensornet>TRDense'\n"
        "assert keras.saving.get_registered_object(name) is keras_tensornet.layers.TRDense\n"
        "optional = {'t3f', 'tensorflow_datasets', 'keras_tuner', 'onnx'}\n"
        "print('loaded:', *sorted(optional & set(sys.modules)))\n"
    )
    done = run_python("-c", program)
    assert done.stdout.strip() == "loaded:"


def test_missing_packages_are_named_with_their_extra():
    with pytest.raises(CommandError) as error:
        console.require_packages(
            "The trial", "demo", {"argparse": "argparse", "no_such_module": "no-such-package"}
        )
    assert str(error.value) == (
        "The trial needs no-such-package, not installed here. "
        'Install with: python -m pip install "keras-tensornet[demo]"'
    )


def test_quiet_start_holds_back_what_is_written_to_the_descriptor():
    program = (
        "import os, sys\n"
        "from keras_tensornet.commands.console import quiet_start\n"
        "with quiet_start():\n    os.write(2, b'greeting')\n"
        "os.write(2, b'after')\n"
        "with quiet_start():\n    os.write(2, b'cause')\n    raise SystemExit('failed')\n"
    )
    done = run_python("-c", program)
    assert done.returncode == 1
    written = done.stderr[done.stderr.index("after") :]
    assert written == "aftercausefailed\n"
    assert "greeting" not in done.stderr
