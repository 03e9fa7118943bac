"""A classifier cut in two at a layer."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.svm import SVC
from torch import nn
from toy_explained import PAIR, THREE, air_and_tissue, cnn, embedded, noise, own

from xraykit import backbones, classifiers
from xraykit.backbones import Pretraining, from_module, network_input
from xraykit.errors import DataError
from xraykit.explain_cut import estimator, network


@pytest.mark.parametrize("layer", ["layers.6", ""])
def test_the_two_parts_are_the_network(layer: str) -> None:
    model, images = cnn(3), noise(4, 64)
    ready = network(model, THREE, size=64, layer=layer)
    assert (ready.name, ready.layer, ready.size) == ("cnn-small", layer or "layers.14", 64)
    assert ready.targets == THREE
    x = network_input(images, 64)
    with torch.no_grad():
        (maps,) = ready.first(x)
        assert maps.shape[2:] == ready.grid
        np.testing.assert_array_equal(ready.rest(maps), model(x))


def test_the_two_parts_are_the_estimator() -> None:
    backbone, images = own(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2)), noise(9)
    features = embedded(backbone, images)
    fitted = make_pipeline(Normalizer(), SVC()).fit(features, np.arange(9) % 2)
    ready = estimator(backbone, fitted, PAIR)
    assert ready.targets == ("pneumonia over normal", "normal over pneumonia")
    assert (ready.name, ready.size, ready.grid) == ("own", 8, (5, 5))
    with torch.no_grad():
        scores = ready.rest(ready.first(network_input(images, 8))[0])
    np.testing.assert_allclose(scores[:, 0], fitted.decision_function(features), atol=1e-5)


def test_targets_of_one_output() -> None:
    x = network_input(noise(3), 8)
    # Of two classes the second is z and the first -z; a single finding has no opposite.
    for classes, targets, signs in ((PAIR, PAIR[::-1], [1, -1]), (["Mass"], ("Mass",), [1])):
        model = air_and_tissue()
        ready = network(model, classes, size=8)
        assert ready.targets == targets
        with torch.no_grad():
            expected = model(x) * torch.tensor(signs)
            np.testing.assert_array_equal(ready.rest(ready.first(x)[0]), expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_can_be_cut_whatever_the_gradient_mode(context: Callable) -> None:
    backbone, images = own(nn.Conv2d(1, 3, 3)), noise(6)
    fitted = LogisticRegression().fit(embedded(backbone, images), np.arange(6) % 2)
    with context():
        made = [network(air_and_tissue(), PAIR, size=8), estimator(backbone, fitted, PAIR)]
    for ready in made:
        maps = ready.first(network_input(images, 8))[0].requires_grad_()
        (slopes,) = torch.autograd.grad(ready.rest(maps)[:, 0].sum(), maps)
        assert slopes.any()


def test_later_training_does_not_change_what_was_cut() -> None:
    model, x = cnn(), network_input(noise(2, 64), 64)
    ready = network(model, PAIR, size=64)
    with torch.no_grad():
        expected = model(x)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        assert not model(x).any()
        np.testing.assert_array_equal(ready.rest(ready.first(x)[0])[:, :1], expected)


def test_columns_of_targets() -> None:
    ready = network(cnn(3), THREE, size=64)
    assert ready.columns("bacterial", 3) == [1, 1, 1]
    assert ready.columns(["viral", "normal"], 2) == [2, 0]
    assert ready.columns(np.array(["viral"]), 1) == [2]
    assert ready.columns("viral", 0) == []
    assert network(cnn(), PAIR, size=64).columns(PAIR, 2) == [1, 0]  # the second is z, which is first
    for targets, n, message in (
        (["viral"], 2, "1 targets for 2 images; give one for all, or one for each"),
        (["viral"] * 3, 2, "3 targets for 2 images"),
        (["lung", "viral", "lung", "heart"], 4, r"cnn-small says nothing about \['heart', 'lung'\]; its "),
        ("lung", 2, r"about \['lung'\]; its targets are \['normal', 'bacterial', 'viral'\]"),
    ):
        with pytest.raises(DataError, match=message):
            ready.columns(targets, n)


class Detached(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach())


def test_a_head_without_a_gradient() -> None:
    model = cnn()
    model.head = Detached(128, 1)
    message = "cnn-small have no gradient with respect to layer 'layers.14'; give a head that "
    with pytest.raises(DataError, match=message):
        network(model, PAIR, size=64)


def test_bad_layers() -> None:
    with pytest.raises(DataError, match=r"no layer 'layers.3'; choose of layers.2, layers.6, layers.10, "):
        network(cnn(), PAIR, size=64, layer="layers.3")
    small = r"'layers.14' of cnn-small has one pixel at images of 16 pixels, .* choose an earlier one of "
    with pytest.raises(DataError, match=small):
        network(cnn(), PAIR, size=16)
    assert network(cnn(), PAIR, size=16, layer="layers.10").grid == (2, 2)
    with pytest.raises(DataError, match="layer 'layer4' of resnet18:random has one pixel at images of 32 "):
        network(classifiers.build("resnet18:random", 1), PAIR, size=32)


@pytest.mark.parametrize("classes", [(), PAIR, (*THREE, "other")])
def test_as_many_classes_as_outputs(classes: tuple[str, ...]) -> None:
    with pytest.raises(
        DataError, match=f"cnn-small has 3 outputs, which do not fit the {len(classes)} classes"
    ):
        network(cnn(3), classes, size=64)


class Tokens(nn.Module):
    """As a vision transformer: patches to vectors, mixed, and one vector for the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(1, 4, 4, stride=4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1)


def test_backbones_without_maps() -> None:
    pixels = backbones.load("pixels")
    images = noise(4, 16)
    fitted = SVC().fit(embedded(pixels, images), [0, 1, 0, 1])
    with pytest.raises(DataError, match="pixels has no feature maps of its own"):
        estimator(pixels, fitted, PAIR)
    vectors = from_module(Tokens(), name="mine", size=8, pretraining=Pretraining())
    for body, message in (
        (own(Tokens()), "own has no feature maps to choose from"),
        (vectors, "mine has no feature maps of its own"),
    ):
        with pytest.raises(DataError, match=message):
            network(classifiers.build(body, 1), PAIR, size=8)


def test_features_of_another_backbone() -> None:
    phantom = backbones.load("phantom:random")
    fitted = SVC().fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(DataError, match="fitted to 4 features an image and phantom:random makes 256; "):
        estimator(phantom, fitted, PAIR)
    with pytest.raises(DataError, match="fitted to 4 features"):
        estimator(phantom, make_pipeline(Normalizer(), SVC()).fit(np.eye(4), [0, 1, 0, 1]), PAIR)
