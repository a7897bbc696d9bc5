"""Pictures for forecasters: maps by lead time, animations, scores against lead time, spectra, reliability.

matplotlib is imported when a picture is drawn, not before. Figures are unknown to pyplot when they are returned, so a
notebook shows them once and none piles up; ``fig.savefig`` works as always, ``plt.show()`` does not see them.
"""

from xnowcast.plot.maps import animate, plot, plot_field, plot_side_by_side, rain_colormap
from xnowcast.plot.scores import plot_qq, plot_rank_histogram, plot_reliability, plot_roc, plot_scores, plot_spectra
from xnowcast.plot.style import finish, lead_unit

__all__ = [
    "animate",
    "finish",
    "lead_unit",
    "plot",
    "plot_field",
    "plot_qq",
    "plot_rank_histogram",
    "plot_reliability",
    "plot_roc",
    "plot_scores",
    "plot_side_by_side",
    "plot_spectra",
    "rain_colormap",
]
