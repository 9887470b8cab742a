"""Mutation tests: faults that are planted one at a time, each of which a test must catch.

    python tests/faults.py [--only NAME …] [--sample N [--seed S]] [--list]
    python tests/faults.py --random N [--seed S] [--since REVISION] [--within FOLDER …] [--lines FOLDER] [--workers N]
    python tests/faults.py --changed N [--seed S] [--since REVISION] [--within FOLDER …] [--workers N]

The package and its tests are copied, the fault is planted in the copy, and the one test that should fail is run there.
Before, all these tests are run without a fault. The exit code is 0 if every fault is caught, and applies to the code.

With `--random`, N faults are random mutants (tests/mutants.py), of the lines that differ from a revision of the
repository in the current directory if there are enough. The tests of a mutant are those that run its line:
`pytest --lines FOLDER` records them, with Python 3.12 or later, and is run here unless the folder is there. For a
default or a field, they run a body of its function or class. After them come the others of their files, which may use
what they have cached. Each test function comes once before any comes twice, the quick ones first, for SECONDS of
recorded time and at most MOST tests, until one fails. They run in a fork of a process that has imported JAX; a mutant
that takes more than LIMIT seconds hangs, and is caught. In the end, the tests that failed must pass without a mutant.
The exit code is 0 if 90 % of the mutants are caught; of a dozen, 9, which a rate of 92 % reaches in 99 % of all runs.

With `--changed`, the mutants are of the lines that differ from the last tag or, without one, the parent commit, and
nothing is recorded. Of each mutant only the tests near it run, for NEAR seconds of a processor: the doctests of its
module, the tests that mirror the module, and the rows of the registry for the names that it defines, those first that
name the function or class of the mutant. What other tests would catch, survives: the rate is a lower bound.
"""

import argparse
import ast
import contextlib
import importlib
import inspect
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pytest
from mutants import Mutant, changed, last_revision, mutants

ROOT = Path(__file__).parents[1]
# Of the checkout, or installed. It is not imported: forks import a mutant.
PACKAGE = ROOT / "gradtx" if (ROOT / "gradtx").is_dir() else Path(find_spec("gradtx").origin).parent  # pyright: ignore
SECONDS, MOST, LIMIT, NEAR = 60, 1000, 300, 25
QUIET = "ignore::pytest.PytestAssertRewriteWarning"  # of plugins that have been imported before
REFERENCE = "tests/optimizers/test_references.py::test_recipe_is_its_formula"
CONTRACT = "tests/test_contract.py::test"
BAD = "tests/core/test_errors.py::test_bad_input"
STEP = "tests/training/test_step.py::test"
FIT = "tests/training/test_fit.py::test"


class Fault(NamedTuple):
    """A wrong piece of code in place of the right one, and the test that should fail."""

    name: str
    file: str  # in the package
    right: str  # occurs once
    wrong: str
    test: str


