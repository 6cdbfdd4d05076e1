"""What was decided and what was tried, for people and for programs: terminal, markdown, JSON, CSV."""
