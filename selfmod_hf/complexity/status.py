"""The rules that decide the status of an estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .biases import Biases
from .diagnostics import Draws, effective_sample_size, outlying_chains, split_rhat, standard_error
from .result import BIASED, DIVERGED, NOT_AT_MINIMUM, NOT_CONVERGED, OK

FLOOR = 0.25  # nats: the least limit that is a share of the estimate, so that small estimates pass too
TREND_RELATIVE = 0.05  # a trend smaller than this part of the estimate does not count
TREND_ERRORS = 3.0  # nor does one within this many standard errors
FALL_ERRORS = 4.0  # a fall alone, without a lower loss near w*, counts from this many standard errors on
FALL_LOWER = 0.02  # of the estimate: a loss near w* that is lower by this agrees with a fall
TREND_LARGE = 0.25  # a trend larger than this part of the estimate is no plateau, by chance or not
MIN_DRAWS = 20  # kept, per chain
MIN_EFFECTIVE_DRAWS = 50.0  # kept, of all chains
MAX_RHAT = 1.1
BOUND_ERRORS = 3.0  # an estimate that exceeds d/2 by this many standard errors is wrong
LOWER_SHARE = 0.1  # of the estimate: w* is no minimum if the loss near it is lower by more
BIAS_SHARE = 0.1  # of the estimate: a larger foretold bias is stated in the status
PULL_SHARE = 0.5  # of the estimate: if the pull takes away more, it explains the value
PULL_KNOWN = 0.33  # of the estimate: if the pull may take away more, the draws are too few to tell
BIAS_ERRORS = 2.0  # a bias counts as far as it exceeds this many of its standard errors
MIN_TEMPERATURE = 0.8  # below it, how much is missing is not known
MIN_ACCEPTANCE = 0.1
MAX_DISPERSION = 5.0  # it is about 1 in equilibrium
_FAR = 4.0  # λ <= d/2: SGLD shows eight times that within an eighth of its stability limit

Verdict = tuple[str, str]  # status, reason


@dataclass(frozen=True)
class Facts:
    """Hold all facts about an estimate that its status depends on.

    Attributes:
        trace: (C, T), LLC trace, burn-in included.
        burnin: draws left out.
        diverged: the chains outside of the region, see `diverged_chains`.
        num_parameters: d, the sampled ones. None: not known.
        estimates_lambda: whether the estimate stands for λ. The paper's presets only compare networks, so the rules
            that compare with λ do not apply to them.
        biases: foretold. None: not known.
        acceptance: mean Metropolis acceptance probability. None: the sampler has none.
        minimized: whether w* comes from a search for the minimum.
        uncorrected: whether `control_variate=True` is possible and not set.
        rounded: whether losses are computed in a lower precision than the weights'.
        dependent: whether the chains have common noise, see `standard_error`.
    """

    trace: Draws
    burnin: int
    diverged: tuple[int, ...] = ()
    num_parameters: int | None = None
    estimates_lambda: bool = True
    biases: Biases | None = None
    acceptance: float | None = None
    minimized: bool = False
    uncorrected: bool = False
    rounded: bool = False
    dependent: bool = False

    @property
    def kept(self) -> Draws:
        """Return the draws behind the estimate, (C, kept)."""
        return self.trace[:, self.burnin :]

    @property
    def llc(self) -> float:
        """Return the estimate."""
        return float(self.kept.mean())

    def error(self, draws: Draws) -> float:
        """Return the standard error of the mean of draws (C, K)."""
        return standard_error(draws, dependent=self.dependent)

    @property
    def lower(self) -> float:
        """Return by how many nats, times nβ, the loss near w* is below that of w*. NaN if it was not looked for."""
        if self.biases is None:
            return math.nan
        return self.biases.not_at_minimum

    def share(self, part: float) -> float:
        """Return a part of the estimate as a limit. It is at least `FLOOR`."""
        return max(part * self.llc, FLOOR)


def diverged_chains(trace: Draws, num_parameters: int, burnin: int) -> tuple[int, ...]:
    """Return the chains outside of the region: not finite, or with an estimate above 4 d.

    λ <= d/2 holds for every model with d parameters. A chain at more than 4 d is no longer near a minimum.

    Args:
        trace: (C, T), LLC trace, burn-in included.
        num_parameters: d.
        burnin: draws left out.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        kept = trace[:, burnin:]
        means = kept.mean(axis=1)  # (C,)
    finite = np.isfinite(trace).all(axis=1)  # (C,)
    limit = _FAR * num_parameters
    gone = ~finite | (means > limit)
    return tuple(np.flatnonzero(gone).tolist())


