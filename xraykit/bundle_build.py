"""Bundles made: from a few labelled images, from a trained network, and the one that works at once."""

import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xraykit import backbones, bundle_cards, bundle_embedded, bundle_fit, known
from xraykit.bundle import Bundle, Support, applied
from xraykit.bundle_cards import card_of, judged, of_estimator
from xraykit.bundle_embedded import CLASSES, NAME, drawn, made_by
from xraykit.bundle_engines import features_of
from xraykit.bundle_files import bundles_dir, save
from xraykit.bundle_inputs import check_each, check_labels, check_texts, check_training, repeats
from xraykit.classifiers import Classifier, as_backbone
from xraykit.errors import DataError
from xraykit.images import Preprocess
from xraykit.labels import patient_codes
from xraykit.storage import locked

MOST_SUPPORT = 50
SMALLEST = 64  # pixels a side of a bundle's pictures, whatever little its backbone takes


def few_shot(
    images: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    backbone: str = "phantom",
    classifier: str = "logistic regression",
    name: str,
    patients: np.ndarray | None = None,
    seed: int = 0,
    threshold: float = 0.5,
    about: Mapping[str, object] | None = None,
    known_images: np.ndarray | Sequence[np.ndarray] | None = None,
    known_patients: np.ndarray | None = None,
    pictures: bool = True,
    preprocess: Preprocess | None = None,
    weights_dir: str | Path | None = None,
) -> Bundle:
    """A calibrated classifier of a frozen backbone's features, from a handful of labelled images on.

    Features are standardised and the scores calibrated by Platt's method; both are done anew in each fold of
    the cross-validation that judges them (`bundle_fit`), whose scores stand in ``card["cross_validated"]``.

    Args:
        images: uint8 (N, H, W), or N of (h, w) of different sizes, as read from their files.
        labels: class codes (N,), 0 to K - 1, at least 3 images of each.
        classes: K names; of two the second is the positive one.
        backbone: as `backbones.load` takes it, of the package or a library.
        classifier: of `fewshot_classifiers.CLASSIFIERS`.
        name: of the bundle, for humans.
        patients: ids (N,), at least 3 a class; without them each image is a patient of its own.
        seed: of the folds, the bootstrap and of what is drawn.
        threshold: of two classes, for the probability of the second, 0 to 1.
        about: further entries of the card as JSON values, such as data, licence and citation.
        known_images: M other images of the same kind, which need no labels.
        known_patients: ids (M,) of theirs, where `patients` are given; else each is a patient of its own.
        pictures: keep up to `MOST_SUPPORT` of the images inside, to be shown beside answers. Without them no
            picture travels with the bundle, and `bundle.neighbours` has nothing to show.
        preprocess: what happens to each image; None resizes it to what the backbone takes.
        weights_dir: folder of weight files, see `backbones.weights_path`.

    Raises:
        DataError: images, labels, classes or options that do not go together; the message says which.
    """
    check_texts(name, about)
    codes = check_labels(labels, classes, n=check_each(images))
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold {threshold}; give a probability, 0 to 1")
    same = repeats(images, codes, classes)
    who, _ = patient_codes(same if patients is None else patients, len(codes))
    loaded = backbones.load(backbone, weights_dir=weights_dir)
    preprocess = preprocess or Preprocess(size=max(loaded.size, SMALLEST))
    seen = applied(preprocess, images)
    features = features_of(loaded, seen)
    head = bundle_fit.fit(classifier, features, codes, who, seed=seed)
    p, n_folds = bundle_fit.out_of_fold(classifier, features, codes, who, seed=seed)
    inside = {"backbone": loaded, "about": about or {}, "pictures": pictures}
    card = card_of(seen, codes, classes, who=who, given=patients is not None, **inside)
    card |= of_estimator(classifier, bundle_fit.informed(head), threshold if len(classes) == 2 else None)
    card["cross_validated"] = judged(codes, p, who, n_folds=n_folds, threshold=threshold, seed=seed)
    known_features, known_who = features, who
    if known_images is not None:
        more = features_of(loaded, applied(preprocess, known_images))
        known_features = np.concatenate([features, more])
        known_who = _of_known(who, patients, known_patients, n=len(more))
    return Bundle(
        name=name,
        kind="binary" if len(classes) == 2 else "multiclass",
        classes=tuple(classes),
        preprocess=preprocess,
        architecture=backbone.partition(":")[0],
        backbone=loaded,
        head=head,
        temperature=1.0,
        thresholds=(float(threshold),) if len(classes) == 2 else (),
        known=known.fit(known_features, patients=known_who),
        support=_support(seen, codes, features, seed=seed) if pictures else None,
        card=card,
    )


def _of_known(
    who: np.ndarray, patients: np.ndarray | None, known_patients: np.ndarray | None, *, n: int
) -> np.ndarray:
    """Integer codes of the patients of the labelled images and of n known ones behind them."""
    if known_patients is None:
        return np.concatenate([who, who.max() + 1 + np.arange(n)])
    if patients is None or len(known_patients) != n:
        raise DataError(
            f"{len(known_patients)} known_patients for {n} known images, and patients of the others "
            f"{'missing' if patients is None else 'given'}; give ids for all images of both, or leave it out"
        )
    return patient_codes(np.concatenate([patients, known_patients]), len(who) + n)[0]


