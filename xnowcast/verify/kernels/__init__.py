"""Sums that scores are made of, on numpy arrays; one file per family of scores.

Every kernel takes observations and forecasts with the same number of axes, where an axis of length 1 is shared
along the other's (one observation for all members, never copied), and returns sums over ``axis`` with these axes
kept at length 1, so that sums of parts can be added up and divided once, at the end. NaN means not measured: pairs in
which either is NaN are dropped, or make the sums NaN without ``skipna``. Fields have y and x last, which are
both in ``axis``; observations have length 1 along ``member_axis``. Axes are not negative.
"""

from xnowcast.verify.kernels.crps import crps_sums
from xnowcast.verify.kernels.errors import error_sums
from xnowcast.verify.kernels.events import contingency_counts

__all__ = ["contingency_counts", "crps_sums", "error_sums"]
