"""What answers an episode: the same images for all, rates and steps chosen on validation episodes."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import Normalizer, StandardScaler
from test_maml_training import FINDINGS, VAL, blobs

from xraykit import backbones, classifiers, episode_methods, maml
from xraykit.episode_methods import Picked, answers, asked_of, choose_adaptation, fine_tunings, probes
from xraykit.episodes import Tasks
from xraykit.errors import DataError
from xraykit.maml import Inner, Learner
from xraykit.metrics import per_draw

DS = blobs()


def learner(rate: float = 0.1, **inner: object) -> Learner:
    return Learner(classifiers.build("cnn-small-group-norm", 1), Inner(rate=rate, **inner))


def test_every_finding_has_the_largest_shots_that_its_patients_allow():
    rows = np.r_[np.flatnonzero(DS.records["Edema"])[:6], np.arange(100, 240)]
    rows = rows[(DS.records["Edema"].to_numpy()[rows] == 0) | (rows < 100)]
    asked, few = asked_of(
        DS, rows, ["Edema", "Mass"], shots=(1, 3, 10), queries=2, n_episodes=6, seed=0, run=4
    )
    assert [(one.run, one.episode.finding, one.episode.support.shape[1]) for one in asked] == [
        (4, "Edema", 3),
        (4, "Mass", 10),
    ] * 3
    assert few == {"Edema": 6}  # room for 4 shots, of which 3 are wanted
    with pytest.raises(DataError, match=r"none of Edema has 5 \+ 2 patients a class"):
        asked_of(DS, rows, ["Edema"], shots=(5,), queries=2, n_episodes=6, seed=0)


def test_all_methods_see_the_same_images_and_smaller_shots_the_first_of_larger_ones():
    asked, _ = asked_of(DS, VAL, ["Edema", "Mass"], shots=(1, 4), queries=2, n_episodes=4, seed=0)
    seen: dict[str, list] = {"a": [], "b": []}

    def method(name: str):
        return lambda episode: seen[name].append(episode.support) or np.full((4, 2), 0.5)

    for k in (1, 4):
        some, found = answers({0: {name: method(name) for name in seen}}, asked, shots=k)
        assert [one.episode.support.shape for one in some] == [(2, k)] * 4
        assert {name: len(p) for name, p in found.items()} == {"a": 4, "b": 4}
    for a, b in zip(seen["a"], seen["b"], strict=True):
        np.testing.assert_array_equal(a, b)
    for small, large in zip(seen["a"][:4], seen["a"][4:], strict=True):
        np.testing.assert_array_equal(small, large[:, :1])


def test_episodes_without_so_many_shots_are_left_out():
    asked, _ = asked_of(DS, VAL, ["Edema"], shots=(2,), queries=2, n_episodes=2, seed=0)
    assert answers({0: {"a": lambda episode: episode}}, asked, shots=3) == ([], {"a": []})


def test_probes_are_scikit_learns_classifiers_on_standardised_unit_features():
    x = np.random.default_rng(0).normal(size=(240, 5)).astype(np.float32)
    episode = Tasks(DS, VAL, ["Mass"], shots=5, queries=3, seed=0).episode(0)
    pool = np.arange(160)
    found = probes({"toy": x}, pool)
    assert list(found) == ["logistic regression, toy", "SVC, toy", "prototypes, toy"]
    z = Normalizer().fit_transform(StandardScaler().fit(x[pool]).transform(x))
    support, queries, y = z[episode.support.ravel()], z[episode.query.ravel()], episode.support_labels
    wanted = LogisticRegression(C=10.0, tol=1e-8, solver="newton-cholesky").fit(support, y)
    p = found["logistic regression, toy"](episode)
    np.testing.assert_allclose(p, wanted.predict_proba(queries), atol=1e-4)
    nearest = NearestCentroid().fit(support, y).predict(queries)
    np.testing.assert_array_equal(found["prototypes, toy"](episode).argmax(axis=1), nearest)


def test_fine_tuning_begins_at_the_shared_body_and_scratch_at_random_weights():
    shared = backbones.load("cnn-small-group-norm", seed=5)
    found = fine_tunings(shared, "cnn-small-group-norm", rates=(0.1, 0.3), seed=0)
    assert {name: [one.inner.rate for one in many] for name, many in found.items()} == {
        "from scratch": [0.1, 0.3],
        "fine-tuned head": [0.1, 0.3],
        "fine-tuned all": [0.1, 0.3],
    }
    first = dict(shared.module.named_parameters())
    for name, same in (("fine-tuned head", True), ("fine-tuned all", True), ("from scratch", False)):
        body = dict(found[name][0].net.body.named_parameters())
        assert all(torch.equal(body[key], value) for key, value in first.items()) == same
    head, everything = found["fine-tuned head"][0], found["fine-tuned all"][0]
    assert (len(head.adapting), len(everything.adapting)) == (2, len(dict(everything.net.named_parameters())))


def test_rate_and_steps_with_the_best_mean_auroc_are_picked():
    tasks = Tasks(DS, VAL, FINDINGS[:2], shots=3, queries=4, seed=0)
    episodes, steps = [tasks.episode(i) for i in range(4)], [1, 2, 4]
    learners = [learner(0.01), learner(0.1)]
    table = {}
    for i, one in enumerate(learners):
        for step in steps:
            p = [maml.curve(one, DS.images, e, steps=step)[-1] for e in episodes]
            areas = [per_draw(e.query_labels, [x], "auroc")[0] for e, x in zip(episodes, p, strict=True)]
            table[i, step] = np.mean(areas)
    picked = choose_adaptation(learners, DS.images, episodes, steps=steps)
    i, step = max(table, key=lambda key: (table[key], -key[0], -key[1]))
    assert (picked.learner, picked.steps) == (learners[i], step)
    assert picked.auroc == pytest.approx(table[i, step])
    wanted = maml.curve(picked.learner, DS.images, episodes[0], steps=step)[-1]
    np.testing.assert_allclose(picked.method(DS.images)(episodes[0]), wanted, atol=1e-6)


def test_what_diverges_is_not_picked_and_guesses_where_it_was():
    episode = Tasks(DS, VAL, ["Mass"], shots=3, queries=4, seed=0).episode(0)
    wild, tame = learner(1e30), learner(0.01)
    assert choose_adaptation([wild, tame], DS.images, [episode], steps=[1, 3]).learner is tame
    with pytest.raises(DataError, match="none of 1 learners adapts without diverging"):
        choose_adaptation([wild], DS.images, [episode], steps=[1, 3])
    picked = Picked(wild, 3, 0.0)
    np.testing.assert_array_equal(picked.method(DS.images)(episode), np.full((8, 2), 0.5))
    assert picked.diverged == [episode]


def test_the_names_of_the_probes_are_those_of_the_notebook():
    assert list(episode_methods.PROBES) == ["logistic regression", "SVC", "prototypes"]
