"""The commands: parse, call, print."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import typer

from medcl.foundation.errors import MedclError, UserError
from medcl.foundation.progress import Bar, Lines, Progress, Silent

app = typer.Typer(
    help="Contrastive pretraining for medical images: raw scans in, a backbone and an honest label-efficiency page out.",
    epilog="Start with: medcl demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[
    bool, typer.Option("--json", help="Put one JSON object on stdout, everything else on stderr.", rich_help_panel="Every command")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel="Every command")]
Sources = Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Folders, files or globs: DICOM, NIfTI, PNG/JPEG, MedMNIST .npz.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Laid over the YAML before it is checked.")]
Jobs = Annotated[int, typer.Option(min=1, help="How many processes work side by side.")]
Settings = Annotated[Path | None, typer.Option(metavar="YAML", help="Settings of ingest, where the defaults do not fit.")]
Target = Literal["backbone", "onnx", "monai", "nnunet", "huggingface"]
_PRIVATE_ROOMS = ("medcl/ingest/", "medcl/loading/texts", "medcl/encoders/tokenizer")


class Conversation:
    """What every command does alike: progress, the answer, `--json`, and how each failure ends."""

    def __init__(self, command: str, as_json: bool, quiet: bool) -> None:
        self.command = command
        self.as_json = as_json
        self.quiet = quiet
        self.progress: Progress = Silent() if quiet else Bar() if sys.stderr.isatty() else Lines()
        self._stdout = -1
        self._code = 0

    def __enter__(self) -> Conversation:
        if self.as_json:  # libraries print, some from C: only the one object may reach the real stdout
            sys.stdout.flush()
            self._stdout = os.dup(1)
            os.dup2(2, 1)
        return self

    def done(self, lines: Iterable[str], result: Mapping[str, Any], next: str, code: int = 0) -> None:
        """Give the answer. No lines: another process of the same job speaks. code: what the command returns."""
        lines = list(lines)
        if not lines:
            return
        self._code = code
        self._put_json({"ok": code == 0, "exit": code, "result": dict(result), "next": next})
        if not self.quiet:
            for line in [*lines, f"Next: {next}"]:
                print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None and not isinstance(error, SystemExit):
                code, message = _explain(error, self.command)
                self._put_json({"ok": False, "exit": code, "error": message})
                print(message, file=sys.stderr, flush=True)
                raise SystemExit(code) from None
            if self._code:
                raise SystemExit(self._code)
        finally:
            if self.as_json:
                sys.stdout.flush()
                os.dup2(self._stdout, 1)
                os.close(self._stdout)

    def _put_json(self, content: dict[str, Any]) -> None:
        if self.as_json:
            text = json.dumps({"command": self.command, **content}, default=str, ensure_ascii=False)
            os.write(self._stdout, (text + "\n").encode())


def _explain(error: BaseException, command: str) -> tuple[int, str]:
    """The exit code and the one message of a failure."""
    if isinstance(error, MedclError):
        return error.exit_code, f"{command}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return 130, f"{command}: interrupted; what was finished is kept, the same command goes on"
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return 2, f"{command}: out of memory; make it smaller: training.world_batch, views.size or --jobs (training.pieces keeps the batch)"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
        return 2, f"{command}: {error.filename or 'writing'}: {error.strerror}; choose another --out, or make room there"
    where, shown = _write_traceback(error)
    return 1, f"{command}: unexpected failure, a bug in medcl: {shown}\nThe traceback is in {where}; please send it with your report."


def _write_traceback(error: BaseException) -> tuple[str, str]:
    """Write where it happened, without values of variables; returns the file's path and the error in one line.

    Rooms that see identifiers (raw headers, report texts) may have them in the message of an exception, so with one
    of them on the way the messages are left out too.
    """
    import tempfile
    import traceback

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    frames = [traceback.extract_tb(link.__traceback__) for link in chain]
    private = any(room in frame.filename.replace(os.sep, "/") for stack in frames for frame in stack for room in _PRIVATE_ROOMS)
    titles = [type(link).__name__ if private else f"{type(link).__name__}: {link}" for link in chain]
    descriptor, path = tempfile.mkstemp(prefix="medcl-", suffix=".traceback.txt")  # mode 0600
    with open(descriptor, "w", encoding="utf-8") as handle:
        for title, stack in reversed(list(zip(titles, frames, strict=True))):
            handle.writelines([*stack.format(), f"{title}\n\n"])
    return path, titles[0]


@app.callback(invoke_without_command=True)
def _all(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        import medcl

        typer.echo(f"medcl {medcl.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: medcl demo --out runs/demo --minutes 10")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option(min=1, help="How long it may take on two cores.")] = 10,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a small cohort and run the whole path on it, from raw scans to the page."""
    with Conversation("demo", as_json, quiet) as talk:
        from medcl.demo import demo as run_demo

        result = run_demo(out, minutes=minutes, progress=talk.progress)
        talk.done(
            result.lines, {"page": result.page}, next=f"open {result.page} in a browser; then: medcl ingest YOUR_SCANS --out data/mine"
        )


