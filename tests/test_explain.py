"""Heat maps of the classifier that answers."""

import gc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC
from torch import nn
from torchvision import models
from toy_explained import PAIR, THREE, air_and_tissue, cnn, embedded, noise, own

from xraykit import backbones, classifiers, explain_heads
from xraykit.backbones import Backbone, network_input
from xraykit.datasets import XrayDataset, synthetic
from xraykit.errors import DataError
from xraykit.explain import METHODS, explain
from xraykit.explain_cut import Explained, estimator, network

LIBRARY = {"Grad-CAM": GradCAM, "Grad-CAM++": GradCAMPlusPlus, "HiResCAM": HiResCAM}


@pytest.fixture(scope="module")
def ds() -> XrayDataset:
    return synthetic.load("synthetic", size=64, n_patients=20, progress=False)


@pytest.fixture(scope="module")
def phantom() -> Backbone:
    return backbones.load("phantom:random")


def grey(images: np.ndarray, size: int) -> torch.Tensor:
    return network_input(images, size).requires_grad_()


def scaled(cams: np.ndarray, size: int) -> np.ndarray:
    """As the library does: from 0 to 1, resized, from 0 to 1."""
    found = []
    for cam in np.maximum(cams, 0):
        cam = cam - cam.min()
        cam = cv2.resize(cam / (cam.max() + 1e-7), (size, size))
        cam = cam - cam.min()
        found.append(cam / (cam.max() + 1e-7))
    return np.stack(found)


def grad_cam(score: Callable, layer: nn.Module, x: torch.Tensor) -> np.ndarray:
    """Equations 1 and 2 of Selvaraju et al. for `score`, (B, 1, S, S) to (B,), of a whole network."""
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    total = score(x).sum()
    handle.remove()
    (slopes,) = torch.autograd.grad(total, kept[0])
    alpha = slopes.mean(dim=(2, 3), keepdim=True)
    return scaled((alpha * kept[0]).sum(dim=1).detach().numpy(), x.shape[-1])


@pytest.mark.parametrize("method", ["Grad-CAM", "HiResCAM"])
def test_maps_and_scores_by_hand(method: str) -> None:
    ready, images = network(air_and_tissue(), PAIR, size=8), noise(3)
    assert (ready.name, ready.layer, ready.size, ready.grid) == ("own", "0", 8, (8, 8))
    assert ready.targets == ("pneumonia", "normal")
    x = images / 255
    # The sum of alpha_k A_k is (2 x - (1 - x)) / 64 for pneumonia and the opposite for normal.
    for target, sign in (("pneumonia", 1), ("normal", -1)):
        found = explain(ready, images, target=target, method=method)
        cam = np.maximum(sign * (3 * x - 1), 0)
        expected = cam / cam.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found.maps, expected, atol=1e-5)
        z = 3 * x.mean(axis=(1, 2)) - 1
        np.testing.assert_allclose(found.scores, np.stack([z, -z], axis=1), atol=1e-5)
        assert found.maps.dtype == np.float32
        assert found.scores.dtype == np.float64
        assert found.targets == (target,) * 3


def test_a_target_that_everything_speaks_against_has_an_empty_map() -> None:
    images = noise(2)
    images[1] = np.where(images[1] < 128, 150, 250)
    ready = network(air_and_tissue(), PAIR, size=8)
    found = explain(ready, images, target="normal").maps
    assert found[0].max() == 1
    assert not found[1].any()
    # What speaks for pneumonia all over still goes from 0 at the least to 1 at the most.
    np.testing.assert_array_equal(explain(ready, images, target="pneumonia").maps[1], images[1] == 250)


