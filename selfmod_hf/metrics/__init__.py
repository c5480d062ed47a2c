"""Modules for `evaluate.load`: `evaluate.load(metric_path("rlct"))`. Each folder can be pushed as a Space."""

from pathlib import Path


def metric_path(name: str) -> str:
    """Folder of a module, "rlct" or "weight_width", as `evaluate.load` takes it.

    Raises:
        ValueError: there is no such module.
    """
    folder = Path(__file__).parent / name
    if not (folder / f"{name}.py").is_file():
        raise ValueError(f"name={name!r}: allowed are rlct, weight_width")
    return str(folder)
