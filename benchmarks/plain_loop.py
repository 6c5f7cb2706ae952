"""The loop that `benchmarks.speed` compares with: the published algorithm, written straight down.

Behaviour, not code, of the reference implementation of arXiv 2511.01307: float32, one sample to a
forward, pictures and prompts encoded again wherever they are needed, a forward of θ′ that nothing
uses, and the sum of both gradients in the outer step (docs/method.md, "Differences").
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainLoop:
    """N_protect × N_per on a Stable Diffusion pipeline; `steps` yields after every inner step.

    Args:
        parts: components of the pipeline by name; "unet" is θ and changes in place.
        photos: x⁻, pixels (N, 3, H, W) in −1 … 1.
        class_pictures: x⁺ and x^pr, as many.
        prompts: c_per and c_pr.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        photos: Tensor,
        class_pictures: Tensor,
        prompts: tuple[str, str],
        *,
        learning_rate: float = 5e-6,
        beta: float = 1.0,
    ) -> None:
        self.parts, self.photos, self.class_pictures = parts, photos, class_pictures
        self.personal, self.generic = prompts
        self.learning_rate, self.beta = learning_rate, beta
        self.theta: nn.Module = parts["unet"]
        self.phi = copy.deepcopy(self.theta).requires_grad_(False)
        self.outer = torch.optim.AdamW(self.theta.parameters(), lr=learning_rate)
        self.generator = torch.Generator().manual_seed(0)
        self.last_dpo = float("nan")

    def steps(self, outer: int, inner: int) -> Iterator[int]:
        """Yields the number of inner steps that are done."""
        done = 0
        for _ in range(outer):
            path = copy.deepcopy(self.theta)
            optimizer = torch.optim.AdamW(path.parameters(), lr=self.learning_rate)
            gradients = [torch.zeros_like(weight) for weight in path.parameters()]
            for _ in range(inner):
                number = int(torch.randint(len(self.photos), (1,), generator=self.generator))
                optimizer.zero_grad()
                self._personalization(path, number).backward()
                optimizer.step()
                self._protection(path, number).backward()
                for total, weight in zip(gradients, path.parameters(), strict=True):
                    if weight.grad is not None:
                        total += weight.grad
                done += 1
                yield done
            for weight, total in zip(self.theta.parameters(), gradients, strict=True):
                weight.grad = total
            self.outer.step()

    def _personalization(self, path: nn.Module, number: int) -> Tensor:
        photo, picture = (
            self._encode(self.photos[number]),
            self._encode(self.class_pictures[number]),
        )
        step, noise = self._draw(photo)
        own = self._error(path, photo, noise, step, self._embed(self.personal)).mean()
        prior = self._error(path, picture, noise, step, self._embed(self.generic)).mean()
        return own + prior

    def _protection(self, path: nn.Module, number: int) -> Tensor:
        condition = self._embed(self.personal)
        negative, positive = (
            self._encode(each[number]) for each in (self.photos, self.class_pictures)
        )
        step, noise = self._draw(negative)
        margins = []
        for latents in (positive, negative):
            error = self._error(path, latents, noise, step, condition)
            with torch.no_grad():
                reference = self._error(self.phi, latents, noise, step, condition)
            margins.append(error - reference)
        dpo = -functional.logsigmoid(-self.beta * (margins[0] - margins[1])).mean()
        self.last_dpo = dpo.item()
        with torch.no_grad():
            self._error(path, self._encode(self.photos[number]), noise, step, condition)  # unused
        kept = self._encode(self.class_pictures[number])
        return dpo + self._error(path, kept, noise, step, self._embed(self.generic)).mean()

    def _draw(self, like: Tensor) -> tuple[Tensor, Tensor]:
        count = self.parts["scheduler"].config.num_train_timesteps
        step = torch.randint(count, (1,), generator=self.generator)
        return step.to(like.device), torch.randn(like.shape, generator=self.generator).to(like)

    def _error(
        self, network: nn.Module, latents: Tensor, noise: Tensor, step: Tensor, condition: Tensor
    ) -> Tensor:
        noisy = self.parts["scheduler"].add_noise(latents, noise, step)
        return (network(noisy, step, condition).sample - noise).square()

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        autoencoder = self.parts["vae"]
        found = autoencoder.encode(pixels[None]).latent_dist
        noise = torch.randn(found.mean.shape, generator=self.generator).to(found.mean)
        return (found.mean + found.std * noise) * autoencoder.config.scaling_factor

    @torch.no_grad()
    def _embed(self, prompt: str) -> Tensor:
        tokenizer, encoder = self.parts["tokenizer"], self.parts["text_encoder"]
        tokens = tokenizer(
            prompt,
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        found: Tensor = encoder(tokens.input_ids.to(self.photos.device))[0]
        return found
