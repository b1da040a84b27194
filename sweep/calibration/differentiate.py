"""Squared gradients of the quantized sites: one forward and backward pass of the first samples, for predicted loss.

What is differentiated is the summed log-likelihood of labels that are drawn from the network's own distribution, token
by token: then E[g g'] is the Fisher information F of that distribution, and half of e' F e, to second order, the
Kullback-Leibler divergence that errors e of the sites' values cost (Kullback 1959, section 2.6). The text's own next
tokens would give the "empirical Fisher", which is another matrix (Kunstner et al. 2019, arXiv 1905.12558).

Samples pass one by one, whatever `calibration.batch_size`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sweep.calibration.rewrite import Reached, rewritten
from sweep.core.errors import UsageError, first_line
from sweep.models.head import logits
from sweep.models.load import Model
from sweep.models.mixer import Mixer, Point
from sweep.quantization.sites import quantized

AT_ONCE = 1 << 23  # logits held at a time: float64, four times
_ADVICE = "Choose another model.backend, or calibration.fisher=0"
Meet = Callable[[int, str, Tensor, Tensor], None]  # layer, site, values and their gradients [1, seq, channels]
Settle = Callable[[], None]


def differentiate(
    model: Model, ids: NDArray[np.int64], seed: int, sample: int, meet: Meet, settle: Settle = lambda: None
) -> None:
    """One forward and backward pass of a sample's token ids [seq]; every quantized site of every layer meets its
    gradient. seed and sample decide the labels. settle: called when all sites of a hook have met theirs.

    Raises UsageError where a site is out of reach, or a kernel behind it has no gradient."""

    def forward() -> Tensor:
        return model.backbone(torch.from_numpy(ids)[None].to(model.device))

    def slope(states: Tensor) -> Tensor:
        return log_likelihood_gradient(model, states[0], seed, sample)[None]

    differentiate_through(model.mixers, forward, slope, len(ids), meet, settle)


def differentiate_through(
    mixers: tuple[Mixer, ...],
    forward: Callable[[], Tensor],
    slope: Callable[[Tensor], Tensor],
    tokens: int,
    meet: Meet,
    settle: Settle = lambda: None,
) -> None:
    """Does what `differentiate` does, for any computation that the mixers are part of: forward returns its output for
    the given number of tokens, slope the gradient with respect to that output."""
    probe = Probe(mixers, meet, settle)
    with torch.inference_mode(False), torch.enable_grad():
        try:
            with rewritten(mixers, probe):
                left = forward()
            probe.check_forward(left, tokens)
            torch.autograd.backward(left, slope(left.detach()))
        except (RuntimeError, NotImplementedError) as error:  # without gradients the same network has run before
            if "memory" in str(error):
                raise
            raise probe.no_gradient(first_line(error)) from error
    probe.check_backward(tokens)


def log_likelihood_gradient(model: Model, states: Tensor, seed: int, sample: int) -> Tensor:
    """The gradient by what enters lm_head, states [seq, d_model], of the summed log-likelihood of labels drawn from
    the network's own distribution, [seq, d_model].

    The labels follow from the seed and the sample's number alone, whatever passes before or together with it: each is
    where a uniform number of numpy's PCG64 lies in the running sums of the probabilities, float64."""
    uniform = torch.from_numpy(np.random.default_rng([seed, sample]).random(len(states))).to(states.device)
    rows = max(1, AT_ONCE // int(model.lm.lm_head.weight.shape[0]))
    slopes: list[Tensor] = []
    with torch.enable_grad():
        for start in range(0, len(states), rows):
            part = states[start : start + rows].clone().requires_grad_()
            said = F.log_softmax(logits(model, part), -1)
            with torch.no_grad():
                upto = said.double().exp().cumsum(-1)
                drawn = uniform[start : start + rows, None] * upto[:, -1:]
                labels = torch.searchsorted(upto, drawn, right=True).clamp_(max=upto.shape[1] - 1)
            slopes += torch.autograd.grad(said.gather(-1, labels).sum(), part)
    return torch.cat(slopes)


class Probe:
    """Visits the quantized sites of a forward pass, counts what passes, and hands on each gradient as it comes.

    Every site goes on as a view of itself: the gradient is the one by what a quantizer would write there, whoever else
    reads the tensor."""

    def __init__(self, mixers: tuple[Mixer, ...], meet: Meet, settle: Settle) -> None:
        self._quantized = set(quantized())
        sites = [(m.layer, site) for m in mixers for site in m.sites if site in self._quantized]
        self._reached, self._returned = Reached(mixers, sites), Reached(mixers, sites)
        self._meet, self._settle = meet, settle
        self._begun = False

    def __call__(self, mixer: Mixer, point: Point, x: Tensor) -> Tensor:
        sites = {site: channels for site, channels in mixer.at(point).items() if site in self._quantized}
        return self._watch(mixer.layer, sites, x) if sites else x

    def _watch(self, layer: int, sites: Mapping[str, slice], x: Tensor) -> Tensor:
        if not x.requires_grad:
            if self._begun:
                raise self.no_gradient(f"{', '.join(sites)} of layer {layer} do not follow from the sites before")
            x = x.detach().requires_grad_()  # no site before it
        self._begun = True
        values, through = x.detach(), x.view_as(x)
        pieces = {site: values[..., channels] for site, channels in sites.items()}
        for site, piece in pieces.items():
            self._reached.add(layer, site, piece.numel())

        def came(gradient: Tensor) -> None:
            for site, piece in pieces.items():
                slope = gradient[..., sites[site]]
                self._returned.add(layer, site, slope.numel())
                self._meet(layer, site, piece, slope)
            self._settle()

        through.register_hook(came)  # type: ignore[no-untyped-call]
        return through

    def check_forward(self, left: Tensor, tokens: int) -> None:
        """Raises UsageError unless each site saw just `tokens` x its width values, and what the network gives, `left`,
        follows from one."""
        if missed := self._reached.missed(tokens, "seen"):
            site, saw = missed
            raise UsageError(
                f"calibration.fisher: {site} cannot be reached in {self._reached.backend}: {saw}. {_ADVICE}"
            )
        if not left.requires_grad:
            raise self.no_gradient("nothing that the network gives follows from any site")

    def check_backward(self, tokens: int) -> None:
        """Raises UsageError unless each site has met the gradients of all its values."""
        if missed := self._returned.missed(tokens, "differentiated"):
            raise self.no_gradient(": ".join(missed))

    def no_gradient(self, why: str) -> UsageError:
        return UsageError(f"calibration.fisher: a kernel of {self._reached.backend} has no gradient ({why}). {_ADVICE}")
