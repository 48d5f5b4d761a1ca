"""Two-dimensional convolutions whose kernel is a tensor network: one class a format.

Sources: Wang et al. 2018 (`TRConv2D`); Gabor & Zdunek 2022 (`TTConv2D`); Garipov et al. 2016
(`TTMConv2D`); Lebedev et al. 2015 (`CPConv2D`); Kim et al. 2016 (`TuckerConv2D`); De Lathauwer 2008
and Ye et al. 2018 (`BTConv2D`); Wu et al. 2020 (`HTConv2D`).
"""

from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.conv import FactorizedConv


@serialisable
class FactorizedConv2D(FactorizedConv):
    """A `keras.layers.Conv2D` whose kernel is a tensor network of any format, or of your own.

    Args:
        filters: number of output channels.
        kernel_size: int or (height, width).
        rank: bond sizes: an int for all, or a tuple as the format takes it.
        format: name of the format, "tr" by default.
        network: a `keras_tensornet.Network` of your own, instead of `format` and `rank`.
        in_modes: factors of the input channels (per group), or how many; None takes the format's
            default, balanced factors or the channels as one mode.
        out_modes: the same for `filters` (per group).
        spatial: "joint", one mode of size height * width, or "separate", one mode each; None takes
            the format's default.
        implementation: "factorized" applies the cores in stages, "reconstructed" merges the
            kernel and runs the dense convolution, "auto" chooses by predicted time; or a chain of
            stages as `plan.describe()` writes it; or a dict of these with the keys "inference" and
            "training".
        kernel_initializer: of the merged kernel; by default `MergedVarianceScaling()`.
        kernel_regularizer: of the merged kernel; an L2 penalty is computed from the cores.
        kernel_constraint: of the merged kernel, which is then always merged.
        strides, padding, data_format, dilation_rate, groups, activation, use_bias,
            bias_initializer, bias_regularizer, activity_regularizer, bias_constraint, **kwargs:
            as in `keras.layers.Conv2D`.

    Input shape:
        (batch, height, width, channels), or (batch, channels, height, width) with
        `data_format="channels_first"`. Batch, height and width may be unknown.

    Output shape:
        (batch, new height, new width, filters), or filters first.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if modes do not multiply to the channels, `groups` does not divide them, or a
            rank is below 1 or of the wrong length.
    """

    ndim = 2


@serialisable
class TRConv2D(FactorizedConv):
    """2D convolution with a tensor-ring kernel (Wang et al. 2018, section 3.2).

    Cores (r, n, r) on a ring: input modes, one core for the spatial positions (two with
    `spatial="separate"`), output modes. Arguments as in `FactorizedConv2D`.

    Examples:

    >>> layer = TRConv2D(64, 3, rank=10, in_modes=(4, 4, 4), out_modes=(4, 4, 4))
    >>> layer.build((None, 32, 32, 64))
    >>> layer.network.num_params
    3300
    """

    ndim = 2
    format = "tr"


@serialisable
class TTConv2D(FactorizedConv):
    """2D convolution with a tensor train on the permuted kernel (Gabor & Zdunek 2022).

    The kernel is permuted to (channels, height, width, filters) and `rank` is an int or
    (r1, r2, r3): a 1x1 convolution to r1 channels, D x 1 to r2, 1 x D to r3, 1x1 to the filters.
    Arguments as in `FactorizedConv2D`; `in_modes` and `out_modes` split the channels further.
    """

    ndim = 2
    format = "tt"


@serialisable
class TTMConv2D(FactorizedConv):
    """2D convolution with a TT-matrix kernel (Garipov et al. 2016; TT-CONV of Yin et al. 2021).

    A spatial core (1, D*D, r), then cores (r, i_k, o_k, r') with one input and one output mode
    each. Arguments as in `FactorizedConv2D`.
    """

    ndim = 2
    format = "ttm"


@serialisable
class CPConv2D(FactorizedConv):
    """2D convolution with a CP kernel: a Kruskal convolution (Lebedev et al. 2015).

    `rank` is the number R of rank-one terms: a 1x1 convolution to R channels, a depthwise D x 1, a
    depthwise 1 x D, and a 1x1 to the filters. Arguments as in `FactorizedConv2D`.

    Examples:

    >>> layer = CPConv2D(64, 3, rank=32, padding="same")
    >>> layer.build((None, 32, 32, 48))
    >>> layer.network.num_params == 32 * (48 + 3 + 3 + 64)
    True
    """

    ndim = 2
    format = "cp"


@serialisable
class TuckerConv2D(FactorizedConv):
    """2D convolution with a Tucker kernel (Tucker-2: Kim et al. 2016).

    `rank` is an int or (r_in, r_out): a 1x1 convolution to r_in channels, a D x D core to r_out, a
    1x1 to the filters. Three entries (r_in, r_spatial, r_out) cut the spatial mode as well, four
    with `spatial="separate"`. A rank equal to its mode's size has no factor. Arguments as in
    `FactorizedConv2D`.

    Examples:

    >>> layer = TuckerConv2D(64, 3, rank=(16, 24))
    >>> layer.build((None, 32, 32, 48))
    >>> layer.network.num_params == 48 * 16 + 9 * 16 * 24 + 24 * 64
    True
    """

    ndim = 2
    format = "tucker"


@serialisable
class BTConv2D(FactorizedConv):
    """2D convolution with a block-term kernel (De Lathauwer 2008): a sum of B Tucker convolutions.

    `rank` is (B, r) for B blocks of rank r, (B, r_in, r_out), (B, r_in, r_spatial, r_out), or an
    int for both. With several `in_modes` or `out_modes` each factor carries a pair of them (Ye et
    al. 2018) and the ranks are (B, one a pair). Arguments as in `FactorizedConv2D`.
    """

    ndim = 2
    format = "bt"


@serialisable
class HTConv2D(FactorizedConv):
    """2D convolution with a hierarchical Tucker kernel (Wu et al. 2020).

    Leaves for the input channels, the spatial mode and the filters on a binary tree. `rank` is an
    int or one entry for each node below the root, leaves first. Arguments as in `FactorizedConv2D`.
    """

    ndim = 2
    format = "ht"
