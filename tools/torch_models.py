# SPDX-License-Identifier: Apache-2.0
"""Make the files of PyTorch that tests/infer/test_torch.py reads: models, and what they say.

PyTorch is too large for the tests' own environment, so they read what this wrote:

    pip install torch onnx onnxscript
    python tools/torch_models.py

Each model is trained a little and written by both exporters: over TorchScript (``-script``) and
over torch.export (``-dynamo``). ``outputs.npz`` holds the input, and what each model makes of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

FOLDER = Path(__file__).parent.parent / "tests" / "infer" / "torch"
FEATURES, CLASSES = 6, 3
ROWS, STEPS = 300, 150


class Label(nn.Module):
    """Ends with the number of a class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 12), nn.Linear(12, CLASSES)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores of a batch ``[n, CLASSES]``."""
        return self.last(torch.relu(self.first(x.flatten(1))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of a batch ``[n, FEATURES]``."""
        return self.scores(x).argmax(dim=1)


class ByHand(nn.Module):
    """Scales its own input, and multiplies and adds as operators; one probability."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES, 12) / 2)
        self.bias = nn.Parameter(torch.randn(12))
        self.last = nn.Linear(12, 1)
        self.register_buffer("mean", torch.randn(FEATURES))
        self.register_buffer("deviation", torch.rand(FEATURES) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of a batch ``[n, FEATURES]``."""
        inner = torch.tanh((x - self.mean) / self.deviation @ self.weight + self.bias)
        return torch.sigmoid(self.last(inner)).squeeze(1)


class Views(nn.Module):
    """Reshapes, casts and constants in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of a batch ``[n, FEATURES]``."""
        inner = torch.sigmoid(self.first(x.double().float().view(x.size(0), -1)))
        inner = (2.0 * inner - 1.0).reshape(-1, 16)
        return functional.log_softmax(self.last(inner), dim=-1)


def models() -> dict[str, nn.Module]:
    """Every model, untrained."""
    linear = nn.Linear
    return {
        "plain": nn.Sequential(
            linear(FEATURES, 16), nn.ReLU(), linear(16, 8), nn.ReLU(), linear(8, CLASSES)
        ),
        "normalised": nn.Sequential(
            nn.BatchNorm1d(FEATURES),
            linear(FEATURES, 16, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
            linear(16, CLASSES),
            nn.Softmax(dim=1),
        ),
        "late": nn.Sequential(
            nn.Flatten(),
            linear(FEATURES, 8),
            nn.Tanh(),
            nn.BatchNorm1d(8, eps=1e-3),
            nn.Identity(),
            linear(8, 1),
            nn.Sigmoid(),
        ),
        "value": nn.Sequential(linear(FEATURES, 12), nn.ReLU(), linear(12, 1)),
        "label": Label(),
        "by-hand": ByHand(),
        "views": Views(),
    }


def fit(model: nn.Module, x: torch.Tensor, z: torch.Tensor) -> nn.Module:
    """Train it a little, on what its output is: classes, one probability, or a value."""
    classes = torch.bucketize(z, torch.tensor([-0.7, 0.7]))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(STEPS):
        said = model.scores(x) if isinstance(model, Label) else model(x)
        if said.ndim == 2 and said.shape[1] == CLASSES:
            loss = functional.cross_entropy(said, classes)
        elif isinstance(model, nn.Sequential) and not isinstance(model[-1], nn.Sigmoid):
            loss = functional.mse_loss(said.squeeze(1), z)
        else:
            loss = functional.binary_cross_entropy(said.reshape(-1), (z > 0).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def strip(path: Path) -> None:
    """Take out where in whose files each node comes from."""
    proto = onnx.load(path)
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(proto, path)


def main() -> None:
    """Train, write and ask all of them."""
    torch.manual_seed(7)
    FOLDER.mkdir(exist_ok=True)
    # Whole numbers, as an agent counts them.
    x = torch.randint(-20, 21, (2000, FEATURES)).float()
    z = x[:, 0] / 10 + torch.sin(x[:, 1] / 6) - x[:, 2] * x[:, 3] / 200
    kept = {"x": x[:ROWS].numpy()}
    for name, model in models().items():
        fit(model, x, z)
        with torch.no_grad():
            kept[name] = model(x[:ROWS]).numpy()
        for exporter in ("script", "dynamo"):
            options = (
                {"dynamo": True, "dynamic_shapes": ({0: "batch"},), "external_data": False}
                if exporter == "dynamo"
                else {"dynamo": False, "dynamic_axes": {"x": {0: "batch"}}}
            )
            path = FOLDER / f"{name}-{exporter}.onnx"
            torch.onnx.export(model, (x[:2],), path, input_names=["x"], **options)
            strip(path)
    np.savez_compressed(FOLDER / "outputs.npz", **kept)


if __name__ == "__main__":
    main()
