"""torchvision's ShuffleNetV2, registered with timm, which has none."""

from torch import nn
from torchvision.models import shufflenet_v2_x1_0

from lit_fa.networks.parts import BlockNetwork, layers
from lit_fa.networks.registry import register


@register
def shufflenetv2_100(*, num_classes: int = 10, in_chans: int = 3) -> BlockNetwork:
    """ShuffleNetV2 1.0x (Ma et al. 2018, arXiv:1807.11164): 1.3 M weights; images of 32 pixels leave one position.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
    """
    model = shufflenet_v2_x1_0(num_classes=num_classes)
    if in_chans != 3:
        model.conv1[0] = nn.Conv2d(in_chans, model.conv1[0].out_channels, 3, 2, 1, bias=False)
    for block in (*model.stage2[1:], *model.stage3[1:], *model.stage4[1:]):
        block.branch1 = None  # an empty module that never runs: this half of the channels is not changed
    stem = nn.Sequential(*model.conv1, model.maxpool)
    head = layers(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=model.fc)
    return BlockNetwork([stem, *model.stage2, *model.stage3, *model.stage4, model.conv5], head, num_classes)
