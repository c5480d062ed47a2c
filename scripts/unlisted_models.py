"""Models of known λ that no rule or number of the package was chosen on: `benchmark.py ground_truth --unlisted`.

They are unlike the kinds of `selfmod_hf.complexity.ground_truth`: other losses, shared weights, products of units,
normalized layers, embeddings, heavy tails. Do not tune anything by them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_classifiers import to_minimum

from selfmod_hf.complexity.ground_truth import GroundTruth
from selfmod_hf.complexity.sample_losses import binary_cross_entropy, cross_entropy, half_squared_error

SAMPLES = 20_000
Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> (B,)


@dataclass(frozen=True)
class UnlistedCase:
    """Hold a model that is built when it is asked for.

    Attributes:
        kind: its name, and its line in the tables.
        make: builds it.
        half: 1, because nothing is developed on it.
    """

    kind: str
    make: Callable[[], GroundTruth]
    half: int = 1

    @property
    def key(self) -> str:
        """Return a name that no other case has."""
        return self.kind

    def build(self) -> GroundTruth:
        """Return the model and its data."""
        return dataclasses.replace(self.make(), name=self.kind, kind=self.kind, half=self.half)


def unlisted_cases() -> list[UnlistedCase]:
    """Return all models of this file."""
    return [
        UnlistedCase("logistic regression", logistic),
        UnlistedCase("Poisson regression", poisson_regression),
        UnlistedCase("regression with heavy tails", heavy_tails),
        UnlistedCase("regression on 700 samples", few_samples),
        UnlistedCase("two convolutions", convolutions),
        UnlistedCase("two convolutions with a common root", common_root),
        UnlistedCase("weight normalization", normalized),
        UnlistedCase("residual linear layers", residual),
        UnlistedCase("sum of squares", squares),
        UnlistedCase("attention score", attention_score),
        UnlistedCase("tied autoencoder", tied),
        UnlistedCase("products of three weights", products),
        UnlistedCase("layer normalization", layer_norm),
        UnlistedCase("ReLU regression", relu_regression),
        UnlistedCase("ReLU regression with noise", lambda: relu_regression(10, 8, noise=1.0)),
        UnlistedCase("ReLU classifier", relu_classifier),
        UnlistedCase("dead ReLU classifier", dead_classifier),
        UnlistedCase("tanh regression", tanh_regression),
        UnlistedCase("tanh regression with noise", lambda: tanh_regression(6, 5, noise=0.5)),
        UnlistedCase("matrix completion", matrix_completion),
        UnlistedCase("recurrent unit", recurrent),
        UnlistedCase("embedding of all words", lambda: embedding(100)),
        UnlistedCase("embedding with unused words", lambda: embedding(50)),
    ]


# ---- parts ----


def truth_of(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    coefficient: float,
    loss: Loss = half_squared_error,
) -> GroundTruth:
    """Return a model that its targets were drawn from, brought to the minimum of the loss on these data."""
    wide = [part.double() if part.is_floating_point() else part for part in (inputs, targets)]

    def objective() -> Tensor:
        return loss(model(wide[0]), wide[1]).mean()

    to_minimum(model, objective, iterations=2000, of_gradient=1e-12, of_change=1e-16)
    return GroundTruth(type(model).__name__, model, inputs, targets, coefficient, loss)


def with_noise(outputs: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Return targets: outputs of a model with normal noise."""
    return (outputs + noise * torch.randn(outputs.shape, generator=generator)).detach()


def sampled_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return a label (N,) of each row of logits (N, C), drawn with its probability."""
    return torch.multinomial(logits.softmax(1).detach(), 1, generator=generator)[:, 0]


def size_of(model: nn.Module) -> int:
    """Return d."""
    return sum(parameter.numel() for parameter in model.parameters())


def linear(num_inputs: int, generator: torch.Generator, scale: float = 1.0) -> nn.Linear:
    """Return a linear model whose output has a variance of `scale` squared on standard normal inputs."""
    model = nn.Linear(num_inputs, 1)
    with torch.no_grad():
        model.weight.normal_(generator=generator).mul_(scale / math.sqrt(num_inputs))
        model.bias.zero_()
    return model


class TwoLayers(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(
        self,
        sizes: tuple[int, int, int],
        activation: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        inputs, hidden, outputs = sizes
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, outputs)
        self.activation = activation
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator).mul_(1.2)
            self.first.weight.div_(math.sqrt(inputs))
            self.first.bias.mul_(0.2)  # so that every unit is live on some samples, and not on others

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.first(x)))


# ---- regressions ----


def logistic(num_inputs: int = 20) -> GroundTruth:
    """Regular: λ = d/2."""
    generator = torch.Generator().manual_seed(31)
    inputs = torch.randn(SAMPLES, num_inputs, generator=generator)
    model = linear(num_inputs, generator, scale=2.0)
    targets = torch.bernoulli(torch.sigmoid(model(inputs)).detach(), generator=generator)
    return truth_of(model, inputs, targets, size_of(model) / 2, binary_cross_entropy)


def poisson_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log likelihood of counts, up to a constant, (B,)."""
    losses = outputs.exp() - targets * outputs
    return losses.flatten(1).sum(1)


