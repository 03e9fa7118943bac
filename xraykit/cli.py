"""The command line, ``xraykit``: thin wrappers that import what a command needs when it is called."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from xraykit.cli_app import serve
from xraykit.cli_ladder import ladder
from xraykit.cli_networks import DataDir, embed, pretrain, train
from xraykit.cli_predict import predict
from xraykit.errors import XraykitError

app = typer.Typer(
    help="Few-shot chest X-ray classification: a notebook series and the package under it. "
    "For teaching and research, not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Download data sets and check the copies.", no_args_is_help=True)
app.add_typer(data_app, name="data")

FiguresDir = Annotated[
    Path | None,
    typer.Option(
        help="Root of figures and ledgers (default: XRAYKIT_FIGURES_DIR, else figures/ of the project)."
    ),
]


@app.command()
def doctor(data_dir: DataDir = None, figures_dir: FiguresDir = None) -> None:
    """Check environment, data folders, weights, device and threads, and say what to do."""
    from xraykit import doctor as checks

    findings = checks.examine(data_dir=data_dir, figures_dir=figures_dir)
    typer.echo(checks.table(findings))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def run(
    numbers: Annotated[
        list[str] | None, typer.Argument(help="Notebooks, such as 01 02 (default: every one).", metavar="NN")
    ] = None,
    dataset: Annotated[str, typer.Option(help="Data set to run on.")] = "synthetic",
    profile: Annotated[str, typer.Option(help="quick (minutes on a CPU) or full.")] = "quick",
    jobs: Annotated[
        int | None, typer.Option(help="Notebooks at once (default: by cores and free memory, at most 4).")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A notebook's parameter; repeatable."),
    ] = None,
    figures_dir: FiguresDir = None,
    data_dir: DataDir = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Executed copies (default: runs/<dataset>-<profile> of the project).")
    ] = None,
    cell_timeout: Annotated[
        float | None, typer.Option(help="Limit of each cell, in seconds (default: none).", min=0.001)
    ] = None,
    inplace: Annotated[
        bool,
        typer.Option(
            "--inplace", help="Replace the notebooks themselves, executed with their own parameters."
        ),
    ] = False,
) -> None:
    """Execute notebooks of the series and regenerate their figures."""
    from xraykit import notebook_parameters, paths, runner

    given = notebook_parameters.parse_assignments(parameter or [])
    folders = {"figures_dir": figures_dir, "data_dir": data_dir}
    options = {k: str(v.expanduser().absolute()) for k, v in folders.items() if v}
    if inplace and (given or options or (dataset, profile) != ("synthetic", "quick")):
        raise typer.BadParameter("--inplace runs the declared parameters; leave the others out")
    twice = sorted(set(given) & {"dataset", "profile", *options})
    if twice:
        raise typer.BadParameter(f"-p {twice[0]} repeats an option; use --{twice[0].replace('_', '-')}")
    planned = runner.plan(numbers or (), dataset=dataset, profile=profile, parameters={**given, **options})
    left_out = set() if numbers else set(notebook_parameters.find()) - {n.number for n, _ in planned}
    if left_out:
        typer.echo(f"left out, as they do not run on {dataset}: {', '.join(sorted(left_out))}", err=True)
    folder = output_dir or paths.project_root() / "runs" / f"{dataset}-{profile}"
    results = runner.run(planned, output_dir=folder, jobs=jobs, cell_timeout=cell_timeout, inplace=inplace)
    if any(result.status != "ok" for result in results):
        raise typer.Exit(1)


app.command()(pretrain)
app.command()(embed)
app.command()(train)
app.command()(ladder)
app.command()(predict)
app.command("app")(serve)


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Data set, such as kermany.", metavar="NAME")],
    labels_only: Annotated[bool, typer.Option("--labels-only", help="NIH: the label tables alone.")] = False,
    archives: Annotated[
        int | None, typer.Option(help="NIH: the first N of the 12 image archives.", min=1, max=12)
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="MedMNIST sets: pixels, 28, 64, 128 or 224 (default: 224).")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Download a data set; what is there is kept, and an interrupted download goes on."""
    from xraykit import datasets

    folder = datasets.fetch(name, data_dir=data_dir, labels_only=labels_only, archives=archives, size=size)
    typer.echo(f"{name} is in {folder}")


@data_app.command()
def check(
    name: Annotated[str, typer.Argument(help="Data set, such as kermany.", metavar="NAME")],
    data_dir: DataDir = None,
) -> None:
    """Compare a copy with what was published; exit status 1 where something is missing or differs."""
    from xraykit import datasets

    rows = datasets.check(name, data_dir=data_dir)
    typer.echo(rows.to_string(index=False))
    if not rows["verdict"].isin(["ok", "note"]).all():
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors that a user can act on are one message on standard error and exit status 1."""
    try:
        app()
    except XraykitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
