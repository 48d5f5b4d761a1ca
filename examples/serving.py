"""A factorized model and its dense twin behind a real model server, under concurrent requests.

Both are exported to ONNX and loaded by one MLServer, the reference server of the Open Inference
Protocol (V2), which loads ONNX through MLflow. A second process sends 1,000 requests to each over
loopback, 8 at a time and in turns, and every answer is compared with the Keras model. MLServer is
installed in an environment of its own:

    python -m venv server
    server/bin/pip install mlserver mlserver-mlflow onnx onnxruntime
    python examples/serving.py --server server/bin/python             # docs/results/serving_*
    python examples/serving.py --server server/bin/python --smoke     # 40 requests, nothing kept
"""

from __future__ import annotations

import argparse
import functools
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import records

RESULTS = Path(__file__).parents[1] / "docs" / "results"
MODELS = ("dense", "factorized")
# Largest difference from the Keras model, relative to the largest output: float32 in another order.
TOLERANCE = 1e-4
# Runs in the server's environment, whose MLflow writes what its server reads.
TO_MLFLOW = "import sys, mlflow, onnx; mlflow.onnx.save_model(onnx.load(sys.argv[1]), sys.argv[2])"


def main() -> int:
    """Export, serve, send requests, compare, report."""
    arguments = parse()
    if arguments.client:
        return client(arguments)
    count = 40 if arguments.smoke else arguments.requests
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, sizes = export_both(arguments, folder)
        images = np.random.default_rng(0).random((64, *model.input.shape[1:]), "float32")
        np.save(folder / "images.npy", images)
        port = free_port()
        log = (folder / "server.log").open("w")
        server = start_server(arguments.server, folder, port, log)
        try:
            wait_until_ready(server, port, folder / "server.log", arguments.limit)
            done = subprocess.run(
                [
                    *(sys.executable, __file__, "--client", str(folder), "--port", str(port)),
                    *("--requests", str(count), "--concurrency", str(arguments.concurrency)),
                ],
                timeout=arguments.limit,
            )
        finally:
            server.terminate()
            server.wait()
            log.close()
        if done.returncode:
            print((folder / "server.log").read_text()[-2000:], file=sys.stderr)
            return 1
        return report(arguments, folder, model, images, sizes, count)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--server",
        type=Path,
        default=Path(sys.executable),
        metavar="PYTHON",
        help="interpreter of the environment with MLServer",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE.keras",
        help="a factorized model of images (default: LeNet-5, tensor ring, rank 10)",
    )
    parser.add_argument("--requests", type=int, default=1000, help="to each model")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--limit", type=float, default=1800, help="seconds, for each step")
    parser.add_argument("--smoke", action="store_true", help="few requests, nothing is kept")
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def export_both(arguments, folder: Path):
    """The model, exported with its cores and with merged kernels, each in MLflow's layout."""
    import keras

    from keras_tensornet.export import export_model

    model = keras.models.load_model(arguments.model) if arguments.model else ring_lenet5()
    sizes = {}
    for form in MODELS:
        file = folder / f"{form}.onnx"
        sizes[form] = export_model(model, file, "onnx", form, verify=False).size
        home = folder / "models" / form
        home.mkdir(parents=True)
        command = [str(arguments.server), "-c", TO_MLFLOW, str(file), str(home / "mlflow")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        settings = {
            "name": form,
            "implementation": "mlserver_mlflow.MLflowRuntime",
            "parameters": {"uri": "./mlflow"},
        }
        (home / "model-settings.json").write_text(json.dumps(settings))
    return model, sizes


def ring_lenet5():
    """The tensor-ring paper's LeNet-5 of rank 10, untrained: 13,000 weights for 428,700."""
    import keras

    from keras_tensornet import models
    from keras_tensornet.layers import TRConv2D, TRDense

    keras.utils.set_random_seed(0)
    modes = models.tensor_ring_modes("lenet5")

    def ring(cls, *sizes, name, **options):
        return cls(*sizes, rank=10, name=name, **modes[name], **options)

    conv = functools.partial(ring, TRConv2D, spatial="separate")
    return models.lenet5(conv=conv, dense=functools.partial(ring, TRDense))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(python: Path, folder: Path, port: int, log) -> subprocess.Popen:
    """MLServer over the folder `models`, in its own process, on loopback only."""
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "load_models_at_startup": True,
    }
    (folder / "models" / "settings.json").write_text(json.dumps(settings))
    program = python.absolute().with_name("mlserver")
    command = [str(program), "start", str(folder / "models")]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait_until_ready(server, port: int, log: Path, limit: float) -> None:
    """Wait until the server has loaded both models."""
    deadline = time.monotonic() + limit
    while True:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The server did not start:\n{log.read_text()[-2000:]}")
        try:
            if all(is_ready(port, name) for name in MODELS):
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.5)


