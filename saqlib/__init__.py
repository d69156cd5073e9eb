"""The library behind the notebooks: saliency-guided training of quantized networks, and the clarity of their maps."""
