"""`python -m keras_tensornet`: the same as the command `keras-tensornet`."""

import sys

from keras_tensornet.cli import main

if __name__ == "__main__":
    sys.exit(main())
