"""The program at the terminal: its command line, what it shows, its exit status.

    session          one run, from the command line to the exit status
    command_line     options and `MNIST_*` variables, read into the settings
    display          what a person sees meanwhile, on standard error
    preload          importing TensorFlow early, when it will be needed
    cache_command    `mnist-cache`
    profile_command  `mnist-profile`

With --json, the only line on standard output is the run's summary, or in its place

    {"error": "A dataset is mnist, fashion_mnist, …", "stages": {"load": {"state": "failed", …}}}

It may import every other room; Prefect comes in through tasks.server and tasks.orchestration.
"""
