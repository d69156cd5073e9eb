"""Saliency-guided training of quantized networks, and how clear, faithful and cheap their saliency maps are.

The layers, the training step, the maps and their scores are for any network of images to logits, such as yours:

    import torch
    from torch import nn

    from saqlib.quantization import PACT, QuantConv2d, QuantLinear, calibrate
    from saqlib.removal import relevance_gain
    from saqlib.saliency import input_gradient
    from saqlib.scores import gini
    from saqlib.training import guided_step

    # Three channels, 20 x 24 pixels, five classes; 4-bit weights and activations.
    model = nn.Sequential(
        QuantConv2d(3, 8, 5, stride=2, bits=4), PACT(4), nn.Flatten(), QuantLinear(8 * 8 * 10, 5, bits=4)
    )
    images, labels = torch.rand(64, 3, 20, 24), torch.randint(5, (64,))  # yours: float in [0, 1], and their classes

    calibrate(model, images)  # sets the clip of every PACT
    optimizer = torch.optim.Adam(model.parameters(), lr=0.004)
    generator = torch.Generator().manual_seed(0)  # of the noise that hides the least salient pixels
    for _ in range(20):
        loss = guided_step(model, optimizer, images, labels, generator=generator)

    model.eval()
    predicted = model(images).argmax(1)
    maps = input_gradient(model, images, predicted)  # (64, 20, 24), signed
    print("Gini index, 0 to 1:", gini(maps).mean().item())
    gain = relevance_gain(model, images, predicted, maps, steps=14)
    print("relevance gain, -1 to 1:", gain.mean().item())

The network of the study, `saqlib.lenet.build`, and its files for devices, `saqlib.deploy`, are for 28 x 28 pixels of
one channel. The package reads no settings file; the paper's own study is the package `study` of the same repository.
"""

__version__ = "0.1.0"