def poisson_regression(num_inputs: int = 30) -> GroundTruth:
    """Regular: λ = d/2."""
    generator = torch.Generator().manual_seed(32)
    inputs = torch.randn(SAMPLES, num_inputs, generator=generator)
    model = linear(num_inputs, generator, scale=0.5)
    targets = torch.poisson(model(inputs).exp().detach(), generator=generator)
    return truth_of(model, inputs, targets, size_of(model) / 2, poisson_loss)


def heavy_tails(num_inputs: int = 20) -> GroundTruth:
    """Inputs and noise of Student's t with 3 degrees of freedom. Regular: λ = d/2."""
    generator = torch.Generator().manual_seed(33)
    columns = num_inputs + 1
    normal = torch.randn(SAMPLES, columns, generator=generator)
    squared = torch.randn(SAMPLES, columns, 3, generator=generator).square().mean(2)
    drawn = normal / squared.sqrt()
    inputs, noise = drawn[:, :-1].contiguous(), drawn[:, -1:]
    model = linear(num_inputs, generator)
    return truth_of(model, inputs, (model(inputs) + noise).detach(), size_of(model) / 2)


def few_samples(num_inputs: int = 10) -> GroundTruth:
    """Regular: λ = d/2. A minibatch of 512 is most of the data."""
    generator = torch.Generator().manual_seed(34)
    inputs = torch.randn(700, num_inputs, generator=generator)
    model = linear(num_inputs, generator)
    return truth_of(model, inputs, with_noise(model(inputs), 1.0, generator), size_of(model) / 2)


# ---- products of weights ----


class Convolutions(nn.Module):
    """Two convolutions of a signal by one filter each."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        once = F.conv1d(x[:, None], self.first[None, None])
        return F.conv1d(once, self.second[None, None])[:, 0]


def convolutions(first: int = 5, second: int = 7) -> GroundTruth:
    """The filters are coprime polynomials, and only their product and one scale count: λ = (k1 + k2 - 1) / 2."""
    generator = torch.Generator().manual_seed(35)
    inputs = torch.randn(SAMPLES, first + second + 9, generator=generator)
    model = Convolutions(torch.randn(first, generator=generator), torch.randn(second, generator=generator))
    return truth_of(model, inputs, with_noise(model(inputs), 1.0, generator), (first + second - 1) / 2)


def common_root() -> GroundTruth:
    """Both filters are 1 + x: near it the product changes by a scale, u + v and u v, so λ = 1/2 + 1/2 + 1/4."""
    generator = torch.Generator().manual_seed(36)
    inputs = torch.randn(SAMPLES, 8, generator=generator)
    model = Convolutions(torch.ones(2), torch.ones(2))
    return GroundTruth("Convolutions", model, inputs, model(inputs).detach(), 1.25)


class Normalized(nn.Module):
    """A linear model by the direction of its weights alone."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight / self.weight.norm())[:, None]


def normalized(num_inputs: int = 30) -> GroundTruth:
    """The length of the weights has no effect: λ = (d - 1) / 2."""
    generator = torch.Generator().manual_seed(37)
    inputs = torch.randn(SAMPLES, num_inputs, generator=generator)
    model = Normalized(torch.randn(num_inputs, generator=generator))
    return truth_of(model, inputs, with_noise(model(inputs), 1.0, generator), (num_inputs - 1) / 2)


class Residual(nn.Module):
    """(1 + B)(1 + A) x at A = B = 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(size, size))
        self.second = nn.Parameter(torch.zeros(size, size))

    def forward(self, x: Tensor) -> Tensor:
        once = x + x @ self.first.T
        return once + once @ self.second.T


def residual(size: int = 8) -> GroundTruth:
    """The product is any matrix near 1: λ = size² / 2, of d = 2 size²."""
    generator = torch.Generator().manual_seed(38)
    inputs = torch.randn(SAMPLES, size, generator=generator)
    return GroundTruth("Residual", Residual(size), inputs, inputs, size * size / 2)


class Squares(nn.Module):
    """The sum of squared units, at zero weights."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(units, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.T).square().sum(1, keepdim=True)


def squares(inputs: int = 4, units: int = 5) -> GroundTruth:
    """The loss is of the order |w|⁴ in all directions: λ = d/4."""
    generator = torch.Generator().manual_seed(39)
    data = torch.randn(SAMPLES, inputs, generator=generator)
    return GroundTruth("Squares", Squares(inputs, units), data, torch.zeros(SAMPLES, 1), inputs * units / 4)


