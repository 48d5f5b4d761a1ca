"""`layer.implementation`: checked whenever it is set, in the constructor or on a built layer."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from keras_tensornet.contraction import Plan
from keras_tensornet.layers.arguments import resolve_implementation
from keras_tensornet.layers.mixin import ByName, LayerMixin
from keras_tensornet.types import Implementation, Shape

# No call merges a kernel; where that is not possible, building the layer or setting it raises.
FACTORIZED = "factorized"
# Whether a file is being written: what is traced then is never trained, whatever it is told.
BEING_WRITTEN: ContextVar[bool] = ContextVar("BEING_WRITTEN", default=False)


class HasImplementation(ByName, LayerMixin):
    """How a layer applies its cores; a value that it cannot follow is refused when it is set."""

    _implementation: str | dict[str, str]
    built_shape: tuple[int | None, ...]
    plan_for: Callable[..., Plan]

    @property
    def implementation(self) -> str | dict[str, str]:
        """What was asked for: a name, a chain of stages, or a dict by phase."""
        chosen = self._implementation
        return dict(chosen) if isinstance(chosen, dict) else chosen

    @implementation.setter
    def implementation(self, implementation: Implementation) -> None:
        before: str | dict[str, str] = getattr(self, "_implementation", "auto")
        self._implementation = self._checked_implementation(implementation)
        try:
            self._check_chain()
        except ValueError:
            self._implementation = before
            raise

    def _checked_implementation(self, implementation: Implementation) -> str | dict[str, str]:
        """The implementation as it is kept; layers that cannot do all of them refuse the rest."""
        return resolve_implementation(implementation)

    def _finish_build(self, input_shape: Shape) -> None:
        """Note the shape, and raise here, not in a call, where a chain does not fit the cores."""
        self.built_shape = tuple(input_shape)
        self.built = True
        self._check_chain()

    def _check_chain(self) -> None:
        chosen = set(choices(self.implementation))
        if not self.built or chosen <= {"auto", "reconstructed"}:
            return
        for training, merged in ((False, False), (True, False), (False, True)):
            self.plan_for(training=training, merged=merged)


def choices(implementation: str | dict[str, str]) -> tuple[str, ...]:
    """What an implementation says for each phase."""
    if isinstance(implementation, dict):
        return tuple(implementation.values())
    return (implementation,)