@app.command(epilog="Example: medcl ingest export/ --out data/ct --reports reports.csv --labels labels.csv --jobs 4")
def ingest(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="The DATA folder to make.")],
    reports: Annotated[Path | None, typer.Option(metavar="CSV", help="Report texts, one row per study.")] = None,
    labels: Annotated[Path | None, typer.Option(metavar="CSV", help="Labels, one row per file, study or patient.")] = None,
    settings: Settings = None,
    jobs: Jobs = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read raw scans into a manifest without identifiers, and list what became of every file."""
    with Conversation("ingest", as_json, quiet) as talk:
        from medcl.ingest.run import ingest as ingest_scans

        chosen = _ingest_settings(settings)
        summary = ingest_scans(sources, out, reports=reports, labels=labels, settings=chosen, jobs=jobs, progress=talk.progress)
        talk.done(summary.lines, summary.counts, next=f"medcl prepare {out} --out {out}/store --recipe {summary.recipe}")


@app.command(epilog="Example: medcl convert export/ --out nifti/")
def convert(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder for the NIfTI files and the ledger.")],
    settings: Settings = None,
    jobs: Jobs = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what ingest would use as NIfTI, one .nii.gz per volume, with the ledger."""
    with Conversation("convert", as_json, quiet) as talk:
        from medcl.ingest.run import convert as write_nifti

        summary = write_nifti(sources, out, settings=_ingest_settings(settings), jobs=jobs, progress=talk.progress)
        talk.done(summary.lines, summary.counts, next=f"look at {out}/ledger.parquet for files that were refused, and why")