class AttentionScore(nn.Module):
    """x Q Kᵀ y for the two halves of the input."""

    def __init__(self, size: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(size, rank, generator=generator) / math.sqrt(size))
        self.key = nn.Parameter(torch.randn(size, rank, generator=generator) / math.sqrt(size))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return ((left @ self.query) * (right @ self.key)).sum(1, keepdim=True)


def attention_score(size: int = 8, rank: int = 3) -> GroundTruth:
    """Q Kᵀ is any matrix of this rank: λ = (2 size rank - rank²) / 2."""
    generator = torch.Generator().manual_seed(40)
    inputs = torch.randn(SAMPLES, 2 * size, generator=generator)
    model = AttentionScore(size, rank, generator)
    return truth_of(model, inputs, with_noise(model(inputs), 1.0, generator), (2 * size * rank - rank * rank) / 2)


class Tied(nn.Module):
    """x W Wᵀ."""

    def __init__(self, size: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, rank, generator=generator) / math.sqrt(size))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight @ self.weight.T


def tied(size: int = 8, rank: int = 3) -> GroundTruth:
    """W Wᵀ does not see a rotation of the columns: λ = (d - rank (rank - 1) / 2) / 2."""
    generator = torch.Generator().manual_seed(41)
    inputs = torch.randn(SAMPLES, size, generator=generator)
    model = Tied(size, rank, generator)
    coefficient = (size * rank - rank * (rank - 1) / 2) / 2
    return GroundTruth("Tied", model, inputs, model(inputs).detach(), coefficient)


