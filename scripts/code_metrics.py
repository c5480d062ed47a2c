"""Measure how dense, deep and readable the package's code and docstrings are.

    python scripts/code_metrics.py [--package selfmod_hf] [--json | --rooms]

* A code line is neither blank, a comment, nor part of a docstring. Syntax nodes are all nodes of `ast.walk`.
* The longest call chain follows each use of a function that can be resolved without running anything, calls and
  functions that are passed on: functions of the same file, imported functions and classes of the package, methods of
  `self`, and `x.method` if just one class of the package has a method of that name. Names of other attributes in the
  package, and of methods of Python's, torch's, scipy's and transformers' own types, are left out.
* Frames of an RLCT are the package's own stack frames from `estimate_rlct` to the network's forward, both included.
* Imports inside functions leave out `cli/` and the package's `__init__.py` files, where they are the design.
* A docstring begins with a verb if its first word is in `VERBS`, in its base form or its third person.
* Relative clauses: each "which", "who", "whose", "whom", "what" and "where", and each "that" behind a noun-like word.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

_VERBS = """
accept add allow answer append apply ask assign average begin bind bound bring build call cast check choose clear
close collect combine compare complete compute configure convert copy count create cut decide decode define delete
describe detach display divide download draw drop encode end enter escape estimate evaluate exit expand explain
export extend extract fetch fill find fit flag flatten follow format forward free gather generate get give group
guard handle hash hide hold identify ignore implement import include initialize insert integrate join keep label
launch leave let limit list load log look make map mark mask match measure merge move multiply name normalize open
order pack pad parse pass pick place plan plot pool prepare print probe produce project propose prune publish push
put raise read rebuild record reduce refer reject release remove rename render replace replay report represent
reproduce require rescale reset resolve restore return rewrite round run sample save say scale search select send
serve set shift shorten show shuffle simulate skip solve sort split stack start state step stop store stream sum
summarize swap take tell test tokenize total trace track train transform translate try turn undo unpack update
upload use validate wait walk warn wrap write yield
"""
VERBS = frozenset(_VERBS.split())
RELATIVE = re.compile(r"\b(?:which|who|whose|whom|what|where)\b", re.IGNORECASE)
RELATIVE_THAT = re.compile(r"\b(?!(?:so|say|says|said|know|knows|see|sees|show|shows|means|check|checks)\b)\w+ that\b")


@dataclass(frozen=True)
class Density:
    """Hold the figures of some files. Shares are from 0 to 1, rates are per 1,000 code lines or words."""

    files: int
    code_lines: int
    nodes_per_line: float
    comprehensions_per_1000_lines: float
    conditional_expressions_per_1000_lines: float
    local_imports_per_1000_lines: float
    files_over_400_lines: int
    longest_function_lines: int
    verb_first_docstrings: float
    docstrings_with_example: float
    relative_clauses_per_1000_words: float
    semicolons_per_1000_words: float


@dataclass(frozen=True)
class Metrics(Density):
    """Hold the figures of a package: those of its files, and those of its calls and imports."""

    longest_call_chain: int
    rlct_frames: int
    import_circles: int


@dataclass(frozen=True)
class SourceFile:
    """Hold one parsed file: its path, its dotted module name, its text and its syntax tree."""

    path: Path
    module: str
    text: str
    tree: ast.Module


def read_package(folder: Path) -> list[SourceFile]:
    """Parse all Python files below a package's folder."""
    files = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        files.append(SourceFile(path, module, text, ast.parse(text)))
    return files


# ---- lines and nodes ----


def lines_of(node: ast.stmt) -> range:
    """Return the numbers of a statement's lines."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def docstring_lines(tree: ast.Module) -> set[int]:
    """Return the numbers of all lines of docstrings."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
            lines.update(lines_of(node.body[0]))
    return lines


