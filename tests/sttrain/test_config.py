"""Recipes: TOML and flags in, every problem at once out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sttrain.cli import cli
from sttrain.errors import BadUsageError
from sttrain.settings import parse_settings
from sttrain.train.config import RunConfig, differences, load_config

RECIPES = sorted((Path(__file__).parents[2] / "manifests" / "runs").glob("*.toml"))


def test_flags_override_the_file(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("seed = 3\nepochs = 7\n[optimizer]\nlr = 0.01\n[model]\nwidth = 64\n")
    config = load_config(recipe, {"epochs": 9, "optimizer.clip": "none", "mask.kind": "site"})
    assert (config.seed, config.epochs, config.optimizer.lr) == (3, 9, 0.01)
    assert (config.optimizer.clip, config.mask.kind, config.model.width) == ("none", "site", 64)


def test_settings_are_toml_or_text():
    texts = ["optimizer.lr=3e-4", "mask.mix=[1.0, 0.0, 0.0]", "mask.kind=site", "model.local=false"]
    assert parse_settings(texts) == {
        "optimizer.lr": 3e-4,
        "mask.mix": [1.0, 0.0, 0.0],
        "mask.kind": "site",
        "model.local": False,
    }


@pytest.mark.parametrize("text", ["lr", "=3"])
def test_a_setting_that_sets_nothing(text):
    with pytest.raises(BadUsageError, match="sets nothing"):
        parse_settings([text])


def test_every_problem_at_once_with_the_nearest_key(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("epochz = 7\nbatch = 0\n[optimizer]\nlearning = 1\nweight_decy = 2\n")
    with pytest.raises(BadUsageError) as caught:
        load_config(recipe, {})
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == 4
    for words in ("did you mean 'epochs'", "did you mean 'weight_decay'", "key 'batch'", "got '0'"):
        assert words in text
    assert "key 'optimizer.learning'" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("epochs = ", "unreadable", id="broken_toml"),
        pytest.param("optimizer = 3", "optimizer", id="a_number_for_a_section"),
    ],
)
def test_bad_files(tmp_path, content, words):
    recipe = tmp_path / "r.toml"
    recipe.write_text(content)
    with pytest.raises(BadUsageError, match=words):
        load_config(recipe, {})


def test_true_is_no_number_and_a_flag_is_told_as_one(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("batch = true\n[optimizer]\nlr = true\n")
    with pytest.raises(BadUsageError) as caught:
        load_config(path, {"epochs": 0})
    assert {(p.subject, p.where) for p in caught.value.problems} == {
        ("key 'batch'", str(path)),
        ("key 'optimizer.lr'", str(path)),
        ("key 'epochs'", "command line"),
    }


@pytest.mark.parametrize(
    "more", [["--seed", "2", "--set", "seed=1"], ["--set", "seed=1", "--set", "seed=2"]]
)
def test_a_key_that_is_set_twice(tmp_path, more):
    done = CliRunner().invoke(cli, ["fit", str(tmp_path), "-o", str(tmp_path / "run"), *more])
    assert isinstance(done.exception, BadUsageError)
    assert "key 'seed' is set to" in str(done.exception)


def test_a_logger_that_nobody_knows(tmp_path):
    arguments = ["fit", str(tmp_path), "-o", str(tmp_path / "run"), "--logger", "tensorboards"]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, BadUsageError)
    assert "'tensorboard', 'wandb' or 'trackio'" in str(done.exception)


def test_a_missing_file(tmp_path):
    with pytest.raises(BadUsageError, match="No such file"):
        load_config(tmp_path / "none.toml", {})


def test_a_key_below_a_plain_value():
    with pytest.raises(BadUsageError, match="'seed' is not a section"):
        load_config(None, {"seed": 1, "seed.x": 2})


def test_differences_are_named_by_dotted_key():
    before, after = RunConfig(), RunConfig.model_validate({"seed": 1, "optimizer": {"lr": 0.5}})
    found = differences(before.model_dump(), after.model_dump())
    assert found == ["optimizer.lr was 0.001, is now 0.5", "seed was 0, is now 1"]


def test_the_fingerprint_covers_corpus_and_configuration():
    config = RunConfig()
    prints = {
        config.fingerprint("a"),
        config.fingerprint("b"),
        config.model_copy(update={"seed": 1}).fingerprint("a"),
    }
    assert len(prints) == 3


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_valid(recipe):
    load_config(recipe, {})


def test_the_paper_recipe_is_the_papers():
    """Section 4.2, and nothing that it does not state."""
    config = load_config(RECIPES[0].with_name("paper.toml"), {})
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0.01)
    assert (optimizer.name, optimizer.schedule, optimizer.warmup) == ("adam", "cosine", 0)
    assert (config.epochs, config.batch) == (40, 32)
    assert (config.mask.kind, config.mask.element_ratio) == ("element", 0.3)
    assert (config.model.width, config.model.layers, config.model.heads) == (256, 6, 8)
    assert {config.model.centre, config.model.local, config.model.library_size} == {False}


def test_what_decides_nothing_is_not_in_the_fingerprint():
    """A run in random order stays the run that it was before there was another one."""
    plain = RunConfig()
    assert RunConfig(group=3).fingerprint("x") == plain.fingerprint("x")
    block = RunConfig(order="block", group=3)
    assert block.fingerprint("x") != plain.fingerprint("x")
    assert block.fingerprint("x") != RunConfig(order="block", group=4).fingerprint("x")
    assert plain.grouping is None
    assert block.grouping == 3


def test_the_paper_s_letter_leaves_every_option_off():
    for path in RECIPES:
        config = load_config(path, {})
        assert (config.objective, config.loss, config.augment) == ("patch", "mse", False)
        assert (config.smooth, config.gene_init, config.model.centre_by) == (0, "random", "corpus")


@pytest.mark.slow
def test_a_cell_of_the_comparison_is_one_command_that_resumes(grids, tmp_path):
    """The script of `manifests/runs/README.md`, on windows larger than the slices too."""
    script = RECIPES[0].with_name("pretrain.sh")
    few = ["--set", "model.layers=1", "--epochs", "1", "--logger", "none"]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for size, objective in (("8", "patch"), ("30", "slice")):
        cell = [str(grids), str(tmp_path), objective, size, "128"]
        command = ["bash", str(script), *cell, str(script.with_name("tiny.toml")), *few]
        for _ in range(2):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | path
            )
            assert done.returncode == 0, done.stderr
        assert "nothing was left to do" in done.stdout
        assert (tmp_path / f"run-{objective}-{size}-128" / "run.json").is_file()
    assert len(list(tmp_path.glob("corpus-*"))) == 2
    bare = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert bare.returncode == 2
    assert "OBJECTIVE SIZE CHANNELS" in bare.stderr
