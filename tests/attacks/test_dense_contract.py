"""Every attack that ``attacks`` exports, on masks and on boxes: it runs, or says in one sentence that it does not."""

import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medrobust import attacks
from medrobust.attacks import DIM, PGD, SMIA, WorstCase
from medrobust.networks.watched_victim import WatchedVictim
from tests.attacks.test_attack_contract import ATTACKS, BRIEF, in_ball
from tests.two_stage import TwoStage, frames

DENSE: dict[Any, dict[str, Any]] = BRIEF | {
    attacks.WorstCase: {"attacks": (attacks.APGD(steps=5), attacks.Square(queries=10))},
    attacks.DIM: {"smallest_side": 0.8},
    attacks.DAG: {"steps": 20, "step_size": 0.01},
}
REFUSING = {attacks.CWL2, attacks.DeepFool, attacks.FAB, attacks.JSMA}  # they look for a boundary between classes
tasks = pytest.mark.parametrize("task", ["masks", "boxes"])
each_attack = pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.__name__)


def case(task: str, segmenter: Any, images_of: Any) -> tuple[Any, torch.Tensor, Any]:
    """A victim that is right about its images, with these and their targets."""
    if task == "boxes":
        return TwoStage(), *frames(4)
    victim, images = segmenter(3), images_of(4, 3)
    masks = victim(images).argmax(1)
    masks[:, 2] = -1
    return victim, images, masks


@tasks
@pytest.mark.parametrize("targeted", [False, True], ids=["truths", "goals"])
@each_attack
def test_each_attack_runs_on_its_tasks(cls: Any, targeted: bool, task: str, segmenter: Any, images_of: Any) -> None:
    victim, images, targets = case(task, segmenter, images_of)
    attack = cls(**DENSE.get(cls, {}), targeted=targeted)
    if targeted:
        targets = (
            torch.zeros_like(targets)
            if task == "masks"
            else [{"boxes": target["boxes"][:0], "labels": target["labels"][:0]} for target in targets]
        )
    if cls in REFUSING:
        with pytest.raises(ValueError, match="one class per image"):
            attack(victim, images, targets)
        return
    ids = list("abcd")
    attacked = attack(victim, images, targets, ids)
    assert attacked.images.shape == images.shape and in_ball(attack, images, attacked.images)
    with torch.no_grad():
        right = victim.outcome(victim(attacked.images), targets).right
    assert torch.equal(attacked.success, right if targeted else ~right)
    turned = attack(victim, images.flip(0), targets.flip(0) if task == "masks" else targets[::-1], ids[::-1])
    torch.testing.assert_close(turned.images, attacked.images.flip(0), atol=1e-5, rtol=0)
    alone = attack(victim, images[1:2], targets[1:2], ids[1:2])
    torch.testing.assert_close(alone.images, attacked.images[1:2], atol=1e-5, rtol=0)
    assert (alone.forwards.tolist(), alone.backwards.tolist()) == (
        attacked.forwards[1:2].tolist(),
        attacked.backwards[1:2].tolist(),
    )
    if isinstance(attack, attacks.SignGradient) and attack.steps > 1:
        assert bool(attacked.measures["cos"].isfinite().all())


@tasks
@each_attack
def test_an_empty_batch_gives_an_empty_result(cls: Any, task: str, segmenter: Any, images_of: Any) -> None:
    if cls in REFUSING:
        return
    victim, images, targets = case(task, segmenter, images_of)
    assert cls(**DENSE.get(cls, {}))(victim, images[:0], targets[:0], []).images.shape == (0, 3, 8, 8)


def test_what_costs_a_pass_is_counted_on_boxes() -> None:
    for attack in (
        PGD(steps=3),
        PGD(steps=3, stop_when_fooled=True),
        attacks.DAG(steps=5),
        SMIA(steps=3),
        DIM(steps=3),
    ):
        victim, (images, targets) = TwoStage(), frames(1)
        attacked = attack(victim, images, targets)
        assert attacked.forwards.tolist() == [victim.calls]