@pytest.mark.parametrize("layer", ["layers.6", "layers.10", "layers.14", ""])
def test_grad_cam_of_a_network_by_hand(ds: XrayDataset, layer: str) -> None:
    model, images = cnn(), ds.images[:5]
    module = model.body.maps.layers[int(layer.removeprefix("layers.") or 14)]
    ready = network(model, PAIR, size=64, layer=layer)
    for target, sign in (("pneumonia", 1), ("normal", -1)):
        found = explain(ready, images, target=target)
        expected = grad_cam(lambda x, sign=sign: sign * model(x)[:, 0], module, grey(images, 64))
        np.testing.assert_allclose(found.maps, expected, atol=1e-5)
        assert found.maps.std() > 0.05
    with torch.no_grad():
        z = model(grey(images, 64)).numpy()
    np.testing.assert_allclose(found.scores, np.hstack([z, -z]), atol=1e-5)


@pytest.mark.parametrize("scaling", [(), (StandardScaler(), Normalizer())])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly"])
def test_grad_cam_of_a_support_vector_machine_by_hand(
    ds: XrayDataset, phantom: Backbone, kernel: str, scaling: tuple
) -> None:
    features, labels = embedded(phantom, ds.images), np.arange(len(ds)) % 2
    fitted = make_pipeline(*map(clone, scaling), SVC(kernel=kernel)).fit(features, labels)
    svc = fitted[-1]
    support, dual = torch.from_numpy(svc.support_vectors_), torch.from_numpy(svc.dual_coef_[0])

    def margin(x: torch.Tensor) -> torch.Tensor:
        f = phantom.module(x).double()
        if scaling:
            f = (f - torch.from_numpy(fitted[0].mean_)) / torch.from_numpy(fitted[0].scale_)
            f = nn.functional.normalize(f)
        if kernel == "rbf":
            similar = torch.exp(-svc._gamma * torch.cdist(f, support) ** 2)
        else:
            similar = f @ support.T if kernel == "linear" else (svc._gamma * (f @ support.T)) ** 3
        return similar @ dual + svc.intercept_[0]

    images = ds.images[:4]
    ready = estimator(phantom, fitted, PAIR)
    assert ready.targets == ("pneumonia over normal", "normal over pneumonia")
    for target, sign in (("pneumonia over normal", 1), ("normal over pneumonia", -1)):
        found = explain(ready, images, target=target)
        x = grey(images, phantom.size)
        expected = grad_cam(lambda x, sign=sign: sign * margin(x), phantom.module.maps.blocks[2], x)
        expected = np.stack([cv2.resize(cam, (64, 64)) for cam in expected])
        expected -= expected.min(axis=(1, 2), keepdims=True)
        largest = expected.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found.maps, expected / np.where(largest > 0, largest, 1), atol=1e-5)
    decision = fitted.decision_function(features[:4])
    np.testing.assert_allclose(found.scores, np.stack([decision, -decision], axis=1), atol=1e-4)


@pytest.mark.parametrize("layer", ["layers.10", "layers.14"])
@pytest.mark.parametrize("method", LIBRARY)
def test_the_library_on_the_whole_classifier(ds: XrayDataset, method: str, layer: str) -> None:
    model, images = cnn(3, seed=1), ds.images[:6]
    ready = network(model, THREE, size=64, layer=layer)
    wanted = [0, 1, 2, 2, 1, 0]
    found = explain(ready, images, target=[THREE[k] for k in wanted], method=method).maps
    module = model.body.maps.layers[int(layer.removeprefix("layers."))]
    with LIBRARY[method](model=model, target_layers=[module]) as cam:
        expected = cam(grey(images, 64), targets=[lambda out, k=k: out[k] for k in wanted])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (expected.max(axis=(1, 2)) > 0.99).sum() >= 4  # else there is little to compare


