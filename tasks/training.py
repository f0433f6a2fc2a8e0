"""Training a Keras model in compiled runs of many batches.

Keras's own loop leaves most of the time to overhead for a network of this size. Here a
compiled program takes a block of batches at a time, (batch number, image, pixel), and makes
one optimizer step for each: dense networks through XLA, convolutions through a plain graph,
since XLA on CPU is slow for them. While it runs, a thread gathers the next block from the
memory-mapped images, so that memory holds two blocks and never the dataset.

The order of the images in an epoch is drawn from (seed, epoch): neither the process nor the
epochs before matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, Int64

from tasks.backend import keras, tf
from tasks.records import EpochMetrics

BLOCK_BYTES = 16 << 20

Images = Float32[np.ndarray, "image pixel"]
Labels = Float32[np.ndarray, "image class"]
Block = tuple[Float32[np.ndarray, "batch image pixel"], Float32[np.ndarray, "batch image class"]]


def epoch_order(seed: int, epoch: int, images: int) -> Int64[np.ndarray, " image"]:
    """The order in which one epoch meets the images: a permutation of 0 … images - 1."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def fit(
    model: keras.Model,
    images: Images,
    labels: Labels,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    on_epoch: Callable[[int, EpochMetrics], None],
) -> tuple[EpochMetrics, ...]:
    """Train a compiled classifier with categorical cross-entropy, in place.

    Every image is met once an epoch; the last batch may be smaller.

    Args:
        model: compiled, built, with softmax outputs (batch, class).
        images: in [0, 1]; may be memory-mapped.
        labels: one-hot; may be memory-mapped.
        epochs: how often to meet every image.
        batch_size: images per optimizer step.
        seed: decides, with the epoch's number, the order of the images.
        on_epoch: called after each epoch with its number, from 1, and its metrics.

    Returns:
        One record an epoch: loss and accuracy over the images as they were met.
    """
    model.optimizer.build(model.trainable_variables)
    train_block = _compile_block(model)
    history = []
    with ThreadPoolExecutor(1, thread_name_prefix="gather") as gatherer:
        for epoch in range(epochs):
            order = epoch_order(seed, epoch, len(images))
            loss_sum = correct = 0.0
            for block in _ahead(gatherer, _blocks(images, labels, order, batch_size)):
                block_loss, block_correct = train_block(*map(tf.constant, block))
                loss_sum += float(block_loss)
                correct += float(block_correct)
            metrics = EpochMetrics(
                loss=loss_sum / len(images), accuracy_fraction=correct / len(images)
            )
            history.append(metrics)
            on_epoch(epoch + 1, metrics)
    return tuple(history)


def predict(
    model: keras.Model, images: Images, batch_size: int = 1000
) -> Float32[np.ndarray, "image class"]:
    """Probabilities for every image, the last few included.

    Batches of large images are smaller, so that memory follows BLOCK_BYTES.
    """
    batch_size = max(1, min(batch_size, BLOCK_BYTES // images[0].nbytes))
    starts = range(0, len(images), batch_size)
    return np.concatenate(
        [model.predict_on_batch(images[start : start + batch_size]) for start in starts]
    )


def _compile_block(model: keras.Model) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """One program for a block of batches: a step each; sums of loss and of right answers."""
    convolutional = any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)
    variables = model.trainable_variables
    loss_of = keras.losses.get(model.loss)

    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            probabilities = model(images, training=True)
            losses = loss_of(labels, probabilities)
            loss = tf.reduce_mean(losses)
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        hits = tf.equal(tf.argmax(probabilities, axis=1), tf.argmax(labels, axis=1))
        return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(hits, tf.float32))

    # The loop is written out: AutoGraph would have to find and rewrite the source to see it.
    @tf.function(jit_compile=not convolutional, autograph=False)  # type: ignore[untyped-decorator]
    def train_block(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def next_batch(
            batch: tf.Tensor, loss_sum: tf.Tensor, correct: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            batch_loss, batch_correct = step(images[batch], labels[batch])
            return batch + 1, loss_sum + batch_loss, correct + batch_correct

        batches = tf.shape(images)[0]
        _, loss_sum, correct = tf.while_loop(
            lambda batch, *_: batch < batches,
            next_batch,
            (tf.constant(0), tf.constant(0.0), tf.constant(0.0)),
            parallel_iterations=1,  # each step needs the weights of the one before
        )
        return loss_sum, correct

    return train_block


def _blocks(
    images: Images, labels: Labels, order: Int64[np.ndarray, " image"], batch_size: int
) -> Iterator[Block]:
    """Cut an epoch into blocks of whole batches; what is left over is a last, short batch."""
    whole_batches = len(order) // batch_size
    for count in _block_sizes(whole_batches, batch_size * images[0].nbytes):
        rows, order = order[: count * batch_size], order[count * batch_size :]
        yield (
            images[rows].reshape(count, batch_size, -1),
            labels[rows].reshape(count, batch_size, -1),
        )
    if len(order):
        yield images[order][np.newaxis], labels[order][np.newaxis]


def _block_sizes(batches: int, batch_bytes: int) -> list[int]:
    """Split a number of batches into equal blocks of at most BLOCK_BYTES, and a rest.

    Each block size is compiled once, so there are at most two.
    """
    if batches == 0:
        return []
    most = max(1, BLOCK_BYTES // batch_bytes)
    blocks = -(-batches // most)
    size = -(-batches // blocks)
    sizes = [size] * (batches // size)
    return [*sizes, batches % size] if batches % size else sizes


def _ahead(executor: ThreadPoolExecutor, blocks: Iterator[Block]) -> Iterator[Block]:
    """Yield the blocks while the next one is being made in the executor's thread."""
    upcoming = executor.submit(next, blocks, None)
    while (block := upcoming.result()) is not None:
        upcoming = executor.submit(next, blocks, None)
        yield block
