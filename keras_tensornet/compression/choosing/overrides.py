"""`overrides`: what a user says of single layers, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_tensornet.compression.choosing.rules import Rule
from keras_tensornet.compression.kinds import Target
from keras_tensornet.decompositions.shares import NuclearShare, energy_share


def read_overrides(
    overrides: Mapping[str, Any] | None, targets: list[Target], rule: Rule
) -> dict[str, Any]:
    """The overrides by the path of a kernel, shares of energy in the plan's norm.

    Raises:
        ValueError: if one names no layer.
        TypeError: if one is no dict.
    """
    overrides = dict(overrides or {})
    paths = {target.path for target in targets}
    for path, settings in overrides.items():
        if path not in paths:
            raise ValueError(
                f"`overrides` names layers by their path. Received: '{path}', which is not among "
                f"{sorted(paths)}."
            )
        if settings is not None and not isinstance(settings, Mapping):
            raise TypeError(
                "The override of a layer must be a dict, or None to keep it dense. Received for "
                f"'{path}': {settings!r}."
            )
        elif settings is not None and ("energy" in settings or "energy_norm" in settings):
            # A share is one of the same norm as the plan's, unless the layer says otherwise.
            own = dict(settings)
            norm = own.pop("energy_norm", "nuclear" if is_nuclear(rule) else "frobenius")
            overrides[path] = own | {"energy": energy_share(own.get("energy"), norm)}
    for target in targets:
        if target.part and target.layer_path in overrides and target.path not in overrides:
            _share_override(overrides, target)
    return overrides


def is_nuclear(rule: Rule) -> bool:
    """Whether a rule is a share of the sum of singular values."""
    return isinstance(rule.value, NuclearShare)


def _share_override(overrides: dict[str, Any], target: Target) -> None:
    """What the override of a layer says of a further kernel of it: None, or that kernel's rank."""
    settings = overrides[target.layer_path]
    if settings is None:
        overrides[target.path] = None
        return
    name = f"{target.part.removesuffix('_kernel')}_rank"
    if settings.get(name) is not None:
        own = {key: value for key, value in settings.items() if key != name}
        overrides[target.layer_path] = own
        shared = {"format", "out_modes"} & own.keys()
        overrides[target.path] = {"rank": settings[name]} | {key: own[key] for key in shared}
