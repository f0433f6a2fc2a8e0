"""Training a Keras model in compiled runs of many batches.

Keras's own loop leaves most of the time to overhead for a network of this size. Here one compiled
program takes a few dozen batches at a time and runs the model's own `train_step` for each: dense
networks through XLA, convolutions through a plain graph, since XLA on CPU is slow for them. It
picks each batch out of memory-mapped images in the page cache: memory never holds the dataset.

The order of the images in an epoch is drawn from (seed, epoch), not from what came before.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Shaped

from tasks.errors import ModelError
from tasks.learning.arguments import (
    HeldOut,
    Labels,
    flat,
    held_out,
    image_weights,
    in_batches,
    plan_within_bounds,
    require_fitting,
    require_meaningful,
)
from tasks.learning.backend import keras, tf
from tasks.records import EpochMetrics, TrainingPlan

logger = logging.getLogger(__name__)

# Batches in one call of the program. Between two calls signals are heard and progress is shown;
# the batches of a convolution take that much longer.
XLA_BATCHES, GRAPH_BATCHES = 200, 50
EVALUATE_BATCH = 1000
PREDICT_BYTES = 16 << 20

Images = Float32[np.ndarray, "image *pixel"]
Rows = Shaped[np.ndarray, " row"]
# Trains one epoch, and says now and then which fraction of it is done.
EpochProgram = Callable[[int], Iterator[float]]


def epoch_order(seed: int, epoch: int, images: int) -> Int32[np.ndarray, " image"]:
    """The order in which one epoch meets the images: a permutation of 0 … images - 1."""
    return np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)


def epoch_shifts(
    seed: int, epoch: int, images: int, shift_pixels: int
) -> Int32[np.ndarray, "image 2"]:
    """How far down and right each image is moved in one epoch, in its order."""
    random = np.random.default_rng([seed, epoch, 1])
    return random.integers(-shift_pixels, shift_pixels, (images, 2), np.int32, endpoint=True)


def fit(
    model: keras.Model,
    images: Images,
    labels: Labels,
    plan: TrainingPlan,
    *,
    rows: Rows | None = None,
    image_shape: tuple[int, ...] | None = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    validation_data: Any = None,
    callbacks: Any = (),
    on_part: Callable[[float], None] = lambda _: None,
    initial_epoch: int = 0,
    **others: object,
) -> keras.callbacks.History:
    """Train a compiled model in place, as `keras.Model.fit` would; returns its history.

    Every image is met once an epoch; the last batch may be smaller. Callbacks hear what they would
    hear of Keras. What a compiled program cannot do is left to Keras's own loop, over the same
    batches: callbacks that hear of training batches, eager models, training functions and logs of
    a model's own. There `steps_per_execution` and `jit_compile` count, here they do not. Raises
    ModelError for `others`, and for what does not go together.

    `model`: any loss, metrics and optimizer, whose learning rate may be a schedule; takes (batch,
    pixel) or any other shape of as many values; one that does not say takes images as they are.
    `images` are in [0, 1] and may be memory-mapped, as `labels` may. `plan`: epochs, batch size,
    seed and shifts; the rest of it is the model's. `rows`: the numbers of the images to train on.
    `image_shape`: (row, column[, channel]), which shifts need.
    `sample_weight`, of each image, `class_weight`, by the label's number, and `validation_data`,
    evaluated after each epoch, are Keras's; batches of EVALUATE_BATCH are evaluated. `on_part`
    hears now and then how many epochs are done, with a fraction of the current one.
    `initial_epoch`: epochs done earlier.
    """
    plan, callbacks = plan_within_bounds(plan), flat(callbacks)
    pixels = math.prod(images.shape[1:])
    require_meaningful(plan, initial_epoch, pixels, image_shape, others)
    weights = image_weights(labels, sample_weight, class_weight)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    require_fitting(model, images, labels, weights, rows)
    shape = _shape_taken(model, images)
    tested = in_batches(held_out(validation_data, shape), EVALUATE_BATCH)
    arrays = [None if a is None else _as_tensor(a) for a in (images, labels, weights)]
    batches = _Batches(*arrays, rows, plan, shape, image_shape or (1, pixels))
    program = _compiled(model, callbacks, batches)
    epochs = range(initial_epoch, plan.epochs)
    if not isinstance(program, str):
        return _fit(model, program, batches, epochs, callbacks, on_part, tested)
    logger.warning("trained by Keras's own loop: %s", program)
    return _fit_by_keras(model, batches, epochs, callbacks, on_part, tested)


def state_of(model: keras.Model) -> list[keras.Variable]:
    """All that training changes: weights, the state of random layers, and the optimizer's."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def epoch_listener(on_epoch: Callable[[int, EpochMetrics], None]) -> keras.callbacks.Callback:
    """A callback that tells of each epoch's number, from 1, and metrics."""

    def tell(epoch: int, logs: dict[str, float]) -> None:
        metrics = EpochMetrics(
            loss=logs["loss"],
            accuracy_fraction=logs["accuracy"],
            validation_loss=logs.get("val_loss"),
            validation_accuracy_fraction=logs.get("val_accuracy"),
        )
        on_epoch(epoch + 1, metrics)

    return keras.callbacks.LambdaCallback(on_epoch_end=tell)