@pytest.mark.parametrize("layer", [6, 14])
def test_eigen_cam_up_to_its_sign(ds: XrayDataset, layer: int) -> None:
    model, images = cnn(), ds.images[:8]
    ready = network(model, PAIR, size=64, layer=f"layers.{layer}")
    found = explain(ready, images, target="normal", method="Eigen-CAM").maps
    x = grey(images, 64)
    with EigenCAM(model=model, target_layers=[model.body.maps.layers[layer]]) as cam:
        library = cam(x, targets=None)
    with torch.no_grad():
        maps = model.body.maps.layers[: layer + 1]((x - 0.5) / 0.25).numpy()
    ours = get_2d_projection_with_sign_correction(maps)
    assert (ours.max(axis=(1, 2)) >= -ours.min(axis=(1, 2))).all()
    np.testing.assert_allclose(found, scaled(ours, 64), atol=1e-4)
    same = np.array([np.allclose(a, b, atol=1e-4) for a, b in zip(found, library, strict=True)])
    turned = np.array([np.allclose(a, b, atol=1e-4) for a, b in zip(scaled(-ours, 64), library, strict=True)])
    assert (same ^ turned).all()
    # It knows no target.
    ready = network(cnn(3), THREE, size=64, layer=f"layers.{layer}")
    other = explain(ready, images, target="viral", method="Eigen-CAM").maps
    np.testing.assert_allclose(other, found, atol=1e-5)


def test_hirescam_is_grad_cam_where_the_maps_are_averaged_and_the_head_is_linear(ds: XrayDataset) -> None:
    # There d score / d A_k is w_k / (h w) in every place, so that its mean over the map is the same number.
    model, images = cnn(), ds.images[:6]
    last, before = (network(model, PAIR, size=64, layer=layer) for layer in ("layers.14", "layers.10"))
    maps = {
        (ready.layer, method): explain(ready, images, target="pneumonia", method=method).maps
        for ready in (last, before)
        for method in ("Grad-CAM", "HiResCAM")
    }
    np.testing.assert_allclose(maps["layers.14", "HiResCAM"], maps["layers.14", "Grad-CAM"], atol=1e-5)
    assert abs(maps["layers.10", "HiResCAM"] - maps["layers.10", "Grad-CAM"]).max() > 0.1


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(5, 20), method=st.sampled_from(METHODS))
def test_every_map_goes_from_0_to_1_or_is_empty(seed: int, side: int, method: str) -> None:
    model = classifiers.build(own(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2)), 1, seed=seed)
    torch.nn.init.normal_(model.head[1].weight, generator=torch.Generator().manual_seed(seed % 2**31))
    images = noise(4, side, seed)
    maps = explain(network(model, PAIR, size=8), images, target="pneumonia", method=method).maps
    assert maps.shape == (4, side, side)
    assert (maps.min(axis=(1, 2)) == 0).all()
    assert np.isin(maps.max(axis=(1, 2)), [0, 1]).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_what_speaks_for_one_of_two_classes_does_not_speak_for_the_other(seed: int) -> None:
    model = classifiers.build(own(nn.Conv2d(1, 3, 1), nn.Tanh()), 1, seed=seed)
    ready, images = network(model, PAIR, size=8), noise(3, seed=seed)
    first, second = (explain(ready, images, target=target).maps for target in PAIR)
    assert (np.minimum(first, second) == 0).all()


