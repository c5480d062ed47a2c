# /// script
# requires-python = ">=3.10"
# dependencies = ["selfmod_hf[peft]"]
# [tool.uv.sources]
# selfmod_hf = { path = "..", editable = true }
# ///
"""Train LoRA adapters of a language model that predicts its own layers, and write text with it.

    uv run examples/lora_causal_lm.py
    uv run examples/lora_causal_lm.py --model openai-community/gpt2-medium --samples 2000

uv needs the checkout: the package is on no index. After `pip install -e '.[peft]'` it is
`python examples/lora_causal_lm.py`. The base must have the layers of GPT-2.
"""

import argparse

from peft import LoraConfig
from transformers import AutoTokenizer, set_seed

from selfmod_hf import (
    SelfModelingForCausalLM,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
    TaskSpec,
    load_blocks,
)


def main() -> None:
    """Train the adapter, and print perplexity and a continuation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="openai-community/gpt2", help="Hub id of a GPT-2")
    parser.add_argument("--aux_weight", type=float, default=0.1, help="0 is the baseline")
    parser.add_argument("--samples", type=int, default=1000, help="blocks of text to train with")
    parser.add_argument("--block_size", type=int, default=128, help="tokens of a block")
    parser.add_argument("--prompt", default="the film is")
    arguments = parser.parse_args()
    set_seed(1)
    size = arguments.block_size
    task = TaskSpec("reviews", "stanfordnlp/imdb", text_column="text", task_type="causal-lm", block_size=size)
    sizes = {"max_train_samples": arguments.samples, "max_test_samples": max(arguments.samples // 4, 4)}
    data = load_blocks(task, tokenizer=arguments.model, **sizes)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    fields = {"target_layers": ["h.*"], "target_pooling": "tokens", "aux_weight": arguments.aux_weight}
    model = SelfModelingForCausalLM.from_backbone_pretrained(arguments.model, adapter=lora, **fields)
    args = SelfModelingTrainingArguments("runs/lora", num_train_epochs=1, learning_rate=1e-3)
    trainer = SelfModelingTrainer(model, args, train_dataset=data.train, eval_dataset=data.test)
    trainer.train()
    trainer.save_model()  # the adapter and the self-model
    print(f"perplexity {trainer.evaluate()['eval_perplexity']:.1f}, runs/lora")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    prompt = tokenizer(arguments.prompt, return_tensors="pt").to(model.device)
    writer = model.eval().prune(adapter="merge")  # a plain GPT-2
    print(tokenizer.decode(writer.generate(**prompt, max_new_tokens=20, do_sample=False)[0]))


if __name__ == "__main__":
    main()
