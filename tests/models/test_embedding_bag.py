"""The embedding bag and its sparse gradient, against torch's own; alone, mapped over members, in the Trainer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from transformers import set_seed

from selfmod_hf import (
    Member,
    SelfModelingConfig,
    SelfModelingForSequenceClassification,
    SelfModelingPopulation,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    estimate_rlct,
)
from selfmod_hf.data import TextTensors
from selfmod_hf.models.embedding_bag_self_modeling import MeanEmbeddingBag

VOCABULARY = 23


def bag(sparse: bool) -> MeanEmbeddingBag:
    torch.manual_seed(0)
    module = MeanEmbeddingBag(VOCABULARY, 5).double()
    module.sparse = sparse
    return module


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=7), filler=st.integers(0, 3), sparse=st.booleans())
def test_values_and_gradients_are_those_of_torchs_embedding_bag(lengths, filler, sparse):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens = torch.randint(0, VOCABULARY, (int(offsets[-1]) + filler,), generator=torch.Generator().manual_seed(1))
    mine, theirs = bag(sparse), nn.EmbeddingBag(VOCABULARY, 5, mode="mean").double()
    theirs.load_state_dict(mine.state_dict())
    values = mine(tokens.int(), offsets.int())
    expected = theirs(tokens[: int(offsets[-1])], offsets[:-1])
    torch.testing.assert_close(values, expected)
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (values * weights).sum().backward()
    (expected * weights).sum().backward()
    assert mine.weight.grad.is_sparse == sparse
    torch.testing.assert_close(mine.weight.grad.to_dense(), theirs.weight.grad)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("shared", ["nothing", "texts", "weights"])
def test_mapped_over_members_it_is_each_members_own(sparse, shared):
    generator = torch.Generator().manual_seed(3)
    modules = [bag(sparse) for _ in range(3)]
    for module in modules:
        nn.init.normal_(module.weight)
    offsets = torch.tensor([[0, 2, 5, 5], [0, 1, 4, 7], [0, 3, 3, 6]]).int()
    tokens = torch.randint(0, VOCABULARY, (3, 8), generator=generator).int()
    parameters, _ = stack_module_state(modules)
    dims = (0, 0, 0)
    if shared == "texts":
        tokens, offsets, dims = tokens[0], offsets[0], (0, None, None)
    if shared == "weights":
        parameters, dims = {"weight": modules[0].weight}, (None, 0, 0)
    one = lambda weights, ids, ends: functional_call(modules[0], weights, (ids, ends))  # noqa: E731
    values = vmap(one, in_dims=dims)(parameters, tokens, offsets)  # (3, 3, 5)
    weights = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((values * weights).sum(), [parameters["weight"]])
    assert gradient.is_sparse == sparse
    found = gradient.to_dense()
    total = torch.zeros_like(modules[0].weight)
    for k, module in enumerate(modules):
        module = modules[0] if shared == "weights" else module
        alone = module(*((tokens, offsets) if shared == "texts" else (tokens[k], offsets[k])))
        torch.testing.assert_close(values[k], alone)
        (own,) = torch.autograd.grad((alone * weights[k]).sum(), [module.weight])
        total += own.to_dense()
        if shared != "weights":
            torch.testing.assert_close(found[k], own.to_dense())
    if shared == "weights":
        torch.testing.assert_close(found, total)


# ------------------------------------------------------------------------------------- the network


def network(**fields) -> SelfModelingForSequenceClassification:
    defaults = {"hidden_sizes": [6], "target_layers": ["hidden.relu1"], "aux_weight": 2.0, "num_labels": 3}
    kwargs = {"num_embeddings": VOCABULARY, "embedding_dim": 4}
    set_seed(0)
    return SelfModelingForSequenceClassification(
        SelfModelingConfig(**{**defaults, "backbone": "embedding_bag", "backbone_kwargs": kwargs, **fields})
    )


class Tokenizer:
    pad_token_id = 0

    def save_pretrained(self, folder):
        return ()


def texts(count: int = 93, seed: int = 0, padded: bool = False) -> TextTensors:
    """93 texts: the last batch of an epoch is not full."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    lengths = torch.randint(1, 9, (count,), generator=generator)
    tokens = torch.randint(0, 8, (int(lengths.sum()),), generator=generator) + 7 * labels.repeat_interleave(lengths)
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    return TextTensors(tokens.int(), ends, labels, Tokenizer(), padded)


def test_both_layouts_give_the_same_loss():
    model, rows = network(), torch.arange(9)
    bags, padded = (model(**texts(padded=padded).take(rows)) for padded in (False, True))
    for name in ("loss", "logits", "self_model_targets"):
        torch.testing.assert_close(bags[name], padded[name])