class Products(nn.Module):
    """A linear model whose slopes are products of three weights each."""

    def __init__(self, inputs: int, zeros: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.rand(3, inputs, generator=generator) + 0.3
        weight[0, :zeros] = 0.0
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.prod(0)[:, None]


def products(inputs: int = 12, zeros: int = 4) -> GroundTruth:
    """At most one factor of a slope is zero, so each slope counts 1/2.

    Where other factors become small the loss is flat, so the mean at a practical nβ is lower, and depends on the prior.
    """
    generator = torch.Generator().manual_seed(42)
    data = torch.randn(SAMPLES, inputs, generator=generator)
    model = Products(inputs, zeros, generator)
    factors = model.weight.detach().double()

    def mean(nbeta: float, localization: float) -> float:
        return sum(mean_of_product(column, nbeta, localization) for column in factors.T)

    return GroundTruth(
        "Products",
        model,
        data,
        model(data).detach(),
        inputs / 2,
        posterior_mean=mean,
        prior_matters=True,
    )


def mean_of_product(factors: Tensor, nbeta: float, localization: float) -> float:
    """Return the mean of nβ L of a product of three weights at w*, with inputs of variance 1.

    The first two are summed over a grid, which is fine enough up to nβ = 10⁵. Given them, the third is normal.
    """
    start_a, start_b, start_c = factors.tolist()
    reach = 5 / math.sqrt(localization)
    steps = torch.linspace(-reach, reach, 1501, dtype=torch.float64)
    a = start_a + steps[:, None]
    b = start_b + steps  # a b: (1501, 1501)
    slope = a * b
    target = start_a * start_b * start_c
    precision = localization + nbeta * slope.square()
    center = (localization * start_c + nbeta * slope * target) / precision
    exponent = localization * start_c**2 + nbeta * target**2 - precision * center.square()
    distance = steps[:, None].square() + steps.square()
    log_weight = -precision.log() / 2 - exponent / 2 - localization * distance / 2
    potential = nbeta / 2 * ((slope * center - target).square() + slope.square() / precision)
    weight = (log_weight - log_weight.max()).exp()
    return float((weight * potential).sum() / weight.sum())


class LayerNorm(nn.Module):
    """A linear layer, normalized over its units without parameters, and another linear layer."""

    def __init__(self, sizes: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        inputs, hidden, outputs = sizes
        self.first = nn.Parameter(torch.randn(inputs, hidden, generator=generator))
        self.second = nn.Parameter(torch.randn(hidden, outputs, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x @ self.first
        return F.layer_norm(hidden, hidden.shape[1:], eps=0.0) @ self.second


def layer_norm(inputs: int = 5, hidden: int = 6, outputs: int = 3) -> GroundTruth:
    """Return C x / sqrt(x S x) with noise: the function of the centered first weights A is one of S = A A' alone.

    C is any matrix, S any symmetric one, and a common scale has no effect:
    λ = (inputs outputs + inputs (inputs + 1) / 2 - 1) / 2, for fewer inputs than hidden units.
    """
    generator = torch.Generator().manual_seed(43)
    data = torch.randn(SAMPLES, inputs, generator=generator)
    model = LayerNorm((inputs, hidden, outputs), generator)
    coefficient = (inputs * outputs + inputs * (inputs + 1) / 2 - 1) / 2
    return truth_of(model, data, with_noise(model(data), 0.5, generator), coefficient)


# ---- networks ----


def relu_regression(inputs: int = 5, hidden: int = 4, noise: float = 0.0) -> GroundTruth:
    """All units are live, and the scale of each has no effect: λ = (d - hidden) / 2."""
    generator = torch.Generator().manual_seed(44)
    data = torch.randn(SAMPLES, inputs, generator=generator)
    model = TwoLayers((inputs, hidden, 2), torch.relu, generator)
    return truth_of(model, data, with_noise(model(data), noise, generator), (size_of(model) - hidden) / 2)


def relu_classifier(inputs: int = 8, hidden: int = 6, classes: int = 4) -> GroundTruth:
    """A common shift of all logits has no effect either: λ = (d - hidden - (hidden + 1)) / 2."""
    generator = torch.Generator().manual_seed(45)
    data = torch.randn(SAMPLES, inputs, generator=generator)
    model = TwoLayers((inputs, hidden, classes), torch.relu, generator)
    coefficient = (size_of(model) - 2 * hidden - 1) / 2
    return truth_of(model, data, sampled_labels(model(data), generator), coefficient, cross_entropy)


def dead_classifier(inputs: int = 6, hidden: int = 10, classes: int = 5) -> GroundTruth:
    """No unit is live on any sample, so the output's biases alone count: λ = (classes - 1) / 2."""
    generator = torch.Generator().manual_seed(46)
    data = torch.randn(SAMPLES, inputs, generator=generator).clamp(-3, 3)
    model = TwoLayers((inputs, hidden, classes), torch.relu, generator)
    with torch.no_grad():
        model.first.bias.fill_(-30.0)
    targets = sampled_labels(model(data), generator)
    return truth_of(model, data, targets, (classes - 1) / 2, cross_entropy)


def tanh_regression(inputs: int = 4, hidden: int = 3, noise: float = 0.0) -> GroundTruth:
    """The units differ: λ = d/2."""
    generator = torch.Generator().manual_seed(47)
    data = torch.randn(SAMPLES, inputs, generator=generator)
    model = TwoLayers((inputs, hidden, 1), torch.tanh, generator)
    return truth_of(model, data, with_noise(model(data), noise, generator), size_of(model) / 2)


class Factors(nn.Module):
    """Predict the entry (i, j) of a product of two matrices."""

    def __init__(self, rows: int, columns: int, inner: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.zeros(rows, inner))
        self.right = nn.Parameter(torch.zeros(columns, inner))

    def forward(self, places: Tensor) -> Tensor:
        products = self.left[places[:, 0]] * self.right[places[:, 1]]  # (B, inner)
        return products.sum(1, keepdim=True)


def matrix_completion(size: int = 10) -> GroundTruth:
    """Fit single entries of a matrix of rank 1, without noise, by two columns of which one is zero.

    The column that is not zero counts (2 size - 1) / 2, and the product of what is left of the other (size - 1) / 2.
    """
    generator = torch.Generator().manual_seed(50)
    places = torch.randint(0, size, (SAMPLES, 2), generator=generator)
    model = Factors(size, size, 2)
    with torch.no_grad():
        model.left[:, 0].normal_(generator=generator)
        model.right[:, 0].normal_(generator=generator)
    return truth_of(model, places, model(places).detach(), (2 * size - 1) / 2 + (size - 1) / 2)


class Recurrent(nn.Module):
    """One linear unit that reads numbers in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.tensor([0.6]))
        self.input = nn.Parameter(torch.tensor([1.2]))
        self.output = nn.Parameter(torch.tensor([0.8]))

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            state = self.memory * state + self.input * x[:, step]
        return (self.output * state)[:, None]


def recurrent(steps: int = 6) -> GroundTruth:
    """The input's and the output's weights count by their product alone: λ = 1."""
    generator = torch.Generator().manual_seed(51)
    data = torch.randn(SAMPLES, steps, generator=generator)
    model = Recurrent()
    return truth_of(model, data, with_noise(model(data), 0.5, generator), 1.0)


class MeanEmbedding(nn.Module):
    """The mean of the embeddings of a text's words."""

    def __init__(self, words: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Embedding(words, size)
        with torch.no_grad():
            self.table.weight.normal_(generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x).mean(1)


def embedding(used: int, words: int = 100, size: int = 3) -> GroundTruth:
    """A word counts size / 2 if a text has it."""
    generator = torch.Generator().manual_seed(48)
    data = torch.randint(0, used, (SAMPLES, 12), generator=generator)
    model = MeanEmbedding(words, size, generator)
    return truth_of(model, data, with_noise(model(data), 1.0, generator), used * size / 2)
