"""Home-made models that no table knows, and a helper that watches or changes one tensor of one call."""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        batch, length, dim = x.shape
        parts = self.qkv(x).split(dim, dim=2)
        q, k, v = (p.view(batch, length, self.heads, dim // self.heads).transpose(1, 2) for p in parts)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(dim)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, length, dim))


class PlainMlp(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, width), nn.GELU(), nn.Linear(width, dim)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class GatedMlp(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.up, self.gate, self.down = (
            nn.Linear(dim, width),
            nn.Linear(dim, width),
            nn.Linear(width, dim),
        )

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class FusedMlp(nn.Module):
    """One projection for both branches; the second half is activated. ``cut`` says how it is cut."""

    def __init__(self, dim, width, cut="chunk"):
        super().__init__()
        self.both, self.down, self.width, self.cut = (
            nn.Linear(dim, 2 * width),
            nn.Linear(width, dim),
            width,
            cut,
        )

    def forward(self, x):
        both = self.both(x)
        if self.cut == "chunk":
            up, gate = both.chunk(2, dim=-1)
        elif self.cut == "split":
            up, gate = both.split(self.width, dim=-1)
        elif self.cut == "slice":
            up, gate = both[..., : self.width], both[..., self.width :]
        else:
            return self.down(F.glu(both, dim=-1))
        return self.down(up * F.gelu(gate))


class FormulaMlp(nn.Module):
    """GELU written out, as in older code."""

    def __init__(self, dim, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, width), nn.Linear(width, dim)

    def forward(self, x):
        h = self.fc1(x)
        return self.fc2(0.5 * h * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * h**3))))


class UntraceableMlp(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, width), nn.Linear(width, dim)

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return self.fc2(torch.relu(self.fc1(x)))


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Block(nn.Module):
    def __init__(self, dim, mlp):
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = (
            RmsNorm(dim),
            Attention(dim),
            nn.LayerNorm(dim),
            mlp,
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A user's own language model; its own forward cannot be traced, its blocks can."""

    def __init__(self, mlp, dim=8, width=32, layers=2):
        super().__init__()
        self.embed, self.position = nn.Embedding(11, dim), nn.Embedding(16, dim)
        self.blocks = nn.ModuleList(Block(dim, mlp(dim, width)) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 11)

    def forward(self, ids, targets=None):
        if ids.shape[1] > 16:
            raise ValueError("too long")
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class PatchTransformer(nn.Module):
    """Traceable as a whole, with a linear embedding whose output is a residual stream and no neurons."""

    def __init__(self, mlp, dim=8, width=32):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(5, dim), Block(dim, mlp(dim, width)), nn.Linear(dim, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x)))


class CifarBlock(nn.Module):
    """Two convolutions, functional ReLU, and a shortcut that pads channels (option A of He et al. 2016)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        self.pad = outputs // 4 if stride != 1 or inputs != outputs else 0

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.pad:
            out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        else:
            out += self.shortcut(x)
        return F.relu(out)


class CifarResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(CifarBlock(4, 4, 1), CifarBlock(4, 4, 1))
        self.layer2 = nn.Sequential(CifarBlock(4, 8, 2), CifarBlock(8, 8, 1))
        self.linear = nn.Linear(8, 10)

    def forward(self, x):
        out = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class ReluBlock(nn.Module):
    """The layout of torchvision: one in-place ReLU module for both places."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs)
        same = inputs == outputs
        self.downsample = None if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x):
        shortcut = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            shortcut = self.downsample(x)
        out += shortcut
        return self.relu(out)


class ReluResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(ReluBlock(4, 4), ReluBlock(4, 8, 2))
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(8, 10)

    def forward(self, x):
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


class UNet(nn.Module):
    """A U shape with a skip connection, a transposed and a depthwise convolution."""

    def __init__(self):
        super().__init__()

        def double(inputs, outputs):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
            )

        self.down1, self.down2, self.pool = double(1, 4), double(4, 8), nn.MaxPool2d(2)
        self.up, self.up1 = nn.ConvTranspose2d(8, 4, 2, stride=2), double(8, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.up(self.down2(self.pool(a)))
        return self.out(F.relu(self.depthwise(self.up1(torch.cat([b, a], 1)))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, ids):
        hidden, _ = self.lstm(self.embed(ids))
        return self.head(hidden)


class Meddler(nn.Module):
    """A forward pass that changes its module in every way it can."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("count", torch.zeros(()))
        self.history = []
        self.last = None

    def forward(self, x):
        self.count.add_(1)
        self.history.append(x)
        self.last = self.fresh = x
        return self.down(torch.relu(self.up(x) + torch.rand(8)))


@contextmanager
def watch(model, site, change=None):
    """Keep the site's tensor of the site's call, and add ``change`` to it if given."""
    seen, calls = [], []

    def visit(tensor):
        calls.append(None)
        if site.call is not None and len(calls) - 1 != site.call:
            return None
        seen.append(tensor.detach().clone())
        return None if change is None else tensor + change

    def before(module, args, kwargs):
        new = visit(args[0])
        return None if new is None else ((new, *args[1:]), kwargs)

    def after(module, args, output):
        if isinstance(output, tuple):
            new = visit(output[0])
            return None if new is None else (new, *output[1:])
        return visit(output)

    module = site.module(model)
    handle = (
        module.register_forward_pre_hook(before, with_kwargs=True)
        if site.tensor == "input"
        else module.register_forward_hook(after)
    )
    try:
        yield seen
    finally:
        handle.remove()