def is_ready(port: int, name: str) -> bool:
    """What the server says of one model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/v2/models/{name}/ready")
    return connection.getresponse().status == 200


def client(arguments) -> int:
    """The second process: requests in blocks of 50 to each model in turn, 8 at a time."""
    folder = arguments.client
    images = np.load(folder / "images.npy")
    local = threading.local()

    def send(name: str, place: int):
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", arguments.port)
        start = time.perf_counter()
        local.connection.request(
            "POST", f"/v2/models/{name}/infer", bodies[place], {"Content-Type": "application/json"}
        )
        response = local.connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - start
        if response.status != 200:
            raise RuntimeError(f"{name} answered {response.status}: {answer[:300]!r}")
        return seconds, json.loads(answer)["outputs"][0]["data"]

    bodies = [body(image) for image in images]
    found = {name: {"seconds": [], "outputs": [], "span": 0.0} for name in MODELS}
    with ThreadPoolExecutor(arguments.concurrency) as pool:
        for name in MODELS:  # first calls set up connections and sessions, and do not count
            list(pool.map(functools.partial(send, name), range(2 * arguments.concurrency)))
        for first in range(0, arguments.requests, 50):
            places = [place % len(images) for place in range(first, arguments.requests)][:50]
            for name in MODELS:
                start = time.perf_counter()
                answers = list(pool.map(functools.partial(send, name), places))
                found[name]["span"] += time.perf_counter() - start
                found[name]["seconds"] += [seconds for seconds, _ in answers]
                found[name]["outputs"] += [output for _, output in answers]
    for name in MODELS:
        np.savez(folder / f"{name}.npz", **found[name])
    return 0


def body(image: np.ndarray) -> bytes:
    """A request of the Open Inference Protocol for one image."""
    tensor = {
        "name": "image",
        "shape": [1, *image.shape],
        "datatype": "FP32",
        "data": image.ravel().tolist(),
        "parameters": {"content_type": "np"},
    }
    return json.dumps({"inputs": [tensor], "parameters": {"content_type": "dict"}}).encode()


def report(arguments, folder: Path, model, images, sizes, count: int) -> int:
    """Compare with the Keras model, print the table, keep it."""
    expected = np.asarray(model(images))
    scale = float(np.abs(expected).max())
    rows = {}
    print("model       requests  ONNX bytes  requests/s  p50 ms  p99 ms  largest difference")
    for name in MODELS:
        with np.load(folder / f"{name}.npz") as found:
            seconds, outputs, span = found["seconds"], found["outputs"], float(found["span"])
        gaps = np.abs(outputs - expected[np.arange(count) % len(images)])
        p50, p99 = (1e3 * float(value) for value in np.percentile(seconds, (50, 99)))
        rows[name] = {
            "requests": len(outputs),
            "bytes": sizes[name],
            "requests_per_second": count / span,
            "p50_ms": p50,
            "p99_ms": p99,
            "largest_difference": float(gaps.max()),
        }
        print(
            f"{name:<11} {len(outputs):>8}  {sizes[name]:>10,}  {count / span:>10.1f}  "
            f"{p50:>6.2f}  {p99:>6.2f}  {gaps.max():.1e} (outputs up to {scale:.1e})"
        )
    equal = all(row["largest_difference"] <= TOLERANCE * scale for row in rows.values())
    print(f"All answers {'equal' if equal else 'DIFFER FROM'} the Keras model's.")
    if not arguments.smoke:
        settings = {
            "model": str(arguments.model or "lenet5 tr 10"),
            "requests": count,
            "concurrency": arguments.concurrency,
            "server": "mlserver",
        }
        records.add(RESULTS / "serving_lenet5.json", {"settings": settings, "models": rows})
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
