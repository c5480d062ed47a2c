"""Modules for `evaluate.load`: `evaluate.load(metric_path("rlct"))`. Each folder can be pushed as a Space."""

from pathlib import Path


def metric_path(name: str) -> str:
    """Return the folder of a module for `evaluate.load`.

    Args:
        name: "rlct" or "weight_width".

    Raises:
        ValueError: another name.

    Example:
        >>> Path(metric_path("rlct"), "rlct.py").is_file()
        True
    """
    folder = Path(__file__).parent / name
    if not (folder / f"{name}.py").is_file():
        raise ValueError(f"name={name!r}: allowed are rlct, weight_width")
    return str(folder)