def _support(images: np.ndarray, labels: np.ndarray, features: np.ndarray, *, seed: int) -> Support:
    """At most `MOST_SUPPORT` of the images, of each class or finding about as many as of the others."""
    order, groups = np.random.default_rng(seed).permutation(len(images)), labels
    if labels.ndim == 2:  # an image stands for its rarest finding
        rarity = np.where(labels, -labels.sum(axis=0), -np.inf)
        groups = np.where(labels.any(axis=1), rarity.argmax(axis=1), labels.shape[1])
    place = np.empty(len(images), np.int64)
    for group in np.unique(groups):
        mine = order[groups[order] == group]
        place[mine] = np.arange(len(mine))
    pick = np.sort(np.lexsort((groups, place))[:MOST_SUPPORT])
    return Support(images[pick], labels[pick], features[pick])


def from_network(
    model: Classifier,
    *,
    classes: Sequence[str],
    size: int,
    temperature: float,
    thresholds: Sequence[float],
    images: np.ndarray,
    labels: np.ndarray,
    name: str,
    architecture: str,
    about: Mapping[str, object] | None = None,
    patients: np.ndarray | None = None,
    seed: int = 0,
    pictures: bool = True,
    preprocess: Preprocess | None = None,
) -> Bundle:
    """A trained network with the temperature and thresholds that were found on its validation split.

    Args:
        model: from `classifiers.build` and a training; it is copied.
        classes: names; of two classes, for which there is one logit, the second is the positive one.
        size: side of the images that it was trained with, in pixels.
        temperature: of its logits, from `decisions.fit_temperature`; 1 leaves them as they are.
        thresholds: of two classes one, of findings one each, of three classes or more none.
        images: uint8 (N, size, size), training images as the network saw them; at least 6.
        labels: their class codes (N,), or 0/1 (N, K) of findings, of which an image may have several.
        architecture: what `classifiers.build` was given; its weights, behind a colon, are left out.
        about: further entries of the card as JSON values, such as metrics, and how temperature
            (``calibration``) and thresholds (``threshold``) were found.
        patients: ids (N,), so that the images of one are not taken for several.
        preprocess: how the images came from their files; None is a resize to `size`.
        seed, pictures: as in `few_shot`.

    Raises:
        DataError: images of another size, labels that do not fit the classes, or names or entries of the card
            that cannot be saved.
    """
    check_texts(name, about)
    preprocess, k = preprocess or Preprocess(size=size), len(classes)
    if preprocess.size != size:
        raise DataError(f"preprocess makes {preprocess.size} pixels, and size is {size}; give the same")
    labels = check_training(images, labels, classes, size=size)
    who, _ = patient_codes(np.arange(len(images)) if patients is None else patients, len(images))
    model = copy.deepcopy(model).cpu().float().eval()
    body = as_backbone(model, name=f"{model.name}, trained", size=size, pretraining=model.pretraining)
    pick = known.chosen(len(images))
    features = features_of(body, images[pick])
    found = {
        "calibration": f"temperature {temperature:.4g}",
        "threshold": ", ".join(f"{t:.4g}" for t in thresholds),
    }
    inside = {"backbone": body, "about": found | dict(about or {}), "pictures": pictures}
    return Bundle(
        name=name,
        kind="multilabel" if labels.ndim == 2 else "binary" if k == 2 else "multiclass",
        classes=tuple(classes),
        preprocess=preprocess,
        architecture=architecture.partition(":")[0],
        backbone=body,
        head=model,
        temperature=float(temperature),
        thresholds=tuple(float(t) for t in thresholds),
        known=known.fit(features, patients=who[pick]),
        support=_support(images[pick], labels[pick], features, seed=seed) if pictures else None,
        card=card_of(images, labels, classes, who=who, given=patients is not None, **inside),
    )


def embedded(data_dir: str | Path | None = None, *, progress: bool = False) -> Path:
    """The folder of the bundle that needs nothing but this package, made on the first call in some seconds.

    `few_shot` with phantom and logistic regression on `bundle_embedded.SHOTS` synthetic X-rays each of normal
    and pneumonia, of training patients. A folder of another version of the package or of the recipe, or a
    damaged one, is made again; of two calls at once the second waits.

    Args:
        data_dir: as in `bundle_files.bundles_dir`.
        progress: a bar while the images are made.

    Raises:
        BundleError: the folder holds something else than an embedded bundle, which is never replaced.
        StorageError: the folder cannot be written.
    """
    folder = bundles_dir(data_dir) / NAME
    wanted = bundle_embedded.recipe([sys.modules[__name__], bundle_cards, bundle_embedded, bundle_fit, known])
    if made_by(folder, wanted):
        return folder
    with locked(folder.with_name(f".{NAME}.making"), waiting="another run makes the embedded classifier"):
        if made_by(folder, wanted):
            return folder
        bundle_embedded.check_place(folder)
        images, codes, patients = drawn(size=backbones.load("phantom").size, progress=progress)
        about = {"data": "synthetic chest X-rays of this package, one a patient", "licence": "MIT"}
        about |= {"citation": "xraykit", "recipe": wanted}
        made = few_shot(
            images, codes, CLASSES, name="synthetic X-rays, phantom", patients=patients, about=about
        )
        return save(made, folder)
