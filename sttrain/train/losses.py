"""How far predictions are from what was hidden: squared errors, or likelihoods of counts.

Letters: B batch, M genes, L sites, T target sites, K genes of the vocabulary.
"""

import math

import torch
from torch import Tensor
from torch.distributions import NegativeBinomial
from torch.nn.functional import avg_pool2d

from sttrain.model.autoencoder import (
    TARGET_SUM,
    Hidden,
    Reconstruction,
    Sites,
    gather_sites,
)
from sttrain.train.objectives import target_mask


def count_errors(
    sites: Sites,
    hidden: Hidden,
    found: Reconstruction,
    counts: Tensor,
    totals: Tensor,
) -> Tensor:
    """Return (B,) the negative log-likelihood of the hidden counts of each patch, summed.

    Counts are Poisson, or negative binomial with the gene's own dispersion, about the predicted
    rate times the site's library size over 10,000: the library size is an offset and never
    predicted.

    Parameters
    ----------
    sites, hidden, found
        A batch, what was hidden of it, and logarithms of rates of a model of loss ``poisson`` or
        ``nb``.
    counts
        (B, M, ...) raw counts.
    totals
        (B, ...) library sizes.
    """
    counted = target_mask(sites, hidden, found)
    wanted = gather_sites(counts.flatten(2).float(), found.index)
    size = totals.flatten(1).float().gather(1, found.index)[:, None, :]  # (B, 1, T)
    # Cut before any logarithm: an infinity that does not count would still reach the gradient.
    log_mean = torch.where(counted, found.values + (size / TARGET_SUM).log(), 0)
    wanted = torch.where(counted, wanted, 0)
    if found.dispersion is None:
        errors = log_mean.exp() - wanted * log_mean + torch.lgamma(wanted + 1)
    else:
        # The variance is mean + mean^2 / r, with r = exp(dispersion).
        log_r = found.dispersion[..., None]
        law = NegativeBinomial(log_r.exp(), logits=log_mean - log_r, validate_args=False)
        errors = -law.log_prob(wanted)  # type: ignore[no-untyped-call]
    return torch.where(counted, errors, 0).sum((1, 2))


def smooth_targets(sites: Sites, share: float) -> Tensor:
    """Return (B, M, L) values drawn towards the mean of the 3 x 3 observed sites about each.

    The squared error to ``(1 - share) * value + share * mean`` has the gradient of both errors
    weighted so. At a site's own place the mean holds the site itself.

    Parameters
    ----------
    sites
        Square windows.
    share
        0 leaves the values as they are, 1 is the mean alone.
    """
    B, _, L = sites.values.shape
    P = math.isqrt(L)

    def box(values: Tensor) -> Tensor:
        # Sums, not means: what lies outside the window is not observed.
        return avg_pool2d(values.view(B, -1, P, P), 3, 1, 1, divisor_override=1).flatten(2)

    number = box(sites.observed.float()).clamp(min=1)  # (B, 1, L)
    # Unobserved sites and padding have the value 0 and add nothing.
    mean = box(sites.values) / number
    return torch.where(sites.observed[:, None], torch.lerp(sites.values, mean, share), 0)
