"""Programs and libraries as they are launch with tuned configs: the policy of `fusetune run` and `fusetune.install`."""
