"""Validation in tiers: what each check finds, in which rows, and what follows from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import Arrays, place_idx, plant_defects, store_dataset, tiny_arrays
from pandera.config import ValidationDepth, config_context
from prefect.exceptions import ParameterTypeError

from flows.mnist_flow import mnist_flow
from tasks.cache.blobs import Store
from tasks.cache.keys import Ingredients, content_of, what_changed
from tasks.errors import ProfileError, ValidationFailedError
from tasks.records import CheckResult, Moments, Profile, ValidationRules
from tasks.settings import RunSettings
from tasks.sources.catalogue import EMBEDDED_MNIST
from tasks.terminal import profile_command
from tasks.validate import validate
from tasks.validation.checks import EARLIER_FAILED, NO_PROFILE, examine
from tasks.validation.measure import effect_size, measure, profile_of, stability_index
from tasks.validation.plausibility import PROFILE_SAYS_MORE, TINY
from tasks.validation.profiles import OURS
from tasks.validation.rules import SHOWN_ROWS, SWITCHED_OFF

Results = dict[tuple[str, str], CheckResult]
Examine = Callable[..., Results]

NO_RULES = RunSettings().rules("tiny")


@pytest.fixture
def examined(store: Store) -> Examine:
    """Examines four arrays; keywords are settings. Results by check and array."""

    def run(arrays: Mapping[str, np.ndarray], **settings: Any) -> Results:
        raw = store_dataset(arrays, store)
        rules = RunSettings.model_validate(settings).rules(raw.name)
        mapped = {name: store.open_array(getattr(raw, name)) for name in arrays}
        return {(check.name, check.subject): check for check in examine(raw, mapped, rules).checks}

    return run


def failed(results: Results) -> dict[tuple[str, str], tuple[int, ...]]:
    """The rows of each check that failed."""
    return {key: check.rows for key, check in results.items() if check.outcome == "failed"}


def outcomes(results: Results) -> dict[str, set[tuple[str, str]]]:
    """The outcomes of each tier, with the reason of what was skipped."""
    tiers: dict[str, set[tuple[str, str]]] = {}
    for check in results.values():
        reason = check.received if check.outcome == "skipped" else ""
        tiers.setdefault(check.tier, set()).add((check.outcome, reason))
    return tiers


# --- tiers -----------------------------------------------------------------------------------


def test_sound_dataset_passes_every_tier_that_can_be_run(examined: Examine) -> None:
    assert {
        "files": {("passed", "")},
        "structure": {("passed", "")},
        "rows": {("passed", "")},
        "splits": {("passed", "")},
        "plausibility": {("skipped", TINY)},
        "drift": {("skipped", NO_PROFILE)},
    } == outcomes(examined(tiny_arrays()))


def test_skipped_checks_are_those_that_would_have_been_made(examined: Examine) -> None:
    broken = tiny_arrays()
    broken["y_test"] = broken["y_test"].astype(np.int64)

    def said(results: Results) -> list[tuple[str, str, str]]:
        return [(check.name, check.subject, check.rule) for check in results.values()]

    assert said(examined(tiny_arrays())) == said(examined(broken))


def test_checks_are_made_although_pandera_is_switched_off(examined: Examine) -> None:
    """As PANDERA_VALIDATION_ENABLED=false does."""
    arrays = tiny_arrays()
    arrays["y_test"][5] = 7

    with config_context(validation_enabled=False):
        results = examined(arrays)

    assert (5,) == failed(results)["classes", "y_test"]


@pytest.mark.parametrize("depth", ValidationDepth)
def test_whole_checks_are_made_whatever_pandera_is_told(
    examined: Examine, depth: ValidationDepth
) -> None:
    """As PANDERA_VALIDATION_DEPTH does."""
    arrays = tiny_arrays()
    arrays["x_test"] = np.zeros((12, 4, 5), np.float32)

    with config_context(validation_depth=depth):
        results = examined(arrays)

    assert {("dtype", "x_test"), ("span", "x_test")} == failed(results).keys()


def test_broken_structure_keeps_the_later_tiers_from_running(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["x_test"] = arrays["x_test"].astype(np.float32)

    results = examined(arrays)

    assert {("dtype", "x_test"): ()} == failed(results)
    assert [{("skipped", EARLIER_FAILED)}] * 4 == list(outcomes(results).values())[2:]


def test_error_in_the_rows_keeps_the_later_tiers_from_running(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["y_test"][5] = 7

    found = outcomes(examined(arrays, severity={"classes": "error"}))

    assert [{("skipped", EARLIER_FAILED)}] * 2 == [found["splits"], found["drift"]]


def test_warning_does_not_keep_the_later_tiers_from_running(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["x_train"][21] = arrays["x_train"][18]

    assert {("passed", "")} == outcomes(examined(arrays))["splits"]


# --- rows ------------------------------------------------------------------------------------


def test_constant_images_are_found(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["x_train"][4] = 0
    arrays["x_train"][7] = 200

    results = examined(arrays)

    assert {("constant-images", "x_train"): (4, 7)} == failed(results)
    assert "2 of 30 images" == results["constant-images", "x_train"].received


def test_duplicates_are_all_but_the_first_of_equal_images(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["x_test"][[6, 9]] = arrays["x_test"][3]  # all of class 0

    assert {("duplicates", "x_test"): (6, 9)} == failed(examined(arrays))


def test_contradictions_are_all_of_equal_images_whose_labels_differ(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["x_train"][22] = arrays["x_train"][18]  # classes 1 and 0

    assert {
        ("duplicates", "x_train"): (22,),
        ("contradictions", "y_train"): (18, 22),
    } == failed(examined(arrays))


def test_class_that_one_split_lacks_is_named_with_its_rows(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["y_test"][5] = 7

    results = examined(arrays)

    assert (5,) == failed(results)["classes", "y_test"]
    assert "class 7 only here: 1 of 12 images" == results["classes", "y_test"].received
    assert "warning" == results["classes", "y_test"].severity


def test_only_the_first_rows_are_named_but_all_are_counted(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["x_train"][3:28] = np.arange(3, 28, dtype=np.uint8)[:, None, None]

    check = examined(arrays)["constant-images", "x_train"]

    assert (tuple(range(3, 3 + SHOWN_ROWS)), 25) == (check.rows, check.failing)


# --- splits ----------------------------------------------------------------------------------


def test_training_images_in_the_test_split_are_found(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["x_test"][[3, 10]] = arrays["x_train"][[9, 4]]

    assert {("leakage", "x_test"): (3, 10)} == failed(examined(arrays))


def test_classes_that_are_unlike_frequent_fail_by_their_stability_index(examined: Examine) -> None:
    arrays = tiny_arrays()
    arrays["y_test"][:] = [0] * 10 + [1, 2]

    results = examined(arrays)

    # 1/2 ln(5/2) + 2 (-1/4) ln(1/4), a third of the training images being of each class
    assert {("class-balance", "y_test"): ()} == failed(results)
    assert "1.15" == results["class-balance", "y_test"].received


def test_stability_index_is_worked_out_by_hand() -> None:
    expected = 1 / 4 * math.log(3 / 2) - 1 / 4 * math.log(1 / 2)

    assert expected == pytest.approx(stability_index((3 / 4, 1 / 4), (1 / 2, 1 / 2)))


def test_stability_index_of_equal_distributions_is_zero() -> None:
    assert 0 == stability_index((0.5, 0.5, 0.0), (0.5, 0.5, 0.0))


def test_missing_class_counts_as_all_but_none() -> None:
    expected = (0.5 - 1e-4) * math.log(0.5 / 1e-4) + 0.5 * math.log(1 / 0.5)

    assert expected == pytest.approx(stability_index((1.0,), (0.5, 0.5)))


@pytest.mark.parametrize(
    ("found", "usual", "expected"),
    [
        ((3, 2), (1, 2), 1.0),
        ((1, 1), (2, 7), -0.2),
        ((1, 0), (1, 0), 0.0),
        ((1, 0), (2, 0), -math.inf),
    ],
)
def test_effect_size_is_in_standard_deviations(
    found: tuple[float, float], usual: tuple[float, float], expected: float
) -> None:
    pair = (Moments(mean=mean, spread=spread) for mean, spread in (found, usual))

    assert expected == pytest.approx(effect_size(*pair))


# --- measuring -------------------------------------------------------------------------------


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Seven images of 4 x 5 random pixels, measured two at a time."""
    monkeypatch.setattr("tasks.validation.measure.CHUNK_BYTES", 50)
    return np.random.default_rng(0).integers(0, 256, (7, 4, 5), np.uint8)


