"""Few-shot evaluation against a plain loop of scikit-learn pipelines.

Run as ``python tests/benchmarks/bench_fewshot.py``; takes about three minutes. 5 shot sizes x 100 draws x six
classifiers with fixed hyperparameters, 5216 pool and 624 test images of 512 features, two classes, all timed
with one thread of linear algebra. The plain loops run fewer draws and are scaled up: a draw costs the same.
"""

import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from xraykit import fewshot

ROUNDS = 3
N_DRAWS = 100
PLAIN_DRAWS = 4
POOL, TEST, DIM = 5216, 624, 512


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pool, labels, test and support sets; features positive, skewed, correlated, as a ReLU leaves them."""
    rng = np.random.default_rng(0)
    labels = np.arange(POOL + TEST) % 2
    inner = rng.normal(size=(POOL + TEST, 64)) + 0.35 * labels[:, None] * rng.normal(size=64)
    noise = rng.normal(size=(POOL + TEST, DIM))
    features = np.maximum(inner @ rng.normal(size=(64, DIM)) / 8 + noise, 0).astype(np.float32)
    patients = np.arange(POOL).astype(str)
    support = fewshot.draws(labels[:POOL], patients, n_draws=N_DRAWS, seed=0)
    return features[:POOL], labels[:POOL], features[POOL:], support


def plain(name: str, *, probability: bool) -> BaseEstimator:
    """The classifier as one would write it; LogisticRegression with its usual solver and tolerance."""
    fixed = fewshot.classifier(name)
    if name == "logistic regression":
        return LogisticRegression(max_iter=1000, **fixed.parameters)
    machine = fixed.estimator()
    return machine.set_params(probability=True) if probability and isinstance(machine, SVC) else machine


def loop(
    pool: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    support: np.ndarray,
    *,
    scale: Callable[[], BaseEstimator],
    probability: bool,
) -> None:
    """For every draw, number of shots and classifier fit a pipeline on features and score the test images."""
    for draw in support:
        for k in fewshot.SHOTS:
            rows = draw[:, :k].ravel()
            for name in fewshot.CLASSIFIERS:
                machine = plain(name, probability=probability)
                pipeline = make_pipeline(FrozenEstimator(scale()), Normalizer(), machine)
                pipeline.fit(pool[rows], labels[rows])
                usable = probability or not isinstance(machine, SVC)
                (pipeline.predict_proba if usable else pipeline.decision_function)(test)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print one row a way, with the ratio to `fewshot.evaluate`, alternating between the ways."""
    pool, labels, test, support = data()
    arrays = (pool, labels, test, support[:PLAIN_DRAWS])
    fitted = StandardScaler().fit(pool)

    def ours() -> None:
        normed, normed_test = fewshot.normalise(pool, test, how="l2")
        fewshot.evaluate(normed, labels, normed_test, support=support)

    def fit_scaler() -> BaseEstimator:
        return StandardScaler().fit(pool)

    ways = {
        "fewshot.evaluate": (ours, 1),
        "pipelines, scaler fitted in each": (
            lambda: loop(*arrays, scale=fit_scaler, probability=False),
            N_DRAWS / PLAIN_DRAWS,
        ),
        "the same, SVC with probabilities": (
            lambda: loop(*arrays, scale=fit_scaler, probability=True),
            N_DRAWS / PLAIN_DRAWS,
        ),
        "pipelines, scaler fitted once": (
            lambda: loop(*arrays, scale=lambda: fitted, probability=False),
            N_DRAWS / PLAIN_DRAWS,
        ),
    }
    took = {way: [] for way in ways}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scikit-learn gives up SVC(probability=True)
        for _ in range(ROUNDS):
            for way, (run, times) in ways.items():
                took[way].append(seconds(run) * times)
    base = median(took["fewshot.evaluate"])
    rows = [
        {"way": way, "seconds": round(median(s), 1), "ratio": round(median(s) / base, 1)}
        for way, s in took.items()
    ]
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
