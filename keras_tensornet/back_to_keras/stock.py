"""One factorized layer as a chain of stock Keras layers.

A contraction plan computes a layer in stages (`keras_tensornet.contraction.stages`). Against a
stage, the labels of the channels are carried, shared, contracted or new, and

- of a convolution it is a convolution with carried * shared groups: an ordinary one where there is
  one group, a depthwise one where nothing is contracted;
- of a dense layer it is `Dense` on the last axis, with the carried labels in the axes before it, or
  `EinsumDense` where labels are shared.

Between stages channels may have to be put into another order, by `Reshape` and `Permute`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_tensornet.contraction import Machine, Plan, candidate_plans, make_plan
from keras_tensornet.contraction.pairwise import Labels
from keras_tensornet.contraction.stages import Stage, StageContext, stage_ops
from keras_tensornet.layers import FactorizedDense
from keras_tensornet.layers.conv import FactorizedConv
from keras_tensornet.types import Tensor

# LiteRT transposes so many axes at most, the batch among them.
MOST_AXES = 6


def stock_chain(layer: keras.Layer) -> list[keras.layers.Layer] | None:
    """Built stock layers that do together what a factorized layer does.

    Args:
        layer: a built factorized layer.

    Returns:
        The chain with the fewest parameters; None where the merged layer has no more than that, or
        stock layers cannot express any.
    """
    kind = _kind_of(layer)
    if kind is None or layer.kernel_constraint is not None or layer.modes.padding != (0, 0):
        return None
    chains = [kind(layer, plan) for plan in _plans(layer)]
    chains = [chain for chain in chains if chain.possible()]
    best = min(chains, key=lambda chain: (chain.num_params(), len(chain.steps)), default=None)
    if best is None or best.num_params() >= math.prod(layer.modes.kernel_shape):
        return None
    return best.build()


@dataclass(frozen=True)
class Step:
    """One stage as numbers.

    Attributes:
        stage: of the plan.
        arranged: the order of the channels' labels that it takes.
        carried, shared, contracted, new: the products of the sizes of its labels.
    """

    stage: Stage
    arranged: Labels
    carried: int
    shared: int
    contracted: int
    new: int

    @classmethod
    def of(cls, stage: Stage, size: Any) -> Step:
        """The step of a stage."""
        kinds = (stage.carried, stage.shared, stage.contracted, stage.new)
        sizes = [math.prod(size[label] for label in labels) for labels in kinds]
        return cls(stage, (*stage.carried, *stage.shared, *stage.contracted), *sizes)

    def kernel(self, cores: list[Tensor]) -> np.ndarray:
        """(*extents, shared, contracted, new); no extents in a dense layer."""
        merged = self.stage.merge.run(cores, np)
        return merged.reshape(*self.stage.extents, self.shared, self.contracted, self.new)


class _Chain:
    """A plan as stock layers: each step takes flat channels and gives flat channels."""

    def __init__(self, layer: keras.Layer, plan: Plan) -> None:
        self.layer, self.plan = layer, plan
        self.size = layer.network.size
        self.steps = [Step.of(stage, self.size) for stage in plan.stages]
        self.cores = [ops.convert_to_numpy(core) for core in layer.cores]
        # Order of the channels before each step, and at the end: as they are, as they must be.
        self.orders = [(step.stage.before, step.arranged) for step in self.steps]
        self.orders.append((self.steps[-1].stage.after, plan.finish))

    def possible(self) -> bool:
        """Whether stock layers can express the chain."""
        raise NotImplementedError  # abstract

    def num_params(self) -> int:
        """Weights of all layers, without the bias."""
        raise NotImplementedError  # abstract

    def step_layers(
        self, step: Step, lead: list[Any], last: dict[str, Any], bias: list[Any]
    ) -> list[Any]:
        """`(layer, weights)` of one step; `last` and `bias` are of the last step only."""
        raise NotImplementedError  # abstract

    def build(self) -> list[keras.layers.Layer]:
        """The stock layers, built, with weights; the last has the factorized layer's name."""
        shape, made = tuple(self.layer.built_shape), []
        for number, order in enumerate(self.orders):
            lead = [-1 if extent is None else extent for extent in shape[1:-1]]
            parts: list[tuple[Any, ...]] = [(part, []) for part in self._reorder(lead, *order)]
            if number < len(self.steps):
                is_last = number == len(self.steps) - 1
                last, bias = self._ending() if is_last else ({"use_bias": False}, [])
                parts += self.step_layers(self.steps[number], lead, last, bias)
            for part, weights in parts:
                part.build(shape)
                if weights:
                    part.set_weights(weights)
                shape = part.compute_output_shape(shape)
                made.append(part)
        for number, part in enumerate(made[:-1]):
            part.name = f"{self.layer.name}_part{number}"
        made[-1].name = self.layer.name
        return made

    def common(self) -> dict[str, Any]:
        """Arguments of every layer of the chain."""
        return {"dtype": self.layer.dtype_policy, "trainable": self.layer.trainable}

    def reorders(self) -> bool:
        """Whether channels change their order anywhere."""
        return any(present != wanted for present, wanted in self.orders)

    def _ending(self) -> tuple[dict[str, Any], list[Any]]:
        """Arguments and bias of the last step: activations treat all channels alike, so they come
        before a last change of order, and the bias is put into the order before it."""
        arguments = {"use_bias": self.layer.bias is not None, "activation": self.layer.activation}
        if self.layer.bias is None:
            return arguments, []
        present, wanted = self.orders[-1]
        bias = ops.convert_to_numpy(self.layer.bias)
        split = bias.reshape([self.size[label] for label in wanted])
        bias = split.transpose([wanted.index(label) for label in present]).ravel()
        return arguments | {"bias_regularizer": self.layer.bias_regularizer}, [bias]

    def _reorder(self, lead: list[Any], present: Labels, wanted: Labels) -> list[Any]:
        if present == wanted:
            return []
        runs = _runs(present, wanted)
        if len(runs) > MOST_AXES - 1 - len(lead) and len(runs) > 4:
            # Too many axes for one: bring the first label that is not in its place there, which
            # never takes more than four.
            place = next(k for k, label in enumerate(wanted) if label != present[k])
            (run,) = (run for run in runs if run[0] == wanted[place])
            others = tuple(label for label in present[place:] if label not in run)
            nearer = (*present[:place], *run, *others)
            return [*self._reorder(lead, present, nearer), *self._reorder(lead, nearer, wanted)]
        sizes = [math.prod(self.size[label] for label in run) for run in runs]
        order = sorted(range(len(runs)), key=lambda place: wanted.index(runs[place][0]))
        start = len(lead) + 1
        axes = [*range(1, start), *(start + place for place in order)]
        return [
            layers.Reshape((*lead, *sizes), **self.common()),
            layers.Permute(tuple(axes), **self.common()),
            layers.Reshape((*lead, math.prod(sizes)), **self.common()),
        ]


