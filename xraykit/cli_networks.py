"""The commands that compute with networks; each imports what it needs when it is called."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(help="Root of downloads and caches (default: XRAYKIT_DATA_DIR, else data/ of the project)."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: a GPU where there is one.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 where the hardware has it.")]
Devices = Annotated[
    int | None, typer.Option(help="Processes on each machine (default: 1, or torchrun's).", min=1)
]
Machines = Annotated[
    int | None,
    typer.Option(
        help="Machines (default: 1, or torchrun's), which must all see the data folder. Several are "
        "untested here.",
        min=1,
    ),
]
Size = Annotated[int, typer.Option(help="Side of the decoded images, in pixels.")]
Patients = Annotated[int | None, typer.Option("-p", "--n-patients", help="Of a synthetic set.", min=1)]


def pretrain(
    dataset: Annotated[
        str,
        typer.Option(
            help="Data set, such as kermany, whose unlabelled training images are used; reserved renders "
            "patients that no data set shows."
        ),
    ] = "reserved",
    method: Annotated[str, typer.Option(help="simclr (contrastive) or vicreg (non-contrastive).")] = "simclr",
    network: Annotated[
        str, typer.Option(help="Where it starts: phantom:random, resnet18:random, resnet18:imagenet, ...")
    ] = "phantom:random",
    images: Annotated[
        int | None, typer.Option(help="Rendered images, of reserved alone (default: 10000).")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 12,
    seed: Annotated[int, typer.Option(help="Of generator, weights and views.", min=0)] = 7,
    fold_seed: Annotated[
        int, typer.Option(help="Of the development fold that is left out: the notebooks' seed.", min=0)
    ] = 0,
    size: Annotated[int, typer.Option(help="Side of the images, in pixels.", min=16)] = 96,
    view_size: Annotated[int, typer.Option(help="Side of the views, in pixels.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its highest; it falls to 0 as a cosine.")] = 2e-3,
    width: Annotated[int, typer.Option(help="Channels of the first layer of phantom:random.", min=1)] = 32,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.02,
    temperature: Annotated[float, typer.Option(help="Of simclr: lower heeds near negatives more.")] = 0.2,
    monitor: Annotated[
        str,
        typer.Option(
            help="Data set whose development fold is probed (default: the data set; synthetic for reserved)."
        ),
    ] = "",
    probe_every: Annotated[int, typer.Option(help="Epochs from one probe to the next.", min=1)] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write (default: weights/<network>-<data set>-<method>-<seed>.safetensors of the "
            "data folder)."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="32-true, or bf16-mixed: twice as fast where the processor has it.")
    ] = "32-true",
    data_dir: DataDir = None,
) -> None:
    """Pretrain a network on images without labels; a killed run goes on.

    Of a data set, a quarter of the patients of train, the development fold, is left out, and the test split
    is never looked at. Two numbers are printed, and nothing depends on them: the AUROC of normal against the
    rest from nearest neighbours (knn) and from logistic regression (linear).
    """
    from xraykit import paths
    from xraykit import pretrain as pretraining

    config = pretraining.Config(
        method=method,
        dataset=dataset,
        network=network,
        images=images,
        epochs=epochs,
        seed=seed,
        fold_seed=fold_seed,
        size=size,
        view_size=view_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        width=width,
        weight_decay=weight_decay,
        temperature=temperature,
        monitor=monitor,
    )
    name = f"{config.architecture}-{dataset}-{method}-{seed}.safetensors"
    out = (out or paths.data_dir(data_dir) / "weights" / name).expanduser()
    how = {"device": device, "precision": precision, "probe_every": probe_every}
    run = pretraining.pretrain(config, out=out, data_dir=data_dir, **how)
    typer.echo(f"mean loss of the epochs: {', '.join(f'{loss:.3f}' for loss in run['losses'])}")
    for look in run["probes"]:
        typer.echo(f"after epoch {look['epoch']}: AUROC knn {look['knn']:.3f}, linear {look['linear']:.3f}")
    typer.echo(f"{out}; use it as the backbone {config.architecture}:{out}")


def embed(
    dataset: Annotated[str, typer.Option(help="Data set, such as kermany.")] = "synthetic",
    backbone: Annotated[
        str, typer.Option(help="Such as phantom, densenet161:imagenet or resnet18:file.safetensors.")
    ] = "phantom",
    size: Size = 224,
    precision: Precision = "auto",
    backend: Annotated[
        str, typer.Option(help="openvino, torch, or auto: by the kind of processor.")
    ] = "auto",
    device: Device = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Images at once (default: by backend and device).", min=1)
    ] = None,
    devices: Devices = None,
    num_nodes: Machines = None,
    n_patients: Patients = None,
    seed: Annotated[int, typer.Option(help="Of synthetic patients and of random weights.", min=0)] = 0,
    data_dir: DataDir = None,
) -> None:
    """Extract the features of a data set into the cache; a killed run goes on.

    Several devices share the work with --devices, with torchrun --nproc-per-node N (the path of) xraykit
    embed ..., or with fabric run --devices N (the same path) embed ...
    """
    import time

    from xraykit import backbones, datasets, embeddings, paths

    images = datasets.load(
        dataset, size=size, data_dir=data_dir, **_made(dataset, n_patients=n_patients, seed=seed)
    ).images
    network = backbones.load(backbone, seed=seed)
    start = time.perf_counter()
    found = embeddings.extract(
        images,
        network,
        cache_dir=paths.data_dir(data_dir) / "cache",
        backend=backend,
        precision=precision,
        device=device,
        batch_size=batch_size,
        devices=devices,
        num_nodes=num_nodes,
    )
    seconds = time.perf_counter() - start
    if found.rank == 0:
        speed = "" if found.cached else f", {len(images) / seconds:.1f} images/s"
        typer.echo(f"{found}\n{seconds:.1f} s{speed}, in {found.folder}")


def train(
    out: Annotated[
        Path,
        typer.Option(help="File of the best weights; .last.safetensors and .csv (history) go beside it."),
    ],
    dataset: Annotated[str, typer.Option(help="Data set, such as kermany.")] = "synthetic",
    network: Annotated[
        str, typer.Option(help="Such as cnn, phantom, resnet18:imagenet, resnet18:random.")
    ] = "phantom:random",
    task: Annotated[
        str | None,
        typer.Option(help="Labels: binary, 3-class or multi-label, as the data set has them (default: its)."),
    ] = None,
    size: Size = 224,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images a step, over all processes together.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="At its highest; it falls to 0 as a cosine.")] = 1e-3,
    optimiser: Annotated[str, typer.Option(help="adamw, adam, adamax, adadelta or sgd.")] = "adamw",
    trainable: Annotated[
        str, typer.Option(help="all, head, or head_then_all: the body frozen in the first epoch.")
    ] = "all",
    loss: Annotated[
        str, typer.Option(help="cross_entropy, bce, focal, or auto: by the kind of labels.")
    ] = "auto",
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Turn, move, zoom and relight each image a little.")
    ] = True,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a better AUROC; 0 never does.")
    ] = 0,
    seed: Annotated[
        int,
        typer.Option(help="Of validation patients, weights, order, augmentation; synthetic images.", min=0),
    ] = 0,
    precision: Precision = "auto",
    device: Device = "auto",
    devices: Devices = None,
    num_nodes: Machines = None,
    n_patients: Patients = None,
    data_dir: DataDir = None,
) -> None:
    """Train a classifier and keep the weights of the epoch with the best AUROC; a killed run goes on.

    A fifth of the patients of train is held out for validation. The test split is never looked at.

    Several devices share the work with --devices, with torchrun --nproc-per-node N (the path of) xraykit
    train ..., or with fabric run --devices N (the same path) -- train ...
    """
    import numpy as np

    from xraykit import classifiers, datasets, paths, splits, training, training_outputs
    from xraykit.augment import Augment
    from xraykit.training_config import Config
    from xraykit.training_findings import findings_only

    files = training_outputs.plan(out.expanduser())
    config = Config(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimiser=optimiser,
        trainable=trainable,
        loss=loss,
        augment=Augment() if augment else None,
        patience=patience,
        seed=seed,
    )
    labels = "multilabel" if task == "multi-label" else task
    made = _made(dataset, n_patients=n_patients, seed=seed)
    ds = datasets.load(dataset, size=size, labels=labels, data_dir=data_dir, **made)
    inside, val = splits.hold_out(ds, rng=np.random.default_rng(seed))
    left_out = {}
    if ds.task == "multilabel":
        ds, left_out = findings_only(ds, parts={"train": inside, "validation": val}, least=1)
    fitted = training.fit(
        classifiers.build(network, classifiers.outputs(ds), seed=seed),
        ds,
        train=inside,
        val=val,
        config=config,
        cache_dir=paths.data_dir(data_dir) / "cache",
        device=device,
        precision=precision,
        devices=devices,
        num_nodes=num_nodes,
    )
    if fitted.rank == 0:
        training_outputs.write(fitted, files, network=network, ds=ds, config=config)
        images = (len(inside), len(val))
        typer.echo(training_outputs.summary(fitted, files, images=images, left_out=left_out))


def _made(dataset: str, *, n_patients: int | None, seed: int) -> dict[str, int]:
    """Options of `datasets.load` for a set that the package makes."""
    made = {"n_patients": n_patients, "seed": seed if dataset.startswith("synthetic") else None}
    return {name: value for name, value in made.items() if value is not None}
