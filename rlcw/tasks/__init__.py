"""Tasks: each module or package here is one, with `run(config, workdir)`."""
