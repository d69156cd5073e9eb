"""For hands: the committed networks and their maps without PyTorch, and, with it, networks with bits of your own."""