def judge(facts: Facts) -> Verdict:
    """Return (status, reason) by the first rule that applies.

    1. diverged: a chain is not finite, or its estimate is over 4 d.
    2. biased: the estimate exceeds d/2 by 3 standard errors. No λ does.
    3. not_converged: fewer than 20 kept draws.
    4. not_at_minimum: the estimate is negative, or the trace falls, or the loss near w* is lower by more than 10 % of
       the estimate and 3 standard errors (`_minimum`).
    5. not_converged: the trace rises, or moves by more than 25 % of the estimate in either direction, whatever the
       errors (`_plateau`). Or one chain is an outlier (`outlying_chains`). Or one chain alone, R-hat above 1.1, or
       fewer than 50 effective draws (`_agreement`). Or directions have not spread yet and
       more than 10 % of the estimate is missing (`_temperature`).
    6. biased: a foretold bias is above 10 % of the estimate (`_bias`).
    7. ok.

    No rule depends on the size of the standard error relative to the estimate, because it would drop small estimates
    first. For the same reason a limit that is a share of the estimate is at least 0.25 nats, unless the rule also
    asks for several standard errors. A lower loss that 3 standard errors show counts below 0.25 nats, too.

    Example:
        >>> trace = 30 + np.random.default_rng(0).standard_normal((4, 400))
        >>> judge(Facts(trace, burnin=200, num_parameters=40))[0]
        'biased'
    """
    if facts.diverged:
        named = ", ".join(map(str, facts.diverged))
        return DIVERGED, f"chains {named} left the region: take a smaller step size"
    rules: list[Callable[[Facts], Verdict | None]] = [_bound, _length, _minimum, _plateau, _outlier, _agreement]
    if facts.estimates_lambda:
        rules += [_temperature, _acceptance, _dispersion, _bias, _pull]
    for rule in rules:
        verdict = rule(facts)
        if verdict is not None:
            return verdict
    rise, error = _rise(facts)
    return OK, f"plateau: over the kept draws the trace moves by {rise:.2g} ± {error:.2g}"


def _bound(facts: Facts) -> Verdict | None:
    """Reject an estimate above half the number of parameters."""
    if facts.num_parameters is None:
        return None
    bound = facts.num_parameters / 2
    if facts.biases is not None and math.isfinite(facts.biases.bound):
        bound = facts.biases.bound
    if not facts.llc - BOUND_ERRORS * facts.error(facts.kept) > bound:
        return None
    reason = f"the estimate {facts.llc:.3g} exceeds d/2 = {bound:g}, which no λ does: take a smaller step size"
    return BIASED, reason


def _length(facts: Facts) -> Verdict | None:
    """Reject too few draws."""
    num_kept = facts.kept.shape[1]
    if num_kept >= MIN_DRAWS:
        return None
    return NOT_CONVERGED, f"{num_kept} kept draws per chain: at least {MIN_DRAWS} are needed"


def _minimum(facts: Facts) -> Verdict | None:
    """Reject a w* that is no minimum: a negative estimate, a lower loss nearby, or a fall.

    A negative estimate of less than `FLOOR` and 3 standard errors may be a λ of zero if no lower loss is nearby. A fall
    by 3 standard errors counts if the loss near w* is lower by 2 % of the estimate. If nobody looked for a lower loss,
    the fall must be one of 4 standard errors.
    """
    llc = facts.llc
    lower = facts.lower
    looked = math.isfinite(lower)
    if llc < 0:
        error = facts.error(facts.kept)
        by_chance = looked and lower < FLOOR and -llc < min(FLOOR, TREND_ERRORS * error)
        if not by_chance:
            reason = f"the loss falls below that of w* while sampling (llc {llc:.3g}): w* is no minimum"
            return NOT_AT_MINIMUM, reason
    if facts.estimates_lambda and is_lower(lower, llc, facts.error(facts.kept)):
        return NOT_AT_MINIMUM, reason_of_lower(lower, llc, facts.minimized, facts.rounded)
    rise, error = _rise(facts)
    agrees = looked and lower > FALL_LOWER * abs(llc)
    errors = TREND_ERRORS if agrees else FALL_ERRORS
    falls = -rise > max(errors * error, TREND_RELATIVE * abs(llc))
    if not falls or (looked and not agrees):
        return None
    return NOT_AT_MINIMUM, f"the trace still falls, by {-rise:.3g} over the kept draws"


