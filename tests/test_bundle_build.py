"""Bundles made from a few images, from a network, and from nothing."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toy_bundles import FINDINGS, PAIR, THREE, estimator, network, xrays

from xraykit import bundle_build, bundle_embedded, bundle_fit, classifiers, training
from xraykit.bundle import Predictor
from xraykit.bundle_build import embedded, few_shot, from_network
from xraykit.bundle_cards import fingerprint, judged
from xraykit.bundle_checks import check_names
from xraykit.bundle_engines import features_of
from xraykit.bundle_files import load, save
from xraykit.bundle_fit import folds, informed, out_of_fold
from xraykit.bundle_head_checks import ClassMean
from xraykit.bundle_heads import answer, fitted_part
from xraykit.bundle_inputs import _key, repeats
from xraykit.bundle_manifest import JSON
from xraykit.datasets import synthetic
from xraykit.decisions import fit_temperature, probabilities, threshold_for_sensitivity
from xraykit.errors import BundleError, DataError
from xraykit.fewshot_classifiers import CLASSIFIERS
from xraykit.images import Preprocess
from xraykit.training_config import Config


def cloud(
    n: int, k: int = 2, *, d: int = 8, gap: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 (n * k, d) of k classes whose means are `gap` apart, and their codes."""
    codes = np.repeat(np.arange(k), n)
    x = np.random.default_rng(seed).normal(size=(n * k, d))
    return np.float32(x + gap * codes[:, None]), codes


# ---- folds


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11)), min_size=9, max_size=40), st.integers(0, 3))
def test_folds_never_divide_a_patient_and_always_fit_to_every_class(rows: list, seed: int) -> None:
    labels, patients = np.array([*rows, *((c, 20 + 3 * c + i) for c in range(3) for i in range(3))]).T
    found = folds(labels, patients, seed=seed)
    assert 2 <= len(found) <= 5
    assert sorted(np.concatenate([held for _, held in found])) == list(range(len(labels)))
    for fit, held in found:
        assert not set(patients[fit]) & set(patients[held])
        assert set(labels[fit]) == {0, 1, 2}


def test_as_many_folds_as_the_smallest_class_has_patients() -> None:
    for n, expected in ((2, 2), (3, 3), (5, 5), (9, 5)):
        labels = np.r_[np.zeros(20, int), np.ones(n, int)]
        assert len(folds(labels, np.arange(20 + n), seed=0)) == expected
    labels, patients = np.repeat([0, 1], 5), np.r_[np.arange(5), [9] * 5]
    with pytest.raises(
        DataError, match=r"the classes have images of \[5, 1\] patients, .* at least 3 patients a"
    ):
        folds(labels, patients, seed=0)


# ---- fitting and calibration


def test_it_is_scikit_learns_calibrated_pipeline() -> None:
    x, y = cloud(20)
    patients = np.arange(40)
    head = bundle_fit.fit("logistic regression", x, y, patients, seed=3)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=10, tol=1e-10, max_iter=10_000))
    parts = folds(y, patients, seed=3)
    reference = CalibratedClassifierCV(pipeline, method="sigmoid", ensemble=False, cv=parts).fit(
        x.astype(float), y
    )
    np.testing.assert_allclose(answer(head, x), reference.predict_proba(x.astype(float)), atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("k", [2, 3])
def test_probabilities_rise_with_the_class(name: str, k: int) -> None:
    x, y = cloud(15, k, gap=1.5)
    head = bundle_fit.fit(name, x, y, np.arange(len(y)), seed=0)
    new, truth = cloud(50, k, gap=1.5, seed=1)
    p = answer(head, new)
    assert informed(head)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == truth).mean() > 0.75


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_three_images_a_class_are_enough(name: str) -> None:
    x, y = cloud(3, gap=4)
    head = bundle_fit.fit(name, x, y, np.arange(6), seed=0)
    p, n_folds = out_of_fold(name, x, y, np.arange(6), seed=0)
    assert n_folds == 3
    assert np.isfinite(p).all()
    assert np.isfinite(answer(head, x)).all()


