"""The recurrent family read formula by formula, one module a convolution: slow, obvious, and nothing shared.

The package's networks are compared with these in the tests and timed against them in ``benchmarks/recurrent.py``.
Each cell is built from the package's cell, whose weights it copies: ``plain(cell)(x, state, memory, below)``.
"""

import torch
from torch import nn
from torch.nn import functional as F

sigmoid, tanh = torch.sigmoid, torch.tanh


def copies(joint):
    """One convolution per map of a joint convolution; a single one where it reads a concatenation."""
    channels = joint.inputs if joint.separate else [sum(joint.inputs)]
    convolutions, start = [], 0
    for number, before in enumerate(channels):
        made = nn.Conv2d(before, len(joint.weight), joint.kernel, padding=joint.kernel // 2)
        with torch.no_grad():
            made.weight.copy_(joint.weight[:, start : start + before])
            made.bias.copy_(joint.bias[number])
        convolutions.append(made)
        start += before
    return convolutions


def zeros_like(x, given):
    return torch.zeros_like(x) if given is None else given


def gate_thrice(gates, memory):
    i, f, g = torch.chunk(gates, 3, dim=1)
    return sigmoid(f) * memory + sigmoid(i) * tanh(g)


class PlainConvLSTM(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.wx, self.wh = copies(cell.gates)

    def forward(self, x, state=None, memory=None, below=None):
        h, c = state or (torch.zeros_like(x), torch.zeros_like(x))
        i, f, g, o = torch.chunk(self.wx(x) + self.wh(h), 4, dim=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, (h, c), None


def read_displaced(field, dy, dx):
    """Bilinear reading of (b, c, y, x) at every cell plus (dy, dx), each (b, y, x); 0 beyond the edge."""
    b, _, ny, nx = field.shape
    y = torch.arange(ny).view(-1, 1) + dy
    x = torch.arange(nx) + dx
    read = torch.zeros_like(field)
    for corner_y in (y.floor(), y.floor() + 1):
        for corner_x in (x.floor(), x.floor() + 1):
            weight = (1 - (y - corner_y).abs()) * (1 - (x - corner_x).abs())
            inside = (corner_y >= 0) & (corner_y < ny) & (corner_x >= 0) & (corner_x < nx)
            iy, ix = corner_y.clamp(0, ny - 1).long(), corner_x.clamp(0, nx - 1).long()
            for sample in range(b):
                read[sample] += field[sample][:, iy[sample], ix[sample]] * (weight * inside)[sample]
    return read


class PlainTrajGRU(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.links = cell.links
        self.wx, self.flow, self.wh = cell.input, cell.flow, cell.hidden
        self.fx, self.fh = copies(cell.motion)

    def forward(self, x, state=None, memory=None, below=None):
        h = state[0] if state else torch.zeros_like(x)
        flow = self.flow(F.leaky_relu(self.fx(x) + self.fh(h), 0.2))
        warped = [read_displaced(h, -flow[:, 2 * k], -flow[:, 2 * k + 1]) for k in range(self.links)]
        # the package keeps the links of one channel together, so its 1 x 1 convolution reads them in that order
        ordered = torch.cat([w[:, channel : channel + 1] for channel in range(h.shape[1]) for w in warped], dim=1)
        zx, rx, hx = torch.chunk(self.wx(x), 3, dim=1)
        zh, rh, hh = torch.chunk(self.wh(ordered), 3, dim=1)
        z, r = sigmoid(zx + zh), sigmoid(rx + rh)
        h = (1 - z) * F.leaky_relu(hx + r * hh, 0.2) + z * h
        return h, (h,), None


class PlainPredRNN(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.wx, self.wh = copies(cell.gates)
        self.mx, self.mm = copies(cell.memory_gates)
        self.co, self.mo = copies(cell.output.gate)
        self.last = cell.output.value

    def forward(self, x, state=None, memory=None, below=None):
        h, c = state or (torch.zeros_like(x), torch.zeros_like(x))
        m = zeros_like(x, memory)
        i, f, g, o = torch.chunk(self.wx(x) + self.wh(h), 4, dim=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        m = gate_thrice(self.mx(x) + self.mm(m), m)
        h = sigmoid(o + self.co(c) + self.mo(m)) * tanh(self.last(torch.cat([c, m], dim=1)))
        return h, (h, c), m


class PlainPredRNNPlusPlus(nn.Module):
    def __init__(self, cell):
        super().__init__()
        (self.w1,), (self.w2,), (self.w5,) = copies(cell.gates), copies(cell.memory_gates), copies(cell.output)
        self.w3, self.w6 = cell.forget, cell.value
        self.has_highway = hasattr(cell, "highway")
        if self.has_highway:
            self.px, self.pz = copies(cell.highway.gates)

    def forward(self, x, state=None, memory=None, below=None):
        h, c, z = state or (torch.zeros_like(x),) * 3
        m = zeros_like(x, memory)
        if self.has_highway:
            p, s = torch.chunk(self.px(x) + self.pz(z), 2, dim=1)
            p, s = tanh(p), sigmoid(s)
            x = z = s * p + (1 - s) * z
        c = gate_thrice(self.w1(torch.cat([x, h, c], dim=1)), c)
        i, f, g = torch.chunk(self.w2(torch.cat([x, c, m], dim=1)), 3, dim=1)
        m = sigmoid(f) * tanh(self.w3(m)) + sigmoid(i) * tanh(g)
        h = tanh(self.w5(torch.cat([x, c, m], dim=1))) * tanh(self.w6(torch.cat([c, m], dim=1)))
        return h, (h, c, z), m


class PlainMIM(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.first, self.own = cell.first, cell.difference == "own"
        self.wx, self.wh = copies(cell.gates)
        self.mx, self.mm = copies(cell.memory_gates)
        self.co, self.mo = copies(cell.output.gate)
        self.last = cell.output.value
        if not self.first:
            self.nx, self.nn = copies(cell.trend.nonstationary)
            self.dx, self.dn = copies(cell.trend.difference)
            self.sd, self.sc = copies(cell.trend.stationary)
            (self.so,) = copies(cell.trend.output)

    def forward(self, x, state=None, memory=None, below=None):
        h, _, state, m = self.all(x, state, memory, below)
        return h, state, m

    def all(self, x, state, memory, below):
        h, c, n, s, previous = state or (torch.zeros_like(x),) * 5
        m = zeros_like(x, memory)
        if self.first:
            i, f, g, o = torch.chunk(self.wx(x) + self.wh(h), 4, dim=1)
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        else:
            i, g, o = torch.chunk(self.wx(x) + self.wh(h), 3, dim=1)
            change = x - previous
            n = gate_thrice(self.nx(change) + self.nn(n), n)
            d = sigmoid(self.dx(change) + self.dn(n)) * tanh(n)
            i_s, f_s, g_s, o_s = torch.chunk(self.sd(d) + self.sc(c), 4, dim=1)
            s = sigmoid(f_s) * s + sigmoid(i_s) * tanh(g_s)
            t = sigmoid(o_s + self.so(s)) * tanh(s)
            c = t + sigmoid(i) * tanh(g)
        m = gate_thrice(self.mx(x) + self.mm(m), m)
        o = sigmoid(o + self.co(c) + self.mo(m))
        h = o * tanh(self.last(torch.cat([c, m], dim=1)))
        previous = x if self.own or below is None else below
        return h, o, (h, c, n, s, previous), m


class PlainMotionRNN(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.mim, self.gru = PlainMIM(cell.cell), None if cell.last else cell.motion

    def forward(self, x, state=None, memory=None, below=None):
        inner, motion, trend = (state[:5], state[5], state[6]) if state else (None, None, None)
        h, o, inner, m = self.mim.all(x, inner, memory, below)
        gru = self.gru
        if gru is None:  # the motion stands between layers: the last shows what a MIM cell does
            return h, (*inner, None, None), m
        e = gru.encode(h)
        if motion is None:
            motion = trend = torch.zeros(len(x), 18, *e.shape[-2:])
        u, r = torch.chunk(sigmoid(gru.gates(torch.cat([e, motion], dim=1))), 2, dim=1)
        z = tanh(gru.candidate(torch.cat([e, r * motion], dim=1)))
        transient = u * z + (1 - u) * motion
        trend = trend + 0.5 * (motion - trend)
        motion = transient + trend
        mask = sigmoid(gru.mask(e))
        read = [read_displaced(e, motion[:, 2 * k], motion[:, 2 * k + 1]) * mask[:, k : k + 1] for k in range(9)]
        ordered = torch.cat([w[:, channel : channel + 1] for channel in range(e.shape[1]) for w in read], dim=1)
        shown = gru.decode(gru.mix(ordered))
        g = sigmoid(gru.blend(torch.cat([shown, h], dim=1)))
        h = g * h + (1 - g) * shown + (1 - o) * x
        return h, (h, *inner[1:], motion, trend), m


def plain_attention(query, key, value, window):
    """Every offset of the window in turn; keys beyond the edge have no weight."""
    _, _, ny, nx = query.shape
    reach = window // 2
    key, value = F.pad(key, (reach,) * 4), F.pad(value, (reach,) * 4)
    inside = F.pad(torch.ones_like(query[:, :1]), (reach,) * 4)
    scores = []
    for dy in range(window):
        for dx in range(window):
            score = (query * key[:, :, dy : dy + ny, dx : dx + nx]).sum(1)
            scores.append(score.masked_fill(inside[:, 0, dy : dy + ny, dx : dx + nx] == 0, -torch.inf))
    weights = torch.softmax(torch.stack(scores, dim=1), dim=1)
    answer = torch.zeros_like(query)
    for offset in range(window**2):
        dy, dx = divmod(offset, window)
        answer += weights[:, offset : offset + 1] * value[:, :, dy : dy + ny, dx : dx + nx]
    return answer


class PlainPrecipLSTM(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.window, self.qkv = cell.attention.window, cell.attention.project
        (self.wa,) = copies(cell.attended)
        self.wx, self.wh = copies(cell.gates)
        self.mx, self.mm = copies(cell.memory_gates)
        self.sx, self.ss = copies(cell.space_gates)
        self.tx, self.tt = copies(cell.time_gates)
        self.co, self.so, self.to_, self.mo = copies(cell.output.gate)
        self.last = cell.output.value

    def forward(self, x, state=None, memory=None, below=None):
        h, c, space, time, previous = state or (torch.zeros_like(x),) * 5
        m = zeros_like(x, memory)
        query, key, value = torch.chunk(self.qkv(x), 3, dim=1)
        xa = x + self.wa(plain_attention(query, key, value, self.window))
        i, f, g, o = torch.chunk(self.wx(xa) + self.wh(h), 4, dim=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        m = gate_thrice(self.mx(xa) + self.mm(m), m)
        space = gate_thrice(self.sx(xa) + self.ss(space), space)
        time = gate_thrice(self.tx(x - previous) + self.tt(time), time)
        o = sigmoid(o + self.co(c) + self.so(space) + self.to_(time) + self.mo(m))
        h = o * tanh(self.last(torch.cat([c, space, time, m], dim=1)))
        return h, (h, c, space, time, x), m


class PlainMKLSTM(nn.Module):
    def __init__(self, cell):
        super().__init__()
        (self.x3, self.h3), (self.x5, self.h5) = (copies(gates) for gates in cell.gates)
        (self.c3,), (self.c5,) = (copies(output) for output in cell.output)
        self.last = cell.value

    def forward(self, x, state=None, memory=None, below=None):
        h, c3, c5 = state or (torch.zeros_like(x),) * 3
        i3, f3, g3, o3 = torch.chunk(self.x3(x) + self.h3(h), 4, dim=1)
        i5, f5, g5, o5 = torch.chunk(self.x5(x) + self.h5(h), 4, dim=1)
        c3 = sigmoid(f3) * c3 + sigmoid(i3) * tanh(g3)
        c5 = sigmoid(f5) * c5 + sigmoid(i5) * tanh(g5)
        h = sigmoid(o3 + o5 + self.c3(c3) + self.c5(c5)) * tanh(self.last(torch.cat([c3, c5], dim=1)))
        return h, (h, c3, c5), None


PLAIN = {
    "ConvLSTM": PlainConvLSTM,
    "TrajGRU": PlainTrajGRU,
    "PredRNN": PlainPredRNN,
    "PredRNNPlusPlus": PlainPredRNNPlusPlus,
    "MIM": PlainMIM,
    "MotionRNN": PlainMotionRNN,
    "PrecipLSTM": PlainPrecipLSTM,
    "MKLSTM": PlainMKLSTM,
}


def plain(cell):
    """The plain reading of one of the package's cells, with its weights."""
    return PLAIN[type(cell).__name__](cell)


class PlainMultiscale(nn.Module):
    """Equations 3 and 4 as they stand, or 5 and 6 where another network's outputs are added."""

    def __init__(self, network):
        super().__init__()
        self.embed, self.read = network.embed, network.read
        self.cells = nn.ModuleList(plain(cell) for cell in network.cells)

    def forward(self, frame, states, m, extra=None):
        down = nn.MaxPool2d(2)
        up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

        def move(memory, how):
            return None if memory is None else how(memory)

        d0, d1, d2, e2, e1, e0 = extra or [0.0] * 6
        s = [None] * 6
        below = self.embed(frame)
        h0, s[0], m = self.cells[0](below + d0, states[0], m, below)
        below, m = down(h0), move(m, down)
        h1, s[1], m = self.cells[1](below + d1, states[1], m, below)
        below, m = down(h1), move(m, down)
        h2, s[2], m = self.cells[2](below + d2, states[2], m, below)
        h3, s[3], m = self.cells[3](h2 + e2, states[3], m, h2)
        below, m = up(h3), move(m, up)
        h4, s[4], m = self.cells[4](below + h1 + e1, states[4], m, below)
        below, m = up(h4), move(m, up)
        h5, s[5], m = self.cells[5](below + h0 + e0, states[5], m, below)
        return self.read(h5), [h0, h1, h2, h3, h4, h5], s, m


class PlainMSRNN(nn.Module):
    """Frames (b, known, 1, y, x) to the predictions of all steps (b, known + steps - 1, 1, y, x)."""

    def __init__(self, model):
        super().__init__()
        self.network = PlainMultiscale(model.network)

    def forward(self, frames, steps):
        known, states, m, said = frames.shape[1], [None] * 6, None, []
        for t in range(known + steps - 1):
            frame = frames[:, t] if t < known else said[-1]
            frame, _, states, m = self.network(frame, states, m)
            said.append(frame)
        return torch.stack(said, dim=1)


class PlainDBRNN(nn.Module):
    """Equations 2 to 6 with one memory through all twelve cells: the forecast and the deblurred frames of all steps."""

    def __init__(self, model):
        super().__init__()
        self.fm, self.dm = PlainMultiscale(model.forecasting), PlainMultiscale(model.deblurring)

    def forward(self, frames, steps):
        known, f_states, d_states, m, forecasts, deblurred = frames.shape[1], [None] * 6, [None] * 6, None, [], []
        for t in range(known + steps - 1):
            frame = frames[:, t] if t < known else deblurred[-1]
            forecast, (e0, e1, e2, d2, d1, d0), f_states, m = self.fm(frame, f_states, m)
            frame, _, d_states, m = self.dm(forecast, d_states, m, [d0, d1, d2, e2, e1, e0])
            forecasts.append(forecast)
            deblurred.append(frame)
        return torch.stack(forecasts, dim=1), torch.stack(deblurred, dim=1)
