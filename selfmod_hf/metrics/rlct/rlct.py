"""RLCT (local learning coefficient) from the losses of sampling chains, for `evaluate.load`."""

import math
import sys

import datasets
import evaluate
import numpy as np

from selfmod_hf.complexity.diagnostics import effective_sample_size, split_rhat, standard_error
from selfmod_hf.complexity.status import Facts, diverged_chains, judge

_DESCRIPTION = """\
The real log canonical threshold (RLCT) of a trained network, estimated as its local learning coefficient:
nβ times the mean excess of the loss of weights sampled around the trained ones. The smaller, the simpler.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per chain: the loss of each draw on its minibatch, in nats.
    references: one list per chain: the loss of the trained weights on the same minibatches, in nats.
    nbeta: nβ, the inverse temperature times the number of samples that the chains were drawn with.
    num_burnin_steps: draws left out at the beginning of each chain; default: the first half.
    num_parameters: d, of the network. A chain whose estimate exceeds 4 d has diverged, and an estimate above d/2 is
        biased. Default: no such limit.
Returns:
    rlct: nβ * mean(predictions - references) over the kept draws.
    rlct_standard_error: of the mean, from the effective sample size.
    rlct_nbeta: nβ as given. Two RLCTs are comparable only where it is the same.
    rlct_rhat: split R-hat.
    rlct_ess: effective sample size.
    rlct_status: "ok", "not_at_minimum", "not_converged", "diverged" or "biased", from the losses alone. One chain,
        R-hat above 1.1 or fewer than 50 effective draws are not_converged.
Examples:
    >>> rlct = evaluate.load(metric_path("rlct"))
    >>> rlct.compute(predictions=result.corrected_losses, references=result.baseline_trace, nbeta=result.nbeta)
"""

_CITATION = """\
@article{lau2023local,
  title={The Local Learning Coefficient: A Singularity-Aware Complexity Measure},
  author={Lau, Edmund and Furman, Zach and Wang, George and Murfet, Daniel and Wei, Susan},
  journal={arXiv preprint arXiv:2308.12108},
  year={2023}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RLCT(evaluate.Measurement):
    """Compute the RLCT of a network from its chains' losses."""

    def _info(self):
        losses = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": losses, "references": losses}),
            reference_urls=[
                "https://arxiv.org/abs/2308.12108",
                "https://doi.org/10.1098/rsta.2024.0531",
                "https://arxiv.org/abs/2407.10188",
            ],
        )

    def _compute(self, predictions, references, nbeta, num_burnin_steps=None, num_parameters=None):
        for name, chains in (("predictions", predictions), ("references", references)):
            lengths = sorted({len(chain) for chain in chains})
            if len(lengths) > 1:
                raise ValueError(f"{name}: chains of {', '.join(map(str, lengths))} draws; must be of the same number")
        losses, baseline = np.asarray(predictions, float), np.asarray(references, float)  # each (C, T)
        if losses.shape != baseline.shape or losses.ndim != 2:
            raise ValueError(
                f"predictions of shape {losses.shape}, references of shape {baseline.shape}: "
                "both must be (chains, draws)"
            )
        if not 0 < nbeta < math.inf:
            raise ValueError(f"nbeta={nbeta!r}: must be a positive number")
        trace = nbeta * (losses - baseline)
        draws = trace.shape[1]
        burnin = draws // 2 if num_burnin_steps is None else num_burnin_steps
        if not 0 <= burnin < draws:
            raise ValueError(f"num_burnin_steps={burnin!r}: must be from 0 to {draws - 1}")
        diverged = diverged_chains(trace, num_parameters or sys.maxsize, burnin)
        facts = Facts(trace, burnin, diverged, num_parameters, estimates_lambda=False)
        status, _ = judge(facts)
        kept = trace[:, burnin:]
        rlct, error = float(kept.mean()), standard_error(kept)
        if status == "diverged":  # the mean does not include a chain outside of the region
            rlct, error = math.nan, math.nan
        return {
            "rlct": rlct,
            "rlct_standard_error": error,
            "rlct_nbeta": float(nbeta),
            "rlct_rhat": split_rhat(kept),
            "rlct_ess": effective_sample_size(kept),
            "rlct_status": status,
        }