def test_worse_than_chance_becomes_the_share_of_the_class() -> None:
    # Leaving out the one image of a pair that lies alike makes its fold's answer wrong each time.
    x = np.float32([[0], [10], [20], [30], [1], [11], [21], [31], [41], [51]])
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    x[8:] = [[15], [16]]
    head = bundle_fit.fit("nearest class mean", x, y, np.arange(10), seed=0)
    assert not informed(head)
    np.testing.assert_allclose(answer(head, x), [[0.4, 0.6]] * 10)


def test_the_class_mean_decides_as_scikit_learns() -> None:
    x, y = cloud(10, 3, gap=0.7)
    x[:, 0] *= 30  # a feature of another scale, by which scikit-learn's own scores differ from its decision
    mean, reference = ClassMean().fit(x, y), NearestCentroid().fit(x, y)
    new = cloud(40, 3, gap=0.7, seed=1)[0]
    squares = ((new[:, None] - reference.centroids_) ** 2).sum(axis=2)
    np.testing.assert_array_equal(mean.decision_function(new).argmax(axis=1), reference.predict(new))
    np.testing.assert_array_equal(mean.decision_function(new).argmax(axis=1), squares.argmin(axis=1))


def test_an_image_never_takes_part_in_its_own_out_of_fold_answer() -> None:
    x, y = cloud(10)
    patients = np.arange(20) // 2 * 2
    p, _ = out_of_fold("SVC linear", x, y, patients, seed=0)
    parts = folds(y, patients, seed=0)
    train, held = parts[0]
    head = bundle_fit.fit("SVC linear", x[train], y[train], patients[train], seed=0)
    np.testing.assert_array_equal(p[held], answer(head, x[held]))
    moved = x.copy()
    moved[held[0]] += 100  # its own features and no other answer of the fold
    again, _ = out_of_fold("SVC linear", moved, y, patients, seed=0)
    np.testing.assert_array_equal(again[held[1:]], p[held[1:]])


def test_scores_of_the_card() -> None:
    x, y = cloud(30, gap=0.4)
    y, x = np.r_[y, [1] * 15], np.r_[x, x[-15:] + 0.1]
    p, n_folds = out_of_fold("logistic regression", x, y, np.arange(75), seed=0)
    card = judged(y, p, np.arange(75), n_folds=n_folds, threshold=0.3, seed=0)
    assert float(card["auroc"].split()[0]) == round(roc_auc_score(y, p[:, 1]), 3)
    assert float(card["macro_f1"].split()[0]) == round(f1_score(y, p[:, 1] >= 0.3, average="macro"), 3)
    low, high = json.loads(card["auroc"].split(maxsplit=1)[1])
    assert low < roc_auc_score(y, p[:, 1]) < high
    always = f1_score(y, np.ones(75), average="macro", zero_division=0)
    assert (card["folds"], card["baseline_macro_f1"]) == (5, f"{always:.3f}")


# ---- few_shot


def test_a_few_shot_bundle_and_its_card() -> None:
    images, codes = xrays(4)
    about = {"licence": "mine", "use": "clinical"}
    bundle = few_shot(images, codes, PAIR, name="mine", patients=np.arange(8) * 3, about=about, threshold=0.3)
    assert (bundle.kind, bundle.classes, bundle.thresholds, bundle.architecture) == (
        "binary",
        PAIR,
        (0.3,),
        "phantom",
    )
    card = bundle.card
    assert card["training"] == {
        "images": {"normal": 4, "pneumonia": 4},
        "total": 8,
        "patients": 8,
        "fingerprint": fingerprint(bundle.support.images, codes),
        "pictures_inside": True,
    }
    assert card["use"] == "for teaching and research, not for clinical use"  # which nobody can change
    assert (card["licence"], card["classifier"], card["threshold"]) == (
        "mine",
        "logistic regression",
        "0.3, chosen beforehand",
    )
    assert card["pretraining"]["backbone"] == "phantom"
    assert "It has seen only 4 images of one class; 4 others could give another classifier." in card["limits"]
    assert set(card["versions"]) >= {"xraykit", "scikit-learn", "torch", "skops"}
    assert json.loads(json.dumps(card)) == card
    three = estimator(3)
    assert (three.kind, three.thresholds, three.card["threshold"]) == (
        "multiclass",
        (),
        "none, the largest probability wins",
    )
    assert three.card["training"]["patients"] == "not given, each image counts as one"


