"""The runner of small experiments, as a process of its own."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_cases.py"


def run_cases(*arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_each_experiment_is_reported_with_what_it_saw(tmp_path):
    (tmp_path / "a.py").write_text("import selfmod_hf\nprint('first')\nprint('sees the package')")
    (tmp_path / "b.py").write_text("import sys\nprint('sees a fault')\nsys.exit(1)")
    (tmp_path / "c.py").write_text("raise KeyError('lost')")
    (tmp_path / "d.py").write_text("import time\ntime.sleep(60)")
    code, lines = run_cases(str(tmp_path), "--timeout", "2")
    assert code == 1
    assert lines == [
        "ok    a: sees the package",
        "WRONG b: sees a fault",
        "WRONG c: KeyError: 'lost'",
        "WRONG d: not finished after 2 s",
    ]


def test_all_right_is_exit_code_0_and_so_is_a_missing_folder(tmp_path):
    (tmp_path / "a.py").write_text("print('right')")
    assert run_cases(str(tmp_path)) == (0, ["ok    a: right"])
    code, lines = run_cases(str(tmp_path / "missing"))
    assert code == 0
    assert "nothing to run" in lines[0]
