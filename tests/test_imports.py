"""The package's files import each other in one direction, as the table in docs/development.md has it."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.code_metrics import import_circles, import_graph, read_package

PACKAGE = Path(__file__).resolve().parents[1] / "selfmod_hf"

# from the ground up; what stands in one line may be imported by all lines below it, and within its own room
FLOORS = [
    {"errors", "extras", "files", "json_records", "tokens", "weights", "stacking"},
    {"complexity"},
    {"models", "data"},
    {"hub", "metrics", "measures"},
    {"trainer"},
    {"experiments"},
    {"reports"},
    {"reproduction"},
    {"cli"},
    {"__main__"},
]
# beside each other, in one direction
SIDEWAYS = {
    ("weights", "files"),
    ("files", "errors"),
    ("json_records", "files"),
    ("json_records", "errors"),
    ("data", "models"),
}


@pytest.fixture(scope="module")
def files():
    return read_package(PACKAGE)


def room(module: str) -> str:
    return module.removeprefix("selfmod_hf").removeprefix(".").split(".")[0]


def test_no_circles(files):
    assert import_circles(files) == []


def test_imports_point_down(files):
    height = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    wrong = []
    for module, targets in import_graph(files).items():
        above = room(module)
        for target in targets:
            below = room(target)
            if "" in (above, below) or above == below:  # the package itself, which exports; one room
                continue
            if height[above] <= height[below] and (above, below) not in SIDEWAYS:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_no_file_is_longer_than_400_lines(files):
    assert [file.module for file in files if len(file.text.splitlines()) > 400] == []


def test_every_room_has_a_floor(files):
    assert {room(file.module) for file in files} - {""} == set.union(*FLOORS)


def test_no_two_files_have_the_same_name(files):
    """Exceptions: a command in `cli/` and a module in `metrics/` are named like what they run."""
    names = [file.path.name for file in files if room(file.module) not in ("cli", "metrics")]
    names = [name for name in names if name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_modeling_files_import_each_other_alone(files):
    """A copy of them travels with every pushed model."""
    for file in files:
        if file.module.startswith("selfmod_hf.models.") and file.module.endswith("_self_modeling"):
            assert "from .." not in file.text
            assert "selfmod_hf" not in {line.split()[1].split(".")[0] for line in imports(file.text)}


def imports(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line.startswith(("import ", "from "))]


def test_complexity_needs_no_plots_and_no_hugging_face():
    program = (
        "import sys; import selfmod_hf.complexity.llc, selfmod_hf.complexity.calibration; "
        "print({'matplotlib', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
