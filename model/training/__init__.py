"""Training of low-bit vision transformers in PyTorch (extra ``train``)."""
