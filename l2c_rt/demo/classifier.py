"""A small classifier of real digits: it reads the samples, and its last hidden layer is the feature
space of the Frechet distance. It is trained when the demo runs, in about a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2c_rt.demo.digits import Digits, split_digits

HIDDEN = (128, 48)
HELD_OUT = 0.2


class Features(nn.Module):
    """The classifier's last hidden layer.  Shapes: [N, 1, 8, 8] -> [N, num_features]."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.num_features = layers[-1].out_features

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@dataclass(frozen=True, slots=True)
class Classifier:
    """Features, the linear head on them, and how many unseen real digits it reads right."""

    features: Features
    head: nn.Linear
    held_out_accuracy: float
    held_out_count: int

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The likeliest class of each image.  Shapes: [N, 1, 8, 8] -> [N] int64."""
        scores: Tensor = self.head(self.features(images))
        return scores.argmax(dim=1)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of the images that are taken for their label."""
        return float((self.predict(images) == labels).float().mean())


def train_classifier(digits: Digits, seed: int = 0) -> Classifier:
    """Fit scikit-learn's MLPClassifier to four fifths of the digits and test it on the rest."""
    from sklearn.neural_network import MLPClassifier

    training, held_out = split_digits(digits, HELD_OUT, seed)
    fitted = MLPClassifier(HIDDEN, alpha=1e-2, max_iter=400, random_state=seed)
    fitted.fit(training.images.flatten(1).numpy(), training.labels.numpy())
    layers = [
        as_linear(torch.from_numpy(weight), torch.from_numpy(bias))
        for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True)
    ]
    untested = Classifier(Features(layers[:-1]), layers[-1], 0.0, len(held_out))
    accuracy = untested.accuracy(held_out.images, held_out.labels)
    return Classifier(untested.features, untested.head, accuracy, len(held_out))


def as_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A torch layer with scikit-learn's numbers.  Shapes: weight [in, out]; bias [out]."""
    layer = nn.Linear(*weight.shape).requires_grad_(False)
    layer.weight.copy_(weight.T)
    layer.bias.copy_(bias)
    return layer
