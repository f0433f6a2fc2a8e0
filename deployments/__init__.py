"""What an operator runs: the Prefect stack, its deployments, automations and examination."""
