"""Guidance: two denoisers, one that knows a condition and one that does not, as one that leans on it."""

from numbers import Real

from torch import Tensor

from xnowcast.diffusion.samplers import Denoise


def guided(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """Classifier-free guidance, ``(1 + w) x0(c) - w x0()``.

    The weights add up to 1, and eps and v are affine in x0 at a given x, so this is guidance on eps or on v as well.

    Parameters
    ----------
    conditional, unconditional : callable
        ``(x, step)`` to the expected signal, with the condition and without.
    weight : float
        w, 0 or more. At 0 it is ``conditional``, and the other is never called.

    Returns
    -------
    callable
        ``denoise(x, step) -> x0``.

    Raises
    ------
    ValueError
        If ``weight`` is below 0 or not finite.

    References
    ----------
    Ho and Salimans (2022), arXiv:2207.12598, equation 6

    Examples
    --------
    >>> import torch
    >>> denoise = guided(lambda x, step: x + 1, lambda x, step: x, weight=2.0)
    >>> denoise(torch.zeros(1), 0).tolist()
    [3.0]
    """
    check_guidance(weight)
    if weight == 0:
        return conditional

    def denoise(x: Tensor, step: float) -> Tensor:
        aware, unaware = conditional(x, step), unconditional(x, step)
        return aware + weight * (aware - unaware)

    return denoise


def check_guidance(weight: float) -> None:
    """Refuse a weight that is negative or not finite.

    ValueError if ``weight`` is no number, below 0 or not finite.
    """
    if not isinstance(weight, Real) or not 0 <= weight < float("inf"):
        raise ValueError(f"guidance is {weight!r}; it must be 0 (none) or more, 1 is usual")
