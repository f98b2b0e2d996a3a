"""What observing costs over the plain forward pass: a transformer of 6 layers and width 512, 1,024 tokens a call.

Every configuration runs the whole forward pass (`observe` itself ends it after the last site, which saves more than
most statistics cost), and pays for setting and removing the hooks in every call.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from harness import interleaved, overhead, write
from torch import Tensor, nn

from neuronwise.observe import (
    ActiveFraction,
    BatchInfo,
    Extremes,
    Moments,
    Observer,
    Quantiles,
    Reducer,
    TopExamples,
)
from neuronwise.sites import Site, Sites

LAYERS, WIDTH, HEADS, VOCABULARY = 6, 512, 8, 1000
SEQUENCES, LENGTH = 16, 64
STEADY_CALLS = 192  # 3,072 sequences before the clock starts
REPEATS = 24

FIVE = [Moments(order=2), Extremes(), ActiveFraction()]
CONFIGURATIONS: dict[str, list[Reducer]] = {
    "five": FIVE,
    "five_top20": [*FIVE, TopExamples(20, bottom=False)],
    "five_top20_bottom20": [*FIVE, TopExamples(20)],
    "five_higher_moments": [Moments(order=4), Extremes(), ActiveFraction()],
    "everything": [Moments(order=4), Extremes(), ActiveFraction(), TopExamples(20), Quantiles()],
}
SITES = Sites(Site(f"blocks.{layer}.down", "input", width=4 * WIDTH) for layer in range(LAYERS))


class Block(nn.Module):
    """A transformer block with as little beside its matrix products as PyTorch allows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.act, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(self.act(self.up(self.norm_2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return x


class Tokens:
    """Sequences that are new every time: rankings that have seen the same ones before would have nothing to do."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.calls = 0

    def __call__(self) -> tuple[Tensor, BatchInfo]:
        ids = torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), generator=self.generator)
        examples = torch.arange(self.calls * SEQUENCES, (self.calls + 1) * SEQUENCES)
        self.calls += 1
        return ids, BatchInfo(examples=examples, token_ids=ids, number=self.calls)


class Watched:
    """The model with an observer attached, as a call without arguments."""

    def __init__(self, model: nn.Module, reducers: Sequence[Reducer], tokens: Tokens) -> None:
        self.model, self.tokens = model, tokens
        self.observer = Observer(SITES, reducers)

    def __call__(self) -> None:
        ids, info = self.tokens()
        self.observer.expect(info)
        with self.observer.attached(self.model):
            self.model(ids)


def reach_steady_state(model: nn.Module, watched: Sequence[Watched], tokens: Tokens) -> None:
    """Fill the rankings with the best of the sequences that come before the clock starts."""
    filled = {bottom: Observer(SITES, [TopExamples(20, bottom=bottom)]) for bottom in (False, True)}
    with filled[False].attached(model), filled[True].attached(model):
        for _ in range(STEADY_CALLS):
            ids, info = tokens()
            for observer in filled.values():
                observer.expect(info)
            model(ids)
    for each in watched:
        for site in SITES:
            for reducer in each.observer.reducers[site.name].values():
                if isinstance(reducer, TopExamples):
                    state = filled[reducer.bottom].reducers[site.name][reducer.name].state_dict()
                    reducer.load_state_dict({name: tensor.clone() for name, tensor in state.items()})


def main() -> None:
    torch.manual_seed(0)
    model = Transformer().eval()
    tokens = Tokens()
    watched = {name: Watched(model, reducers, tokens) for name, reducers in CONFIGURATIONS.items()}
    variants: dict[str, Callable[[], object]] = {"plain": lambda: model(tokens()[0]), **watched}
    figures = {}
    with torch.no_grad():
        reach_steady_state(model, list(watched.values()), tokens)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seconds = interleaved(variants, repeats=REPEATS)
            figures[str(threads)] = {name: overhead(seconds, name) for name in variants}
            print(
                threads,
                {name: round(figures[str(threads)][name]["overhead"], 4) for name in watched},
                flush=True,
            )
    write(
        "overhead",
        {
            "torch": torch.__version__,
            "sequences_before": STEADY_CALLS * SEQUENCES,
            "repeats": REPEATS,
            "threads": figures,
        },
    )


if __name__ == "__main__":
    main()