@pytest.mark.parametrize("factor", [1e-15, 1e-6, 1e3])
def test_the_size_of_the_score_does_not_matter(ds: XrayDataset, factor: float) -> None:
    model, small = cnn(), cnn()
    with torch.no_grad():
        small.head[1].weight.mul_(factor)
    one, other = (
        explain(network(m, PAIR, size=64), ds.images[:4], target="pneumonia").maps for m in (model, small)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert other.max() == 1


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_memmaps(ds: XrayDataset, tmp_path: Path, method: str) -> None:
    images, rows = ds.images[:15], np.array([3, 14, 0, 7, 7, 1, 12, 2, 9])
    np.save(tmp_path / "images.npy", images)
    kept = np.load(tmp_path / "images.npy", mmap_mode="r")
    ready = network(cnn(), PAIR, size=64)
    whole = explain(ready, images, target="normal", method=method)
    for batch_size in (1, 7):
        found = explain(ready, kept, target="normal", method=method, rows=rows, batch_size=batch_size)
        np.testing.assert_allclose(found.maps, whole.maps[rows], atol=1e-4)
        np.testing.assert_allclose(found.scores, whole.scores[rows], atol=1e-5)


@pytest.mark.parametrize("shape", [(128, 128), (40, 40), (100, 70)])
def test_maps_are_as_large_as_the_images(ds: XrayDataset, shape: tuple[int, int]) -> None:
    images = np.stack([cv2.resize(image, shape[::-1]) for image in ds.images[:3]])
    ready = network(cnn(), PAIR, size=64)
    found = explain(ready, images, target="pneumonia")
    small = np.rint(255 * network_input(images, 64)[:, 0].numpy()).astype(np.uint8)
    inside = explain(ready, small, target="pneumonia")  # the grey levels are rounded, so not the same
    expected = np.stack([cv2.resize(m, shape[::-1]) for m in inside.maps])
    assert found.maps.shape == images.shape
    np.testing.assert_allclose(found.maps, expected, atol=0.05)
    np.testing.assert_allclose(found.scores, inside.scores, atol=0.01)
    assert (found.maps.max(axis=(1, 2)) == 1).all()


def test_a_target_for_each_image(ds: XrayDataset) -> None:
    ready, images = network(cnn(3), THREE, size=64), ds.images[:6]
    targets = ["viral", "normal", "normal", "bacterial", "viral", "bacterial"]
    found = explain(ready, images, target=targets, batch_size=4)
    assert found.targets == tuple(targets)
    one = {target: explain(ready, images, target=target) for target in THREE}
    for i, target in enumerate(targets):
        np.testing.assert_allclose(found.maps[i], one[target].maps[i], atol=1e-5)
    np.testing.assert_allclose(found.scores, one["viral"].scores, atol=1e-6)
    assert abs(one["viral"].maps - one["normal"].maps).max() > 0.2


def test_findings_have_a_map_each(ds: XrayDataset) -> None:
    findings = tuple(f"finding {i}" for i in range(14))
    model = cnn(14)
    ready = network(model, findings, size=64)
    assert ready.targets == findings
    found = explain(ready, ds.images, rows=np.zeros(14, int), target=findings)
    assert found.scores.shape == (14, 14)
    np.testing.assert_allclose(found.scores, np.repeat(found.scores[:1], 14, axis=0), atol=1e-5)
    for k in (0, 5, 13):
        x = grey(ds.images[:1], 64)
        expected = grad_cam(lambda x, k=k: model(x)[:, k], model.body.maps.layers[14], x)
        np.testing.assert_allclose(found.maps[k], expected[0], atol=1e-5)


def test_networks_of_three_channels_take_grey_images(ds: XrayDataset) -> None:
    model = classifiers.build("resnet18:random", 1, seed=11)
    torch.manual_seed(11)
    theirs = models.resnet18().eval()
    theirs.fc = model.head.eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    images = ds.images[:2]
    for layer in ("layer3", "layer4"):
        found = explain(network(model, PAIR, size=64, layer=layer), images, target="pneumonia")
        expected = grad_cam(
            lambda x: theirs((x.repeat(1, 3, 1, 1) - mean) / std)[:, 0],
            getattr(theirs, layer),
            grey(images, 64),
        )
        np.testing.assert_allclose(found.maps, expected, atol=1e-4)


def state_of(model: nn.Module) -> tuple:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [part.training for part in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [len(getattr(part, name)) for part in model.modules() for name in hooks],
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
    )


def test_frozen_or_in_training_the_map_is_the_same_and_nothing_is_touched(ds: XrayDataset) -> None:
    plain, frozen, training = cnn(), cnn(), classifiers.build("cnn-small", 1, dropout=0.5).train()
    frozen.freeze(True)
    training.load_state_dict(plain.state_dict())
    maps = []
    for model in (plain, frozen, training):
        *before, weights = state_of(model)
        ready = network(model, PAIR, size=64)
        for method in METHODS:
            maps.append(explain(ready, ds.images[:3], target="pneumonia", method=method).maps)
        *after, weights_after = state_of(model)
        assert after == before
        assert all(torch.equal(weights_after[name], tensor) for name, tensor in weights.items())
        for part in (ready.first, ready.rest):
            flags, slopes, hooks, _ = state_of(part)
            assert not any(flags)
            assert all(slope == (False, None) for slope in slopes)
            assert not any(hooks)
    for i, found in enumerate(maps[4:]):
        np.testing.assert_array_equal(found, maps[i % 4])


def test_a_backbone_stays_as_it_is(ds: XrayDataset, phantom: Backbone) -> None:
    features, before = embedded(phantom, ds.images), state_of(phantom.module)[:3]
    fitted = LogisticRegression().fit(features, np.arange(len(ds)) % 2)
    explain(estimator(phantom, fitted, PAIR, layer="blocks.1"), ds.images[:2], target="pneumonia over normal")
    assert backbones.weights_hash(phantom.module) == phantom.weights_hash
    assert state_of(phantom.module)[:3] == before


def test_three_classes_of_an_estimator(ds: XrayDataset, phantom: Backbone) -> None:
    features, labels = embedded(phantom, ds.images), np.arange(len(ds)) % 3
    for fitted in (SVC(decision_function_shape="ovo"), LogisticRegression(), NearestCentroid()):
        ready = estimator(phantom, fitted.fit(features, labels), THREE)
        found = explain(ready, ds.images[:3], target="viral over bacterial")
        with torch.no_grad():
            expected = explain_heads.head_of(fitted, THREE)(torch.from_numpy(features[:3]))
        np.testing.assert_allclose(found.scores, expected, atol=1e-4)
        assert ready.targets[3:] == ("bacterial over normal", "viral over normal", "viral over bacterial")


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(ds: XrayDataset, context: Callable) -> None:
    model = cnn()
    ready = network(model, PAIR, size=64)
    expected = explain(ready, ds.images[:2], target="normal").maps
    with context():
        np.testing.assert_array_equal(explain(ready, ds.images[:2], target="normal").maps, expected)
        again = network(model, PAIR, size=64)
    np.testing.assert_array_equal(explain(again, ds.images[:2], target="normal").maps, expected)


def test_a_backbone_without_weights() -> None:
    backbone = own(nn.AvgPool2d(2))
    images = noise(8)
    fitted = LogisticRegression().fit(embedded(backbone, images), np.arange(8) % 2)
    fitted.coef_[:] = 1
    maps = explain(estimator(backbone, fitted, PAIR), images, target="pneumonia over normal").maps
    with torch.no_grad():
        pooled = backbone.module.maps(network_input(images, 8))[:, 0].numpy()
    np.testing.assert_allclose(maps, scaled(pooled, 8), atol=1e-5)


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow(method: str) -> None:
    ready, images, counts = network(cnn(), PAIR, size=64), noise(2, 64), {}
    for call in range(1, 101):
        explain(ready, images, target="pneumonia", method=method)
        if call in (10, 100):
            counts[call] = live_tensors(), len(EigenCAM.__subclasses__())
    assert counts[10] == counts[100]


def narrow(gamma: float) -> tuple[Explained, np.ndarray]:
    """An RBF kernel around the mean grey levels .2 and .3, and images of mean .25 and .9."""
    fitted = SVC(gamma=gamma).fit([[0.2], [0.3]], [0, 1])
    images = np.full((2, 8, 8), 64, np.uint8)
    images[1] = 230
    images[:, 0, 0] += 1
    return estimator(own(nn.Conv2d(1, 1, 1).apply(_identity)), fitted, PAIR), images


@torch.no_grad()
def _identity(convolution: nn.Conv2d) -> None:
    convolution.weight.fill_(1)
    convolution.bias.zero_()


def test_an_image_far_from_the_support_vectors_has_an_empty_map() -> None:
    ready, images = narrow(1e4)
    found = explain(ready, images, target="pneumonia over normal")
    assert found.maps.max(axis=(1, 2)).tolist() == [1, 0]
    assert found.maps[0, 0, 0] == 1  # the one bright pixel
    message = r"gradient of pneumonia over normal .* layer '0' is 0 in all 1 images.*an RBF kernel far"
    with pytest.raises(DataError, match=message):
        explain(ready, images, target="pneumonia over normal", rows=np.array([1]))


def test_a_score_that_does_not_depend_on_the_layer() -> None:
    model = cnn()
    nn.init.zeros_(model.head[1].weight)
    with pytest.raises(DataError, match=r"gradient of normal and pneumonia .* is 0 in all 3 images"):
        explain(network(model, PAIR, size=64), noise(3, 64), target=["normal", "pneumonia", "normal"])


@pytest.mark.parametrize("method", METHODS)
def test_damaged_weights(method: str) -> None:
    model = cnn()
    nn.init.constant_(model.head[1].weight, torch.nan)
    ready = network(model, PAIR, size=64)
    with pytest.raises(DataError, match=r"cnn-small makes NaN or infinite scores at layer .* of image 1;"):
        explain(ready, noise(3, 64), target="normal", rows=np.array([1]), method=method)
    nn.init.constant_(model.body.maps.layers[0].weight, torch.nan)
    with pytest.raises(DataError, match="cnn-small makes NaN or infinite features of a black image"):
        network(model, PAIR, size=64)


class Exploding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(200 * x)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("method", METHODS)
def test_one_image_with_infinite_maps_is_named(method: str) -> None:
    backbone = own(nn.Conv2d(1, 1, 1).apply(_identity), Exploding())
    images = noise(4) // 4
    fitted = LogisticRegression().fit(embedded(backbone, images), np.arange(4) % 2)
    images[2, 1, 1] = 255
    ready, rows = estimator(backbone, fitted, PAIR), np.array([0, 3, 2, 1])
    with pytest.raises(DataError, match="NaN or infinite scores at layer '1' of image 2; its weights"):
        explain(ready, images, target="normal over pneumonia", rows=rows, method=method)


class Root(nn.Module):
    """The score 0 with the gradient infinity times 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(x[:, :1] * 0)


def test_damaged_maps_of_a_finite_score() -> None:
    model = cnn()
    model.head = Root()
    with pytest.raises(DataError, match=r"cnn-small makes NaN or infinite maps at layer .* of image 0;"):
        explain(network(model, PAIR, size=64), noise(2, 64), target="normal")


READY = network(air_and_tissue(), PAIR, size=8)
FLAT = noise(9)
FLAT[7] = 31


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (
            noise(2),
            {"target": "viral"},
            r"own says nothing about \['viral'\]; its targets are \['pneu",
        ),
        (noise(2), {"target": ["normal"] * 3}, "3 targets for 2 images; give one for all, or one for each"),
        (noise(2), {"target": ["normal"] * 2, "rows": np.arange(1)}, "2 targets for 1 images"),
        (
            noise(2),
            {"method": "Score-CAM"},
            "method 'Score-CAM'.* choose from Grad-CAM, Grad-CAM",
        ),
        (noise(2), {"batch_size": 0}, "batch_size 0; .* at least 1"),
        (noise(2), {"batch_size": -3}, "batch_size -3; .* at least 1"),
        (noise(2), {"device": "tpu"}, "'tpu' is unknown; use one of auto, cpu"),
        (noise(2) / 255, {}, r"images are float64 in .*: use np.rint\(images \* 255\)"),
        (noise(2)[0], {}, "images have shape"),
        (noise(2)[:0], {}, "at least one image"),
        (noise(2), {"rows": np.arange(0)}, "give positions of at least one image"),
        (noise(2), {"rows": np.array([2])}, "rows go from 2 to 2; the images are 0 to 1"),
        (FLAT, {}, "image 7 has the grey level 31 everywhere; nothing in it can be explained: leave it out"),
        (FLAT, {"batch_size": 2, "rows": np.array([1, 2, 3, 7])}, "image 7 has the grey level 31"),
    ],
)
def test_bad_input(images: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        explain(READY, images, **{"target": "normal"} | options)
