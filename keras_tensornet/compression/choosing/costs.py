"""What a kernel costs: parameters, FLOPs of one example, and predicted time of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras_tensornet.compression.kinds import Target
from keras_tensornet.contraction import Workload, candidate_plans, make_plan
from keras_tensornet.networks import Network

# The batch that FLOPs and time are counted for; FLOPs are then divided by it.
BATCH = 32


@dataclass(frozen=True)
class Costs:
    """Parameters of a kernel, and what computing with it takes.

    Attributes:
        params: entries of the kernel or of its cores, without the bias.
        flops: floating-point operations for one example, kernels merged beforehand; a multiply and
            an add count as two.
        seconds: time of a batch of `BATCH` as the contraction plans predict it, kernels merged
            beforehand. Only ratios mean something.
        merges: whether that fastest plan is the dense operation on the merged kernel, so that the
            layer is smaller than its dense twin but, frozen, no faster; it is never slower.
    """

    params: int
    flops: int = 0
    seconds: float = 0.0
    merges: bool = False

    @classmethod
    def of(cls, network: Network, workload: Workload | None) -> Costs:
        """The costs of a network: FLOPs of its cores one by one, time of its fastest plan."""
        if workload is None:
            return cls(network.num_params)
        plans = candidate_plans(network, workload)
        apart = next((plan for plan in plans if plan.implementation == "factorized"), plans[0])
        fastest = make_plan(network, workload, "auto")
        merges = fastest.implementation == "reconstructed"
        return cls(network.num_params, apart.flops // BATCH, fastest.seconds, merges)

    @classmethod
    def of_dense(cls, network: Network, params: int, workload: Workload) -> Costs:
        """The costs of the dense layer that a network of any rank stands for."""
        plan = make_plan(network, workload, "reconstructed")
        return cls(params, plan.flops // BATCH, plan.seconds)


def workload_of(target: Target, holder: Any) -> Workload | None:
    """What a factorized layer computes for one batch; None for embeddings, which look up."""
    return target.kind.workload(target.layer, holder, BATCH)
