"""The core against the strict gateway, in any order of what may happen."""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from inngest_connect_asgi.protocol import delivering

from ..model_world import CHECKS, OPTIONS, STEPS, Step, World

# Not for what passes: to make a fault small takes some minutes.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies of 28 bytes: one, or two, and the others have to wait."""
    monkeypatch.setattr(delivering, "SEND_WINDOW", 40)


def _strategies(values: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    return {name: st.sampled_from(each) for name, each in values.items()}


class Model(RuleBasedStateMachine):
    """Finds the shortest way to a fault."""

    @initialize(options=st.fixed_dictionaries(_strategies(OPTIONS)))
    def begin(self, options: dict[str, Any]) -> None:
        self.world = World(**options)

    @invariant()
    def all_is_well(self) -> None:
        for check in CHECKS:
            check(self.world)

    def teardown(self) -> None:
        self.world.end()


def _rule(step: Step) -> Any:
    def happens(model: Model, **values: Any) -> None:
        step.function(model.world, **values)

    happens.__name__ = step.name
    is_possible = precondition(lambda model: bool(step.is_possible(model.world)))
    choose: Any = rule(**_strategies(step.values))
    return is_possible(choose(happens))


for each in STEPS:
    setattr(Model, each.name, _rule(each))

Model.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    # The same examples everywhere; to search for more, say otherwise here.
    derandomize=True,
)
TestModel = Model.TestCase


WALKS, LENGTH = 4000, 80
RARE = (
    "app_shuts_down",
    "connection_is_lost",
    "gateway_closes",
    "runtime_crashes",
    "runtime_is_starved",
)
CHOICES = [each for each in STEPS for _ in range(1 if each.name in RARE else 3)]


def walk(seed: int) -> None:
    """The same at random: many times faster, for what takes many steps to happen."""
    chance = random.Random(seed)
    options = {name: chance.choice(values) for name, values in OPTIONS.items()}
    world, steps = World(**options), [f"{options}"]
    try:
        for _ in range(LENGTH):
            step = chance.choice(CHOICES)
            if step.is_possible(world):
                chosen = {n: chance.choice(v) for n, v in step.values.items()}
                steps.append(f"{step.name} {chosen}")
                step.function(world, **chosen)
                for check in CHECKS:
                    check(world)
        world.end()
    except Exception as error:
        raise AssertionError("\n".join([f"seed {seed}", *steps])) from error


@pytest.mark.parametrize("part", range(4))
def test_long_walks(part: int) -> None:
    for seed in range(part * WALKS // 4, (part + 1) * WALKS // 4):
        walk(seed)
