"""What `autotune` asks of a layer: which plans it has, what to call them with, what to call."""

from __future__ import annotations

import numpy as np

from keras_tensornet.contraction import candidate_plans
from keras_tensornet.layers.implementation import HasImplementation
from keras_tensornet.networks import Network
from keras_tensornet.shapes import with_batch
from keras_tensornet.types import Shape, Tensor


class Tunable(HasImplementation):
    """The plans of a layer, and how they are measured; the choice is its `implementation`."""

    # Whether a constraint makes something else of the merged kernel, so that it must be merged.
    _reparametrised = False

    @property
    def network(self) -> Network:
        """The labels and sizes of the cores."""
        raise NotImplementedError

    def _chosen(self, training: bool, merged: bool) -> str:
        """The implementation for a phase: a frozen layer is one that infers, unless told apart."""
        chosen = self.implementation
        if isinstance(chosen, dict):
            phase = "training" if training else "inference"
            chosen = chosen["frozen"] if merged and "frozen" in chosen else chosen[phase]
        return "reconstructed" if self._reparametrised else chosen

    def tunable_plans(
        self, training: bool, merged: bool, input_shape: Shape, most: int
    ) -> list[str]:
        """What `implementation` may be set to for a phase, the fastest prediction first.

        Args:
            training: whether gradients are computed as well.
            merged: whether kernels are merged beforehand.
            input_shape: of the inputs, batch included.
            most: how many; the reconstructed one is added if it is not among them.
        """
        if self._reparametrised:
            return ["reconstructed"]
        workload = self.plan_for(training=training, merged=merged, input_shape=input_shape).workload
        plans = candidate_plans(self.network, workload)
        chains = [plan.describe() for plan in plans[:most]]
        chains += [plan.describe() for plan in plans if plan.implementation == "reconstructed"]
        return list(dict.fromkeys(chains))

    def tuning_shape(self, batch_size: int) -> tuple[int, ...]:
        """The shape of the inputs to measure plans with, open extents at 32."""
        return with_batch(self._usual_shape(), batch_size)

    def tuning_inputs(self, shape: tuple[int, ...]) -> np.ndarray:
        """Inputs of that shape."""
        return np.random.default_rng(0).normal(size=shape).astype("float32")

    def tuned_call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """What the plans compute; of a recurrent cell not its loop."""
        return self(inputs, training=training)

    def _usual_shape(self) -> tuple[int | None, ...]:
        """The shape that inputs have as far as the layer knows."""
        return self.built_shape
