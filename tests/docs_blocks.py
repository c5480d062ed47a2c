"""What runs each command and each snippet of README and of the documentation, or why nothing does.

`RUN_BY` names the tests of a page. They run all of it, except for what `NOT_RUN` lists with a reason, by the first
words of a command or of a snippet's first line. A reason that begins with "tests/" names the test that runs its like.
"""

from pathlib import Path

from tests.pages import blocks

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = (
    "selfmod",
    "python",
    "pip",
    "make",
    "accelerate",
    "torchrun",
    "ray",
    "srun",
    "hf",
    "export",
    ".",
    "uv",
    "uvx",
)
PAGES = "tests/test_docs_pages.py::test_the_page_runs"
TEXT = "no code"
FOR_HOURS = "takes hours: its flags are checked"
INSTALLS = "installs an environment of 6 GB: no test runs it (.ci/run runs make test)"

RUN_BY = {
    "README.md": (
        "tests/test_readme.py::test_the_commands_of_the_readme",
        "tests/test_readme.py::test_the_snippet_of_the_readme",
    ),
    "docs/examples.md": ("tests/test_docs_examples.py::test_every_example",),
    "docs/measures.md": ("tests/test_docs_studies.py::test_the_measures_of_a_network",),
    "docs/own-studies.md": ("tests/test_docs_own_studies.py::test_four_studies",),
    "docs/publishing.md": ("tests/test_readme.py::test_from_nothing_to_a_published_report", PAGES),
    "docs/studies.md": (
        "tests/test_docs_studies.py::test_a_sweep_in_python",
        "tests/test_docs_studies.py::test_a_population_of_controls_is_built",
        PAGES,
    ),
    "docs/task-models.md": ("tests/test_docs_task_models.py::test_the_examples",),
    "docs/your-own.md": ("tests/test_docs_your_own.py::test_every_command_and_the_example",),
    "docs/devinterp.md": (PAGES,),
    "docs/formats.md": (PAGES,),
    "docs/get-started.md": (PAGES,),
    "docs/ground-truth.md": (PAGES,),
    "docs/rlct.md": (PAGES,),
    "docs/training.md": (PAGES,),
    "docs/tuning.md": (PAGES,),
    "docs/tutorials/any-module.md": (PAGES,),
    "docs/tutorials/cluster.md": (PAGES,),
    "docs/tutorials/encoder.md": (PAGES,),
    "docs/tutorials/own-images.md": (PAGES,),
}

SELF_TEST = "tests/complexity/test_self_test.py"
LAUNCHED = "tests/cli/test_train.py"
RAY = "tests/experiments/test_ray_engine.py"
NOT_RUN = {
    "README.md": {
        "@article": TEXT,
        "accuracy 0.975": "tests/test_readme.py",  # the output of the snippet
        "make": INSTALLS,
        "selfmod train --dataset_name ./photos": "tests/test_docs_pages.py",
        "accelerate launch": LAUNCHED,
    },
    "REPRODUCTION.md": {
        "python scripts/reproduction.py": "tests/scripts/test_reproduction.py",
        "selfmod sweep": FOR_HOURS,
        "selfmod report": FOR_HOURS,
    },
    "docs/benchmarks.md": {"python scripts/benchmark.py": "takes minutes to hours on a quiet machine"},
    "docs/concepts.md": {"classification_weight": TEXT},
    "docs/devinterp.md": {"from devinterp": "tests/complexity/test_devinterp.py"},
    "docs/examples.md": {
        "python examples/": "tests/test_examples.py",
        "pip": "installs packages",
        "uv run": "tests/test_examples.py",
    },
    "docs/get-started.md": {
        "make demo": INSTALLS,
        ". .venv": "needs make demo",
        "pip": "installs packages",
        "selfmod completion": "tests/cli/test_completion.py",
    },
    "docs/ground-truth.md": {
        "selfmod rlct --self_test": SELF_TEST,
        "python scripts/benchmark.py": FOR_HOURS,
        "λ = (r": TEXT,
    },
    "docs/preregistration.md": {"selfmod": FOR_HOURS, "python scripts": "tests/scripts/test_planned_tests.py"},
    "docs/publishing.md": {
        "python spaces/explorer/app.py": "tests/spaces/test_explorer.py",
        "selfmod push spaces/explorer": "tests/hub/test_push.py",
    },
    "docs/rlct.md": {
        "selfmod rlct --self_test": SELF_TEST,
        "selfmod rlct --model me/my-network --task mnist-paper-all-v1": "tests/hub/test_eval_results.py",
        "selfmod rlct --model me/digits": "tests/hub/test_results.py",
    },
    "docs/scaling.md": {"pip": RAY, "ray start": RAY, "selfmod sweep --recipe mnist": RAY},
    "docs/studies.md": {"selfmod reproduce": "tests/cli/test_reproduce.py"},
    "docs/training.md": {
        "accelerate launch": LAUNCHED,
        "torchrun": LAUNCHED,
        "selfmod train --accelerate_config": "tests/experiments/test_launching.py",
    },
    "docs/tuning.md": {
        "pip": "installs packages",
        "selfmod tune --task digits --trials 200": "tests/experiments/test_shared_database.py",
    },
    "docs/tutorials/any-module.md": {"selfmod rlct --self_test": SELF_TEST},
    "docs/tutorials/cluster.md": {
        "accelerate launch": LAUNCHED,
        "torchrun": LAUNCHED,
        "selfmod train --accelerate_config": "tests/experiments/test_launching.py",
        "pip": RAY,
        "ray start": RAY,
        "selfmod sweep --task digits --aux_weights 0 20 --seeds 1 2 --output_dir runs/grow --on": RAY,
    },
    "docs/tutorials/own-images.md": {"photos/train": TEXT},
}


def documents() -> list[str]:
    """README, REPRODUCTION and all pages of docs/, relative to the checkout."""
    pages = (ROOT / "docs").rglob("*.md")
    return ["README.md", "REPRODUCTION.md", *sorted(page.relative_to(ROOT).as_posix() for page in pages)]


def commands(text: str) -> list[str]:
    """The lines of a block that start a program, with their continuations and without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    lines = [" ".join(line.partition("  #")[0].removeprefix("$ ").split()) for line in lines]
    return [line for line in lines if line.split(" ")[0] in PROGRAMS]


def pieces(page: str) -> list[str]:
    """Each command of a page, and the first line of each block without commands."""
    found = []
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        lines = commands(block.text) if block.kind not in ("python", "yaml") else []
        found += lines or [block.text.strip().splitlines()[0]]
    return found


def is_run(page: str, piece: str) -> bool:
    """Whether nothing excuses a piece from being run."""
    return not any(piece.startswith(start) for start in NOT_RUN.get(page, {}))