class _ConvChain(_Chain):
    """A convolution: pointwise, spatial and depthwise convolutions."""

    def possible(self) -> bool:
        if not self.reorders():
            return True
        unknown = [extent for extent in self.layer.built_shape[1:-1] if extent is None]
        return self.layer.data_format == "channels_last" and len(unknown) <= 1

    def num_params(self) -> int:
        return sum(
            math.prod(step.stage.extents) * step.carried * step.shared * step.contracted * step.new
            for step in self.steps
        )

    def step_layers(
        self, step: Step, lead: list[Any], last: dict[str, Any], bias: list[Any]
    ) -> list[Any]:
        groups = step.carried * step.shared
        extents = step.stage.extents
        # (*extents, shared, contracted, new) -> (*extents, contracted, 1, shared * new)
        kernel = np.moveaxis(step.kernel(self.cores), -3, -2)
        kernel = kernel.reshape(*extents, step.contracted, 1, step.shared * step.new)
        # The carried channels are groups with the same kernel.
        kernel = np.repeat(kernel, step.carried, axis=-2)
        kernel = kernel.reshape(*extents, step.contracted, groups * step.new)
        inside = set(step.stage.axes)
        layer = getattr(layers, f"Conv{self.layer.ndim}D")(
            groups * step.new,
            extents,
            strides=_where(inside, self.layer.strides),
            dilation_rate=_where(inside, self.layer.dilation_rate),
            padding=self.layer.padding,
            data_format=self.layer.data_format,
            groups=groups,
            **last,
            **self.common(),
        )
        return [(layer, [kernel, *bias])]


