"""The Prefect server that a run from the terminal talks to: a configured one, or its own.

    own         starts a server for this run, if none is configured
    process     what that server's process does: `python -m tasks.server.process FD`
    app         Prefect's server as each of ours runs it
    configured  whether one is configured, waiting for it, and what to say when it is lost

Its own server looks like this to the run:

    url    http://127.0.0.1:43121/api    a free port
    lease  a pipe: when it closes, the server writes down what it has received, and ends

It may import tasks.errors. Prefect is imported inside functions only, since its import takes
longer than everything else before a run; process.py, which is never imported, and what only
servers import are the exception.
"""
