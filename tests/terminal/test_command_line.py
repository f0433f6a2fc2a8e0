"""The command line, the environment and the settings they are read into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.errors import StoreError
from tasks.records import TrainingPlan
from tasks.settings import LocalRunSettings, RunSettings
from tasks.terminal.command_line import CommandLine, parse


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("MNIST_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("COLUMNS", "200")  # argparse wraps at the terminal's width


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `parse` says on its way out with status 2."""
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--dataset", "fashion_mnist"], {"dataset": "fashion_mnist"}),
    (["--dataset", "my folder, with=signs"], {"dataset": "my folder, with=signs"}),
    (["--name", "signs"], {"name": "signs"}),
    (["--image-size", "28x32"], {"image_size": "28x32"}),
    (["--grayscale"], {"grayscale": True}),
    (["--test-fraction", "0.2"], {"test_fraction": 0.2}),
    (["--model", "cnn"], {"model": "cnn"}),
    (["--recipe", "reference"], {"recipe": "reference"}),
    (["--model", "cnn", "--recipe", "long"], {"model": "cnn", "recipe": "long"}),
    (["--epochs", "6"], {"epochs": 6}),
    (["--epochs=6"], {"epochs": 6}),
    (["--batch-size", "32"], {"batch_size": 32}),
    (["--hidden-units", "128"], {"hidden_units": 128}),
    (["--learning-rate", "1e-2"], {"learning_rate": 0.01}),
    (["--optimizer", "sgd"], {"optimizer": "sgd"}),
    (["--schedule", "one-cycle"], {"schedule": "one-cycle"}),
    (["--label-smoothing", "0.1"], {"label_smoothing": 0.1}),
    (["--label-smoothing", "0"], {"label_smoothing": 0.0}),
    (["--shift-pixels", "2"], {"shift_pixels": 2}),
    (["--validation-fraction", "0.1"], {"validation_fraction": 0.1}),
    (["--patience", "3"], {"patience": 3}),
    (["--seed", "7"], {"seed": 7}),
    (["--threads", "4"], {"threads": 4}),
    (["--severity", "drift=off"], {"severity": {"drift": "off"}}),
    (
        ["--severity", "duplicates=error", "--severity", "drift=off,leakage=warning"],
        {"severity": {"duplicates": "error", "drift": "off", "leakage": "warning"}},
    ),
    (["--severity", '{"duplicates": "error"}'], {"severity": {"duplicates": "error"}}),
    (["--max-psi", "0.1"], {"max_psi": 0.1}),
    (["--max-effect", "0.8"], {"max_effect": 0.8}),
    (["--profile", "letters.json"], {"profile": "letters.json"}),
    (["--min-accuracy", "0.97"], {"min_accuracy": 0.97}),
    (["--label-suspects"], {"label_suspects": True}),
    (["--refresh"], {"refresh": True}),
    (["--no-refresh"], {"refresh": False}),
    (["--cache-dir", "cache"], {"cache_dir": Path("cache")}),
    (["--model-dir", "models"], {"model_dir": Path("models")}),
]


def test_defaults_are_those_of_the_settings() -> None:
    assert parse([]) == CommandLine(
        LocalRunSettings(), log_level="WARNING", json=False, server_wait_seconds=20.0
    )


@pytest.mark.parametrize(("arguments", "expected"), OPTIONS, ids=[" ".join(o) for o, _ in OPTIONS])
def test_option_sets_its_field(arguments: list[str], expected: dict[str, Any]) -> None:
    assert LocalRunSettings(**expected) == parse(arguments).settings


def test_every_field_has_an_option_in_the_table_above() -> None:
    assert set(LocalRunSettings.model_fields) == {name for _, fields in OPTIONS for name in fields}


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_log_level_can_be_chosen(level: str) -> None:
    assert level == parse(["--log-level", level]).log_level


