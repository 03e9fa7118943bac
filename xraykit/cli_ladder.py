"""``xraykit ladder``: the few-shot ladder of notebook 04 alone, from features to the one look at test."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraykit.cli_networks import DataDir
from xraykit.errors import DataError

if TYPE_CHECKING:
    from xraykit.results import Run


def ladder(
    dataset: Annotated[str, typer.Option(help="Data set, such as kermany.")] = "synthetic",
    backbones: Annotated[
        str, typer.Option(help='Separated by ";", the main one first (default: those of notebook 04).')
    ] = "",
    profile: Annotated[str, typer.Option(help="quick or full.")] = "quick",
    seed: Annotated[int, typer.Option(help="Of development fold, draws and resamplings.", min=0)] = 0,
    figures_dir: Annotated[
        Path | None, typer.Option(help="Root of ledgers (default: XRAYKIT_FIGURES_DIR, else figures/).")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Every kind of frozen feature with every head: choose on a development fold, look at test once.

    Writes the rows "ladder, ..." and the figure 04_ladder of notebook 04, and each look to the test log. What
    is looked at is fixed by the code and by what the development fold chose.
    """
    from xraykit import backbones as networks
    from xraykit import fewshot_ladder_run as climbing
    from xraykit import paths, plots, profiles, results

    sizes = profiles.sizes("04", profile)
    specs = [spec.strip() for spec in (backbones or sizes.backbones).split(";")]
    ds = profiles.load_set(dataset, sizes, seed=seed, data_dir=data_dir)
    about = {"dataset": dataset, "profile": profile, "seed": seed, "figures_dir": figures_dir}
    run = results.Run(notebook="04", parameters={"backbone_names": "; ".join(specs)}, **about)
    _same_networks(run)
    train, test = ds.split("train"), ds.split("test")
    loaded = [networks.load(spec, seed=seed) for spec in specs]
    for b in loaded:
        networks.check_unseen(b, [*ds.classes, *train.binary().classes])
    plan = climbing.plan(train, n_draws=sizes.n_draws, seed=seed)
    where = {"cache_dir": paths.data_dir(data_dir) / "cache", "precision": sizes.precision}
    rungs = climbing.rungs(ds, loaded, plan=plan, n_views=sizes.n_views, **where)
    developed = climbing.develop(run, rungs, train, plan)
    for k, choice in developed.choices.items():
        typer.echo(f"{k} a class, chosen on development: {' + '.join(choice.members)}")
    scored = climbing.look(run, rungs, train, test, plan, developed, n_boot=sizes.n_boot)
    frozen = scored[scored["head"].isin(climbing.FROZEN)]
    run.save_figure(plots.ladder(frozen, title=f"{dataset}: the ladder, test split"), "04_ladder")
    shape = {"index": ["shots", "rung"], "columns": "metric", "values": "text"}
    typer.echo(frozen.pivot_table(**shape, aggfunc="first", sort=False).to_string())


def _same_networks(run: "Run") -> None:
    """Refuse to mix rows: "side by side" and "ensemble" of other networks would replace those that are there.

    Raises:
        DataError: the figure in the run's folder is of other networks, of the same profile.
    """
    manifest = run.folder / "manifest.json"
    there = json.loads(manifest.read_text()).get("04_ladder", {}) if manifest.exists() else {}
    names = there.get("parameters", {}).get("backbone_names")
    if there.get("profile") == run.profile and names != run.parameters["backbone_names"]:
        raise DataError(
            f"{run.folder} has the ladder of other networks ({names}); choose another --figures-dir, or those"
        )