def test_statistics_are_those_of_each_image(noise: np.ndarray) -> None:
    table = measure(noise, np.arange(7, dtype=np.uint8))

    for row, image in zip(table.itertuples(), noise, strict=True):
        assert (image.min(), image.max()) == (row.darkest, row.brightest)
        assert (image.mean(), image.std()) == pytest.approx((row.mean, row.spread))
        assert hashlib.sha256(image.tobytes()).digest()[:16] == row.content


def test_pixels_are_counted_in_ten_equal_bins(noise: np.ndarray) -> None:
    expected, _ = np.histogram(noise, bins=10, range=(0, 256))

    assert expected.tolist() == measure(noise, np.zeros(7, np.uint8)).attrs["pixels"]


# --- drift -----------------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path: Path) -> str:
    """A file with the profile of the tiny dataset."""
    arrays = tiny_arrays()
    path = tmp_path / "tiny.json"
    usual = profile_of("tiny", measure(arrays["x_train"], arrays["y_train"]))
    path.write_text(usual.model_dump_json())
    return str(path)


def test_profile_is_worked_out_by_hand() -> None:
    images = np.array([[[0, 100]], [[0, 200]], [[100, 100]]], np.uint8)

    profile = profile_of("three", measure(images, np.array([0, 0, 1], np.uint8)))

    third = math.sqrt(2 / 9)  # the spread of 0, 1, 1
    assert (250 / 3, 50 * third) == pytest.approx(
        (profile.brightness.mean, profile.brightness.spread)
    )
    assert (50.0, 50 * math.sqrt(2 / 3)) == pytest.approx(
        (profile.contrast.mean, profile.contrast.spread)
    )
    assert (2 / 6, 0, 0, 3 / 6, 0, 0, 0, 1 / 6, 0, 0) == pytest.approx(profile.pixels)
    assert (2 / 3, 1 / 3) == profile.classes
    assert (Moments(mean=75, spread=25), Moments(mean=100, spread=0)) == profile.ink


