"""Proofs about units: what their ports never do, whatever is on their inputs."""
