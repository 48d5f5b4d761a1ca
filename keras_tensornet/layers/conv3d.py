"""Three-dimensional convolutions whose kernel is a tensor network: one class a format.

The formats are those of `keras_tensornet.layers.conv2d`, with three spatial axes.
"""

from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.conv import FactorizedConv


@serialisable
class FactorizedConv3D(FactorizedConv):
    """A `keras.layers.Conv3D` whose kernel is a tensor network of any format, or of your own.

    Arguments as in `FactorizedConv2D`, with three spatial axes.

    Input shape:
        (batch, depth, height, width, channels), or channels first.

    Output shape:
        (batch, new depth, new height, new width, filters), or filters first.
    """

    ndim = 3


@serialisable
class TRConv3D(FactorizedConv):
    """3D convolution with a tensor-ring kernel.

    Cores (r, n, r) on a ring: input modes, spatial modes, output modes. Arguments as in
    `FactorizedConv3D`.
    """

    ndim = 3
    format = "tr"


@serialisable
class TTConv3D(FactorizedConv):
    """3D convolution with a tensor-train kernel.

    Cores (r, n, r') on a chain: channels, each spatial axis, filters; `rank` an int or the inner
    ranks. Arguments as in `FactorizedConv3D`.
    """

    ndim = 3
    format = "tt"


@serialisable
class TTMConv3D(FactorizedConv):
    """3D convolution with a TT-matrix kernel.

    A spatial core (1, D*D*D, r), then cores (r, i_k, o_k, r'). Arguments as in `FactorizedConv3D`.
    """

    ndim = 3
    format = "ttm"


@serialisable
class CPConv3D(FactorizedConv):
    """3D convolution with a CP kernel.

    A 1x1x1 convolution to `rank` channels, a depthwise one along each axis, a 1x1x1 to the filters.
    Arguments as in `FactorizedConv3D`.
    """

    ndim = 3
    format = "cp"


@serialisable
class TuckerConv3D(FactorizedConv):
    """3D convolution with a Tucker kernel.

    `rank` is an int or (r_in, r_out); more entries cut the spatial modes as well. Arguments as in
    `FactorizedConv3D`.
    """

    ndim = 3
    format = "tucker"


@serialisable
class BTConv3D(FactorizedConv):
    """3D convolution with a block-term kernel.

    `rank` is (B, r), (B, r_in, r_out), or an int for both. Arguments as in `FactorizedConv3D`.
    """

    ndim = 3
    format = "bt"


@serialisable
class HTConv3D(FactorizedConv):
    """3D convolution with a hierarchical Tucker kernel.

    `rank` is an int or one entry for each node below the root, leaves first. Arguments as in
    `FactorizedConv3D`.
    """

    ndim = 3
    format = "ht"
