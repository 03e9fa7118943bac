"""Scores over episodes: by hand, and against resampling done the slow way."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from xraykit.episode_scores import Asked, Jury
from xraykit.episodes import Episode
from xraykit.errors import DataError

PATIENTS = np.array([f"p{i // 2}" for i in range(40)], dtype=object)


def asked(run: int, finding: str, query: list[list[int]]) -> Asked:
    support = np.array([[30], [32]])
    return Asked(run, Episode((f"without {finding}", finding), support, np.array(query)))


def test_the_mean_is_over_findings_of_the_mean_over_their_episodes():
    """Two perfect episodes of one finding and one inverted of another are worth .5, not .667."""
    jury = Jury(
        [
            asked(0, "Mass", [[0, 2], [4, 6]]),
            asked(0, "Mass", [[0, 2], [4, 8]]),
            asked(0, "Edema", [[1, 3], [5, 7]]),
        ],
        PATIENTS,
        seed=0,
        n_boot=20,
    )
    right, wrong = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.8, 0.2, 0.1])
    heard = jury.hear([right, right, wrong])
    found = heard.scores()
    assert found["auroc"].value == found["sensitivity"].value == found["f1"].value == 0.5
    assert found["auroc"].n_draws == 3
    assert found["auroc"].n_test == 9
    alone = heard.by_finding("auroc")
    assert {f: (v.value, v.ci_low, v.ci_high, v.n_draws) for f, v in alone.items()} == {
        "Edema": (0.0, 0.0, 0.0, 1),
        "Mass": (1.0, 1.0, 1.0, 2),
    }
    assert (found["auroc"].spread_low, found["auroc"].spread_high) == (0.05, 1.0)


def test_scores_of_single_episodes_are_scikit_learns():
    rng = np.random.default_rng(0)
    asks = [asked(0, "Mass", rng.permutation(30)[:12].reshape(2, 6).tolist()) for _ in range(5)]
    p = [rng.random(12) for _ in asks]
    heard = Jury(asks, PATIENTS, seed=0, n_boot=5).hear(p)
    wanted = [roc_auc_score(one.episode.query_labels, x) for one, x in zip(asks, p, strict=True)]
    np.testing.assert_allclose(heard.by_episode["auroc"][:, 0], wanted)


def test_more_episodes_from_the_same_patients_do_not_narrow_the_interval():
    """The same ten episodes a hundred times over are no more evidence than once."""
    rng = np.random.default_rng(1)
    queries = [rng.permutation(30)[:8].reshape(2, 4).tolist() for _ in range(10)]
    asks = [asked(i % 2, ("Mass", "Edema")[i % 2], query) for i, query in enumerate(queries)]
    p = [rng.random(8) for _ in asks]
    once = Jury(asks, PATIENTS, seed=0, n_boot=300).hear(p).scores()["auroc"]
    often = Jury(asks * 20, PATIENTS, seed=0, n_boot=300).hear(p * 20).scores()["auroc"]
    assert often.value == pytest.approx(once.value)
    width = {"once": once.ci_high - once.ci_low, "often": often.ci_high - often.ci_low}
    assert width["often"] == pytest.approx(width["once"], rel=1e-6)


def test_a_resampling_draws_runs_findings_and_patients():
    """Where all patients of a finding agree, only the draw of findings and runs moves the score."""
    right, wrong = np.array([0.1, 0.9]), np.array([0.9, 0.1])
    asks = [asked(r, f, [[0], [4]]) for r, f in ((0, "Mass"), (0, "Edema"), (1, "Nodule"))]
    heard = Jury(asks, PATIENTS, seed=0, n_boot=4000).hear([right, right, wrong])
    resampled = heard.jury.mean(heard.by_episode["auroc"])[1:]
    resampled = resampled[~np.isnan(resampled)]  # no patient of either class was drawn
    # Two runs with replacement; (n right findings, n wrong): (4, 0), (2, 1) twice, (0, 2).
    values, counts = np.unique(resampled.round(4), return_counts=True)
    assert values.tolist() == [0.0, 0.6667, 1.0]
    np.testing.assert_allclose(counts / len(resampled), [0.25, 0.5, 0.25], atol=0.03)


def test_methods_are_compared_in_pairs():
    rng = np.random.default_rng(2)
    asks = [asked(i % 3, "Mass", rng.permutation(30)[:8].reshape(2, 4).tolist()) for i in range(30)]
    jury = Jury(asks, PATIENTS, seed=0, n_boot=200)
    p = [rng.random(8) * 0.5 + 0.2 * one.episode.query_labels for one in asks]
    better = [x + 0.3 * one.episode.query_labels for x, one in zip(p, asks, strict=True)]
    same = jury.hear(p).minus(jury.hear(p))["auroc"]
    assert (same.value, same.ci_low, same.ci_high, same.p_value) == (0, 0, 0, 1.0)
    gain = jury.hear(better).minus(jury.hear(p))["auroc"]
    assert gain.ci_low > 0
    standard_error = (gain.ci_high - gain.ci_low) / (2 * 1.96)
    wanted = 2 * stats.t.sf(gain.value / standard_error, 2)  # three runs
    assert gain.p_value == pytest.approx(wanted, rel=0.2)
    single = jury.hear(better).scores()["auroc"].value - jury.hear(p).scores()["auroc"].value
    assert gain.value == pytest.approx(single)


def test_bad_input_is_named():
    jury = Jury([asked(0, "Mass", [[0], [4]])], PATIENTS, seed=0, n_boot=5)
    with pytest.raises(DataError, match="no episodes to score"):
        Jury([], PATIENTS, seed=0)
    with pytest.raises(DataError, match="2 answers to 1 episodes"):
        jury.hear([np.zeros(2)] * 2)
    other = Jury([asked(0, "Mass", [[0], [4]])], PATIENTS, seed=0, n_boot=5)
    with pytest.raises(DataError, match="two juries"):
        jury.hear([np.zeros(2)]).minus(other.hear([np.zeros(2)]))
