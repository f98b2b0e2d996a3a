"""Results on disk: Parquet, safetensors and a manifest; read back whole, by neuron, or with SQL."""

from neuronwise.store.frames import validate
from neuronwise.store.manifest import Manifest
from neuronwise.store.query import query
from neuronwise.store.result import Result, load_result
from neuronwise.store.schema import SCHEMA_VERSION, TABLES

__all__ = ["SCHEMA_VERSION", "TABLES", "Manifest", "Result", "load_result", "query", "validate"]
