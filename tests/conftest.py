"""Eight devices, so that sharding is tested on any machine, and the strict modes of JAX for gradtx's own arithmetic."""

import contextlib
import functools
import gc
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# The tests mostly wait for compilation of thousands of small programs, each run a few times. XLA's former emitters
# compile them in a third of the time; a jaxlib that does not know a flag ends at it.
# GRADTX_AS_USERS_RUN=1 leaves XLA and JAX as users have them, except for the eight devices.
AS_USERS_RUN = bool(os.environ.get("GRADTX_AS_USERS_RUN"))
DEVICES = "--xla_force_host_platform_device_count=8" + ("" if AS_USERS_RUN else " --xla_backend_optimization_level=0")
QUICK = "" if AS_USERS_RUN else "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# Eight devices of a busy machine wait for each other for longer than XLA's 40 seconds, at which it ends the process.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):  # which the workers have from the process that starts them
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}"
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    for flag in [*QUICK.split(), PATIENT]:
        known = not subprocess.run(start, env=os.environ | {"XLA_FLAGS": flag}, capture_output=True).returncode
        flags += f" {flag}" * known
    os.environ["XLA_FLAGS"] = flags

# A test of the whole registry, and one that takes long, runs one case in so many, a different sample for each test:
# every case meets some of the tests, and every test some of the cases. The seed is the commit, so that each commit
# tests another sample, and so do the oldest Python and the others: of two cases, each is tested on one end.
# `pytest --whole` runs all. References are never sampled.
SAMPLED = {
    "test_a_donated_apply_copies_no_parameter_and_no_slot": 4,
    "test_a_killed_process_loses_the_steps_since_the_last_checkpoint": 2,
    "test_a_piece_of_main_keeps_its_hyperparameters_in_another_process": 2,
    "test_collectives": 12,
    "test_contract": 45,
    "test_debug_modes": 30,
    "test_each_module_imports_by_itself": 2,
    "test_every_cell_of_every_basis_runs": 25,
    "test_every_optimizer_trains_restores_and_takes_its_bytes": 5,
    "test_every_state_comes_back_to_the_bit": 2,
    "test_formula": 20,
    "test_four_processes_train_as_one": 8,
    "test_from_optax": 2,
    "test_hundreds_of_losses_and_fits_and_thousands_of_records_keep_no_memory": 2,
    "test_hyperparameters": 30,
    "test_in_shard_map": 20,
    "test_inside": 30,
    "test_it_measures_and_writes": 2,
    "test_it_runs_from_top_to_bottom": 2,
    "test_line_searches_back_from_gradtx": 2,
    "test_line_searches_both_ways": 2,
    "test_line_searches_in_files": 2,
    "test_map_params": 25,
    "test_matrices_of_one_shape_are_renewed_in_one_batch_as_one_by_one": 2,
    "test_mutants_compile_and_differ_and_depend_on_the_seed": 2,
    "test_of_the_functions_of_optimizers_the_last_few_are_kept": 4,
    "test_one_is_caught": 2,
    "test_optimizers": 30,
    "test_part_by_part_is_the_whole_leaf": 3,
    "test_restore": 2,
    "test_slots_that_are_declared_to_be_never_negative_never_are": 5,
    "test_spread_matrices_are_those_of_one_device": 16,
    "test_spreading": 8,
    "test_states": 30,
    "test_storage": 2,
    "test_sweep": 20,
    "test_the_blocks_of_a_page_run": 2,
    "test_the_contract_holds_for_random_compositions": 2,
    "test_the_forms_of_files": 2,
    "test_the_handed_on_value_and_gradient_are_those_at_the_parameters": 2,
    "test_the_pieces_of_gradtx_satisfy_the_laws": 4,
    "test_training": 20,
    "test_two_processes_train_as_one": 2,
}

collect_ignore = ["typing"]  # a user's code, right and wrong, for type checkers


