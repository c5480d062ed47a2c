"""Push a sweep to the Hub: its networks as one model repository, its tables as a data set of the same name.

One repository holds a folder per network, so that all networks are one commit (the tables are a second one). A network
is loaded by `subfolder=`, and the code lies there once. Revisions would take a commit and a branch per network,
collections would take a repository per network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import models
from ..data.preprocessing import ImagePreprocessing
from ..errors import InputError
from ..experiments.folder import SweepFolder, check_readable
from ..extras import need
from ..files import files_of_user
from ..hub.card import merged_notes
from ..hub.download import fetch
from ..hub.license import chosen_license, license_in
from ..hub.upload import (
    Repository,
    Target,
    address_of,
    check_adapters,
    check_links,
    commit,
    open_repository,
    remote_card,
    selected,
)
from ..json_records import SweepRun
from ..models import load_config
from ..weights import ADAPTER, ADAPTER_SETTINGS, WEIGHTS, files_with_weights
from .cards import dataset_card, run_of, sweep_card, task_of
from .local_paths import hide_local_paths, local_paths
from .sweep_results import SweepResults, read_results

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# the code of each network. In a repository it is once at the top, because transformers looks there
CODE = tuple(sorted(path.name for path in Path(models.__file__).parent.glob("*_self_modeling.py")))
REPORT = "report/report.html"
TABLES = ("results.json", "results.parquet", "curves.parquet", "run.json")


def push_sweep(api: HfApi, path: Path, target: Target) -> list[str]:
    """Push the networks and the tables of a sweep, and return the two addresses.

    Raises:
        InputError: no finished sweep, a link out of its folder, missing or unreadable weights.
        MissingExtraError: matplotlib is missing.
    """
    need("pushing a sweep", "report", "matplotlib")
    folder = SweepFolder(path)
    # all of this rejects before anything is made on the Hub
    files = [path / name for name in (*TABLES, REPORT)]
    check_links([*networks_of(folder).values(), *files], path)
    check_adapters(networks_of(folder).values())
    check_weights(folder)
    with files_of_user("folder", path):
        results = read_results(folder)
        sweep_card(results, target.repo_id)
    # both repositories, then both stages, then both uploads, so that an error comes before a half is published
    networks = open_repository(api, target, "model")
    tables = open_repository(api, target, "dataset")
    paths = local_paths(results.run)
    with tempfile.TemporaryDirectory() as temporary:
        of_networks, of_tables = Path(temporary, "model"), Path(temporary, "dataset")
        of_networks.mkdir()
        figures = stage_networks(results, of_networks)
        hide_local_paths(of_networks, paths)
        base_model = load_config(folder.networks()[0]).base_model
        notes, license = _kept(networks, base_model, api)
        card = sweep_card(results, networks.repo_id, notes, figure=_shown(figures), license=license, api=api)
        card.save(of_networks / "README.md")
        of_tables.mkdir()
        folder.write_tables(of_tables)  # of the cells as they are now, because a sweep may be at work
        _link(path / "run.json", of_tables / "run.json")
        if (path / REPORT).is_file():
            _link(path / REPORT, of_tables / Path(REPORT).name)
        hide_local_paths(of_tables, paths)
        notes, license = _kept(tables)
        dataset_card(results, tables.repo_id, notes, license=license).save(of_tables / "README.md")
        return [
            address_of(commit(networks, of_networks, "Upload networks of a sweep")),
            address_of(commit(tables, of_tables, "Upload results of a sweep")),
        ]


def _shown(figures: list[Path]) -> str | None:
    """Return the name of the figure for the card: the paper's panels, or those of any study."""
    names = [file.stem for file in figures]
    for name in ("figure2", "arms"):
        if name in names:
            return name
    return None


def _kept(
    repository: Repository, base_model: str | None = None, api: HfApi | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the user's notes in the present card of a repository, and the license of its next card."""
    before = remote_card(repository)
    license = chosen_license(repository.target.license, license_in(before), base_model, api)
    return merged_notes("", before), license


def pull_sweep(repo_id: str, folder: Path) -> SweepFolder:
    """Download a published sweep as a results folder of links into huggingface_hub's cache.

    Args:
        repo_id: ``user/name``.
        folder: the folder for the links.

    Raises:
        InputError: no such repositories, or no sweep in them.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        networks = fetch(repo_id, ["*/*.json", "*/*.safetensors"])
        tables = fetch(repo_id, TABLES, repo_type="dataset")
    except RepositoryNotFoundError as error:
        problem = "no folder, and no sweep on the Hub (a model and a data set of that name)"
        raise InputError("folder", repo_id, problem) from error
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"cells": networks, **{name: tables / name for name in TABLES}}
    for name, source in sources.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    sweep = SweepFolder(folder)
    sweep.rows()  # rejects a repository without one
    return sweep


def networks_of(folder: SweepFolder) -> dict[str, Path]:
    """Return the files of the finished networks by their names in the model repository.

    The code lies there once, at the top.
    """
    files = {}
    for cell in folder.networks():
        for file in sorted(cell.iterdir()):
            if not file.is_dir():
                name = file.name if file.name in CODE else f"{cell.name}/{file.name}"
                files[name] = file
        for name in (ADAPTER, ADAPTER_SETTINGS):
            if (cell / name).is_file():
                files[f"{cell.name}/{name}"] = cell / name
    return selected(files)


def check_weights(folder: SweepFolder) -> None:
    """Open, but do not read, the safetensors of each network.

    Raises:
        InputError: names the first missing or damaged file.
    """
    for row in sorted(folder.cells.glob("*/row.json")):
        cell = row.parent
        expected = files_with_weights(cell) or [WEIGHTS]
        paths = {cell / name for name in expected}
        for path in sorted(paths.union(cell.glob("*.safetensors"))):
            check_readable(path)


# ---- content of a repository ----


def stage_networks(results: SweepResults, staged: Path) -> list[Path]:
    """Put links to the networks' files, and the figures, into a folder. Return the figures."""
    for name in CODE:  # a downloaded sweep has no code: the same code as in this package
        _link(Path(models.__file__).with_name(name), staged / name)
    for name, file in networks_of(results.folder).items():
        _link(file, staged / name)
    for cell in results.folder.networks():
        if not (cell / "preprocessor_config.json").is_file():
            _add_image_processor(run_of(results), cell, staged / cell.name)
    from .figures import draw_figures

    return draw_figures(results, staged / "figures")


def _add_image_processor(run: SweepRun, cell: Path, staged: Path) -> None:
    """Write the image processor of a network without one. Networks of version 0.1.0 have none."""
    config = load_config(cell)
    if config.reads_text:
        return
    spec = task_of(run)
    given = {}
    if spec is not None:
        given = {name: getattr(spec, name) for name in ("image_mean", "image_std", "interpolation")}
    values = ImagePreprocessing().changed(**given).for_images(*config.input_shape)
    values.processor().save_pretrained(staged)
    for name in CODE:  # lies at the top
        (staged / name).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve(strict=True))
