"""The main job of the command line: train a dense network and its factorised twins, and compare.

- `outcomes`: what is measured, and the table; no training in it.
- `twins`: the networks, ranks and training settings of each data set.
- `training`: trains one network and reports each step.
- `shipping`: keeps models whole or not at all, exports, and checks the export.
- `figure`: accuracy against parameters.
- `command`: ties them together for `keras-tensornet demo`.
"""
