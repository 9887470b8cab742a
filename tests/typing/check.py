"""pyright and `mypy --strict` over a user's code, against the gradtx that this interpreter has installed.

python tests/typing/check.py
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def errors_of(command: Sequence[str], folder: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout


def pyright(file: str, folder: str) -> list[tuple[int, str]]:
    found = errors_of(["pyright", "--outputjson", "--pythonpath", sys.executable, file], folder)
    told = json.loads(found)["generalDiagnostics"]
    return [(one["range"]["start"]["line"] + 1, one["message"]) for one in told if one["severity"] == "error"]


def mypy(file: str, folder: str) -> list[tuple[int, str]]:
    found = errors_of(["mypy", "--strict", "--python-executable", sys.executable, file], folder)
    return [(int(line), message) for line, message in re.findall(r"^[^:\n]+:(\d+): error: (.*)$", found, re.M)]


def main() -> None:
    failures = []
    with tempfile.TemporaryDirectory() as folder:  # away from the checkout, which would be found before the wheel
        for file in ("user.py", "wrong.py"):
            text = (HERE / file).read_text(encoding="utf-8")
            Path(folder, file).write_text(text, encoding="utf-8")
            wrong = {i for i, line in enumerate(text.splitlines(), 1) if line.endswith("# wrong")}
            for check in (pyright, mypy):
                found = check(file, folder)
                lines = {line for line, _ in found}
                failures += [
                    f"{check.__name__}: {file}:{line}: {message}" for line, message in found if line not in wrong
                ]
                failures += [f"{check.__name__}: {file}:{line}: no error" for line in sorted(wrong - lines)]
                print(f"{check.__name__}: {file}: {len(found)} errors, {len(wrong)} wrong lines")
        run = subprocess.run([sys.executable, "user.py"], cwd=folder, env=os.environ | {"MPLBACKEND": "agg"})
        failures += ["user.py does not run"] * (run.returncode != 0)
    print(*failures, sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
