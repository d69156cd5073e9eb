"""One step of training, for any network: standard, and saliency-guided.

    from saqlib.training import guided_step

    loss = guided_step(model, optimizer, images, labels, generator=torch.Generator().manual_seed(0))

Any optimiser of PyTorch will do; that of `make_optimizer` has the clips of PACT in a group of their own.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["Guided", "Optimizer", "Recipe"],
        "steps": ["guided_step", "make_optimizer", "standard_step"],
        "looking": ["accuracy"],
        "records": ["History", "Images", "Watch"],
        "loop": ["DivergedError", "train"],
    },
)
