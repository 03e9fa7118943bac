"""Heat maps as published projects made them."""

import copy

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from toy_explained import PAIR, air_and_tissue, cnn, embedded, noise, own

from xraykit import classifiers
from xraykit.backbones import Backbone, Pooled, Pretraining, from_module, network_input
from xraykit.classifiers import Classifier
from xraykit.errors import DataError
from xraykit.explain import explain
from xraykit.explain_cut import Explained, estimator, network
from xraykit.explain_mistakes import side_branch, weight_gradient_maps

EVERY = np.arange(4)


def scores_of(model: Explained, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.rest(model.first(network_input(images, model.size))[0]).numpy()


# ---- side_branch


@pytest.mark.parametrize("layer", ["layers.10", "layers.14"])
def test_a_side_branch_has_the_same_maps_and_other_answers(layer: str) -> None:
    model, images = cnn(), noise(4, 64)
    ready = network(model, PAIR, size=64, layer=layer)
    before, chance = scores_of(ready, images), torch.get_rng_state()
    branch, same, other = (side_branch(ready, n_outputs=5, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), chance)
    assert branch.first is ready.first
    assert (branch.name, branch.layer, branch.size, branch.grid) == ("cnn-small", layer, 64, ready.grid)
    assert branch.targets == tuple(f"output {k}" for k in range(5))
    found = scores_of(branch, images)
    assert found.shape == (4, 5)
    np.testing.assert_array_equal(found, scores_of(same, images))
    assert (found != scores_of(other, images)).all()
    # A linear layer of the features, its weights uniform as torch begins with.
    head = branch.rest[1]
    expected = embedded(classifiers.as_backbone(model, name="", size=64, pretraining=Pretraining()), images)
    np.testing.assert_allclose(found, expected @ head.weight.numpy().T + head.bias.numpy(), atol=1e-5)
    assert 0.95 * 128**-0.5 < abs(head.weight).max() <= 128**-0.5
    # The given one answers as before.
    assert ready.targets == ("pneumonia", "normal")
    np.testing.assert_array_equal(scores_of(ready, images), before)


def test_maps_of_a_side_branch_speak_for_its_outputs() -> None:
    ready, images = network(air_and_tissue(), PAIR, size=8), noise(3)
    branch = side_branch(ready, n_outputs=4, seed=0)
    weights, x = branch.rest[1].weight.numpy(), images / 255
    for k in range(4):
        cam = np.maximum(weights[k, 0] * x + weights[k, 1] * (1 - x), 0)
        cam -= cam.min(axis=(1, 2), keepdims=True)
        largest = cam.max(axis=(1, 2), keepdims=True)
        found = explain(branch, images, target=f"output {k}").maps
        np.testing.assert_allclose(found, cam / np.where(largest > 0, largest, 1), atol=1e-4)


def test_a_side_branch_of_an_estimator_has_a_thousand_outputs() -> None:
    backbone, images = own(nn.Conv2d(1, 3, 3)), noise(6)
    fitted = LogisticRegression().fit(embedded(backbone, images), np.arange(6) % 2)
    branch = side_branch(estimator(backbone, fitted, PAIR), seed=0)
    assert branch.targets[-1] == "output 999"
    assert scores_of(branch, images).shape == (6, 1000)


# ---- weight_gradient_maps


def by_loss(model: Classifier, images: np.ndarray, size: int) -> np.ndarray:
    """The same by backward passes through a copy of the whole network."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    (last,) = [part for part in model.modules() if isinstance(part, nn.Conv2d)][-1:]
    kept, found = [], []
    model.body.maps.register_forward_hook(lambda module, inputs, output: kept.append(output[0].detach()))
    for image in images:
        model.zero_grad()
        model(network_input(image[None], size)).sum().backward()
        alpha = last.weight.grad.flatten(1).mean(dim=1)
        cam = np.maximum(np.einsum("k,kij->ij", alpha.numpy(), kept[-1].numpy()), 0)
        cam = (cam - cam.min()) / max(np.ptp(cam), 1e-7)
        found.append(cv2.resize(cam, images.shape[:0:-1], interpolation=cv2.INTER_LINEAR))
    return np.stack(found)


@pytest.mark.parametrize("side", [64, 90])
def test_weight_gradients_are_those_of_a_backward_pass(side: int) -> None:
    model, images = cnn(), noise(6, side)
    rows = np.array([4, 0, 5])
    found = weight_gradient_maps(model, images, size=64, rows=rows)
    assert found.dtype == np.float32
    assert found.shape == (3, side, side)
    assert found.std() > 0.05
    np.testing.assert_allclose(found, by_loss(model, images[rows], 64), atol=1e-4)


def test_the_same_answer_with_darker_inputs_turns_the_map_over() -> None:
    images = noise(3)
    x = images / 255
    brighter = air_and_tissue()
    # The same two maps x and 1 - x, and so the same logit, of grey levels that are lowered by 1 first.
    module = Pooled(nn.Sequential(nn.Conv2d(1, 2, 1)), mean=[1.0], std=[1.0])
    backbone = from_module(module, name="darker", size=8, pretraining=Pretraining())
    darker = classifiers.build(backbone, 1).eval()
    darker.load_state_dict(brighter.state_dict())
    with torch.no_grad():
        darker.body.maps[0].bias.copy_(torch.tensor([1.0, 0.0]))
        logits = [model(network_input(images, 8)).numpy() for model in (brighter, darker)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-6)
    # d z / d W is 2 m and -m, m the mean of what the convolution is given: above 0, or below.
    for model, sign in ((brighter, 1), (darker, -1)):
        cam = np.maximum(sign * (2 * x - (1 - x)), 0)
        cam -= cam.min(axis=(1, 2), keepdims=True)
        found = weight_gradient_maps(model, images, size=8, rows=np.arange(3))
        np.testing.assert_allclose(found, cam / cam.max(axis=(1, 2), keepdims=True), atol=1e-4)


def test_a_map_that_nothing_speaks_for_is_empty() -> None:
    images = noise(2) // 4  # 3 x < 1 everywhere
    assert not weight_gradient_maps(air_and_tissue(), images, size=8, rows=np.arange(2)).any()


def state_of(model: nn.Module) -> tuple[list, dict[str, torch.Tensor]]:
    flags = [part.training for part in model.modules()]
    slopes = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
    return [flags, slopes], {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_stays_as_it_is_and_the_map_does_not_depend_on_its_mode(
    frozen: bool, training: bool
) -> None:
    images = noise(4, 64)
    expected = weight_gradient_maps(cnn(), images, size=64, rows=EVERY)
    model = classifiers.build("cnn-small", 1, dropout=0.5)
    model.load_state_dict(cnn().state_dict())
    model.train(training).freeze(frozen)
    model.head[1].weight.grad = torch.ones(1, 128)
    before, weights = state_of(model)
    found = weight_gradient_maps(model, images, size=64, rows=EVERY)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(DataError, match="rows go from 9 to 9; the images are 0 to 3"):
        weight_gradient_maps(model, images, size=64, rows=np.array([9]))
    after, weights_after = state_of(model)
    assert after == before
    assert all(torch.equal(weights_after[name], value) for name, value in weights.items())


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")


def test_after_an_error_the_model_is_as_before() -> None:
    model = cnn()
    model.freeze(True)
    good, model.head = model.head, nn.Sequential(Failing(), model.head[1])
    before, _ = state_of(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        weight_gradient_maps(model, noise(4, 64), size=64, rows=EVERY)
    assert state_of(model)[0] == before
    model.head = good
    assert weight_gradient_maps(model, noise(4, 64), size=64, rows=EVERY).max() > 0.9


@pytest.mark.parametrize(
    ("body", "n_outputs", "message"),
    [
        ("cnn-small", 3, "cnn-small has 3 outputs, and its last convolution makes 128 of its 128 maps; take"),
        (
            "squeezenet1_0:random",
            1,
            "squeezenet1_0:random has 1 outputs, and its last convolution makes 256 of its 512 maps; take a "
            "network of one output whose last convolution makes all of them, such as cnn-small",
        ),
        (own(nn.Flatten(), nn.Linear(64, 5)), 1, "makes 0 of its 5 maps"),
    ],
    ids=["three outputs", "squeezenet", "no convolution"],
)
def test_networks_without_such_weights(body: str | Backbone, n_outputs: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        weight_gradient_maps(classifiers.build(body, n_outputs), noise(4, 64), size=64, rows=EVERY)


@pytest.mark.parametrize(
    ("images", "rows", "message"),
    [
        (noise(2) / 255, np.arange(2), r"images are float64 in .*: use np.rint\(images \* 255\)"),
        (noise(2), np.arange(0), "give positions of at least one image"),
    ],
)
def test_bad_images(images: np.ndarray, rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        weight_gradient_maps(air_and_tissue(), images, size=8, rows=rows)
