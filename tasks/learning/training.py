"""Training a Keras model in compiled runs of many batches.

Keras's own loop leaves most of the time to overhead for a network of this size. Here one
compiled program takes a few dozen batches at a time and runs the model's own `train_step`
for each: dense networks through XLA, convolutions through a plain graph, since XLA on CPU is
slow for them. Memory-mapped images are handed to TensorFlow as they lie in the page cache,
and the program picks each batch out of them: memory never holds the dataset.

The order of the images in an epoch is drawn from (seed, epoch): neither the process nor the
epochs before matter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeGuard

import numpy as np
from jaxtyping import Float32, Int32

from tasks.learning.backend import keras, tf
from tasks.records import EpochMetrics

logger = logging.getLogger(__name__)

# Batches in one call of the program. Between two calls signals are heard and progress is shown;
# the batches of a convolution take that much longer.
XLA_BATCHES, GRAPH_BATCHES = 200, 50
PREDICT_BYTES = 16 << 20

Images = Float32[np.ndarray, "image pixel"]
Labels = Float32[np.ndarray, "image class"]
HeldOut = tuple[Float32[np.ndarray, "held_out pixel"], Float32[np.ndarray, "held_out class"]]
# Takes image numbers (batch, row), shifts down and right (batch, row, 2), and on how many of the
# batches to train.
Program = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], None]
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
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    image_shape: tuple[int, int] | None = None,
    shift_pixels: int = 0,
    validation_data: HeldOut | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    initial_epoch: int = 0,
) -> keras.callbacks.History:
    """Train a compiled model in place, as `keras.Model.fit` would.

    Every image is met once an epoch; the last batch may be smaller. Callbacks hear of epochs,
    with the means over the images as they were met. A model that cannot be compiled, or a
    callback that wants to hear of batches, is left to Keras's own loop, over the same batches.

    Args:
        model: compiled; any loss, metrics and optimizer, whose learning rate may be a schedule.
            Takes (batch, pixel) or any other shape of as many values.
        images: in [0, 1]; may be memory-mapped.
        labels: as the loss wants them; may be memory-mapped.
        epochs: the number of the last epoch.
        batch_size: images per optimizer step.
        seed: decides, with the epoch's number, the order of the images and their shifts.
        image_shape: rows and columns; needed for shifts.
        shift_pixels: moves each image by up to as many pixels, down or up, left or right.
        validation_data: images and labels to evaluate after each epoch.
        callbacks: Keras's own or others.
        initial_epoch: epochs that are already done.

    Returns:
        The model's history, by metric one value an epoch.
    """
    batches = _Batches(len(images), batch_size, seed, shift_pixels)
    source = _Source(
        pixels=_as_tensor(images),
        targets=_as_tensor(labels),
        image_shape=image_shape or (1, images.shape[1]),
        input_shape=input_shape(model, images.shape[1]),
        shift_pixels=shift_pixels,
    )
    _build(model, source)
    try:
        train_epoch = _compiled(model, callbacks, batches, source)
    except _CannotCompileError as reason:
        logger.warning("trained by Keras's own loop: %s", reason)
        chosen = _KerasBatches(batches, source)
        return _fit_by_keras(
            model, chosen, epochs, initial_epoch, callbacks, validation_data=validation_data
        )
    return _fit_compiled(
        model, train_epoch, epochs, initial_epoch, callbacks, validation_data=validation_data
    )


def state_of(model: keras.Model) -> list[keras.Variable]:
    """All that training changes: weights, the state of random layers, and the optimizer's."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


