"""Scores of precipitation forecasts, in xskillscore's style: lazy, aware of NaN, summed first and divided last.

Every score takes ``(observations, forecasts)``, then keywords: ``dim=`` to average over, ``member_dim=`` of an
ensemble, ``weights=``, ``skipna=``, ``keep_attrs=``. Both arguments are DataArrays or Datasets with exactly the same
coordinates. Functions whose name ends in ``_sums``, tables and histograms are additive: those of files, workers or
months can be added up (`merge`), and the scores taken of the sum. `scorecard` aligns a forecast with observations by
valid time and returns many scores at once.
"""

from xnowcast.fields.pixels import (
    PIXEL_SCALES,
    amount_to_rain_rate,
    dbz_to_pixel,
    dbz_to_rain_rate,
    pixel_to_dbz,
    rain_rate_to_amount,
    rain_rate_to_dbz,
    sevir_pixel_to_vil,
    vil_to_sevir_pixel,
)
from xnowcast.fields.units import ZR_RELATIONS
from xnowcast.verify.align import align_observations, match_intervals
from xnowcast.verify.amounts import (
    balanced_mae,
    balanced_mse,
    balanced_sums,
    correlation,
    correlation_sums,
    error_sums,
    mae,
    mean_error,
    mse,
    rmse,
)
from xnowcast.verify.areas import area_weights
from xnowcast.verify.distribution import (
    emd,
    emd_bound,
    histogram_overlap,
    intensity_histogram,
    percentile_error,
    percentiles,
    quantile_quantile,
)
from xnowcast.verify.ensemble import (
    crps_ensemble,
    crps_sums,
    spread_skill,
    spread_skill_sums,
    tw_crps_ensemble,
)
from xnowcast.verify.events import (
    accuracy,
    contingency_table,
    csi,
    ets,
    f1,
    false_alarm_ratio,
    frequency_bias,
    hss,
    pod,
    precision,
    probability_of_false_detection,
    recall,
    sedi,
)
from xnowcast.verify.images import gradient_difference, gradient_sums, image_sums, psnr, psnr_pooled, ssim
from xnowcast.verify.learned import fvd, fvd_sums, lpips, lpips_sums
from xnowcast.verify.neighbourhood import fss, fss_sums, fss_target, useful_scale
from xnowcast.verify.objects import object_free_fraction, sal, sal_sums
from xnowcast.verify.probability import brier_decomposition, brier_score, probability_table, reliability_diagram, roc
from xnowcast.verify.ranks import pit, pit_histogram, rank_histogram
from xnowcast.verify.scorecards import SCORES, format_scorecard, scorecard
from xnowcast.verify.spectra import (
    effective_resolution,
    log_spectral_distance,
    power_spectrum,
    spectral_ratio,
    spectrum_sums,
)
from xnowcast.verify.sums import merge
from xnowcast.verify.thresholds import THRESHOLD_SETS, ThresholdSet, threshold_coordinate

__all__ = [
    "PIXEL_SCALES",
    "SCORES",
    "THRESHOLD_SETS",
    "ZR_RELATIONS",
    "ThresholdSet",
    "accuracy",
    "align_observations",
    "amount_to_rain_rate",
    "area_weights",
    "balanced_mae",
    "balanced_mse",
    "balanced_sums",
    "brier_decomposition",
    "brier_score",
    "contingency_table",
    "correlation",
    "correlation_sums",
    "crps_ensemble",
    "crps_sums",
    "csi",
    "dbz_to_pixel",
    "dbz_to_rain_rate",
    "effective_resolution",
    "emd",
    "emd_bound",
    "error_sums",
    "ets",
    "f1",
    "false_alarm_ratio",
    "format_scorecard",
    "frequency_bias",
    "fss",
    "fss_sums",
    "fss_target",
    "fvd",
    "fvd_sums",
    "gradient_difference",
    "gradient_sums",
    "histogram_overlap",
    "hss",
    "image_sums",
    "intensity_histogram",
    "log_spectral_distance",
    "lpips",
    "lpips_sums",
    "mae",
    "match_intervals",
    "mean_error",
    "merge",
    "mse",
    "object_free_fraction",
    "percentile_error",
    "percentiles",
    "pit",
    "pit_histogram",
    "pixel_to_dbz",
    "pod",
    "power_spectrum",
    "precision",
    "probability_of_false_detection",
    "probability_table",
    "psnr",
    "psnr_pooled",
    "quantile_quantile",
    "rain_rate_to_amount",
    "rain_rate_to_dbz",
    "rank_histogram",
    "recall",
    "reliability_diagram",
    "rmse",
    "roc",
    "sal",
    "sal_sums",
    "scorecard",
    "sedi",
    "sevir_pixel_to_vil",
    "spectral_ratio",
    "spectrum_sums",
    "spread_skill",
    "spread_skill_sums",
    "ssim",
    "threshold_coordinate",
    "tw_crps_ensemble",
    "useful_scale",
    "vil_to_sevir_pixel",
]