def is_lower(lower: float, llc: float, error: float) -> bool:
    """Return whether the loss near w* is so much lower that w* counts as no minimum.

    Args:
        lower: nβ (L(w*) - L(w_low)). NaN: nobody looked for it.
        llc: the estimate.
        error: its standard error.

    Example:
        >>> is_lower(0.6, llc=5.0, error=0.1), is_lower(0.4, llc=5.0, error=0.1)
        (True, False)
    """
    floor = min(FLOOR, TREND_ERRORS * error)
    return lower > max(LOWER_SHARE * llc, floor)


def reason_of_lower(lower: float, llc: float, minimized: bool, rounded: bool) -> str:
    """Return what is said of a w* with a lower loss nearby, and what to do.

    Args:
        lower: nβ (L(w*) - L(w_low)).
        llc: the estimate.
        minimized: whether w* was brought to its local minimum before.
        rounded: whether losses are computed in a lower precision, whose rounding may be what is lower.

    Example:
        >>> reason_of_lower(0.6, llc=5.0, minimized=False, rounded=False)
        'near w* nβ L is lower by 0.6 or more, at an estimate of 5: start from the local minimum with minimize=True'
    """
    remedy = "start from the local minimum with minimize=True"
    if minimized:
        remedy = "minimize=True did not reach the minimum, take a weaker localization or train the network on"
    if rounded:
        remedy = f"leave out dtype, because bfloat16 may do so by its rounding, or {remedy}"
    return f"near w* nβ L is lower by {lower:.3g} or more, at an estimate of {llc:.3g}: {remedy}"


def reason_of_rounding(biases: Biases, llc: float) -> str | None:
    """Return what is said of rounding that may move an estimate by a share that counts. None: it moves it by less."""
    if not biases.rounding > max(BIAS_SHARE * llc, FLOOR):
        return None
    return f"rounding to bfloat16 may move the estimate by {biases.rounding:.3g}: leave out dtype"


def _plateau(facts: Facts) -> Verdict | None:
    """Reject a trace that still moves.

    A fall that reaches this rule has no lower loss near w* and so is no sign of a w* that is no minimum.
    """
    rise, error = _rise(facts)
    errors = TREND_ERRORS if rise > 0 else FALL_ERRORS
    size = abs(rise)
    believed = size > max(errors * error, TREND_RELATIVE * abs(facts.llc))
    if not believed and size <= facts.share(TREND_LARGE):
        return None
    direction = "rises" if rise > 0 else "falls"
    reason = f"the trace still {direction}, by {size:.3g} over the kept draws: take more draws"
    return NOT_CONVERGED, reason


def _outlier(facts: Facts) -> Verdict | None:
    """Reject chains apart from the others."""
    chain_means = facts.kept.mean(axis=1)  # (C,)
    outliers = outlying_chains(chain_means, facts.llc)
    if not outliers:
        return None
    named = ", ".join(map(str, outliers))
    reason = f"chains {named} are apart from the others: take more draws or a smaller step size"
    return NOT_CONVERGED, reason


def _agreement(facts: Facts) -> Verdict | None:
    """Reject chains that are alone, disagree, or hold too few independent draws."""
    kept = facts.kept
    chains, num_kept = kept.shape
    if chains == 1:
        return NOT_CONVERGED, "one chain cannot show that chains agree: take 2 chains or more, better 4"
    rhat = split_rhat(kept)
    if not rhat <= MAX_RHAT:
        return NOT_CONVERGED, f"R-hat {rhat:.3f} is above {MAX_RHAT}: the chains disagree, take more draws"
    draws = effective_sample_size(kept)
    if draws >= MIN_EFFECTIVE_DRAWS:
        return None
    wanted = math.nan
    if draws > 0:
        wanted = math.ceil(num_kept * MIN_EFFECTIVE_DRAWS / draws)
    reason = f"{draws:.1f} effective draws, of {MIN_EFFECTIVE_DRAWS:.0f} needed: keep about {wanted} draws per chain"
    return NOT_CONVERGED, reason


