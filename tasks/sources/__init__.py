"""Where datasets come from: the embedded MNIST, named downloads, and what people bring.

    source = find_dataset("~/Digits", downloads)
    DatasetSource(name="digits", kind="idx", files=(SourceFile(name="train-images-idx3-ubyte.gz",
        sha256="440fcabf…", size_bytes=9912422), …))

    open_dataset(source).streams["x_train"]
    Stream(where="train-images-idx3-ubyte.gz", dtype=uint8, shape=(60000, 28, 28), …)

`catalogue` finds and opens; a format is a module of its own and a line of its table FORMATS: `idx`,
`npz`, `pictures`, `tables`, `parquet`; `refused` says why others are not read. What people store as
labels and pixels, `labels` and `pixels` make 0 … classes - 1 and 0 … 255 of; `splits` cuts a test
split off. `files` opens what lies in a folder or a zip; a `stream` is what is read of it by pieces.
README.md tells which layouts are taken, with examples.
Nothing is believed of a file: what it declares is checked against its size before anything is
allocated, and it is read by pieces, each of which `verified` checks against the file's digest.
May import tasks.cache, tasks.records and tasks.errors.
"""