def drifted(results: Results) -> set[tuple[str, str]]:
    return {key for key in failed(results) if results[key].tier == "drift"}


def alike() -> Arrays:
    """The same images in both splits."""
    arrays = tiny_arrays()
    return {name: arrays[name.replace("test", "train")] for name in arrays}


def test_images_like_the_profile_pass(examined: Examine, profile: str) -> None:
    assert {("passed", "")} == outcomes(examined(alike(), profile=profile))["drift"]


def test_inverted_images_drift(examined: Examine, profile: str) -> None:
    arrays = alike()
    arrays["x_test"] = 255 - arrays["x_test"]

    assert {
        ("drift-brightness", "x_test"),
        ("drift-pixels", "x_test"),
        ("drift-ink", "y_test"),
    } == drifted(examined(arrays, profile=profile))


def test_class_with_more_ink_drifts(examined: Examine, profile: str) -> None:
    arrays = alike()
    arrays["x_train"] = arrays["x_train"].copy()
    arrays["x_train"][arrays["y_train"] == 1, 3, 0] = 255

    check = examined(arrays, profile=profile)["drift-ink", "y_train"]

    assert "failed" == check.outcome
    assert check.received.endswith(" for class 1")


def test_classes_that_the_profile_has_not_drift(examined: Examine, profile: str) -> None:
    arrays = alike()
    arrays["y_train"] = arrays["y_test"] = np.arange(30, dtype=np.uint8) % 4

    assert ("drift-classes", "y_test") in drifted(examined(arrays, profile=profile))


def test_drift_is_skipped_when_it_is_off(examined: Examine) -> None:
    found = outcomes(examined(tiny_arrays(), severity={"drift": "off"}))["drift"]

    assert {("skipped", SWITCHED_OFF)} == found


# --- severities ------------------------------------------------------------------------------


def with_duplicate() -> Arrays:
    arrays = tiny_arrays()
    arrays["x_train"][21] = arrays["x_train"][18]
    return arrays


def test_images_are_warned_of_unless_told_otherwise(examined: Examine) -> None:
    results = examined(with_duplicate())

    assert {"warning"} == {
        check.severity
        for check in results.values()
        if check.tier in ("rows", "splits", "plausibility", "drift")
    }


def test_files_and_structure_are_errors(examined: Examine) -> None:
    assert {"error"} == {
        check.severity
        for check in examined(tiny_arrays()).values()
        if check.tier in ("files", "structure")
    }


def test_dataset_of_one_class_is_refused(examined: Examine) -> None:
    arrays = tiny_arrays()
    for name in ("y_train", "y_test"):
        arrays[name][:] = 0

    results = examined(arrays)

    assert {("two-classes", "y_train"): ()} == failed(results)
    assert ("error", "only class 0") == (
        results["two-classes", "y_train"].severity,
        results["two-classes", "y_train"].received,
    )


