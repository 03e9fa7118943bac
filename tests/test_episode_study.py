"""Who is in a rotation, what training may see, and what a published comparison does wrong."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_maml_training import FINDINGS, blobs

from xraykit import backbones, classifiers, episode_mistakes, episode_study, maml, results
from xraykit.datasets import XrayDataset
from xraykit.episode_methods import Picked, answers, asked_of
from xraykit.episode_scores import Jury
from xraykit.episodes import Episode, Tasks
from xraykit.errors import DataError
from xraykit.maml import Inner, Learner
from xraykit.maml_config import MetaConfig
from xraykit.training_config import Config

CONFIG = Config(epochs=1, batch_size=16, augment=None, monitor=("auroc",))
QUIET = {"device": "cpu", "progress": False}


def several(n: int = 1200) -> XrayDataset:
    """Blobs of many patients with every second one in train, and some second findings."""
    ds = blobs(n)
    labels = ds.records[list(FINDINGS)].to_numpy().copy()
    some = np.arange(n) % 10 == 3
    labels[some, 0] = 1
    records = ds.records.assign(split=np.array(["train", "val", "train", "test"])[np.arange(n) // 10 % 4])
    records[list(FINDINGS)] = labels
    records["No Finding"] = (labels.sum(axis=1) == 0).astype(np.uint8)
    return replace(ds, records=records)


def test_training_and_validation_show_nothing_that_is_held_out():
    ds = several()
    found = episode_study.trials(ds, 3, numbers=range(3))
    assert sorted(f for trial in found for f in trial.held_out) == sorted(FINDINGS)
    for trial in found:
        assert trial.ds is ds
        for part, unseen in (("train", trial.unseen), ("val", trial.held_out)):
            shown = ds.records[list(unseen)].to_numpy()[trial.rows[part]]
            assert not shown.any()
        assert ds.records[list(trial.held_out)].to_numpy()[trial.rows["test"]].any()
        assert {part: set(ds.records["split"].iloc[rows]) for part, rows in trial.rows.items()} == {
            "train": {"train"},
            "val": {"val"},
            "test": {"test"},
        }
        tasks, watched = trial.tasks(shots=3, queries=3), trial.validation_tasks(shots=3, queries=3)
        assert set(tasks.findings) <= set(trial.train)
        assert set(watched.findings) <= set(trial.validation)


def test_patients_of_a_small_set_are_dealt_anew_in_each_rotation():
    ds = blobs(240)
    found = episode_study.trials(ds, 3, numbers=[0, 1])
    splits = [trial.ds.records["split"].to_numpy() for trial in found]
    assert (splits[0] != splits[1]).any()
    for split in splits:
        shares = pd.Series(split).value_counts(normalize=True)
        assert shares.sub(pd.Series(episode_study.SHARES)).abs().max() < 0.03
    again = episode_study.trials(ds, 3, numbers=[1])[0]
    np.testing.assert_array_equal(again.ds.records["split"].to_numpy(), splits[1])


def test_validation_takes_fewer_shots_where_patients_are_few():
    trial = episode_study.trials(several(), 3, numbers=[0])[0]
    rows = trial.rows["val"]
    of = [rows[trial.ds.records[f].to_numpy()[rows] == 1] for f in trial.validation]
    none = rows[~trial.ds.records[list(trial.validation)].to_numpy(bool)[rows].any(axis=1)]
    few = replace(trial, rows={**trial.rows, "val": np.r_[none, *(some[:6] for some in of)]})
    assert few.validation_tasks(shots=10, queries=2).shots == 4
    with pytest.raises(DataError, match="allow 0 shots"):
        few.validation_tasks(shots=10, queries=6)


def test_choices_are_made_on_other_episodes_than_meta_training_watches():
    trial = episode_study.trials(several(), 3, numbers=[0])[0]
    about = {"shots": 2, "queries": 2}
    watched = [trial.validation_tasks(**about).episode(i) for i in range(40)]
    chosen = trial.validation_episodes(10, **about)
    judged = trial.validation_episodes(10, first=10, **about)
    texts = [
        {str((e.support.tolist(), e.query.tolist())) for e in some} for some in (watched, chosen, judged)
    ]
    assert not texts[0] & texts[1]
    assert not texts[1] & texts[2]


def test_the_shared_loss_says_what_it_was_taught_and_a_leak_is_refused():
    trial = episode_study.trials(several(), 3, numbers=[0])[0]
    network = "cnn-small-group-norm"
    honest = episode_study.shared_loss(trial, network, config=CONFIG, **QUIET)
    assert set(honest.pretraining.labels) == set(trial.train)
    backbones.check_unseen(honest, trial.held_out)
    leaky = episode_study.shared_loss(trial, network, config=CONFIG, leak=True, **QUIET)
    assert set(leaky.pretraining.labels) == set(FINDINGS)
    with pytest.raises(DataError, match="was pretrained on labels of"):
        backbones.check_unseen(leaky, trial.held_out)


def test_meta_training_of_a_rotation_begins_at_the_network_it_is_given():
    trial = episode_study.trials(several(), 3, numbers=[2])[0]
    config = MetaConfig(epochs=1, steps_an_epoch=1, tasks=1, n_validation=1, learning_rate=1e-12)
    start = backbones.load("cnn-small-group-norm", seed=9)
    about = {"start": start, "config": config, "shots": 2, "queries": 2, **QUIET}
    learner = episode_study.meta_trained(trial, Inner(steps=1), **about).model()
    first = dict(start.module.named_parameters())
    for name, weight in learner.net.body.named_parameters():
        np.testing.assert_allclose(weight.detach(), first[name].detach(), atol=1e-6)


def one_episode(ds: XrayDataset, *, shots: int = 5) -> Episode:
    return Tasks(ds, np.arange(len(ds)), FINDINGS[:1], shots=shots, queries=5, seed=0).episode(0)


def picked(rate: float = 0.1, steps: int = 2, network: str = "cnn-small-group-norm") -> Picked:
    return Picked(Learner(classifiers.build(network, 1), Inner(rate=rate)), steps, 0.5)


def test_a_look_is_scored_recorded_and_logged(tmp_path):
    ds = blobs()
    run = results.Run(notebook="07", dataset="blobs", profile="quick", seed=0, figures_dir=tmp_path)
    asked, _ = asked_of(ds, np.arange(240), FINDINGS[:2], shots=(2,), queries=3, n_episodes=4, seed=0)
    some, said = answers({0: {"net": picked().method(ds.images)}}, asked, shots=2)
    jury = Jury(some, ds.patients, seed=0, n_boot=20)
    heard = episode_study.look(run, ds, jury, said, shots=2, settings={"steps": (1, 2)})
    rows = results.numbers(run.folder).set_index("metric")
    assert set(rows["split"]) == {"test"}
    assert rows.loc["auroc", "value"] == pytest.approx(heard["net"].scores()["auroc"].value, abs=1e-5)
    assert "net" in (run.folder / "test_log.csv").read_text()
    kept = pd.read_parquet(run.folder / "predictions.parquet")
    assert len(kept) == 4 * 6
    one = kept[kept["draw"] == 1].set_index("image_id")
    query = some[1].episode.query.ravel()
    ids = ds.records["image_id"].iloc[query]
    np.testing.assert_allclose(one.loc[ids, "score"], said["net"][1][:, 1], atol=1e-6)
    np.testing.assert_array_equal(one.loc[ids, "label"], some[1].episode.query_labels)

    value, low, high = episode_study.watch(
        run, jury, ds.images, {(0, "net"): picked()}, "net", shots=2, steps=2
    )
    assert value[2] == pytest.approx(heard["net"].scores()["auroc"].value)
    assert (low <= value).all()
    assert (value <= high).all()
    assert "net, 0 steps" in set(results.numbers(run.folder)["method"])


def test_fine_tuning_on_positives_alone_calls_everything_positive():
    ds = blobs()
    p = episode_mistakes.only_positives(picked(0.3, 20), ds.images)(one_episode(ds))
    assert (p[:, 1] > 0.5).all()


def test_in_training_mode_answers_depend_on_chance_and_on_company():
    ds = blobs()
    episode = one_episode(ds)
    alone = replace(episode, query=episode.query[:, :1])
    with_batch = episode_mistakes.in_training_mode(picked(network="cnn-small"), ds.images)
    assert abs(with_batch(episode)[0, 1] - with_batch(alone)[0, 1]) > 1e-6
    honest = picked(network="cnn-small").method(ds.images)
    assert honest(episode)[0, 1] == pytest.approx(honest(alone)[0, 1], abs=1e-6)
    dropped = episode_mistakes.in_training_mode(picked(), ds.images, dropout=0.5)
    assert (dropped(episode) != dropped(episode)).any()


def test_studies_of_few_tasks_scatter_and_of_all_tasks_agree():
    d = np.array([0.3, -0.1, 0.0, 0.2])
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(episode_mistakes.few_tasks(d, n=4, times=3, rng=rng), 0.1)
    one = episode_mistakes.few_tasks(d, n=1, times=400, rng=rng)
    assert set(one) == set(d)
    with pytest.raises(DataError, match="5 of 4 episodes"):
        episode_mistakes.few_tasks(d, n=5, times=1, rng=rng)


def test_curve_of_some_steps_is_that_of_all_steps():
    images, episode = blobs().images, one_episode(blobs(), shots=2)
    every = maml.curve(picked().learner, images, episode, steps=4)
    some = maml.curve(picked().learner, images, episode, steps=4, at=[0, 3])
    np.testing.assert_allclose(some, every[[0, 3]], atol=1e-6)
