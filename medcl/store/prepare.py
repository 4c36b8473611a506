"""DATA -> STORE: every volume made standard once, in parallel, going on where it stopped."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcl.foundation.cluster import Cluster
from medcl.foundation.config import to_yaml
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.files import CARD, PARTIAL, hash_of_folder, read_card, read_json, write_card, write_json, write_text, write_whole
from medcl.foundation.lock import alone_in, holds_anything
from medcl.foundation.progress import Progress, Silent
from medcl.foundation.side_by_side import begun, side_by_side
from medcl.store import update, work
from medcl.store.plan import Estimate, Task, estimate, plan_tasks
from medcl.store.recipe import Recipe, recipe_hash
from medcl.store.standard import Prepared, Refused, prepare_volume
from medcl.store.update import PARTS
from medcl.store.volume_store import INDEX, LABELS, RECIPE, REPORTS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prepared", "Refused", "Summary", "prepare", "prepare_volume"]

LEDGER = "ledger.parquet"
_BEGUN = "begun.json"


@dataclass(frozen=True)
class Summary:
    """What `prepare` did. refused: counts by ledger code. estimate: only of a dry run, which writes nothing."""

    folder: Path
    volumes: int
    patients: int
    masks: int
    refused: dict[str, int]
    bytes: int
    estimate: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"folder": str(self.folder)}


def prepare(
    data: Path | str,
    out: Path | str,
    recipe: Recipe,
    *,
    jobs: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Summary:
    """Prepare every volume of a DATA folder into a STORE folder.

    jobs: processes here. dask: address of a Dask scheduler whose workers do it instead (they must see both folders under the
    same paths). A volume already written whole is not done again; a store already whole is left alone. Where DATA has changed since
    (ingest found new scans, a patient withdrew), volumes that are the same stay and the others are done; a run that is not finished
    cannot go on with a store that has changed. A volume that cannot be prepared is listed in `ledger.parquet`. Raises UserError for
    a folder without a card, an `out` that another process is writing, or one made with another recipe or from data that share
    nothing with these; DataError where no volume was usable or a worker process died.
    """
    from medcl.ingest.data import open_data

    data, out = Path(data), Path(out)
    if dask:  # workers elsewhere start in other folders
        data, out = data.absolute(), out.absolute()
    opened, progress = open_data(data), progress or Silent()
    return prepare_data(opened, hash_of_folder(data), out, recipe, jobs=jobs, dask=dask, progress=progress, dry_run=dry_run)


def prepare_data(
    data: Any,
    data_hash: str,
    out: Path,
    recipe: Recipe,
    *,
    jobs: int,
    progress: Progress,
    dask: str | None = None,
    dry_run: bool = False,
) -> Summary:
    """`prepare` for an opened DATA folder (anything with its `manifest`, `volume`, `mask`, `labels`, `reports`)."""
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: expected 1 or more")
    if len(data.manifest) == 0:
        raise DataError("the manifest is empty: no volume to prepare")
    if dry_run:
        guess = estimate(data, recipe, jobs)
        progress.say(f"{len(data.manifest)} volumes: {guess}")
        return Summary(out, len(data.manifest), data.manifest["patient_key"].nunique(), 0, {}, guess.disk_bytes, guess)
    made_from = {"data": data_hash, "recipe": recipe_hash(recipe)}
    if _is_whole(out, made_from):
        return _already_whole(out, progress)
    _refuse_foreign(out)
    with alone_in(out):
        if _is_whole(out, made_from):  # by another process, a moment ago
            return _already_whole(out, progress)
        _begin(out, made_from, work.Context(data, out, recipe), progress)
        first, records = update.kept(out)
        tasks = plan_tasks(data.manifest, recipe, {record["row"] for record in records}, first)
        _run(data, out, recipe, tasks, jobs, dask, progress)
        summary = _finish(data, out, recipe, made_from)
        shutil.rmtree(out / PARTS)
        (out / _BEGUN).unlink()
    return summary


def _is_whole(out: Path, made_from: dict[str, Any]) -> bool:
    return (out / CARD).is_file() and _made_from(out) == made_from


def _refuse_foreign(out: Path) -> None:
    """Raise UserError where files lie in `out` and no store does."""
    known = any((out / name).is_file() for name in (CARD, _BEGUN))
    if not known and holds_anything(out):
        raise UserError(f"--out {out}: not empty and not a store; choose another folder")


def _made_from(out: Path) -> dict[str, Any]:
    """What a whole or begun store says it is made from."""
    if not (out / CARD).is_file():
        return read_json(out / _BEGUN)
    card = read_card(out, "store")
    return {"data": card["inputs"].get("data"), "recipe": card.get("recipe_hash")}


def _already_whole(out: Path, progress: Progress) -> Summary:
    card = read_card(out, "store")
    progress.say(f"{out}: already whole, nothing to do")
    counts = card["counts"]
    return Summary(out, counts["volumes"], counts["patients"], counts["masks"], card["refused"], card["array_bytes"])


def _begin(out: Path, made_from: dict[str, str], context: work.Context, progress: Progress) -> None:
    """Open a new store, go on with a begun one, or turn one whose DATA has changed into a begun one that keeps what stays."""
    for path in out.glob(PARTIAL):
        path.unlink()
    if any((out / name).is_file() for name in (CARD, _BEGUN)) and _made_from(out) != made_from:
        stay = None
        if _made_from(out)["recipe"] == made_from["recipe"]:
            stay = update.keep_what_stays(out, context.data.manifest, set(context.mask_ids))
        if stay is None:
            raise UserError(f"--out {out}: holds a store made from other data or with another recipe; choose another folder or remove it")
        progress.say(f"{out}: the data changed; {stay} volumes stay as they are, {len(context.data.manifest) - stay} to prepare")
    write_json(out / _BEGUN, made_from)
    (out / CARD).unlink(missing_ok=True)
    (out / PARTS).mkdir(exist_ok=True)


def _run(data: Any, out: Path, recipe: Recipe, tasks: list[Task], jobs: int, dask: str | None, progress: Progress) -> None:
    open_tasks = [task for task in tasks if not _part(out, task.number).is_file()]
    counts = {task.number: len(task.rows) for task in tasks}
    total, done = sum(counts.values()), sum(counts.values()) - sum(len(task.rows) for task in open_tasks)
    context = work.Context(data, out, recipe)
    finished = _in_turn(context, open_tasks) if jobs == 1 and dask is None else _in_parallel(context, open_tasks, jobs, dask)
    rows = (row for number, part in finished for row in _keep(out, number, part))
    for _ in progress.track(rows, total, "prepare", done=done):
        pass


def _keep(out: Path, number: int, part: list[dict[str, Any]]) -> list[dict[str, Any]]:
    write_json(_part(out, number), part)
    return part


def _part(out: Path, number: int) -> Path:
    return out / PARTS / f"{number:07d}.json"


def _in_turn(context: work.Context, tasks: list[Task]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for task in tasks:
        yield task.number, work.do_task(context, task)


def _in_parallel(context: work.Context, tasks: list[Task], jobs: int, dask: str | None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    with _workers(context, jobs, dask) as (ask, size):
        try:
            yield from (part for _, part in side_by_side(tasks, ask, size))
        except BrokenExecutor:
            raise DataError(
                "a worker process died, most likely for want of memory; what is done is kept: run the same command with fewer --jobs"
            ) from None


@contextmanager
def _workers(context: work.Context, jobs: int, dask: str | None) -> Iterator[tuple[Callable[[Task], Future], int]]:
    """How to hand over a task, and how many are worked on side by side. The context travels once to each worker."""
    pool: Executor
    if dask is None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["medcl.store.work", "medcl.ingest.data", "medcl.ingest.dicom", "pandas"])
        pool, size = ProcessPoolExecutor(jobs, mp_context=server, initializer=work.begin_worker, initargs=(context,)), jobs
        begun(pool, size)
        ask = partial(pool.submit, work.do_task_in_worker)
    else:
        pool = Cluster(dask)
        ask, size = partial(pool.submit, work.do_numbered_task, pool.share(context)), pool.size
    try:
        yield ask, size
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _finish(data: Any, out: Path, recipe: Recipe, made_from: dict[str, str]) -> Summary:
    """Gather the parts into the index and the ledger, copy the tables, write the card."""
    import pandas as pd

    records = sorted(update.parts(out), key=lambda record: record["row"])
    if [record["row"] for record in records] != list(range(len(data.manifest))):
        raise DataError(
            f"{out / PARTS}: {len(records)} records, which are not one for each of the {len(data.manifest)} rows of the manifest; "
            "was something else writing this folder? Remove it and prepare again"
        )
    ledger = pd.DataFrame([{name: row[name] for name in ("volume_id", "status", "reason", "detail")} for row in records])
    refused = {
        str(code): int(count) for code, count in ledger.loc[ledger["status"] == "refused", "reason"].value_counts().sort_index().items()
    }
    used = [row for row in records if row["status"] == "used"]
    _write_table(out / LEDGER, ledger)
    if not used:
        reasons = ", ".join(f"{count} {code}" for code, count in refused.items())
        detail = next(row["detail"] for row in records if row["status"] == "refused")
        raise DataError(f"no volume could be prepared ({reasons}); the first: {detail}; all in {out / LEDGER}")
    index = _index(data.manifest, used)
    _write_table(out / INDEX, index)
    update.remove_unused(out, index)
    write_text(out / RECIPE, to_yaml(recipe))
    for name, table in ((LABELS, data.labels), (REPORTS, data.reports)):
        if table is None:  # also where an earlier one has it
            (out / name).unlink(missing_ok=True)
        else:
            _write_table(out / name, table)
    array_bytes = sum(path.stat().st_size for path in sorted((out / work.ARRAYS).iterdir()))
    counts = {"volumes": len(index), "patients": len(set(index["patient"])), "masks": sum(index["mask_file"] != "")}
    write_card(
        out,
        "store",
        inputs={"data": made_from["data"]},
        settings=recipe.model_dump(mode="json"),
        counts=counts | {"refused": sum(refused.values())},
        recipe_hash=made_from["recipe"],
        corpus_hash=_corpus_hash(index, made_from["recipe"]),
        refused=refused,
        array_bytes=array_bytes,
    )
    return Summary(out, counts["volumes"], counts["patients"], counts["masks"], refused, array_bytes)


def _index(manifest: pd.DataFrame, used: list[dict[str, Any]]) -> pd.DataFrame:
    """The manifest's rows that were used, with what the prepared array changes and adds."""
    index = manifest.iloc[[row["row"] for row in used]].reset_index(drop=True)
    known = [name for name in used[0]["columns"] if all(name in row["columns"] for row in used)]  # an earlier medcl begins with fewer
    for name in known:
        index[name] = [row["columns"][name] for row in used]
    codes = {key: code for code, key in enumerate(sorted(index["patient_key"].astype(str).unique()))}
    index["patient"] = [codes[str(key)] for key in index["patient_key"]]
    return index


def _corpus_hash(index: pd.DataFrame, recipe: str) -> str:
    """Names the set of scans and how they were prepared, whatever their order."""
    hashes = sorted(index["pixel_hash"].astype(str))
    return hashlib.sha256(json.dumps([recipe, hashes]).encode()).hexdigest()


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_whole(path, lambda partial: table.to_parquet(partial, index=False))
