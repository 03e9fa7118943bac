"""How large a run is. Sizes live here, so that a notebook says `profile` and nothing more.

``quick`` is what the committed notebooks show: small synthetic sets, a laptop's CPU, seconds. ``full`` takes
every image and enough resamplings for a paper.
"""

from types import SimpleNamespace

from xraykit import datasets
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError

SIZES: dict[str, dict[str, dict[str, object]]] = {
    "01": {
        "quick": {"image_size": 224, "n_patients": 600, "n_boot": 500, "n_draws": 5},
        "full": {"image_size": 224, "n_patients": 4000, "n_boot": 2000, "n_draws": 10},
    },
    "02": {
        "quick": {"image_size": 128, "n_patients": 800, "n_boot": 300, "n_folds": 3, "n_draws": 3},
        "full": {"image_size": 224, "n_patients": 4000, "n_boot": 2000, "n_folds": 5, "n_draws": 10},
    },
    "03": {
        "quick": {
            **{"image_size": 128, "n_patients": 1050, "precision": "fp32", "n_boot": 300, "n_folds": 3},
            **{"backbones": "phantom; pixels; phantom:random", "n_map": 400},
        },
        "full": {
            **{"image_size": 224, "n_patients": 4000, "precision": "auto", "n_boot": 2000, "n_folds": 5},
            **{"backbones": "densenet161:imagenet; phantom; pixels; resnet18:random", "n_map": 2000},
        },
    },
    "04": {
        "quick": {
            **{"image_size": 128, "n_patients": 1050, "precision": "fp32", "n_boot": 150, "n_draws": 12},
            **{"backbones": "phantom; pixels; phantom:random", "shots": (5, 10, 25, 50, 100)},
            **{"tuned_draws": 12, "n_trials": 15, "kept_draws": 5, "n_unpooled": 300, "n_beside": 500},
            **{"n_views": 2},
            "metrics": ("macro_f1", "auroc", "accuracy", "balanced_accuracy"),
        },
        "full": {
            **{"image_size": 224, "n_patients": 4000, "precision": "auto", "n_boot": 1000, "n_draws": 100},
            **{"backbones": "densenet161:imagenet; phantom; pixels; resnet18:random"},
            **{"shots": (5, 10, 25, 50, 100), "tuned_draws": 30, "n_trials": 30},
            **{"kept_draws": 10, "n_unpooled": 500, "n_beside": 4000, "n_views": 4},
            "metrics": ("macro_f1", "auroc", "auprc", "accuracy", "balanced_accuracy"),
        },
    },
    "05": {
        "quick": {
            **{
                "image_size": 64,
                "n_patients": 420,
                "n_beside": 420,
                "precision": "fp32",
                "n_boot": 200,
                "threads": 1,
            },
            **{"network": "cnn-small", "learning_rate": 3e-3, "epochs": 7, "patience": 0, "n_seeds": 2},
            **{"transfer_pair": "phantom:random; phantom", "transfer_epochs": 2},
            **{"rates": {"frozen": 1e-2, "fine-tuned": 1e-3}, "batch_size": 16, "side_batch": 16},
            **{"transfer_seeds": 1},
            **{"shares": (0.02, 0.1, 1.0), "images_an_epoch": 40, "n_map": 300, "n_side": 160},
            **{"side_epochs": 4, "n_trials": 5},
            **{"table_networks": "cnn-small", "table_size": 0, "table_epochs": 5, "table_rate": 3e-3},
            **{"multilabel_networks": "cnn-small; phantom", "multilabel_epochs": 3},
        },
        "full": {
            **{"image_size": 224, "n_patients": 4000, "n_beside": 4000, "precision": "auto", "n_boot": 1000},
            **{
                "network": "resnet18:imagenet",
                "threads": 0,
                "learning_rate": 1e-3,
                "epochs": 6,
                "patience": 3,
                "n_seeds": 3,
            },
            **{
                "transfer_pair": "resnet18:random; resnet18:imagenet",
                "transfer_epochs": 5,
                "transfer_seeds": 3,
                "rates": {"frozen": 3e-3, "fine-tuned": 2e-4},
                "batch_size": 32,
                "side_batch": 32,
            },
            **{"shares": (0.01, 0.1, 1.0), "images_an_epoch": 640, "n_map": 600, "n_side": 800},
            **{"side_epochs": 4, "n_trials": 12},
            **{"table_networks": "vgg16:imagenet; resnet50:imagenet; inception_v3:imagenet"},
            **{"table_size": 0, "table_epochs": 4, "table_rate": 1e-4},
            **{"multilabel_networks": "cnn; resnet50:imagenet", "multilabel_epochs": 10},
        },
    },
    "06": {
        "quick": {
            **{"image_size": 96, "n_patients": 420, "precision": "fp32", "n_boot": 200, "threads": 1},
            **{"n_seeds": 2, "epochs": 25, "batch_size": 8, "learning_rate": 3e-3, "width": 8, "latent": 16},
            **{"backbone": "phantom", "bank": 1000, "rate": 0.1, "n_judge": 60},
            **{"localised": ("pixel_auroc", "region_overlap", "pointing_game")},
        },
        "full": {
            **{"image_size": 224, "n_patients": 4000, "precision": "auto", "n_boot": 1000, "threads": 0},
            **{
                "n_seeds": 3,
                "epochs": 30,
                "batch_size": 32,
                "learning_rate": 1e-3,
                "width": 16,
                "latent": 16,
            },
            **{"backbone": "resnet18:imagenet", "bank": 2000, "rate": 0.1, "n_judge": 300},
            **{"localised": ("pixel_auroc", "pixel_auprc", "region_overlap", "pointing_game")},
        },
    },
    "07": {
        "quick": {
            **{"image_size": 32, "n_patients": 1400, "n_boot": 200, "threads": 1},
            **{"n_rotations": 5, "n_trials": 1, "shots": (5,), "queries": 6, "n_episodes": 60},
            **{"network": "cnn-small-group-norm", "backbone": "phantom"},
            **{"inner_steps": 3, "inner_rate": 0.1, "epochs": 2, "steps_an_epoch": 6},
            "outer": {"tasks": 4, "learning_rate": 1e-3, "n_validation": 10, "tasks_at_once": "vmap"},
            "from_scratch": {"learning_rate": 3e-3},
            "shared": {"epochs": 10, "batch_size": 16, "learning_rate": 3e-3},
            **{"rates": (0.1, 0.3), "steps": (1, 3, 5), "n_choice": 12, "n_judge": 16},
        },
        "full": {
            **{"image_size": 64, "n_patients": 6000, "n_boot": 1000, "threads": 1},
            **{"n_rotations": 5, "n_trials": 5, "shots": (1, 5, 10, 20), "queries": 10, "n_episodes": 600},
            **{"network": "cnn-small-group-norm", "backbone": "phantom"},
            **{"inner_steps": 3, "inner_rate": 0.1, "epochs": 5, "steps_an_epoch": 50},
            "outer": {"tasks": 4, "learning_rate": 1e-3, "n_validation": 40},
            "from_scratch": {"learning_rate": 3e-3},
            "shared": {"epochs": 15, "batch_size": 32, "learning_rate": 3e-3},
            **{"rates": (0.1, 0.3, 1.0), "steps": (1, 2, 3, 5, 10, 20, 40), "n_choice": 40, "n_judge": 40},
        },
    },
    "08": {  # the network, its images and its training are those of "05"
        "quick": {
            **{"n_boot": 200, "backbone": "phantom", "shots": 50, "n_layers": 3, "n_svc_layers": 2},
            **{"n_occluded": 16, "n_judge": 30, "n_wrong": 30, "steps": 8, "stages": 5, "shift": 3},
            **{
                "n_untrained": 4,
                "n_shuffles": 3,
                "confounder": 0.95,
                "multilabel_epochs": 12,
                "least_lesions": 10,
            },
        },
        "full": {
            **{"n_boot": 1000, "backbone": "densenet161:imagenet", "shots": 100},
            **{
                "n_layers": 3,
                "n_svc_layers": 3,
                "n_occluded": 24,
                "n_judge": 120,
                "n_wrong": 120,
                "steps": 10,
                "stages": 6,
            },
            **{"shift": 6, "n_untrained": 4, "n_shuffles": 3, "confounder": 0.95, "multilabel_epochs": 10},
            **{"least_lesions": 10},
        },
    },
    "09": {  # images, network and training are those of "05"
        "quick": {"n_boot": 200, "backbone": "phantom", "shots": 50, "n_draws": 5, "n_strange": 20},
        "full": {
            **{"n_boot": 1000, "backbone": "densenet161:imagenet", "shots": 100, "n_draws": 20},
            "n_strange": 100,
        },
    },
}
TOGETHER = {"synthetic": ("synthetic", "synthetic-nih")}