class BestEpoch(keras.callbacks.Callback):
    """Stops after `patience` epochs without a lower validation loss; remembers the best one.

    `kept` are the weights after it, to be part of a checkpoint; `losses` those of the epochs so
    far. With a patience of 0 it does nothing.
    """

    def __init__(self, model: keras.Model, patience: int) -> None:
        super().__init__()
        self._model, self._patience = model, patience
        self.losses: list[float] = []
        self.kept = [keras.Variable(each) for each in model.variables] if patience else []

    @property
    def exhausted(self) -> bool:
        """Whether it has been long enough since the best epoch."""
        if not (self._patience and self.losses):
            return False
        return len(self.losses) - 1 - int(np.argmin(self.losses)) >= self._patience

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Keep the weights of a new best epoch, or stop."""
        if self._patience:
            self.losses.append(comparable(logs["val_loss"]))
            if np.argmin(self.losses) == epoch:
                _assign(self.kept, self._model.variables)
            self._model.stop_training = self.exhausted

    def go_back(self) -> None:
        """Give the model the weights of the best epoch."""
        _assign(self._model.variables[: len(self.kept)], self.kept)


def comparable(loss: float | None) -> float:
    """A loss that is no number is worse than any."""
    return math.inf if loss is None or math.isnan(loss) else loss


def _assign(to: Sequence[keras.Variable], values: Sequence[keras.Variable]) -> None:
    for variable, value in zip(to, values, strict=True):
        variable.assign(value)


def predict(
    model: keras.Model, images: Images, rows: Rows | None = None
) -> Float32[np.ndarray, "row class"]:
    """Probabilities for every image, the last few included, or for the images of these numbers.

    Batches of large images are smaller, so that memory follows PREDICT_BYTES.
    """
    rows = np.arange(len(images)) if rows is None else rows
    size = max(1, min(EVALUATE_BATCH, PREDICT_BYTES // images[0].nbytes))
    shape = (-1, *_shape_taken(model, images))
    starts = range(0, len(rows), size)
    batches = (images[rows[start : start + size]].reshape(shape) for start in starts)
    return np.concatenate([model.predict_on_batch(batch) for batch in batches])


def input_shape(model: keras.Model, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    """What the model takes, without the batch; `otherwise` if it does not say; -1 is any size."""
    try:
        return tuple(-1 if size is None else size for size in model.input_shape[1:])
    except AttributeError:  # subclassed
        return otherwise


def _shape_taken(model: keras.Model, images: Images) -> tuple[int, ...]:
    """What the model takes; the shape of the images if it takes any size, or does not say."""
    shape = input_shape(model, images.shape[1:])
    return images.shape[1:] if -1 in shape else shape


def _fit(
    model: keras.Model,
    train_epoch: EpochProgram,
    batches: _Batches,
    epochs: range,
    callbacks: Sequence[keras.callbacks.Callback],
    on_part: Callable[[float], None],
    tested: HeldOut | None,
) -> keras.callbacks.History:
    """What `keras.Model.fit` does, step by step, but for its batches."""
    told = {"verbose": 0, "epochs": epochs.stop, "steps": len(batches)}
    heard = keras.callbacks.CallbackList(list(callbacks), add_history=True, model=model, **told)
    model.stop_training, logs = False, None
    heard.on_train_begin()
    for epoch in epochs:
        model.reset_metrics()
        heard.on_epoch_begin(epoch)
        _require_no_hook_for_batches(callbacks)
        for done_fraction in train_epoch(epoch):
            on_part(epoch + done_fraction)
        logs = dict(model.get_metrics_result())
        if tested is not None:
            images, labels, weights = tested
            scores = model.evaluate(
                *(images, labels, EVALUATE_BATCH),
                sample_weight=weights,
                return_dict=True,
                callbacks=heard,
            )
            logs |= {f"val_{name}": value for name, value in scores.items()}
        heard.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    if isinstance(model.optimizer, keras.optimizers.Optimizer):
        model.optimizer.finalize_variable_values(model.trainable_variables)
    heard.on_train_end(logs)
    return model.history


def _fit_by_keras(
    model: keras.Model,
    batches: _Batches,
    epochs: range,
    callbacks: Sequence[keras.callbacks.Callback],
    on_part: Callable[[float], None],
    tested: HeldOut | None,
) -> keras.callbacks.History:
    drawing = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: batches.draw(epoch),
        on_epoch_end=lambda epoch, _: on_part(epoch + 1.0),
    )
    return model.fit(
        batches,
        epochs=epochs.stop,
        initial_epoch=epochs.start,
        callbacks=[drawing, *callbacks],
        validation_data=tested,
        validation_batch_size=EVALUATE_BATCH,
        shuffle=False,
        verbose=0,
    )


def _require_no_hook_for_batches(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    if late := _who_hears_of_batches(callbacks):
        rule = "A callback's hooks for batches must be there before training starts."
        raise ModelError(rule, received=late)


@dataclass(eq=False)
class _Batches(keras.utils.PyDataset):
    """The batches of each epoch, by runs for a compiled program or singly for Keras's own loop.

    What is drawn for an epoch is (number, down, right) for each of the images, in its order.
    """

    images: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor | None
    rows: Rows
    plan: TrainingPlan
    input_shape: tuple[int, ...]
    image_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__init__()
        self.batch_size = min(self.plan.batch_size, len(self.rows))
        self.draw(epoch=0)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[tf.Tensor, ...]:
        start = index * self.batch_size
        return self.batch(tf.constant(self.drawn[start : start + self.batch_size]))

    def draw(self, epoch: int) -> None:
        """Go to an epoch; Keras's own `on_epoch_end` also comes before the first one."""
        rows = self.rows[epoch_order(self.plan.seed, epoch, len(self.rows))]
        shifts = epoch_shifts(self.plan.seed, epoch, len(rows), self.plan.shift_pixels)
        self.drawn = np.column_stack([rows.astype(np.int32), shifts])

    def batch(self, drawn: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Pick images, labels and weights by their numbers, and move the images."""
        rows = drawn[:, 0]
        images = tf.gather(self.images, rows)
        if self.plan.shift_pixels:
            images = tf.reshape(images, (-1, *self.image_shape))
            images = _moved(images, drawn[:, 1:], self.plan.shift_pixels)
        weights = None if self.weights is None else tf.gather(self.weights, rows)
        images = tf.reshape(images, (-1, *self.input_shape))
        return keras.utils.pack_x_y_sample_weight(images, tf.gather(self.labels, rows), weights)

    def runs(self, most: int) -> Iterator[tuple[np.ndarray, int]]:
        """Runs (batch, row, 3) of whole batches, and how many; then the last, smaller batch.

        All but that one have the same shape, filled up: each shape is compiled.
        """
        whole, rest = divmod(len(self.rows), self.batch_size)
        batches = self.drawn[: len(self.drawn) - rest].reshape(whole, self.batch_size, 3)
        size = min(most, whole)
        for start in range(0, whole, size):
            run = batches[start : start + size]
            yield np.pad(run, ((0, size - len(run)), (0, 0), (0, 0))), len(run)
        if rest:
            yield self.drawn[np.newaxis, -rest:], 1


def _as_tensor(array: np.ndarray) -> tf.Tensor:
    """An array as TensorFlow reads it: what is memory-mapped stays where it is."""
    if (
        isinstance(array, np.memmap)
        and array.flags.c_contiguous
        # Not a part of a file, of which `offset` would lie:
        and Path(str(array.filename)).stat().st_size == array.offset + array.nbytes
    ):
        # Writable, or it could not be shared; private, so that nothing is ever written back.
        shared = np.memmap(str(array.filename), array.dtype, "c", array.offset, array.shape)
        return tf.experimental.dlpack.from_dlpack(np.asarray(shared).__dlpack__())
    return tf.constant(array)


def _compiled(
    model: keras.Model, callbacks: Sequence[keras.callbacks.Callback], batches: _Batches
) -> EpochProgram | str:
    """The program, or why there is none."""
    if reason := _why_not_compiled(model, callbacks):
        return reason
    for through_xla in (False,) if _has_convolutions(model) else (True, False):
        try:
            # Makes all variables before a program is compiled: it cannot make any.
            _traced(lambda drawn: model.test_step(batches.batch(drawn)))
            model.optimizer.build(model.trainable_variables)
            return _program(model, batches, through_xla)
        # What TensorFlow, and models in its hands, raise for what cannot be traced or compiled.
        except (tf.errors.OpError, TypeError, ValueError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
    return reason


def _traced(step: Callable[[tf.Tensor], Any]) -> None:
    """Go through a step on one image without computing it: nothing is drawn, no state changes."""
    tf.function(step, autograph=False).get_concrete_function(tf.constant([[0, 0, 0]]))


def _why_not_compiled(model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]) -> str:
    if model.run_eagerly:
        return "it asks to run eagerly"
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return "it is trained on several devices"
    for name in ("fit", "make_train_function"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            return f"it has a {name} of its own"
    listener = _who_hears_of_batches(callbacks)
    return f"{listener} wants to hear of batches" if listener else ""


def _who_hears_of_batches(callbacks: Sequence[keras.callbacks.Callback]) -> str:
    """The first whose class, or it alone as a LambdaCallback, has a hook of its own for batches."""
    names = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    usual = [getattr(keras.callbacks.Callback, name) for name in names]
    for callback in callbacks:
        hooks = (getattr(callback, name) for name in names)
        if any(getattr(hook, "__func__", hook) not in usual for hook in hooks):
            return type(callback).__name__
    return ""


def _has_convolutions(model: keras.Model) -> bool:
    return any(
        "Conv" in type(layer).__name__
        or (isinstance(layer, keras.Model) and _has_convolutions(layer))
        for layer in model.layers
    )


def _program(model: keras.Model, batches: _Batches, through_xla: bool) -> EpochProgram:
    """The program of an epoch, compiled for the shapes it will meet."""
    most = XLA_BATCHES if through_xla else GRAPH_BATCHES

    # The loop is written out: AutoGraph would have to find and rewrite the source to see it.
    @tf.function(jit_compile=through_xla, autograph=False)  # type: ignore[untyped-decorator]
    def train(drawn: tf.Tensor, count: tf.Tensor) -> None:
        def next_batch(batch: tf.Tensor) -> tuple[tf.Tensor]:
            logs = model.train_step(batches.batch(drawn[batch]))
            if {*logs} != {*model.get_metrics_result()}:
                raise NotImplementedError("its train_step hands back logs of its own")
            return (batch + 1,)

        tf.while_loop(
            lambda batch: batch < count,
            next_batch,
            (tf.constant(0),),
            parallel_iterations=1,  # each step needs the weights of the one before
        )

    for shape in {run.shape for run, _ in batches.runs(most)}:
        train(tf.zeros(shape, tf.int32), tf.constant(0))  # compiles, and takes not a single step

    def train_epoch(epoch: int) -> Iterator[float]:
        batches.draw(epoch)
        done = 0
        for drawn, count in batches.runs(most):
            # As Keras, which trains one batch before it looks whether it is to stop.
            taken = 1 if model.stop_training else count
            train(tf.constant(drawn), tf.constant(taken))
            done += taken
            yield done / len(batches)
            if model.stop_training:
                break

    return train_epoch


@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
def _moved(images: tf.Tensor, shifts: tf.Tensor, most: int) -> tf.Tensor:
    """Move each image (row, column[, channel]) down and right; background comes in at the edges.

    One choice for each possible distance: XLA makes a single pass of them, a gather would not.
    """
    for axis in (1, 2):
        margin, part = [(0, 0)] * images.ndim, [slice(None)] * images.ndim
        margin[axis] = (most, most)
        padded = tf.pad(images, margin)
        distance = tf.reshape(shifts[:, axis - 1], (-1, *[1] * (images.ndim - 1)))
        for step in range(-most, most + 1):
            part[axis] = slice(most - step, most - step + images.shape[axis])
            images = tf.where(distance == step, padded[tuple(part)], images)
    return images
