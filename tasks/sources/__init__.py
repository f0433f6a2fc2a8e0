"""Where datasets come from: the embedded MNIST, named downloads, IDX folders, .npz files."""