def test_the_same_images_give_the_same_bundle() -> None:
    first, second = estimator(), estimator()
    images = xrays(2, seed=9)[0]
    p, q = (Predictor(bundle).answer(images).probabilities for bundle in (first, second))
    np.testing.assert_array_equal(p, q)
    assert first.card == second.card


def test_a_fingerprint_depends_on_every_pixel_label_and_the_order() -> None:
    images, codes = xrays(3)
    base = fingerprint(images, codes)
    other = images.copy()
    other[2, 5, 7] ^= 1
    found = {
        base,
        fingerprint(other, codes),
        fingerprint(images, 1 - codes),
        fingerprint(images[::-1], codes),
    }
    assert len(found) == 4
    assert fingerprint(images.copy(), codes.astype(np.uint8)) == base


def test_images_of_different_sizes_and_preprocessing() -> None:
    images = [np.repeat(image, 1 + i % 3, axis=1)[:60] for i, image in enumerate(xrays(4)[0])]
    preprocess = Preprocess(size=64, fit="pad", clahe_clip=2.0, clahe_tiles=4)
    bundle = few_shot(images, xrays(4)[1], PAIR, name="mine", backbone="pixels", preprocess=preprocess)
    np.testing.assert_array_equal(bundle.support.images[5], preprocess.apply(images[5]))
    np.testing.assert_array_equal(
        bundle.support.features, features_of(bundle.backbone, bundle.support.images)
    )
    found = Predictor(bundle).answer(images)
    np.testing.assert_allclose(found.features, bundle.support.features, atol=1e-6)


def test_without_pictures_there_are_none(tmp_path: Path) -> None:
    bundle = estimator(pictures=False)
    assert bundle.support is None
    assert bundle.card["training"]["pictures_inside"] is False
    pixels = sum(
        path.stat().st_size for path in save(bundle, tmp_path / "toy").iterdir() if "support" in path.name
    )
    assert pixels == 0


def test_pictures_are_few_and_of_every_class() -> None:
    images, codes = xrays(40, side=16)
    images, codes = images[:55], codes[:55]  # 40 and 15
    bundle = few_shot(images, codes, PAIR, name="mine", backbone="pixels")
    assert np.bincount(bundle.support.labels).tolist() == [35, 15]
    assert len(bundle.known.features) == 55
    several = network("multilabel").support
    assert several.labels.shape == (15, 3)


def test_more_known_images() -> None:
    more = xrays(10, seed=4)[0]
    bundle = estimator(known_images=more)
    assert len(bundle.known.features) == 12 + 20
    np.testing.assert_array_equal(
        np.sort(bundle.known.features[:, 0]),
        np.sort(
            np.r_[
                bundle.support.features,
                features_of(bundle.backbone, np.stack([*map(bundle.preprocess.apply, more)])),
            ][:, 0]
        ),
    )


def test_patients_of_known_images_are_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[np.ndarray] = []
    fit = bundle_build.known.fit

    def listen(features: np.ndarray, *, patients: np.ndarray) -> object:
        heard.append(patients)
        return fit(features, patients=patients)

    monkeypatch.setattr(bundle_build.known, "fit", listen)
    ids = np.array([f"p{i}" for i in range(12)])
    more = {"known_images": xrays(2, seed=4)[0][:3], "known_patients": np.array(["p0", "new", "new"])}
    estimator(patients=ids, **more)
    (codes,) = heard
    assert len(codes) == 15
    assert codes[12] == codes[0]
    assert codes[13] == codes[14]
    assert len(set(codes)) == 13
    with pytest.raises(DataError, match="3 known images, and patients of the others missing"):
        estimator(**more)
    with pytest.raises(DataError, match="2 known_patients for 3 known images"):
        estimator(patients=ids, **more | {"known_patients": np.array(["a", "b"])})