def sizes(notebook: str, profile: str) -> SimpleNamespace:
    """Sizes of `notebook` (its two digits) under `profile`, as attributes.

    ``n_patients`` counts for the synthetic sets alone; a real set is read whole.

    Raises:
        DataError: a profile or a notebook that has no sizes; the message lists those that have.
    """
    if notebook not in SIZES:
        raise DataError(f"no sizes for notebook {notebook!r}; there are {sorted(SIZES)}")
    if profile not in SIZES[notebook]:
        raise DataError(f"profile {profile!r} is unknown; use one of {sorted(SIZES[notebook])}")
    return SimpleNamespace(**SIZES[notebook][profile])


def load_set(
    dataset: str,
    chosen: SimpleNamespace,
    *,
    seed: int,
    image_size: int = 0,
    n_patients: int = 0,
    data_dir: str = "",
) -> XrayDataset:
    """The data set of one run.

    Args:
        chosen: from `sizes`; `image_size` (pixels a side) and `n_patients` (synthetic sets only) replace its
            values where they are not 0.
        seed: of the synthetic patients.
        data_dir: root of downloads and caches; empty for the default.
    """
    made = dataset.startswith("synthetic")
    options = {"n_patients": n_patients or chosen.n_patients, "seed": seed} if made else {}
    size = image_size or chosen.image_size
    return datasets.load(dataset, size=size, data_dir=data_dir or None, progress=not made, **options)


def load_sets(dataset: str, chosen: SimpleNamespace, **options: object) -> dict[str, XrayDataset]:
    """The data sets of one run by name: `dataset`, and beside ``synthetic`` its multi-label twin.

    Arguments as for `load_set`; the twin has ``chosen.n_beside`` patients where there is such a size.
    """
    names = TOGETHER.get(dataset, (dataset,))
    beside = SimpleNamespace(**vars(chosen) | {"n_patients": getattr(chosen, "n_beside", chosen.n_patients)})
    return {name: load_set(name, chosen if name == dataset else beside, **options) for name in names}
