"""What an operator runs: the Prefect server, its deployments and automations, workers, doctor.

May import: flows, tasks and Prefect; nothing imports from here. README.md beside this file is
written for the operator. What each process is told lies in files of lines like

    PREFECT_FLOWS_HEARTBEAT_FREQUENCY=60

`environment/*.env` for every stack, read by commands.py and by compose.yaml, and `server.env` in
the stack's own folder for its addresses and secrets (credentials.py).
"""
