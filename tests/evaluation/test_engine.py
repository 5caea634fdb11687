"""The engine in a plain loop: everything once, hooks in their order, resumable, and no trace left in the victim."""

import logging
import math
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import BIM, DIM, FGSM, MIM, PGD, CWLinf, UniformNoise
from medrobust.evaluation import (
    AdversarialBatch,
    Crafter,
    Evaluation,
    EvaluationContext,
    EvaluationData,
    EvaluationListener,
    EvaluationPlan,
)
from medrobust.listeners import RecordJournal
from medrobust.networks import is_evaluated_victim
from medrobust.results.records import read_journal
from tests.in_memory import random_data
from tests.recording import JUDGED, Recorder, evaluate, evaluation_of
from tests.tiny_networks import SIDE, LinearNet, linear_victim

ROOT = Path(__file__).resolve().parents[2]
COUNT = 23


def same(first: dict[Any, dict[str, Any]], second: dict[Any, dict[str, Any]]) -> bool:
    """Whether two evaluations have the same images, judgements and counts, and norms within rounding."""
    if first.keys() != second.keys():
        return False
    return all(
        all(one[field] == other[field] for field in (*JUDGED, "key"))
        and math.isclose(one["linf"], other["linf"], abs_tol=1e-6)
        and math.isclose(one["l2"], other["l2"], abs_tol=1e-5)
        for one, other in ((first[place], second[place]) for place in first)
    )


def test_fgsm_reaches_the_optimum_of_a_linear_victim() -> None:
    data, victim = random_data(), linear_victim()
    weight = (victim.network.weight[1] - victim.network.weight[0]).detach().view(1, SIDE, SIDE)
    rows = evaluate(victim, data, {"fgsm": FGSM(epsilon=0.01)}).rows()

    assert len(rows) == COUNT
    seen = set()
    for image, target, id in zip(data.images["adv_test"], data.targets("adv_test"), data.ids("adv_test"), strict=True):
        away = -weight.sign() if target == 1 else weight.sign()
        expected = (image + 0.01 * away).clamp(0, 1)
        row = rows["fgsm", 0.01, id]
        torch.testing.assert_close(row["adversarial"], expected)
        right_before, right_after = (
            (float((weight * (picture - 0.5) / 0.25).sum()) > 0) == (target == 1) for picture in (image, expected)
        )
        verdicts = (row["before.right"], row["after.right"], row["reached"], row["success"])
        assert verdicts == (right_before, right_after, not right_after, right_before and not right_after)
        seen.add(verdicts)
    assert len(seen) == 3  # fooled, wrong from the start, and robust: all that can be on a linear victim


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_every_image_is_attacked_once_by_every_attack_at_every_radius(batch_size: int) -> None:
    attacks = {"fgsm": FGSM(), "pgd": PGD(steps=2, stop_when_fooled=True)}
    data = random_data(batch_size=batch_size)
    recorder = evaluate(linear_victim(), data, attacks, epsilons=[0.01, 0.02], controls=True)

    counts = Counter((b.planned.name, b.planned.epsilon, id) for b in recorder.batches for id in b.ids)
    expected = {
        (name, radius, id)
        for name in ("noise", "fgsm", "pgd")
        for radius in (0.01, 0.02)
        for id in data.ids("adv_test")
    }
    assert counts.keys() == expected and set(counts.values()) == {1}


def test_the_plan_names_attacks_images_victim_and_data() -> None:
    data, attacks = random_data(), {"fgsm": FGSM(), "bim": BIM(steps=2, stop_when_fooled=True)}
    recorder = evaluate(linear_victim(), data, attacks, epsilons=[0.02, 0.01], controls=True)
    (plan,) = recorder.plans

    laid_out = [(planned.name, planned.epsilon, planned.control) for planned in plan.attacks]
    assert laid_out == [
        ("noise", 0.01, True),
        ("noise", 0.02, True),
        ("fgsm", 0.02, False),
        ("fgsm", 0.01, False),
        ("bim", 0.02, False),
        ("bim", 0.01, False),
    ]
    assert len({planned.key for planned in plan.attacks}) == 6
    assert [planned.attack.epsilon for planned in plan.attacks] == [radius for _, radius, _ in laid_out]
    assert plan.images == list(zip(data.ids("adv_test"), map(str, data.targets("adv_test").tolist()), strict=True))
    assert plan.patients == {id: id for id in data.ids("adv_test")}
    assert (plan.split, plan.data["name"]) == ("adv_test", "items")
    assert plan.data["fingerprint"] == data.fingerprint("adv_test")
    assert plan.victim["class"] == "WrappedClassifier" and len(plan.victim["weights"]) == 16