def test_json_output_can_be_chosen() -> None:
    assert parse(["--json"]).json


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MNIST_DATASET", "fashion_mnist", {"dataset": "fashion_mnist"}),
        ("MNIST_MODEL", "cnn", {"model": "cnn"}),
        ("MNIST_EPOCHS", "6", {"epochs": 6}),
        ("MNIST_BATCH_SIZE", "32", {"batch_size": 32}),
        ("MNIST_LEARNING_RATE", "0.5", {"learning_rate": 0.5}),
        ("MNIST_REFRESH", "1", {"refresh": True}),
        ("MNIST_REFRESH", "false", {"refresh": False}),
        ("MNIST_CACHE_DIR", "/cache", {"cache_dir": Path("/cache")}),
        ("MNIST_EPOCHS", "", {}),
    ],
)
def test_variable_sets_its_field_and_an_empty_one_does_not(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv(variable, value)

    assert LocalRunSettings(**expected) == parse([]).settings


def test_log_level_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_LOG_LEVEL", "DEBUG")

    assert parse([]).log_level == "DEBUG"


@pytest.mark.parametrize(
    ("variable", "value", "option", "expected"),
    [
        ("MNIST_EPOCHS", "6", ["--epochs", "3"], {"epochs": 3}),
        ("MNIST_EPOCHS", "0", ["--epochs", "3"], {"epochs": 3}),
        ("MNIST_REFRESH", "1", ["--no-refresh"], {"refresh": False}),
        ("MNIST_MODEL", "cnn", ["--model", "mlp"], {"model": "mlp"}),
    ],
)
def test_command_line_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    option: list[str],
    expected: dict[str, Any],
) -> None:
    monkeypatch.setenv(variable, value)

    assert LocalRunSettings(**expected) == parse(option).settings


def test_log_level_of_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_LOG_LEVEL", "DEBUG")

    assert parse(["--log-level", "ERROR"]).log_level == "ERROR"


@pytest.mark.parametrize(
    ("argument", "suggestion"),
    [
        ("--epocs", "--epochs"),
        ("--epoch", "--epochs"),
        ("--batch_size", "--batch-size"),
        ("--jsno", "--json"),
    ],
)
def test_misspelt_option_is_refused_with_a_suggestion(
    capsys: pytest.CaptureFixture[str], argument: str, suggestion: str
) -> None:
    message = refused([argument, "3"], capsys)

    assert f"unrecognized arguments: {argument} 3 (did you mean {suggestion}?)" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "0"], "--epochs: Input should be greater than or equal to 1. Received: '0'"),
        (
            ["--epochs", "10001"],
            "--epochs: Input should be less than or equal to 10000. Received: '10001'",
        ),
        (["--epochs", "six"], "--epochs: Input should be a valid integer"),
        (
            ["--learning-rate", "0"],
            "--learning-rate: Input should be greater than 0. Received: '0'",
        ),
        (
            ["--learning-rate", "nan"],
            "--learning-rate: Input should be less than or equal to 100. Received: 'nan'",
        ),
        (
            ["--seed", "4294967296"],
            "--seed: Input should be less than or equal to 4294967295. Received: '4294967296'",
        ),
        (
            ["--min-accuracy", "97"],
            "--min-accuracy: Input should be less than or equal to 1. Received: '97'",
        ),
        (
            ["--model", "svm"],
            "--model: A model is mlp, cnn or FILE.py:FUNCTION. Received: svm",
        ),
        (["--model", "no.py:f"], "The model's file must be readable. Received: No such file"),
        (
            ["--recipe", "quick"],
            "--recipe: Input should be 'reference', 'fast' or 'long'. Received: 'quick'",
        ),
        (
            ["--model", "cnn", "--recipe", "reference"],
            "--recipe: cnn has the recipes fast, long, not reference",
        ),
        (
            ["--schedule", "cosine"],
            "--schedule: Input should be 'constant' or 'one-cycle'. Received: 'cosine'",
        ),
        (
            ["--label-smoothing", "1"],
            "--label-smoothing: Input should be less than 1. Received: '1'",
        ),
        (
            ["--label-smoothing", "-0.1"],
            "--label-smoothing: Input should be greater than or equal to 0. Received: '-0.1'",
        ),
        (
            ["--shift-pixels", "65"],
            "--shift-pixels: Input should be less than or equal to 64. Received: '65'",
        ),
        (
            ["--shift-pixels", "-1"],
            "--shift-pixels: Input should be greater than or equal to 0. Received: '-1'",
        ),
        (
            ["--log-level", "LOUD"],
            "--log-level: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'. Received: 'LOUD'",
        ),
        (["--epochs"], "--epochs: expected one argument"),
        (["mnist"], "unrecognized arguments: mnist"),
    ],
    ids=" ".join,
)
def test_value_out_of_bounds_is_refused_with_the_bounds(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in refused(arguments, capsys)


def test_every_wrong_value_is_reported_not_only_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refused(["--epochs", "0", "--seed", "-1"], capsys)

    assert "--epochs: Input should be greater than or equal to 1. Received: '0'; " in message
    assert "--seed: Input should be greater than or equal to 0. Received: '-1'" in message


def test_refusal_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["--epochs", "0"], capsys).endswith("\nSee mnist_flow.py --help.\n")


