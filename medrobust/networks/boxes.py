"""Faster R-CNN of torchvision's parts on the features of any timm backbone, with losses that chance has no part in."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, clip_boxes_to_image, nms
from torchvision.ops.poolers import LevelMapper

from medrobust.networks.booster import MultiScaleBooster
from medrobust.networks.box_losses import Truths, expected_distance, expected_loss, padded
from medrobust.networks.classifiers import build_classifier

STRIDES = (4, 8, 16, 32)  # of the backbone's maps that the pyramid is built on
RATIOS = (0.5, 1.0, 2.0)  # height of an anchor for its width
ANCHORS_SAMPLED, ANCHORS_SHARE = 64, 0.5  # size of the samples whose expected loss is taken, and positives in them
PROPOSALS_SAMPLED, PROPOSALS_SHARE = 128, 0.25
PARTS = ("objectness", "proposals", "classes", "boxes")  # of the loss, by stage
ASKED = 1000  # most proposals of an image where they are asked for by ``overlap``
SMALLEST = 1e-2  # side in pixels below which a box is dropped


class Scene(NamedTuple):
    """What the first stage makes of N images.

    Args:
        levels: Maps of the pyramid, ``(N, C, H / s, W / s)`` for each stride s, by name.
        objectness: Logit of each anchor, ``(N, A)``.
        deltas: Code of its box, ``(N, A, 4)``.
        anchors: Corners of the anchors, the same in all images, ``(A, 4)``.
        counts: Number of anchors of each level.
        size: Height and width of the images, before any padding.
    """

    levels: dict[str, Tensor]
    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: list[int]
    size: tuple[int, int]


class FasterRCNN(nn.Module):
    """Two-stage detector (Ren et al. 2015) on a feature pyramid (Lin et al. 2017), for images of one size.

    Images are not resized; below and to the right they are padded to multiples of 32 pixels. Anchors have three shapes
    (heights of 0.5, 1 and 2 widths) and one size for each level: ``anchor`` pixels at stride 4, twice that at each
    further one. torchvision's are 32 to 512 pixels, for images whose short side is 800. Boxes are dropped if their IoU
    with a more certain one is above 0.7 (proposals) or, within a class, above 0.5 (detections).

    ``loss parts`` of an image are those of Faster R-CNN, but not of a random sample of anchors and proposals: they are
    the expected values over such samples (``box_losses.sample_weights``), 64 anchors of which at most half are
    positive, and 128 proposals of which at most a quarter are. Proposals are those that the network makes of
    the image, without a gradient, and the true boxes. So the losses of an image depend on that image alone.

    Args:
        backbone: Features of a timm network, whose maps of the strides 4, 8, 16 and 32 are used.
        num_classes: Number of classes K, without the background.
        width: Channels of the pyramid; the second stage has four times as many hidden units.
        anchor: Side of the smallest anchors, in pixels.
        proposals: Most proposals of an image.
        booster: Put a ``MultiScaleBooster`` behind each of the pyramid's four levels.
    """

    # arguments with which ``forward`` gives differentiable tensors whose shapes do not depend on what is found
    fixed_outputs: Mapping[str, Any] = {"raw": True}

    def __init__(
        self, backbone: nn.Module, num_classes: int, width: int, anchor: float, proposals: int, booster: bool
    ) -> None:
        super().__init__()
        info: Any = backbone.feature_info
        self.used = [info.reduction().index(stride) for stride in STRIDES]
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork([info.channels()[place] for place in self.used], width)
        self.proposals = proposals
        sizes = tuple((anchor * 2**level,) for level in range(len(STRIDES) + 1))
        anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        count = {"training": proposals, "testing": proposals}
        head = RPNHead(width, len(RATIOS))
        self.rpn = RegionProposalNetwork(
            anchors, head, 0.7, 0.3, ANCHORS_SAMPLED, ANCHORS_SHARE, count, count, nms_thresh=0.7
        )
        pool = MultiScaleRoIAlign([str(level) for level in range(len(STRIDES))], output_size=7, sampling_ratio=2)
        # set here, since torchvision guesses them from the first batch; a box of 7 anchors' size belongs to stride 16
        pool.scales = [1 / stride for stride in STRIDES]
        pool.map_levels = LevelMapper(2, 5, canonical_scale=round(7 * anchor), canonical_level=4)
        self.heads = RoIHeads(
            *(pool, TwoMLPHead(49 * width, 4 * width), FastRCNNPredictor(4 * width, num_classes + 1)),
            *(0.5, 0.5, PROPOSALS_SAMPLED, PROPOSALS_SHARE, None),
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )
        # the last, so that the weights of all other parts do not depend on it
        self.boosters = nn.ModuleList([MultiScaleBooster(width) for _ in STRIDES]) if booster else None

    def forward(
        self,
        images: Tensor,
        targets: Truths | None = None,
        overlap: float | None = None,
        proposals: Sequence[Tensor] | None = None,
        measured: bool = False,
        raw: bool = False,
    ) -> Any:
        """Detections for images, or what else is asked for; the backbone runs once.

        Args:
            images: Normalised images ``(N, C, H, W)``.
            targets: Their true boxes, to get the parts of their losses, ``(N,)`` by name.
            overlap: IoU above which the less likely of two proposals is dropped, to get the proposals ``(P, 4)``.
            proposals: Boxes ``(P, 4)`` of each image, to get their logits ``(P, K + 1)``, background last.
            measured: With targets: detections and the parts of the losses.
            raw: Give objectness, codes of boxes and logits of all anchors and of some fixed boxes.

        Returns:
            Without further arguments, a list of N dicts: ``boxes`` (D, 4), ``scores`` (D,) and ``labels`` (D,), counted
            from 0, the most certain first. Scores are at least 0.05, and there are at most 100. Where the network
            computes something that is not finite, the only score is NaN.
        """
        if not len(images):
            return self._of_none(images, targets is not None, measured)
        scene = self.scene(images)
        if raw:
            height, width = scene.size
            whole = torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 1], [0.25, 0.25, 0.75, 0.5]]).to(images)
            boxes = whole * whole.new_tensor([width, height, width, height])
            return (scene.objectness, scene.deltas, *self._classified(scene, [boxes] * len(images)))
        if overlap is not None:
            return self._likeliest(scene, overlap, ASKED)
        if proposals is not None:
            logits, _ = self._classified(scene, [boxes.detach().to(images) for boxes in proposals])
            logits = logits.roll(-1, 1)  # torchvision's background is class 0
            return list(logits.split([len(boxes) for boxes in proposals]))
        kept = self._likeliest(scene, self.rpn.nms_thresh, self.proposals)
        if targets is None:
            return self._detections(scene, kept)
        parts = self._losses(scene, kept, targets)
        return (self._detections(scene, kept), parts) if measured else parts

    def _of_none(self, images: Tensor, losses: bool, measured: bool) -> Any:
        """What is returned of an empty batch; losses keep their way to the images."""
        if not losses:
            return []
        parts = {name: images.flatten(1).sum(1) for name in PARTS}
        return ([], parts) if measured else parts

    def scene(self, images: Tensor) -> Scene:
        """The pyramid of the images and the anchors on it, for images ``(N, C, H, W)``."""
        height, width = images.shape[2:]
        framed = functional.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        maps = self.backbone(framed)
        levels: dict[str, Tensor] = self.pyramid({str(level): maps[place] for level, place in enumerate(self.used)})
        if self.boosters is not None:
            pairs = zip(levels.items(), self.boosters, strict=True)
            levels = {name: booster(level) for (name, level), booster in pairs}
        levels = {name: level.to(images.dtype) for name, level in levels.items()}  # boxes are not for half precision
        levels["pool"] = functional.max_pool2d(levels[str(len(STRIDES) - 1)], 1, stride=2)
        objectness, deltas = self.rpn.head(list(levels.values()))
        counts = [part[0].numel() for part in objectness]
        anchors = self.rpn.anchor_generator(ImageList(framed[:1], [(height, width)]), list(levels.values()))[0]
        flat, codes = concat_box_prediction_layers(objectness, deltas)
        flat, codes = flat.to(images.dtype), codes.to(images.dtype)
        shape = (len(images), -1)
        return Scene(levels, flat.reshape(shape), codes.reshape(*shape, 4), anchors, counts, (height, width))

    @torch.no_grad()
    def _likeliest(self, scene: Scene, overlap: float, count: int) -> list[Tensor]:
        """Corners of each image's likeliest proposals, ``(P, 4)``, of which no two overlap more than allowed."""
        places, start = [], 0
        for size in scene.counts:  # twice as many candidates of each level as there may be proposals
            part = scene.objectness[:, start : start + size]
            places.append(part.topk(min(size, 2 * count), dim=1).indices + start)
            start += size
        chosen = torch.cat(places, 1)
        scores = scene.objectness.gather(1, chosen)
        codes = scene.deltas.gather(1, chosen.unsqueeze(2).expand(-1, -1, 4))
        anchors = scene.anchors[chosen]
        boxes = self.rpn.box_coder.decode_single(codes.flatten(0, 1), anchors.flatten(0, 1)).view_as(anchors)
        boxes = clip_boxes_to_image(boxes, scene.size)
        found = []
        for corners, score in zip(boxes, scores, strict=True):
            large = ((corners[:, 2:] - corners[:, :2]) >= SMALLEST).all(1)
            corners, score = corners[large], score[large]
            found.append(corners[nms(corners, score, overlap)[:count]])
        return found

    def _classified(self, scene: Scene, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``(T, 1 + K)``, background first, and codes ``(T, 4 (1 + K))`` of all images' boxes in one row."""
        pooled = self.heads.box_roi_pool(scene.levels, list(boxes), [scene.size] * len(boxes))
        logits, codes = self.heads.box_predictor(self.heads.box_head(pooled))
        return logits.to(scene.objectness.dtype), codes.to(scene.objectness.dtype)

    def _detections(self, scene: Scene, proposals: list[Tensor]) -> list[dict[str, Tensor]]:
        logits, codes = self._classified(scene, proposals)
        sizes = [scene.size] * len(proposals)
        found = self.heads.postprocess_detections(logits, codes, proposals, sizes)
        outputs = [
            {"boxes": boxes, "scores": scores, "labels": labels - 1}
            for boxes, scores, labels in zip(*found, strict=True)
        ]
        sums = scene.objectness.sum(1) + scene.deltas.sum((1, 2))
        image = torch.arange(len(proposals), device=logits.device)
        image = image.repeat_interleave(torch.tensor([len(boxes) for boxes in proposals], device=logits.device))
        sums = sums.index_add(0, image, logits.sum(1) + codes.sum(1))
        if bool(sums.isfinite().all()):
            return outputs
        # a score of NaN is below any threshold, and the image would seem to show nothing
        nothing = {
            "boxes": sums.new_zeros(1, 4),
            "scores": sums.new_full((1,), torch.nan),
            "labels": image.new_zeros(1),
        }
        return [output if fine else nothing for output, fine in zip(outputs, sums.isfinite().tolist(), strict=True)]

    def _losses(self, scene: Scene, proposals: list[Tensor], targets: Truths) -> dict[str, Tensor]:
        """The parts of each image's loss, ``(N,)`` by name."""
        truths = [
            {
                "boxes": target["boxes"].detach().to(scene.anchors),
                "labels": target["labels"].to(scene.anchors.device) + 1,
            }
            for target in targets
        ]
        anchors = [scene.anchors] * len(truths)
        found, matched = self.rpn.assign_targets_to_anchors(anchors, truths)
        kinds = torch.stack(found)
        wanted = torch.stack(self.rpn.box_coder.encode([boxes.to(scene.anchors) for boxes in matched], anchors))
        objectness = functional.binary_cross_entropy_with_logits(
            scene.objectness, (kinds > 0).to(scene.objectness), reduction="none"
        )
        sample = (ANCHORS_SAMPLED, ANCHORS_SHARE)
        first = {
            "objectness": expected_loss(objectness, kinds, *sample),
            "proposals": expected_distance(scene.deltas, wanted, kinds, *sample),
        }
        return first | self._second_losses(scene, proposals, truths)

    def _second_losses(
        self, scene: Scene, proposals: list[Tensor], truths: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        true_boxes = [truth["boxes"] for truth in truths]
        boxes = self.heads.add_gt_proposals(proposals, true_boxes)
        matched, labels = self.heads.assign_targets_to_proposals(
            boxes, true_boxes, [truth["labels"] for truth in truths]
        )
        near = [
            corners[place] if len(corners) else torch.zeros_like(own)
            for corners, place, own in zip(true_boxes, matched, boxes, strict=True)
        ]
        logits, codes = self._classified(scene, boxes)
        classes = torch.cat(labels)
        codes = codes.view(len(codes), -1, 4)
        codes = codes.gather(1, classes.clamp(min=0).view(-1, 1, 1).expand(-1, 1, 4)).squeeze(1)
        counts = [len(own) for own in boxes]
        wrong = functional.cross_entropy(logits, classes, reduction="none")
        kinds, sample = padded(labels, -1), (PROPOSALS_SAMPLED, PROPOSALS_SHARE)
        wanted = padded(self.heads.box_coder.encode(near, boxes))
        return {
            "classes": expected_loss(padded(wrong.split(counts)), kinds, *sample),
            "boxes": expected_distance(padded(codes.split(counts)), wanted, kinds, *sample),
        }


def build_detector(
    backbone: str,
    num_classes: int,
    channels: int = 3,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    booster: bool = False,
    width: int = 256,
    anchor: float = 16,
    proposals: int = 300,
) -> FasterRCNN:
    """Build a Faster R-CNN that maps normalised images ``(N, C, H, W)`` to boxes.

    Args:
        backbone: Name of a timm network with maps of the strides 4, 8, 16 and 32, such as ``resnet50``.
        num_classes: Number of classes K, at least 1; the background is none of them.
        channels: Number of channels C of the images; the first convolution of pretrained weights is adapted to it.
        weights: Of the backbone: ``hub`` downloads timm's, a path reads a local file, None starts from random ones.
        options: Further arguments of the timm network, such as ``pad_type: same``.
        booster: Put a multi-scale booster behind each level of the pyramid.
        width: Channels of the pyramid, at least 1.
        anchor: Side of the smallest anchors, in pixels, at least 1.
        proposals: Most proposals of an image, at least 1.

    Raises:
        ValueError: An argument is out of range, the backbone or the file does not exist or has no such maps, the hub
            cannot be reached, or the file does not hold weights of the backbone.
    """
    for name, value in {"num_classes": num_classes, "width": width, "anchor": anchor, "proposals": proposals}.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    # also for random weights, since it checks its arguments; two classes, of which nothing is kept
    whole = build_classifier(backbone, 2, "linear", channels, weights, options)
    try:
        features = timm.create_model(backbone, features_only=True, in_chans=channels, **(options or {}))
        info: Any = features.feature_info
        reductions = list(info.reduction())
    except (AttributeError, AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{backbone} has no maps that a pyramid can be built on: {error}") from error
    if not set(STRIDES) <= set(reductions):
        raise ValueError(f"a pyramid needs maps of the strides {STRIDES}, and {backbone} has {tuple(reductions)}")
    _take(features, whole)
    return FasterRCNN(features, num_classes, width, anchor, proposals, booster)


def _take(features: nn.Module, whole: nn.Module) -> None:
    """Give the features of a network the weights of the whole one, some of whose names have dots for underscores."""
    own = {name.replace(".", "_"): tensor for name, tensor in whole.state_dict().items()}
    features.load_state_dict({name: own[name.replace(".", "_")] for name in features.state_dict()})
