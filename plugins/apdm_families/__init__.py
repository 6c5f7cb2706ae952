"""The first-party families of models. They enter through the same door as anybody else's."""

from apdm_cli.diffusion.family import Family
from apdm_cli.extension.hooks import hookimpl
from apdm_families.flux import Flux
from apdm_families.flux_2 import Flux2
from apdm_families.qwen_image import QwenImage
from apdm_families.stable_diffusion import StableDiffusion
from apdm_families.stable_diffusion_3 import StableDiffusion3
from apdm_families.stable_diffusion_xl import StableDiffusionXL
from apdm_families.z_image import ZImage


@hookimpl
def apdm_families() -> list[Family]:
    """One instance of each."""
    return [
        *(StableDiffusion(), StableDiffusionXL(), StableDiffusion3()),
        *(Flux(), Flux2(), ZImage(), QwenImage()),
    ]
