"""What this package uses of other packages beside their documented interfaces: here a change of it is noticed by name.

Public names are here too, where a method is overridden, or a function is called by position or with a rare argument:
its parameters count. Lists are of the first parameters and, after a bar, of those given by name.
"""

import inspect
from importlib import import_module

import pytest

TRAINER = "transformers:Trainer."
USED = {
    # overridden by our Trainers, which call the original
    f"{TRAINER}_save": "self output_dir state_dict",
    f"{TRAINER}_save_checkpoint": "self model trial",
    f"{TRAINER}_save_optimizer_and_scheduler": "self output_dir",
    f"{TRAINER}_load_from_checkpoint": "self resume_from_checkpoint model",
    f"{TRAINER}_load_best_model": "self",
    f"{TRAINER}_init_training_state": "self max_steps num_update_steps_per_epoch num_train_epochs "
    "resume_from_checkpoint trial",
    f"{TRAINER}_get_grad_norm": "self model grad_norm",
    f"{TRAINER}_clip_grad_norm": "self model",
    f"{TRAINER}create_accelerator_and_postprocess": "self",
    f"{TRAINER}_get_num_items_in_batch": "self batch_samples device",
    f"{TRAINER}compute_loss": "self model inputs return_outputs num_items_in_batch",
    f"{TRAINER}training_step": "self model inputs num_items_in_batch",
    f"{TRAINER}prediction_step": "self model inputs prediction_loss_only ignore_keys",
    f"{TRAINER}evaluation_loop": "self dataloader description prediction_loss_only ignore_keys metric_key_prefix",
    f"{TRAINER}get_optimizer_cls_and_kwargs": "args model",
    f"{TRAINER}floating_point_ops": "self inputs",
    f"{TRAINER}create_optimizer": "self model",
    f"{TRAINER}create_scheduler": "self num_training_steps optimizer",
    f"{TRAINER}create_model_card": "self",
    f"{TRAINER}save_state": "self",
    f"{TRAINER}save_metrics": "self split metrics combined",
    f"{TRAINER}log": "self logs start_time",
    f"{TRAINER}train": "self resume_from_checkpoint trial ignore_keys_for_eval",
    "transformers:TrainingArguments.n_gpu": None,
    "transformers:PreTrainedModel._init_weights": "self module",
    "transformers:PreTrainedModel.initialize_weights": "self",
    "transformers:PreTrainedModel.post_init": "self",
    "transformers:PreTrainedModel._set_gradient_checkpointing": "self enable gradient_checkpointing_func",
    # called
    f"{TRAINER}_prepare_inputs": "self inputs",
    f"{TRAINER}pop_callback": "self callback",
    f"{TRAINER}_set_signature_columns_if_needed": "self",
    "accelerate.commands.launch:launch_command_parser": "",
    "accelerate.commands.config.config_args:ClusterConfig.process_config": "config_dict",
    "accelerate.commands.launch:launch_command": "args",
    "accelerate.utils:patch_environment": "",
    "torch.distributed.elastic.multiprocessing.errors:ChildFailedError.get_first_failure": "self",
    "transformers.trainer:TRAINER_STATE_NAME": None,
    "transformers.utils:WEIGHTS_NAME": None,
    "transformers.utils:WEIGHTS_INDEX_NAME": None,
    "transformers.utils:SAFE_WEIGHTS_NAME": None,
    "transformers.utils:SAFE_WEIGHTS_INDEX_NAME": None,
    "transformers:PreTrainedModel.from_pretrained": "pretrained_model_name_or_path | ignore_mismatched_sizes",
    "torch.nn:Module.register_load_state_dict_pre_hook": "self hook",
    "transformers.integrations.sdpa_attention:sdpa_attention_forward": "module query key value attention_mask",
    "transformers.masking_utils:sdpa_mask": "| allow_is_causal_skip allow_is_bidirectional_skip",
    "transformers:AttentionInterface.register": "key value",
    "transformers:AttentionMaskInterface.register": "key value",
    "transformers:PreTrainedModel.set_attn_implementation": "self attn_implementation",
    "transformers.models.auto.modeling_auto:MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": None,
    "transformers.models.auto.modeling_auto:MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": None,
    "transformers.models.auto.modeling_auto:MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": None,
    "transformers.models.auto.modeling_auto:MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": None,
    "transformers.models.auto.modeling_auto:MODEL_FOR_MASKED_LM_MAPPING_NAMES": None,
    "transformers:AutoModel._model_mapping": None,
    f"{TRAINER}_get_collator_with_removed_columns": "self data_collator",
    "datasets.fingerprint:Hasher.hash": "value",
    "datasets.fingerprint:generate_random_fingerprint": "",
    "huggingface_hub.utils:httpx.TransportError": None,
    "optuna.trial:Trial.__init__": "self study trial_id",
    "optuna.storages.journal:JournalFileOpenLock.acquire": "self",
    "optuna.storages.journal:JournalFileOpenLock.release": "self",
    "torch.fx.experimental.proxy_tensor:make_fx": "f",
    "torch.utils._pytree:tree_map_only": "type_or_types_or_pred func tree",
    "torch.utils._pytree:tree_flatten": "tree",
    "torch.utils._pytree:tree_leaves": "tree",
    "torch.utils._pytree:tree_unflatten": "leaves treespec",
    "torch.utils._pytree:TreeSpec": None,
    "torch:jit.trace": "func example_inputs | check_trace",
    "torch:ops.aten._unsafe_view.default": None,
    "torch:ops.aten.bmm.default._schema.is_mutable": None,
    # put out of the way
    "accelerate:Accelerator.prepare_model": "self model device_placement evaluation_mode",
    "accelerate:Accelerator.gather_for_metrics": "self input_data",
    "accelerate:Accelerator.pad_across_processes": "self tensor",
    # undone
    "accelerate:Accelerator.unwrap_model": "self model keep_fp32_wrapper",
    "accelerate.data_loader:BatchSamplerShard.__init__": "self batch_sampler num_processes process_index split_batches",
}
# names that are no attributes of a class: they must occur in the source
WRITTEN = {
    "transformers:Trainer": ["self._train_batch_size", "self.gather_function", "set_epoch"],
    "optuna.trial:FrozenTrial": ["self._trial_id"],
    "datasets:Dataset": ["self._fingerprint", "new_fingerprint"],
    "transformers:PreTrainedTokenizerBase": ["self._special_tokens_map = "],
    "transformers.tokenization_utils_tokenizers:TokenizersBackend": ["self._should_update_post_processor"],
    "accelerate.optimizer:AcceleratedOptimizer": ["is_lomo_available"],
    "accelerate:Accelerator.prepare_model": ['"_is_accelerate_prepared"'],
}


def find(name: str):
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", USED)
def test_what_is_used_is_there_and_takes_what_it_took(name):
    found = find(name)
    if USED[name] is not None:
        first, _, by_name = (part.split() for part in USED[name].partition("|"))
        parameters = list(inspect.signature(found).parameters)
        assert parameters[: len(first)] == first
        assert set(by_name) <= set(parameters)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_has_no_name_to_look_up_is_still_in_the_source(name):
    source = inspect.getsource(find(name))
    assert [text for text in WRITTEN[name] if text not in source] == []
