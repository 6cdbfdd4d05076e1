"""Does what was kept still hold? On a GPU by paired blocks, without one by compiling."""