class EpochListener(keras.callbacks.Callback):
    """Tells one function of each epoch's number, from 1, and its metrics.

    Args:
        on_epoch: is told at the end of each epoch.
        on_part: is told every now and then how many epochs are done, as a fraction.
    """

    def __init__(
        self,
        on_epoch: Callable[[int, EpochMetrics], None],
        on_part: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._on_epoch = on_epoch
        self.on_part = on_part

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keras's part of it."""
        assert logs is not None, "an epoch ends with its metrics"
        self.on_part(float(epoch + 1))
        metrics = EpochMetrics(loss=logs["loss"], accuracy_fraction=logs["accuracy"])
        self._on_epoch(epoch + 1, metrics)


def predict(
    model: keras.Model, images: Images, batch_size: int = 1000
) -> Float32[np.ndarray, "image class"]:
    """Probabilities for every image, the last few included.

    Batches of large images are smaller, so that memory follows PREDICT_BYTES.
    """
    batch_size = max(1, min(batch_size, PREDICT_BYTES // images[0].nbytes))
    shape = (-1, *input_shape(model, images.shape[1]))
    starts = range(0, len(images), batch_size)
    return np.concatenate(
        [
            model.predict_on_batch(images[start : start + batch_size].reshape(shape))
            for start in starts
        ]
    )


def input_shape(model: keras.Model, pixels: int) -> tuple[int, ...]:
    """What the model takes, without the batch; (pixel,) if it does not say; -1 is any size."""
    try:
        return tuple(-1 if size is None else size for size in model.input_shape[1:])
    except AttributeError:  # subclassed
        return (pixels,)


def _fit_compiled(
    model: keras.Model,
    train_epoch: EpochProgram,
    epochs: int,
    initial_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback],
    validation_data: HeldOut | None,
) -> keras.callbacks.History:
    heard = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, model=model, epochs=epochs, verbose=0
    )
    listeners = [callback for callback in callbacks if isinstance(callback, EpochListener)]
    model.stop_training = False
    heard.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        heard.on_epoch_begin(epoch)
        model.reset_metrics()
        for done_fraction in train_epoch(epoch):
            for listener in listeners:
                listener.on_part(epoch + done_fraction)
        logs = {name: float(value) for name, value in model.get_metrics_result().items()}
        if validation_data is not None:
            scores = model.evaluate(*validation_data, 1000, verbose=0, return_dict=True)
            logs |= {f"val_{name}": float(value) for name, value in scores.items()}
        heard.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    heard.on_train_end()
    return model.history


def _fit_by_keras(
    model: keras.Model,
    chosen: _KerasBatches,
    epochs: int,
    initial_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback],
    validation_data: HeldOut | None,
) -> keras.callbacks.History:
    starting = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: chosen.draw(epoch))
    return model.fit(
        chosen,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=[starting, *callbacks],
        validation_data=validation_data,
        shuffle=False,
        verbose=0,
    )


class _CannotCompileError(Exception):
    """Why a model is left to Keras's own loop."""


class _Batches:
    """The batches of each epoch: which images, and how far each is moved."""

    def __init__(self, images: int, batch_size: int, seed: int, shift_pixels: int) -> None:
        self._images, self._seed, self._shift_pixels = images, seed, shift_pixels
        self.batch_size = min(batch_size, images)
        self.whole, self.rest = divmod(images, self.batch_size)

    def __len__(self) -> int:
        return self.whole + bool(self.rest)

    def drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Image numbers (image,) and shifts (image, 2), in the epoch's order."""
        return (
            epoch_order(self._seed, epoch, self._images),
            epoch_shifts(self._seed, epoch, self._images, self._shift_pixels),
        )

    def shapes(self, most: int) -> Iterator[tuple[int, int]]:
        """The shapes (batch, row) that segments have: at most two, since each is compiled."""
        yield min(most, self.whole), self.batch_size
        if self.rest:
            yield 1, self.rest

    def segments(self, epoch: int, most: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.int32]]:
        """Runs of `most` batches, all of one shape and filled up, then the last, smaller batch."""
        order, shifts = self.drawn(epoch)
        size = min(most, self.whole)
        whole = self.whole * self.batch_size
        rows = order[:whole].reshape(self.whole, self.batch_size)
        moves = shifts[:whole].reshape(self.whole, self.batch_size, 2)
        for start in range(0, self.whole, size):
            count = min(size, self.whole - start)
            missing = ((0, size - count), (0, 0))
            yield (
                np.pad(rows[start : start + count], missing),
                np.pad(moves[start : start + count], (*missing, (0, 0))),
                np.int32(count),
            )
        if self.rest:
            yield order[whole:][np.newaxis], shifts[whole:][np.newaxis], np.int32(1)


