"""torchvision's ShuffleNetV2, which timm does not have, under a name that timm finds."""

from torch import nn
from torchvision.models import shufflenet_v2_x1_0

from lit_fa.networks.parts import Chain, layers
from lit_fa.networks.registry import register


@register
def shufflenetv2_100(*, num_classes: int = 10, in_chans: int = 3) -> Chain:
    """ShuffleNetV2 1.0x (Ma et al. 2018, arXiv:1807.11164): 1.3 M weights; images of 32 pixels leave one position.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
    """
    made = shufflenet_v2_x1_0(num_classes=num_classes)
    if in_chans != 3:
        made.conv1[0] = nn.Conv2d(in_chans, made.conv1[0].out_channels, 3, 2, 1, bias=False)
    for block in (*made.stage2[1:], *made.stage3[1:], *made.stage4[1:]):
        block.branch1 = None  # the half that is passed on as it is: an empty module that never runs
    stem = nn.Sequential(*made.conv1, made.maxpool)
    head = layers(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=made.fc)
    return Chain([stem, *made.stage2, *made.stage3, *made.stage4, made.conv5], head, num_classes)
