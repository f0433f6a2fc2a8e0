"""What the flows are made of: stages (verbs, a Prefect task each) and nouns they use."""

import os

# Read by TensorFlow and Keras when they are first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up chatter from C++
os.environ["KERAS_BACKEND"] = "tensorflow"  # the trainer is written for no other

import time

# As early as can be: what runs is what is imported from now on, see tasks/cache/fingerprint.py.
STARTED_NS = time.time_ns()