FAULTS = [
    # ---------------------------------------------------------------- the root
    Fault(
        "the age of a piece is the step of the run",
        "core/root.py",
        'age = counted(slots["age"]) if jax.tree.leaves(updates) else slots["age"]',
        "age = context.step",
        f"{CONTRACT}_fresh_slots_in_an_old_run_give_the_first_updates_of_a_new_one[adam-0]",
    ),
    Fault(
        "a piece without a gradient ages",
        "core/root.py",
        ' if jax.tree.leaves(updates) else slots["age"]',
        "",
        "tests/core/test_leaves.py::test_without_any_gradient_a_piece_does_not_age",
    ),
    Fault(
        "a restored clock is the saved step, whatever its unit",
        "serialization/restore.py",
        "        if len(governed) == 1:",
        "        if False:",
        "tests/serialization/test_restore.py::test_a_wrapper_added_or_taken_away_keeps_the_rate_and_the_averages"
        "[accumulate 4-adam]",
    ),
    Fault(
        "the clock of each leaf is a clock of the run",
        "serialization/restore.py",
        "*(path for path in clocks if path in need)]",
        "*clocks]",
        "tests/serialization/test_restore.py::test_a_clock_of_each_leaf_or_row_comes_back[every-leafwise]",
    ),
    Fault(
        "the means of rows have the axes of the parameter",
        "core/axes.py",
        "if scope().fewer else declared(path, leaf)",
        "if False else declared(path, leaf)",
        "tests/combinators/test_reduced.py::test_numbers_have_no_inputs_and_outputs_but_the_path_of_their_leaf"
        "[factored-rows]",
    ),
    Fault(
        "train_step does not check the optimizer",
        "training/step.py",
        "                check_values(step.tx, state)\n",
        "",
        f"{STEP}_an_optimizer_that_was_made_invalid[negative-given]",
    ),
    Fault(
        "a boxed leaf has the path of the array in its box",
        "core/trees.py",
        "leaves += [((*keys, *more), leaf) for more",
        "leaves += [((*keys, *keys[-1:], *more), leaf) for more",
        "tests/core/test_trees.py::test_paths_are_exact",
    ),
    Fault(
        "any last name of `value` is that of a box",
        "core/trees.py",
        'return keystr(keys[:-1] if keys and isinstance(keys[-1], Owner) else keys, simple=True, separator="/")',
        'return keystr(keys[:-1] if "value" in str(keys[-1:]) else keys, simple=True, separator="/")',
        "tests/core/test_trees.py::test_a_pattern_and_a_state_and_a_table_have_the_same_paths",
    ),
    Fault(
        "a record shares the array of a hyperparameter with the caller",
        "core/schedule.py",
        "value = value.copy()",
        "value = value.view()",
        "tests/core/test_record.py::test_an_array_that_its_owner_changes_is_not_in_a_record",
    ),
    Fault(
        "one name of a pattern spans several names",
        "core/where.py",
        'i in starts or (i - 1 in ends and path[i - 1] != "/")',
        "i in starts or i - 1 in ends",
        "tests/core/test_trees.py::test_a_pattern_matches_as_its_regular_expression",
    ),
    Fault(
        "a wrapper inside leafwise is evaluated on the whole tree",
        "wrappers/evaluation.py",
        "    if isinstance(tx, Separate):",
        "    if False:",
        "tests/wrappers/test_evaluation.py::test_in_every_combinator_whatever_the_parameters_are_called",
    ),
    Fault(
        "the average of means is an average of the parameters",
        "combinators/reduced.py",
        "    def evaluate(self, params: Any, slots: Slots) -> Any:",
        "    def _evaluate(self, params: Any, slots: Slots) -> Any:",
        "tests/wrappers/test_evaluation.py::test_in_every_combinator_whatever_the_parameters_are_called",
    ),
    Fault(
        "leaves of the same shape share a rule that reads the path",
        "core/root.py",
        "if all(question(path_of(keys), g) == answer for question, answer in asked):",
        "if True:",
        "tests/core/test_leaves.py::test_equal_leaves_with_other_paths_decay_as_their_group_does",
    ),
    Fault(
        "slots shared by all leaves keep their first value",
        "core/root.py",
        "        first = first or row",
        "        first = first or [column[0] for column in columns]",
        f"{REFERENCE}[adam-0]",
    ),
    Fault(
        "the step count overflows",
        "core/root.py",
        "jnp.where(n < 2**31 - 1, n + 1, n)",
        "n + 1",
        f"{CONTRACT}_the_step_saturates",
    ),
    Fault(
        "pieces count from 0",
        "core/root.py",
        "Context(step, params, extra)",
        "Context(state.step, params, extra)",
        "tests/core/test_leaves.py::test_pieces_see_the_number_of_the_update_from_one",
    ),
    Fault(
        "schedules are a step ahead",
        "core/root.py",
        "tx.at(step, running=True)",
        "tx.at(step + 1, running=True)",
        "tests/core/test_record.py::test_schedules",
    ),
    Fault(
        "hyperparameters are rounded to the updates' dtype",
        "core/root.py",
        "lambda h: jnp.asarray(h, dtype), tx.at",
        "lambda h: jnp.asarray(jnp.asarray(h, min(x.dtype for x in jax.tree.leaves(updates))), dtype), tx.at",
        f"{CONTRACT}_bfloat16_equals_float32_up_to_rounding_of_the_output[momentum-0]",
    ),
    Fault(
        "slots take the dtype of the computation",
        "core/root.py",
        "jax.tree.map(lambda s, x: trees.as_dtype(x, s.dtype), state.slots, slots)",
        "slots",
        f"{CONTRACT}_wider_gradients_do_not_widen_the_state",
    ),
    Fault(
        "slots start in the parameter's dtype",
        "core/transformation.py",
        "            p = widen(p)\n",
        "            p = jnp.asarray(p)\n",
        f"{CONTRACT}_the_state_is_a_fixed_point_and_updates_keep_their_dtype[scale_by_ema-0]",
    ),
    Fault(
        "a pair's slots start in the parameter's dtype",
        "core/transformation.py",
        'lambda p: widen(p) if differentiable("params", p) else None, params)',
        'lambda p: jnp.asarray(p) if differentiable("params", p) else None, params)',
        "tests/core/test_low_precision.py::test_low_precision_inputs_are_computed_in_float32",
    ),
    Fault(
        "None for one parameter is None for all that begin with its name",
        "core/checks.py",
        'tuple(f"{path}/" if path else "" for path in frozen)',
        "tuple(frozen)",
        f"{BAD}[None for a name that begins like another]",
    ),
    Fault(
        "updates come out in the working dtype",
        "core/root.py",
        "u if o is None else trees.narrow(o, u)",
        "u if o is None else o",
        f"{CONTRACT}_the_state_is_a_fixed_point_and_updates_keep_their_dtype[scale_by_ema-0]",
    ),
    Fault(
        "the working dtype is the parameters' own",
        "core/trees.py",
        "return max(single, jnp.finfo(dtype).dtype, key=lambda x: x.itemsize) if inexact else single",
        "return jnp.finfo(dtype).dtype if inexact else single",
        f"{CONTRACT}_the_state_is_a_fixed_point_and_updates_keep_their_dtype[scale_by_ema-0]",
    ),
    Fault(
        "parameters are rounded before the addition",
        "core/apply.py",
        "dtype := working_dtype(u, p)",
        "dtype := jnp.result_type(u)",
        "tests/core/test_trees.py::test_parameters_keep_digits_that_updates_lack",
    ),
    Fault(
        "the slots of a leaf without a gradient become 0",
        "core/root.py",
        "        rows.append((g, *row))",
        "        rows.append((g, *row) if g is not None else (g, *(0 * x for x in row)))",
        f"{CONTRACT}_none_for_a_gradient_leaves_the_leaf_and_its_slots_alone[scale_by_ema-0]",
    ),
    Fault(
        "a gradient of None is a zero",
        "core/root.py",
        "        if g is not None:",
        "        if (g := 0 * p if g is None and p is not None else g) is not None:",
        f"{CONTRACT}_none_for_a_gradient_leaves_the_leaf_and_its_slots_alone[scale_by_ema-0]",
    ),
    Fault(
        "float0 is an array",
        "core/root.py",
        "None if is_float0(u) else trees.widen(u, dtype)",
        "trees.widen(u, dtype)",
        f"{CONTRACT}_float0_gradients_of_integers_pass_through[scale_by_ema-0]",
    ),
    Fault(
        "slots of one shape have one sharding",
        "core/trees.py",
        "_never(param), param if",
        "lax.full_like(param, 0, bool), param if",
        f"{CONTRACT}_slots_of_one_shape_are_each_sharded_as_their_own_parameter[adamw-Auto]",
    ),
    Fault(
        "a program keeps its loss alive",
        "core/programs.py",
        "of = weak(function)",
        "of = lambda: function",
        "tests/training/test_memory.py::test_no_loss_outlives_its_last_use",
    ),
    Fault(
        "slots are not sharded",
        "core/trees.py",
        "if not isinstance(param, Tracer) or slot.shape != param.shape:",
        "if True:",
        f"{CONTRACT}_sharded_is_single_device_and_slots_are_sharded_as_their_parameter[adamw-Auto]",
    ),
    Fault(
        "a missing argument is accepted",
        "core/checks.py",
        'if name != "**" and (',
        'if name == "" and (',
        f"{BAD}[no params]",
    ),
    Fault(
        "an unknown argument is accepted",
        "core/checks.py",
        'if "**" not in needs and (',
        'if "" in needs and (',
        f"{BAD}[a typo]",
    ),
    Fault(
        "an error of a user's function is taken for the piece's",
        "core/checks.py",
        "if not any(isinstance(x, type(context)) for x in frame.f_locals.values()):",
        "if False:",
        "tests/core/test_extra.py::test_an_error_in_a_users_function_is_not_changed",
    ),
    Fault(
        "shapes are not compared",
        "core/checks.py",
        "if jnp.shape(x) != jnp.shape(y):",
        "if jnp.ndim(x) != jnp.ndim(y):",
        f"{BAD}[a shape that broadcasts]",
    ),
    Fault(
        "a missing leaf is accepted",
        "core/checks.py",
        "for path in need | have:",
        "for path in have:",
        f"{BAD}[a leaf missing]",
    ),
    Fault(
        "a state of another precision is accepted",
        "core/checks.py",
        "operator.eq if exact else _holds",
        "_holds",
        f"{BAD}[a state of another precision]",
    ),
    Fault(
        "imaginary parts change sign",
        "core/trees.py",
        "jax.lax.complex(x[..., 0], x[..., 1])",
        "jax.lax.complex(x[..., 0], -x[..., 1])",
        f"{CONTRACT}_complex_numbers_are_pairs_of_reals[identity-0]",
    ),
    Fault(
        "each call compiles",
        "core/trees.py",
        "return program(*own, **named)",
        "return jax.jit(lambda *args: function(*args))(*args)",
        f"{CONTRACT}_five_steps_compile_once_and_five_rates_trace_once",
    ),
    # ---------------------------------------------------------------- records
    Fault(
        "records of one structure are equal",
        "core/record.py",
        "return shape == other_shape and all(",
        "return shape == other_shape or all(",
        f"{CONTRACT}_equal_records_are_alike[adam-0]",
    ),
    Fault(
        "equal records hash differently",
        "core/record.py",
        "return hash((jax.tree.structure(self), ",
        "return hash((id(self), ",
        f"{CONTRACT}_equal_records_are_alike[adam-0]",
    ),
    Fault(
        "structure is not printed",
        "core/record.py",
        "if kind.data or value != getattr",
        "if kind.data and value != getattr",
        f"{CONTRACT}_a_record_prints_as_the_call_that_makes_it[add_momentum-1]",
    ),
    Fault(
        "a record forgets a field when it is pickled",
        "core/record.py",
        "    __delattr__ = __setattr__",
        "    __delattr__ = __setattr__\n"
        "    __getstate__ = lambda self: {n: x for n, x in vars(self).items() if n != 'nesterov'}",
        f"{CONTRACT}_pickle[add_momentum-1]",
    ),
    Fault(
        "a decay may be 1",
        "core/schedule.py",
        "interval(0, math.nextafter(1, 0), ",
        "interval(0, 1, ",
        "tests/core/test_errors.py::test_a_bad_hyperparameter_names_the_piece_and_the_argument",
    ),
    Fault(
        "a record may be changed",
        "core/record.py",
        "if name not in self._kinds or name in self.__dict__:",
        "if name not in self._kinds:",
        "tests/core/test_record.py::test_records_are_frozen_and_replaceable",
    ),
    # ---------------------------------------------------------------- combinators
    Fault(
        "a chain in a chain is not flattened",
        "combinators/chain.py",
        "(link.links if isinstance(link, chain) else (link,))",
        "(link,)",
        "tests/test_laws.py::test_chain_is_associative_states_included",
    ),
    Fault(
        "slots are keyed by position",
        "combinators/chain.py",
        "[type(link).__name__ for link in self.links]",
        "[str(i) for i, _ in enumerate(self.links)]",
        "tests/test_laws.py::test_putting_a_piece_in_keeps_the_slots",
    ),
    Fault(
        "two links of one class have the same slots",
        "combinators/chain.py",
        "distinct([type(link).__name__ for link in self.links], self.own)",
        "[type(link).__name__ for link in self.links]",
        f"{REFERENCE}[aggmo-2]",
    ),
    Fault(
        "a number makes the name of another link or group",
        "core/root.py",
        "own in used or (number > 1 and own in names)",
        "own in used",
        "tests/combinators/test_parts.py::test_no_made_name_is_a_chosen_one",
    ),
    Fault(
        "a stream of a monitor has the name of its measurement",
        "combinators/monitor.py",
        'own = ("measured",)',
        "own = ()",
        "tests/combinators/test_parts.py::test_no_name_of_a_part_is_one_of_a_slot_or_a_field",
    ),
    Fault(
        "a part of a tuple has the name of a field",
        "core/transformation.py",
        "range(1, len(value) + 1)], self._kinds)",
        "range(1, len(value) + 1)])",
        "tests/combinators/test_parts.py::test_no_name_of_a_part_is_one_of_a_slot_or_a_field",
    ),
    Fault(
        "ε is outside the root",
        "combinators/precondition.py",
        "safe_sqrt(s * s + self.eps)",
        "safe_sqrt(s * s) + self.eps",
        f"{REFERENCE}[adam-2]",
    ),
    Fault(
        "ε is inside the root",
        "combinators/precondition.py",
        "if self.eps_in_sqrt else s + self.eps)",
        "if self.eps_in_sqrt else safe_sqrt(s * s + self.eps))",
        f"{REFERENCE}[adam-1]",
    ),
    Fault(
        "the denominator is of the direction",
        "combinators/precondition.py",
        "measured = jax.tree.map(jnp.subtract, updates, direction) if self.centered else updates",
        "measured = direction",
        f"{REFERENCE}[adam-0]",
    ),
    Fault(
        "the weights of a blend are swapped",
        "combinators/blend.py",
        "lerp(a, g, self.weight)",
        "lerp(g, a, self.weight)",
        f"{REFERENCE}[lion-0]",
    ),
    Fault(
        "the last matching rule wins",
        "combinators/partition.py",
        "chosen(rule, [path for path in here if names[path] is None])",
        "chosen(rule, here)",
        "tests/combinators/test_partition.py::test_first_match_wins",
    ),
    Fault(
        "a boolean of one parameter holds for all that begin with its name",
        "core/where.py",
        "            if within(path, branch):",
        "            if path.startswith(branch):",
        "tests/combinators/test_partition.py::test_trees_of_labels_and_booleans_match_whole_names",
    ),
    Fault(
        "a boolean of the beginning of a name is accepted",
        "core/where.py",
        "within(path, branch) or",
        "path.startswith(branch) or",
        "tests/combinators/test_partition.py::test_bad_input[booleans of the beginning of a name]",
    ),
    Fault(
        "a label of one parameter holds for all that begin with its name",
        "core/where.py",
        '    return branch in ("", path) or path.startswith(f"{branch}/")',
        "    return path.startswith(branch)",
        "tests/combinators/test_partition.py::test_trees_of_labels_and_booleans_match_whole_names",
    ),
    Fault(
        "a pattern matches the end of a name",
        "core/where.py",
        'return starts | {i for i in after if path[i - 1] == "/"}',
        "return starts | {*after}",
        "tests/combinators/test_partition.py::test_a_pattern_matches_whole_names",
    ),
    Fault(
        "a pattern matches the beginning of a name",
        "core/where.py",
        'here = [i for i in starts if path[i : i + 1] == "/"]',
        "here = [*starts]",
        "tests/combinators/test_partition.py::test_a_pattern_matches_whole_names",
    ),
    Fault(
        "a group sees the whole gradient function's arguments",
        "combinators/partition.py",
        "x if key in WHOLE else parts.argument(name, x)",
        "x",
        "tests/combinators/test_partition.py::test_extra_arguments_shaped_like_the_parameters_are_cut",
    ),
    Fault(
        "graft takes the norm of the direction",
        "combinators/graft.py",
        "norm(m) * unit(d)",
        "norm(d) * unit(m)",
        "tests/inspect/test_formula.py::test_the_formula_computes_the_same_as_the_code[graft-0]",
    ),
    Fault(
        "a distance shrinks",
        "combinators/distances.py",
        'jnp.maximum(slots["distance"], global_norm(away))',
        "global_norm(away)",
        f"{REFERENCE}[dog-0]",
    ),
    # ---------------------------------------------------------------- wrappers
    Fault(
        "held updates are computed and multiplied by 0",
        "wrappers/every.py",
        'jax.lax.cond(slots["count"] == 0, renew, lambda: slots)',
        'jax.tree.map(lambda x, y: y + (slots["count"] == 0) * (x - y), renew(), slots)',
        "tests/wrappers/test_every.py::test_a_nan_between_runs_is_ignored_and_one_at_a_run_is_held",
    ),
    Fault(
        "the inner clock is the outer one",
        "wrappers/every.py",
        'Slots]:\n        inner = at_work(self.inner, slots["step"], ',
        "Slots]:\n        inner = at_work(self.inner, context.step - 1, ",
        "tests/wrappers/test_every.py::test_clocks_nest_and_are_the_inner_ones_alone",
    ),
    Fault(
        "a sum of many parts loses what it rounds",
        "wrappers/accumulate.py",
        "two_sum(a, lost[0] + added(g))",
        "two_sum(a, added(g))",
        "tests/wrappers/test_accumulate.py::test_the_mean_of_many_parts_is_accurate[0-1024]",
    ),
    Fault(
        "a sum of many micro-batches loses what it rounds",
        "training/step.py",
        "two_sum(m, rest + x)",
        "two_sum(m, x)",
        "tests/training/test_step.py::test_the_gradient_of_many_micro_batches_is_accurate[False-float32-1024]",
    ),
    Fault(
        "a factored product underflows to 0",
        "combinators/reduced.py",
        "jnp.where((r > 0) & (c > 0), jnp.finfo(r.dtype).tiny, 0)",
        "jnp.zeros((), r.dtype)",
        f"{CONTRACT}_a_gradient_of_very_different_coordinates_has_finite_updates[adafactor]",
    ),
    Fault(
        "the updates of a group overflow",
        "wrappers/accumulate.py",
        'counted(own["count"]))',
        'own["count"] + 1)',
        f"{CONTRACT}_every_counter_saturates[accumulate-0]",
    ),
    Fault(
        "the next step of Nadam's warm-up overflows",
        "pieces/averages.py",
        "self._mu(t), self._mu(t + 1)",
        "self._mu(t), self._mu((context.age + 1).astype(t.dtype))",
        f"{CONTRACT}_every_counter_saturates[nadamw-0]",
    ),
    Fault(
        "the slow weights never move",
        "wrappers/iterates.py",
        "pull = context.age % self.every_k == 0",
        "pull = context.age < 0",
        "tests/wrappers/test_evaluation.py::test_eval_params_equal_numpy[lookahead]",
    ),
    Fault(
        "the slow weights move a step early",
        "wrappers/iterates.py",
        "pull = context.age % self.every_k == 0",
        "pull = (context.age + 1) % self.every_k == 0",
        "tests/wrappers/test_evaluation.py::test_eval_params_equal_numpy[lookahead]",
    ),
    Fault(
        "a missing select: the slow weights take in every update",
        "wrappers/iterates.py",
        "return jnp.where(pull, s + self.weight * (p + u - s), s)",
        "return s + pull * self.weight * (p + u - s)",
        "tests/wrappers/test_evaluation.py::test_a_nan_between_the_steps_that_count_is_ignored",
    ),
    Fault(
        "a missing select: the average takes in every iterate",
        "wrappers/iterates.py",
        "jnp.where(taken, more, 0)",
        "more",
        "tests/wrappers/test_evaluation.py::test_eval_params_equal_numpy[swa]",
    ),
    Fault(
        "the average loses what it rounds",
        "wrappers/iterates.py",
        "two_sum(a, lost + share * (p + u - a - lost))",
        "two_sum(a, share * (p + u - a))",
        "tests/wrappers/test_evaluation.py::test_an_average_over_a_million_updates_does_not_stall[mean]",
    ),
    Fault(
        "the base loses its weight",
        "wrappers/iterates.py",
        "(same * share + (1 - same)) * (y - z)",
        "share * (y - z)",
        "tests/wrappers/test_evaluation.py::test_eval_params_equal_numpy[schedule_free of a scheduled b1]",
    ),
    Fault(
        "a slot is the parameters' own buffer",
        "wrappers/iterates.py",
        "jnp.copy(trees.widen(p))",
        "trees.widen(p)",
        f"{CONTRACT}_compiled_and_donated_equals_operation_by_operation[lookahead-0]",
    ),
    Fault(
        "eval_params returns the trained parameters",
        "wrappers/evaluation.py",
        "lambda p, e: p if e is None else e, trees.opened(params), evaluated",
        "lambda p, e: p, trees.opened(params), evaluated",
        "tests/wrappers/test_evaluation.py::test_eval_params_equal_numpy[EMA]",
    ),
    # ---------------------------------------------------------------- pieces
    Fault(
        "keep and take are swapped",
        "pieces/formulas.py",
        "keep * a + (1 - keep) * b",
        "(1 - keep) * a + keep * b",
        f"{REFERENCE}[averaged_momentum-2]",
    ),
    Fault(
        "0/0 is NaN",
        "pieces/formulas.py",
        "jnp.where(zero, 0, a / jnp.where(zero, 1, b))",
        "a / b",
        f"{CONTRACT}_zero_gradients_give_zero_updates[adam-1]",
    ),
    Fault(
        "NaN is hidden",
        "pieces/formulas.py",
        "zero = (a == 0) & (b == 0)",
        "zero = ((a == 0) & (b == 0)) | jnp.isnan(a)",
        f"{CONTRACT}_a_non_finite_gradient_propagates[adam-0]",
    ),
    Fault(
        "a root has an infinite derivative",
        "pieces/formulas.py",
        "jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))",
        "jnp.sqrt(jnp.maximum(x, 0))",
        f"{CONTRACT}_every_hyperparameter_has_a_finite_gradient_at_zero_gradients_too[adam-1]",
    ),
    Fault(
        "a leaf's norm is not scaled",
        "pieces/formulas.py",
        "unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)",
        "unit = jnp.ones_like(largest)",
        "tests/pieces/test_accumulation.py::test_a_root_mean_square_of_any_scale",
    ),
    Fault(
        "the global norm is not scaled",
        "pieces/measures.py",
        "lambda: safe_sqrt(squares_of(lambda x: x / divisor)) * divisor",
        "lambda: jnp.sqrt(squares)",
        "tests/test_laws.py::test_the_global_norm_at_any_scale",
    ),
    Fault(
        "a norm is summed in the leaves' dtype",
        "pieces/measures.py",
        "x = lax.square(scaled(as_dtype(jnp.abs(x) if jnp.iscomplexobj(x) else x, dtype)))",
        "x = jnp.sum(jnp.square(scaled(jnp.abs(x)).astype(x.dtype))).astype(dtype)",
        "tests/test_laws.py::test_the_global_norm_in_low_precision",
    ),
    Fault(
        "rows without a gradient move",
        "combinators/lazy.py",
        "jnp.where(jnp.expand_dims(present, others), new, old)",
        "jnp.where(jnp.expand_dims(present | True, others), new, old)",
        "tests/combinators/test_lazy.py::test_it_is_sparse_adam",
    ),
    Fault(
        "a clip by norm hides NaN",
        "pieces/clipping.py",
        " + 0 * norm\n",
        "\n",
        "tests/test_laws.py::test_clipping_by_norm_does_not_hide_non_finite_gradients",
    ),
    Fault(
        "the squares of a norm overflow before they are scaled",
        "pieces/measures.py",
        "lambda x: jnp.clip(x, -root, root)",
        "lambda x: x",
        "tests/core/test_debug_modes.py::test_the_global_norm_under_vmap",
    ),
    Fault(
        "Nesterov's momentum does not look ahead",
        "pieces/averages.py",
        "g + self.decay * velocity if self.nesterov",
        'g + self.decay * slots["velocity"] if self.nesterov',
        f"{REFERENCE}[nesterov-0]",
    ),
    Fault(
        "an average from the first begins at the second",
        "pieces/averages.py",
        "jnp.where(context.age == 1, g, slots",
        "jnp.where(context.age == 2, g, slots",
        "tests/test_laws.py::test_the_notes_average_of_a_series",
    ),
    Fault(
        "the correction is a step behind",
        "pieces/averages.py",
        "    return mean, t * mean",
        "    return mean, (t + 1) * mean",
        f"{REFERENCE}[adam-0]",
    ),
    Fault(
        "the correction loses digits",
        "pieces/averages.py",
        "g / -jnp.expm1(log_product)",
        "g / (1 - jnp.exp(log_product))",
        "tests/optimizers/test_references.py::test_adam_in_float32[0.9999]",
    ),
    Fault(
        "weights grow instead of decaying",
        "pieces/decay.py",
        "return g + self.weight_decay",
        "return g - self.weight_decay",
        f"{REFERENCE}[adamw-0]",
    ),
    Fault(
        "the step is uphill",
        "pieces/elementwise.py",
        "return -self.learning_rate * g",
        "return self.learning_rate * g",
        f"{REFERENCE}[sgd-0]",
    ),
    Fault(
        "the running maximum is the last value",
        "pieces/accumulators.py",
        'largest = jnp.maximum(slots["max"], g)',
        "largest = g",
        f"{REFERENCE}[amsgrad-0]",
    ),
    Fault(
        "the rectification starts late",
        "pieces/averages.py",
        "jnp.maximum(self.threshold, 4)",
        "self.threshold + 1",
        f"{REFERENCE}[radam-0]",
    ),
    Fault(
        "a flip of sign grows the step",
        "pieces/rprop.py",
        "jnp.where(agreement > 0, self.grow, jnp.where(agreement < 0, ",
        "jnp.where(agreement < 0, self.grow, jnp.where(agreement > 0, ",
        f"{REFERENCE}[rprop-0]",
    ),
    Fault(
        "the trust ratio is inverted",
        "pieces/norms.py",
        "return length * (g / total), slots",
        "return g * total / length, slots",
        f"{REFERENCE}[lars-0]",
    ),
    Fault(
        "a coefficient of Newton and Schulz is off",
        "pieces/matrix.py",
        "(3.4445, -4.7750, 2.0315)",
        "(3.4445, -4.7750, 2.0415)",
        f"{REFERENCE}[muon-0]",
    ),
    Fault(
        "a NaN loss counts as a bad one",
        "pieces/plateau.py",
        "jnp.where(jnp.isnan(value), slots[n], new[n])",
        "new[n]",
        "tests/schedules/test_plateau.py::test_nan_is_ignored",
    ),
    Fault(
        "every step has the same noise",
        "core/root.py",
        'jax.random.fold_in(jax.random.fold_in(self.extra["key"], self.step), crc32(name.encode()))',
        'jax.random.fold_in(self.extra["key"], crc32(name.encode()))',
        "tests/pieces/test_noise.py::test_leaves_steps_and_keys_are_independent_and_the_same_key_repeats",
    ),
    # ---------------------------------------------------------------- layouts
    Fault(
        "stacked layers are updated as one",
        "core/root.py",
        "if layers is None else update_layers(one, layers, whole, g, p, row, key)",
        "if True else update_layers(one, layers, whole, g, p, row, key)",
        "tests/combinators/test_layout.py::test_a_users_piece_runs_on_each_layer",
    ),
    Fault(
        "a combinator whose parts see all leaves takes stacked layers as one",
        "core/layers.py",
        "if (layers := axes.layers_of(path_of(keys), x)) is None:",
        "if (layers := axes.layers_of(path_of(keys), x)) is None or True:",
        "tests/test_contract.py::test_stacked_layers_are_updated_as_the_layers_alone[graft-1]",
    ),
    Fault(
        "all layers have the same noise",
        "core/layers.py",
        "partial(jax.random.fold_in, key)",
        "lambda i: key",
        "tests/combinators/test_layout.py::test_a_random_key_differs_for_each_leaf_layer_and_step",
    ),
    Fault(
        "PyTorch's weights are taken for (inputs, outputs)",
        "core/axes.py",
        'Axes(("out", "in") if first else ("in", "out"))',
        'Axes(("in", "out"))',
        "tests/combinators/test_layout.py::test_a_transposed_matrix_has_the_transposed_update",
    ),
    Fault(
        "where sees the widened leaf",
        "core/axes.py",
        "return _SCOPE.get().leaves.get(path, leaf)",
        "return leaf",
        "tests/combinators/test_partition.py::test_any_tree_absent_leaves_integers_and_complex_numbers",
    ),
    # ---------------------------------------------------------------- recipes
    Fault(
        "b1 and b2 are swapped",
        "optimizers/adam.py",
        "precondition(momentum(b1, corrected), by=rms(b2, corrected)",
        "precondition(momentum(b2, corrected), by=rms(b1, corrected)",
        f"{REFERENCE}[adam-0]",
    ),
    Fault(
        "AdamW's decay comes after the rate",
        "optimizers/adam.py",
        "by=rms(b2), eps=eps)\n"
        "    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))\n\n\n"
        "@checked\ndef adam_atan2(",
        "by=rms(b2), eps=eps)\n"
        "    return chain(divided, scale_by_learning_rate(learning_rate), add_weight_decay(weight_decay, where))\n\n\n"
        "@checked\ndef adam_atan2(",
        f"{REFERENCE}[adamw-0]",
    ),
    Fault(
        "Adam-mini's decay comes after the rate",
        "optimizers/low_memory.py",
        "return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))",
        "return chain(divided, scale_by_learning_rate(learning_rate), add_weight_decay(weight_decay, where))",
        f"{REFERENCE}[adam_mini-1]",
    ),
    Fault(
        "the correction is of another average",
        "optimizers/adam.py",
        "(bias_correction(b2), running_max()) if correct_first",
        "(bias_correction(b1), running_max()) if correct_first",
        f"{REFERENCE}[amsgrad-0]",
    ),
    Fault(
        "optimism has the wrong sign",
        "optimizers/sgd.py",
        "change = chain(difference(from_first=True), scale(optimism))",
        "change = chain(difference(from_first=True), scale(-optimism))",
        f"{REFERENCE}[optimistic_sgd-0]",
    ),
    Fault(
        "Sophia is not clipped",
        "optimizers/second_order.py",
        "by=size, eps=0.0), clip(1.0))",
        "by=size, eps=0.0))",
        f"{REFERENCE}[sophia-0]",
    ),
    # ---------------------------------------------------------------- training and schedules
    Fault(
        "a gradient is not conjugated",
        "training/step.py",
        "None if is_float0(g) else jnp.conj(g)",
        "None if is_float0(g) else g",
        f"{STEP}_trees_of_parameters[1-complex]",
    ),
    Fault(
        "micro-batches are summed",
        "training/step.py",
        "return x / step.micro_batches",
        "return x",
        f"{STEP}_pieces_with_functions_compute_the_same_over_micro_batches[grad_fn]",
    ),
    Fault(
        "micro-batches are added in bfloat16",
        "training/step.py",
        'x.dtype if x.dtype.itemsize >= 4 else "float32"',
        "x.dtype",
        f"{STEP}_micro_batches_are_summed_in_float32",
    ),
    Fault(
        "no memory is reused",
        "training/step.py",
        'donated = ("params", "state") if self.donate else None',
        "donated = None",
        f"{STEP}_memory_is_reused_if_donated",
    ),
    Fault(
        "a non-finite batch is accepted",
        "training/step.py",
        "finite = all_finite(gradient, value)",
        "finite = all_finite(gradient, value) | True",
        f"{STEP}_a_batch_that_is_not_finite_changes_nothing",
    ),
    Fault(
        "resuming restarts the order of the data",
        "training/fit.py",
        "divmod(self.done + i, rows // size)",
        "divmod(self.done % 23 + i, rows // size)",
        "tests/training/test_fit.py::test_resuming_is_exact_to_the_bit[rows]",
    ),
    Fault(
        "resuming restarts the random numbers",
        "training/fit.py",
        "own = jax.random.fold_in(step_key, start + i)",
        "own = jax.random.fold_in(step_key, i)",
        "tests/training/test_fit.py::test_resuming_is_exact_to_the_bit[rows]",
    ),
    Fault(
        "a boundary is late",
        "schedules/curve.py",
        "jnp.where(step < begin, now, value)",
        "jnp.where(step <= begin, now, value)",
        "tests/schedules/test_schedules.py::test_values",
    ),
    Fault(
        "steps are subtracted as floats",
        "schedules/curve.py",
        "(steps - step).astype(float)",
        "steps - step.astype(float)",
        "tests/schedules/test_schedules.py::test_neighbouring_steps_have_different_values",
    ),
    # ---------------------------------------------------------------- guards, parts and low precision
    Fault(
        "a skipped step advances the clock",
        "wrappers/guard.py",
        "end(NOTHING, old, done,",
        "end(NOTHING, old, own.step,",
        "tests/wrappers/test_guard.py::test_the_step_after_skipped_steps_is_unaffected",
    ),
    Fault(
        "the updates of a guarded optimizer are not checked",
        "wrappers/guard.py",
        "run(*work, then=fine), lambda",
        "all_finite(updates, value), lambda",
        "tests/wrappers/test_guard.py::test_updates_are_checked",
    ),
    Fault(
        "a skipped update is multiplied by 0",
        "combinators/combinator.py",
        "jnp.where(emits, u, 0), made)",
        "emits.astype(u.dtype) * u, made)",
        "tests/wrappers/test_guard.py::test_a_guarded_step_changes_nothing_but_its_counts",
    ),
    Fault(
        "non-finite values are found by a reduction that devices lack",
        "pieces/measures.py",
        "jnp.max(marks.reshape",
        "jnp.bitwise_or.reduce(marks.reshape",
        f"{CONTRACT}_sharded_is_single_device_and_slots_are_sharded_as_their_parameter[skip_nonfinite-0-Auto]",
    ),
    Fault(
        "zeros are added to the parameters where nothing is emitted",
        "core/root.py",
        "params if u is NOTHING else apply_updates(params, u)",
        "apply_updates(params, jax.tree.map(jnp.zeros_like, updates) if u is NOTHING else u)",
        "tests/wrappers/test_apply.py::test_parameters_are_unchanged_bit_for_bit_where_nothing_is_emitted",
    ),
    Fault(
        "the last link of a chain receives the chain's input",
        "combinators/chain.py",
        "updates, new = _through(before, updates, slots, context)",
        "_, new = _through(before, updates, slots, context)",
        "tests/wrappers/test_apply.py::test_apply_adds_the_update",
    ),
    Fault(
        "updates of another shape are accepted",
        "core/checks.py",
        "if (form := _form(new)) != _form(old) or (None, None) in form[1]:",
        "if False:",
        "tests/wrappers/test_apply.py::test_an_error_about_a_pieces_result_names_the_piece",
    ),
    Fault(
        "updates of another name are accepted",
        "core/checks.py",
        "return structure, [(getattr(x",
        "return [(getattr(x",
        "tests/wrappers/test_apply.py::test_an_error_about_a_pieces_result_names_the_piece",
    ),
    Fault(
        "an error of a link names the chain",
        "combinators/chain.py",
        "context, lambda made, kept: then(made, new | kept), name)",
        'context, lambda made, kept: then(made, new | kept), "chain")',
        "tests/wrappers/test_apply.py::test_an_error_about_a_pieces_result_names_the_piece",
    ),
    Fault(
        "parts are summed for the mean too",
        "wrappers/accumulate.py",
        "1 / number if self.mean else 1",
        "1",
        "tests/wrappers/test_accumulate.py::test_the_mean_is_the_mean",
    ),
    Fault(
        "weighted parts are divided by their number",
        "wrappers/accumulate.py",
        'own["weight"] = number = own',
        'own["weight"] = own',
        "tests/wrappers/test_accumulate.py::test_weighted_parts_are_their_weighted_mean",
    ),
    Fault(
        "a group that grows has the number of the one before",
        "wrappers/accumulate.py",
        "count >= self.group(done)",
        "count >= self.group(done - 1)",
        "tests/wrappers/test_accumulate.py::test_groups_that_grow_are_the_inner_optimizer_on_their_means",
    ),
    Fault(
        "micro-batches are not weighted",
        "training/step.py",
        "jnp.where(weight == 0, 0, weight.astype(x.dtype) * x)",
        "x / step.micro_batches * jnp.mean(weight).astype(x.dtype) ** 0",
        "tests/training/test_step.py::test_weighted_parts_give_the_gradient_of_the_whole_batch",
    ),
    Fault(
        "a spike moves the average by its whole norm",
        "pieces/spikes.py",
        "spike & jnp.isfinite(norm), most, norm",
        "spike & jnp.isfinite(norm), norm, norm",
        "tests/wrappers/test_skip_if.py::test_spikes_are_those_of_the_rule",
    ),
    Fault(
        "zclip clips to the bound",
        "pieces/spikes.py",
        "away * (away / jnp.where(spike, above, 1))",
        "away",
        "tests/pieces/test_clipping.py::test_zclip_is_its_algorithm",
    ),
    Fault(
        "adaptive_clip takes a leaf as one unit",
        "pieces/clipping.py",
        "unit = tuple(i for i in range(g.ndim) if i not in units)",
        "unit = tuple(range(g.ndim))",
        "tests/pieces/test_clipping.py::test_units_are_clipped_by_the_norm_of_their_weights",
    ),
    Fault(
        "a guard does not see the loss",
        "wrappers/guard.py",
        "return all_finite(updates, made, value, jax",
        "return all_finite(updates, made, None, jax",
        "tests/wrappers/test_skip_if.py::test_train_step_gives_the_loss_to_guards",
    ),
    Fault(
        "the sum of parts is not reset",
        "wrappers/accumulate.py",
        "jnp.where(first, 0, a), sums)",
        "a, sums)",
        "tests/wrappers/test_accumulate.py::test_accumulate_is_the_inner_optimizer_on_the_mean_of_k",
    ),
    Fault(
        "master weights are rounded to bfloat16",
        "wrappers/precision.py",
        'nearest(m + u, "float32")',
        'nearest(m + u, "bfloat16")',
        "tests/wrappers/test_precision.py::test_the_inner_optimizer_runs_as_on_parameters_of_float32",
    ),
    Fault(
        "check_laws does not try gradients of zeros",
        "inspect/laws.py",
        "zeros = jax.tree.map(jnp.zeros_like, several)",
        "zeros = several",
        "tests/inspect/test_check_laws.py::test_a_piece_that_breaks_a_law_is_refused_by_it",
    ),
    Fault(
        "check_laws compares nothing",
        "inspect/laws.py",
        "if not apart <= most:",
        "if apart > most > 1:",
        "tests/inspect/test_check_laws.py::test_a_piece_that_breaks_a_law_is_refused_by_it",
    ),
    Fault(
        "a fraction for an integer slot is accepted",
        "core/checks.py",
        "return _rank(new) <= _rank(old)",
        "return _rank(new) <= 3",
        "tests/core/test_errors.py::test_bad_input[written: an integer slot made a fraction]",
    ),
    Fault(
        "a slot that grows is accepted",
        "core/checks.py",
        'check_made(place, new, old, "slots")',
        "pass",
        "tests/core/test_errors.py::test_bad_input[written: a slot that grows]",
    ),
    Fault(
        "hyperparameters are not checked in float32",
        "core/schedule.py",
        "for x in (number, seen)]",
        "for x in (number, number)]",
        "tests/core/test_errors.py::test_bad_input[written: a decay set to 1]",
    ),
    Fault(
        "a model state of another shape is accepted",
        "training/step.py",
        "jnp.shape(a) != jnp.shape(b):",
        "jnp.ndim(a) != jnp.ndim(b):",
        "tests/core/test_errors.py::test_bad_input[written: a model state of another shape]",
    ),
    Fault(
        "parts of unequal rows are accepted",
        "training/step.py",
        "if jnp.shape(leaf)[0] != len(first",
        "if 0 > len(first",
        "tests/core/test_errors.py::test_bad_input[written: parts of unequal rows]",
    ),
    Fault(
        "two leaves of one path are accepted",
        "core/trees.py",
        "if len(leaves) < len(several):",
        "if len(leaves) < len(several) - 1:",
        "tests/core/test_errors.py::test_bad_input[written: two leaves of one path]",
    ),
    Fault(
        "SM3 divides by squares that underflow",
        "optimizers/low_memory.py",
        "momentum: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-30",
        "momentum: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 0.0",
        "tests/test_contract.py::test_gradients_of_any_scale_have_finite_updates[sm3]",
    ),
    Fault(
        "inside jit hyperparameters are not checked in the parameters' dtype",
        "core/checks.py",
        "np.asarray(h, dtype))",
        "jnp.asarray(h, dtype))",
        "tests/core/test_record.py::test_a_hyperparameter_rounded_out_of_its_range_by_the_parameters_dtype",
    ),
    # ---------------------------------------------------------------- measurements and names
    Fault(
        "an argument of a recipe is set in one of its places",
        "inspect/hyperparameters.py",
        "groups.append(Group(name, places[name]))",
        "groups.append(Group(name, [h]))",
        "tests/inspect/test_hyperparameters.py::test_hyperparameters_have_the_words_of_the_recipe[adam-alone]",
    ),
    Fault(
        "two recipes in a chain have the same words",
        "inspect/hyperparameters.py",
        "apart = len(set(words)) < len(words)",
        "apart = False",
        "tests/inspect/test_hyperparameters.py::test_names_are_as_short_as_they_can_be",
    ),
    Fault(
        "the measured learning rate is that of the next step",
        "training/step.py",
        "learning_rates(tx, before[1])",
        "learning_rates(tx, after[1])",
        f"{STEP}_norms_and_the_rate_of_a_schedule_are_measured",
    ),
    Fault(
        "a step counts as skipped if it is finite",
        "training/step.py",
        "[~finite]",
        "[finite]",
        f"{STEP}_skipped_steps_are_measured[the option]",
    ),
    Fault(
        "a step measures although it is told not to",
        "training/step.py",
        "gradient, finite) if step.measure else {}",
        "gradient, finite)",
        f"{STEP}_unmeasured_a_step_is_the_program_of_the_update_alone[sgd]",
    ),
    Fault(
        "the ratio of a layer is to its updates",
        "combinators/monitor.py",
        "streams = [updates, context.params]",
        "streams = [updates, updates]",
        "tests/combinators/test_monitor.py::test_the_measures_of_layers_equal_numpy[leaves-1.0]",
    ),
    Fault(
        "a logger writes its last step again",
        "training/loggers.py",
        'side="right"',
        'side="left"',
        "tests/training/test_loggers.py::test_a_logger_continues_after_the_last_step[log_wandb]",
    ),
    Fault(
        "warmup_cosine adds the warm-up to its steps",
        "schedules/phases.py",
        "self.steps - self.warmup)",
        "self.steps)",
        "tests/schedules/test_schedules.py::test_values[warmup_cosine-0]",
    ),
    # ---------------------------------------------------------------- checkpoints
    Fault(
        "all writers of a checkpoint have one temporary file",
        "serialization/checkpoint.py",
        'f"checkpoint-{token_hex(8)}.tmp"',
        '"checkpoint.tmp"',
        f"{FIT}_writers_of_one_checkpoint_do_not_tear_it",
    ),
    Fault(
        "a temporary file outlives an error",
        "serialization/checkpoint.py",
        "        new.unlink(missing_ok=True)",
        "        pass",
        f"{FIT}_a_checkpoint_is_never_half_written",
    ),
    Fault(
        "a run writes over the checkpoint of another",
        "serialization/checkpoint.py",
        "if path.exists() and _run_of(path) not in over:",
        "if False:",
        f"{FIT}_two_runs_do_not_write_one_checkpoint",
    ),
    Fault(
        "a place that cannot be written is found after the run",
        "training/fit.py",
        "            files.check_place(path, divided or (resume and path.is_dir()))\n",
        "",
        f"{FIT}_a_place_that_cannot_be_written_is_found_before_the_first_step[where nobody may write]",
    ),
    Fault(
        "a checkpoint at a negative step is resumed",
        "training/fit.py",
        "        if done < 0:",
        "        if False:",
        f"{FIT}_a_checkpoint_that_no_run_writes_is_refused[a negative step]",
    ),
    Fault(
        "a checkpoint without history is resumed",
        "training/fit.py",
        'if "history/loss" not in entries:',
        "if False:",
        f"{FIT}_a_checkpoint_that_no_run_writes_is_refused[no history]",
    ),
    Fault(
        "a compressed checkpoint is read whatever its size",
        "serialization/checkpoint.py",
        "for member in archive.infolist()) > size:",
        "for member in archive.infolist()) < 0:",
        f"{FIT}_a_small_file_takes_little_memory[compressed]",
    ),
    Fault(
        "memory is taken for whatever a header says",
        "serialization/checkpoint.py",
        "* dtype.itemsize != member.file_size",
        "* dtype.itemsize < 0",
        f"{FIT}_a_small_file_takes_little_memory[a header that lies]",
    ),
    Fault(
        "JAX keeps the structure of the optimizers of a sweep",
        "training/sweep.py",
        "    results = program(values)",
        "    results = jax.jit(lambda txs: program(jax.tree.leaves(txs)))(txs)",
        "tests/training/test_memory.py::test_no_schedule_of_a_sweep_outlives_its_training",
    ),
    Fault(
        "an array of a file is read before its size is checked",
        "serialization/restore.py",
        "if math.prod(x.shape) > most or",
        "if",
        "tests/serialization/test_restore.py::test_a_small_file_takes_little_memory",
    ),
    Fault(
        "a guard that does not look at the updates does not look at the loss",
        "wrappers/guard.py",
        "return jax.lax.cond(all_finite(updates, value), lambda: run(*work, then=taken), skipped)",
        "return jax.lax.cond(all_finite(updates), lambda: run(*work, then=taken), skipped)",
        "tests/wrappers/test_guard.py::test_a_loss_that_is_not_finite_is_skipped",
    ),
    Fault(
        "the key of the data is that of the step",
        "training/fit.py",
        "data_key, step_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)",
        "data_key, step_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 1)",
        f"{FIT}_no_two_keys_of_a_run_are_alike",
    ),
    Fault(
        "a class is read as an optimizer",
        "serialization/read.py",
        "if not isinstance(made, Record):",
        "if not isinstance(made, (Record, type)):",
        "tests/serialization/test_read.py::test_everything_else_is_refused",
    ),
    Fault(
        "the star of a sweep is not at the lowest result",
        "plots/sweep.py",
        "None if best is None else int(np.argsort(order)[best])",
        "best",
        "tests/plots/test_sweep.py::test_one_hyperparameter_is_a_line_in_its_order",
    ),
    Fault(
        "the law of vmap is tried on rows that are alike",
        "inspect/laws.py",
        "jnp.stack([x, -2 * x])",
        "jnp.stack([x, x])",
        "tests/inspect/test_check_laws.py::test_a_piece_that_breaks_a_law_is_refused_by_it",
    ),
    # ---------------------------------------------------------------- bases, factors and line searches
    Fault(
        "a pair of any curvature is kept",
        "pieces/lbfgs.py",
        "good, moved = (curvature > enough) & (context.age > 1), ss > 0",
        "good, moved = context.age > 1, ss > 0",
        "tests/pieces/test_lbfgs.py::test_the_two_loops_are_the_dense_update",
    ),
    Fault(
        "the pairs are read from the oldest to the newest",
        "pieces/lbfgs.py",
        "place - 1 - jnp.arange(self.memory, dtype=jnp.int32)",
        "place - self.memory + jnp.arange(self.memory, dtype=jnp.int32)",
        "tests/pieces/test_lbfgs.py::test_the_two_loops_are_the_dense_update",
    ),
    Fault(
        "zoom ends at the first decrease",
        "wrappers/line_search.py",
        "done = ~too_far & (jnp.abs(here.slope) <= -self.c2 * origin.slope)",
        "done = ~too_far",
        "tests/wrappers/test_line_search.py::test_every_step_of_zoom_meets_the_strong_conditions_of_wolfe",
    ),
    Fault(
        "the gradient that is handed on is the one before the step",
        "wrappers/line_search.py",
        '"evaluated": Evaluated(best.value, kept),',
        '"evaluated": Evaluated(best.value, updates),',
        "tests/wrappers/test_line_search.py::test_the_handed_on_value_and_gradient_are_those_at_the_parameters",
    ),
    Fault(
        "averages stay as they were when a basis turns",
        "combinators/in_basis.py",
        "if not (self.carry and inner):",
        "if True:",
        "tests/combinators/test_in_basis.py::test_a_linear_transformation_in_a_basis_that_changes_is_that_transformation",
    ),
    Fault(
        "rounding chooses the vectors of a null space",
        "pieces/bases.py",
        "product = times(covariance, vectors) + self.shift * vectors",
        "product = times(covariance, vectors)",
        "tests/combinators/test_in_basis.py::test_rounding_is_not_a_step",
    ),
    Fault(
        "a basis that is not finite replaces the old one",
        "pieces/bases.py",
        "new = {name: jnp.where(fine, made[name], row[name]) for name in names}",
        "new = {name: made[name] for name in names}",
        "tests/combinators/test_in_basis.py::test_what_is_not_finite_leaves_a_basis_as_it_was",
    ),
    Fault(
        "the other side is not whitened",
        "pieces/factors.py",
        "outer = jnp.where(context.age > 1, times(whitened, whitened.mT) / y.shape[-1], outer)",
        "outer = outer / y.shape[-1]",
        f"{REFERENCE}[kl_shampoo-0]",
    ),
    Fault(
        "JAX keeps the functions of an optimizer",
        "core/programs.py",
        'if not args or not hasattr(args[0], "_kinds") or not holds(args[0]):',
        "if True:",
        "tests/training/test_memory.py::test_of_the_functions_of_optimizers_the_last_few_are_kept",
    ),
    Fault(
        "a state without rounding errors does not fit a larger group",
        "serialization/restore.py",
        'if strict and not all(f"{path}/".startswith((*rounding,)) for path in [*report.fresh, *report.dropped]):',
        "if strict and (report.fresh or report.dropped):",
        "tests/wrappers/test_accumulate.py::test_the_size_of_a_group_may_change_between_runs",
    ),
    # ---------------------------------------------------------------- adopted in 2025 and 2026
    Fault(
        "a sphere has the norm of now, not of the start",
        "projections.py",
        'return jnp.where(exact, g, slots["norm"] * unit(g)), slots',
        "return jnp.where(exact, g, norm(g) * unit(g)), slots",
        f"{REFERENCE}[hyperball-0]",
    ),
    Fault(
        "an angle has no derivative where both sides are 0",
        "combinators/precondition.py",
        "jnp.arctan2(d / unit, jnp.where(largest == 0, 1, s / unit))",
        "jnp.arctan2(d / unit, s / unit)",
        "tests/inspect/test_check_laws.py::test_the_pieces_of_gradtx_satisfy_the_laws[atan2_precondition]",
    ),
    Fault(
        "the outputs of a table are its rows",
        "core/axes.py",
        'return self.of("in") if self.is_linear else self.of("out") if self.of("row") else ()',
        'return self.of("in") if self.is_linear else self.of("row")',
        "tests/pieces/test_norms.py::test_scale_sgd_of_a_network",
    ),
    Fault(
        "muon is balanced after it orthogonalizes",
        "optimizers/matrix.py",
        "chain(direction, *even, orthogonalize(method, dtype=dtype, over=over), scale_by_shape(rule))",
        "chain(direction, orthogonalize(method, dtype=dtype, over=over), *even, scale_by_shape(rule))",
        f"{REFERENCE}[muon-6]",
    ),
    Fault(
        "the second norm of both sides is of what the first has left",
        "pieces/norms.py",
        "across = norm(unit(g), outputs)",
        "across = norm(unit(g, inputs), outputs)",
        f"{REFERENCE}[muon-8]",
    ),
    Fault(
        "a fused projection rescales its values as its keys",
        "pieces/attention.py",
        "jnp.stack([self.alpha, 1 - self.alpha, jnp.zeros_like(self.alpha)])",
        "jnp.stack([self.alpha, 1 - self.alpha, 1 - self.alpha])",
        "tests/pieces/test_attention.py::test_a_fused_projection_is_its_parts",
    ),
    Fault(
        "a line search on several devices takes the loss of one",
        "wrappers/line_search.py",
        'refuse_local(type(self).__name__, "a loss", value)',
        "pass",
        "tests/wrappers/test_line_search.py::test_on_several_devices_a_local_number_is_refused",
    ),
    Fault(
        "the pairs of Optax stand where those of gradtx do",
        "interop/correspondence.py",
        "jnp.roll(x, shift, 0)",
        "x",
        "tests/interop/test_from_optax.py::test_pairs_that_were_left_out",
    ),
    Fault(
        "minimize begins with another value than the one at the start",
        "training/minimize.py",
        "first = Evaluated(value.astype(",
        "first = Evaluated(0 * value.astype(",
        "tests/training/test_minimize.py::test_it_says_why_it_stopped",
    ),
    Fault(
        "the average of GPA forgets its start at once",
        "wrappers/iterates.py",
        "if self.decay is None else 1 - self.decay",
        "if self.decay is None else jnp.where(t == 1, 1, 1 - self.decay)",
        f"{REFERENCE}[gpa-1]",
    ),
    Fault(
        "an outer optimizer follows the displacement",
        "wrappers/iterates.py",
        "displaced = jax.tree.map(lambda u, p, s: s - p - u, made, context.params, slow)",
        "displaced = jax.tree.map(lambda u, p, s: p + u - s, made, context.params, slow)",
        f"{REFERENCE}[snoo-0]",
    ),
    Fault(
        "APOLLO-Mini scales column by column",
        "combinators/in_basis.py",
        "if every or row[side] is not None)",
        "if row[side] is not None)",
        f"{REFERENCE}[apollo_mini-0]",
    ),
    Fault(
        "heads are in the other order",
        "pieces/attention.py",
        "ratio.reshape(*layers, each), size // each, axis=-1)",
        "ratio.reshape(*layers, each)[..., ::-1], size // each, axis=-1)",
        "tests/pieces/test_attention.py::test_the_largest_logits_become_the_threshold[flat]",
    ),
    Fault(
        "logits that overflow make weights 0",
        "pieces/attention.py",
        "clipped = (largest > self.threshold) & jnp.isfinite(largest)",
        "clipped = largest > self.threshold",
        "tests/pieces/test_attention.py::test_nothing_is_rescaled[inf]",
    ),
    Fault(
        "a condition counts the runs of what it decides about",
        "wrappers/every.py",
        "self.condition(context.step - 1,",
        'self.condition(slots["step"],',
        "tests/wrappers/test_every.py::test_the_inner_schedules_of_apply_if_count_its_runs",
    ),
    # ---------------------------------------------------------------- encoded slots
    Fault(
        "all slots of a parameter have the same random bits",
        "codecs.py",
        "turn = 8 * (number % 4)",
        "turn = 0 * (number % 4)",
        "tests/wrappers/test_storage.py::test_random_bits_are_uniform_and_differ_by_place_and_start",
    ),
    Fault(
        "a positive number below the lowest level becomes 0",
        "codecs.py",
        "jnp.clip(levels + LEVELS, 1, LEVELS)",
        "jnp.clip(levels + LEVELS, 0, LEVELS)",
        "tests/wrappers/test_storage.py::test_to_the_nearest_it_is_the_nearest_number_of_the_codec[ufloat8]",
    ),
    Fault(
        "rounding an average of squares keeps its expectation, and lengthens the steps",
        "codecs.py",
        "rest = jnp.minimum((random >> 12) + more, np.uint32((1 << 20) - 1))",
        "rest = random >> 12",
        "tests/wrappers/test_storage.py::test_the_mean_inverse_root_of_an_average_of_squares_is_right",
    ),
    Fault(
        "a square is of any sign",
        "wrappers/storage.py",
        "        if isinstance(tx, chain):\n            seen = out",
        "        if isinstance(tx, chain):\n            pass",
        "tests/wrappers/test_storage.py::test_averages_of_squares_are_declared_to_be_never_negative",
    ),
    Fault(
        "the averages of rows and columns are rounded",
        "wrappers/storage.py",
        "    if isinstance(tx, (factored, reduced)):",
        "    if False:",
        "tests/wrappers/test_storage.py::test_what_must_stay_exact_stays",
    ),
    Fault(
        "a saved codec is not converted, but read as another",
        "serialization/restore.py",
        "    if type(x) is not type(like) and not cast:",
        "    if False:",
        "tests/wrappers/test_storage.py::test_restore_converts_and_reports",
    ),
    Fault(
        "a split weight counts what it lost from the old parameter",
        "wrappers/precision.py",
        "landed = nearest(p + u, dtype)",
        "landed = nearest(p, dtype)",
        "tests/wrappers/test_precision.py::test_split_weights_are_the_sum_in_float64_up_to_their_precision[True-8-bfloat16]",
    ),
    # ---------------------------------------------------------------- several devices, the memory of the host, batches
    Fault(
        "a divided state leaves the updates divided",
        "distributed/shard_state.py",
        "return self._put(made, divided=False, like=updates), new",
        "return made, new",
        "tests/distributed/test_shard_state.py::test_a_divided_state_makes_the_same_updates_in_a_part_of_the_memory[adamw-Explicit-data]",
    ),
    Fault(
        "an axis that is sharded already is divided again",
        "distributed/shard_state.py",
        "free = [i for i, size in enumerate(x.shape) if own[i] is None and size",
        "free = [i for i, size in enumerate(x.shape) if size",
        "tests/distributed/test_shard_state.py::test_a_divided_state_makes_the_same_updates_in_a_part_of_the_memory",
    ),
    Fault(
        "each leaf computes what all leaves share",
        "core/programs.py",
        "if not eqn.effects and all(isinstance(x, Literal) or x in values for x in eqn.invars):",
        "if False:",
        "tests/core/test_leaves.py::test_what_all_leaves_share_is_computed_once_and_not_in_the_program_of_each",
    ),
    Fault(
        "a slot of one leaf is taken for that of all",
        "core/root.py",
        "same = [not w for w, x in zip(whole, row) for _ in jax.tree.leaves(x)]",
        "same = [True for x in row for _ in jax.tree.leaves(x)]",
        "tests/core/test_leaves.py::test_leaves_of_one_shape_keep_their_own_slots_in_a_trace",
    ),
    Fault(
        "each device orthogonalizes all matrices",
        "pieces/spreading.py",
        "names = mesh.axis_names if tx.over is None else tx.over",
        "names = tx.over or ()",
        "tests/pieces/test_spreading.py::test_by_default_each_device_does_its_part",
    ),
    Fault(
        "each device gets all orthogonal matrices",
        "pieces/spreading.py",
        "if like else [()]:",
        "if False else [()]:",
        "tests/pieces/test_spreading.py::test_by_default_each_device_does_its_part",
    ),
    Fault(
        "each device has the bytes of all",
        "inspect/summary.py",
        "math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape)",
        "math.prod(x.shape)",
        "tests/distributed/test_summary.py::test_of_seventy_billion_parameters_nothing_is_made",
    ),
    Fault(
        "a sum of shards is the sum",
        "distributed/shards.py",
        "if names := tuple(name for axis in axes for name in operand.spec[axis]):",
        "if names := ():",
        "tests/distributed/test_in_shard_map.py::test_an_optimizer_of_optax",
    ),
    Fault(
        "what has no rule runs on shards",
        "distributed/shards.py",
        "                    env[var] = placed(x, _none(x))  # for later operations too\n",
        "                    env[var] = x\n",
        "tests/distributed/test_in_shard_map.py::test_any_program_is_that_of_whole_arrays[matrices-unchecked]",
    ),
    Fault(
        "an extra argument of each shard is taken for one of all",
        "distributed/in_shard_map.py",
        "for axis in (axis for axis in manual if axis in checks.varying(x) and axis not in own):",
        "for axis in ():",
        "tests/distributed/test_in_shard_map.py::test_extra_arguments_that_differ_are_refused",
    ),
    Fault(
        "pieces measure shards",
        "core/checks.py",
        "    if not tx.elementwise:\n        return tx\n",
        "",
        "tests/distributed/test_in_shard_map.py::test_without_it_shards_are_refused[tx0-checked]",
    ),
    Fault(
        "without check_vma pieces measure shards",
        "core/checks.py",
        "    if not varying(jax.lax.axis_index(axes)):",
        "    if False:",
        "tests/distributed/test_in_shard_map.py::test_without_it_shards_are_refused[tx0-unchecked]",
    ),
    Fault(
        "each process goes by its own clock",
        "training/fit.py",
        "took, interrupt = several[0][0], any(flag for _, flag in several)",
        "interrupt = any(flag for _, flag in several)",
        "tests/training/test_processes.py::test_two_processes_train_as_one",
    ),
    Fault(
        "each process runs the callbacks",
        "training/fit.py",
        "        if callbacks and self.shared:",
        "        if False:",
        "tests/training/test_processes.py::test_two_processes_train_as_one",
    ),
    Fault(
        "a checkpoint of divided arrays is restored whole",
        "serialization/sharded_checkpoint.py",
        "sharding = x.sharding if spans_processes(x) else whole or (x.committed and x.sharding)",
        "sharding = whole or (x.committed and x.sharding)",
        "tests/training/test_processes.py::test_a_killed_process_loses_the_steps_since_the_last_checkpoint[fsdp]",
    ),
    Fault(
        "the state of offload stays on the device",
        "distributed/offload.py",
        "return made, moved(new, jax.memory.Space.Host)",
        "return made, new",
        "tests/distributed/test_offload.py::test_an_offloaded_state_makes_the_same_updates[adamw]",
    ),
    Fault(
        "offload may be inside another transformation",
        "core/checks.py",
        "if piece.outermost and piece is not tx:",
        "if False:",
        "tests/distributed/test_offload.py::test_a_part_of_another_transformation_is_refused",
    ),
    Fault(
        "matrices of a batch have each other's slots",
        "pieces/bases.py",
        "for i, *of in zip(members, [0, *ends], ends):",
        "for i, *of in zip(reversed(members), [0, *ends], ends):",
        "tests/combinators/test_in_basis.py::test_matrices_of_one_shape_are_renewed_in_one_batch_as_one_by_one",
    ),
    Fault(
        "a parameter that is computed twice changes the slot that is placed by it",
        "core/trees.py",
        "return lax.gt(x, 2 * jnp.abs(lax.optimization_barrier(x)) + 1)",
        "return lax.gt(x, lax.optimization_barrier(x))",
        "tests/core/test_trees.py::test_placing_a_slot_never_changes_it",
    ),
    Fault(
        "the cells of a basis are those without it",
        "inspect/periodic_table.py",
        "tx = chain(step if basis is None else in_basis(step, basis), rate)",
        "tx = chain(step, rate)",
        "tests/inspect/test_periodic_table.py::test_a_cell_of_a_basis_has_the_name_of_its_recipe",
    ),
]


