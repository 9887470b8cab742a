"""Axes of parameters: which of them a reduction keeps."""

import pytest

from gradtx.core.axes import Axes

KEPT = {  # over the leaf, its rows, columns, inputs and outputs
    "in out": ((), (0,), (1,), (1,), (0,)),
    "out in": ((), (0,), (1,), (0,), (1,)),
    "in in out": ((), (0,), (2,), (2,), (0, 1)),
    "batch in out": ((), (1,), (2,), (2,), (1,)),
    "row out": ((), (0,), (1,), (0,), (1,)),
    "out": ((), (), (), (), ()),
}


@pytest.mark.parametrize("roles", KEPT)
def test_a_reduction_keeps_the_axes_that_it_is_not_over(roles):
    axes = Axes(tuple(roles.split()))
    assert tuple(axes.kept(over) for over in ("leaf", "rows", "columns", "inputs", "outputs")) == KEPT[roles]
