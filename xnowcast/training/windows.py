"""Stretches of frames without a gap to train on, and which of them are held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xnowcast.training.sequences import Event


@dataclass(frozen=True, eq=False)
class TrainingWindows:
    """Stretches of frames without a gap.

    ``frames, stride``: length of a window in frames, and every how manieth frame of the data is one. ``event``:
    ``(n,)`` numbers of the events. ``first``: ``(n,)`` positions of the first frames along time. ``time``: ``(n,)``
    datetime64[ns] of the first frames.
    """

    frames: int
    stride: int
    event: np.ndarray
    first: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def some(self, chosen: np.ndarray) -> "TrainingWindows":
        """Those that a mask chooses."""
        return TrainingWindows(self.frames, self.stride, self.event[chosen], self.first[chosen], self.time[chosen])

    def positions(self, number: int, slots: np.ndarray) -> np.ndarray:
        """Positions of a window's frames along time, oldest first."""
        return np.searchsorted(slots, slots[self.first[number]] + self.stride * np.arange(self.frames))


def find_windows(events: Sequence[Event], frames: int, stride: int = 1) -> TrainingWindows:
    """All windows of some events that cross no gap; they overlap.

    ``frames``: length of a window. ``stride``: 2 makes windows of every second frame. ValueError if there is none.

    >>> import xnowcast
    >>> from xnowcast.training.sequences import open_events
    >>> radar = xnowcast.datasets.synthetic_radar(frames=8, shape=(8, 8)).isel(time=[0, 1, 2, 3, 5, 6, 7])
    >>> find_windows(open_events(radar), 3).first.tolist()
    [0, 1, 4]
    """
    found = []
    for number, event in enumerate(events):
        slots = event.axis.slots
        whole = np.ones(len(slots), dtype=bool)
        for k in range(1, frames):
            wanted = slots + k * stride
            at = np.minimum(np.searchsorted(slots, wanted), len(slots) - 1)
            whole &= slots[at] == wanted
        first = np.flatnonzero(whole)
        found.append((np.full(len(first), number), first, event.axis.times[first]))
    all_windows = TrainingWindows(frames, stride, *(np.concatenate(parts) for parts in zip(*found, strict=True)))
    if not len(all_windows):
        longest = max(events, key=_longest_stretch)
        raise ValueError(
            f"no window of {frames} frames{f', every {stride}. of the data,' if stride > 1 else ''} fits: the longest "
            f"stretch without a gap has {_longest_stretch(longest)} frames ({longest.name}), and "
            f"{(frames - 1) * stride + 1} are needed: give longer events, or the model fewer target_frames"
        )
    return all_windows


def _longest_stretch(event: Event) -> int:
    breaks = np.flatnonzero(np.diff(event.axis.slots) > 1)
    return int(np.diff(np.concatenate([[-1], breaks, [len(event.axis.slots) - 1]])).max())


def split_by_time(time: np.ndarray, span: np.timedelta64, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Which windows to train on and which to validate on, so that nothing leaks.

    Weather of one time is on one side, whichever dataset shows it, and between a window of one side and a window of
    the other lies at least the span of a window. Windows that are too near are on neither side.

    Parameters
    ----------
    time : numpy.ndarray
        ``(n,)`` starts of the windows, datetime64.
    span : numpy.timedelta64
        Time that a window covers: frames x stride x step.
    share : float
        Share of the windows to hold out.

    Returns
    -------
    training, validation : numpy.ndarray of bool
        ``(n,)`` masks.

    Raises
    ------
    ValueError
        If a side would be empty.

    Notes
    -----
    Starts less than two spans apart belong to one episode. Of three or more episodes whole ones are held out, evenly
    along time: the share of each is added up, and an episode is held out, and its size subtracted, whenever the sum
    reaches half of its size. With fewer, the last part of the time is held out, or the last part of each of up to
    ten equal stretches, where these parts are ten or more windows long.

    Examples
    --------
    >>> time = np.datetime64("2024-06-01", "ns") + np.arange(40) * np.timedelta64(5, "m")
    >>> training, validation = split_by_time(time, np.timedelta64(20, "m"), 0.25)
    >>> np.flatnonzero(training)[[0, -1]].tolist(), np.flatnonzero(validation)[[0, -1]].tolist()
    ([0, 22], [30, 39])
    """
    starts, place, counts = np.unique(time, return_inverse=True, return_counts=True)
    breaks = np.flatnonzero(np.diff(starts) >= 2 * span) + 1
    episodes = np.split(np.arange(len(starts)), breaks)
    held = _hold_out_episodes(episodes, counts, share) if len(episodes) >= 3 else np.zeros(len(starts), dtype=bool)
    if not held.any() or held.all():
        held = _hold_out_blocks(starts, span, share)
    edge = np.concatenate([[starts[0] - 4 * span], starts[held], [starts[-1] + 4 * span]])
    after = np.searchsorted(edge, starts)
    near = np.minimum(edge[np.minimum(after, len(edge) - 1)] - starts, starts - edge[after - 1])
    training, validation = (near >= 2 * span)[place], held[place]
    if not (training.any() and validation.any()):
        raise ValueError(
            f"validation={share:g} leaves {training.sum()} of {len(time)} windows to train on and {validation.sum()} "
            "to validate on, because a window's length lies between the two: give more data, the model fewer "
            "target_frames, validation=0, or data of their own to validate on"
        )
    return training, validation


def _hold_out_episodes(episodes: Sequence[np.ndarray], counts: np.ndarray, share: float) -> np.ndarray:
    held = np.zeros(len(counts), dtype=bool)
    owed = 0.0
    for episode in episodes:
        size = counts[episode].sum()
        owed += share * size
        if owed >= size / 2:
            held[episode] = True
            owed -= size
    return held


def _hold_out_blocks(starts: np.ndarray, span: np.timedelta64, share: float) -> np.ndarray:
    held = np.zeros(len(starts), dtype=bool)
    covered = (starts[-1] - starts[0]) / span
    stretches = int(np.clip(share * covered / 10, 1, 10))
    for stretch in np.array_split(np.arange(len(starts)), stretches):
        held[stretch[len(stretch) - max(1, round(share * len(stretch))) :]] = True
    return held
