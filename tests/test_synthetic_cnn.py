"""How hard the synthetic classes are for a network: no formality, yet far easier than for raw pixels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from xraykit.datasets import XrayDataset, synthetic

EPOCHS, BATCH = 20, 32


def tensors(ds: XrayDataset) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(ds.images[:, None]).float() / 255 - 0.45, torch.tensor(ds.labels)


def small_cnn() -> nn.Sequential:
    layers = []
    for inside, outside in ((1, 16), (16, 32), (32, 64), (64, 96)):
        layers += [
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(384, 3))


@pytest.mark.slow
def test_a_trained_cnn_beats_pixels_by_far_and_stays_below_98_percent():
    torch.manual_seed(0)
    ds = synthetic.load(
        "synthetic", size=64, split_sizes={"train": 1200, "val": 0, "test": 400}, progress=False
    )
    (x, y), (x_test, y_test) = tensors(ds.split("train")), tensors(ds.split("test"))
    model = small_cnn()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, EPOCHS * (len(x) // BATCH))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x))[: len(x) // BATCH * BATCH].view(-1, BATCH):
            moved = torch.roll(x[batch], torch.randint(-4, 5, (2,)).tolist(), (2, 3))
            loss = nn.functional.cross_entropy(model(moved + 0.1 * torch.randn(BATCH, 1, 1, 1)), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        said = torch.cat([model(part) for part in x_test.split(128)]).argmax(1)
    accuracy = float(np.mean((said == y_test).numpy()))
    macro_f1 = f1_score(y_test, said, average="macro")
    print(f"accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f} on {len(y_test)} images")
    assert 0.80 < accuracy < 0.98
    assert 0.80 < macro_f1 < 0.98
