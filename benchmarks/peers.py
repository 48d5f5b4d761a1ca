"""The same layers in other libraries, in one run: tednet and tensorly-torch on PyTorch's CPU build.

    python -m pip install torch==2.13.0 && python -m pip install --no-deps tednet==0.1.3 \
        tensorly-torch==0.5.0 tensorly
    python benchmarks/peers.py

Each row: our layer as `auto` runs it (TensorFlow backend), and the peer's layer of the same format,
modes and ranks, forward and training step, in turns. Ratios are the peer's time over ours. Where a
peer is not installed, its rows are left out and the output says so.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from collections.abc import Callable

import common
import numpy as np
from keras import ops

from keras_tensornet import layers
from keras_tensornet.compiled import forward_function, gradient_function

COLUMNS = ("case", "peer", "forward_ms", "peer_forward", "step_ms", "peer_step")


def ours(layer, shape: tuple[int, ...]) -> tuple[Callable, Callable]:
    """Our layer's forward pass and training step on inputs (batch, ..., channels)."""
    layer.build(shape)
    inputs = ops.convert_to_tensor(_random(shape))
    return forward_function(layer, inputs), gradient_function(layer, inputs)


def theirs(module, shape: tuple[int, ...]) -> tuple[Callable, Callable]:
    """A PyTorch module's forward pass and training step on inputs (batch, channels, ...)."""
    import torch

    given = torch.tensor(_random(shape), requires_grad=True)
    weights = list(module.parameters())

    @torch.no_grad()
    def forward():
        return module(given)

    return forward, lambda: torch.autograd.grad(module(given).sum(), [given, *weights])


def _random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def tednet_cases() -> list[tuple]:
    """`(name, our layer, our input shape, peer, peer input shape)` for tensor rings."""
    from tednet.tnn import tensor_ring

    cases = []
    for rank in (4, 10):
        modes = {"in_modes": (4, 4, 4), "out_modes": (4, 4, 4)}
        peer = tensor_ring.TRConv2D([4, 4, 4], [4, 4, 4], [rank] * 7, 3, padding=1)
        layer = layers.TRConv2D(64, 3, rank=rank, padding="same", **modes)
        shape = (128, 32, 32, 64)
        cases.append((f"conv 3x3 64->64 r{rank}", layer, shape, peer, (128, 64, 32, 32)))
    for inputs, outputs, rank in (
        ((8, 8, 8, 8), (8, 8, 8, 8), 15),
        ((8, 8, 8, 8), (8, 8, 8, 8), 5),
        ((4, 7, 4, 7), (3, 4, 5, 5), 15),
        ((5, 5, 5, 10), (5, 8, 8), 20),
    ):
        peer = tensor_ring.TRLinear(
            list(inputs), list(outputs), [rank] * (len(inputs) + len(outputs))
        )
        units, size = int(np.prod(outputs)), int(np.prod(inputs))
        layer = layers.TRDense(units, rank=rank, in_modes=inputs, out_modes=outputs)
        cases.append((f"dense {size}->{units} r{rank}", layer, (128, size), peer, (128, size)))
    return cases


def tensorly_torch_cases() -> list[tuple]:
    """The same for TT, CP and Tucker convolutions, each of the peer's two implementations."""
    import tltorch
    import torch

    ours_of = {"tt": ("tt", 16), "cp": ("cp", 32), "tucker": ("tucker", 16)}
    cases = []
    for factorization, (format, rank) in ours_of.items():
        for implementation in ("factorized", "reconstructed"):
            peer = tltorch.FactorizedConv(
                64,
                64,
                (3, 3),
                order=2,
                padding=1,
                factorization=factorization,
                rank=_peer_rank(factorization, rank),
                implementation=implementation,
                has_bias=True,
                bias=True,
            )
            with torch.no_grad():
                for weight in peer.parameters():
                    weight.normal_(0.0, 0.1)
            layer = layers.FactorizedConv2D(64, 3, rank=rank, format=format, padding="same")
            name = f"{factorization} conv 3x3 64->64 r{rank} ({implementation})"
            cases.append((name, layer, (128, 32, 32, 64), peer, (128, 64, 32, 32)))
    return cases


def _peer_rank(factorization: str, rank: int):
    """Equal ranks in the peer's words: its TT orders the kernel (filters, channels, kh, kw)."""
    if factorization == "cp":
        return rank
    if factorization == "tucker":
        return (rank, rank, 3, 3)
    return (1, rank, 9, 3, 1)


def measure(case: tuple, peer: str, seconds: float) -> dict:
    """One row, all four functions in turns."""
    name, layer, shape, module, peer_shape = case
    functions = [*ours(layer, shape), *theirs(module, peer_shape)]
    forward, step, peer_forward, peer_step = common.medians(functions, seconds, lead=2)
    return {
        "case": name,
        "peer": peer,
        "params": layer.count_params(),
        "peer_params": sum(weight.numel() for weight in module.parameters()),
        "forward_ms": forward,
        "peer_forward": peer_forward / forward,
        "step_ms": step,
        "peer_step": peer_step / step,
        "plan": layer.plan_for(training=True).describe(),
    }


def main() -> None:
    """Measure the peers that are installed, print and write the results."""
    arguments = common.parse(__doc__)
    rows = []
    for peer, cases in (("tednet", tednet_cases), ("tensorly-torch", tensorly_torch_cases)):
        try:
            found = cases()
        except ImportError as error:
            print(f"{peer} is left out: {error}")
            continue
        for case in found[: 1 if arguments.smoke else None]:
            if arguments.only in case[0]:
                rows.append(measure(case, peer, arguments.seconds))
                print(common.show(rows[-1:], COLUMNS).splitlines()[-1])
    if rows:
        print(f"written to {common.save('peers', rows, arguments.out, seconds=arguments.seconds)}")


if __name__ == "__main__":
    main()
