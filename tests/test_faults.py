"""The table of faults: each applies to the code, and the tests catch one of them, which depends on the code.

`python tests/faults.py` plants them all.
"""

from zlib import crc32

import pytest
from faults import FAULTS, PACKAGE, ROOT, main, planted


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_it_applies(fault):
    planted(fault, PACKAGE)
    file, _, test = fault.test.partition("::")
    assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text()


def test_names_are_unique():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30


def test_the_readme_gives_their_number():
    assert f"it introduces {len(FAULTS)} faults" in " ".join((ROOT / "README.md").read_text().split())


def test_one_is_caught():
    code = b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))
    assert main(["--sample", "1", "--seed", str(crc32(code))]) == 0
