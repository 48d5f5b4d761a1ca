"""The rules that turn what a user asked for into one candidate for each layer.

Exactly one rule is in force: `rank`, `energy`, `eps`, `share` and `vbmf` look at one layer at a
time; `params`, `flops` and `latency` spend one budget over all layers.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tensornet import formats, ranks, validation
from keras_tensornet.compression.choosing.budgets import rounded
from keras_tensornet.compression.choosing.subjects import Candidate, Form, Subject
from keras_tensornet.decompositions import hosvd
from keras_tensornet.decompositions.arguments import read_rule

LOCAL = ("rank", "energy", "eps", "share", "vbmf")
BUDGETS = ("params", "flops", "latency")


@dataclass(frozen=True)
class Rule:
    """What was asked for: the name of one rule and its value.

    Attributes:
        name: one of `LOCAL` or `BUDGETS`.
        value: of the rule.
        multiple: ranks are rounded to multiples of this.
        allow_slower: whether layers may run as chains that are slower than their dense kernels.
    """

    name: str
    value: Any
    multiple: int = 1
    allow_slower: bool = False

    @property
    def is_budget(self) -> bool:
        """Whether one budget is spent over all layers."""
        return self.name in BUDGETS


def read_rules(given: Mapping[str, Any], multiple: int, allow_slower: bool = False) -> Rule:
    """The one rule among the arguments.

    Args:
        given: name -> value; None and False mean not given.

    Raises:
        ValueError: unless exactly one is given, or its value is out of range.
    """
    asked = {
        name: value for name, value in given.items() if value is not None and value is not False
    }
    if len(asked) != 1:
        names = ", ".join(f"`{name}`" for name in (*LOCAL, *BUDGETS))
        raise ValueError(
            f"Give exactly one of {names}. Received: "
            f"{', '.join(f'{name}={value}' for name, value in asked.items()) or 'none of them'}."
        )
    ((name, value),) = asked.items()
    check_rule(name, value)
    if allow_slower and name != "params":
        raise ValueError(
            "`allow_slower` turns off the measurement that `params` makes; other rules make none "
            f"of that kind. Received: {name}={value} with allow_slower={allow_slower}."
        )
    return Rule(name, value, validation.positive_int("multiple", multiple), bool(allow_slower))


def check_rule(name: str, value: Any) -> None:
    """Raise if the value of a rule is out of its range."""
    if name in ("energy", "eps"):
        read_rule(None, **{"eps": None, "energy": None, name: value})
    elif name in ("share", *BUDGETS):
        if isinstance(value, numbers.Real) and float(value) > 1:
            raise ValueError(
                f"`{name}` is the share that is kept, in (0, 1], and not how many times less. "
                f"Received: {name}={value}. Give {1 / float(value):.4g} for {value:g}x fewer."
            )
        validation.fraction(name, value)
    elif name == "vbmf" and value is not True:
        raise TypeError(f"`vbmf` must be True or False. Received: vbmf={value!r}.")
    elif name == "rank" and isinstance(value, (tuple, list)):
        validation.int_tuple("rank", value)
    elif name == "rank":
        validation.positive_int("rank", value)


def candidate_by_rule(subject: Subject, form: Form, rule: Rule) -> Candidate:
    """The decomposition of one layer in one format by a local rule."""
    if rule.name == "rank":
        found = subject.decompose(form, rank=rule.value)
    elif rule.name == "share":
        found = subject.decompose(form, rank=rank_of_share(subject, form, rule))
    elif rule.name == "vbmf":
        found = _by_vbmf(subject, form)
    else:
        found = subject.decompose(form, **{rule.name: rule.value})
    if rule.multiple > 1 and rule.name != "share":
        found = subject.decompose(form, rank=rounded(found.rank, rule.multiple))
    return found


def rank_of_share(subject: Subject, form: Form, rule: Rule) -> Any:
    """The largest uniform rank whose cores hold at most that share of the kernel.

    Bonds that the modes cut short stay as they are while the others grow.

    Raises:
        ValueError: if not even the smallest rank fits.
    """

    def count(rank: int) -> int:
        # Where all ranks are cut the count stops; the search needs one that grows.
        return max(form.network(rank)[1].num_params, rank)

    return ranks.rank_for_share(count, subject.dense.params, rule.value, rule.multiple)


def _by_vbmf(subject: Subject, form: Form) -> Candidate:
    """Ranks by variational Bayes: the format's own, or what follows from those of Tucker.

    Formats with bonds that are ranks of a matrix, such as Tucker and trains with whole channels,
    say themselves which (`Format.vbmf_rank`). Any other gets the ranks whose error equals that of
    the Tucker decomposition with the EVBMF ranks of the input and output unfoldings (Kim et al.
    2016).
    """
    kernel = np.asarray(subject.kernel, dtype="float64").reshape(-1, *subject.kernel_shape[-2:])
    if form.modes.order or form.modes.groups > 1:
        kernel = np.asarray(subject.kernel, dtype="float64").reshape(1, *_matrix_shape(form))
    own = formats.get(form.format).vbmf_rank
    rank = own(kernel, form.modes) if own else None
    if rank is not None:
        return subject.decompose(form, rank=rank)
    inner, outer = ranks.vbmf_ranks(kernel, axes=(1, 2))
    core = hosvd(kernel, ranks=(inner, outer), axes=(1, 2))[0]
    kept = min(1.0, float(np.sum(core**2) / np.sum(kernel**2)))
    return subject.decompose(form, eps=min(math.sqrt(1.0 - kept), 0.999))


def _matrix_shape(form: Form) -> tuple[int, int]:
    inputs = math.prod(form.modes.kernel_size) * form.modes.in_size
    return inputs, form.modes.groups * form.modes.out_size
