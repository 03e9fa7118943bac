"""The monitor of a pretraining run: can neighbours, or a line, tell normal images on a development fold?"""

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import nn

from xraykit import splits
from xraykit.backbones.base import network_input
from xraykit.errors import DataError
from xraykit.fewshot_features import normalise
from xraykit.pretrain_images import training_images

NEIGHBOURS = 20
MOST = 1500  # images of each part, so that a look takes seconds


class Probe:
    """AUROC of normal against the rest on the development fold of a data set's training images.

    The labels are used for this number alone: nothing is trained by them or chosen from it during the run.

    Args:
        dataset: whose training images; the fold is that of `splits.development`.
        size: side of the images in pixels.
        seed: of the fold and, of a large set, of the images that take part.

    Raises:
        DataError: a part with fewer than two images of one of the two classes.
    """

    def __init__(self, dataset: str, *, size: int, seed: int = 0, data_dir: str | Path | None = None) -> None:
        train = training_images(dataset, size=size, data_dir=data_dir)
        rng = np.random.default_rng(seed)
        self.rows = [np.sort(rng.permutation(part)[:MOST]) for part in splits.development(train, seed=seed)]
        self.images = [np.asarray(train.images)[rows] for rows in self.rows]
        self.labels = [train.binary().labels[rows] for rows in self.rows]
        counts = [np.bincount(labels, minlength=2).min() for labels in self.labels]
        if min(counts) < 2:
            raise DataError(
                f"the development fold of {dataset} and the rest have {counts[1]} and {counts[0]} images of "
                "their rarer class, normal or not; 2 are needed to be told apart: choose another --monitor"
            )

    def __call__(self, module: nn.Module) -> dict[str, float]:
        """AUROC ``knn`` (cosine, the share of `NEIGHBOURS`) and ``linear`` (logistic regression).

        Args:
            module: grey images (B, 1, S, S) in 0..1 to features (B, D); its mode is restored.
        """
        inside, dev = normalise(*(self._features(module, images) for images in self.images), how="l2")
        y, truth = self.labels
        models = {
            "knn": KNeighborsClassifier(min(NEIGHBOURS, len(y))),
            "linear": LogisticRegression(C=10.0, max_iter=1000),
        }
        with threadpool_limits(1):
            scores = {name: m.fit(inside, y).predict_proba(dev)[:, 1] for name, m in models.items()}
        return {name: round(float(roc_auc_score(truth, p)), 4) for name, p in scores.items()}

    @staticmethod
    def _features(module: nn.Module, images: np.ndarray) -> np.ndarray:
        device, was_training = next(module.parameters()).device, module.training
        module.eval()
        with torch.inference_mode():
            batches = [network_input(images[i : i + 64], images.shape[1]) for i in range(0, len(images), 64)]
            found = [module(batch.to(device)).float().cpu() for batch in batches]
        module.train(was_training)
        return torch.cat(found).numpy()
