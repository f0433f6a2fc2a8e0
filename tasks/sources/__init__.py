"""Where datasets come from: the embedded MNIST, named downloads, IDX folders, .npz files.

    source = find_dataset("~/Digits", downloads)
    DatasetSource(name="digits", kind="idx", files=(SourceFile(name="train-images-idx3-ubyte.gz",
        sha256="440fcabf…", size_bytes=9912422), …))

    open_dataset(source)["x_train"]
    ArrayStream(where="train-images-idx3-ubyte.gz", dtype=uint8, shape=(60000, 28, 28), …)

`catalogue` finds and opens; a format is a module of its own and a line of its table FORMATS.
Nothing is believed of a file: what it declares is checked against its size before anything is
allocated, and it is read by pieces. May import tasks.cache, tasks.records and tasks.errors.
"""
