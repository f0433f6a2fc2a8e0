"""The one place, apart from stages and flows, that knows Prefect."""
