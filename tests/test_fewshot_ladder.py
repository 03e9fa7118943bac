"""The few-shot ladder: what is chosen on a development fold, and that test images decide nothing."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from toy_backbones import toy
from typer.testing import CliRunner

from xraykit import datasets, fewshot, fewshot_ladder_run, metrics, profiles, results, splits
from xraykit.backbones import Pretraining, from_module
from xraykit.cli import app
from xraykit.errors import DataError
from xraykit.fewshot_heads import SVC, evaluate_heads
from xraykit.fewshot_ladder import Choice, check_held_out, choose, climb, joined, table
from xraykit.fewshot_transforms import side_by_side

Y = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def sure(*wrong: int) -> np.ndarray:
    """One draw of probabilities that are right about all of `Y` but the images `wrong`."""
    p = np.where(Y == 1, 0.9, 0.1)
    p[list(wrong)] = 1 - p[list(wrong)]
    return np.stack([1 - p, p], axis=1).astype(np.float32)[None]


def test_each_rung_takes_its_best_head_and_the_ensemble_begins_with_the_best_rung():
    found = {
        ("a", "x", 5): sure(0, 1),
        ("a", "y", 5): sure(0),
        ("b", "x", 5): sure(1, 4, 5),
        ("b", "y", 5): sure(1, 4, 5, 6),
        ("c", "x", 5): sure(0, 4),
        ("c", "y", 10): sure(),
    }
    choice = choose(found, Y, shots=5)
    assert choice.heads == {"a": "y", "b": "x", "c": "x"}
    assert choice.members == ("a",)  # with any other one the mean of two is no better
    assert choice.rung == "a"


def test_a_member_joins_only_if_the_ensemble_gains():
    """Two that doubt different images are right about all together; the third could not better that."""
    found = {("a", "x", 5): sure(0, 1)}
    for name, i in (("b", 1), ("c", 2)):
        doubtful = sure().copy()
        doubtful[0, i] = (0.45, 0.55)
        found[name, "x", 5] = doubtful
    choice = choose(found, Y, shots=5)
    assert choice.members == ("b", "c")
    assert metrics.per_draw(Y, joined(found, choice, shots=5), "macro_f1") == [1]
    assert max(metrics.per_draw(Y, p, "macro_f1")[0] for p in found.values()) < 1


def test_joined_is_the_mean_of_the_members_with_their_own_heads():
    found = {("a", "x", 5): sure(0), ("a", "y", 5): sure(1), ("b", "x", 5): sure(2), ("b", "y", 5): sure(3)}
    mean = joined(found, Choice({"a": "y", "b": "x"}, ("b", "a")), shots=5)
    assert np.allclose(mean, (sure(1) + sure(2)) / 2)


def test_table_has_a_gap_where_a_rung_lacks_a_head_and_refuses_shots_that_were_not_tried():
    found = {("a", "x", 5): sure(), ("b", "x", 5): sure(), ("b", "y", 5): sure(0, 1, 2, 3, 4, 5, 6, 7)}
    shown = table(found, Y, shots=5)
    assert np.isnan(shown.loc["a", "y"])
    assert shown.loc["a", "x"] == 1
    assert shown.loc["b", "y"] == 0
    with pytest.raises(DataError, match=r"nothing was evaluated with 7 shots; choose of \[5\]"):
        table(found, Y, shots=7)


def test_climb_is_evaluate_heads_on_every_rung():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 30)
    pairs = {
        name: (
            (rng.normal(size=(60, d)) + y[:, None]).astype(np.float32),
            rng.normal(size=(9, d)).astype("f4"),
        )
        for name, d in (("a", 4), ("b", 6))
    }
    support = fewshot.draws(y, np.arange(60).astype(str), shots=[5], n_draws=2, seed=0)
    found = climb(pairs, y, support=support, shots=[5])
    for name, (pool, query) in pairs.items():
        for (head, k), p in evaluate_heads(pool, y, query, support=support, shots=[5]).items():
            assert np.array_equal(found[name, head, k], p)


# On a data set


@pytest.fixture(scope="module")
def ds():
    return datasets.load("synthetic", size=32, n_patients=240, progress=False)


@pytest.fixture(scope="module")
def plan(ds):
    return fewshot_ladder_run.plan(ds.split("train"), shots=(4, 8), n_draws=3, seed=0)


@pytest.fixture(scope="module")
def ladder(ds, plan, tmp_path_factory):
    where = {"cache_dir": tmp_path_factory.mktemp("cache"), "precision": "fp32", "backend": "torch"}
    backbones = [toy(0, name="main"), toy(1, name="other")]
    return fewshot_ladder_run.rungs(ds, backbones, plan=plan, n_views=2, progress=False, **where)


def test_plan_keeps_patients_apart(ds, plan):
    train = ds.split("train")
    assert not set(train.patients[plan.inside]) & set(train.patients[plan.dev])
    assert np.array_equal(plan.dev, splits.development(train, seed=0)[1])
    y = train.binary().labels
    for rows, support in ((plan.inside, plan.support), (np.arange(len(train)), plan.support_of_train)):
        for draw in support:
            assert len(set(train.patients[rows][draw.ravel()])) == draw.size
            assert (y[rows][draw] == [[0], [1]]).all()
    assert set(plan.drawn) == set(plan.inside[plan.support].ravel()) | set(plan.support_of_train.ravel())


def test_rungs_are_the_backbones_two_layers_and_all_side_by_side(ladder, ds, plan):
    assert set(ladder.train) == {"main", "other", "main at 1"}
    rows, query = plan.inside, plan.dev
    pairs = ladder.pairs(rows, query)
    assert set(pairs) == {*ladder.train, "main, two layers", "side by side"}
    joint = side_by_side([(ladder.train[n][rows], ladder.train[n][query]) for n in ("main", "other")])
    assert np.array_equal(pairs["side by side"][0], joint[0])
    assert np.array_equal(pairs["side by side"][1], joint[1])
    test = {name: query for name, (_, query) in ladder.pairs(rows).items()}
    assert all(np.array_equal(test[name], x) for name, x in ladder.test.items())
    n = len(ds.split("train"))
    assert {x.shape[0] for x in ladder.train.values()} == {n}
    features, rows = ladder.views
    assert features.shape == (2, len(plan.drawn), ladder.train["main"].shape[1])
    assert np.array_equal(rows, plan.drawn)


def test_development_does_not_see_test(ladder, ds, plan, tmp_path):
    """Other test features, the same choice; and the ledger has the medians that decided."""
    train = ds.split("train")
    other = fewshot_ladder_run.Rungs(
        ladder.train, {k: -v for k, v in ladder.test.items()}, ladder.together, ladder.views, ladder.main
    )
    run = new_run(tmp_path)
    first, second = (fewshot_ladder_run.develop(run, x, train, plan) for x in (ladder, other))
    assert first.choices == second.choices
    rows = results.numbers(run.folder)
    assert set(rows["split"]) == {"development"}
    k = plan.shots[0]
    shown = table(first.found, first.labels, shots=k)
    row = rows[
        (rows["method"] == f"ladder, {SVC}") & (rows["backbone"] == "main") & (rows["shots"] == str(k))
    ]
    assert row.set_index("metric")["value"]["macro_f1"] == pytest.approx(shown.loc["main", SVC], rel=1e-5)


def test_the_look_at_test_is_logged_and_has_an_interval_for_everything(ladder, ds, plan, tmp_path):
    train, test, run = ds.split("train"), ds.split("test"), new_run(tmp_path)
    developed = fewshot_ladder_run.develop(run, ladder, train, plan)
    seen = fewshot_ladder_run.look(run, ladder, train, test, plan, developed, n_boot=20)
    assert seen["ci_low"].notna().all()
    assert (seen["ci_low"] <= seen["ci_high"]).all()
    log = pd.read_csv(run.folder / "test_log.csv")
    looked = seen[seen["metric"] == "macro_f1"]
    assert len(log) == len(looked)
    told = [json.loads(text) for text in log["configuration"]]
    for k in plan.shots:
        choice = developed.choices[k]
        frozen = {t["backbone"]: t["head"] for t in told if t["shots"] == k and "head" in t}
        assert frozen == choice.heads
        ensemble = [t for t in told if t["shots"] == k and t["backbone"] == "ensemble"]
        assert [t["members"] for t in ensemble] == [list(choice.members)]
        one = looked[(looked["shots"] == k) & (looked["rung"] == "main")].set_index("head")["value"]
        assert one[fewshot_ladder_run.CHOSEN] == one[choice.heads["main"]]
    gains = seen[(seen["metric"] == "macro_f1 difference") & (seen["rung"] == "main")]
    assert len(gains) == len(plan.shots) * (
        table(developed.found, developed.labels, shots=plan.shots[0]).shape[1] - 1
    )


def test_a_network_that_saw_the_development_fold_is_refused(ds, plan):
    dev = ds.split("train").patients[plan.dev]
    fair, unfair = (
        from_module(
            toy().module,
            name="mine",
            size=16,
            pretraining=Pretraining(("synthetic (train without the development fold)",), held_out=held),
        )
        for held in (splits.digest(dev), splits.digest(dev[:3]))
    )
    check_held_out([fair, toy()], "synthetic", dev)
    check_held_out([unfair], "kermany", dev)
    relative = replace(unfair, pretraining=Pretraining(("kermany (train without the development fold)",)))
    with pytest.raises(DataError, match="mine was pretrained on images of pneumoniamnist"):
        check_held_out([relative], "pneumoniamnist", dev)
    with pytest.raises(DataError, match=r"mine was pretrained on images of synthetic .* --fold-seed"):
        check_held_out([fair, unfair], "synthetic", dev)


def test_backbones_of_one_name_and_pixels_first_are_refused(ds, plan, tmp_path):
    where = {"plan": plan, "n_views": 1, "cache_dir": tmp_path, "precision": "fp32"}
    with pytest.raises(DataError, match="two backbones are called same; rename one"):
        fewshot_ladder_run.rungs(ds, [toy(0, name="same"), toy(1, name="same")], **where)
    with pytest.raises(DataError, match="pixels comes first but has no layers; put a network first"):
        fewshot_ladder_run.rungs(ds, [toy(name="pixels")], **where)


def new_run(folder):
    about = {"profile": "quick", "seed": 0, "figures_dir": folder}
    return results.Run(notebook="04", dataset="synthetic", **about)


def test_the_command_chooses_looks_once_and_says_what_it_chose(tmp_path, monkeypatch):
    few = vars(profiles.sizes("04", "quick")) | {
        "n_patients": 240,
        "image_size": 32,
        "n_draws": 2,
        "n_boot": 20,
    }
    monkeypatch.setattr(profiles, "sizes", lambda notebook, profile: SimpleNamespace(**few))
    options = ["--backbones", "phantom; pixels", "--figures-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, ["ladder", *options])
    assert result.exit_code == 0, result.output
    rows = results.numbers(tmp_path / "synthetic")
    frozen = rows[(rows["method"] == f"ladder, {fewshot_ladder_run.CHOSEN}") & (rows["split"] == "test")]
    assert set(frozen["backbone"]) == {"phantom", "pixels", "phantom at blocks.1", "phantom, two layers"}
    assert "a class, chosen on development: " in result.stdout
    assert (tmp_path / "synthetic" / "04_ladder.png").is_file()
    for value in frozen["text"]:
        assert value in result.stdout
    other = CliRunner().invoke(app, ["ladder", *options[2:], "--backbones", "phantom"])
    assert isinstance(other.exception, DataError)
    assert "has the ladder of other networks (phantom; pixels); choose another --figures-dir" in str(
        other.exception
    )
