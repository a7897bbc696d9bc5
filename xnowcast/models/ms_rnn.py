"""MS-RNN: recurrent cells on three scales."""

from typing import Any

from torch import Tensor

from xnowcast.models.base import Task
from xnowcast.models.recurrent import WIDTHS, RecurrentForecaster, recurrent_task, stack_cells
from xnowcast.nn.multiscale import DEPTH, Multiscale


class MSRNN(RecurrentForecaster):
    """Six recurrent cells on three scales, which forecast frame by frame from their own forecasts.

    Parameters
    ----------
    cell : str
        One of `xnowcast.nn.recurrent.CELLS`; the system's name fixes it.
    size : {"full", "tiny"}
        The paper's 24 channels, or 8 for tests.
    width : int, optional
        Channels, instead of that.
    input_frames, target_frames : int
        Frames that the model reads, and frames ahead that it is trained for; it forecasts any number.
    scaling : {"reflectivity", "hko-7", "dwd-12"}
        From rain rate to [0, 1]: 0 to 60 dBZ with the Z-R relation of Marshall and Palmer or with that of the paper
        for Hong Kong or Germany.
    scheduled_sampling : bool
        In training, frames beyond the input are fed as they are with a probability that falls from 1 to 0.
    lean : bool, optional
        Of PredRNN++, MIM and MotionRNN: leave out weights that nothing reads.
    difference : {"below", "own"}, optional
        Of MIM and MotionRNN: what an input is compared with.
    window : int, optional
        Of PrecipLSTM: width of the attention's window.
    links : int, optional
        Of TrajGRU: places that a cell reads.

    Raises
    ------
    ValueError
        If an option has no such value, or the cell has no such option.

    References
    ----------
    Ma et al. (2022), MS-RNN, arXiv:2206.03010.

    Examples
    --------
    >>> import torch
    >>> model = MSRNN(cell="convlstm", size="tiny")
    >>> frames = torch.rand(1, 5, 1, 16, 20)
    >>> model.forecast(frames, frames >= 0, steps=7).shape
    torch.Size([1, 7, 1, 16, 20])
    """

    def __init__(
        self,
        *,
        cell: str = "convlstm",
        size: str = "full",
        width: int | None = None,
        input_frames: int = 5,
        target_frames: int = 5,
        scaling: str = "reflectivity",
        scheduled_sampling: bool = True,
        lean: bool | None = None,
        difference: str | None = None,
        window: int | None = None,
        links: int | None = None,
    ) -> None:
        options = {"lean": lean, "difference": difference, "window": window, "links": links}
        task = self.declare(
            cell=cell,
            size=size,
            width=width,
            input_frames=input_frames,
            target_frames=target_frames,
            scaling=scaling,
            **options,  # type: ignore[arg-type]
        )
        super().__init__(task, target_frames=target_frames, scaling=scaling, scheduled_sampling=scheduled_sampling)
        self.network = Multiscale(stack_cells(cell, size, width, DEPTH, options), width or WIDTHS[size])

    @classmethod
    def declare(
        cls,
        *,
        cell: str = "convlstm",
        size: str = "full",
        width: int | None = None,
        input_frames: int = 5,
        target_frames: int = 5,
        scaling: str = "reflectivity",
        scheduled_sampling: bool = True,
        lean: bool | None = None,
        difference: str | None = None,
        window: int | None = None,
        links: int | None = None,
    ) -> Task:
        """What it reads and gives; the options are those of the class, and are checked here."""
        return recurrent_task(
            cell,
            size,
            width,
            {"lean": lean, "difference": difference, "window": window, "links": links},
            input_frames=input_frames,
            target_frames=target_frames,
            scaling=scaling,
            grid_multiple=4,
        )

    def advance(self, frame: Tensor, carried: Any) -> tuple[tuple[Tensor, ...], Any]:
        states, memory = carried or ((None,) * DEPTH, None)
        said, _, states, memory = self.network(frame, states, memory)
        return (frame + said if self.residual else said,), (states, memory)
