"""The command that answers with a bundle; it imports what it needs when it is called."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraykit.cli_networks import DataDir, Device

if TYPE_CHECKING:
    from xraykit.bundle import Bundle


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, or folders of them: PNG, JPEG, BMP, TIFF, DICOM; of folders all but "
            "*.gradcam.png, which --overlays writes.",
            metavar="IMAGE...",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Bundle: its folder, its zip, or its name in bundles/ of the data folder "
            "(default: one of synthetic images, made on first use).",
            metavar="BUNDLE",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="table, csv or json (default: by the suffix of --out, else table)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; a .csv, .json or .txt is replaced (default: standard output)."),
    ] = None,
    overlays: Annotated[
        Path | None, typer.Option(help="Folder for a Grad-CAM overlay of each image, NAME.gradcam.png.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.", min=1)] = 32,
    device: Device = "auto",
    backend: Annotated[
        str,
        typer.Option(help="torch, openvino, or auto: OpenVINO for a large folder on a CPU that gains by it."),
    ] = "torch",
    data_dir: DataDir = None,
) -> None:
    """Say what a saved classifier sees in X-rays, and which of them it does not know.

    For teaching and research, not for clinical use. Exit status 1 where a file could not be read; the others
    are answered all the same.
    """
    from xraykit import predict_files, predict_output, predict_run

    form = predict_output.format_of(form, out)
    paths = predict_files.image_paths(images)
    bundle, source = _load(model, data_dir)
    job = predict_run.Job(
        paths=paths,
        bundle=bundle,
        source=source,
        form=form,
        out=out.expanduser() if out else None,
        overlays=overlays.expanduser() if overlays else None,
        batch_size=batch_size,
        device=device,
        backend=backend,
    )
    raise typer.Exit(predict_run.run(job))


def _load(model: str | None, data_dir: Path | None) -> "tuple[Bundle, Path]":
    """The bundle, and its folder or zip."""
    from xraykit import bundle_files, predict_files

    if model is not None:
        path = predict_files.find_bundle(model, data_dir=data_dir)
        return bundle_files.load(path), path
    from xraykit import bundle_build  # what makes bundles is not needed to load one

    path = bundle_build.embedded(data_dir, progress=sys.stderr.isatty())
    bundle = bundle_files.load(path)
    print(f"no --model: {bundle.name}, in {path}", file=sys.stderr)
    return bundle, path