@dataclass(frozen=True)
class _Source:
    """All images (image, pixel) and labels, and how a batch is made of them."""

    pixels: tf.Tensor
    targets: tf.Tensor
    image_shape: tuple[int, int]
    input_shape: tuple[int, ...]
    shift_pixels: int

    def batch(self, rows: tf.Tensor, shifts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Pick images and labels by their numbers (row,), and move the images (row, 2)."""
        images = tf.gather(self.pixels, rows)
        if self.shift_pixels:
            images = tf.reshape(images, (-1, *self.image_shape))
            images = _moved(images, shifts, self.shift_pixels)
        return tf.reshape(images, (-1, *self.input_shape)), tf.gather(self.targets, rows)


class _KerasBatches(keras.utils.PyDataset):
    """The same batches for Keras's own loop."""

    def __init__(self, batches: _Batches, source: _Source) -> None:
        super().__init__()
        self._batches, self._source = batches, source
        self.draw(epoch=0)

    def draw(self, epoch: int) -> None:
        """Go to an epoch; Keras's own `on_epoch_end` also comes before the first one."""
        self._order, self._shifts = self._batches.drawn(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[tf.Tensor, tf.Tensor]:
        start = index * self._batches.batch_size
        part = slice(start, start + self._batches.batch_size)
        return self._source.batch(tf.constant(self._order[part]), tf.constant(self._shifts[part]))


def _as_tensor(array: np.ndarray) -> tf.Tensor:
    """An array as TensorFlow reads it: what is memory-mapped stays where it is."""
    if not _is_whole_file(array) or tf.config.list_physical_devices("GPU"):
        return tf.constant(array)
    # Writable, or it could not be shared; private, so that nothing is ever written back.
    shared = np.memmap(str(array.filename), array.dtype, "c", array.offset, array.shape)
    return tf.experimental.dlpack.from_dlpack(np.asarray(shared).__dlpack__())


def _is_whole_file(array: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether an array is all that follows a file's header: of a part, `offset` would lie."""
    return (
        isinstance(array, np.memmap)
        and array.flags.c_contiguous
        and Path(str(array.filename)).stat().st_size == array.offset + array.nbytes
    )


def _build(model: keras.Model, source: _Source) -> None:
    """Make all variables before the program is compiled: it cannot make any."""
    model.test_step(source.batch(tf.constant([0]), tf.constant([[0, 0]])))
    model.reset_metrics()
    model.optimizer.build(model.trainable_variables)


def _compiled(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    batches: _Batches,
    source: _Source,
) -> EpochProgram:
    """The program, compiled for the shapes it will meet. Raises _CannotCompileError."""
    if model.run_eagerly:
        raise _CannotCompileError("it asks to run eagerly")
    for callback in callbacks:
        if _hears_of_batches(callback):
            raise _CannotCompileError(f"{type(callback).__name__} wants to hear of batches")
    errors = []
    for through_xla in (True, False) if _is_dense(model) else (False,):
        program = _program(model, source, through_xla)
        most = XLA_BATCHES if through_xla else GRAPH_BATCHES
        try:
            for shape in batches.shapes(most):  # compiles, and takes not a single step
                program(tf.zeros(shape, tf.int32), tf.zeros((*shape, 2), tf.int32), tf.constant(0))
        # What TensorFlow, and models in its hands, raise for what cannot be traced or compiled.
        except (tf.errors.OpError, TypeError, ValueError, NotImplementedError) as error:
            errors.append(str(error).strip().partition("\n")[0])
        else:
            return partial(_train_epoch, program, batches, most)
    raise _CannotCompileError(errors[-1])


def _train_epoch(program: Program, batches: _Batches, most: int, epoch: int) -> Iterator[float]:
    done = 0
    for rows, shifts, count in batches.segments(epoch, most):
        program(*map(tf.constant, (rows, shifts, count)))
        done += int(count)
        yield done / len(batches)


def _hears_of_batches(callback: keras.callbacks.Callback) -> bool:
    names = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    base = keras.callbacks.Callback
    return any(getattr(type(callback), name) is not getattr(base, name) for name in names)


def _is_dense(model: keras.Model) -> bool:
    return not any("Conv" in type(layer).__name__ for layer in _all_layers(model))


def _all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)


def _program(model: keras.Model, source: _Source, through_xla: bool) -> Program:
    # The loop is written out: AutoGraph would have to find and rewrite the source to see it.
    @tf.function(jit_compile=through_xla, autograph=False)  # type: ignore[untyped-decorator]
    def run(rows: tf.Tensor, shifts: tf.Tensor, count: tf.Tensor) -> None:
        def next_batch(batch: tf.Tensor) -> tuple[tf.Tensor]:
            model.train_step(source.batch(rows[batch], shifts[batch]))
            return (batch + 1,)

        tf.while_loop(
            lambda batch: batch < count,
            next_batch,
            (tf.constant(0),),
            parallel_iterations=1,  # each step needs the weights of the one before
        )

    program: Program = run
    return program


@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
def _moved(images: tf.Tensor, shifts: tf.Tensor, most: int) -> tf.Tensor:
    """Move each image (image, row, column) down and right; background comes in at the edges.

    One choice for each possible distance: XLA makes a single pass of them, a gather would not.
    """
    for axis in (1, 2):
        size = images.shape[axis]
        margin = [(0, 0)] * 3
        margin[axis] = (most, most)
        padded = tf.pad(images, margin)
        distance = shifts[:, axis - 1][:, tf.newaxis, tf.newaxis]
        for step in range(-most, most + 1):
            begin = [0, 0, 0]
            begin[axis] = most - step
            extent = [-1, -1, -1]
            extent[axis] = size
            images = tf.where(distance == step, tf.slice(padded, begin, extent), images)
    return images
