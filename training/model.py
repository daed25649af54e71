"""Backbones and heads: two clips in, five predictions and a projection out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import Config

ROTATIONS = 4


class Predictions(NamedTuple):
    """Logits and projections of N pairs; tuples hold the first and the second view."""

    spatial: Tensor  # (N, rates)
    temporal: Tensor  # (N, rates)
    playback: tuple[Tensor, Tensor]  # (N, strides) each
    rotation: tuple[Tensor, Tensor]  # (N, 4) each
    projection: tuple[Tensor, Tensor]  # (N, P) each


class TinyR2Plus1D(nn.Sequential):
    """Four small (2+1)D stages: for two CPU cores and for tests.

    Pools to a 2 x 2 grid and not to one pixel: so small a network sees where things lie only if it is told.
    """

    features = 4 * 128

    def __init__(self) -> None:
        def stage(inputs: int, outputs: int, time_stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv3d(inputs, outputs, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
                nn.BatchNorm3d(outputs),
                nn.ReLU(inplace=True),
                nn.Conv3d(outputs, outputs, (3, 1, 1), (time_stride, 1, 1), (1, 0, 0), bias=False),
                nn.BatchNorm3d(outputs),
                nn.ReLU(inplace=True),
            )

        super().__init__(
            stage(3, 16, 1),
            stage(16, 32, 1),
            stage(32, 64, 2),
            stage(64, 128, 2),
            nn.AdaptiveAvgPool3d((1, 2, 2)),
            nn.Flatten(),
        )


def make_backbone(name: str) -> tuple[nn.Module, int]:
    """Return a network from clips (N, 3, T, H, W) to features (N, F), randomly initialised, and F.

    Raises:
        ValueError: unknown name.

    """
    if name == "tiny":
        return TinyR2Plus1D(), TinyR2Plus1D.features
    from torchvision.models import video

    if name == "s3d":
        # Its own pooling wants 224 x 224 pixels; the average over whatever is there is the same idea.
        trunk = video.s3d().features
        return nn.Sequential(trunk, nn.AdaptiveAvgPool3d(1), nn.Flatten()), 1024
    if name == "r2plus1d_10":
        network = video.resnet.VideoResNet(
            block=video.resnet.BasicBlock,
            conv_makers=[video.resnet.Conv2Plus1D] * 4,
            layers=[1, 1, 1, 1],
            stem=video.resnet.R2Plus1dStem,
        )
    elif name in ("r2plus1d_18", "r3d_18"):
        network = getattr(video, name)()
    else:
        raise ValueError(f"model.backbone: unknown backbone {name!r}")
    features: int = network.fc.in_features
    network.fc = nn.Identity()
    return network, features


def _comparison(features: int, classes: int) -> nn.Sequential:
    """Head on two features concatenated; the hidden layer lets it compare them, a sum could not."""
    return nn.Sequential(
        nn.Linear(2 * features, features), nn.ReLU(inplace=True), nn.Linear(features, classes)
    )


class PairModel(nn.Module):
    """A backbone that both views share, and the heads of CSTP (arXiv 2112.08913, section 3).

    Overlap rates are predicted from the two features concatenated, playback rate and rotation from each
    alone. A head has as many logits as it has classes.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone, features = make_backbone(config.model.backbone)
        rates, strides = len(config.data.rates), len(config.data.strides)
        self.spatial = _comparison(features, rates)
        self.temporal = _comparison(features, rates)
        self.playback = nn.Linear(features, strides)
        self.rotation = nn.Linear(features, ROTATIONS)
        self.projection = nn.Sequential(
            nn.Linear(features, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(inplace=True),
            nn.Linear(features, config.model.projection),
        )

    def forward(self, first: Tensor, second: Tensor) -> Predictions:
        """Predict from both clips of N pairs, (N, 3, T, H, W) each, in one pass of the backbone."""
        features = self.backbone(torch.cat([first, second]))
        playback, rotation = self.playback(features), self.rotation(features)
        projection = self.projection(features)
        both = torch.cat(features.chunk(2), dim=1)
        return Predictions(
            self.spatial(both),
            self.temporal(both),
            playback.chunk(2),
            rotation.chunk(2),
            projection.chunk(2),
        )
