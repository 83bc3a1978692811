"""A model's scored replies to held-out briefs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlcw import Config
from rlcw.data import batches
from rlcw.models import lora, tokenizer
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import constraints
from rlcw.rewards.briefs import Brief
from rlcw.runtime import metrics
from rlcw.runtime.mesh import over_groups, round_up_groups
from rlcw.sampling.rollout import Temperature, sample


def answer(
  model: LanguageModel,
  scorer: Callable[..., Any],
  briefs: list[Brief],
  trained: Config,
  config: Config,
) -> list[list[dict[str, Any]]]:
  """`replies_per_brief` replies to each brief, as a `scoring.Scorer` sees them.

  `kl` is log p − log p_base of a reply, in nats; the mean over replies is the
  divergence from the base model.
  """
  prompt_NxL, length_N = batches.pad(
    tokenizer.chat(model.tokenizer, brief.text) for brief in briefs
  )
  decoder = lora.rollout_config(model.config)
  params = lora.rollout_params(model.config, model.params)
  size, replies = round_up_groups(config.briefs_per_pass, model.mesh), []
  passes = -(-len(briefs) // size)
  for step in metrics.progress('evaluate', 0, passes, 'batch'):
    # all passes have one shape, which splits over the devices: the last one
    # repeats some briefs
    rows = np.arange(step * size, (step + 1) * size) % len(briefs)
    prompt_PxL, length_P, brief_P = jax.device_put(
      (prompt_NxL[rows], length_N[rows], rows),
      over_groups(model.mesh),
    )
    rollout = sample(
      params,
      prompt_PxL,
      length_P,
      brief_P,
      Temperature(trained.temperature),
      config.seed,
      0,
      config=decoder,
      group_size=config.replies_per_brief,
      max_new_tokens=trained.max_new_tokens,
      eos=tokenizer.eos_ids(model.tokenizer),
    )
    scores = scorer(
      [briefs[row] for row in rows], prompt_PxL, length_P, rollout
    )
    finished = np.asarray(rollout.finished)
    length = np.asarray(rollout.length)
    gap_PxGxT = np.asarray(rollout.logp - scores.ref_logp)
    kl = gap_PxGxT.sum(-1, where=np.asarray(rollout.mask))
    replies += [
      [
        {
          'text': scores.text[p][g],
          'writing': scores.writing[p, g],
          'follow': scores.follow[p][g],
          'finished': finished[p, g],
          'length': length[p, g],
          'kl': kl[p, g],
        }
        for g in range(config.replies_per_brief)
      ]
      for p in range(size)
    ]
  return replies[: len(briefs)]


def follows_loosely(brief: Brief, reply: dict[str, Any]) -> float:
  """IFEval's loose verdict on all rules; on demands there is only one.

  Returns:
    1 or 0; NaN where a demand got no verdict and no rule is broken.
  """
  loose = brief.follow(reply['text'], loose=True)
  verdicts = zip(loose, reply['follow'], strict=True)
  return 1 - constraints.breaks(
    [strict if rule is None else rule for rule, strict in verdicts]
  )
