"""The run's own Prefect server, and whether one is configured. Imports no Prefect at start."""
