"""Commands of the command line that need no package of their own; see `keras_tensornet.cli`."""
