"""The reference experiment as a plain Keras script: python plain_keras.py mnist.npz."""

import json
import sys

import keras
import numpy as np

with np.load(sys.argv[1]) as archive:
    x_train, y_train = archive["x_train"], archive["y_train"]
    x_test, y_test = archive["x_test"], archive["y_test"]

x_train = x_train.reshape(60000, 784).astype("float32") / 255
x_test = x_test.reshape(10000, 784).astype("float32") / 255
y_train = keras.utils.to_categorical(y_train, 10)
y_test = keras.utils.to_categorical(y_test, 10)

model = keras.Sequential(
    [
        keras.Input((784,)),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, epochs=12, batch_size=100, verbose=2)
loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(json.dumps({"accuracy": accuracy, "loss": loss}))
