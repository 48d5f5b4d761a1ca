"""One-dimensional convolutions whose kernel is a tensor network: one class a format.

The formats are those of `keras_tensornet.layers.conv2d`, with one spatial axis.
"""

from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.conv import FactorizedConv


@serialisable
class FactorizedConv1D(FactorizedConv):
    """A `keras.layers.Conv1D` whose kernel is a tensor network of any format, or of your own.

    Arguments as in `FactorizedConv2D`, with one spatial axis; `padding` may also be
    "causal".

    Input shape:
        (batch, steps, channels), or (batch, channels, steps) with `data_format="channels_first"`.

    Output shape:
        (batch, new steps, filters), or filters first.
    """

    ndim = 1


@serialisable
class TRConv1D(FactorizedConv):
    """1D convolution with a tensor-ring kernel.

    Cores (r, n, r) on a ring: input modes, spatial modes, output modes. Arguments as in
    `FactorizedConv1D`.
    """

    ndim = 1
    format = "tr"


@serialisable
class TTConv1D(FactorizedConv):
    """1D convolution with a tensor-train kernel.

    Cores (r, n, r') on a chain: channels, steps, filters; `rank` an int or the inner ranks.
    Arguments as in `FactorizedConv1D`.
    """

    ndim = 1
    format = "tt"


@serialisable
class TTMConv1D(FactorizedConv):
    """1D convolution with a TT-matrix kernel.

    A spatial core (1, D, r), then cores (r, i_k, o_k, r'). Arguments as in `FactorizedConv1D`.
    """

    ndim = 1
    format = "ttm"


@serialisable
class CPConv1D(FactorizedConv):
    """1D convolution with a CP kernel.

    A 1-step convolution to `rank` channels, a depthwise one of D steps, a 1-step one to the
    filters. Arguments as in `FactorizedConv1D`.
    """

    ndim = 1
    format = "cp"


@serialisable
class TuckerConv1D(FactorizedConv):
    """1D convolution with a Tucker kernel.

    `rank` is an int or (r_in, r_out); more entries cut the spatial modes as well. Arguments as in
    `FactorizedConv1D`.
    """

    ndim = 1
    format = "tucker"


@serialisable
class BTConv1D(FactorizedConv):
    """1D convolution with a block-term kernel.

    `rank` is (B, r), (B, r_in, r_out), or an int for both. Arguments as in `FactorizedConv1D`.
    """

    ndim = 1
    format = "bt"


@serialisable
class HTConv1D(FactorizedConv):
    """1D convolution with a hierarchical Tucker kernel.

    `rank` is an int or one entry for each node below the root, leaves first. Arguments as in
    `FactorizedConv1D`.
    """

    ndim = 1
    format = "ht"
