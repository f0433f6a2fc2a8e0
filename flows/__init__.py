"""What runs: one file per flow, wiring only."""

import tasks  # noqa: F401 - first of all: it says what Prefect and TensorFlow read when imported
