"""Write the cards in model_cards/ from results folders: `python scripts/model_cards.py runs/h64=me/mnist-h64 ...`.

Each argument is FOLDER=REPOSITORY: a folder of `selfmod sweep`, of any task, and where its networks are, or are to be,
published.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.files import write_file
from selfmod_hf.reports.cards import dataset_card, sweep_card
from selfmod_hf.reports.sweep_results import read_results

OUTPUT = Path(__file__).resolve().parents[1] / "model_cards"


def main(arguments: Sequence[str], output: Path = OUTPUT) -> int:
    """Write NAME.md and NAME-results.md (the data set's card) for each; returns the exit code."""
    if not arguments or not all("=" in argument for argument in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    for argument in arguments:
        folder, _, repo_id = argument.rpartition("=")
        name = repo_id.split("/")[-1]
        try:
            results = read_results(SweepFolder(folder))
            cards = {
                name: sweep_card(results, repo_id, figure=None),
                f"{name}-results": dataset_card(results, repo_id),
            }
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
        for file, card in cards.items():
            write_file(output / f"{file}.md", f"{card}\n")
        print(", ".join(f"{output.name}/{file}.md" for file in cards))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
