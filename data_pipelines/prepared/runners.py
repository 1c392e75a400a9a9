"""Who writes the image shards: processes of this machine, or the workers of an Apache Beam pipeline."""

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from data_pipelines.core.child_processes import follow_parent
from data_pipelines.core.errors import DataError, InvalidOption, MissingPackage
from data_pipelines.prepared.image_shards import ImageShard, write_shard


def run_processes(shards: Sequence[ImageShard], *, workers: int) -> None:
    """Writes the shards, `workers` at a time, with a bar that counts images. Finished ones are passed over at once."""
    total = sum(len(shard.items) for shard in shards)
    # disable=None: no bar where the output is no terminal.
    with tqdm(total=total, desc="storing images", unit="image", disable=None) as bar:
        if workers == 1 or len(shards) <= 1:
            for shard in shards:
                write_shard(shard)
                bar.update(len(shard.items))
            return
        # Spawned, not forked: the readers of ArrayRecord and whatever the caller imported have threads.
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches the whole group; the parent stops them in order.
        pool = ProcessPoolExecutor(
            min(workers, len(shards)), mp_context=context, initializer=follow_parent, initargs=(signal.SIGINT,)
        )
        try:
            running = {pool.submit(write_shard, shard): len(shard.items) for shard in shards}
            for done in as_completed(running):
                done.result()
                bar.update(running[done])
        except BrokenProcessPool:
            raise DataError(
                "a process that stored images was ended from outside, for want of memory perhaps; run the same command "
                f"again to resume, with --workers {max(1, workers // 2)}",
                code="worker.lost",
            ) from None
        finally:
            # After an error or Ctrl-C the shards under way are finished, and no other is begun.
            pool.shutdown(wait=True, cancel_futures=True)


def run_beam(shards: Sequence[ImageShard], *, runner: str, options: Sequence[str]) -> None:
    """Writes the shards by an Apache Beam pipeline; every worker must see source and output under the same paths.

    Args:
      runner: Beam's name, e.g. "DirectRunner" or "DataflowRunner".
      options: Beam's own, e.g. ("--project=…", "--region=…").

    Raises:
      ConfigError: Beam is not installed.
      DataError: it does not know the runner.
    """
    try:
        import apache_beam as beam  # type: ignore[import-not-found]
        from apache_beam.options.pipeline_options import PipelineOptions  # type: ignore[import-not-found]
    except ImportError:
        raise MissingPackage(
            "--runner: needs Apache Beam, which its pins keep out of the training environment; in one of its own run "
            "pip install apache-beam, then install this package there (docs/DATA.md, Apache Beam)"
        ) from None
    try:
        pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options]))
    except ValueError as error:
        raise InvalidOption(f"--runner {runner}: {' '.join(str(error).split())}") from None
    with pipeline:
        # Reshuffled, or a runner would fuse the steps and write all shards on one worker.
        _ = pipeline | beam.Create(list(shards)) | beam.Reshuffle() | beam.Map(write_shard)