def count_code_lines(file: SourceFile) -> int:
    """Count the lines that are neither blank, a comment nor part of a docstring."""
    prose = docstring_lines(file.tree)
    count = 0
    for number, line in enumerate(file.text.splitlines(), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#") and number not in prose:
            count += 1
    return count


def count_nodes(files: list[SourceFile], *kinds: type[ast.AST]) -> int:
    """Count the syntax nodes of these kinds."""
    return sum(isinstance(node, kinds) for file in files for node in ast.walk(file.tree))


def count_local_imports(files: list[SourceFile]) -> int:
    """Count import statements inside functions, outside of `cli/` and of `__init__.py` files."""
    found: set[tuple[str, int]] = set()
    for file in files:
        if ".cli" in file.module or file.path.name == "__init__.py":
            continue
        for function in ast.walk(file.tree):
            if not isinstance(function, FUNCTIONS):
                continue
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    found.add((file.module, node.lineno))
    return len(found)


def longest_function(files: list[SourceFile]) -> int:
    """Return the number of lines of the longest function, docstrings left out."""
    longest = 0
    for file in files:
        prose = docstring_lines(file.tree)
        for node in ast.walk(file.tree):
            if isinstance(node, FUNCTIONS):
                longest = max(longest, len(set(lines_of(node)) - prose))
    return longest


# ---- imports ----


def absolute_name(file: SourceFile, node: ast.ImportFrom) -> str:
    """Return the absolute module name that a `from ... import` names."""
    if node.level == 0:
        return node.module or ""
    package = file.module.split(".")
    if file.path.name != "__init__.py":
        package = package[:-1]
    package = package[: len(package) - (node.level - 1)]
    return ".".join([*package, *(node.module or "").split(".")]).rstrip(".")


def import_graph(files: list[SourceFile]) -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, TYPE_CHECKING and function bodies included."""
    modules = {file.module for file in files}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for file in files:
        for node in ast.walk(file.tree):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = absolute_name(file, node)
                submodules = [f"{base}.{alias.name}" for alias in node.names]
                targets = [name if name in modules else base for name in submodules]
            graph[file.module].update(target for target in targets if target in modules and target != file.module)
    return graph


def strongly_connected(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of a graph, each after those that it reaches."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            start = stack.index(node)
            components.append(stack[start:])
            del stack[start:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return components


def import_circles(files: list[SourceFile]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle."""
    return [component for component in strongly_connected(import_graph(files)) if len(component) > 1]


# ---- calls ----


def call_graph(files: list[SourceFile]) -> dict[str, set[str]]:
    """Return the functions of the package that each function calls, as `module.function` or `module.Class.method`."""
    functions = dict(all_functions(files))
    exported = exported_names(files, set(functions))
    methods = unique_methods(functions, attributes(files))
    graph: dict[str, set[str]] = {}
    for file in files:
        names = names_of_module(file, exported)
        for name, node in all_functions([file]):
            owner = name.rsplit(".", 1)[0]
            graph[name] = set()
            called = {id(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
            for used in ast.walk(node):
                target = resolve(used, names | methods, owner, functions)
                is_class = target is not None and target.endswith(".__init__")
                if target and target != name and (id(used) in called or not is_class):
                    graph[name].add(target)
    return graph


def all_functions(files: list[SourceFile]) -> Iterator[tuple[str, ast.AST]]:
    """Yield each top-level function and each method with its dotted name."""
    for file in files:
        for node in file.tree.body:
            if isinstance(node, FUNCTIONS):
                yield f"{file.module}.{node.name}", node
            elif isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, FUNCTIONS):
                        yield f"{file.module}.{node.name}.{method.name}", method


def attributes(files: list[SourceFile]) -> set[str]:
    """Return the names of all annotated fields of classes, and of all attributes with an assignment."""
    names: set[str] = set()
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return names


def unique_methods(functions: dict[str, ast.AST], others: set[str]) -> dict[str, str]:
    """Return `.method` -> dotted name, for methods with a name that no foreign type and none of `others` has."""
    import torch
    from scipy.stats import rv_continuous
    from transformers import PreTrainedConfig

    builtin = (str, bytes, list, dict, set, tuple, int, float, Path, re.Pattern, io.TextIOWrapper, io.BufferedReader)
    foreign = set(others)
    for kind in (*builtin, torch.Tensor, torch.nn.Module, rv_continuous, PreTrainedConfig):
        foreign.update(dir(kind))
    found: dict[str, list[str]] = defaultdict(list)
    for name in functions:
        found[name.rsplit(".", 1)[1]].append(name)
    unique = {}
    for method, owners in found.items():
        is_method = owners[0].rsplit(".", 2)[1][:1].isupper()
        if len(owners) == 1 and is_method and method not in foreign:
            unique[f".{method}"] = owners[0]
    return unique


def exported_names(files: list[SourceFile], functions: set[str]) -> dict[str, str]:
    """Return the meaning of each `module.name` of the package, through the imports of packages."""
    exported = {name: name for name in functions}
    exported |= {f"{name.rsplit('.', 1)[0]}": f"{name}" for name in functions if name.endswith(".__init__")}
    for _ in range(3):  # a name may be re-exported by a package and by its parent
        for file in files:
            for name, source in imported_names(file, file.tree.body, exported).items():
                exported.setdefault(f"{file.module}.{name}", source)
    return exported


def imported_names(file: SourceFile, nodes: Iterable[ast.AST], exported: dict[str, str]) -> dict[str, str]:
    """Return the meaning of each name that some nodes import from the package."""
    names = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            base = absolute_name(file, node)
            for alias in node.names:
                source = exported.get(f"{base}.{alias.name}")
                if source:
                    names[alias.asname or alias.name] = source
    return names


def names_of_module(file: SourceFile, exported: dict[str, str]) -> dict[str, str]:
    """Return the meaning of each bare name in a file: its own functions and classes, and imported ones."""
    prefix = f"{file.module}."
    names = {}
    for name, target in exported.items():
        if name.startswith(prefix) and "." not in name[len(prefix) :]:
            names[name[len(prefix) :]] = target
    return names | imported_names(file, ast.walk(file.tree), exported)


def resolve(node: ast.AST, names: dict[str, str], owner: str, functions: dict[str, ast.AST]) -> str | None:
    """Return the dotted name of the function behind a name or an attribute, None if it is unknown."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
        method = f"{owner}.{node.attr}"
        if method in functions:
            return method
    return names.get(f".{node.attr}")


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Return the longest chain of calls. Functions that call each other in a circle count once each."""
    complete = {name: {target for target in targets if target in graph} for name, targets in graph.items()}
    component_of = {}
    for component in strongly_connected(complete):
        for name in component:
            component_of[name] = tuple(component)

    @cache
    def chain(component: tuple[str, ...]) -> list[str]:
        best: list[str] = []
        for name in component:
            for target in sorted(complete[name]):
                if component_of[target] != component:
                    other = chain(component_of[target])
                    best = other if len(other) > len(best) else best
        return [*component, *best]

    return max(map(chain, sorted(set(component_of.values()))), key=len)


# ---- frames ----


def count_rlct_frames() -> int:
    """Estimate a tiny RLCT, and count the package's own frames from `estimate_rlct` to the network's forward."""
    import torch

    from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, estimate_rlct
    from selfmod_hf.data import ImageTensors

    deepest = 0

    class Network(SelfModelingForImageClassification):
        def forward(self, *args: object, **kwargs: object) -> object:
            nonlocal deepest
            codes = [frame.f_code for frame, _ in traceback.walk_stack(sys._getframe())]
            if "estimate_rlct" in [code.co_name for code in codes]:
                own = [code for code in codes if "selfmod_hf" in code.co_filename]
                deepest = max(deepest, len(own) + 1)  # this forward stands for the network's own
            return super().forward(*args, **kwargs)

    torch.manual_seed(0)
    network = Network(SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=4))
    images = ImageTensors(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8), torch.arange(32) % 4)
    estimate_rlct([network], images, num_chains=2, num_draws=20, step_size=1e-5, localization=100.0, batch_size=16)
    return deepest


