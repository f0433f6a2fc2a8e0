"""The training pipeline: fetch, load, validate, preprocess, train, evaluate, illustrate, publish.

python flows/mnist_flow.py --help
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Before any other `tasks` or `flows` that PYTHONPATH may name.
    sys.path[0] = str(Path(__file__).parents[1])
    # First of all: the run's own Prefect server boots while the imports below take place.
    from tasks.terminal.session import Session

    session = Session()

from prefect.runtime import flow_run

from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.illustrate import illustrate, illustrate_data
from tasks.load import load
from tasks.orchestration.run import pipeline, stored_run
from tasks.preprocess import preprocess
from tasks.publish import publish, refusal_reported
from tasks.records import RunSummary
from tasks.settings import RunSettings
from tasks.sources.catalogue import dataset_name
from tasks.suspect import suspect
from tasks.train import train
from tasks.validate import validate


def run_name() -> str:
    """For instance `mnist-mlp-12-epochs-seed-0`."""
    settings: RunSettings = flow_run.parameters["settings"]
    plan = settings.plan
    dataset = dataset_name(settings.dataset, settings.name)
    return f"{dataset}-{plan.model_name}-{plan.epochs}-epochs-seed-{plan.seed}"


@pipeline(name="mnist", run_name=run_name)
def mnist_flow(settings: RunSettings = RunSettings()) -> RunSummary:
    """Train and evaluate a classifier on an image dataset, and record how well it does.

    Stages whose inputs and code are unchanged take their result from the cache.
    """
    plan = settings.plan
    with stored_run(settings) as store:
        rules = settings.rules(dataset_name(settings.dataset))
        raw = load(fetch(settings.dataset, settings.name, store), store, settings.reading)
        preprocessing = preprocess.submit(raw, store)  # beside validation, training after both
        with refusal_reported(settings, plan, store):
            checked = validate(raw, rules, store)
        ready = preprocessing.result()
        drawing = illustrate_data.submit(raw, checked, ready, store)  # beside training
        model = train(ready, plan, store, wait_for=[checked])
        metrics = evaluate(model, plan.model, plan.threads, plan.seed, ready, store)
        suspects = suspect(ready, settings.screening, store) if settings.label_suspects else None
        of_model = illustrate(model, metrics, suspects, raw, store)
        of_data = drawing.result()
        return publish(
            settings, plan, raw, checked, model, metrics, suspects, of_data, of_model, store
        )


if __name__ == "__main__":
    sys.exit(session.run(mnist_flow))