@app.command(epilog="Example: medcl prepare data/ct --out data/ct/store --recipe ct --jobs 4")
def prepare(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that ingest made.")],
    out: Annotated[Path, typer.Option(help="The STORE folder to make.")],
    recipe: Annotated[str | None, typer.Option(help="ct, mr, xray, shape or a YAML file; without it, the modality's own.")] = None,
    jobs: Jobs = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take: disk, memory, time.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring volumes to one orientation, spacing and intensity scale, in chunks that are quick to read."""
    with Conversation("prepare", as_json, quiet) as talk:
        from medcl.store.prepare import prepare as prepare_store

        summary = prepare_store(data, out, recipe, jobs=jobs, progress=talk.progress, dry_run=dry_run)
        follow = f"medcl prepare {data} --out {out}" if dry_run else f"medcl preview {out} --out {out}/preview"
        talk.done(summary.lines, summary.counts, next=follow)


@app.command(epilog="Example: medcl preview data/ct/store --policy ct --out preview/")
def preview(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder that prepare made.")],
    out: Annotated[Path, typer.Option(help="Folder for the contact sheet and the figures.")],
    policy: Annotated[str | None, typer.Option(help="Name of a built-in policy or a YAML file; without it, the recipe's own.")] = None,
    paired: Annotated[bool, typer.Option("--paired", help="Views are paired with reports: stricter rules.")] = False,
    size: Annotated[str | None, typer.Option(metavar="X,Y[,Z]", help="Voxel grid of a view, such as 96,96,96.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many items to draw.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw augmented views for a person to look at, and measure what they did to your data."""
    with Conversation("preview", as_json, quiet) as talk:
        from medcl.views.audit import preview_store

        audit = preview_store(store, out, policy=policy, size=_size(size), paired=paired, count=count, seed=seed, progress=talk.progress)
        talk.done(audit["lines"], audit, next=f"open {out}/index.html; then: medcl pretrain CONFIG.yaml store={store}")


@app.command(epilog="Example: medcl pretrain configs/pretrain/ct_moco.yaml training.num_steps=1000 --out runs/ct_moco")
def pretrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on which store.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The RUN folder; without it, runs/ and the config's name.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a backbone. The same line again goes on where it stopped."""
    with Conversation("pretrain", as_json, quiet) as talk:
        from medcl.api import pretrain as run_pretraining

        run = run_pretraining(config, overrides or [], out=out or Path("runs") / config.stem, progress=talk.progress)
        follow = f"medcl evaluate STUDY.yaml inits.pretrained={run.backbone}, or medcl export {run.folder} --to onnx --out onnx/"
        talk.done(run.lines, {"run": run.folder, "backbone": run.backbone}, next=follow)


@app.command(epilog="Example: medcl evaluate configs/evaluate/classification.yaml draws=3 --out runs/study")
def evaluate(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Which backbones to compare, on which labels.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The STUDY folder; without it, runs/ and the study's name.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how many labels a backbone saves. The same line again goes on where it stopped."""
    with Conversation("evaluate", as_json, quiet) as talk:
        from medcl.api import evaluate as run_study

        result = run_study(study, overrides or [], out=out or Path("runs") / study.stem, progress=talk.progress)
        talk.done(result.lines, {"study": result.folder, "headline": result.headline}, next=f"open {result.folder}/page.html in a browser")


@app.command(epilog="Example: medcl embed runs/ct_moco/backbone scans/ --out embeddings.parquet")
def embed(
    backbone: Annotated[Path, typer.Argument(metavar="BACKBONE", help="Folder of a backbone, or a RUN.")],
    scans: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="Scans in any form that ingest reads.")],
    out: Annotated[Path, typer.Option(help="embeddings.parquet or embeddings.npz")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn scans into embeddings, prepared as the backbone was trained; what contradicts it is refused."""
    with Conversation("embed", as_json, quiet) as talk:
        from medcl.export.embed import embed_files

        result = embed_files(backbone, scans, out, progress=talk.progress)
        talk.done(result.lines, result.counts, next=f"{out}: one row per volume; `scan` counts the SCANs of this command from 0")


@app.command(epilog="Example: medcl export runs/ct_moco --to onnx --out onnx/")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a backbone.")],
    to: Annotated[Target, typer.Option(help="What to write.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not hold another export.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a backbone for other software, load it back there and compare."""
    with Conversation("export", as_json, quiet) as talk:
        from medcl.export.targets import export as write_export

        result = write_export(run, to, out, progress=talk.progress)
        talk.done(result.lines, result.proof, next=result.next)


@app.command(epilog="Example: medcl report runs/study --out page.html")
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_OR_STUDY...", help="Folders that pretrain or evaluate made.")],
    out: Annotated[Path, typer.Option(help="The page: one HTML file that holds everything.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make one self-contained HTML page from runs and studies."""
    with Conversation("report", as_json, quiet) as talk:
        from medcl.reporting.page import write_report

        write_report(folders, out)
        talk.done([f"wrote {out}"], {"page": out}, next=f"open {out} in a browser")


@app.command(epilog="Example: medcl doctor")
def doctor(as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what is here, what is missing and how to get it."""
    with Conversation("doctor", as_json, quiet) as talk:
        from medcl.doctor import examine

        result = examine()
        talk.done(result.lines, {"findings": result.findings}, next=result.next, code=0 if result.healthy else 2)


def main() -> None:
    """Run the command line; the exit codes are those of contract.md."""
    try:
        code = app(sys.argv[1:], prog_name="medcl", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of typer's usage errors
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "medcl")
        print(f"{command}: {error.format_message()}\nTry: {command} --help", file=sys.stderr)  # type: ignore[attr-defined]
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _size(text: str | None) -> tuple[int, ...] | None:
    try:
        size = None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        size = ()
    if size is not None and (len(size) not in (2, 3) or min(size) < 1):
        raise UserError(f"--size {text}: expected two or three whole numbers, for example 96,96,96")
    return size


def _ingest_settings(path: Path | None) -> Any:
    from medcl.foundation.config import load
    from medcl.ingest.run import IngestConfig

    return IngestConfig() if path is None else load(IngestConfig, path)
