"""Computed once: what stages hand back is kept, proven when it is read, and never stale.

README.md beside this file says what is guaranteed. May import records and errors; knows no Prefect.

    <cache dir>/blobs/9f86d081884c7d65….npy       arrays, models, pictures, by their digest
    <cache dir>/results/4f2a90c1d3e5…             what a stage handed back, by its key
    <cache dir>/latest/train/4f2a90c1d3e5…        what its latest runs were made of
    <cache dir>/checkpoints/4f2a90c1d3e5…/000007  a training that is not complete
    <cache dir>/locks/4f2a90c1d3e5…               while somebody looks up or computes; runs, too

places: what is read at all; blobs: the store; keys: what a result is made of; bytecode: that it is
what runs; processor: on what; sharing: locks; entries: results; checkpoints: trainings;
housekeeping: list, prune, verify and clear.
"""
