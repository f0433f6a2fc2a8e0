"""What an operator runs: the Prefect server, its deployments and automations, workers, doctor.

May import: flows, tasks and Prefect; nothing imports from here. README.md beside this file is
written for the operator, and says what each file is for.
"""