def planted(fault: Fault, package: Path) -> str:
    """The file with the fault in it."""
    text = (package / fault.file).read_text()
    if (count := text.count(fault.right)) != 1:
        raise ValueError(f"{fault.name}: its text occurs {count} times in {fault.file}: {fault.right!r}")
    return text.replace(fault.right, fault.wrong)


def run(folder: Path, tests: list[str], *options: str) -> tuple[int, list[str]]:
    """Pytest's exit code on these tests in a folder, and the failed tests, or else the last lines."""
    env = {name: x for name, x in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", *(options or ("-x", "--whole")), *tests]
    done = subprocess.run(
        command, cwd=folder, env=env | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True
    )
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, [x for x in lines if x.startswith(("FAILED", "ERROR"))] or lines[-5:]


def copied(copy: Path) -> Path:
    """Copy the package and its tests."""
    for folder in (PACKAGE, ROOT / "tests"):
        shutil.copytree(folder, copy / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "notebooks" / "guides", copy / "notebooks" / "guides")  # whose code blocks run
    (copy / ".pytest_cache").mkdir()
    compiled = ROOT / ".pytest_cache" / "jax"  # shared with all other runs: most of the time is compilation
    compiled.mkdir(parents=True, exist_ok=True)
    (copy / ".pytest_cache" / "jax").symlink_to(compiled)
    where = [sys.executable, "-c", "import gradtx; print(gradtx.__file__)"]
    imported = subprocess.run(where, cwd=copy, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(imported).is_relative_to(copy), f"the tests would not be of the copy but of {imported}"
    return copy


def check(faults: list[Fault]) -> int:
    """The number of faults that are not caught."""
    with tempfile.TemporaryDirectory() as place:
        begin, copy = time.perf_counter(), copied(Path(place))
        code, lines = run(copy, [*dict.fromkeys(fault.test for fault in faults)])
        if code:
            print("Without a fault the tests fail:", *lines, sep="\n  ")
            return len(faults)
        print(f"without a fault: passed in {time.perf_counter() - begin:.0f} s", flush=True)
        missed = 0
        for fault in faults:
            path, begin = copy / "gradtx" / fault.file, time.perf_counter()
            right = path.read_text()
            path.write_text(planted(fault, copy / "gradtx"))
            code, lines = run(copy, [fault.test])
            path.write_text(right)
            missed += code != 1  # 1: a test failed; more: the tests did not run
            verdict = {0: "MISSED", 1: "caught"}.get(code, "BROKEN")
            by = "" if code == 0 else "\n  ".join(lines if code > 1 else [lines[0].split(" - ")[0]])
            print(f"{verdict} in {time.perf_counter() - begin:4.1f} s: {fault.name}  {by}", flush=True)
        print(f"{len(faults) - missed} of {len(faults)} caught")
        return missed


# ---------------------------------------------------------------- random mutants
Recorded = list[tuple[str, float, dict[str, set[int]]]]  # tests, their seconds, and the lines of files that they run


def recorded(folder: Path, workers: int) -> Recorded:
    """Read the records that `pytest --lines` has written to the folder, or run it now."""
    if not folder.exists():
        with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as new:
            copy = copied(Path(place))
            print("recording which lines each test runs", flush=True)
            _, last = run(copy, ["-n", str(workers), "--lines", new, "tests", "gradtx", "README.md"], "--maxfail=100")
            if not any(Path(new).iterdir()):
                sys.exit("\n".join(["the tests were not recorded:", *last]))
            shutil.copytree(new, folder)
    found: dict[str, tuple[float, dict[str, set[int]]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            test, seconds, ran = json.loads(line)
            lines = found.setdefault(test, (seconds, {}))[1]
            for file, several in ran.items():
                lines.setdefault(file, set()).update(several)
    modules = {test: ran for test, (_, ran) in found.items() if "::" not in test}
    return [
        (test, seconds, {file: ran.get(file, set()) | module.get(file, set()) for file in {*ran, *module}})
        for test, (seconds, ran) in sorted(found.items())
        if test not in modules
        for module in [modules.get(test.partition("::")[0], {})]
    ]


def seen_by(mutant: Mutant, tests: Recorded, seed: str) -> list[str]:
    """The tests that can see a mutant, in their order."""
    ran: Recorded = []
    for lines in mutant.ran:
        if ran := [test for test in tests if not test[2].get(mutant.file, set()).isdisjoint(lines)]:
            break
    direct = {name for name, *_ in ran}
    files = {name.partition("::")[0] for name in direct}
    rounds: Counter[str] = Counter()
    order = []
    for name, seconds, _ in sorted(tests, key=lambda test: crc32(f"{seed} {test[0]}".encode())):
        if name.partition("::")[0] in files:
            function = name.partition("[")[0]
            order.append((name not in direct, rounds[function], seconds, name))
            rounds[function] += 1
    order.sort()
    spent = itertools.accumulate(seconds for *_, seconds, _ in order)
    return [name for (*_, name), total in zip(order, spent) if total < SECONDS][:MOST] or [x for *_, x in order[:1]]


class Only:
    """Runs these tests alone, in this order, and writes which fail."""

    def __init__(self, tests: list[str]):
        self.order = {test: i for i, test in enumerate(tests)}
        self.files = [*dict.fromkeys(test.partition("::")[0] for test in tests)]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]):
        items[:] = sorted((x for x in items if x.nodeid in self.order), key=lambda x: self.order[x.nodeid])

    def pytest_runtest_logreport(self, report: Any):
        if report.failed:
            with Path("failed").open("a") as to:
                print(report.nodeid, file=to)


class Near(Only):
    """Runs tests near a mutant until the time is over, those first that name the function or class around it."""

    def __init__(self, mutant: Mutant, package: Path):
        self.files, self.names, self.defined = near(mutant, package)
        self.end, self.rounds = float("inf"), Counter()

    def place(self, item: Any) -> tuple[bool, int, bool]:
        """Of each test function the first comes before any second, and doctests before others."""
        code = getattr(item, "function", None)
        text = item.nodeid + (inspect.getsource(code) if code else "")
        self.rounds[function := item.nodeid.partition("[")[0]] += 1
        return not any(name in text for name in self.names), self.rounds[function], file_of(item).startswith("tests/")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]):
        rows = {f"[{name}-" for name in self.defined}
        items[:] = [x for x in items if file_of(x) not in REGISTRY or any(row in x.nodeid for row in rows)]
        random.Random(0).shuffle(items)
        items.sort(key=self.place)
        self.end = time.process_time() + NEAR

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any) -> bool | None:
        if time.process_time() > self.end:
            return True  # it counts as run
        with Path("ran").open("a") as to:
            print(item.nodeid, file=to)


