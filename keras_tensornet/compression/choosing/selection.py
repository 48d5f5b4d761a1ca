"""From a rule to one decomposition for each layer: forms, local rules, budgets, in threads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from keras_tensornet import formats
from keras_tensornet.compression.choosing import budgets, rules
from keras_tensornet.compression.choosing.rules import Rule
from keras_tensornet.compression.choosing.subjects import Candidate, Form, Subject

AUTO = "auto"
# NumPy releases the interpreter while LAPACK runs; more threads than this only wait.
WORKERS = max(1, min(4, os.cpu_count() or 1))
GROWS = "would grow"
# How often options whose errors were interpolated are measured and the budget spent anew.
ROUNDS = 6
TOO_SMALL = "no rank fits"
TRUNCATED = "a truncated SVD loses less"
CUT = "sides cut into modes, whole ones would leave it a rank below {least}"
# Ways to share out a budget: powers of the weights, which are roots of sensitivities; and without.
POWERS = (0, 1, 2)
ONE_SHARE = "one share"
RULE_NAMES = ("rank", "energy", "eps", "share")

Report = Callable[[str], None]


class Selection:
    """What was found for each subject.

    Attributes:
        found: `path -> (subject, candidate)` of the layers to be compressed.
        notes: `path -> reason` of those that stay dense after all.
        remarks: `path -> what is to be said` of those that are compressed.
    """

    def __init__(
        self,
        format: str,
        rule: Rule,
        overrides: Mapping[str, Any],
        report: Report,
        weigh: Callable[[list[Subject]], Callable[[list[Any], list[Any]], float]] | None = None,
    ) -> None:
        self.format, self.rule, self.overrides, self.report = format, rule, overrides, report
        # Sets the weights of layers that share a budget; what it gives judges ways to share it.
        self.weigh = weigh
        self.judge: Callable[[list[Any], list[Any]], float] | None = None
        self.allocation: str | None = None
        self.found: dict[str, tuple[Subject, Candidate]] = {}
        self.forms: dict[str, list[Form]] = {}
        self.cut: dict[str, list[Form]] = {}  # those with sides cut into modes, where wanted
        self.notes: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        # Layers that merge when frozen because their chain was measured to be slower.
        self.merged: set[str] = set()
        # The layers that share a budget with their options, and what the others take of it.
        self.shared: tuple[list[Subject], list[Any]] = ([], [])
        self.reserved = 0.0

    def run(self, subjects: list[Subject], budget: float | None) -> Selection:
        """Decompose all subjects.

        Args:
            subjects: the layers.
            budget: what they may cost together; None for local rules.
        """
        forms = self.forms = {subject.path: self._forms(subject) for subject in subjects}
        for subject in subjects:
            subject.truncation()  # makes layers, so before the threads start
        self._prepare_cuts(subjects)
        ready = [subject for subject in subjects if forms[subject.path]]
        local = [s for s in ready if not self.rule.is_budget or s.path in self.overrides]
        for subject, candidate in self._each(
            local, lambda subject: self._by_rule(subject, forms[subject.path])
        ):
            self._keep(subject, candidate)
        if budget is not None:
            shared = [subject for subject in ready if subject.path not in self.overrides]
            if self.weigh is not None:
                self.judge = self.weigh(shared)
            self._try_options(shared, forms)
            self.reserved = budget - self._left(subjects, shared, budget)
            self.spend(budget)
        return self

    def _forms(self, subject: Subject) -> list[Form]:
        """The forms that a layer may take; made before the threads start, as they build layers."""
        settings = dict(self.overrides.get(subject.path) or {})
        format = settings.pop("format", self.format)
        arguments = {name: value for name, value in settings.items() if name not in RULE_NAMES}
        found, reason = [], ""
        for name in formats.automatic() if format == AUTO else (format,):
            try:
                found.append(subject.form(formats.get(name).name, arguments))
            except (ValueError, TypeError) as error:
                reason = str(error)
        if not found:
            if subject.path in self.overrides:
                raise ValueError(f"The override of '{subject.path}' does not fit: {reason}")
            self.notes[subject.path] = f"does not come as {format!r}"
        return found

    def _has_settings(self, subject: Subject) -> bool:
        """Whether the user has said what format or modes a layer gets."""
        return bool(set(self.overrides.get(subject.path) or {}) - set(RULE_NAMES))

    def _rule_of(self, subject: Subject) -> Rule:
        settings = self.overrides.get(subject.path) or {}
        own = {name: value for name, value in settings.items() if name in RULE_NAMES}
        if own:
            return rules.read_rules(own, self.rule.multiple)
        if self.rule.is_budget:
            raise ValueError(
                f"The override of '{subject.path}' must say how its ranks are chosen, because a "
                f"budget (`{self.rule.name}`) is spent over the others. Received: {settings}. Add "
                "a rank, energy, eps or share, or leave the layer out of `overrides`."
            )
        return self.rule

    def _by_rule(self, subject: Subject, forms: list[Form]) -> Candidate | None:
        rule = self._rule_of(subject)
        if len(forms) > 1 and rule.name == "energy":
            # Formats cut different unfoldings; the energy of the whole kernel compares them.
            rule = Rule("eps", math.sqrt(1.0 - float(rule.value)), rule.multiple)
        found = []
        for form in forms:
            try:
                found.append(rules.candidate_by_rule(subject, form, rule))
            except ValueError:
                if rule.name != "share":
                    raise
        if rule.name == "share":
            best = min(found, key=lambda candidate: candidate.error, default=None)
            if self._has_settings(subject):
                return best
            best = self._or_truncated(subject, best, rule)
            return self._or_cut(subject, best, rule)
        return min(found, key=lambda candidate: candidate.params)

    def _or_truncated(self, subject: Subject, best: Candidate | None, rule: Rule) -> Any:
        """A decomposition, or the truncated SVD within the same share where that loses less."""
        limit = float(rule.value) * subject.dense.params
        option = budgets.truncated(subject, "params", limit, rule.multiple)
        if option is None or option.form is None:
            return best
        if best is not None and best.error**2 <= option.error * (1 + budgets.SAME):
            return best
        return subject.decompose(option.form, rank=option.rank)

    def _or_cut(self, subject: Subject, best: Candidate | None, rule: Rule) -> Candidate | None:
        """A decomposition, or one with the sides cut into modes where that one is narrow."""
        if best is None or not budgets.is_narrow(subject, best.form, best.rank):
            return best
        found = []
        for form in self._cut_forms(subject):
            with suppress(ValueError):  # no rank fits
                found.append(rules.candidate_by_rule(subject, form, rule))
        # Where all are narrow, the widest: every format has a size below which it has to be.
        ranks = [min(budgets.rank_of(one), budgets.least_rank(subject)) for one in [best, *found]]
        wide = [one for one, rank in zip([best, *found], ranks, strict=True) if rank == max(ranks)]
        return min(wide, key=lambda candidate: candidate.error)

    def _cut_forms(self, subject: Subject) -> list[Form]:
        """The forms of a layer with sides that are cut into modes."""
        return self.cut.get(subject.path, [])

    def _prepare_cuts(self, subjects: list[Subject]) -> None:
        """Make the forms with cut sides, before the threads start, as that builds layers."""
        for subject in subjects:
            if budgets.least_rank(subject) > 1 and not self._has_settings(subject):
                self.cut[subject.path] = [
                    form
                    for plain in self.forms[subject.path]
                    if (form := subject.cut_form(plain)) is not None
                ]

    def _try_options(self, subjects: list[Subject], forms: dict[str, Any]) -> None:
        """What each of the layers that share the budget may become, and what that costs."""
        name = self.rule.name
        options = [
            layer
            for _, layer in self._each(
                subjects,
                lambda subject: budgets.options_of(
                    subject, forms[subject.path], name, self.rule.multiple
                ),
            )
        ]
        self.shared = (subjects, options)

    def least(self) -> float:
        """The smallest budget that `spend` can keep to."""
        _, options = self.shared
        costs = [min(budgets.cost(one.costs, self.rule.name) for one in layer) for layer in options]
        return self.reserved + sum(costs) * (1 + budgets.SAME)

    def spend(self, budget: float) -> None:
        """Choose for the layers that share the budget; may be called again with another one.

        Raises:
            ValueError: if it is below what the smallest ranks cost; nothing is chosen then.
        """
        subjects, options = self.shared
        budget -= self.reserved
        chosen = self._shared_out(subjects, options, budget)
        for subject in subjects:
            for kept in (self.found, self.notes, self.remarks):
                kept.pop(subject.path, None)
        found = self._decomposed(subjects, chosen)
        better = self._not_worse(subjects, chosen, found)
        if better != chosen:
            # A truncated SVD may leave a part of what it was given: it goes round once more.
            better = self._filled(subjects, better, budget)
            found = self._decomposed(subjects, better, (chosen, found))
            last = self._not_worse(subjects, better, found)
            found = self._decomposed(subjects, last, (better, found))
        for subject, candidate in zip(subjects, found, strict=True):
            self.report(subject.path)
            if candidate is None:
                self.notes[subject.path] = "the budget suffices to leave it dense"
            else:
                self._keep(subject, candidate)

    def _decomposed(
        self, subjects: list[Subject], chosen: list[Any], known: Any = None
    ) -> list[Any]:
        """The decompositions of chosen options, None for those that stay dense.

        Args:
            subjects: the layers.
            chosen: an option for each.
            known: options and decompositions of before, kept where the option is the same.
        """
        before = known or ([None] * len(chosen), [None] * len(chosen))

        def decompose(job: Any) -> Any:
            subject, option, old, candidate = job
            if option.form is None:
                return None
            if candidate is not None and (old.form, old.rank) == (option.form, option.rank):
                return candidate
            return subject.decompose(option.form, rank=option.rank)

        jobs = list(zip(subjects, chosen, *before, strict=True))
        return [found for _, found in decompose_each(jobs, decompose)]

    def _not_worse(self, subjects: list[Subject], chosen: list[Any], found: list[Any]) -> list[Any]:
        """The options, truncated SVDs of no higher cost in place of those that lose more."""
        name, multiple = self.rule.name, self.rule.multiple
        return [
            option
            if candidate is None
            else budgets.no_worse(subject, option, candidate.error, name, multiple)
            for subject, option, candidate in zip(subjects, chosen, found, strict=True)
        ]

    def _shared_out(self, subjects: list[Subject], options: list[Any], budget: float) -> list[Any]:
        """Options within the budget, shared out in the way that moves the model's outputs least.

        Without something to judge by, by the layers' weights as they are.
        """
        if self.judge is not None and self.allocation is None:
            self.allocation = self._best_way(subjects, options, budget, self.judge)
        if self.allocation == ONE_SHARE:
            chosen = budgets.one_share(options, self.rule.name, budget)
            narrow = any(
                budgets.is_narrow(subject, option.form, option.rank)
                for subject, option in zip(subjects, chosen, strict=True)
            )
            if not narrow and sum(self._costs(chosen)) <= budget:
                return self._filled(subjects, chosen, budget)
        return self._wide(subjects, options, budget)

    def _best_way(
        self,
        subjects: list[Subject],
        options: list[Any],
        budget: float,
        judge: Callable[[list[Any], list[Any]], float],
    ) -> str:
        """The way to share out; sets the layers' weights as it has them."""
        given, name = [subject.weight for subject in subjects], self.rule.name
        ways = {
            f"sensitivity ** {power / 2:g}": [weight**power for weight in given] for power in POWERS
        }
        judged: dict[str, float] = {}
        for way, weights in {**ways, ONE_SHARE: given}.items():
            if way == ONE_SHARE:
                chosen = budgets.one_share(options, name, budget)
            else:
                chosen = budgets.choose(options, weights, name, budget)
            judged[way] = judge(subjects, [option.error for option in chosen])
        best = min(judged, key=lambda way: judged[way])
        for subject, weight in zip(subjects, ways.get(best, given), strict=True):
            subject.weight = weight
        return best

    def _costs(self, chosen: list[Any]) -> list[float]:
        return [budgets.cost(option.costs, self.rule.name) for option in chosen]

    def _wide(self, subjects: list[Subject], options: list[Any], budget: float) -> list[Any]:
        """Options within the budget, of which those of dense layers are not narrow if can be.

        Sides are cut into modes only where a choice was narrow, since trials of that take time.
        """
        name, multiple, options = self.rule.name, self.rule.multiple, list(options)
        chosen, widened = self._spend(subjects, options, budget), set()
        while True:
            narrow = [
                place
                for place, (subject, option) in enumerate(zip(subjects, chosen, strict=True))
                if place not in widened
                and subject.path in self.cut
                and budgets.is_narrow(subject, option.form, option.rank)
            ]
            if not narrow:
                return chosen
            found = decompose_each(
                narrow,
                lambda place: budgets.wider(
                    options[place],
                    subjects[place],
                    self._cut_forms(subjects[place]),
                    name,
                    multiple,
                ),
            )
            for place, wide in found:
                options[place] = wide
            widened |= set(narrow)
            try:
                chosen = self._spend(subjects, options, budget)
            except budgets.BudgetTooSmall:  # narrow layers are all that it pays for
                return chosen

    def _spend(self, subjects: list[Subject], options: list[Any], budget: float) -> list[Any]:
        """Options within the budget: what a choice guessed is measured, then it is made anew."""
        weights = [subject.weight for subject in subjects]
        for _ in range(ROUNDS):
            chosen = budgets.choose(options, weights, self.rule.name, budget)
            if not any(option.guessed for option in chosen):
                break
            pairs = list(zip(subjects, chosen, strict=True))
            known = [new for _, new in decompose_each(pairs, lambda pair: budgets.measured(*pair))]
            options = [
                [new if option is old else option for option in layer]
                for layer, old, new in zip(options, chosen, known, strict=True)
            ]
        else:
            options = [[option for option in layer if not option.guessed] for layer in options]
            chosen = budgets.choose(options, weights, self.rule.name, budget)
        return self._filled(subjects, chosen, budget)

    def _filled(self, subjects: list[Subject], chosen: list[Any], budget: float) -> list[Any]:
        weights = [subject.weight for subject in subjects]
        dense = [subject.dense for subject in subjects]
        return budgets.fill(chosen, weights, dense, self.rule.name, budget, self.rule.multiple)

    def _left(self, subjects: list[Subject], shared: list[Subject], budget: float) -> float:
        """What the budget leaves for the layers that share it."""
        together = {subject.path for subject in shared}
        spent = 0.0
        for subject in subjects:
            if subject.path in together:
                continue
            pair = self.found.get(subject.path)
            costs = pair[1].costs if pair else subject.dense
            spent += budgets.cost(costs, self.rule.name)
        return budget - spent

    def _keep(self, subject: Subject, candidate: Candidate | None) -> None:
        if candidate is None:
            self.notes[subject.path] = TOO_SMALL
        elif candidate.params >= subject.dense.params:
            self.notes[subject.path] = GROWS
        else:
            self.found[subject.path] = (subject, candidate)
            if candidate.form in self._cut_forms(subject):
                self.remarks[subject.path] = CUT.format(least=budgets.least_rank(subject))
            elif self.format != AUTO and candidate.form not in self.forms[subject.path]:
                self.remarks[subject.path] = TRUNCATED

    def _each(self, subjects: list[Subject], work: Callable[..., Any]) -> Iterator[Any]:
        for subject, result in decompose_each(subjects, work):
            self.report(subject.path)
            yield subject, result


def decompose_each(jobs: list[Any], work: Callable[..., Any]) -> Iterator[Any]:
    """Run `work` on each job in threads and yield `(job, result)` in order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from zip(jobs, pool.map(work, jobs), strict=True)