def test_it_reads_texts_alone():
    with pytest.raises(ValueError, match="num_embeddings"):
        network(backbone_kwargs={"num_embeddings": 3})
    with pytest.raises(ValueError, match="of a text classifier"):
        network(backbone="mlp", backbone_kwargs={})
    with pytest.raises(ValueError, match="target_pooling='flatten'"):
        network(target_pooling="flatten")


# ------------------------------------------------------------------------------------- training

SGD = {"optim": "sgd", "learning_rate": 0.3, "max_grad_norm": 0.0, "weight_decay": 0.0, "lr_scheduler_type": "linear"}
MEMBERS = [Member(1, 5.0), Member(2, 0.0), Member(2, 5.0)]


def trainer(folder, model, **settings) -> SelfModelingTrainer:
    defaults = {"per_device_train_batch_size": 16, "num_train_epochs": 2, "report_to": "none", "disable_tqdm": True}
    arguments = SelfModelingTrainingArguments(
        output_dir=str(folder), **{**SGD, **defaults, "save_strategy": "no", "logging_strategy": "epoch", **settings}
    )
    return SelfModelingTrainer(model=model, args=arguments, train_dataset=texts(), eval_dataset=texts(41, seed=1))


class Watch:
    """Which layout the embedding's gradients had."""

    def __init__(self, weight):
        self.layouts = set()
        weight.register_hook(lambda gradient: self.layouts.add(gradient.is_sparse))


def test_sparse_training_is_dense_training(tmp_path):
    model = network().double()
    seen = Watch(model.backbone.weight)
    trainer(tmp_path, model).train()
    assert seen.layouts == {True}

    reference = network().double()
    optimizer = torch.optim.SGD(reference.parameters(), lr=SGD["learning_rate"])
    dense = trainer(tmp_path, reference, optim="sgd")
    dense.optimizer = optimizer  # the Trainer makes none of its own: the gradient stays dense
    seen = Watch(reference.backbone.weight)
    dense.train()
    assert seen.layouts == {False}
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"optim_args": "momentum=0.9"},
        {"optim": "adamw_torch", "learning_rate": 1e-2},
        {"weight_decay": 0.1},
        {"max_grad_norm": 0.1},
    ],
)
def test_what_moves_every_row_gets_dense_gradients(tmp_path, settings):
    model = network()
    seen = Watch(model.backbone.weight)
    run = trainer(tmp_path, model, **settings)
    run.train()
    assert seen.layouts == {False}
    assert run.evaluate()["eval_accuracy"] > 0.3


def test_it_learns_and_accumulates(tmp_path):
    whole = trainer(tmp_path, network().double(), num_train_epochs=40, learning_rate=2.0)
    whole.train()
    assert whole.evaluate()["eval_accuracy"] > 0.8
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 40,
        "learning_rate": 2.0,
    }
    split = trainer(tmp_path, network().double(), **settings)
    split.train()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("members", [MEMBERS, [*MEMBERS, Member(1, 5.0, False)]])
def test_each_member_of_a_population_equals_the_same_seed_alone(tmp_path, members):
    population = SelfModelingPopulation(network().config, members).double()
    seen = Watch(population.stacked.backbone.weight)
    run = trainer(tmp_path, population)
    run.train()
    assert seen.layouts == {True}  # members of other targets are in the same computation
    metrics = run.evaluate()
    for k, member in enumerate(members):
        set_seed(member.seed)
        config = network(aux_weight=member.aux_weight, detach_targets=member.detach_targets).config
        set_seed(member.seed)
        alone = trainer(tmp_path, SelfModelingForSequenceClassification(config).double(), seed=member.seed)
        alone.train()
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(population.member(k).state_dict()[name], value, rtol=0, atol=1e-10)
        own = alone.evaluate()
        for name in ("eval_accuracy", "eval_loss", "eval_classification_loss"):
            assert metrics[f"{name}/{member.name}"] == pytest.approx(own[name], rel=1e-9)


# ------------------------------------------------------------------------------------- complexity


def test_the_rlct_on_bags_is_the_rlct_on_padded_texts():
    """Chains have minibatches of different length; the reference reads the same texts through a padded module."""
    from selfmod_hf.complexity import estimate_llc

    model, data = network().double(), texts()
    settings = {"num_draws": 12, "batch_size": 10, "num_chains": 3, "step_size": 1e-2, "localization": 10.0}
    (found,) = estimate_rlct([model], data, **settings)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model.prune()

        def forward(self, input_ids, attention_mask):
            return self.network(input_ids, attention_mask).logits

    batch = texts(padded=True).take(torch.arange(len(data)))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = estimate_llc(Padded(), inputs, data.labels, **settings)
    torch.testing.assert_close(torch.tensor(found.loss_trace), torch.tensor(expected.loss_trace))
    frozen = estimate_rlct([model, model], data, parameters=["network.hidden.*", "network.classifier.*"], **settings)
    assert all(result.settings.num_parameters == 4 * 6 + 6 + 6 * 3 + 3 for result in frozen)