class _DenseChain(_Chain):
    """A dense layer: Dense and EinsumDense on reshaped inputs."""

    def possible(self) -> bool:
        unknown = [extent for extent in self.layer.built_shape[1:-1] if extent is None]
        return len(unknown) <= 1

    def num_params(self) -> int:
        return sum(step.shared * step.contracted * step.new for step in self.steps)

    def step_layers(
        self, step: Step, lead: list[Any], last: dict[str, Any], bias: list[Any]
    ) -> list[Any]:
        kernel = step.kernel(self.cores).reshape(step.shared, step.contracted, step.new)
        if (step.carried, step.shared) == (1, 1):
            return [(layers.Dense(step.new, **last, **self.common()), [kernel[0], *bias])]
        # Labels of size 1 are left out: TensorFlow's einsum can crash on a batch axis of size 1.
        spelled = {"c": step.carried, "s": step.shared}
        kept = "".join(letter for letter, count in spelled.items() if count > 1)
        inner, sizes = "s" if step.shared > 1 else "", [spelled[letter] for letter in kept]
        split = layers.Reshape((*lead, *sizes, step.contracted), **self.common())
        join = layers.Reshape((*lead, math.prod(sizes) * step.new), **self.common())
        # No axis for a single new channel either: LiteRT's converter loses count of its bias.
        new, shape = ("n", (*sizes, step.new)) if step.new > 1 or not kept else ("", tuple(sizes))
        product = layers.EinsumDense(
            f"...{kept}k,{inner}k{new}->...{kept}{new}",
            shape,  # without the axes that `...` stands for
            bias_axes=f"{kept}{new}" if bias else None,
            **self.common(),
        )
        kernel = kernel if inner else kernel[0]
        weights = [kernel if new else kernel[..., 0], *(values.reshape(shape) for values in bias)]
        parts = [(split, []), (product, weights), (join, [])]
        if last.get("activation") not in (None, keras.activations.linear):
            # Softmax is over all units, so it comes once they are on one axis again.
            parts.append((layers.Activation(last["activation"], **self.common()), []))
        return parts


# The calls that chains are known for; a subclass with a call of its own may do something else.
CHAINS: dict[Any, type[_Chain]] = {FactorizedDense: _DenseChain, FactorizedConv: _ConvChain}


def _kind_of(layer: Any) -> type[_Chain] | None:
    for kind, chain in CHAINS.items():
        if isinstance(layer, kind) and type(layer).call is kind.call:
            return chain
    return None


def _runs(present: Labels, wanted: Labels) -> list[Labels]:
    """`present` cut into the longest runs of labels that follow each other in `wanted` as well.

    >>> _runs(("a", "b", "c", "d"), ("d", "b", "c", "a"))
    [('a',), ('b', 'c'), ('d',)]
    """
    runs: list[Labels] = []
    for label in present:
        if runs and wanted.index(label) == wanted.index(runs[-1][-1]) + 1:
            runs[-1] = (*runs[-1], label)
        else:
            runs.append((label,))
    return runs


def _where(inside: set[int], values: tuple[int, ...]) -> tuple[int, ...]:
    """The values of the axes that a stage handles; 1 for the others."""
    return tuple(value if axis in inside else 1 for axis, value in enumerate(values))


def _plans(layer: keras.Layer) -> list[Plan]:
    """The planner's candidates, and every core on its own from the inputs to the outputs."""
    workload = layer.workload((32, *layer.built_shape[1:]), merged=True)
    network = layer.network
    plans = [plan for plan in candidate_plans(network, workload) if len(plan.stages) > 1]
    text = _single_cores(StageContext(network, workload, Machine()))
    return [*plans, make_plan(network, workload, text)] if text else plans


def _single_cores(context: StageContext) -> str | None:
    """The chain that applies the cores one by one, those with inputs first, outputs last."""
    network = context.network
    inputs, outputs = set(network.in_labels), set(network.out_labels)
    order = sorted(
        range(len(network.cores)),
        key=lambda core: (
            bool(outputs & set(network.cores[core])) - bool(inputs & set(network.cores[core]))
        ),
    )
    absorbed, parts = 0, []
    for core in order:
        kinds = stage_ops(context, absorbed, 1 << core)
        if kinds == ("dense",):
            return None
        parts.append(f"{core}:{kinds[0]}")
        absorbed |= 1 << core
    return " | ".join(parts)
