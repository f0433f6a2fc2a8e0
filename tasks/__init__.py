"""What the flows are made of: the stages, their shared vocabulary, and rooms for the rest."""

import os

# Read by TensorFlow and Keras when they are first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up chatter from C++
os.environ["KERAS_BACKEND"] = "tensorflow"  # the trainer is written for no other
