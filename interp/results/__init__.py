"""Results as files: one record each with what it rests on, and the run folder that holds them."""

from interp.results.merging import merge_runs
from interp.results.record import Provenance, Record, load_record, provenance
from interp.results.run_folder import RunFolder
from interp.results.token_map import TokenMap

__all__ = ["Provenance", "Record", "RunFolder", "TokenMap", "load_record", "merge_runs", "provenance"]