REGISTRY = ["tests/test_contract.py", "tests/optimizers/test_references.py"]


def file_of(item: Any) -> str:
    return item.nodeid.partition("::")[0]


def near(mutant: Mutant, package: Path) -> tuple[list[str], list[str], list[str]]:
    """The files of the tests near a mutant, the functions and classes around it, and all that its module defines."""
    tree = ast.parse(source := (package / mutant.file).read_bytes())
    line = source.count(b"\n", 0, mutant.start) + 1
    kinds = ast.ClassDef, ast.FunctionDef
    around = [x for x in ast.walk(tree) if isinstance(x, kinds) and x.lineno <= line <= (x.end_lineno or 0)]
    folder, _, module = mutant.file.removesuffix(".py").rpartition("/")
    mirror = ROOT / "tests" / folder / f"test_{module}.py"
    name = ".".join(["gradtx", *folder.split("/"), module] if folder else ["gradtx", module])
    named = re.compile(rf"\b(?:{re.escape(name)}|gx\.{module}|from gradtx import .*\b{module})\b")
    naming = [x for x in ROOT.glob("tests/**/test_*.py") if named.search(x.read_text())]
    found = [mirror] if mirror.exists() else [*(mirror.parent.glob("test_*.py") if folder else []), *naming]
    own = sorted({str(x.relative_to(ROOT)) for x in found})
    registry = REGISTRY if folder in ("combinators", "optimizers", "pieces", "wrappers", "") else []
    defined = [x.name for x in tree.body if isinstance(x, kinds)]
    files = [*own, *registry, f"gradtx/{mutant.file}"]  # last: pytest puts a module that it collects into its package
    return [*dict.fromkeys(files)], [x.name.strip("_") for x in around if x.name.strip("_")], defined