def test_wrong_variable_is_named_with_its_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_EPOCHS", "0")

    message = refused([], capsys)

    assert (
        "--epochs (from MNIST_EPOCHS): Input should be greater than or equal to 1. Received: '0'"
        in message
    )


@pytest.mark.parametrize("ending", ["SERVICE_HOST", "PORT", "PORT_4200_TCP_PROTO", "SERVICE_PORT"])
def test_variables_that_kubernetes_sets_for_a_service_called_mnist_are_ignored(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    without = parse([])
    monkeypatch.setenv(f"MNIST_{ending}", "tcp://10.0.0.1:4200")
    assert parse([]) == without


def test_mistyped_variable_is_refused_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_EPOCH", "3")

    message = refused([], capsys)

    assert "MNIST_EPOCH in the environment is not a setting (did you mean MNIST_EPOCHS?)" in message


def test_wrong_log_level_of_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_LOG_LEVEL", "LOUD")

    message = refused([], capsys)

    assert "--log-level (from MNIST_LOG_LEVEL): Input should be 'DEBUG', 'INFO', " in message


@pytest.fixture
def help_text(capsys: pytest.CaptureFixture[str]) -> str:
    """What --help prints, on one line."""
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("field", LocalRunSettings.model_fields)
def test_help_describes_every_field(help_text: str, field: str) -> None:
    description = LocalRunSettings.model_fields[field].description

    assert f"--{field.replace('_', '-')}" in help_text
    assert str(description) in help_text


def test_help_names_the_exit_statuses(help_text: str) -> None:
    assert (
        "Exit status: 0 the run completed, 1 it failed, 2 the command line was wrong, 130 Ctrl-C, "
        "143 SIGTERM, 129 SIGHUP." in help_text
    )


# --- the severity of validation checks ------------------------------------------------------


@pytest.mark.parametrize("value", ["drift=off", '{"drift": "off"}'])
def test_severity_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MNIST_SEVERITY", value)

    assert {"drift": "off"} == parse([]).settings.severity


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (
            "drifts=off",
            "'cut-off', 'transposed' or 'drift'. Received: 'drifts'",
        ),
        ("drift=loud", "'error', 'warning' or 'off'. Received: 'loud'"),
        ("drift", "'error', 'warning' or 'off'. Received: ''"),
        ("", "--severity: a value must not be empty"),
        ("{", "--severity"),
    ],
)
def test_severity_that_is_none_is_answered_with_what_is_allowed(
    capsys: pytest.CaptureFixture[str], value: str, allowed: str
) -> None:
    assert allowed in refused([f"--severity={value}"], capsys)


# --- the settings themselves ---------------------------------------------------------------


def test_settings_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployer's environment must not become the defaults of the form in the UI."""
    monkeypatch.setenv("MNIST_EPOCHS", "6")

    assert RunSettings().epochs is None


def test_settings_cannot_be_changed() -> None:
    settings = RunSettings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.epochs = 6  # type: ignore[misc]


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RunSettings.model_validate({"epoch": 6})


