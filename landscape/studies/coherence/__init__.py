"""How far the gradients of different samples agree: m-coherence of a network and its layers, over checkpoints."""