def _temperature(facts: Facts) -> Verdict | None:
    """Reject chains that have not spread in all directions yet. All of them start at w*."""
    if facts.biases is None:
        return None
    temperature = facts.biases.temperature
    cold = temperature + BIAS_ERRORS * facts.biases.temperature_error < MIN_TEMPERATURE
    if not cold and not facts.biases.unspread > facts.share(BIAS_SHARE):
        return None
    missing = 1 - temperature
    reason = (
        f"{missing:.0%} of the directions have not spread (temperature {temperature:.2f}): "
        "take more draws or a stronger localization"
    )
    return NOT_CONVERGED, reason


def _acceptance(facts: Facts) -> Verdict | None:
    """Reject steps that a Metropolis test would hardly ever accept."""
    acceptance = facts.acceptance
    if acceptance is None or acceptance >= MIN_ACCEPTANCE:
        return None
    return BIASED, f"acceptance {acceptance:.2f} is below {MIN_ACCEPTANCE}: take a smaller step size"


def _dispersion(facts: Facts) -> Verdict | None:
    """Reject chains that are thrown far away from time to time, as by a step that is too long."""
    if facts.biases is None or not facts.biases.dispersion > MAX_DISPERSION:
        return None
    times = facts.biases.dispersion
    return BIASED, f"nβ L varies {times:.3g} times as much as it should at its mean: take a smaller step size"


def _bias(facts: Facts) -> Verdict | None:
    """Reject an estimate with a large foretold bias."""
    biases = facts.biases
    if biases is None:
        return None
    rounded = reason_of_rounding(biases, facts.llc)
    if rounded is not None:
        return BIASED, rounded
    limit = facts.share(BIAS_SHARE)
    pull = biases.localization - BIAS_ERRORS * biases.localization_error
    if pull > PULL_SHARE * facts.llc:  # no floor, because a strong pull makes every estimate small
        reason = f"the pull to w* takes away about {biases.localization:.3g}, so it explains the value"
        return BIASED, f"{reason}: take a weaker localization"
    if pull > limit:
        reason = f"the localization takes away about {biases.localization:.3g}"
        return BIASED, f"{reason}: take a weaker one, or calibrate"
    steps = biases.of_the_step
    if not steps > limit:
        return None
    less_noise = "larger minibatches"
    if facts.uncorrected:
        less_noise = "control_variate=True or larger minibatches"
    what = f"minibatches and the step add about {steps:.3g}"
    if biases.shuffling > steps / 2:
        return BIASED, f"{what}: take {less_noise}"
    factor = limit / steps / 3
    remedy = f"take {factor:.2g} of the step size"
    if biases.heating > steps / 2:
        remedy += f", or {less_noise}"
    return BIASED, f"{what}: {remedy}"


def _pull(facts: Facts) -> Verdict | None:
    """Reject draws that are too few to exclude that the pull to w* makes the estimate small."""
    if facts.biases is None or not facts.biases.pull_at_most > facts.share(PULL_KNOWN):
        return None
    most = facts.biases.pull_at_most
    return NOT_CONVERGED, f"the pull to w* may take away up to {most:.3g}: take more draws or a weaker localization"


def _rise(facts: Facts) -> tuple[float, float]:
    """Return the mean of the last third of the kept draws minus that of the first, and its standard error.

    The error is the larger of two. One comes from the thirds themselves. The other comes from all draws without their
    common straight line, because draws may be correlated over longer than a third.
    """
    kept = facts.kept
    third = kept.shape[1] // 3
    first = kept[:, :third]
    last = kept[:, -third:]
    rise = float(last.mean() - first.mean())
    of_thirds = math.hypot(facts.error(first), facts.error(last))
    time = np.arange(kept.shape[1]) - (kept.shape[1] - 1) / 2  # (T,)
    slope = kept.mean(axis=0) @ time / (time @ time)
    level = kept - slope * time
    of_all = math.sqrt(6) * facts.error(level)
    return rise, max(of_thirds, of_all)