# ---- prose ----


def docstrings(files: list[SourceFile]) -> list[str]:
    """Return the text of each docstring of functions and classes."""
    found = []
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, (ast.ClassDef, *FUNCTIONS)):
                found.append(ast.get_docstring(node) or "")
    return list(filter(None, found))


def begins_with_verb(text: str) -> bool:
    """Return whether the first word is a verb, in its base form or its third person."""
    match = re.match(r"[A-Za-z]+", text)
    word = match.group().lower() if match else ""
    return bool({word, word.removesuffix("s"), word.removesuffix("es")} & VERBS)


def count_relative_clauses(text: str) -> int:
    """Count relative pronouns, as the head of this file defines them."""
    return len(RELATIVE.findall(text)) + len(RELATIVE_THAT.findall(text))


def per_1000(count: int, total: int) -> float:
    """Return how many of 1,000 these are."""
    return round(1000 * count / total, 1)


def measure_density(files: list[SourceFile]) -> Density:
    """Measure the density and the prose of some files."""
    lines = max(sum(count_code_lines(file) for file in files), 1)
    texts = docstrings(files)
    num_texts = max(len(texts), 1)
    prose = "\n".join(texts)
    words = max(len(prose.split()), 1)
    comprehensions = count_nodes(files, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    file_lines = [len(file.text.splitlines()) for file in files]
    verb_first = sum(map(begins_with_verb, texts)) / num_texts
    with_example = sum(">>>" in text for text in texts) / num_texts
    return Density(
        files=len(files),
        code_lines=lines,
        nodes_per_line=round(count_nodes(files, ast.AST) / lines, 2),
        comprehensions_per_1000_lines=per_1000(comprehensions, lines),
        conditional_expressions_per_1000_lines=per_1000(count_nodes(files, ast.IfExp), lines),
        local_imports_per_1000_lines=per_1000(count_local_imports(files), lines),
        files_over_400_lines=sum(count > 400 for count in file_lines),
        longest_function_lines=longest_function(files),
        verb_first_docstrings=round(verb_first, 3),
        docstrings_with_example=round(with_example, 3),
        relative_clauses_per_1000_words=per_1000(count_relative_clauses(prose), words),
        semicolons_per_1000_words=per_1000(prose.count(";"), words),
    )


def measure(folder: Path, with_frames: bool = True) -> Metrics:
    """Measure a package. `with_frames` runs a tiny RLCT and counts its frames."""
    files = read_package(folder)
    return Metrics(
        **asdict(measure_density(files)),
        longest_call_chain=len(longest_chain(call_graph(files))),
        rlct_frames=count_rlct_frames() if with_frames else 0,
        import_circles=len(import_circles(files)),
    )


def measure_rooms(folder: Path) -> dict[str, Density]:
    """Measure the files of each folder of a package. Files outside of them are the room "(top)"."""
    rooms: dict[str, list[SourceFile]] = defaultdict(list)
    for file in read_package(folder):
        parts = file.path.relative_to(folder).parts
        room = parts[0] if len(parts) > 1 else "(top)"
        rooms[room].append(file)
    return {room: measure_density(files) for room, files in sorted(rooms.items())}


def print_rooms(rooms: dict[str, Density]) -> None:
    """Print a table with a line for each room, and above it the figure of each column."""
    columns = fields(Density)
    for number, column in enumerate(columns, start=1):
        print(f"{number:>2} {column.name.replace('_', ' ')}")
    print(f"{'':12}", *(f"{number + 1:>7}" for number in range(len(columns))))
    for room, density in rooms.items():
        print(f"{room:12}", *(f"{value:>7}" for value in asdict(density).values()))


def main() -> int:
    """Print the figures of a package, and where the longest chain and the circles are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=CHECKOUT / "selfmod_hf", help="folder of the package")
    parser.add_argument("--rooms", action="store_true", help="print density and prose of each folder, a room")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    arguments = parser.parse_args()
    if arguments.rooms:
        print_rooms(measure_rooms(arguments.package))
        return 0
    metrics = asdict(measure(arguments.package))
    if arguments.json:
        print(json.dumps(metrics, indent=2))
        return 0
    for name, value in metrics.items():
        print(f"{name.replace('_', ' '):45} {value}")
    files = read_package(arguments.package)
    print("\nlongest chain of calls:", *longest_chain(call_graph(files)), sep="\n  ")
    for circle in import_circles(files):
        print(f"circle of imports: {', '.join(circle)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