def test_deployment_refuses_a_model_in_a_file() -> None:
    with pytest.raises(ValidationError, match="Input should be 'mlp' or 'cnn'"):
        RunSettings.model_validate({"model": "nets.py:tiny"})


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        (
            RunSettings(),
            TrainingPlan(
                model="mlp",
                hidden_units=64,
                epochs=12,
                batch_size=100,
                optimizer="rmsprop",
                learning_rate=0.001,
                schedule="constant",
                label_smoothing=0.0,
                shift_pixels=0,
                seed=0,
            ),
        ),
        (
            RunSettings(model="cnn", seed=3),
            TrainingPlan(
                model="cnn",
                hidden_units=256,
                epochs=6,
                batch_size=250,
                optimizer="adam",
                learning_rate=0.005,
                schedule="one-cycle",
                label_smoothing=0.1,
                shift_pixels=2,
                seed=3,
            ),
        ),
        (
            RunSettings(recipe="fast"),
            TrainingPlan(
                model="mlp",
                hidden_units=64,
                epochs=24,
                batch_size=250,
                optimizer="adam",
                learning_rate=0.005,
                schedule="one-cycle",
                label_smoothing=0.05,
                shift_pixels=1,
                seed=0,
            ),
        ),
        (
            RunSettings(epochs=1, batch_size=2, hidden_units=3, learning_rate=4, optimizer="sgd"),
            TrainingPlan(
                model="mlp",
                hidden_units=3,
                epochs=1,
                batch_size=2,
                optimizer="sgd",
                learning_rate=4,
                schedule="constant",
                label_smoothing=0.0,
                shift_pixels=0,
                seed=0,
            ),
        ),
    ],
    ids=["the mlp's recipe", "the cnn's recipe", "the fast recipe", "what was set"],
)
def test_plan_is_the_recipe_overruled_by_what_was_set(
    settings: RunSettings, plan: TrainingPlan
) -> None:
    assert plan == settings.plan


@pytest.mark.parametrize(("model", "epochs"), [("mlp", 60), ("cnn", 20)])
def test_long_recipe_is_the_fast_one_with_more_epochs(model: str, epochs: int) -> None:
    fast, long = (
        RunSettings.model_validate({"model": model, "recipe": recipe}).plan
        for recipe in ("fast", "long")
    )

    assert fast.model_copy(update={"epochs": epochs}) == long


def test_zero_overrules_the_recipe() -> None:
    plan = RunSettings(model="cnn", label_smoothing=0, shift_pixels=0).plan

    assert (plan.label_smoothing, plan.shift_pixels) == (0, 0)


def test_folders_are_those_of_the_user_unless_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / "share" / name)

    assert RunSettings().cache_root == tmp_path / "cache" / "mnist-pipeline"
    assert RunSettings().model_root == tmp_path / "share" / "mnist-pipeline" / "models"


def test_folders_are_absolute_and_know_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    settings = RunSettings(cache_dir=Path("cache"), model_dir=Path("~/models"))

    assert settings.cache_root == tmp_path / "cache"
    assert settings.model_root == Path("/home/ada/models")


def test_empty_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """--dataset "$UNSET" must not train on another dataset."""
    with pytest.raises(SystemExit) as caught:
        parse(["--dataset", ""])
    assert caught.value.code == 2
    assert "--dataset: a value must not be empty" in capsys.readouterr().err


NO_UTF_8 = os.fsdecode(b"/there/m\xff")


@pytest.mark.parametrize("option", ["--model-dir", "--cache-dir", "--model"])
@pytest.mark.parametrize("name", [NO_UTF_8, "/there/m\0"])
def test_name_that_no_file_can_have_is_refused(
    option: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prefect keeps parameters as JSON; without this, its client raises UnicodeEncodeError."""
    value = f"{name}/nets.py:tiny" if option == "--model" else name
    text = refused([option, value], capsys)
    assert f"{option}: Names of files and folders must be text in UTF-8, without NUL." in text
    assert f"Received: {ascii(name)[:-1]}" in text


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "XDG_DATA_HOME"])
def test_name_of_the_users_own_folder_that_is_no_utf_8_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, NO_UTF_8)
    with pytest.raises(StoreError, match="must be text in UTF-8"):
        _ = RunSettings().cache_root, RunSettings().model_root