def test_it_learns_synthetic_pneumonia() -> None:
    images, _, records = synthetic.generate(synthetic.PATIENT_RANGES["train"][:40], size=96)
    codes = (records["label"] != "normal").to_numpy(int)
    patients = records["patient_id"].to_numpy()
    bundle = few_shot(images, codes, PAIR, name="synthetic", patients=patients, pictures=False)
    new, _, truth = synthetic.generate(synthetic.PATIENT_RANGES["test"][:40], size=96)
    p = Predictor(bundle).answer(new).probabilities[:, 1]
    assert roc_auc_score(truth["label"] != "normal", p) > 0.75
    assert bundle.card["training"]["patients"] == 40


BAD = {
    "no images": ({"images": []}, "no images; give at least 3 of each class"),
    "colour": ({"images": np.zeros((6, 8, 8, 3), np.uint8)}, "X-rays are grey here: drop the channel axis"),
    "float": ({"images": np.zeros((6, 8, 8))}, r"image 0 is float64 \(8, 8\); give uint8"),
    "ragged": (
        {"images": [np.eye(8, dtype=np.uint8)] * 5 + [np.zeros(8, np.uint8)]},
        r"image 5 is uint8 \(8,\)",
    ),
    "constant": (
        {"images": [*xrays(3)[0][:5], np.full((9, 9), 7, np.uint8)]},
        "image 5 has the grey level 7 every",
    ),
    "one class": ({"classes": ["normal"]}, r"classes \['normal'\]; give two names or more"),
    "text": ({"classes": "ab"}, "classes 'ab'; give a list of 1 to 1000 names"),
    "empty": ({"classes": ["normal", " "]}, "the name ' ', of 1 letters; give a text of 1 to 200 printable"),
    "twice": ({"classes": ["Normal", "normal"]}, "two classes are called 'Normal' and 'normal'; give each"),
    "line": ({"classes": ["a\nb", "c"]}, r"the name 'a\\nb', of 3 letters; .* without line breaks"),
    "long": ({"classes": ["x" * 300, "c"]}, "of 300 letters; give a text of 1 to 200"),
    "number": ({"classes": [1, 2]}, "the name 1; give a text"),
    "no name": ({"name": ""}, "the name '', of 0 letters"),
    "about": ({"about": {"auroc": np.nan}}, "about cannot be kept: its card cannot be written as JSON"),
    "scalar": ({"about": {"n": np.int64(3)}}, "about cannot be kept: .* int64 is not JSON serializable"),
    "huge": ({"about": {"n": 10**30}}, r"about cannot be kept: .*10{19}\.\.\. is too large"),
    "labels": ({"labels": np.zeros(5, int)}, r"labels int64 \(5,\) for 6 images; give one code for each"),
    "names": ({"labels": np.array(["a"] * 6)}, r"labels <U1 \(6,\) for 6 images"),
    "codes": (
        {"labels": np.array([0, 0, 0, 1, 1, 2])},
        "labels go from 0 to 2; the codes of 2 classes are 0 to 1",
    ),
    "negative": ({"labels": np.array([0, 0, 0, 1, 1, -1])}, "labels go from -1 to 1"),
    "few": ({"labels": np.array([0, 0, 0, 0, 1, 1])}, "too few images: 2 of pneumonia; give at least 3"),
    "none": ({"classes": THREE}, "too few images: 0 of viral; give at least 3"),
    "threshold": ({"threshold": 1.2}, "threshold 1.2; give a probability, 0 to 1"),
    "classifier": ({"classifier": "forest"}, "classifier 'forest' is unknown; choose from SVC linear"),
    "backbone": ({"backbone": "fantom"}, "no backbone is named 'fantom'; do you mean phantom"),
    "patients": ({"patients": np.zeros(6)}, r"the classes have images of \[1, 1\] patients"),
    "ids": ({"patients": ["a"]}, "6 images but patient ids of shape"),
    "same": (
        {"images": [*xrays(3)[0][:5], xrays(3)[0][0]]},
        r"image 5 \(pneumonia\) is the same as image 0 \(normal\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_become_a_classifier(name: str) -> None:
    changed, message = BAD[name]
    images, codes = xrays(3)
    about = {"images": images, "labels": codes, "classes": PAIR, "name": "x"} | changed
    with pytest.raises(DataError, match=message):
        few_shot(about.pop("images"), about.pop("labels"), about.pop("classes"), **about)


@pytest.mark.parametrize("name", ["line", "long", "no name", "about", "scalar"])
def test_networks_that_could_not_be_saved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, message = BAD[name]
    monkeypatch.setattr(bundle_build, "features_of", lambda *a: pytest.fail("computed before the check"))
    with pytest.raises(DataError, match=message):
        network(**changed)


@pytest.mark.parametrize("finding", ["none", "None ", "mass, large"])
def test_findings_whose_names_an_answer_could_not_tell(finding: str) -> None:
    with pytest.raises(DataError, match=f"a finding is called '{finding}', and an answer lists findings"):
        network("multilabel", classes=("nodule", finding, "oedema"))
    assert check_names(("nodule", finding)) == ("nodule", finding)  # of one label an image it is a name


@given(st.lists(st.text(max_size=4), max_size=4))
def test_names_are_taken_as_they_are_or_refused(names: list[str]) -> None:
    good = all(n.strip() and n.isprintable() for n in names) and names
    same = len({" ".join(n.split()).casefold() for n in names}) < len(names)
    if good and not same:
        assert check_names(names) == tuple(names)
    else:
        with pytest.raises(DataError, match="give "):
            check_names(names)


def test_the_same_image_twice_is_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = [], bundle_fit.fit
    monkeypatch.setattr(bundle_fit, "fit", lambda *a, **o: seen.append(a[3]) or original(*a, **o))
    images, codes = xrays(5)
    images[1] = images[0]
    few_shot(images, codes, PAIR, name="x", backbone="pixels")
    assert seen[0].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


# ---- networks


@pytest.mark.parametrize(("kind", "task"), [("binary", "binary"), ("multilabel", "findings")])
def test_a_trained_network_answers_as_it_did(kind: str, task: str, tmp_path: Path) -> None:
    ds = synthetic.load("synthetic", size=64, n_patients=40, progress=False)
    ds = ds.binary() if kind == "binary" else ds
    train, val = (np.flatnonzero((ds.records["split"] == s).to_numpy()) for s in ("train", "val"))
    config = Config(epochs=1, batch_size=16, monitor=(), patience=0)
    outputs = 1 if kind == "binary" else 3
    labels = ds.labels if kind == "binary" else np.eye(3, dtype=int)[ds.labels]
    model = classifiers.build("cnn-small", outputs, seed=0)
    if kind == "binary":
        model = training.fit(model, ds, train=train, val=val, config=config, progress=False).model("last")
    z = training.predict(model.eval(), ds.images[val])
    temperature = fit_temperature(z, labels[val], kind=kind)
    p = probabilities(z, kind, temperature=temperature)
    threshold = threshold_for_sensitivity(labels[val], p, wanted=0.9) if kind == "binary" else 0.5
    about = {"classes": ds.classes, "size": 64, "temperature": temperature, "architecture": "cnn-small"}
    about |= {
        "images": ds.images[train],
        "labels": labels[train],
        "patients": ds.patients[train],
        "name": task,
    }
    bundle = from_network(
        model, thresholds=[threshold] * outputs, about={"metrics": {"auroc": "0.9"}}, **about
    )
    answers = Predictor(load(save(bundle, tmp_path / "net"))).answer(ds.images[val])
    np.testing.assert_allclose(answers.probabilities, p, atol=1e-5)
    assert bundle.card["metrics"] == {"auroc": "0.9"}
    assert bundle.card["calibration"] == f"temperature {temperature:.4g}"
    assert bundle.card["training"]["patients"] == len(set(ds.patients[train]))
    assert len(bundle.support.images) <= 50


def test_later_training_does_not_change_a_bundle() -> None:
    images, codes = xrays(5)
    model = classifiers.build("cnn-small", 1)
    about = {
        "classes": PAIR,
        "size": 64,
        "temperature": 1,
        "thresholds": [0.5],
        "images": images,
        "labels": codes,
    }
    bundle = from_network(model, name="x", architecture="cnn-small", **about)
    assert model.training
    before = Predictor(bundle).answer(images).probabilities
    model.head[1].weight.data.fill_(9)
    next(model.body.parameters()).data.fill_(9)
    np.testing.assert_array_equal(Predictor(bundle).answer(images).probabilities, before)


def test_networks_that_do_not_fit_their_images() -> None:
    with pytest.raises(
        DataError, match=r"images \(10, 64, 64\) of a network for 32 pixels; give them as it was"
    ):
        network(images=xrays(5)[0], size=32)
    for labels in (np.arange(10), np.zeros((10, 3), int), np.zeros(9, int)):
        with pytest.raises(DataError, match=r"labels \(.* of 10 images and 2 classes; give codes, or 0/1"):
            network(labels=labels)


def test_rare_findings_are_among_the_pictures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (400, 64, 64), dtype=np.uint8)
    labels = np.zeros((400, 3), int)
    labels[:300, 0] = labels[5, 1] = labels[7, 2] = labels[9, 2] = 1
    bundle = network("multilabel", images=images, labels=labels)
    kept = bundle.support.labels
    assert (len(kept), bundle.classes) == (50, FINDINGS)
    assert kept[:, 1:].sum(axis=0).tolist() == [1, 2]
    assert 20 <= (kept.sum(axis=1) == 0).sum() <= 25
    assert (
        len(
            network(
                "multilabel", images=np.tile(images, (2, 1, 1)), labels=np.tile(labels, (2, 1))
            ).known.features
        )
        == 500
    )


# ---- the embedded one


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A smaller one; how many images each making of it has."""
    made: list[int] = []
    original: Callable = bundle_build.few_shot

    def counted(images: np.ndarray, *args: object, **options: object) -> object:
        made.append(len(images))
        return original(images, *args, **options)

    monkeypatch.setattr(bundle_build, "few_shot", counted)
    monkeypatch.setattr(bundle_embedded, "SHOTS", 5)
    monkeypatch.delenv("XRAYKIT_BUNDLES_DIR", raising=False)
    return made


def test_the_embedded_bundle_is_made_once(
    tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = embedded(tmp_path)
    assert folder == tmp_path / "bundles" / "synthetic-phantom"
    assert embedded(tmp_path) == folder
    assert made == [10]
    bundle = load(folder)
    assert bundle.card["training"]["images"] == {"normal": 5, "pneumonia": 5}
    weights = folder / "backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    embedded(tmp_path)
    assert made == [10, 10]
    assert load(folder).card == bundle.card
    monkeypatch.setattr(bundle_embedded, "__version__", "99")
    embedded(tmp_path)
    embedded(tmp_path)
    assert made == [10, 10, 10]


def test_of_two_calls_at_once_one_makes_it(tmp_path: Path, made: list[int]) -> None:
    threads = [threading.Thread(target=embedded, args=(tmp_path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert made == [10]
    assert load(tmp_path / "bundles" / "synthetic-phantom").classes == PAIR


def test_a_folder_of_yours_is_not_taken_for_the_embedded_bundle(tmp_path: Path, made: list[int]) -> None:
    other = save(replace(estimator(), name="mine"), tmp_path / "bundles" / "mine")
    embedded(tmp_path)
    assert load(other).name == "mine"
    assert fitted_part(load(other).head).n_features_in_ == 256


def test_a_bundle_of_yours_in_its_place_is_not_replaced(tmp_path: Path, made: list[int]) -> None:
    folder = save(replace(estimator(), name="mine"), tmp_path / "bundles" / "synthetic-phantom")
    with pytest.raises(
        BundleError, match=r"synthetic-phantom is where the embedded .* is not replaced; rename that folder"
    ):
        embedded(tmp_path)
    assert (made, load(folder).name) == ([], "mine")
    folder.rename(folder.with_name("mine"))
    assert embedded(tmp_path) == folder
    assert made == [10]
    (folder / JSON).write_text("{")  # whose it is cannot be told any more
    with pytest.raises(BundleError, match="rename that folder"):
        embedded(tmp_path)


def test_the_pixels_of_repeated_images_are_not_kept() -> None:
    images = [*xrays(3)[0]]
    images[4] = images[3].copy()
    rows = repeats(images, np.repeat([0, 1], 3), PAIR)
    assert rows.tolist() == [0, 1, 2, 3, 3, 5]
    assert len(_key(images[0])[1]) == 32
    assert _key(images[0]) != _key(images[0].reshape(32, 128))
    assert _key(images[0].T) == _key(images[0].T.copy())
