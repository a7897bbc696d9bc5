"""Scores of precipitation forecasts, in xskillscore's style: lazy, aware of NaN, summed first and divided last.

Every score takes ``(observations, forecasts)``, then keywords: ``dim=`` to average over, ``member_dim=`` of an
ensemble, ``skipna=``, ``keep_attrs=``. Both arguments are DataArrays or Datasets with exactly the same coordinates.
`scorecard` aligns a forecast with observations by valid time and returns many scores at once.
"""

from xnowcast.verify.align import align_observations
from xnowcast.verify.contingency import contingency_table, csi, false_alarm_ratio, frequency_bias, hss, pod
from xnowcast.verify.deterministic import error_sums, mae, mean_error, rmse
from xnowcast.verify.ensemble import crps_ensemble
from xnowcast.verify.scorecard import format_scorecard, scorecard

__all__ = [
    "align_observations",
    "contingency_table",
    "crps_ensemble",
    "csi",
    "error_sums",
    "false_alarm_ratio",
    "format_scorecard",
    "frequency_bias",
    "hss",
    "mae",
    "mean_error",
    "pod",
    "rmse",
    "scorecard",
]
