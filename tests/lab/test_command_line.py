import csv
import inspect
import math
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx import lab
from gradtx.__main__ import RECIPES, _entry, _split, main

TEXTBOOK = (
    *("sgd", "averaged_momentum", "heavy_ball", "rate_inside_momentum", "rolling_ball", "nesterov"),
    *("adagrad", "rmsprop", "rprop", "adadelta"),
    *("adam", "adam_uncorrected", "adamw", "adamax", "nadam", "amsgrad"),
)

ENTRIES_OF_RECIPES: Any = {name: _entry(name, recipe) for name, recipe in RECIPES.items()}
RATES: Any = {  # the default of each recipe
    name: entry.learning_rate[2] for name, entry in ENTRIES_OF_RECIPES.items() if hasattr(entry, "make")
}


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)


def out_to(folder):
    return ["--out", str(folder)]


def rows_of(table):
    """The table's rows as printed: optimizer, rate, batch size, steps, loss, accuracy, ms, bytes."""
    return [cells for line in table.splitlines() if len(cells := line.split()) == 8 and cells[0] in TEXTBOOK]


def read(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_table_against_csv(stdout, folder):
    table, saved = rows_of(stdout), read(folder / "race.csv")
    assert len(table) == len(saved) > 0
    for cells, row in zip(table, saved):
        loss, accuracy = float(row["final_loss"]), float(row["test_accuracy"])
        assert cells[0] == row["optimizer"]
        assert float(cells[1]) == pytest.approx(float(row["learning_rate"]), rel=1e-5)
        assert cells[2:4] == [row["batch_size"], row["steps"]]
        assert cells[4] == "diverged" if not math.isfinite(loss) else float(cells[4]) == pytest.approx(loss, rel=0.06)
        if math.isnan(accuracy):
            assert cells[5] == "–"
        else:
            assert float(cells[5].rstrip("%")) == pytest.approx(100 * accuracy, abs=0.051)
        assert float(cells[6]) == pytest.approx(float(row["ms_per_step"]), abs=0.0006)
        assert float(cells[7]) == pytest.approx(float(row["state_bytes_per_parameter"]), abs=0.006)
    return saved


# ---------------------------------------------------------------- the main job
@pytest.fixture(scope="module")
def race_of_all(tmp_path_factory):
    folder = tmp_path_factory.mktemp("race") / "new" / "folder"
    return python("-m", "gradtx", "race", "--out", str(folder)), folder


def test_every_textbook_optimizer_reaches_95_percent_on_digits(race_of_all):
    done, folder = race_of_all
    assert done.returncode == 0, done.stderr
    accuracies = {row["optimizer"]: float(row["test_accuracy"]) for row in check_table_against_csv(done.stdout, folder)}
    assert sorted(accuracies) == sorted(TEXTBOOK)
    assert min(accuracies.values()) >= 0.95, accuracies


def test_the_table_is_sorted_by_final_loss(race_of_all):
    losses = [float(row["final_loss"]) for row in read(race_of_all[1] / "race.csv")]
    assert losses == sorted(losses)


def test_the_picture_is_saved_and_named_after_the_table(race_of_all):
    done, folder = race_of_all
    assert done.stdout.splitlines()[-1] == str(folder / "race.png")
    assert (folder / "race.png").read_bytes().startswith(b"\x89PNG")


def test_a_line_of_the_picture_ends_at_the_loss_of_its_label(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    main(
        [
            "race",
            "--problem",
            "xor",
            "--epochs",
            "50",
            "--batch-size",
            "1",
            "--optimizers",
            "adam,sgd",
            *out_to(tmp_path),
        ]
    )
    (axes,) = figures[0].axes
    labels = dict(text.get_text().split() for text in axes.texts)
    saved = {row["optimizer"]: float(row["final_loss"]) for row in read(tmp_path / "race.csv")}
    for line in axes.lines:
        assert line.get_xdata()[-1] == 200
        assert line.get_ydata()[-1] == pytest.approx(saved[line.get_label()])
        assert labels[line.get_label()] == f"{saved[line.get_label()]:.3g}"


def test_progress_is_on_standard_error_only(race_of_all):
    done, _ = race_of_all
    assert "100%" in done.stderr and "━" in done.stderr
    assert "━" not in done.stdout and "optimizer" not in done.stderr


def test_memory_of_each_kind(race_of_all):
    bytes_ = {
        row["optimizer"]: round(float(row["state_bytes_per_parameter"])) for row in read(race_of_all[1] / "race.csv")
    }
    assert (bytes_["sgd"], bytes_["heavy_ball"], bytes_["adam"], bytes_["amsgrad"]) == (0, 4, 8, 12)


# ---------------------------------------------------------------- options
def test_options_of_the_race(tmp_path, capsys):
    main(
        f"race --problem line --optimizers adam,sgd --epochs 3 --batch-size 10 --learning-rate 0.05 --seed 2 "
        f"--out {tmp_path}".split()
    )
    saved = check_table_against_csv(capsys.readouterr().out, tmp_path)
    assert sorted(row["optimizer"] for row in saved) == ["adam", "sgd"]
    for row in saved:
        assert (row["steps"], row["batch_size"], row["learning_rate"]) == ("30", "10", "0.05")


@pytest.mark.parametrize(("size", "steps"), [("all", 2), ("1", 8)])
def test_batch_size_all_and_one(tmp_path, capsys, size, steps):
    main(
        [
            "race",
            "--problem",
            "xor",
            "--optimizers",
            "sgd",
            "--epochs",
            "2",
            "--batch-size",
            size,
            "--out",
            str(tmp_path),
        ]
    )
    (row,) = check_table_against_csv(capsys.readouterr().out, tmp_path)
    assert int(row["steps"]) == steps


def test_out_is_a_folder_named_out_by_default(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["race", "--problem", "line", "--optimizers", "sgd", "--epochs", "1"])
    assert capsys.readouterr().out.splitlines()[-1] == "out/race.png" and (tmp_path / "out" / "race.png").exists()


def test_a_run_that_diverges_is_reported(tmp_path, capsys):
    main(["race", "--problem", "line", "--optimizers", "sgd,adam", "--learning-rate", "3", "--out", str(tmp_path)])
    first, last = check_table_against_csv(capsys.readouterr().out, tmp_path)
    assert first["optimizer"] == "adam" and not np.isfinite(float(last["final_loss"]))
    assert (tmp_path / "race.png").exists()


def test_same_seed_same_results(tmp_path, capsys):
    def losses(seed, folder):
        options = ["--problem", "xor", "--optimizers", "adam,sgd", "--epochs", "20", "--batch-size", "1"]
        main(["race", *options, "--seed", seed, "--out", str(tmp_path / folder)])
        return [row["final_loss"] for row in read(tmp_path / folder / "race.csv")]

    assert losses("1", "a") == losses("1", "b") != losses("2", "c")


# ---------------------------------------------------------------- any optimizer
def test_names_and_expressions_race_together(tmp_path, capsys):
    clipped = "chain(clip_by_global_norm(1.0), adamw(0.01))"
    written = [clipped, "sam(adam(0.01), radius=0.05)", "muon(cosine(0.02, steps=9), default=sgd(0.1))"]
    main(
        [
            "race",
            "--problem",
            "xor",
            "--epochs",
            "9",
            "--optimizers",
            "; ".join([*written, "adam, cocob"]),
            *out_to(tmp_path),
        ]
    )
    rates = {row["optimizer"]: float(row["learning_rate"]) for row in read(tmp_path / "race.csv")}
    assert rates.keys() == {*written, "adam", "cocob"}
    assert (rates[clipped], rates["adam"]) == (0.01, 0.01) and np.isnan(rates["cocob"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "race.png")
    (as_written,) = lab.race(lab.xor(), {"": gx.read(clipped)}, epochs=9)
    (row,) = (row for row in read(tmp_path / "race.csv") if row["optimizer"] == clipped)
    assert float(row["final_loss"]) == pytest.approx(as_written.final_loss, rel=1e-6)


def test_a_recipe_without_a_rate_for_the_problem_trains_with_several(tmp_path, capsys):
    main(["race", "--problem", "xor", "--epochs", "30", "--optimizers", "lion", *out_to(tmp_path)])
    out, (row,) = capsys.readouterr().out, read(tmp_path / "race.csv")
    rates = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    losses = {rate: lab.race(lab.xor(), {"": gx.lion(rate)}, epochs=30)[0].final_loss for rate in rates}
    assert float(row["learning_rate"]) == min(losses, key=losses.__getitem__) == 0.01
    assert "learning rate of lion: 0.01, the best of 7 from 1e-05 to 0.01; the best is at the edge" in out
    main(
        [
            "race",
            "--problem",
            "xor",
            "--optimizers",
            "lion",
            "--learning-rate",
            "0.5",
            "--epochs",
            "2",
            *out_to(tmp_path),
        ]
    )
    assert "the best of" not in capsys.readouterr().out
    assert float(read(tmp_path / "race.csv")[0]["learning_rate"]) == 0.5


@pytest.mark.parametrize("name", sorted(name for name, entry in ENTRIES_OF_RECIPES.items() if entry is not None))
def test_every_recipe_can_race(name):
    entry = ENTRIES_OF_RECIPES[name]
    if isinstance(entry, lab.Entry):
        entry = entry._replace(learning_rate=RATES[name])
    (result,) = lab.race(lab.xor(), {name: entry}, epochs=2)
    assert np.isfinite(result.losses).all()


def test_lists_are_split_at_the_commas_outside_brackets_and_quotes():
    assert _split("a,b(c, d=[1, 2]); e(',', \"(\")") == ["a", "b(c, d=[1, 2])", "e(',', \"(\")"]


# ---------------------------------------------------------------- list and show
def formula_of(recipe):
    return inspect.cleandoc(recipe.__doc__).split("\n\n")[1].splitlines()[0]


def test_list_names_every_recipe_with_its_formula(capsys):
    main(["list"])
    header, *lines = (re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())
    rows = {name: rest for name, *rest in lines}
    assert header == ["recipe", "family", "paper", "formula"]
    assert rows.keys() >= {*TEXTBOOK} - {"adam_uncorrected"}
    assert rows.keys() == {*RECIPES}
    assert rows["adam"] == ["adam", "Kingma and Ba 2015, 1412.6980", formula_of(gx.adam)]
    assert rows["adagrad"][1:] == ["Duchi, Hazan and Singer 2011", "w ← w − η·g/(√s + ε), with s ← s + g²"]
    without_paper = {name for name, (_, *more) in rows.items() if len(more) == 1}
    assert without_paper == {"skip_nonfinite"}


def test_show_prints_the_composition_and_its_state(capsys):
    main(["show", "adam"])
    out = capsys.readouterr().out
    formula, composition, state = out.split("\n\n")
    assert formula == formula_of(gx.adam)
    assert gx.read(composition) == gx.adam()
    assert "step: int32[]" in state
    assert state.count("mean/w: float32[3,4]") == 2
    assert "8 bytes per parameter, plus 20 bytes" in state


@pytest.mark.parametrize("name", RECIPES)
def test_show_prints_every_recipe_and_counts_its_state(capsys, name):
    main(["show", name])
    out = capsys.readouterr().out
    slots = gx.read(out.split("\n\n")[1]).init({"w": jnp.zeros((3, 4))}).slots
    bytes_ = sum(x.nbytes for x in jax.tree.leaves(slots) if x.ndim) / 12
    assert f"\n{bytes_:g} bytes per parameter" in out


# ---------------------------------------------------------------- errors
BAD = {
    "": "required",
    "dance": "dance",
    "race --problem chess": "chess",
    "race --optimizers adm": "did you mean adam",
    "race --optimizers adam,,sgd": "''",
    "race --optimizers zzzz": "`gradtx list` shows the names",
    "race --optimizers Muonn": "did you mean muon",
    "race --optimizers sam": "sam wraps another optimizer: write sam(adam(0.01))",
    "race --optimizers chian(adam(0.1))": "'chian' is not a name of gradtx (chain",
    "race --optimizers adam(rate=1)": "adam has no argument 'rate': did you mean 'learning_rate'",
    "race --optimizers adam(0.1": "cannot read the optimizer 'adam(0.1': '(' was never closed",
    "race --optimizers __import__(1)": "is not a name of gradtx",
    "race --optimizers constant(0.1)": "'constant(0.1)' is a schedule, not an optimizer",
    "race --epochs 0": "epochs must be at least 1, got 0",
    "race --epochs -3": "got -3",
    "race --epochs many": "many",
    "race --epochs 1.5": "1.5",
    "race --batch-size 0": "got 0",
    "race --batch-size -1": "got -1",
    "race --batch-size 1438": "1437",
    "race --batch-size some": "some",
    "race --learning-rate nan": "got nan",
    "race --learning-rate inf": "got inf",
    "race --learning-rate -0.1": "got -0.1",
    "race --learning-rate 0": "got 0",
    "race --learning-rate fast": "fast",
    "race --seed -1": "got -1",
    "race --seed x": "x",
    "race --unknown": "--unknown",
    "race --epoch 3": "--epoch",
    "race sgd": "sgd",
    "list adam": "adam",
    "show": "recipe",
    "show adm": "did you mean adam",
    "show random_search": "random_search",
    "race --out FILE": "FILE",
    "race --out FILE/below": "FILE",
}


@pytest.mark.parametrize(("line", "part"), BAD.items())
def test_bad_options_are_one_line_and_exit_code_2(line, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    (message,) = [text for text in err.splitlines() if "error" in text]
    assert message.startswith("gradtx") and part in message
    assert err.splitlines() == [message]


@pytest.mark.parametrize("extra", ["matplotlib", "rich", "sklearn"])
def test_a_missing_extra_is_one_line(extra, tmp_path):
    code = f"import sys; sys.modules[{extra!r}] = None; from gradtx.__main__ import main; main()"
    done = python("-c", code, "race", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == ""
    (message,) = done.stderr.splitlines()
    assert extra in message and 'pip install "gradtx[race]"' in message


def test_import_gradtx_imports_no_extra():
    code = "import sys, gradtx; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:] or m in sys.argv[1:]])"
    extras = ["matplotlib", "rich", "sklearn", "tqdm", "pandas", "gradtx.training", "gradtx.plots", "gradtx.__main__"]
    assert python("-c", code, *extras).stdout == "[]\n"


def test_list_and_show_need_no_extra():
    code = "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'rich', 'sklearn'])); "
    for command in (["list"], ["show", "adam"]):
        done = python("-c", code + "from gradtx.__main__ import main; main()", *command)
        assert done.returncode == 0 and "√ŝ" in done.stdout, done.stderr


def test_a_closed_pipe_is_not_an_error():
    command = subprocess.Popen([sys.executable, "-m", "gradtx", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout and command.stderr
    command.stdout.close()
    assert (command.stderr.read(), command.wait(timeout=300)) == (b"", 0)
    command.stderr.close()
