"""Predicted time of the operations that plans are made of.

A plan is chosen by time, and time is arithmetic or memory traffic, whichever is longer, plus a
constant for each call. Multiply-adds alone mislead: for a ring of rank 10 on 64 channels the stage
chain needs 0.6 of the dense convolution's FLOPs and takes 1.4 times as long, because its tensors
are as large and its channels too few to fill the vector units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Machine:
    """Rates of a machine, for comparing plans; only their ratios matter.

    The defaults are a fit to 500 measured plans of the layers in `benchmarks/layers.py`, TensorFlow
    2.21 on two cores of a 2023 server processor; the fit is within 20 % of most of them.

    Attributes:
        matmul_flops: FLOP/s of a large matrix product.
        conv_flops: FLOP/s of a wide convolution.
        bandwidth: bytes/s of reading and writing large tensors.
        call: seconds that one operation costs whatever its size.
        lanes: channels that a vector unit works on at once; fewer are as slow as this many.
    """

    matmul_flops: float = 290e9
    conv_flops: float = 400e9
    bandwidth: float = 19e9
    call: float = 20e-6
    lanes: int = 8

    def training(self) -> Machine:
        """The rates of a forward and a backward pass together, in units of the forward pass.

        A product has two of its kind in the gradient, which partly run side by side; so do their
        calls.
        """
        return replace(
            self,
            matmul_flops=self.matmul_flops / 2.4,
            conv_flops=self.conv_flops / 2.7,
            bandwidth=self.bandwidth / 2.7,
            call=self.call * 1.3,
        )

    def matmul(self, rows: int, inner: int, columns: int, stack: int = 1) -> float:
        """Seconds of a stack of (rows, inner) @ (inner, columns)."""
        lanes = min(self.lanes, 1 << max(0, (min(rows, 64) - 1).bit_length()))
        flops = 2.0 * stack * rows * inner * max(columns, lanes)
        moved = 4.0 * stack * (rows * inner + inner * columns + rows * columns)
        return self.call + flops / self.matmul_flops + moved / self.bandwidth

    def conv(self, rows_in: int, rows_out: int, taps: int, channels: int, filters: int) -> float:
        """Seconds of a convolution with `taps` kernel positions on `rows_out` output positions."""
        wide = self._fill(channels) * self._fill(filters)
        flops = 2.0 * rows_out * taps * wide
        moved = 4.0 * (rows_in * channels + rows_out * filters + taps * channels * filters)
        return 2 * self.call + flops / self.conv_flops + moved / self.bandwidth

    def depthwise(self, rows_in: int, rows_out: int, taps: int, channels: int, depth: int) -> float:
        """Seconds of a depthwise convolution; it is bound by loads, about one a multiply-add."""
        flops = 2.0 * rows_out * taps * self._fill(channels) * depth
        moved = 4.0 * (rows_in * channels + rows_out * channels * depth)
        return 2 * self.call + 10 * flops / self.conv_flops + moved / self.bandwidth

    def move(self, elements: int) -> float:
        """Seconds of a transposition or copy of that many numbers."""
        return self.call + 2 * 4.0 * elements / self.bandwidth

    def merge_step(self, flops: int, elements: int, steps: int = 1) -> float:
        """Seconds of pair steps of a merge: a product each, with reshapes and transpositions."""
        calls = 3 * self.call * steps
        return calls + flops / self.matmul_flops + 4.0 * elements / self.bandwidth

    def _fill(self, channels: int) -> int:
        return self.lanes * math.ceil(channels / self.lanes)
