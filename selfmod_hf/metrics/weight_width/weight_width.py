"""Width of a layer's weight distribution, for `evaluate.load`."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
The standard deviation of the weights of a network's final classification layer (biases left out), the first measure
of complexity of "Unexpected benefits of self-modelling in neural systems". The paper reads a smaller one as a simpler
network. A network that was trained less has a smaller one, too.
"""

_KWARGS_DESCRIPTION = """
Args:
    data: the weights, a flat list of numbers.
    bins: number of bins of the histogram.
Returns:
    weight_width: standard deviation of the weights (divided by their number).
    histogram: counts of the bins.
    bin_edges: their edges, one more than counts.
Examples:
    >>> weight_width = evaluate.load(metric_path("weight_width"))
    >>> weight_width.compute(data=model.classifier.weight.flatten().tolist())
"""

_CITATION = """\
@article{premakumar2026unexpected,
  title={Unexpected benefits of self-modelling in neural systems},
  author={Premakumar, Vickram N. and Vaiana, Michael and Pop, Florin and Rosenblatt, Judd and de Lucena, Diogo Schwerz
    and Ziman, Kirsten and Graziano, Michael S. A.},
  journal={Philosophical Transactions of the Royal Society A},
  volume={384},
  number={2320},
  pages={20240531},
  year={2026},
  doi={10.1098/rsta.2024.0531}
}

@article{premakumar2024unexpected,
  title={Unexpected Benefits of Self-Modeling in Neural Systems},
  author={Premakumar, Vickram N. and Vaiana, Michael and Pop, Florin and Rosenblatt, Judd and de Lucena, Diogo Schwerz
    and Ziman, Kirsten and Graziano, Michael S. A.},
  journal={arXiv preprint arXiv:2407.10188},
  year={2024}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class WeightWidth(evaluate.Measurement):
    """Compute the standard deviation of a layer's weights."""

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"data": datasets.Value("float64")}),
            reference_urls=["https://doi.org/10.1098/rsta.2024.0531", "https://arxiv.org/abs/2407.10188"],
        )

    def _compute(self, data, bins=100):
        weights = np.asarray(data, float)
        if not np.isfinite(weights).all():
            raise ValueError(f"data: {int((~np.isfinite(weights)).sum())} of {weights.size} weights are not finite")
        counts, edges = np.histogram(weights, bins=bins)
        return {"weight_width": float(weights.std()), "histogram": counts.tolist(), "bin_edges": edges.tolist()}
