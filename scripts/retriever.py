r"""Measures a decoder as the retriever of `curate`, beside TF-IDF.

  python scripts/retriever.py WORKDIR PAIRS.jsonl [MODEL [SENTENCES]]

PAIRS have a query and a good reply (`chosen` or `response`), in English.  The
decoder reads both, and their mean features are compared by cosine: standardised
as they are, and through two projections that are fitted to the training pairs
by InfoNCE, as LLM2CLIP tunes its text encoder on pairs of captions (arXiv
2411.04997).  Prints the share of held-out queries whose own reply is among the
k nearest of all held-out replies.  SENTENCES names a model for sentence-
transformers, if that is installed.

Letters: N pairs, D features, E projected ones.
"""

import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rlcw.data import datasets
from rlcw.data.examples import load_examples
from rlcw.data.messages import transcript
from rlcw.evaluation.page import show
from rlcw.models import formats, language_model
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import text_scores
from rlcw.rewards.reward_model import Head, RewardModel
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.curate import retrieval

MODEL = 'models/SmolLM2-135M-Instruct.Q4_1.gguf'
NEAREST = 1, 5, 20  # replies, of which one is right
BATCH = 32  # texts read at once
HELDOUT = 0.4  # share of the queries
LANGUAGE = 'en'  # `curate` retrieves in one language, too
# Of the projections.
WIDTH, STEPS, RATE, TEMPERATURE, DECAY = 128, 200, 1e-3, 0.05, 1e-2

Both = Sequence[Any]  # of the queries, and of the replies


def features_of(model: LanguageModel, texts: Sequence[str]) -> np.ndarray:
  """Mean features `[N, D]` of texts, each read as a reply."""
  head = Head(np.zeros(model.config.model_dim), np.zeros(()))
  reader = RewardModel(head, 'mean', model, shared=True)
  return np.concatenate(
    [
      text_scores.read(
        reader,
        ['Text:'] * len(some),
        [[text] for text in some],
        np.ones((len(some), 1), bool),
      )[:, 0]
      for some in (texts[n : n + BATCH] for n in range(0, len(texts), BATCH))
    ]
  )


def unit(x_NxD: jax.Array) -> jax.Array:
  """Rows of norm 1."""
  return x_NxD / (jnp.linalg.norm(x_NxD, axis=1, keepdims=True) + 1e-6)


@jax.jit
def fit(query_NxD: jax.Array, reply_NxD: jax.Array) -> Both:
  """Projections `[D, E]` of queries and of replies, by InfoNCE both ways."""
  optimizer = optax.adamw(RATE, weight_decay=DECAY)
  size = query_NxD.shape[1]
  start = jax.random.normal(jax.random.key(0), (size, WIDTH)) / size**0.5

  def loss(weights: Both) -> jax.Array:
    query_NxE, reply_NxE = unit(query_NxD @ weights[0]), reply_NxD @ weights[1]
    logit_NxN = query_NxE @ unit(reply_NxE).T / TEMPERATURE
    return -sum(
      jnp.diagonal(jax.nn.log_softmax(logit_NxN, axis)).mean()
      for axis in (0, 1)
    )

  def update(state: Any, _: None) -> tuple[Any, None]:
    weights, moments = state
    gradient = jax.grad(loss)(weights)
    updates, moments = optimizer.update(gradient, moments, weights)
    return (optax.apply_updates(weights, updates), moments), None

  weights = start, start
  state = weights, optimizer.init(weights)
  (weights, _), _ = lax.scan(update, state, length=STEPS)
  return weights


def recalls(cosine_NxN: np.ndarray) -> list[float]:
  """Shares of queries whose own reply is among the `NEAREST`."""
  own_Nx1 = np.diagonal(cosine_NxN)[:, None]
  rank_N = (cosine_NxN > own_Nx1).sum(1)
  return [float((rank_N < k).mean()) for k in NEAREST]


def read(file: str, model: str, workdir: pathlib.Path) -> dict[str, list[Both]]:
  """Texts and standardised features of both splits; the latter are kept."""
  found = {}
  for split in (datasets.TRAIN, datasets.HELDOUT):
    pairs = load_examples(file, split=split, language=LANGUAGE, heldout=HELDOUT)
    found[split] = [
      [transcript(each.prompt) for each in pairs],
      [each.response for each in pairs],
    ]
  # of these texts by this model
  key = hashlib.sha256(repr([found, formats.digest(model)]).encode())
  kept = workdir / f'features-{key.hexdigest()[:16]}.npz'
  if not kept.exists():
    mesh = make_mesh()
    with jax.set_mesh(mesh):
      decoder = language_model.load(model, mesh)
      arrays = {
        f'{split}{n}': features_of(decoder, texts)
        for split, both in found.items()
        for n, texts in enumerate(both)
      }
    with files.atomic(kept) as partial, partial.open('wb') as out:
      np.savez(out, **arrays)
  with np.load(kept) as archive:
    arrays = dict(archive)
  for n in (0, 1):
    train_NxD = arrays[f'{datasets.TRAIN}{n}']
    mean_D, std_D = train_NxD.mean(0), train_NxD.std(0) + 1e-6
    for split in found:
      found[split].append((arrays[f'{split}{n}'] - mean_D) / std_D)
  return found


def measure(
  folder: str, file: str, model: str = MODEL, sentences: str = ''
) -> None:
  """Prints a row for each retriever, and keeps the numbers."""
  workdir = pathlib.Path(folder)
  workdir.mkdir(parents=True, exist_ok=True)
  found = read(file, model, workdir)
  queries, replies, *heldout = found[datasets.HELDOUT]
  rare_query, rare_reply = retrieval.tfidf(queries, replies)
  cosines = {
    'TF-IDF': (rare_query @ rare_reply.T).toarray(),
    'features': unit(heldout[0]) @ unit(heldout[1]).T,
  }
  weights = fit(*found[datasets.TRAIN][2:])
  one, other = (unit(x @ w) for x, w in zip(heldout, weights, strict=True))
  cosines['projected'] = one @ other.T
  if sentences:
    one, other = retrieval.sentences(queries, replies, sentences)
    cosines[sentences] = one @ other.T
  count = len(found[datasets.TRAIN][0])
  print(f'{count} pairs to train on, {len(queries)} held out')
  rows = {name: recalls(np.asarray(each)) for name, each in cosines.items()}
  for name, shares in rows.items():
    told = ', '.join(
      f'@{k} {show(share, ".1%")}'
      for k, share in zip(NEAREST, shares, strict=True)
    )
    print(f'{name:<12} {told}')
  files.write_json(workdir / 'recall.json', rows)


if __name__ == '__main__':
  measure(*sys.argv[1:])
