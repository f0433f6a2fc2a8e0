"""Networks, and how they are trained and scored.

A plan says what is trained, and everything that decides the bits of the weights:

    TrainingPlan(model="mlp", epochs=12, batch_size=100, hidden_units=64, learning_rate=0.001,
                 optimizer="rmsprop", schedule="constant", …, seed=0, threads=2)

    model = build_model(plan, dataset)             network.py, own_model.py
    fit(model, images, labels, plan)               training.py; images (image, pixel) in [0, 1];
                                                   what it is given is checked by arguments.py
    score(predict(model, images), labels, stored)  scores.py → Metrics

TensorFlow and Keras come in through backend.py alone (3 s); whoever needs them imports these
modules inside a function. Of the project, this room imports `tasks.cache`, `tasks.records` and
`tasks.errors`, and nothing of Prefect.
"""
