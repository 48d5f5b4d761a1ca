"""Search with a chief and workers: one process hands out trials, the others train them.

The same script runs in every process; KerasTuner reads three environment variables:

    KERASTUNER_TUNER_ID     "chief", or another name for each worker
    KERASTUNER_ORACLE_IP    address of the chief
    KERASTUNER_ORACLE_PORT  its port

    python tuner/distributed.py --local 2 --out /tmp/search      # a chief and two workers, here
    python tuner/distributed.py --out /shared/search             # one of them, by the environment
    python tuner/distributed.py --out /tmp/search                # alone: one process does it all

A worker that dies gives its trial back when a worker of the same name comes again; `--local` starts
it again by itself. A chief that dies is started again with the same `--out` and goes on from disk;
the workers wait for it. `docs/search.md` says how to use several machines.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

CHIEF = "chief"
PROJECT = "digits"
# How often one process may be started again before something is taken to be wrong with it.
RESTARTS = 5


def main() -> int:
    """Start everything here, or be one process of a search."""
    arguments = parse(sys.argv[1:])
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        probe = arguments.out / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        print(f"--out {arguments.out} cannot be written: {error}", file=sys.stderr)
        return 2
    if arguments.local:
        return run_here(arguments)
    search(arguments)
    if "KERASTUNER_TUNER_ID" not in os.environ:
        print_front(arguments.out)
    return 0


def print_front(out: Path) -> None:
    """The trials of a search, those that no other beats marked."""
    from keras_tensornet.tuner import pareto

    print(pareto(out / PROJECT))


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments; those of a study of your own would be added here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="project folder, kept between runs")
    parser.add_argument("--local", type=int, metavar="WORKERS", help="start a chief and workers")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="train on the first images only")
    return parser.parse_args(argv)


def run_here(arguments: argparse.Namespace) -> int:
    """A chief and workers on this machine; whatever dies is started again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = [CHIEF, *(f"worker{number}" for number in range(arguments.local))]
    processes = {name: start(name, port) for name in names}
    restarts = dict.fromkeys(names, 0)
    try:
        while processes:
            time.sleep(0.5)
            for name, process in list(processes.items()):
                code = process.poll()
                if code is None:
                    continue
                del processes[name]
                if code == 0:
                    print(f"{name} is done", flush=True)
                elif restarts[name] < RESTARTS:
                    restarts[name] += 1
                    print(f"{name} ended with code {code} and is started again", flush=True)
                    processes[name] = start(name, port)
                else:
                    print(f"{name} ended with code {code} too often", file=sys.stderr)
                    return 1
            if list(processes) == [CHIEF]:
                # KerasTuner's chief looks every 20 s whether all workers have left; they have.
                stop(processes.pop(CHIEF))
    finally:
        for process in processes.values():
            stop(process)
    print_front(arguments.out)
    return 0


def start(name: str, port: int) -> subprocess.Popen:
    """One process of the search: this script again, without `--local`."""
    environment = os.environ | {
        "KERASTUNER_TUNER_ID": name,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
    }
    command = [sys.executable, __file__, *without_local(sys.argv[1:])]
    process = subprocess.Popen(command, env=environment)
    print(f"{name} is process {process.pid}", flush=True)
    return process


def without_local(argv: list[str]) -> list[str]:
    """The arguments but for `--local N` or `--local=N`."""
    kept, skip = [], False
    for argument in argv:
        if skip or argument.startswith("--local="):
            skip = False
        elif argument == "--local":
            skip = True
        else:
            kept.append(argument)
    return kept


def stop(process: subprocess.Popen) -> None:
    """End a process that this one started."""
    process.terminate()
    process.wait()


def search(arguments: argparse.Namespace) -> None:
    """One process of the search: the chief answers, a worker trains, alone it does both."""
    import keras
    import keras_tuner

    from keras_tensornet import datasets
    from keras_tensornet.demo.twins import digits_cnn
    from keras_tensornet.tuner import TensorNetHyperModel

    def build():
        model = digits_cnn()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        return model

    hypermodel = TensorNetHyperModel(build, ("tr", "tt"), rank=(2, 12), seed=arguments.seed)
    tuner = keras_tuner.RandomSearch(
        hypermodel,
        hypermodel.objective,
        max_trials=arguments.trials,
        max_consecutive_failed_trials=arguments.trials,
        seed=arguments.seed,
        directory=str(arguments.out),
        project_name=PROJECT,
    )
    data = datasets.load("digits")
    count = arguments.images or len(data.x_train)
    tuner.search(
        data.x_train[:count],
        data.y_train[:count],
        validation_data=(data.x_test, data.y_test),
        epochs=arguments.epochs,
        batch_size=32,
        verbose=0,
    )


if __name__ == "__main__":
    sys.exit(main())