def test_all_listeners_hear_the_same_batches_with_fields_that_agree() -> None:
    first, data, victim = Recorder(), random_data(classes=3), linear_victim(3)
    attacks = {"pgd": PGD(epsilon=0.05, steps=3), "aimed": MIM(epsilon=0.05, steps=3, targeted=True)}
    last = evaluate(victim, data, attacks, first, controls=True)

    assert [id(batch) for batch in first.batches] == [id(batch) for batch in last.batches]
    assert len(first.batches) == 3 * math.ceil(COUNT / data.batch_size)
    places = {id: place for place, id in enumerate(data.ids("adv_test"))}
    victim.eval()
    for batch in first.batches:
        rows = [places[id] for id in batch.ids]
        assert torch.equal(batch.clean, data.images["adv_test"][rows])
        assert torch.equal(batch.targets, data.targets("adv_test")[rows])
        assert batch.plan is first.plans[0] and batch.planned in batch.plan.attacks
        with torch.no_grad():
            torch.testing.assert_close(batch.clean_outputs, victim(batch.clean))
            torch.testing.assert_close(batch.adversarial_outputs, victim(batch.adversarial))
        for outcome, outputs in ((batch.before, batch.clean_outputs), (batch.after, batch.adversarial_outputs)):
            assert torch.equal(outcome.prediction, outputs.argmax(1))
            assert torch.equal(outcome.right, outputs.argmax(1) == batch.targets)
        named = batch.after.prediction == batch.goals if batch.goals is not None else ~batch.after.right
        assert torch.equal(batch.reached, named)
        steps = {"pgd": 3, "aimed": 3, "noise": 0}[batch.planned.name]
        assert batch.backwards.tolist() == [steps] * len(rows)
        assert batch.adversarial.min() >= 0 and batch.adversarial.max() <= 1
        assert (batch.adversarial - batch.clean).abs().max() <= batch.planned.epsilon + 1e-6
        tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
        assert len(tensors) > 8 and not any(tensor.is_inference() or tensor.requires_grad for tensor in tensors)


def test_goals_are_aimed_at_by_targeted_attacks_alone() -> None:
    data, victim = random_data(classes=3), linear_victim(3)
    logits = ((data.images["adv_test"] - 0.5) / 0.25).flatten(1) @ victim.network.weight.detach().T
    targets = data.targets("adv_test").tolist()
    least = [min((k for k in range(3) if k != t), key=lambda k: row[k]) for row, t in zip(logits, targets, strict=True)]
    expected = {"next": [(target + 1) % 3 for target in targets], "least_likely": least}
    assert expected["next"] != least  # else one kind would pass for the other

    for goals, wanted in expected.items():
        attacks = {"aimed": FGSM(epsilon=0.1, targeted=True), "free": FGSM(epsilon=0.1)}
        recorder = evaluate(victim, data, attacks, goals=goals)
        assert recorder.of("aimed", "goals").tolist() == wanted
        assert all(batch.goals is None for batch in recorder.batches if batch.planned.name == "free")
        named = recorder.of("aimed", "adversarial_outputs").argmax(1)
        assert recorder.of("aimed", "reached").tolist() == (named == torch.tensor(wanted)).tolist()
        assert 0 < int(recorder.of("aimed", "reached").sum())


def test_an_attack_more_changes_no_record_of_the_first() -> None:
    attack = PGD(epsilon=0.03, steps=3)
    alone = evaluate(linear_victim(), random_data(), {"pgd": attack}, controls=True)
    others = {"dim": DIM(epsilon=0.03, steps=2), "pgd": attack, "cw": CWLinf(epsilon=0.03, steps=2)}
    together = evaluate(linear_victim(), random_data(), others, controls=True)

    for name in ("pgd", "noise"):
        one, other = alone.rows(name), together.rows(name)
        assert one and same(one, other)
        assert all(torch.equal(one[place]["adversarial"], other[place]["adversarial"]) for place in one)


