"""Floating-point multilayer perceptron on the patches of an image: what a core without row units runs."""

from __future__ import annotations

from dataclasses import dataclass

from .float_ops import Float, FloatLayers, ImageConfig, LayerFactory, Observer, Shapes, State, check_positive, cut_patches, linear_shapes

__all__ = ["MlpConfig", "forward"]


@dataclass(frozen=True, kw_only=True)
class MlpConfig(ImageConfig):
    """``depth`` layers of ``embed_dim`` with GELU, the first one on the whole image, and a head; see also :class:`.float_ops.ImageConfig`.

    Parameters
    ----------
    depth : int
    """

    depth: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("depth", self.depth)
        if self.patch_size != self.img_size:
            raise ValueError(f"a perceptron takes the whole image: patch_size must be {self.img_size}, not {self.patch_size}")

    @property
    def hidden_layers(self) -> list[str]:
        """Names of the layers behind the first one."""
        return [f"layers.{index}.fc1" for index in range(self.depth - 1)]

    def parameter_shapes(self) -> Shapes:
        """Name and shape of every parameter."""
        width = self.embed_dim
        shapes = self.patch_shapes
        for name in self.hidden_layers:
            shapes |= linear_shapes(name, width, width)
        return shapes | linear_shapes("head", self.num_classes, width)


def forward(config: MlpConfig, state: State, images: Float, observe: Observer | None = None, factory: LayerFactory = FloatLayers) -> Float:
    """Logits of normalised ``images``: arguments and result as of :func:`.float_vit.forward`. Layers are observed before GELU."""
    saw = observe or (lambda name, array: None)
    layers = factory(state, saw)
    x = layers.linear("patch_embed.proj", cut_patches(config, images))
    saw("patch_embed", x)
    for name in config.hidden_layers:
        x = layers.linear(name, layers.hidden(x))
        saw(name, x)
    logits = layers.linear("head", layers.hidden(x)[:, 0])
    saw("head", logits)
    return logits
