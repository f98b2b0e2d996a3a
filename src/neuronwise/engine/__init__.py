"""Running long work: map over blocks, merge, resume; in this process, in local processes, or on Ray."""

from neuronwise.engine.checkpoint import Checkpoint
from neuronwise.engine.job import Block, Job
from neuronwise.engine.progress import progress_bar
from neuronwise.engine.run import ENGINES, blocks_of, check_engine, map_reduce

__all__ = ["ENGINES", "Block", "Checkpoint", "Job", "blocks_of", "check_engine", "map_reduce", "progress_bar"]
