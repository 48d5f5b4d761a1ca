"""Contraction of networks: merge orders, pair steps, cost, stages and plans; no Keras in here."""

from keras_tensornet.contraction.cost import Machine
from keras_tensornet.contraction.merging import MergePlan, kernel_plan, merge_plan, to_keras_layout
from keras_tensornet.contraction.orders import ORDERS, merge_order
from keras_tensornet.contraction.plans import (
    IMPLEMENTATIONS,
    Plan,
    candidate_plans,
    check_implementation,
    make_plan,
)
from keras_tensornet.contraction.stages import Stage, Workload

__all__ = [
    "IMPLEMENTATIONS",
    "ORDERS",
    "Machine",
    "MergePlan",
    "Plan",
    "Stage",
    "Workload",
    "candidate_plans",
    "check_implementation",
    "kernel_plan",
    "make_plan",
    "merge_order",
    "merge_plan",
    "to_keras_layout",
]
