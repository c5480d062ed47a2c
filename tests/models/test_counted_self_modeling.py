"""Labels that do not count: scores, several classes a sample, and answers outside of the text."""

import pytest
import torch

from tests.models.task_models import batch, network, part, plain

SEVERAL, SCORES = "multi_label_classification", "regression"
NAN = torch.nan
LABELS = {
    SEVERAL: torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0]]),
    SCORES: torch.tensor([[0.5, 1, 2], [0, -100, 1], [3, 1, 0]]),  # -100 is a score like any other
}


@pytest.mark.parametrize("problem", LABELS)
def test_labels_of_numbers_have_the_task_models_loss_to_the_bit(problem):
    model = network("text-classification", "bert", inner={"problem_type": problem}, aux_weight=0.0)
    inputs = batch("text-classification") | {"labels": LABELS[problem]}
    expected = plain("text-classification", "bert", problem_type=problem).eval()(**inputs).loss
    assert torch.equal(model(**inputs).loss, expected)
    items = model.count_items(inputs)
    shares = [part(inputs, rows) for rows in (slice(0, 1), slice(1, 3))]
    summed = sum(model(**share, num_items_in_batch=items).loss for share in shares)
    torch.testing.assert_close(summed, expected)


@pytest.mark.parametrize(
    ("problem", "missing"), [(SEVERAL, [-100.0] * 3), (SEVERAL, [NAN, -100.0, NAN]), (SCORES, [NAN] * 3)]
)
def test_a_sample_without_numbers_changes_nothing(problem, missing):
    model = network("text-classification", "bert", inner={"problem_type": problem})
    inputs = batch("text-classification", rows=4) | {"labels": torch.cat([LABELS[problem], torch.tensor([missing])])}
    labelled, alone = part(inputs, slice(0, 3)), part(inputs, slice(3, 4))
    assert model.count_items(inputs) == model.count_items(labelled) == 9
    expected, found = model(**labelled), model(**inputs)
    for term in ("loss", "classification_loss", "self_modeling_loss"):
        torch.testing.assert_close(found[term], expected[term])
    found.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model(**alone).loss == 0


def test_one_mark_may_be_missing():
    model = network("text-classification", "bert", inner={"problem_type": SEVERAL}, aux_weight=0.0)
    labels = LABELS[SEVERAL].clone()
    labels[0, 1] = -100
    output = model(**batch("text-classification") | {"labels": labels})
    losses = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, LABELS[SEVERAL], reduction="none")
    torch.testing.assert_close(output.loss, losses[labels >= 0].mean())


@pytest.mark.parametrize("wrong", [(0, 1000), (-100, 1), (-100, -100), (1, -1), (1000, 1)])
def test_answers_outside_of_the_text_do_not_count(wrong):
    model = network("question-answering", "electra")
    inputs = batch("question-answering")
    inputs["start_positions"][0], inputs["end_positions"][0] = wrong
    expected = model(**part(inputs, slice(1, 3)))
    found = model(**inputs)
    torch.testing.assert_close(found.classification_loss, expected.classification_loss)
    items = model.count_items(inputs)
    assert items == 2
    single = [model(**part(inputs, slice(k, k + 1)), num_items_in_batch=items).loss for k in range(3)]
    torch.testing.assert_close(sum(single), found.loss)
