"""What knows Prefect: the stage decorator, a run's account, progress, artifacts, events.

May import every room but the terminal; stages and flows import it. One cached call:

 1. The flow calls `train(ready, plan, store)`, or `.submit()`s it; Prefect starts a task run.
 2. The task's function is `stage.body`: it binds the arguments and opens the call's account.
 3. `keys` turns the inputs' content, the code that `train` reaches and the versions of its
    libraries into ingredients; their digest is the key.
 4. `entries` takes the key's lock: an equal call, in whatever thread or process, waits.
 5. It looks the entry up: whole, of our own types, its files there with their sizes.
 6. If so, that is the result; the task's state becomes Cached, "unchanged".
 7. Otherwise the stage's own function runs. Its reason is the damage that was found, or what
    differs from the nearest earlier run: Completed, "epochs 12 → 6".
 8. The result is stored as an entry, unless code was edited meanwhile; the lock is released.
 9. The account gets its line: state, seconds, reason; terminal, report and `--json` tell it.
10. A stored file that turns out damaged when it is opened is set aside, and `run.healing` calls
    the flow's body again: everything else comes from the cache.

    Cached     unchanged                       ← a task's state and message in Prefect's UI
    Completed  input: x_train changed
"""
