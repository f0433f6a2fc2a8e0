"""Suspect: training images whose label is doubtful."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float32, Int
from prefect import get_run_logger

from tasks import IMPORTS
from tasks.cache.blobs import Store
from tasks.errors import ModelError
from tasks.orchestration.account import listener
from tasks.orchestration.stage import stage
from tasks.records import DatasetRef, Suspect, Suspects, TrainingPlan

FOLDS = 3
MOST_SUSPECTS = 100


@stage()
def suspect(ready: DatasetRef, plan: TrainingPlan, store: Store) -> Suspects:
    """Find training images that networks which have not seen them take for another class.

    Confident learning over out-of-fold predictions: C. G. Northcutt, L. Jiang, I. L. Chuang,
    Confident Learning: Estimating Uncertainty in Dataset Labels, J. Artif. Intell. Res. 70
    (2021). The image whose label got the lowest probability comes first.

    Reads x_train (image, pixel) float32 in [0, 1] and y_train (image, class) float32. Raises
    ModelError if no class has an image for each fold.
    """
    with IMPORTS:
        from cleanlab.filter import find_label_issues

    labels = store.open_array(ready.y_train).argmax(axis=1)
    probabilities = out_of_fold_probabilities(ready, labels, plan, store)
    with rare_classes_tolerated():
        issues = find_label_issues(
            labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    get_run_logger().info("%d of %d labels are doubtful", len(issues), len(labels))
    found = tuple(
        Suspect(
            row=row,
            label=int(labels[row]),
            suggested=int(probabilities[row].argmax()),
            quality=float(probabilities[row, labels[row]]),
        )
        for row in issues[:MOST_SUSPECTS].tolist()
    )
    return Suspects(found=found, images=len(labels))


def out_of_fold_probabilities(
    ready: DatasetRef, labels: Int[np.ndarray, " image"], plan: TrainingPlan, store: Store
) -> Float32[np.ndarray, "image class"]:
    """What a network says of each training image that was trained on the two other thirds."""
    with IMPORTS:
        from sklearn.model_selection import StratifiedKFold

        from tasks.learning.network import build_model
        from tasks.learning.training import fit, predict

    if np.bincount(labels).max() < FOLDS:
        raise ModelError(
            f"--label-suspects needs a class with at least {FOLDS} training images.",
            received=int(np.bincount(labels).max()),
            where=ready.name,
            advice="Leave it out.",
        )
    images, one_hot = store.open_array(ready.x_train), store.open_array(ready.y_train)
    probabilities = np.empty((len(labels), ready.classes), np.float32)
    with rare_classes_tolerated():
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=plan.seed)
        splits = list(folds.split(labels, labels))
    for number, (others, fold) in enumerate(splits):

        def show(epochs_done: float, done: int = number * plan.epochs) -> None:
            listener().trained(done + epochs_done, FOLDS * plan.epochs)

        model = build_model(plan, ready.of_training_images(len(others)))
        shape = ready.image_shape
        fit(model, images, one_hot, plan, rows=others, image_shape=shape, on_part=show)
        probabilities[fold] = predict(model, images, rows=fold)
    return probabilities


def rare_classes_tolerated() -> warnings.catch_warnings[None]:
    """No warning of classes with fewer images than folds: they are judged as well as can be."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
