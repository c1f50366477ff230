"""Build a training from the config: model, optimizer and plan on the devices."""

import importlib.util
from pathlib import Path
from typing import Any

from magicoder import models
from magicoder.config import TrainConfig
from magicoder.runtime.console import say
from magicoder.runtime.errors import UserError
from magicoder.training.attention import keep_documents_apart
from magicoder.training.checkpoint import Checkpoints
from magicoder.training.distributed import World
from magicoder.training.flops import FlopsCounter
from magicoder.training.gradients import Gradients
from magicoder.training.layout import Layout, choose_bin_size
from magicoder.training.loop import Training
from magicoder.training.loss import LossModule
from magicoder.training.memory import choose_plan, measure_available, model_memory
from magicoder.training.optimizers import OPTIMIZERS
from magicoder.training.plan import Plan, make_schedule
from magicoder.training.sharding import find_layers
from magicoder.training.tokenization import Sequences
from magicoder.training.weights import WeightLoader


def build_training(
    settings: TrainConfig, sequences: Sequences, tokenizer: Any, world: World
) -> tuple[Training, Checkpoints]:
    """Build the training and its checkpoints. Errors: UserError if the model cannot be trained on these rows."""
    recipe = settings.train
    longest = sequences.counts.longest
    layout = Layout(
        recipe.layout,
        choose_bin_size(recipe.tokens_per_device, longest, world.device),
        recipe.loss,
        pad_token_id=tokenizer.eos_token_id,
    )
    padded = recipe.per_device_train_batch_size * longest
    tokens = layout.tokens_per_device if layout.kind == "packed" else padded
    loss_module, reduce_once = build_model(settings, sequences, tokens, world)
    optimizer = OPTIMIZERS[recipe.optim](loss_module.parameters(), recipe)
    plan = Plan(
        len(sequences),
        recipe.num_train_epochs,
        recipe.per_device_train_batch_size,
        recipe.sequences_per_update,
        recipe.seed,
    )
    training = Training(
        world,
        loss_module,
        optimizer,
        Gradients(loss_module, world, once=reduce_once),
        sequences,
        plan,
        make_schedule(recipe.lr_scheduler_type, recipe.learning_rate, recipe.warmup_steps, plan.updates),
        layout,
        FlopsCounter(loss_module.model),
        recipe.max_grad_norm,
    )
    return training, Checkpoints(Path(settings.out), recipe.keep_checkpoints, world, loss_module, optimizer)


def build_model(settings: TrainConfig, sequences: Sequences, tokens: int, world: World) -> tuple[LossModule, bool]:
    """Build the model with its loss on the devices, for micro-batches of `tokens` tokens.

    Returns the module, and whether its gradients are reduced once an update.
    """
    recipe, parallel = settings.train, settings.parallel
    attention = choose_attention(settings, world)

    def load() -> Any:
        name = settings.model.init or settings.model.key
        model = models.load_model(name, bf16=recipe.bf16, attention=attention or "eager")
        check_fit(model, sequences, settings)
        return model

    weights = WeightLoader(world, load)
    model = weights.make_model(
        lambda config: models.build_empty(config, bf16=recipe.bf16, attention=attention or "eager")
    )
    if attention is None:
        keep_documents_apart(model)
    memory = model_memory(
        model,
        tokens=tokens,
        shards=world.size if world.kind == "fsdp" else 1,
        chunked=recipe.logits == "chunked",
        offloaded=parallel.cpu_offload and world.device.type == "cuda",
        master=recipe.master_weights,
    )
    room = measure_available(world.device, world.size_here)
    plan = choose_plan(memory, room, parallel.activation_checkpointing, parallel.reduce_gradients)
    say(
        f"train: {memory.elements / 1e6:,.1f} M parameters, {world}; each needs an estimated {memory.estimate(plan)} "
        f"of {room / 1e9:.1f} GB{', more than available' if memory.estimate(plan).total > room else ''}; "
        f"activation checkpointing {'on' if plan.checkpointing else 'off'}",
    )
    if plan.checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if recipe.compile:
        for layer in find_layers(model):
            layer.compile()
    loss_module = LossModule(model, chunked=recipe.logits == "chunked")
    weights.place(loss_module)
    return loss_module, plan.once


def check_fit(model: Any, sequences: Sequences, settings: TrainConfig) -> None:
    """Errors: UserError if the model cannot be trained on these rows."""
    embeddings = model.get_input_embeddings().num_embeddings
    counts = sequences.counts
    if counts.largest_token >= embeddings:
        raise UserError(
            f"model.key={settings.model.key}: the tokenizer has token {counts.largest_token}, "
            f"the weights have {embeddings} embeddings"
        )
    limit = settings.train.max_training_seq_length
    positions = getattr(model.config, "max_position_embeddings", None) or limit
    if counts.longest > positions:
        raise UserError(f"train.max_training_seq_length={limit}: the model has only {positions} positions")


def choose_attention(settings: TrainConfig, world: World) -> str | None:
    """Return the attention of transformers to use; None for our own, in packed bins.

    `auto` chooses flash-attn where it is installed and there is a GPU, else sdpa.
    """
    if settings.model.attention != "auto":
        return settings.model.attention
    if settings.train.layout == "packed":
        return None
    has_flash = world.device.type == "cuda" and importlib.util.find_spec("flash_attn")
    return "flash_attention_2" if has_flash else "sdpa"
