"""The workflow: plan, compile, check, race, confirm, revalidate; or, without a GPU, predict."""