def pytest_configure(config):
    """All workers, runs and commands share one compilation cache: most programs occur more than once."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(config.rootpath / ".pytest_cache" / "jax")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # where each operation was written, which nobody reads here
    jax.config.update("jax_traceback_in_locations_limit", 0)
    gc.set_threshold(200_000, 50, 1000)  # each collection walks all that JAX keeps: a tenth of the time
    if folder := config.getoption("--lines"):
        config.pluginmanager.register(Lines(Path(folder)))
    if AS_USERS_RUN:
        return
    # JAX makes an MLIR context, which knows all dialects, anew for each program: a third of all time. One serves all;
    # a JAX that keeps it elsewhere is only slower to test.
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src.interpreters import mlir

        mlir.make_ir_context = functools.cache(mlir.make_ir_context)


def pytest_addoption(parser):
    parser.addoption("--whole", action="store_true", help="every test on every transformation of the registry")
    parser.addoption("--sample", metavar="SEED", help="another sample of the registry (default: the commit)")
    parser.addoption("--lines", metavar="FOLDER", help="record there which lines each test runs, for tests/faults.py")
    parser.addoption("--fuzz", type=int, metavar="N", help="N random compositions, others at each run")


class Lines:
    """Records the time of each test that passes and the lines of gradtx that it runs, except in other processes.

    A line of a worker's file is [test, seconds, {file: lines}], or [test module, 0, {file: lines}] with the lines that
    are run when the module is imported, on which all its tests may depend. They need Python 3.12: `sys.monitoring`.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.to = folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl"
        self.seen, self.file = {}, None
        self.monitoring = monitoring = vars(sys)["monitoring"]
        tool, events = monitoring.COVERAGE_ID, monitoring.events
        monitoring.use_tool_id(tool, "lines")

        def started(code, _):
            _, inside, file = code.co_filename.rpartition(f"{os.sep}gradtx{os.sep}")
            if inside and file.endswith(".py"):
                monitoring.set_local_events(tool, code, events.LINE)
            return monitoring.DISABLE

        def ran(code, line):
            self.seen.setdefault(code.co_filename.rpartition(f"{os.sep}gradtx{os.sep}")[2], set()).add(line)
            return monitoring.DISABLE

        monitoring.register_callback(tool, events.PY_START, started)
        monitoring.register_callback(tool, events.LINE, ran)
        monitoring.set_events(tool, events.PY_START)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        self.begin()
        report = yield
        if collector.nodeid.endswith(".py"):  # a module is collected for doctests, and for tests
            self.write(collector.nodeid, 0.0)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if item.path != self.file:  # or its tests would not run the lines of what those of others have compiled
            self.file = item.path
            jax.clear_caches()
            for x in gc.get_objects():
                if isinstance(x, functools._lru_cache_wrapper) and x.__module__.startswith("gradtx"):
                    x.cache_clear()
        self.begin()
        return (yield)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.outcome == "passed":
            self.write(report.nodeid, report.duration)

    def begin(self):
        self.seen.clear()
        self.monitoring.restart_events()

    def write(self, test, seconds):
        if self.seen:
            file, *name = test.split("::")
            _, inside, rest = file.rpartition("gradtx/")
            lines = {file: sorted(lines) for file, lines in self.seen.items()}
            with self.to.open("a") as to:
                print(json.dumps(["::".join([inside + rest, *name]), seconds, lines]), file=to)

    @pytest.hookimpl
    def pytest_sessionfinish(self):
        self.monitoring.set_events(self.monitoring.COVERAGE_ID, 0)


def sample_of(config) -> str:
    """The seed of the sample."""
    if (seed := config.getoption("--sample")) is not None:
        return seed
    commit = ["git", "-C", str(config.rootpath), "rev-parse", "--short", "HEAD"]
    with contextlib.suppress(OSError):
        return subprocess.run(commit, capture_output=True, text=True).stdout.strip() or "0"
    return "0"


def pytest_terminal_summary(terminalreporter, config):
    sample = "the whole registry" if config.getoption("--whole") else f"a sample of the registry, {sample_of(config)}"
    versions = f"Python {sys.version.split()[0]}, jax {jax.__version__}"
    terminalreporter.write_line(f"{versions}; {sample}")


def pytest_collection_modifyitems(config, items):
    """Select the sample, and put all tests of one transformation on one worker, where they share compiled programs."""
    from cases import CASES

    left_out, seed = [], sample_of(config)
    for item in items:
        words = item.callspec.id.split("-") if hasattr(item, "callspec") else ()
        names = [word for word in words if word in CASES]
        if names:
            item.add_marker(pytest.mark.xdist_group(names[0]))
        of = SAMPLED.get(getattr(item, "originalname", ""), SAMPLED.get(item.path.stem, 1) if names else 1)
        of = 1 if config.getoption("--whole") else of
        if (crc32(f"{seed} {item.nodeid}".encode()) + (sys.version_info >= (3, 12))) % of:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


MAPS = Path("/proc/self/maps")
FINISHED = itertools.count(1)  # tests of this process


def pytest_runtest_logfinish(nodeid, location):
    """Free the compiled programs in time: each takes some twenty memory maps, and Linux ends a process at 65,530."""
    if next(FINISHED) % 20 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a test that is skipped without a declared reason."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "declared" not in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"{item.nodeid}: an undeclared skip: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="module")
def _compiled_here(request):
    """Disable the cache for modules with meshes: a program that JAX 0.12 loads from it may hang in a collective."""
    if "mesh" in request.path.read_text(encoding="utf-8"):
        _use_cache(False)
        yield
        _use_cache(True)
    else:
        yield


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # or JAX would not look at the option again


@pytest.fixture(autouse=True)
def _strict(request):
    """Forbid implicit promotion of dtypes or ranks, except in tests marked with whose arithmetic needs it."""
    if request.node.get_closest_marker("promotes"):
        yield
    else:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def eager():
    """Run operation by operation: for tests of the arithmetic, which would only wait for compilation."""
    with jax.disable_jit():
        yield
