"""The collectives of a compiled program, by kind, and the bytes that each device receives."""

import re
from collections import Counter
from math import prod
from typing import Any, NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ITEMS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


class Traffic(NamedTuple):
    """The collectives of each run of a program, and those of branches, which only some runs take."""

    always: Counter
    branches: Counter
    received: int  # bytes for each device in each run, with one turn of each loop
    in_branches: int  # bytes for each device in all branches

    def row(self) -> str:
        """As the table has it: `all-reduce 3, all-gather 2; in branches all-reduce 3`."""
        both = [", ".join(f"{kind} {of[kind]}" for kind in KINDS if of[kind]) for of in (self.always, self.branches)]
        return "; in branches ".join(x or "none" for x in both[: 1 + bool(both[1])])


def traffic(program: Any) -> Traffic:
    """Read the text of a compiled program."""
    always, branches, received = Counter(), Counter(), [0, 0]
    computations, lines = {}, []
    for line in program.as_text().splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            lines = computations["" if match[1] else match[2]] = []
        elif line.startswith("  "):
            lines.append(line)
    todo = [("", False)]
    while todo:
        name, in_branch = todo.pop()
        for line in computations[name]:
            if not (match := re.match(r" +(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z-]+)\(", line)):
                continue
            result, operation = match[1], match[2].removesuffix("-start")
            if operation in KINDS:
                (branches if in_branch else always)[operation] += 1
                received[in_branch] += _received(operation, result, line)
            branch = operation == "conditional"
            listed = re.findall(r"(?:to_apply|calls|body|true_computation|false_computation)=%?([\w.-]+)", line)
            for several in re.findall(r"branch_computations=\{([^}]*)\}", line):
                listed += [one.strip().lstrip("%") for one in several.split(",")]
            todo += [(one, in_branch or branch) for one in listed]
    return Traffic(always, branches, *received)


def _received(operation: str, result: str, line: str) -> int:
    """The bytes that a device receives in one collective, by the usual ring algorithms."""
    shapes = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", result)
    size = sum(ITEMS[dtype] * prod(map(int, filter(None, dims.split(",")))) for dtype, dims in shapes)
    if operation == "collective-permute":
        return size
    group = _group(line)
    factor = {"all-reduce": 2 / group, "reduce-scatter": 1.0}.get(operation, 1 / group)
    return int(size * (group - 1) * factor)


def _group(line: str) -> int:
    """The number of devices in each group of a collective."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    assert mesh, line
    sizes, names = mesh.groups()
    of = {name: int(size) for name, size in re.findall(r"('[^']*')=(\d+)", sizes)}
    return prod(int(part) if part else of[name] for name, part in re.findall(r"('[^']*')(?::\(\d+\)(\d+))?", names))
