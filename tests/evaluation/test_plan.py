"""The plan: which attacks run at which radii, what is still to do, and what identifies a record."""

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch

from medrobust.attacks import BIM, FAB, FGSM, AdvSBF, Attack, CWLinf, DeepFool, LogDomain, UniformNoise
from medrobust.evaluation import EvaluationPlan, PlannedAttack, lay_out
from medrobust.evaluation.plan import record_key, weights_hash
from medrobust.objectives import Margin


def radii(laid_out: list[tuple[str, Attack]]) -> list[tuple[str, Any]]:
    """Names and radii."""
    return [(name, vars(attack).get("epsilon")) for name, attack in laid_out]


def plan_of(*keys: str, done: dict[str, set[str]] | None = None) -> EvaluationPlan:
    """A plan of three images, a, b and c, under attacks with these keys."""
    attacks = [PlannedAttack(name="fgsm", attack=FGSM(), key=key) for key in keys]
    images = [(id, "0") for id in "abc"]
    return EvaluationPlan(attacks=attacks, split="test", images=images, victim={}, data={}, done=done or {})


def test_every_attack_runs_at_every_radius_after_the_noise_of_these_radii() -> None:
    attacks = {"fgsm": FGSM(), "bim": BIM(steps=2)}
    assert radii(lay_out(attacks, [0.02, 0.01], controls=True)) == [
        *(("noise", 0.01), ("noise", 0.02), ("fgsm", 0.02), ("fgsm", 0.01), ("bim", 0.02), ("bim", 0.01))
    ]


def test_without_a_sweep_every_attack_keeps_its_radius_and_noise_comes_once_for_each() -> None:
    attacks = {"a": FGSM(epsilon=0.02), "b": BIM(epsilon=0.01, steps=2), "c": CWLinf(epsilon=0.02, steps=2)}
    expected = [("noise", 0.01), ("noise", 0.02), ("a", 0.02), ("b", 0.01), ("c", 0.02)]
    assert radii(lay_out(attacks, None, controls=True)) == expected


def test_noise_that_is_configured_is_not_added_again_as_a_control() -> None:
    swept = lay_out({"grain": UniformNoise(), "fgsm": FGSM()}, [0.01, 0.02], controls=True)
    assert [name for name, _ in swept] == ["grain", "grain", "fgsm", "fgsm"]

    single = lay_out({"grain": UniformNoise(epsilon=0.01), "fgsm": FGSM(epsilon=0.02)}, None, controls=True)
    assert radii(single) == [("noise", 0.02), ("grain", 0.01), ("fgsm", 0.02)]


def test_a_repeated_radius_is_run_once() -> None:
    assert len(lay_out({"fgsm": FGSM()}, [0.01, 0.01], controls=False)) == 1


def test_the_log_domain_has_no_uniform_noise_of_its_radius() -> None:
    assert [name for name, _ in lay_out({"log": LogDomain(epsilon=0.3)}, None, controls=True)] == ["log"]


def test_controls_are_left_out_on_request() -> None:
    assert [name for name, _ in lay_out({"fgsm": FGSM()}, None, controls=False)] == ["fgsm"]


def test_an_attack_without_a_bound_stays_so_in_a_sweep_and_is_to_fool_everything() -> None:
    attacks: dict[str, Attack] = {"fab": FAB(), "bounded": FAB(epsilon=0.1), "deepfool": DeepFool(), "sbf": AdvSBF()}
    laid_out = lay_out(attacks, [0.1, 0.2], controls=False)
    assert radii(laid_out) == [("fab", None), ("bounded", 0.1), ("bounded", 0.2), ("deepfool", None), ("sbf", None)]
    entries = [PlannedAttack(name=name, attack=attack, key="").entry() for name, attack in laid_out]
    assert [entry["minimal"] for entry in entries] == [True, False, False, True, False]
    assert [entry["norm"] for entry in entries] == ["linf", "linf", "linf", "l2", "none"]
    assert [entry["epsilon"] for entry in entries] == [None, 0.1, 0.2, None, None]


def test_what_is_pending_is_what_is_not_done_for_that_key() -> None:
    plan = plan_of("first", "second", done={"first": {"b", "z"}})
    assert plan.pending("first", ["c", "b", "a"]) == [0, 2]
    assert plan.pending("second", ["c", "b", "a"]) == [0, 1, 2]
    assert plan.is_pending()


def test_nothing_is_pending_once_every_attack_has_every_image() -> None:
    assert plan_of("first", "second", done={"first": set("abc"), "second": set("ac")}).is_pending()
    assert not plan_of("first", "second", done={"first": set("abc"), "second": set("abcd")}).is_pending()


def test_a_hash_of_weights_sees_values_and_names_and_nothing_else() -> None:
    state = OrderedDict(weight=torch.tensor([1.0, 2.0]), count=torch.tensor(3))
    usual = weights_hash(state)
    assert len(usual) == 16
    assert usual == weights_hash(
        {name: tensor.clone().requires_grad_(name == "weight") for name, tensor in state.items()}
    )
    assert usual != weights_hash({**state, "weight": torch.tensor([1.0, 2.0000002])})
    assert usual != weights_hash({**state, "count": torch.tensor(4)})
    assert usual != weights_hash({"bias": state["weight"], "count": state["count"]})


def test_a_transposed_view_has_the_hash_of_its_values() -> None:
    square = torch.arange(4.0).view(2, 2)
    assert weights_hash({"weight": square.T}) == weights_hash({"weight": square.T.contiguous()})
    assert weights_hash({"weight": square.T}) != weights_hash({"weight": square})


def test_a_key_depends_on_values_and_not_on_the_order_in_which_they_were_written() -> None:
    assert record_key({"a": 1, "b": [2.0]}) == record_key({"b": [2.0], "a": 1})
    assert len({record_key({"a": 1}), record_key({"a": 2}), record_key({"b": 1}), record_key({"a": 1}, {})}) == 4
    with pytest.raises(ValueError, match="JSON"):
        record_key({"a": math.nan})


def test_an_infinite_parameter_can_be_part_of_a_key() -> None:
    parameters = BIM(objective=Margin(math.inf)).parameters()
    assert parameters["objective"] == {"class": "Margin", "kappa": "inf"}
    assert record_key(parameters) != record_key(BIM(objective=Margin(1.0)).parameters())


def test_radii_of_images_and_of_their_logarithms_are_told_apart() -> None:
    attacks = {"log": LogDomain(epsilon=0.3), "fgsm": FGSM()}
    with pytest.raises(ValueError, match="those of log are in units of the natural logarithm .* give these as log_eps"):
        lay_out(attacks, [0.01], controls=False)
    with pytest.raises(ValueError, match=r"epsilons sweeps radii, and no attack has one of that unit, got df \(l2\)"):
        lay_out({"df": DeepFool()}, [0.01], controls=False)
    with pytest.raises(ValueError, match=r"log_epsilons sweeps radii, .* got fgsm \(linf\): set it to null"):
        lay_out({"fgsm": FGSM()}, None, controls=False, log_epsilons=[0.01])
    both = lay_out(attacks, [0.01], controls=True, log_epsilons=[0.2, 0.4])
    assert radii(both) == [("noise", 0.01), ("log", 0.2), ("log", 0.4), ("fgsm", 0.01)]
    assert radii(lay_out(attacks, None, controls=False, log_epsilons=[0.2])) == [("log", 0.2), ("fgsm", 8 / 255)]
