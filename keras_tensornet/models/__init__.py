"""The dense networks of the papers, each with replaceable layer factories.

Every builder returns an uncompiled Functional `keras.Model` of stock Keras layers that maps images
to logits. A factory argument builds the same network with other layers in the same places:

    resnet_cifar(32)                                                # dense
    resnet_cifar(32, conv=functools.partial(TRConv2D, rank=10))     # factorised

A factory is called like a Keras layer class, with the arguments that every such layer knows:

    conv(filters, kernel_size, strides=1, padding="same", use_bias=False, name="stage1_conv1")
    dense(units, use_bias=True, name="fc")

Four places can be filled, because the papers differ in which of them they compress:

    conv         every convolution but those of the two next lines (LeNet-5: all of them)
    stem         the first convolution, a small layer that most papers leave dense
    projection   the 1x1 convolutions on the shortcuts of a residual network
    dense        every fully connected layer, the classifier included

A place that is left None gets the stock layer; its convolutions start from He's normal
initialisation, and `weight_decay` adds `weight_decay / 2 * |kernel|^2` to the loss for it (its
gradient is the papers' and PyTorch's `weight_decay * kernel`). A factory brings its own initializer
and regularizer. It can treat layers differently by `name`; the names are part of the interface.

`tensor_ring_modes` holds the modes that the tensor-ring paper chose for these networks.
"""

from keras_tensornet.models.conv_cnn import tt_conv_cnn
from keras_tensornet.models.lenet import lenet5, lenet300
from keras_tensornet.models.resnet import resnet18, resnet34, resnet50, resnet_cifar, wide_resnet
from keras_tensornet.models.settings import tensor_ring_modes
from keras_tensornet.models.vgg import vgg11, vgg16, vgg19

__all__ = [
    "lenet5",
    "lenet300",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet_cifar",
    "tensor_ring_modes",
    "tt_conv_cnn",
    "vgg11",
    "vgg16",
    "vgg19",
    "wide_resnet",
]