def test_the_batch_size_changes_no_judgement_and_no_norm() -> None:
    attacks = {"pgd": PGD(epsilon=0.03, steps=3), "dim": DIM(epsilon=0.03, steps=3, stop_when_fooled=True)}
    reference = evaluate(linear_victim(), random_data(batch_size=7), attacks).rows()

    assert 0 < sum(row["success"] for row in reference.values()) < len(reference)
    for batch_size in (1, 64):
        assert same(reference, evaluate(linear_victim(), random_data(batch_size=batch_size), attacks).rows())


class Says(EvaluationListener):
    """Names what its columns depend on."""

    def __init__(self, **identity: Any) -> None:
        self.identity = identity

    def on_evaluation_identity(self, *_: Any) -> dict[str, Any]:
        return self.identity


def keys_of(victim: Any = None, data: Any = None, attacks: Any = None, *listeners: Any, **options: Any) -> set[str]:
    """Keys of an evaluation that was started."""
    attacks = attacks or {"fgsm": FGSM(), "aimed": FGSM(targeted=True)}
    evaluation = evaluation_of(victim or linear_victim(), data or random_data(3), attacks, listeners, **options)
    evaluation.start()
    return {planned.key for planned in evaluation.plan.attacks}


def changed_victim(what: str) -> Any:
    """A victim that differs in one respect."""
    victim = linear_victim()
    if what == "weight":
        with torch.no_grad():
            victim.network.weight[0, 0] += 1e-6
    elif what == "buffer":
        victim.network.register_buffer("running", torch.ones(1))
    else:
        vars(victim)["_buffers"][what].mul_(1.01)
    return victim


@pytest.mark.parametrize("what", ["weight", "buffer", "mean", "std"])
def test_a_changed_victim_changes_every_key(what: str) -> None:
    assert not keys_of() & keys_of(changed_victim(what))


@pytest.mark.parametrize(
    "options",
    [
        {"data": random_data(3, origin="changed")},
        {"data": random_data(2)},
        {"split": "val"},
        {"attacks": {"fgsm": FGSM(seed=1), "aimed": FGSM(targeted=True, seed=1)}},
        {"attacks": {"renamed": FGSM(), "also": FGSM(targeted=True)}},
        {"epsilons": [0.05]},
    ],
    ids=["origin", "images", "split", "seed", "name", "radius"],
)
def test_whatever_else_decides_a_record_changes_every_key(options: dict[str, Any]) -> None:
    assert len(keys_of()) == 2
    assert not keys_of() & keys_of(**options)


def test_what_a_listener_names_changes_every_key_and_what_it_does_not_name_none() -> None:
    usual = keys_of()
    assert keys_of(None, None, None, Says(), Recorder()) == usual
    assert not usual & keys_of(None, None, None, Says(judges={"other": "0123"}))


def test_goals_change_the_keys_of_targeted_attacks_and_the_folded_copy_none() -> None:
    usual = keys_of()
    assert len(usual & keys_of(goals="random")) == 1
    assert keys_of(deployment=False) == usual
    assert keys_of(data=random_data(3, batch_size=1)) == usual


class Done(EvaluationListener):
    """Says which images are done, by an attack's name."""

    def __init__(self, **ids: set[str]) -> None:
        self.ids = ids

    def on_evaluation_plan(self, context: Any, victim: Any, plan: EvaluationPlan) -> None:
        for planned in plan.attacks:
            plan.done[planned.key] = self.ids[planned.name]


