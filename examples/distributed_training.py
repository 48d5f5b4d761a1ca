"""One small network of cores trained in several ways, which must give the same losses.

    python examples/distributed_training.py single
    python examples/distributed_training.py mirrored            # MirroredStrategy, 2 logical CPUs
    python examples/distributed_training.py workers             # MultiWorkerMirroredStrategy
    KERAS_BACKEND=jax python examples/distributed_training.py data_parallel    # 4 host devices
    KERAS_BACKEND=jax python examples/distributed_training.py model_parallel   # a mesh of 2 x 2

Each prints the losses of its epochs as JSON. What is run here on one machine runs the same on many
GPUs: the page docs/distribution.md says how, and counts what an all-reduce of cores saves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

WAYS = ("single", "mirrored", "workers", "data_parallel", "model_parallel")
DEVICES = 4
BATCH, BATCHES, EPOCHS = 8, 2, 2


def main() -> None:
    """Train in the chosen way and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=WAYS, nargs="?", default="single")
    parser.add_argument("--smoke", action="store_true", help="it is small as it is")
    parser.add_argument("--task", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way == "workers" and arguments.task is None:
        start_workers()
        return
    if arguments.way.endswith("_parallel"):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={DEVICES}"
    found = train(arguments.way)
    if not arguments.task:
        print(json.dumps(found))


def network():
    """A ring on images, a train on features, and a dense classifier; layers have their names."""
    import keras

    from keras_tensornet.layers import TRConv2D, TTDense

    inputs = keras.Input((6, 6, 4))
    x = TRConv2D(8, kernel_size=3, rank=2, activation="relu", name="ring")(inputs)
    x = keras.layers.Flatten(name="flatten")(x)
    x = TTDense(16, rank=3, activation="relu", name="train")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(x), name="network")


def train(way: str) -> dict:
    """Train in one way; the losses of each epoch, and the sum of all absolute weights."""
    strategy = strategy_of(way)  # of several workers it must come before anything else
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH * BATCHES, 6, 6, 4)).astype("float32")
    labels = rng.integers(0, 4, BATCH * BATCHES)
    about = distribute(way)
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = network()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if "devices" in about:
        about["placed"] = {v.path: str(v.value.sharding.spec) for v in model.variables}
    if way == "workers":
        losses = loop(strategy, model, images, labels)
    else:
        options = {"epochs": EPOCHS, "batch_size": BATCH, "shuffle": False, "verbose": 0}
        losses = model.fit(images, labels, **options).history["loss"]
    total = sum(float(np.abs(weight).sum()) for weight in model.get_weights())
    return {"way": way, "losses": losses, "weights": total, **about}


def strategy_of(way: str):
    """The TensorFlow strategy, or None."""
    if way not in ("mirrored", "workers"):
        return None
    import tensorflow as tf

    if way == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def loop(strategy, model, images, labels) -> list[float]:
    """The epochs by hand: `fit` of Keras 3.15 fails with several workers, whatever the layers."""
    import keras
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = strategy.experimental_distribute_dataset(data.with_options(options))

    def replica(batch):
        x, y = batch
        with tf.GradientTape() as tape:
            each = keras.losses.sparse_categorical_crossentropy(
                y, model(x, training=True), from_logits=True
            )
            loss = tf.reduce_sum(each) / BATCH  # of the global batch, so that replicas add up
        variables = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(loss, variables)
        model.optimizer.apply(gradients, model.trainable_variables)  # sums over all replicas
        return loss

    @tf.function
    def step(batch):
        return strategy.reduce("SUM", strategy.run(replica, args=(batch,)), axis=None)

    return [sum(float(step(batch)) for batch in batches) / BATCHES for _ in range(EPOCHS)]


def distribute(way: str) -> dict:
    """Set the distribution of keras.distribution, on JAX."""
    if not way.endswith("_parallel"):
        return {}
    import keras

    from keras_tensornet.layers import layout_map

    devices = keras.distribution.list_devices()
    if len(devices) != DEVICES:
        sys.exit(f"needs {DEVICES} devices. Received: {devices}")
    if way == "data_parallel":
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
        return {"devices": len(devices)}
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
    layouts = layout_map(network(), mesh, least=32)  # small ones too, to see them parted
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    return {"devices": len(devices), "parted": len(layouts)}


def start_workers() -> None:
    """Run two processes of this script that find each other by TF_CONFIG."""
    holders = [socket.socket() for _ in range(2)]
    for holder in holders:
        holder.bind(("localhost", 0))
    cluster = {"worker": [f"localhost:{holder.getsockname()[1]}" for holder in holders]}
    for holder in holders:
        holder.close()
    running = []
    for task in range(2):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": task}})
        command = [sys.executable, __file__, "workers", "--task", str(task)]
        environment = os.environ | {"TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"}
        running.append(subprocess.Popen(command, env=environment))
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit(f"a worker failed: exit codes {codes}")


if __name__ == "__main__":
    main()
