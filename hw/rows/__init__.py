"""Row units: log-softmax and LayerNorm at one word per cycle."""
