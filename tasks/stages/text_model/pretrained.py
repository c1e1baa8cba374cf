"""A ready model: a folder with a Hugging Face encoder or GPT-2, to which a head for our outputs is added.

Only safetensors are loaded, no code of the folder is run, and nothing is downloaded. The model has to read our tokens:
its own tokenizer must make the same ids of the same text as `tokenize.tokenizer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.errors import SettingsError
from tasks.engines import tokenizer


class Pretrained(nn.Module):
    """A Hugging Face model of tokens' vectors, and a linear head on their mean."""

    def __init__(self, body: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        if getattr(body, "pooler", None) is not None:
            body.pooler = None  # not used: weights without a gradient would stop DDP
        self.body, self.head = body, nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens, mask: (n, T). Returns (n, outputs)."""
        h = self.body(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        counted = mask[:, :, None].to(h.dtype)
        outputs: Tensor = self.head((h * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1))
        return outputs


class Causal(nn.Module):
    """A Hugging Face model of the next token."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens, mask: (n, T). Returns (n, T, vocabulary) logits."""
        logits: Tensor = self.body(input_ids=tokens, attention_mask=mask.long()).logits
        return logits


def without_dropout(config: dict[str, Any]) -> dict[str, Any]:
    """Switch dropout off: its masks would differ by the number of ranks, and after a resumption.

    The folder's own name is left out, as the config travels with the model.
    """
    kept = {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
    return {name: 0.0 if "drop" in name and isinstance(value, float) else value for name, value in kept.items()}


def skeleton(config: dict[str, Any], outputs: int) -> nn.Module:
    """Build the model without its weights. config: Hugging Face's, as a dictionary."""
    from transformers import AutoConfig, AutoModel

    made, kind = AutoConfig.for_model(**config), AutoModel  # type: Any, Any
    return Pretrained(kind.from_config(made, dtype=torch.float32), made.hidden_size, outputs)


def flops_per_token(config: dict[str, Any]) -> float:
    """Operations of forward and backward for a token: 6 a weight outside the embeddings."""
    module = skeleton(config, 1)
    return float(6 * sum(w.numel() for name, w in module.named_parameters() if "emb" not in name and "wte" not in name))


def load(folder: str, outputs: int, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model with a new head; returns it with its config. Raises SettingsError if it cannot be used."""
    body, config = _body(folder, "AutoModel", "text_model.from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pretrained(body, body.config.hidden_size, outputs), config


def load_causal(folder: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model with its own head of next tokens. Raises SettingsError if it cannot be used or sees them."""
    where = "next_token.from"
    body, config = _body(folder, "AutoModelForCausalLM", where)
    module = Causal(body).eval()
    with torch.no_grad():
        one, other = (module(torch.tensor([[1, last]]), torch.ones(1, 2, dtype=torch.bool))[0, 0] for last in (2, 3))
    if not torch.allclose(one, other, atol=1e-5):
        raise SettingsError(
            "the model sees the tokens that it is to predict", where=f"{where}={folder}", fix="give GPT-2"
        )
    return module, config


def _body(folder: str, kind: str, where: str) -> tuple[Any, dict[str, Any]]:
    import transformers

    try:
        given = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = without_dropout(given.to_dict())
        body, loaded = getattr(transformers, kind).from_pretrained(
            folder,
            config=transformers.AutoConfig.for_model(**config),
            output_loading_info=True,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise SettingsError(
            f"the model cannot be loaded: {str(error).strip().splitlines()[0]}",
            where=f"{where}={folder}",
            fix="give a folder with config.json and model.safetensors of a Hugging Face encoder or GPT-2",
        ) from None
    if missing := sorted(name for name in loaded["missing_keys"] if "pooler" not in name):
        raise SettingsError(
            f"{len(missing)} of the model's weights are not in the folder, as {missing[0]}",
            where=f"{where}={folder}",
            fix="they would be drawn at random: give a folder that holds them all",
        )
    return body, config


def check_length(module: nn.Module, length: int, setting: str) -> None:
    """Raise SettingsError unless the model takes rows of so many tokens: some say more positions than they have."""
    try:
        with torch.no_grad():
            module(torch.full((1, length), 2), torch.ones(1, length, dtype=torch.bool))
    except (IndexError, RuntimeError) as error:
        raise SettingsError(
            f"the model does not take {length:,} tokens: {str(error).strip().splitlines()[0]}",
            where=setting,
            fix="lower it",
        ) from None


def files_of(folder: str) -> list[Path]:
    """List the files that decide what `load` gives: they are part of the stage's key."""
    found = Path(folder)
    return sorted([*found.glob("config.json"), *found.glob("*.safetensors"), *found.glob("*.index.json")])


def check(folder: str, made: str, vocabulary: int, max_tokens: int, setting: str = "text_model") -> None:
    """Raise SettingsError unless the folder holds a model that reads ids of our tokenizer.

    made: the tokenizer of `tokenize`, as the tokenizers library's JSON. vocabulary: its number of ids. setting: the
    section that names the folder.
    """
    where = f"{setting}.from={folder}"
    most = "context" if setting == "next_token" else "max_tokens"
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no readable config.json: {error}", where=where, fix="give a folder saved by save_pretrained"
        ) from None
    if not list(Path(folder).glob("*.safetensors")):
        raise SettingsError(
            "no weights as safetensors; pickled ones are never loaded",
            where=where,
            fix="save the model again: model.save_pretrained(FOLDER)",
        )
    if config.get("is_encoder_decoder"):
        raise SettingsError("an encoder with a decoder", where=where, fix="give an encoder, or GPT-2")
    if config.get("vocab_size", 0) < vocabulary:
        raise SettingsError(
            f"the model has {config.get('vocab_size', 0):,} token ids, the tokenizer {vocabulary:,}",
            where=where,
            fix=f"set tokenize.tokenizer={folder}, if the model's tokenizer is there",
        )
    positions = next((config[name] for name in ("max_position_embeddings", "n_positions") if config.get(name)), None)
    if positions is not None and positions < max_tokens:
        raise SettingsError(
            f"the model has {positions:,} positions, {setting}.{most} is {max_tokens:,}",
            where=where,
            fix=f"set {setting}.{most}={positions}",
        )
    try:
        own = tokenizer.recipe(folder).made
    except SettingsError as error:
        raise SettingsError(
            f"the model's tokenizer {error.what}", where=where, fix="save it beside the model: save_pretrained(FOLDER)"
        ) from None
    if meaning(own) != meaning(made):
        raise SettingsError(
            "the model's tokenizer is another one than that of the reviews' tokens",
            where=where,
            fix=f"set tokenize.tokenizer={folder}",
        )


def meaning(made: str) -> tuple[Any, ...]:
    """Return the parts of a tokenizer that decide a text's ids, special tokens aside."""
    parts = json.loads(made)
    model = {k: v for k, v in parts["model"].items() if k in ("type", "vocab", "merges", "unk_token")}
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []]
    return parts["normalizer"], parts["pre_tokenizer"], {**model, "merges": merges}
