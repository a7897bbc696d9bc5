"""The eight recurrent cells, each a layer that can be called alone: `xnowcast.nn.recurrent.cell.Cell`."""

from xnowcast.nn.recurrent.cell import Cell
from xnowcast.nn.recurrent.convlstm import ConvLSTM
from xnowcast.nn.recurrent.mim import MIM
from xnowcast.nn.recurrent.mk_lstm import MKLSTM
from xnowcast.nn.recurrent.motionrnn import MotionRNN
from xnowcast.nn.recurrent.preciplstm import PrecipLSTM
from xnowcast.nn.recurrent.predrnn import PredRNN
from xnowcast.nn.recurrent.predrnn_plus_plus import PredRNNPlusPlus
from xnowcast.nn.recurrent.trajgru import TrajGRU

CELLS: dict[str, type[Cell]] = {
    "convlstm": ConvLSTM,
    "trajgru": TrajGRU,
    "predrnn": PredRNN,
    "predrnn++": PredRNNPlusPlus,
    "mim": MIM,
    "motionrnn": MotionRNN,
    "preciplstm": PrecipLSTM,
    "mk-lstm": MKLSTM,
}

__all__ = [
    "CELLS",
    "MIM",
    "MKLSTM",
    "Cell",
    "ConvLSTM",
    "MotionRNN",
    "PrecipLSTM",
    "PredRNN",
    "PredRNNPlusPlus",
    "TrajGRU",
]
