"""Accumulators to int8 activations or int32 logits."""