def fork(copy: Path, chosen: Only, *options: str) -> int:
    """Run these tests in a fork, which exits with the code of pytest, and return its process."""
    (copy / "failed").write_text("")
    (copy / "ran").write_text("")
    if process := os.fork():
        return process
    code = 3
    try:
        os.setsid()
        os.chdir(copy)
        out = os.open("out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path[:] = [str(copy), *(x for x in sys.path if Path(x) != ROOT / "tests")]
        for name in ("conftest", "mutants"):
            sys.modules.pop(name, None)
        options = *options, "--whole", "-n", "0", "-p", "no:cacheprovider", "-W", QUIET
        code = pytest.main([*options, *chosen.files], plugins=[chosen])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(process: int, limit: float) -> int | None:
    """The exit code of a fork, or None while it runs. After the limit it is killed."""
    if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.perf_counter() < limit:
            return None
        os.killpg(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def check_mutants(chosen: list[Mutant], tests: Recorded | None, seed: str, workers: int) -> int:
    """The exit code: 0 if enough mutants are caught. The tests are those that run its line, or None for those near."""
    for name in ("conftest", "jax", "optax", "flax.nnx", "equinox", "chex"):  # without a backend: forks start theirs
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    begin, waiting, busy = time.perf_counter(), chosen[::-1], {}
    caught, kinds, missed = Counter(), Counter(), []
    failed: dict[str, list[Mutant]] = {}
    with tempfile.TemporaryDirectory() as place:
        copies = [copied(Path(place) / str(i)) for i in range(workers)]
        sources = {mutant.file: (copies[0] / "gradtx" / mutant.file).read_bytes() for mutant in chosen}

        def plant(copy: Path, mutant: Mutant, source: bytes):
            path = copy / "gradtx" / mutant.file
            path.write_bytes(source)
            Path(cache_from_source(str(path))).unlink(missing_ok=True)  # two mutants may have one size and second

        def verdict(copy: Path, mutant: Mutant, code: int, began: float, now: list[str]):
            line, before, after = mutant.shown(right := sources[mutant.file])
            plant(copy, mutant, right)
            words = (copy / "failed").read_text().split("\n")[0]
            if not words and code not in (0, 5):
                words = "timeout" if code == -signal.SIGKILL else f"pytest ends with {code}"
            now = now or (copy / "ran").read_text().splitlines()
            if words and ("::" in words or now):
                failed.setdefault(words if "::" in words else now[0], []).append(mutant)
            kinds[mutant.kind] += 1
            caught[mutant.kind] += bool(words)
            seconds = time.perf_counter() - began
            print(
                f"{'caught' if words else 'SURVIVED'} in {seconds:4.1f} s: {mutant.file}:{line}  {mutant.kind}  {words}"
            )
            print(f"    - {before}\n    + {after}", flush=True)
            if not words:
                missed.append(mutant)
                print(f"    {len(now)} tests run it and pass", flush=True)

        while waiting or busy:
            for copy in copies:
                if copy in busy:
                    mutant, process, began, now, later = busy[copy]
                    code = ended(process, began + LIMIT)
                    if code is None:
                        continue
                    if code == 0 and later:
                        busy[copy] = mutant, fork(copy, Only(later), "-x"), began, [*now, *later], []
                        continue
                    del busy[copy]
                    verdict(copy, mutant, code, began, now)
                if waiting:
                    mutant, began = waiting.pop(), time.perf_counter()
                    plant(copy, mutant, mutant.of(sources[mutant.file]))
                    if tests is None:
                        busy[copy] = mutant, fork(copy, Near(mutant, PACKAGE), "-x"), began, [], []
                    elif not (now := seen_by(mutant, tests, seed)):
                        (copy / "failed").write_text("")
                        verdict(copy, mutant, 5, began, [])
                    else:
                        busy[copy] = mutant, fork(copy, Only(now[:15]), "-x"), began, now[:15], now[15:]
            time.sleep(0.05)

        if failed:
            process = fork(copies[0], Only([*failed]))
            while (code := ended(process, time.perf_counter() + 1)) is None:
                time.sleep(0.05)
            if code not in (0, 1):
                print("Without a mutant the tests do not run:", (copies[0] / "out").read_text(), sep="\n")
                return 1
            for test in filter(None, (copies[0] / "failed").read_text().split("\n")):
                print(f"{test} fails without a mutant too")
                for mutant in failed[test]:
                    caught[mutant.kind] -= 1
    for kind, number in sorted(kinds.items()):
        print(f"{kind:12} {caught[kind]} of {number}")
    total, seconds = sum(caught.values()), time.perf_counter() - begin
    print(f"{total} of {len(chosen)} mutants caught in {seconds:.0f} s, seed {seed}")
    return int(len(chosen) - total > max(3, len(chosen) // 10))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Plants faults in a copy of the code, one at a time, and runs the tests that must see them."
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only faults whose name contains one of these")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many")
    parser.add_argument("--random", type=int, metavar="N", help="so many random mutants instead")
    parser.add_argument("--seed", default="0", metavar="S", help="which ones")
    parser.add_argument("--changed", type=int, metavar="N", help="so many, of changed lines, with the tests near them")
    parser.add_argument("--since", metavar="REVISION", help="mutants of the lines that differ from it")
    parser.add_argument("--within", nargs="+", metavar="FOLDER", help="mutants of these folders of gradtx alone")
    parser.add_argument("--near", action="store_true", help="with --random: the tests near a mutant, without records")
    parser.add_argument("--lines", type=Path, metavar="FOLDER", help="what pytest --lines has recorded")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="so many mutants at a time")
    parser.add_argument("--list", action="store_true", help="print them, and run nothing")
    given = parser.parse_args(arguments)
    if given.random or given.changed:
        return _random(given)
    faults = [fault for fault in FAULTS if not given.only or any(word in fault.name for word in given.only)]
    if not faults:
        parser.error(f"no fault has a name with {' or '.join(given.only)} in it")
    faults = sorted(faults, key=lambda fault: crc32(f"{given.seed} {fault.name}".encode()))[: given.sample]
    faults = [fault for fault in FAULTS if fault in faults]
    for fault in faults:
        planted(fault, PACKAGE)
    if given.list:
        print(*(f"{fault.file:28} {fault.name}: {fault.test}" for fault in faults), sep="\n")
        return 0
    return int(check(faults) > 0)


def _random(given: argparse.Namespace) -> int:
    number = given.random or given.changed
    since = given.since or (last_revision(Path.cwd()) if given.changed else None)
    lines = changed(Path.cwd(), since) if since else None
    chosen = [*mutants(PACKAGE, number, given.seed, lines, given.within)]
    if len(chosen) < number and lines is not None:
        few = f"{len(chosen)} mutants of the lines that differ from {since}"
        print(few if given.changed else f"{few}: of all lines instead")
        chosen = chosen if given.changed else [*mutants(PACKAGE, number, given.seed, None, given.within)]
    if given.list:
        for mutant in chosen:
            line, before, after = mutant.shown((PACKAGE / mutant.file).read_bytes())
            print(f"{mutant.file}:{line}  {mutant.kind}\n    - {before}\n    + {after}")
        return 0
    if given.changed or given.near:
        return check_mutants(chosen, None, given.seed, given.workers) if chosen else 0
    code = crc32(b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))))
    tests = recorded(given.lines or ROOT / ".pytest_cache" / "lines" / f"{code:08x}", given.workers)
    return check_mutants(chosen, tests, given.seed, given.workers)


if __name__ == "__main__":
    sys.exit(main())