def test_missing_class_leaves_the_drift_of_the_others_as_it_is(
    examined: Examine, profile: str
) -> None:
    """The ink of each class is compared with that of the same class."""
    arrays = alike()
    kept = arrays["y_test"] != 1
    arrays["x_test"], arrays["y_test"] = arrays["x_test"][kept], arrays["y_test"][kept]

    assert ("drift-ink", "y_test") not in drifted(examined(arrays, profile=profile))


def test_check_becomes_an_error_when_told(examined: Examine) -> None:
    results = examined(with_duplicate(), severity={"duplicates": "error"})

    assert ("error", "failed") == (
        results["duplicates", "x_train"].severity,
        results["duplicates", "x_train"].outcome,
    )
    assert {("skipped", EARLIER_FAILED)} == outcomes(results)["splits"]


def test_check_that_is_off_does_not_read_as_passed(examined: Examine) -> None:
    check = examined(with_duplicate(), severity={"duplicates": "off"})["duplicates", "x_train"]

    assert ("skipped", SWITCHED_OFF, ()) == (check.outcome, check.received, check.rows)


def test_deployment_takes_severities() -> None:
    parameters = mnist_flow.validate_parameters({"settings": {"severity": {"drift": "off"}}})

    assert {"drift": "off"} == parameters["settings"].severity


def test_deployment_refuses_severities_of_unknown_checks() -> None:
    with pytest.raises(ParameterTypeError, match="'cut-off', 'transposed' or 'drift'"):
        mnist_flow.validate_parameters({"settings": {"severity": {"drifts": "off"}}})


def ingredients(rules: ValidationRules) -> Ingredients:
    inputs = {"rules": content_of(rules)}
    return Ingredients(stage="validate", code={}, libraries={}, inputs=inputs)


def test_changed_rules_are_told_in_a_few_words(profile: str) -> None:
    settings = RunSettings(severity={"duplicates": "error"}, profile=profile)
    before, after = ingredients(NO_RULES), ingredients(settings.rules("tiny"))

    assert "duplicates warning → error; input: profile changed" == what_changed(before, after)


# --- profiles --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "dataset", "name"),
    [
        (None, "mnist", "mnist"),
        (None, "letters", None),
        (None, "mnist-local", None),
        ("mnist", "letters", "mnist"),
    ],
)
def test_profile_is_the_chosen_one_or_the_datasets_own(
    chosen: str | None, dataset: str, name: str | None
) -> None:
    profile = RunSettings(profile=chosen).rules(dataset).profile

    assert name == (profile and profile.name)


@pytest.mark.parametrize("content", [None, "", "{}", "\xff"])
def test_file_that_is_no_profile_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "letters.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ProfileError, match=r"letters\.json.*Write it with mnist-profile"):
        RunSettings(profile=str(path)).rules("letters")


@pytest.mark.parametrize(
    "figures",
    [
        {"pixels": []},
        {"pixels": [0.2] * 5},
        {"pixels": [0.0] * 10},
        {"pixels": [-1.0, 2.0, *[0.0] * 8]},
        {"pixels": ["NaN"] * 10},
        {"classes": []},
        {"classes": [], "ink": []},
        {"classes": [0.5, 0.2, 0.2]},
        {"ink": []},
        {"images": 0},
    ],
    ids=json.dumps,
)
def test_profile_with_empty_or_other_bins_is_refused(figures: dict[str, Any], profile: str) -> None:
    content = json.loads(Path(profile).read_text()) | figures
    Path(profile).write_text(json.dumps(content))
    with pytest.raises(ProfileError, match="Write it with mnist-profile"):
        RunSettings(profile=profile).rules("tiny")


def test_command_writes_a_profile_that_a_run_can_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place_idx(tmp_path / "Letters", tiny_arrays(), zipped=True)
    output = str(tmp_path / "letters.json")

    assert 0 == profile_command.main([str(tmp_path / "Letters"), output])

    profile = RunSettings(profile=output).rules("tiny").profile
    assert profile is not None
    assert ("letters", 30) == (profile.name, profile.images)
    assert f"{output}: 30 images, 3 classes\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x_train", lambda x: x[1:], "A profile is made of images with a label each."),
        ("x_train", lambda x: x[0], "x_train must have the axes (image, row, column), and"),
        ("y_train", lambda y: y + 0.5, "Labels must be whole numbers, truth values or text."),
    ],
    ids=["an image less", "one image", "halves"],
)
def test_command_refuses_what_gives_no_profile(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
) -> None:
    arrays = tiny_arrays()
    np.savez(tmp_path / "odd.npz", **{**arrays, name: change(arrays[name])})

    assert 1 == profile_command.main([str(tmp_path / "odd.npz"), str(tmp_path / "odd.json")])
    assert f"failed {message}" in capsys.readouterr().err


