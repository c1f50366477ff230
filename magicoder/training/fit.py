"""A training as the settings ask for it, at its beginning: model, optimizer and plan on the devices."""

import importlib.util
from pathlib import Path
from typing import Any

from magicoder import models
from magicoder.config import TrainConfig
from magicoder.runtime.errors import UserError
from magicoder.training.adafactor import Adafactor
from magicoder.training.attention import keep_documents_apart
from magicoder.training.checkpoint import Checkpoints
from magicoder.training.distributed import World
from magicoder.training.flops import FlopsCounter
from magicoder.training.gradients import Gradients
from magicoder.training.layout import Layout, tokens_of_a_bin
from magicoder.training.loop import Training
from magicoder.training.loss import LossModule
from magicoder.training.memory import available, choose, shape_of
from magicoder.training.plan import Plan, learning_rate_schedule
from magicoder.training.sharding import layers
from magicoder.training.tokenization import Sequences
from magicoder.training.weights import WeightLoader


def set_up(settings: TrainConfig, sequences: Sequences, tokenizer: Any, world: World) -> tuple[Training, Checkpoints]:
    """The training and where it is kept. Errors: UserError if the model cannot learn these rows, or not in this way."""
    recipe = settings.train
    longest = sequences.counts.longest
    layout = Layout(
        recipe.layout,
        tokens_of_a_bin(recipe.tokens_per_device, longest, world.device),
        recipe.loss,
        pad_token_id=tokenizer.eos_token_id,
    )
    padded = recipe.per_device_train_batch_size * longest
    tokens = layout.tokens_per_device if layout.kind == "packed" else padded
    loss_module, reduce_once = build_model(settings, sequences, tokens, world)
    optimizer = Adafactor(
        loss_module.parameters(), rounding=recipe.rounding, master_weights=recipe.master_weights, seed=recipe.seed
    )
    plan = Plan(
        len(sequences),
        recipe.num_train_epochs,
        recipe.per_device_train_batch_size,
        recipe.global_batch_size,
        recipe.seed,
    )
    training = Training(
        world,
        loss_module,
        optimizer,
        Gradients(loss_module, world, once=reduce_once),
        sequences,
        plan,
        learning_rate_schedule(recipe.lr_scheduler_type, recipe.learning_rate, recipe.warmup_steps, plan.updates),
        layout,
        FlopsCounter(loss_module.model),
        recipe.max_grad_norm,
    )
    return training, Checkpoints(Path(settings.out), recipe.keep_checkpoints, world, loss_module, optimizer)


def build_model(settings: TrainConfig, sequences: Sequences, tokens: int, world: World) -> tuple[LossModule, bool]:
    """The objective on its devices, for micro-batches of `tokens`, and whether its gradients are reduced once."""
    recipe, parallel = settings.train, settings.parallel
    attention = attention_implementation(settings, world)

    def load() -> Any:
        name = settings.model.init or settings.model.key
        model = models.load_model(name, bf16=recipe.bf16, attention=attention or "eager")
        check_fit(model, sequences, settings)
        return model

    weights = WeightLoader(world, load)
    model = weights.model_to_place(
        lambda config: models.empty(config, bf16=recipe.bf16, attention=attention or "eager")
    )
    if attention is None:
        keep_documents_apart(model)
    shape = shape_of(
        model,
        tokens=tokens,
        shards=world.size if world.kind == "fsdp" else 1,
        chunked=recipe.logits == "chunked",
        offloaded=parallel.cpu_offload and world.device.type == "cuda",
        master=recipe.master_weights,
    )
    room = available(world.device, world.size)
    way = choose(shape, room, parallel.activation_checkpointing, parallel.reduce_gradients)
    if world.is_first:
        print(
            f"train: {shape.elements / 1e6:,.1f} M parameters, {world}; each needs an estimated {shape.demand(way)} "
            f"of {room / 1e9:.1f} GB{', more than there is' if shape.demand(way).total > room else ''}; "
            f"activation checkpointing {'on' if way.checkpointing else 'off'}",
            flush=True,
        )
    if way.checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if recipe.compile:
        for layer in layers(model):
            layer.compile()
    loss_module = LossModule(model, chunked=recipe.logits == "chunked")
    weights.place(loss_module)
    return loss_module, way.once


def check_fit(model: Any, sequences: Sequences, settings: TrainConfig) -> None:
    """Errors: UserError if the rows cannot be learnt by this model."""
    embeddings = model.get_input_embeddings().num_embeddings
    counts = sequences.counts
    if counts.largest_token >= embeddings:
        raise UserError(
            f"model.key={settings.model.key}: the tokenizer gives token {counts.largest_token}, "
            f"the weights embed {embeddings}"
        )
    limit = settings.train.max_training_seq_length
    positions = getattr(model.config, "max_position_embeddings", None) or limit
    if counts.longest > positions:
        raise UserError(f"train.max_training_seq_length={limit}: the model knows no more than {positions} positions")


def attention_implementation(settings: TrainConfig, world: World) -> str | None:
    """What of transformers' computes attention: for `auto` none in packed bins, flash-attn if it can run, else sdpa."""
    if settings.model.attention != "auto":
        return settings.model.attention
    if settings.train.layout == "packed":
        return None
    has_flash = world.device.type == "cuda" and importlib.util.find_spec("flash_attn")
    return "flash_attention_2" if has_flash else "sdpa"