@tasks
def test_a_suite_of_another_task_is_refused_before_any_pass(
    task: str, segmenter: Any, images_of: Any, linear: Any
) -> None:
    victim, images, targets = case(task, segmenter, images_of)
    kind = {"masks": "classes or labels, and the targets are masks: set attacks to 'masks'"}
    message = kind.get(task, "classes or labels, and the targets are boxes: set attacks to 'boxes'")
    with pytest.raises(ValueError, match=f"the suite 'standard' is for {message}"):
        WorstCase()(victim, images, targets)
    with pytest.raises(ValueError, match="the suite 'boxes' is for boxes, and the targets are classes or labels"):
        WorstCase(attacks="boxes", keep="lowest_quality")(linear(), images_of(2), torch.tensor([0, 1]))


def test_what_a_victim_says_of_its_stages_is_watched() -> None:
    class Broken(TwoStage):
        def proposal_logits(self, images: Any, proposals: Any) -> Any:
            return [logits * torch.nan for logits in super().proposal_logits(images, proposals)]

        def loss_parts(self, images: Any, targets: Any) -> Any:
            images.mul_(0.5)  # a copy
            return {name: part * torch.nan for name, part in super().loss_parts(images, targets).items()}

    images, targets = frames(2)
    kept = images.clone()
    watch = WatchedVictim(Broken(), images, targets)
    watch.loss_parts(images, targets)
    assert torch.equal(images, kept) and watch.passes == 1
    assert bool(watch.finite_outputs) and not bool(watch.finite_losses)
    proposals = watch.proposals(images, 0.5)
    watch.proposal_logits(images, proposals)
    assert watch.passes == 3 and not bool(watch.finite_outputs)
    assert not hasattr(WatchedVictim(torch.nn.Identity(), images, targets), "proposals")
    victim: Any = Broken()
    victim.loss = lambda images, targets: TwoStage.loss_parts(victim, images, targets)["classes"]
    with pytest.raises(ValueError, match="outputs are not finite at a step of SMIA"):
        SMIA(steps=2)(victim, images, targets)


def test_budgets_and_steps_of_the_studies_are_equal() -> None:
    """Every attack of a study of SMIA21 moves within one ball, and by as much in total, except DAG at its own step."""
    files = sorted((Path(__file__).parents[2] / "configs" / "studies").glob("smia21_table*.yaml"))
    assert len(files) == 12
    for file in files:
        configured = yaml.safe_load(file.read_text())["attack"]["attacks"]
        made = {name: getattr(attacks, one["class_path"])(**one["init_args"]) for name, one in configured.items()}
        made.pop("deepfool", None)  # has no budget
        assert len({float(one.epsilon) for one in made.values()}) == 1, file.name
        for name, one in made.items():
            if name != "dag-150":
                assert one.step_length() * one.steps >= float(one.epsilon) - 1e-9, (file.name, name)


class Holding:
    """A victim that counts, at each pass, how many of the images that it was ever given are still alive."""

    def __init__(self, victim: Any) -> None:
        self.victim, self.given, self.alive = victim, [], []  # type: ignore[var-annotated]

    def __call__(self, images: torch.Tensor) -> Any:
        return self.noted(self.victim, images)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.victim, name)
        return value if name == "outcome" else partial(self.noted, value)

    def noted(self, method: Any, images: torch.Tensor, *arguments: Any) -> Any:
        self.given.append(weakref.ref(images))
        self.alive.append(len({id(one()) for one in self.given if one() is not None}))
        return method(images, *arguments)


@pytest.mark.parametrize("attack", [PGD(steps=8), SMIA(steps=8), attacks.APGD(steps=8), attacks.DAG(steps=8)], ids=repr)
@tasks
def test_no_step_keeps_what_earlier_ones_have_seen(attack: Any, task: str, segmenter: Any, images_of: Any) -> None:
    victim, images, targets = case(task, segmenter, images_of)
    holding: Any = Holding(victim)
    replace(attack, epsilon=1e-6).perturb(holding, images, targets, list("abcd"))  # so that no image leaves
    half = len(holding.alive) // 2
    assert half >= 4 and max(holding.alive[half:]) <= max(holding.alive[:half]) <= 6
