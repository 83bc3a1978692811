"""Names of parameters in checkpoints: Hugging Face's and GGUF's.

One table maps each of our parameters to its names.  Ours are those of single
projections; some families' checkpoints have several of them in one tensor, one
after another along its rows.
"""

import itertools

from rlcw.models.config import ModelConfig
from rlcw.models.stacks import stacks

# path of our parameter: (Hugging Face name, GGUF name)
EMBED, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
_TOP = {
  'embed': (EMBED, 'token_embd.weight'),
  'head': (HEAD, 'output.weight'),
  'final_norm/scale': ('model.norm.weight', 'output_norm.weight'),
  'score': ('score.weight', 'cls.output.weight'),
  'layer_inputs/embed': (
    'model.embed_tokens_per_layer.weight',
    'per_layer_token_embd.weight',
  ),
  'layer_inputs/projection/kernel': (
    'model.per_layer_model_projection.weight',
    'per_layer_model_proj.weight',
  ),
  'layer_inputs/norm/scale': (
    'model.per_layer_projection_norm.weight',
    'per_layer_proj_norm.weight',
  ),
}
_BLOCK = {
  'attention_norm/scale': ('input_layernorm.weight', 'attn_norm.weight'),
  'query/kernel': ('self_attn.q_proj.weight', 'attn_q.weight'),
  'query/bias': ('self_attn.q_proj.bias', 'attn_q.bias'),
  'query_norm/scale': ('self_attn.q_norm.weight', 'attn_q_norm.weight'),
  'key/kernel': ('self_attn.k_proj.weight', 'attn_k.weight'),
  'key/bias': ('self_attn.k_proj.bias', 'attn_k.bias'),
  'key_norm/scale': ('self_attn.k_norm.weight', 'attn_k_norm.weight'),
  'value/kernel': ('self_attn.v_proj.weight', 'attn_v.weight'),
  'value/bias': ('self_attn.v_proj.bias', 'attn_v.bias'),
  'output/kernel': ('self_attn.o_proj.weight', 'attn_output.weight'),
  'mlp_norm/scale': ('post_attention_layernorm.weight', 'ffn_norm.weight'),
  'gate/kernel': ('mlp.gate_proj.weight', 'ffn_gate.weight'),
  'up/kernel': ('mlp.up_proj.weight', 'ffn_up.weight'),
  'down/kernel': ('mlp.down_proj.weight', 'ffn_down.weight'),
  'layer_gate/kernel': ('per_layer_input_gate.weight', 'inp_gate.weight'),
  'layer_output/kernel': ('per_layer_projection.weight', 'proj.weight'),
  'layer_post_norm/scale': (
    'post_per_layer_input_norm.weight',
    'post_norm.weight',
  ),
  'layer_scale': ('layer_scalar', 'layer_output_scale.weight'),
}
# Beside a norm after attention, which has its name, the norm before the MLP is
# called otherwise.
_POST_NORMS = {
  'attention_post_norm/scale': (
    'post_attention_layernorm.weight',
    'post_attention_norm.weight',
  ),
  'mlp_norm/scale': ('pre_feedforward_layernorm.weight', 'ffn_norm.weight'),
  'mlp_post_norm/scale': (
    'post_feedforward_layernorm.weight',
    'post_ffw_norm.weight',
  ),
}
# By a tensor's (Hugging Face name, GGUF name): the kernels in it, in order.
_FUSED = {
  ('self_attn.qkv_proj.weight', 'attn_qkv.weight'): ('query', 'key', 'value'),
  ('mlp.gate_up_proj.weight', 'ffn_up.weight'): ('gate', 'up'),
}
_LAYER = {'hf': 'model.layers.{}.', 'gguf': 'blk.{}.'}


def names(config: ModelConfig, path: str, format: str = 'hf') -> list[str]:
  """Names of one of our parameters in a checkpoint, one for each layer.

  With `config.fused` several parameters have the same ones: see `members`.
  """
  column = ('hf', 'gguf').index(format)
  if not path.startswith('blocks/'):
    return [_TOP[path][column]]
  rows = _BLOCK | _POST_NORMS if config.post_norms else _BLOCK
  if config.fused:
    rows = rows | {
      f'{kernel}/kernel': name
      for name, kernels in _FUSED.items()
      for kernel in kernels
    }
  layers, path = _of_stack(config, path)
  name, layer = rows[path][column], _LAYER[format]
  return [layer.format(i) + name for i in layers]


def _of_stack(config: ModelConfig, path: str) -> tuple[range, str]:
  """Layers of a parameter's stack, and its path in a block."""
  return next(
    (layers, path.removeprefix(prefix))
    for prefix, layers in stacks(config).items()
    if path.startswith(prefix)
  )


def unread(config: ModelConfig, format: str = 'hf') -> set[str]:
  """Names of weights for keys and values that layers do not use.

  Checkpoints may have them in layers that read those of another one.
  """
  first = config.num_layers - config.shared_layers
  column = ('hf', 'gguf').index(format)
  return {
    _LAYER[format].format(layer) + row[column]
    for layer in range(first, config.num_layers)
    for path, row in _BLOCK.items()
    if path.startswith(('key', 'value'))
  }


def members(config: ModelConfig, path: str) -> dict[str, slice]:
  """Our parameters in the tensor of one of them, and the rows of each.

  In the order of the rows; one parameter alone unless the tensor is fused.
  """
  found = [f'blocks/{kernel}/kernel' for kernel in _kernels(config, path)]
  if not found:
    return {path: slice(None)}
  heads, kv = (
    n * config.head_dim for n in (config.num_heads, config.num_kv_heads)
  )
  rows = dict(
    query=heads, key=kv, value=kv, gate=config.mlp_dim, up=config.mlp_dim
  )
  ends = itertools.accumulate(rows[each.split('/')[1]] for each in found)
  starts = itertools.pairwise([0, *ends])
  return {each: slice(*pair) for each, pair in zip(found, starts, strict=True)}


def _kernels(config: ModelConfig, path: str) -> tuple[str, ...]:
  """Names of the kernels in a tensor; () if it has this parameter alone."""
  if not config.fused:
    return ()
  fused = (
    kernels
    for kernels in _FUSED.values()
    if path in [f'blocks/{kernel}/kernel' for kernel in kernels]
  )
  return next(fused, ())