def test_command_says_when_there_is_no_such_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == profile_command.main([str(tmp_path / "nowhere"), str(tmp_path / "odd.json")])
    assert "failed A dataset is mnist" in capsys.readouterr().err


@pytest.mark.process
def test_our_profile_is_what_the_command_writes(tmp_path: Path) -> None:
    profile_command.main(["mnist", str(tmp_path / "mnist.json")])

    written, ours = (
        Profile.model_validate_json(path.read_text())
        for path in (tmp_path / "mnist.json", OURS["mnist"])
    )
    assert written.brightness.mean == pytest.approx(ours.brightness.mean)
    assert written.pixels == pytest.approx(ours.pixels)
    assert written.classes == pytest.approx(ours.classes)
    assert [one.mean for one in written.upright] == pytest.approx([o.mean for o in ours.upright])


# --- the stage --------------------------------------------------------------------------------


@pytest.mark.usefixtures("outside_a_run")
def test_stage_fails_with_the_rows_of_its_errors(store: Store) -> None:
    rules = RunSettings(severity={"duplicates": "error"}).rules("tiny")

    with pytest.raises(ValidationFailedError, match="1 of 27 checks failed for tiny") as caught:
        validate.fn(store_dataset(with_duplicate(), store), rules, store)

    line = "x_train: no image occurs again in its split. Received: 1 of 30 images in rows 21.\n"
    assert line in str(caught.value)


# --- MNIST -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Arrays:
    with np.load(EMBEDDED_MNIST) as archive:
        return dict(archive)


@pytest.fixture
def mnist(embedded: Arrays) -> Arrays:
    """MNIST, to be changed at will."""
    return {name: array.copy() for name, array in embedded.items()}


@pytest.mark.process
class TestMnist:
    def test_it_passes_without_a_warning(self, examined: Examine, mnist: Arrays) -> None:
        found = outcomes(examined(mnist, profile="mnist"))

        assert {("skipped", PROFILE_SAYS_MORE)} == found.pop("plausibility")
        assert [{("passed", "")}] * 5 == list(found.values())

    def test_it_is_as_plausible_without_its_profile(self, examined: Examine, mnist: Arrays) -> None:
        assert {"passed"} == {
            check.outcome for check in examined(mnist).values() if check.tier == "plausibility"
        }

    def test_swapped_rows_and_columns_are_told(self, examined: Examine, mnist: Arrays) -> None:
        for name in ("x_train", "x_test"):
            mnist[name] = mnist[name].swapaxes(1, 2)

        assert {("transposed", "y_train"), ("transposed", "y_test")} == failed(
            examined(mnist)
        ).keys()

    def test_planted_images_are_named_with_their_rows(
        self, examined: Examine, mnist: Arrays
    ) -> None:
        planted = plant_defects(mnist)

        assert planted == failed(examined(mnist, profile="mnist"))

    def test_label_of_ten_is_named_with_its_row(self, examined: Examine, mnist: Arrays) -> None:
        mnist["y_train"][4_711] = 10

        assert (4_711,) == failed(examined(mnist))["classes", "y_train"]

    def test_inverted_pixels_drift(self, examined: Examine, mnist: Arrays) -> None:
        for name in ("x_train", "x_test"):
            mnist[name] = 255 - mnist[name]

        found = {name for name, _ in failed(examined(mnist, profile="mnist"))}

        assert {"drift-brightness", "drift-pixels", "drift-ink"} == found

    def test_halved_contrast_drifts(self, examined: Examine, mnist: Arrays) -> None:
        for name in ("x_train", "x_test"):
            mnist[name] //= 2

        found = {name for name, _ in failed(examined(mnist, profile="mnist"))}

        assert {"drift-brightness", "drift-contrast", "drift-pixels", "drift-ink"} == found

    def test_missing_class_is_named(self, examined: Examine, mnist: Arrays) -> None:
        kept = mnist["y_train"] != 3
        mnist["x_train"], mnist["y_train"] = mnist["x_train"][kept], mnist["y_train"][kept]

        results = examined(mnist)

        assert {("classes", "y_test")} == failed(results).keys() - {("class-balance", "y_test")}
        received = results["classes", "y_test"].received
        assert "class 3 only here: 1010 of 10000 images" == received

    def test_float_pixels_are_named_by_their_check(self, examined: Examine, mnist: Arrays) -> None:
        mnist["x_test"] = mnist["x_test"].astype(np.float32)

        results = examined(mnist)

        assert {("dtype", "x_test"): ()} == failed(results)
        assert "float32" == results["dtype", "x_test"].received