def test_images_that_a_listener_calls_done_are_not_attacked(
    crafted: list[tuple[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    data = random_data()
    everything = set(data.ids("adv_test"))
    done = Done(fgsm=everything - {"image-3", "image-20"}, bim=everything)
    with caplog.at_level(logging.INFO):
        recorder = evaluate(linear_victim(), data, {"fgsm": FGSM(), "bim": BIM(steps=2)}, done)

    assert sorted(id for _, _, id in recorder.rows()) == ["image-20", "image-3"]
    assert crafted == [("FGSM", 1), ("FGSM", 1)]
    assert caplog.messages == ["44 of 46 records are there already and are kept"]
    whole = evaluate(linear_victim(), data, {"fgsm": FGSM()}).rows()
    assert same(recorder.rows(), {place: whole[place] for place in recorder.rows()})


def test_a_batch_of_which_all_is_done_costs_no_forward() -> None:
    data, victim, seen = random_data(), linear_victim(), []
    victim.network.register_forward_hook(lambda *_: seen.append(1))
    evaluate(victim, data, {"fgsm": FGSM()}, Done(fgsm=set(data.ids("adv_test"))))
    assert not seen


class Notes(EvaluationListener):
    """Notes every hook beside its own name in a list that it shares."""

    def __init__(self, name: str, heard: list[tuple[str, str]]) -> None:
        self.name, self.heard = name, heard

    def on_evaluation_identity(self, *_: Any) -> dict[str, Any]:
        self.heard.append(("identity", self.name))
        return {}

    def on_evaluation_plan(self, *_: Any) -> None:
        self.heard.append(("plan", self.name))

    def on_evaluation_start(self, *_: Any) -> None:
        self.heard.append(("start", self.name))

    def on_attack_start(self, context: Any, planned: Any, plan: Any) -> None:
        self.heard.append((f"attack {planned.name}", self.name))

    def on_adversarial_batch(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
        self.heard.append((f"batch {batch.planned.name} {len(batch)}", self.name))

    def on_adversarial_batch_end(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
        self.heard.append((f"batch end {batch.planned.name}", self.name))

    def on_evaluation_end(self, *_: Any) -> None:
        self.heard.append(("end", self.name))


def test_the_hooks_come_in_their_order_to_every_listener_in_turn() -> None:
    heard: list[tuple[str, str]] = []
    attacks = {"fgsm": FGSM(), "bim": BIM(steps=1)}
    evaluate(linear_victim(), random_data(5, batch_size=3), attacks, Notes("one", heard), Notes("two", heard))

    hooks = ["identity", "plan", "start"]
    for size in (3, 2):
        for name in attacks:
            hooks += [f"attack {name}", f"batch {name} {size}", f"batch end {name}"]
    assert heard == [(hook, name) for hook in [*hooks, "end"] for name in ("one", "two")]


def test_a_listener_need_not_override_any_hook() -> None:
    assert evaluate(linear_victim(), random_data(2), {"fgsm": FGSM()}, EvaluationListener()).counts() == {"fgsm": 2}


def test_columns_of_all_listeners_are_there_when_a_batch_ends() -> None:
    class Reads(EvaluationListener):
        def __init__(self) -> None:
            self.during: list[set[str]] = []
            self.at_the_end: list[set[str]] = []

        def on_adversarial_batch(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
            self.during.append(set(batch.columns))

        def on_adversarial_batch_end(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
            self.at_the_end.append(set(batch.columns))

    class Adds(EvaluationListener):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_adversarial_batch(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
            batch.columns[self.name] = torch.arange(len(batch))

    reads = Reads()
    evaluate(linear_victim(), random_data(3), {"fgsm": FGSM()}, Adds("a"), reads, Adds("b"))
    assert reads.during == [{"a"}]
    assert reads.at_the_end == [{"a", "b"}]


def test_columns_and_measures_reach_the_records_and_nan_is_empty(tmp_path: Path) -> None:
    class Adds(EvaluationListener):
        def on_adversarial_batch(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
            batch.columns["kind"] = torch.full((len(batch.ids),), float("nan"))
            batch.columns["place"] = torch.arange(len(batch.ids)).double()

    attacks, data = {"bim": BIM(epsilon=0.05, steps=3)}, random_data(6, batch_size=4)
    evaluate(linear_victim(), data, attacks, RecordJournal(str(tmp_path), "run"), Adds(), controls=True)
    records = read_journal(tmp_path)
    bim, noise = records.filter(attack="bim"), records.filter(attack="noise")
    assert len(bim) == len(noise) == 6
    assert records["kind"].null_count() == 12
    assert sorted(bim["place"].to_list()) == [0, 0, 1, 1, 2, 3]
    assert bim["cos"].null_count() == 0 and noise["cos"].null_count() == 6
    assert all(0 < var <= 1 for var in bim["var"])
    # of 64 uniform numbers in [-1, 1], those cut off at black and white included: about 1/3
    assert noise["var"].to_list() == pytest.approx([1 / 3] * 6, abs=0.15)


class Breaks(LinearNet):
    """Divides by zero for the images whose first pixel has one of these values."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self.values = values

    def forward(self, images: Tensor) -> Tensor:
        pixel = 0.5 + 0.25 * images[:, :, 0, 0]
        bad = sum(((pixel - value).abs() < 1e-6).float() for value in self.values)
        return super().forward(images) / (1 - bad)


@pytest.mark.parametrize(("when", "values"), [("clean", [0.25]), ("under fgsm", [0.27, 0.23])])
def test_outputs_that_are_not_finite_give_one_sentence_naming_the_image(when: str, values: list[float]) -> None:
    data, victim = random_data(), linear_victim()
    data.images["adv_test"][10, :, 0, 0], victim.network = 0.25, Breaks(values)
    with pytest.raises(ValueError, match=rf"outputs \({when}\) are not finite for 1 of 7 images.*image-10") as error:
        evaluate(victim, data, {"fgsm": FGSM(epsilon=0.02)})
    assert "\n" not in str(error.value)


class Restless(LinearNet):
    """Counts its forwards in a buffer, also in eval mode, and fails at one of them if asked to."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.fails_at, self.calls = fails_at, 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("the victim fell over")
        self.count += 1
        return super().forward(images)


def state_of(victim: nn.Module) -> tuple[Any, ...]:
    """Modes, flags, gradients and values of a victim."""
    return (
        [module.training for module in victim.modules()],
        [(parameter.requires_grad, id(parameter.grad)) for parameter in victim.parameters()],
        {name: tensor.tolist() for name, tensor in victim.state_dict().items()},
    )


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3, 4])
def test_modes_gradients_and_buffers_of_the_victim_are_left_alone_also_after_an_exception(fails_at: int | None) -> None:
    victim = linear_victim()
    victim.network = Restless(fails_at)
    victim.network.dropout.eval()  # somebody wants it off in training
    victim.network.weight.grad = torch.ones_like(victim.network.weight)
    before = state_of(victim)
    seen = []

    class Looks(EvaluationListener):
        def on_adversarial_batch(self, *_: Any) -> None:
            seen.append(state_of(victim) == before)

    attacks = {"pgd": PGD(steps=2)}
    if fails_at is None:
        evaluate(victim, random_data(), attacks, Looks(), deployment=False)
        assert seen == [True] * 4
    else:
        with pytest.raises(RuntimeError, match="fell over"):
            evaluate(victim, random_data(), attacks, Looks(), deployment=False)
        assert not seen
    assert state_of(victim) == before
    assert victim.training and victim.network.calls >= (fails_at or 4)


def test_batches_made_in_inference_mode_are_attacked_like_others() -> None:
    attacks = {"pgd": PGD(epsilon=0.03, steps=3), "aimed": MIM(steps=2, targeted=True)}
    usual, victim = evaluate(linear_victim(), random_data(), attacks), linear_victim()
    with torch.inference_mode():
        data = random_data()
        assert data.images["adv_test"].is_inference()
        inferred = evaluate(victim, data, attacks)
    assert same(usual.rows(), inferred.rows())
    for batch in inferred.batches:
        assert not any(value.is_inference() for value in (batch.clean, batch.adversarial, batch.targets))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_callers_gradient_mode_changes_nothing(mode: Any) -> None:
    usual = evaluate(linear_victim(), random_data(), {"pgd": PGD(steps=2)})
    with mode():
        other = evaluate(linear_victim(), random_data(), {"pgd": PGD(steps=2)})
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert same(usual.rows(), other.rows())
    assert not any(batch.adversarial.requires_grad for batch in other.batches)


class OneOfTwo(EvaluationContext):
    """One of two threads that exchange their values as two processes would."""

    def __init__(self, rank: int, meeting: threading.Barrier, values: list[Any]) -> None:
        super().__init__()
        self.rank, self.ranks, self.meeting, self.values = rank, 2, meeting, values

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.meeting.wait(timeout=30)
        gathered = list(self.values)
        self.meeting.wait(timeout=30)
        return gathered

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]


class Agrees(EvaluationListener):
    """Names what the first process has chosen."""

    def on_evaluation_identity(self, context: EvaluationContext, *_: Any) -> dict[str, Any]:
        return {"chosen": context.broadcast(f"by process {context.rank}")}


def test_two_processes_have_the_same_plan_and_attack_each_image_once_between_them() -> None:
    data, attacks = random_data(), {"fgsm": FGSM(), "pgd": PGD(steps=2)}
    meeting, values = threading.Barrier(2), [None, None]
    recorders = [Recorder(), Recorder()]
    evaluations = [
        evaluation_of(
            linear_victim(), data, attacks, [Agrees(), recorder], context=OneOfTwo(rank, meeting, values), controls=True
        )
        for rank, recorder in enumerate(recorders)
    ]
    threads = [threading.Thread(target=evaluation.start, daemon=True) for evaluation in evaluations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    plans = [evaluation.plan for evaluation in evaluations]
    assert plans[0] == plans[1]
    assert plans[0].listeners == {"chosen": "by process 0"}

    for number, batch in enumerate(data.dataloader_of("adv_test")):
        evaluations[number % 2].attack(batch)
    for evaluation in evaluations:
        evaluation.end()
    alone = evaluate(linear_victim(), data, attacks, Says(chosen="by process 0"), controls=True)
    shares = [recorder.rows() for recorder in recorders]
    assert all(shares) and not shares[0].keys() & shares[1].keys()
    assert same(alone.rows(), shares[0] | shares[1])


def test_an_evaluation_without_an_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="no attack is configured"):
        evaluation_of(linear_victim(), random_data(), {})


def test_before_the_start_there_is_no_plan() -> None:
    evaluation = evaluation_of(linear_victim(), random_data(), {"fgsm": FGSM()})
    with pytest.raises(ValueError, match="call start first"):
        evaluation.attack({"image": torch.zeros(1, 1, 8, 8), "target": torch.zeros(1), "id": ["a"]})


def test_the_crafter_is_optional_and_the_checkpoint_is_named_in_the_plan() -> None:
    data = random_data(2)
    evaluation = Evaluation(
        EvaluationContext(), linear_victim(), data, "val", [("grain", UniformNoise())], checkpoint="best.ckpt"
    )
    evaluation.start()
    assert isinstance(evaluation.crafter, Crafter)
    assert evaluation.plan.checkpoint == "best.ckpt"
    assert not evaluation.plan.attacks[0].control


def test_a_seed_of_an_attack_decides_its_draws() -> None:
    found = {}
    for seed in (0, 1):
        attacks = {"grain": replace(UniformNoise(epsilon=0.05), seed=seed)}
        found[seed] = evaluate(linear_victim(), random_data(4), attacks).of("grain", "adversarial")
    assert not torch.equal(found[0], found[1])


WITHOUT_LIGHTNING = """
import sys
from pathlib import Path

from torch import manual_seed, nn

from medrobust.attacks import FGSM, PGD
from medrobust.evaluation import Crafter, Evaluation, EvaluationContext, lay_out
from medrobust.listeners import Panels, Quality, RecordJournal
from medrobust.networks import as_victim
from medrobust.results.report.page import finish
from tests.in_memory import random_data

folder = Path(sys.argv[1])
manual_seed(0)
data = random_data(9, batch_size=4)
attacks = lay_out({"fgsm": FGSM(), "pgd": PGD(steps=2)}, [0.02, 0.05], controls=True)
listeners = [RecordJournal(str(folder), "loop"), Panels(str(folder), 2), Quality(download=False)]
victim = as_victim(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), mean=0.5, std=0.25)
evaluation = Evaluation(
    EvaluationContext(), victim, data, "adv_test", attacks, Crafter(), listeners, control="noise"
)
evaluation.start()
for batch in data.dataloader_of("adv_test"):
    evaluation.attack(batch)
evaluation.end()
summary = finish(folder)
assert len(summary["rows"]) == 7, summary["rows"]
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"pytorch_lightning", "lightning", "lightning_fabric"}, loaded
"""


@pytest.mark.processes
def test_records_summary_and_report_of_a_plain_loop_need_no_lightning(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", WITHOUT_LIGHTNING, str(tmp_path / "evaluate")]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-3000:]
    records = read_journal(tmp_path / "evaluate")
    assert len(records) == 9 * 6 and records.select("key", "id").is_unique().all()
    made = {path.relative_to(tmp_path / "evaluate").as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"manifest.json", "records.parquet", "summary.json"} <= made
    assert any(name.endswith("report.html") for name in made), sorted(made)
    assert sum(name.endswith("adversarial.png") for name in made) == 2 * 2 * 6  # twice the images shown


def test_the_data_of_these_tests_are_what_an_evaluation_asks_for() -> None:
    assert isinstance(random_data(), EvaluationData) and not isinstance(linear_victim(), EvaluationData)
    assert is_evaluated_victim(linear_victim()) and not is_evaluated_victim(random_data())
