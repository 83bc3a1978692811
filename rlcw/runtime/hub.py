"""Errors of the Hugging Face Hub's library, in one line."""

TIMEOUT_SECONDS = 10.0  # of the first request to the Hub


def reason(error: Exception) -> str:
  """Returns one line that explains an error of the Hub's library."""
  from huggingface_hub import errors

  # In this order, because a GatedRepoError is also a RepositoryNotFoundError.
  known = {
    errors.GatedRepoError: 'accept terms on its page, and log in '
    '(hf auth login)',
    errors.RepositoryNotFoundError: 'no such repository, or a private one',
    errors.RevisionNotFoundError: 'no such revision in the repository',
    errors.OfflineModeIsEnabled: 'HF_HUB_OFFLINE forbids requests',
  }
  for kind, explanation in known.items():
    if isinstance(error, kind):
      return explanation
  text = str(error).strip() or 'no reason given'
  return f'{type(error).__name__}: {text.splitlines()[0]}'
